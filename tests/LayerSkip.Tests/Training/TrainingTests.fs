module LayerSkip.Tests.TrainingTests

open System
open System.IO
open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.TrainingSupport

let private options = optionsOf paper

/// A folder, and a file in it to learn from.
let private withData (body: string -> string -> 'T) : 'T =
    withData (fun folder -> body folder (Path.Combine(folder, "data.tokens")))

let private model () = { model () with Recommended = Some(1, 3) }

let private start options data output =
    TrainingSession.start output options Ranks.alone (model ()) (dataOf data) |> ok

let private resume output = tryResume output |> ok

let private never () = false

let private lossesOf (events: TrainingEvent list) =
    reports events |> List.map (fun report -> report.Step, report.Sums.Objective)

let private steps =
    testList "steps" [
        testCase "12 steps are 5, a checkpoint and 7, bit for bit, with dropout and recomputation" (fun () ->
            for recompute, precision in
                [ false, Dtype.F32; true, Dtype.F32; false, Dtype.BF16; true, Dtype.BF16 ] do
                withData (fun folder data ->
                    let options = { options with Recompute = recompute; Precision = precision }
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

        testCase "bfloat16 passes lose what float32 ones do, to 1 %, exit by exit" (fun () ->
            withData (fun folder data ->
                let lossesIn precision =
                    let options = {
                        options with
                            Precision = precision
                            Steps = 40
                            Rate = { options.Rate with Peak = 0.003 }
                            Recipe = {
                                paper with
                                    Dropout = 0.2
                                    Targets = { Labels = 0.5; LastLayer = 0.5 }
                            }
                    }

                    use session = start options data (Path.Combine(folder, Dtype.name precision))
                    let steps = runFor 100 session |> lossesOf |> List.map snd
                    steps, Training.validate session.Plan session.Trainee.Weights [ session.Plan.Read 0L 8 ]

                let steps, graded = lossesIn Dtype.F32
                let steps', graded' = lossesIn Dtype.BF16
                Expect.isLessThan graded[3] (0.95 * log 24.0) "it learns"

                for a, b in Seq.zip (Seq.append steps graded) (Seq.append steps' graded') do
                    Expect.isLessThan (abs (a - b)) (0.01 * a) $"{b} for {a}"))

        testCase "what is no bfloat16 is computed in its own dtype, and bfloat16 where it is fast" (fun () ->
            let products precision = Training.productDtype Device.Cpu { options with Precision = precision }
            Expect.equal (products Dtype.F32, products Dtype.F64) (Dtype.F32, Dtype.F64) "as they are"
            let expected = if Bfloat16.isFast then Dtype.BF16 else Dtype.F32
            Expect.equal (products Dtype.BF16) expected "by the processor")

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

        let leavesNothing precision () =
            withData (fun folder data ->
                let options = { options with Precision = precision }
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

                Expect.equal torch.Tensor.TotalCount before "tensors")

        testCase "no tensor is left behind" (leavesNothing Dtype.F32)
        testCase "no tensor is left behind by bfloat16" (leavesNothing Dtype.BF16)

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
let tests = testList "training" [ steps ]
