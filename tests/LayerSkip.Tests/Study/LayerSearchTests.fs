module LayerSkip.Tests.LayerSearchTests

open System.IO
open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.Tiny

Backend.ensure ()

let private few = { LayerSearch.options with NewTokens = 12; Tries = 12 }

let private withText (weights: Weights) prompt (body: ScoredText -> 'T) : 'T =
    use text = new ScoredText(weights, prompt, 12)
    body text

let private ofLayers layers kept = LayerSet.ofLayers layers kept |> Check.getOrRaise

/// What the layers of a set up to one of them make of a text, from the first one's states: the definition.
let private through (text: ScoredText) (kept: int list) : Tensor =
    kept
    |> List.filter (fun layer -> layer > 1)
    |> List.fold (fun states layer -> text.Through(layer, states)) text.States[0]

let private cosine (a: Tensor) (b: Tensor) =
    let a, b = a.squeeze 0L, b.squeeze 0L
    let cosines = (a * b).sum(1L) / (a.norm 1 * b.norm 1)
    cosines.mean () |> Tensors.toFloats |> Array.head

/// CLaSp's recursion over sets instead of states: each set's states are computed anew.
let private bySets (text: ScoredText) layers most : int list option[] =
    let nearest layer (sets: int list list) =
        match sets with
        | [] -> None
        | sets -> sets |> List.maxBy (fun kept -> cosine (through text kept) text.States[layer - 1]) |> Some

    let step (sets: int list option[]) layer =
        Array.init (most + 1) (fun skipped ->
            [
                yield! sets[skipped] |> Option.map (fun kept -> kept @ [ layer ]) |> Option.toList
                if skipped > 0 then
                    yield! Option.toList sets[skipped - 1]
            ]
            |> nearest layer)

    let start = Array.init (most + 1) (fun skipped -> if skipped = 0 then Some [ 1 ] else None)
    [ 2..layers ] |> List.fold step start

/// Sets of a model's layers with so many left out.
let private allSets layers skipped =
    [ 0 .. (1 <<< (layers - 1)) - 1 ]
    |> List.map (fun bits ->
        1
        :: [
            for layer in 2..layers do
                if (bits >>> (layer - 2)) % 2 = 1 then
                    layer
        ])
    |> List.filter (fun kept -> layers - kept.Length = skipped)

let private summary result =
    match result with
    | Ok _ -> "nothing"
    | Error faults -> LayerSkipError.summary faults

[<Tests>]
let tests =
    testSequenced
    <| testList "layer search" [
        for dtype in [ Dtype.F32; Dtype.F64 ] do
            testPropertyWithConfig
                (Tiny.settings 10)
                $"{dtype}: the first layers are scored as their exit matches"
            <| fun (case: Case) ->
                use weights = Tiny.weights dtype case.Model
                let trace =
                    Trace.run weights { Trace.options with MaxNewTokens = 12 } case.Prompt |> Check.getOrRaise

                withText weights case.Prompt (fun text ->
                    let right = text.Right(ofLayers case.Model.Config.Layers [ 1 .. case.Exit ])
                    let matches = trace.Rows |> Seq.filter (fun row -> row.Matches case.Exit) |> Seq.length
                    Expect.equal right matches "right"
                    let all = LayerSet.all case.Model.Config.Layers |> Check.getOrRaise
                    Expect.equal (text.Right all) text.Rows "the whole model says what it says")

            testPropertyWithConfig
                (Tiny.settings 10)
                $"{dtype}: the path over states is the recursion over sets"
            <| fun (case: Case) ->
                use weights = Tiny.weights dtype case.Model
                let layers = case.Model.Config.Layers

                withText weights case.Prompt (fun text ->
                    use _scope = Scope.start ()
                    let found = LayerPath.find layers [ text ] (layers - 1)
                    let expected = bySets text layers (layers - 1) |> Array.choose id

                    for (set, near), kept in Array.zip found expected do
                        let own = cosine (through text set.KeptLayers) text.States[layers - 1]
                        Expect.floatClose Accuracy.medium near own "the cosine is the set's own"
                        let other = cosine (through text kept) text.States[layers - 1]
                        // Rounding may choose between equals.
                        if set.KeptLayers <> kept then
                            Expect.floatClose Accuracy.medium near other $"{set} and %A{kept}")

        testPropertyWithConfig
            (Tiny.settings 25)
            "one of three layers: the path finds the nearest set there is"
        <| fun (model: Model) (NonEmptyArray prompt) ->
            // With more the path is no search of all sets: it keeps one for each number of layers left out.
            let config = {
                model.Config with
                    Layers = 3
                    Windows =
                        Array.init 3 (fun index -> model.Config.Windows[index % model.Config.Windows.Length])
            }

            use weights = Tiny.weights Dtype.F64 { model with Config = config }
            let prompt: int[] = prompt |> Array.truncate 8 |> Array.map (fun id -> abs (id % 24))

            withText weights prompt (fun text ->
                use _scope = Scope.start ()

                for skipped in [ 0; 1; 2 ] do
                    let _, near = (LayerPath.find 3 [ text ] 2)[skipped]

                    let most =
                        allSets 3 skipped
                        |> List.map (fun kept -> cosine (through text kept) text.States[2])
                        |> List.max

                    Expect.floatClose Accuracy.high near most $"{skipped} left out")

        testPropertyWithConfig
            (Tiny.settings 5)
            "a search repeats itself, scores what it says, and never loses by trying"
        <| fun (case: Case) ->
            use weights = Tiny.weights Dtype.F32 case.Model
            let layers = case.Model.Config.Layers
            let prompts = [| case.Prompt; [| 1; 2; 3 |] |]
            let skipped = 1 + case.Exit % (layers - 1)

            let find tries =
                LayerSearch.find weights { few with Skipped = Some skipped; Tries = tries } prompts
                |> Check.getOrRaise

            let once, again, start = find 12, find 12, find 0
            Expect.equal (once.Layers, once.Agreement) (again.Layers, again.Agreement) "the same"
            Expect.isGreaterThanOrEqual once.Agreement start.Agreement "not worse"
            Expect.equal once.Layers.Skipped skipped "so many left out"

            let right = prompts |> Array.sumBy (fun prompt -> withText weights prompt _.Right(once.Layers))
            let rows = prompts |> Array.sumBy (fun prompt -> withText weights prompt _.Rows)
            Expect.equal once.Agreement (float right / float rows) "the share"

        testPropertyWithConfig
            (Tiny.settings 3)
            "the table has a set for every number of layers, and the best of it is found"
        <| fun (case: Case) ->
            use weights = Tiny.weights Dtype.F32 case.Model
            let layers = case.Model.Config.Layers
            let _, table = LayerSearch.bySkipped weights few [| case.Prompt |] |> Check.getOrRaise
            Expect.equal (table |> List.map _.Layers.Skipped) [ 0 .. layers - 1 ] "left out"
            Expect.equal table.Head.Agreement 1.0 "all layers"
            let found = LayerSearch.find weights few [| case.Prompt |] |> Check.getOrRaise
            Expect.isGreaterThan found.Layers.Skipped 0 "something is left out"

        testProperty "the ratio is that of tokens and times, and the break-even is where it is 1"
        <| fun (PositiveInt layers) (bits: int) (NonNegativeInt share) ->
            let layers = 2 + layers % 12
            let set =
                ofLayers layers [
                    for layer in 1..layers do
                        if layer = 1 || (bits >>> layer) % 2 = 1 then
                            layer
                ]

            // A row more costs a tenth of a pass.
            let parts = {
                LayersMs = Array.init 9 (fun more -> float layers * (1.0 + 0.1 * float more))
                HeadMs = Array.init 9 (fun more -> 2.0 + 0.2 * float more)
                DraftHeadMs = 0.5
            }

            let agreement = float (share % 101) / 100.0
            let kept, prefix, all = float set.Count, float set.Prefix.Layers, float layers
            let verify = prefix + (all - prefix) * 1.1 + 2.2
            let one = (1.0 + agreement) * (all + 2.0) / (kept + 0.5 + verify)
            Expect.floatClose Accuracy.high (LayerTimes.ratio parts set agreement 1) one "one draft"

            let even = LayerTimes.breakEven parts set

            if even <= 1.0 then
                let struct (_, ratio) = LayerTimes.best parts set even
                Expect.floatClose Accuracy.medium ratio 1.0 "even"
            else
                let struct (_, ratio) = LayerTimes.best parts set 1.0
                Expect.isLessThan ratio 1.0 "never"

        testCase "what cannot be searched is said in one line" (fun () ->
            let model layers = { Config = Tiny.config 24 layers 2 1 true; Seed = 3L }
            use weights = Tiny.weights Dtype.F32 (model 3)
            use single = Tiny.weights Dtype.F32 (model 1)

            for weights, options, prompts, part in
                [
                    single, few, [| [| 1 |] |], "a model of one layer has no earlier exit"
                    weights, { few with Skipped = Some 3 }, [| [| 1 |] |], "skipped is 3, it must be 1 to 2"
                    weights, { few with Skipped = Some 0 }, [| [| 1 |] |], "skipped is 0, it must be 1 to 2"
                    weights,
                    { few with NewTokens = 1 },
                    [| [| 1 |] |],
                    "new-tokens is 1, it must be 2 or more"
                    weights, { few with Tries = -1 }, [| [| 1 |] |], "tries is -1, it must be 0 or more"
                    weights, few, [||], "the prompt is empty"
                    weights, few, [| [| 1 |]; [||] |], "the prompt is empty"
                    weights, few, [| [| 24 |] |], "token id 24 is outside the vocabulary"
                    weights, few, [| Array.create 95 1 |], "the prompt has"
                    weights, few, [| Array.create 200 1 |], "the prompt has 200 tokens"
                ] do
                let said = summary (LayerSearch.find weights options prompts)
                Expect.stringContains said part part
                Expect.isFalse (said.Contains '\n') "one line")

        for dtype in [ Dtype.F32; Dtype.F16; Dtype.F64 ] do
            testCase $"{dtype}: the certificate holds for layer sets" (fun () ->
                use model =
                    Tiny.weights dtype { Config = Tiny.config 24 6 4 2 false; Seed = 11L }
                    |> fun weights -> Checkpoint.ofWeights "tiny" weights None

                let sets =
                    [ "1,3-4,6"; "1-2,5"; "1"; "1-6" ] |> List.map (LayerSet.tryParse 6 >> Check.getOrRaise)

                let certify drafters =
                    Certify.run model {
                        Certify.options with
                            ExitLayers = [ 2 ]
                            DraftLengths = [ 1; 3 ]
                            Drafters = drafters
                    }

                let without, report = certify [], certify (List.map Drafter.layers sets)
                Expect.equal report.Violation 0 $"%A{report.Tests}"

                for before, own in List.zip without.Tests report.Tests do
                    // Of the draws of T4 a drafter is no part; bit for bit is what kernels promise.
                    if own.Name <> "T4" && not (own.Name = "T3" && dtype = Dtype.F64) then
                        Expect.isGreaterThan own.Checks before.Checks own.Name)

        testCase "a folder recommends a set, which is written with the model and read again" (fun () ->
            withFolder (fun folder ->
                use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 24 5 2 1 true; Seed = 3L }
                let model = Checkpoint.ofWeights "tiny" weights None
                let path = Path.Combine(folder, "model")
                let set = ofLayers 5 [ 1; 2; 4 ]
                Expect.equal (DraftLayers.recommended model) (Ok None) "none at first"

                HuggingFaceExport.write Dtype.F32 path (DraftLayers.recommend set model)
                |> Check.getOrRaise
                |> ignore

                let load () = Checkpoint.load path None Device.Cpu |> Check.getOrRaise
                use read = load ()
                Expect.equal (DraftLayers.recommended read) (Ok(Some set)) "read"
                Expect.equal (LayerSearch.named read "auto" [||]) (Ok(set, None)) "auto"
                Expect.equal (LayerSearch.named read "1-3" [||]) (Ok(ofLayers 5 [ 1..3 ], None)) "given"
                Expect.stringContains (summary (LayerSearch.named read "1-9" [||])) "must be 1 to 5" "bad"

                let found = LayerSearch.named model "auto" [| [| 1; 2 |] |] |> Check.getOrRaise
                Expect.equal (Some(fst found)) (snd found |> Option.map _.Layers) "looked for"

                let file = Path.Combine(path, "generation_config.json")

                for value, part in
                    [
                        "\"1-9\"",
                        "\"layerskip_draft_layers\" is \"1-9\": layers-kept is layer 9, it must be 1 to 5"
                        "\"x\"", "must be layers and ranges of them"
                        "[1,2]", "is [1,2], it must be a string, as \"1-10,15,30\""
                    ] do
                    File.WriteAllText(file, $"{{\"layerskip_draft_layers\": {value}}}")
                    use bad = load ()
                    let said = summary (DraftLayers.recommended bad)
                    Expect.stringContains said part value
                    Expect.stringContains said file "names the file"
                    Expect.isFalse (said.Contains '\n') "one line"))

        testCase "a search frees what it made" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 24 4 2 1 true; Seed = 3L }
            let search () = LayerSearch.find weights few [| [| 1; 2 |] |] |> Check.getOrRaise |> ignore
            search ()
            let before = TensorSupport.liveTensors ()
            search ()
            Expect.equal torch.Tensor.TotalCount before "tensors")

        sharedTest
            "a layer of an ordinary model is left out, and most of its text stays"
            [ "smollm2-135m-instruct" ]
            (fun folder ->
                let model =
                    Checkpoint.load (Path.Combine(folder, "model.gguf")) None Device.Cpu |> Check.getOrRaise

                use _weights = model.Weights
                let prompt = Tokenizer.encode model.Tokenizer.Value "Once upon a time, there was a little"
                let search = { LayerSearch.options with Skipped = Some 2; NewTokens = 32; Tries = 0 }
                let found = LayerSearch.find model.Weights search [| prompt |] |> Check.getOrRaise
                Expect.isGreaterThan found.Agreement 0.6 $"{found.Layers}"
                Expect.isGreaterThan found.Layers.Prefix.Layers 1 "the second layer is needed"
                let made strategy = complete model.Weights (options strategy 32) prompt
                Expect.equal
                    (made (Strategy.Speculative(Drafter.layers found.Layers, LengthPolicy.Fixed 3))).TokenIds
                    (made Strategy.Autoregressive).TokenIds
                    "text")
    ]
