module LayerSkip.Tests.TrainingTests

open System
open System.IO
open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.TrainingSupport

let private paper: Recipe = {
    Dropout = 0.4
    Depth = DropoutShape.Exponential
    Time = DropoutShape.Constant
    Exits = ExitRule.Rotational(2, 0.5)
    Targets = LossOptions.standard.Targets
}

let private options = optionsOf paper

/// A folder, and a file in it to learn from.
let private withData (body: string -> string -> 'T) : 'T =
    withData (fun folder -> body folder (Path.Combine(folder, "data.tokens")))

let private model () = { model () with Recommended = Some(1, 3) }

let private start options data output =
    TrainingSession.start output options Ranks.alone (model ()) (dataOf data) |> ok

let private resume output = tryResume output |> ok

let private never () = false

/// Every weight and moment, and the updates, as bits.
let private bits (session: TrainingSession) =
    let trainee = session.Trainee

    [
        for tensor in Seq.append (Weights.tensors trainee.Weights) (AdamWState.TensorsOf trainee.Optimiser) do
            Tensors.toFloat32s tensor |> Array.map BitConverter.SingleToInt32Bits
    ]

let private lossesOf (events: TrainingEvent list) =
    events
    |> List.choose (fun event ->
        match event with
        | TrainingEvent.Stepped report -> Some(report.Step, report.Sums.Objective)
        | _ -> None)

/// Runs to the end, or until so many steps are made.
let private runFor (steps: int) (session: TrainingSession) =
    let mutable made = 0

    [
        for event in TrainingSession.run (fun () -> made >= steps) session do
            match event with
            | TrainingEvent.Stepped _ -> made <- made + 1
            | _ -> ()

            event
    ]

let private recipes =
    testList "recipes" [
        testProperty "each preset fits each model"
        <| fun (PositiveInt layers) (PositiveInt steps) ->
            let layers = 2 + layers % 40

            Recipe.presets
            |> List.forall (fun (_, make) -> Result.isOk (Recipe.tryBuild layers steps 0L (make layers)))

        testCase "the paper's, in a model of 32 layers" (fun () ->
            let recipe name = Recipe.tryPreset name 32 |> ok
            Expect.equal (recipe "continual").Exits (ExitRule.Rotational(8, 0.2)) "table 9, Llama2 7B"
            Expect.equal (recipe "scratch").Exits (ExitRule.Rotational(31, 0.2)) "from scratch"
            Expect.equal (recipe "scratch").Time DropoutShape.Exponential "S(t)"
            Expect.equal (recipe "code").Exits (ExitRule.Rotational(16, 1.0)) "code"
            Expect.equal (recipe "fine-tune").Exits (ExitRule.Gradual 1.0) "TOPv2"
            Expect.equal ((recipe "fine-tune").Dropout, (recipe "code").Dropout) (0.2, 0.1) "p_max")

        testCase "rules are read as they are written" (fun () ->
            for rule in
                [
                    ExitRule.LastOnly
                    ExitRule.All 0.25
                    ExitRule.Rotational(8, 1e-3)
                    ExitRule.Gradual 1.0
                    ExitRule.Emphasis([ 2, 0.5; 4, 0.125 ], 2)
                ] do
                Expect.equal (ExitRule.tryParse (ExitRule.format rule) |> ok) rule "the same"

            for text in
                [
                    ""
                    "rotational"
                    "rotational:x"
                    "emphasis:"
                    "emphasis:1=x"
                    "all:NaN"
                    "last:1"
                ] do
                Expect.isError (ExitRule.tryParse text) text)

        testCase "options come back from JSON as they were" (fun () ->
            let written = {
                options with
                    Recipe = { paper with Exits = ExitRule.Emphasis([ 2, 0.5 ], 1) }
                    ProbeExits = [ 1; 2 ]
                    Layout = Layout.Each
                    Precision = Dtype.BF16
                    Recompute = true
            }

            use stream = new MemoryStream()
            using (new Text.Json.Utf8JsonWriter(stream)) (fun json ->
                json.WriteStartObject()
                TrainingFields.write json written
                json.WriteEndObject())
            use document = Text.Json.JsonDocument.Parse(stream.ToArray())
            let reader = JsonReader("x", document.RootElement)
            Expect.equal (TrainingFields.read reader TrainingFields.nothing) written "the same"
            Expect.isEmpty reader.Faults "no faults")

        testCase
            "every option that JSON lacks or mistakes is named, but for those of later versions"
            (fun () ->
                let faultsOf (text: string) =
                    use document = Text.Json.JsonDocument.Parse text
                    let reader = JsonReader("x", document.RootElement)
                    TrainingFields.read reader TrainingFields.nothing |> ignore
                    reader.Faults |> List.map LayerSkipError.message |> String.concat "\n"

                let found =
                    faultsOf """{"steps": "many", "layout": "loose", "exits": "some", "warmup": 1.5}"""

                for words in
                    [
                        "\"steps\" must be a whole number"
                        "\"layout\" is \"loose\", it must be one of packed, each"
                        "exits is \"some\""
                        "\"warmup\" must be a whole number"
                        "has no \"seed\""
                    ] do
                    Expect.stringContains found words "a fault"

                Expect.isFalse (found.Contains "on_spike" || found.Contains "validation_tokens") "later ones")

        testCase "every option outside its range is named" (fun () ->
            let wrong = {
                options with
                    Steps = 0
                    BatchSize = 0
                    SequenceLength = 97
                    ClipNorm = nan
                    Keep = 0
                    ProbeExits = [ 4 ]
                    Recipe = { paper with Dropout = 1.5; Targets = { Labels = 0.0; LastLayer = 0.0 } }
            }

            Expect.equal (TrainingOptions.faults config wrong |> List.length) 8 "all eight")
    ]

let private steps =
    testList "steps" [
        testCase "12 steps are 5, a checkpoint and 7, bit for bit, with dropout and recomputation" (fun () ->
            for recompute in [ false; true ] do
                withData (fun folder data ->
                    let options = { options with Recompute = recompute }
                    let inside name = Path.Combine(folder, name)
                    use straight = start options data (inside "straight")
                    let whole = runFor 100 straight |> lossesOf
                    let first = using (start options data (inside "parted")) (runFor 5 >> lossesOf)
                    use second = resume (inside "parted")
                    let rest = runFor 100 second |> lossesOf
                    Expect.equal (first @ rest) whole "losses"
                    Expect.equal (bits second) (bits straight) "weights and moments"
                    Expect.equal
                        second.Trainee.Optimiser.Updates.Length
                        straight.Trainee.Optimiser.Updates.Length
                        "counts"))

        testCase
            "a model that every block is dropped from still resumes: counts of updates differ by parameter"
            (fun () ->
                withData (fun folder data ->
                    let options = {
                        options with
                            Recipe = { paper with Dropout = 1.0; Depth = DropoutShape.Constant }
                            Steps = 4
                    }

                    let output = Path.Combine(folder, "run")
                    using (start options data output) (runFor 2 >> ignore)
                    use second = resume output
                    Expect.equal (Array.min second.Trainee.Optimiser.Updates) 0 "blocks learned nothing"
                    Expect.equal (Array.max second.Trainee.Optimiser.Updates) 2 "the head did"))

        testCase "micro-batches of a step add up to one batch" (fun () ->
            withData (fun folder data ->
                let losses name options =
                    let options = {
                        options with
                            Recipe = { paper with Dropout = 0.0 }
                            Precision = Dtype.F64
                    }
                    let model = { model () with Weights = Weights.initial 3L Dtype.F64 Device.Cpu config }

                    use session =
                        TrainingSession.start
                            (Path.Combine(folder, name))
                            options
                            Ranks.alone
                            model
                            (dataOf data)
                        |> ok

                    runFor 100 session |> lossesOf |> List.map snd

                let one = losses "one" { options with BatchSize = 4; Accumulate = 1 }
                let two = losses "two" { options with BatchSize = 2; Accumulate = 2 }

                for a, b in List.zip one two do
                    Expect.floatClose Accuracy.veryHigh a b "a step's loss"))

        testCase "ranks read samples of their own, and drop as many of them in each layer" (fun () ->
            withData (fun folder data ->
                use session = start { options with Accumulate = 3 } data (Path.Combine(folder, "run"))
                let dropout = session.Plan.Parts.Dropout |> Option.get
                let ofRank rank = { session.Plan with Ranks = { Ranks.alone with Rank = rank; Count = 4 } }

                let places rank step =
                    [ 0..2 ] |> List.map (fun micro -> TrainingPlan.samplesOf (ofRank rank) step micro)

                for step in 0..20 do
                    let numbers = [
                        for rank in 0..3 do
                            for struct (first, _) in places rank step do
                                yield! [ first .. first + 3L ]
                    ]

                    Expect.equal
                        (List.sort numbers)
                        [ int64 step * 48L .. int64 step * 48L + 47L ]
                        "each once"

                    for layer in 0..3 do
                        let kept rank =
                            places rank step
                            |> List.map (fun (struct (_, place)) ->
                                (LayerDropout.kept dropout place layer 4).Length)

                        for rank in 1..3 do
                            Expect.equal (kept rank) (kept 0) "as many"))

        testCase "a rhythm is learned" (fun () ->
            withData (fun folder data ->
                let options = { options with Steps = 80; Recipe = { paper with Dropout = 0.0 } }
                use session = start options data (Path.Combine(folder, "run"))
                let losses = runFor 1000 session |> lossesOf |> List.map snd
                Expect.isLessThan
                    (List.last losses)
                    (0.5 * losses.Head)
                    $"{losses.Head} to {List.last losses}"))

        testCase "validation grades every exit as the forward pass does" (fun () ->
            withData (fun folder data ->
                use session = start options data (Path.Combine(folder, "run"))
                let batch = session.Plan.Read 0L 3
                let measured = Training.validate session.Plan session.Trainee.Weights [ batch ]
                let expected = Array.zeroCreate config.Layers
                use ids = Tensors.ofIds [| 3L; 9L |] (Array.concat batch.Ids)

                Decoder.exits
                    session.Trainee.Weights
                    (fun exit logits ->
                        let vocabulary = config.Vocabulary
                        let rows = Tensors.toFloats logits |> Array.chunkBySize vocabulary

                        let lossAt text t =
                            let law = Sampling.softmax rows[text * 9 + t]
                            -(log law[batch.Ids[text][t + 1]])

                        expected[exit - 1] <-
                            List.allPairs [ 0..2 ] [ 0..7 ]
                            |> List.averageBy (fun (text, t) -> lossAt text t))
                    ids

                for a, b in Array.zip measured expected do
                    Expect.floatClose Accuracy.medium a b "an exit"))

        testCase "bfloat16 passes move float32 weights" (fun () ->
            withData (fun folder data ->
                let options = {
                    options with
                        Precision = Dtype.BF16
                        Steps = 40
                        Recipe = { paper with Dropout = 0.0 }
                }
                use session = start options data (Path.Combine(folder, "run"))
                let losses = runFor 100 session |> lossesOf |> List.map snd
                Expect.isLessThan (List.last losses) (0.8 * losses.Head) "it learns"
                let kinds = Weights.tensors session.Trainee.Weights |> Array.map _.dtype |> Array.distinct
                Expect.equal kinds [| torch.ScalarType.Float32 |] "float32"))

        testCase "a loss that is no number stops the run, and names step and samples" (fun () ->
            withData (fun folder data ->
                let options = {
                    options with
                        Rate = { Peak = 1e30; Warmup = 0; Floor = 1.0 }
                        ClipNorm = 0.0
                }
                use session = start options data (Path.Combine(folder, "run"))

                match runFor 100 session |> List.last with
                | TrainingEvent.Ended(_, TrainingEnd.Failed fault) ->
                    Expect.isGreaterThan fault.Step 1 "not at once"
                    let first, last = fault.Samples
                    Expect.equal (last - first) 3L "a batch"
                    Expect.equal first (int64 (fault.Step - 1) * 4L) "its samples"
                | other -> failtest $"{other}"))

        testCase "no tensor is left behind" (fun () ->
            withData (fun folder data ->
                use session = start options data (Path.Combine(folder, "run"))
                let mutable trainee = session.Trainee

                let step () =
                    match Training.step session.Plan trainee with
                    | Ok(struct (_, next)) -> trainee <- next
                    | Error fault -> failtest $"{fault}"

                    Training.validate session.Plan trainee.Weights [ session.Plan.Read 0L 2 ] |> ignore
                    Training.acceptance trainee.Weights 1 2 5 [| [| 1; 2 |] |] |> ignore

                step ()
                let before = TensorSupport.liveTensors ()

                for _ in 1..8 do
                    step ()

                Expect.equal torch.Tensor.TotalCount before "tensors"))

        testCase
            "a finished run is a model with its recommended exit; its checkpoints are the latest few"
            (fun () ->
                withData (fun folder data ->
                    let output = Path.Combine(folder, "run")
                    let options = { options with SaveEvery = 3; Keep = 2 }
                    using (start options data output) (runFor 100 >> ignore)
                    Expect.equal (TrainingCheckpoint.all output |> List.map fst) [ 12; 9 ] "two stay"
                    use made = Checkpoint.load output None Device.Cpu |> ok
                    Expect.equal made.Recommended (Some(1, 3)) "exit and draft"
                    Expect.equal made.StopIds [| 2 |] "stop ids"
                    Expect.equal made.Weights.Dtype Dtype.F32 "float32"
                    Expect.equal
                        (File.ReadAllLines(Path.Combine(output, "log.jsonl")).Length)
                        13
                        "the options, and a line a step"
                    Expect.isNonEmpty
                        (Directory.GetFiles(Path.Combine(output, "tensorboard"), "events.out.tfevents.*"))
                        "TensorBoard"))
    ]

[<Tests>]
let tests = testList "training" [ recipes; steps ]
