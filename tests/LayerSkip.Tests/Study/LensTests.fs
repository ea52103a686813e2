module LayerSkip.Tests.LensTests

open System
open System.IO
open System.Text.Json
open System.Threading
open Expecto
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.TensorSupport
open LayerSkip.Tests.Tiny

Backend.ensure ()

let private lens options (weights: Weights) (ids: int[]) : LensReport =
    Lens.run (Checkpoint.ofWeights "tiny" weights None) options ids |> Check.getOrRaise

/// Every token of the vocabulary is told, so that nothing of a law is hidden.
let private everything = { Lens.options with TopK = 24; Logits = true }

let private faultsOf options (ids: int[]) =
    withWeights Dtype.F32 { Config = Tiny.config 24 3 2 1 true; Seed = 1L } (fun weights ->
        Lens.run (Checkpoint.ofWeights "tiny" weights None) options ids |> Check.faults)

let private near (tolerance: float) (expected: float) (found: float) what =
    Expect.isLessThanOrEqual (abs (expected - found)) (tolerance * (1.0 + abs expected)) what

let private stories dtype (folder: string) (body: Checkpoint -> unit) =
    use model = Checkpoint.load folder (Some dtype) Device.Cpu |> Check.getOrRaise
    body model

[<Tests>]
let tests =
    testSequenced
    <| testList "lens" [
        testPropertyWithConfig
            (settings 30)
            "the settled layer, by its definition"
            (fun (choices: FsCheck.NonEmptyArray<bool>) ->
                let choices = choices.Get |> Array.map Convert.ToInt32
                let all = [ 1 .. choices.Length ]
                let isSettled layer =
                    all
                    |> List.forall (fun later -> later < layer || choices[later - 1] = Array.last choices)
                Expect.equal
                    (Lens.settled choices)
                    (List.find isSettled all)
                    "the first from which all agree")

        testPropertyWithConfig
            (settings 30)
            "each layer's choice is the token that early exit there writes next"
            (fun (case: Case) ->
                withWeights Dtype.F32 case.Model (fun weights ->
                    let report = lens everything weights case.Prompt
                    let layers = case.Model.Config.Layers

                    for exit in report.Exits do
                        let strategy =
                            if exit.Layer = layers then
                                Strategy.Autoregressive
                            else
                                Strategy.EarlyExit(Tiny.exit layers exit.Layer)

                        let written = (complete weights (options strategy 1) case.Prompt).TokenIds
                        Expect.equal
                            written
                            [| (Array.last exit.Rows).Row.Argmax |]
                            $"after layer {exit.Layer}"))

        testPropertyWithConfig
            (settings 30)
            "its averages, settled layers and logits are those of its rows"
            (fun (case: Case) ->
                for dtype in [ Dtype.F64; Dtype.F32 ] do
                    withWeights dtype case.Model (fun weights ->
                        let report = lens everything weights case.Prompt
                        let last = Array.last report.Exits
                        Expect.equal
                            (report.Exits |> Array.map _.Layer)
                            [| 1 .. report.Layers |]
                            "every layer"
                        Expect.equal (last.Agreement, last.MeanKl) (1.0, 0.0) "the last agrees with itself"

                        for exit in report.Exits do
                            let rows = exit.Rows
                            Expect.equal rows.Length case.Prompt.Length "every position"
                            let agree =
                                Array.map2
                                    (fun (a: ComparedRow) (b: ComparedRow) -> a.Row.Argmax = b.Row.Argmax)
                                    rows
                                    last.Rows
                            near
                                1e-12
                                (agree |> Array.averageBy (fun same -> if same then 1.0 else 0.0))
                                exit.Agreement
                                "agreement"
                            near 1e-12 (rows |> Array.averageBy _.Kl) exit.MeanKl "KL"
                            near 1e-12 (rows |> Array.averageBy _.Row.Entropy) exit.MeanEntropy "entropy"

                            let probabilityOf id (row: ComparedRow) =
                                (row.Row.Top |> Array.find (fun top -> top.Id = id)).Probability

                            let surprises = [
                                for i in 0 .. rows.Length - 2 ->
                                    -log(probabilityOf case.Prompt[i + 1] rows[i])
                            ]

                            match exit.CrossEntropy with
                            | None -> Expect.isEmpty surprises "a single token has no next"
                            | Some value -> near 1e-9 (List.average surprises) value "cross entropy"

                            let law = Sampling.softmax report.ExitLogits.Value[exit.Layer - 1]

                            for top in (Array.last rows).Row.Top do
                                near 1e-9 law[top.Id] top.Probability "of the logits"

                        for position in 0 .. case.Prompt.Length - 1 do
                            let choices =
                                report.Exits |> Array.map (fun exit -> exit.Rows[position].Row.Argmax)
                            Expect.equal report.Settled[position] (Lens.settled choices) "settled"))

        testPropertyWithConfig
            (settings 20)
            "layers that are left out change nothing of the others"
            (fun (case: Case) ->
                withWeights Dtype.F32 case.Model (fun weights ->
                    let all = lens everything weights case.Prompt
                    let some =
                        lens { everything with Layers = [ case.Exit; case.Exit ] } weights case.Prompt
                    let shown = [| case.Exit; all.Layers |]
                    Expect.equal
                        some
                        {
                            all with
                                Exits =
                                    all.Exits |> Array.filter (fun exit -> Array.contains exit.Layer shown)
                        }
                        "the rest"))

        testPropertyWithConfig
            (settings 20)
            "what follows a text changes nothing before it"
            (fun (case: Case) ->
                withWeights Dtype.F32 case.Model (fun weights ->
                    let weights = { weights with Prefill = Prefill.Exact }
                    let whole = lens everything weights case.Prompt
                    let count = 1 + case.Draft % case.Prompt.Length
                    let front = lens everything weights case.Prompt[.. count - 1]
                    let blind (row: ComparedRow) = { row with Row.Targets = [||] }

                    for part, exit in Array.zip front.Exits whole.Exits do
                        Expect.equal
                            (part.Rows |> Array.map blind)
                            (exit.Rows[.. count - 1] |> Array.map blind)
                            $"layer {exit.Layer}"))

        testCase "a long text is read in pieces, and leaves no tensor" (fun () ->
            withWeights Dtype.BF16 { Config = Tiny.config 24 4 2 1 true; Seed = 2L } (fun weights ->
                let weights = { weights with Prefill = Prefill.Exact }
                let ids = Array.init 90 (fun i -> i * i % 24)
                let whole = lens everything weights ids

                for position in [ 63; 64; 65 ] do
                    let short = lens everything weights ids[..position]
                    Expect.equal short.Settled whole.Settled[..position] $"{position}"

                    for part, exit in Array.zip short.Exits whole.Exits do
                        Expect.equal part.Rows[position].Kl exit.Rows[position].Kl $"{position}"

                let before = liveTensors ()

                for _ in 1..5 do
                    Expect.equal (lens everything weights ids) whole "the same again"

                Expect.equal (liveTensors ()) before "no tensor is left"

                let cancelled = CancellationToken true
                let start =
                    Lens.prepare (Checkpoint.ofWeights "tiny" weights None) everything ids
                    |> Check.getOrRaise
                Expect.throwsT<OperationCanceledException> (fun () -> start cancelled |> ignore) "cancelled"
                Expect.equal (liveTensors ()) before "nor then"))

        testCase "what cannot be looked at is told of, all at once" (fun () ->
            let ids = [| 1; 2 |]
            Expect.equal (faultsOf Lens.options [||]) [ LayerSkipError.EmptyPrompt ] "no ids"
            Expect.equal
                (faultsOf Lens.options (Array.create 96 1))
                [ LayerSkipError.PromptTooLong(96, 96) ]
                "the context"
            Expect.equal (faultsOf Lens.options (Array.create 95 1)) [] "all but one of the context"
            Expect.equal
                (faultsOf Lens.options [| 1; 24 |])
                [ LayerSkipError.UnknownToken(24, 24) ]
                "the vocabulary"

            Expect.equal
                (faultsOf { TopK = 0; Layers = [ 1; 4; 0 ]; Logits = false } ids)
                [
                    LayerSkipError.OutOfRange("top-k", "0", "1 to 24")
                    LayerSkipError.OutOfRange("layers", "4", "1 to 3")
                    LayerSkipError.OutOfRange("layers", "0", "1 to 3")
                ]
                "options")

        testCase "numbers that overflow are told of where they begin" (fun () ->
            withWeights Dtype.F32 { Config = Tiny.config 24 3 2 1 true; Seed = 1L } (fun weights ->
                weights.Layers[1].Down.Tensor.fill_(Scalars.ofFloat 3e38) |> ignore

                match Lens.run (Checkpoint.ofWeights "tiny" weights None) Lens.options [| 1; 2 |] with
                | Error [ LayerSkipError.Overflow(place, _, _) ] ->
                    Expect.equal place "layer 2 of 3" "the layer"
                | other -> failtest $"%A{Check.faults other}"))

        sharedTest "logits of every exit of stories260K are the reference's" [ "stories260K" ] (fun folder ->
            let reference =
                JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "logits.json"))).RootElement
            let numbers (e: JsonElement) = [| for x in e.EnumerateArray() -> x.GetDouble() |]
            let ids = numbers (reference.GetProperty "ids") |> Array.map int
            let expected = [|
                for row in (reference.GetProperty "exit_logits_last_pos").EnumerateArray() -> numbers row
            |]

            for dtype, tolerance in [ Dtype.F64, 1e-9; Dtype.F32, 1e-4 ] do
                stories dtype folder (fun model ->
                    let report = Lens.run model { Lens.options with Logits = true } ids |> Check.getOrRaise
                    let found = report.ExitLogits.Value
                    Expect.equal
                        (Array.map Array.length found)
                        (Array.map Array.length expected)
                        "layers and vocabulary"

                    for layer in 0 .. expected.Length - 1 do
                        let worst =
                            Array.map2 (fun (a: float) b -> abs (a - b)) expected[layer] found[layer]
                            |> Array.max
                        Expect.isLessThan worst tolerance $"exit {layer + 1}, {dtype}"))

        sharedTest
            "texts of tokens, those of half a character as the vocabulary has them"
            [ "stories260K" ]
            (fun folder ->
                stories Dtype.F32 folder (fun model ->
                    let ids = Tokenizer.encode model.Tokenizer.Value "Once é"
                    let report = Lens.run model Lens.options ids |> Check.getOrRaise
                    let texts = ids |> Array.map report.Text
                    Expect.equal texts[0] "<s>" "special ones too"
                    Expect.isFalse (texts |> Array.exists _.Contains('\uFFFD')) $"%A{texts}"
                    Expect.equal (String.concat "" texts[1..] |> _.Trim()) "Once é" "the text"))

        testCase "a page holds its report whatever its texts are, and ends no element early" (fun () ->
            withWeights Dtype.F32 { Config = Tiny.config 24 3 2 1 true; Seed = 1L } (fun weights ->
                let hostile = "</script><img src=x onerror=alert(1)>\u202e\u001b[31m&"
                let report = {
                    lens everything weights [| 1; 2; 3 |] with
                        Texts = Map [ for id in 0..23 -> id, hostile ]
                }
                let page = LensPage.html report
                let count (part: string) = page.Split(part).Length - 1
                Expect.equal (count "</script>") 2 "the page's own two"
                Expect.equal (count "<img", count "{{") (0, 0) "no element of a text, no place left to fill"
                Expect.isFalse (page.Contains "://") "nothing from elsewhere"
                let data = page.Split("application/json\">").[1].Split("</script>").[0]
                let root = JsonDocument.Parse(data).RootElement
                Expect.equal
                    (((root.GetProperty "tokens").[0].GetProperty "text").GetString())
                    hostile
                    "the text itself"
                Expect.isFalse (fst (root.TryGetProperty "exit_logits")) "logits would be most of it"))
    ]
