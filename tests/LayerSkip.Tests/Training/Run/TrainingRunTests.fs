/// What a run that is left alone for weeks must bear: kills, other processes, damaged checkpoints.
module LayerSkip.Tests.TrainingRunTests

open System
open System.IO
open System.Text.Json
open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.TrainingSupport

// ---- the folder

let private folders =
    testList "the folder" [
        testCase "a second session on a run's folder is refused, while the first lasts" (fun () ->
            withData (fun folder ->
                let data, run = dataOf (Path.Combine(folder, "data.tokens")), Path.Combine(folder, "run")

                using (start options folder) (fun _ ->
                    tryStart options data run
                    |> messages
                    |> expectFault [ run; "another process is training" ])

                use session = tryStart options data run |> ok
                eventsOf session |> ignore
                tryResume run |> messages |> expectFault [ "another process is training" ]
                (session :> IDisposable).Dispose()
                using (tryResume run |> ok) ignore))

        testCase
            "what killed saves left is gone before anything is written, and a file like it is not"
            (fun () ->
                withData (fun folder ->
                    let run = Path.Combine(folder, "run")
                    start options folder |> finish |> ignore
                    let junk = fileIn run [ "checkpoint-4.0123456789abcdef0123456789abcdef.tmp" ]
                    Directory.CreateDirectory junk |> ignore
                    File.WriteAllText(Path.Combine(junk, "optimizer.safetensors"), "half")
                    let file = fileIn run [ "train.tokens.01234567.tmp" ]
                    let own = fileIn run [ "notes.tmp" ]
                    File.WriteAllText(file, "half")
                    File.WriteAllText(own, "mine")
                    use _session = tryResume run |> ok
                    Expect.isFalse (Directory.Exists junk || File.Exists file) "cleared at the start"
                    Expect.isTrue (File.Exists own) "not ours"))

        testCase "a new run uses nothing that an earlier one left: validation, log, events" (fun () ->
            withData (fun folder ->
                let run = Path.Combine(folder, "run")
                let shared = { dataOf (Path.Combine(folder, "data.tokens")) with ValidationShare = 0.3 }
                let validating = { options with ValidateEvery = 2 }
                // Left before its first checkpoint.
                using (tryStart validating shared run |> ok) (fun session ->
                    TrainingSession.run (fun () -> false) session |> Seq.truncate 8 |> List.ofSeq |> ignore)

                Expect.isTrue (File.Exists(fileIn run [ "valid.tokens" ])) "left"
                let events = start validating folder |> finish
                Expect.isEmpty (validations events) "nothing to validate on"
                let steps = reports events |> List.map (fun report -> report.Step)
                let log = File.ReadAllLines(fileIn run [ "log.jsonl" ])
                Expect.equal log.Length (1 + steps.Length) "its own log"
                let boards = Directory.GetFiles(fileIn run [ "tensorboard" ], "events.out.tfevents.*")
                Expect.equal boards.Length 1 "its own events"))

        testCase "data that the run would write over are refused" (fun () ->
            withData (fun folder ->
                let run = Path.Combine(folder, "run")
                Directory.CreateDirectory run |> ignore
                let file = fileIn run [ "valid.tokens" ]
                File.Copy(Path.Combine(folder, "data.tokens"), file)
                tryStart options (dataOf file) run
                |> messages
                |> expectFault [ file; "write its own data over" ]
                let link = Path.Combine(folder, "link.tokens")
                File.CreateSymbolicLink(link, Path.Combine("run", "..", "run", "valid.tokens")) |> ignore

                tryStart options (dataOf link) run
                |> messages
                |> expectFault [ link; "write its own data over" ]

                Expect.isTrue (File.Exists file) "still there"))
    ]

// ---- damaged checkpoints

/// Changes some bytes of a file's end, which tensors have.
let private spoil (path: string) (change: byte[] -> unit) =
    let bytes = File.ReadAllBytes path
    let tail = bytes[bytes.Length - 64 ..]
    change tail
    Array.blit tail 0 bytes (bytes.Length - 64) 64
    File.WriteAllBytes(path, bytes)

let private damage =
    testList "damage" [
        for name, change in
            [
                "zeros", (fun (tail: byte[]) -> Array.fill tail 0 tail.Length 0uy)
                "NaN", (fun tail -> Array.fill tail 0 tail.Length 0xFFuy)
                "one bit", (fun tail -> tail[3] <- tail[3] ^^^ 1uy)
            ] do
            for file in [ "optimizer.safetensors"; "model.safetensors" ] do
                testCase $"{name} in {file} are refused, and the latest whole checkpoint is named" (fun () ->
                    withData (fun folder ->
                        let run = Path.Combine(folder, "run")
                        start { options with SaveEvery = 3; Keep = 9 } folder |> finish |> ignore
                        spoil (fileIn run [ "checkpoint-12"; file ]) change
                        // The one before is no way out either.
                        spoil (fileIn run [ "checkpoint-9"; file ]) change

                        tryResume run
                        |> messages
                        |> expectFault [ "checkpoint-12"; file; "checksum"; "goes on from checkpoint-6" ]

                        Directory.Delete(fileIn run [ "checkpoint-12" ], true)
                        Directory.Delete(fileIn run [ "checkpoint-9" ], true)
                        use session = tryResume run |> ok
                        Expect.equal session.Trainee.Step 6 "and it does"))

        testCase "weights of another checkpoint are refused" (fun () ->
            withData (fun folder ->
                let run = Path.Combine(folder, "run")
                start { options with SaveEvery = 6 } folder |> finish |> ignore
                let weights step = fileIn run [ $"checkpoint-{step}"; "model.safetensors" ]
                File.Copy(weights 6, weights 12, true)
                tryResume run |> messages |> expectFault [ "model.safetensors"; "checksum" ]))

        testCase
            "a checkpoint of the first version, which has neither guard nor checksums, still goes on"
            (fun () ->
                withData (fun folder ->
                    let run = Path.Combine(folder, "run")
                    start { options with SaveEvery = 6 } folder |> finish |> ignore
                    let whole = File.ReadAllBytes(fileIn run [ "checkpoint-12"; "model.safetensors" ])
                    Directory.Delete(fileIn run [ "checkpoint-12" ], true)
                    let state = fileIn run [ "checkpoint-6"; "training_state.json" ]
                    let text = File.ReadAllText state
                    let json = Nodes.JsonNode.Parse(text).AsObject()
                    json["version"] <- Nodes.JsonValue.Create 1

                    for name in [ "guard"; "checksums"; "threads" ] do
                        json.Remove name |> ignore

                    let options = json["options"].AsObject()
                    options.Remove "on_spike" |> ignore
                    options.Remove "validation_tokens" |> ignore
                    options["validation_batches"] <- Nodes.JsonValue.Create 8
                    File.WriteAllText(state, json.ToJsonString())
                    tryResume run |> ok |> finish |> ignore
                    Expect.equal
                        (File.ReadAllBytes(fileIn run [ "checkpoint-12"; "model.safetensors" ]))
                        whole
                        "the same bits"))
    ]

// ---- going on with other options

let private extensions =
    testList "going on" [
        testCase "a finished run goes on to more steps, at another rate, and remembers it" (fun () ->
            withData (fun folder ->
                let run = Path.Combine(folder, "run")
                start options folder |> finish |> ignore

                let more (options: TrainingOptions) = {
                    options with
                        Steps = 20
                        Rate = { options.Rate with Peak = 0.002 }
                }

                using (TrainingSession.extend more run Ranks.alone Device.Cpu |> ok) (fun session ->
                    // Killed after three more steps.
                    TrainingSession.run (fun () -> false) session |> Seq.truncate 3 |> List.ofSeq |> ignore)

                use session = tryResume run |> ok
                Expect.equal session.Plan.Options (more options) "for good"
                let reports = eventsOf session |> reports
                Expect.equal
                    (List.map (fun (report: StepReport) -> report.Step) reports)
                    [ 13..20 ]
                    "the steps that are new"
                let rate = RateOptions.at 20 (more options).Rate 12
                Expect.floatClose Accuracy.veryHigh reports.Head.LearningRate rate "at the new rate"

                let logged = [
                    for line in File.ReadLines(fileIn run [ "log.jsonl" ]) do
                        let root = JsonDocument.Parse(line).RootElement

                        match root.TryGetProperty "options" with
                        | true, options ->
                            (root.GetProperty "step").GetInt32(), (options.GetProperty "steps").GetInt32()
                        | _ -> ()
                ]

                Expect.equal logged [ 0, 12; 12, 20 ] "and in the log"))

        testCase "samples, passes and lessons stay what they were; steps that are made stay made" (fun () ->
            withData (fun folder ->
                let run = Path.Combine(folder, "run")
                start options folder |> finish |> ignore
                let extend change = TrainingSession.extend change run Ranks.alone Device.Cpu |> messages

                for change in
                    [
                        fun (options: TrainingOptions) -> { options with BatchSize = 5 }
                        fun options -> { options with Seed = 9L }
                        fun options -> { options with Precision = Dtype.F64 }
                        fun options -> { options with Recipe = { plain with Dropout = 0.1 } }
                    ] do
                    extend change |> expectFault [ "other samples"; "start a new run" ]

                extend (fun options -> { options with Steps = 5 })
                |> expectFault [ "steps is 5"; "more than the 12" ]
                extend (fun options -> { options with Keep = 0 }) |> expectFault [ "keep is 0" ]))

        testCase "another number of threads is said" (fun () ->
            withData (fun folder ->
                let run = Path.Combine(folder, "run")
                let threads = CpuKernels.threads ()
                start options folder |> finish |> ignore

                try
                    CpuKernels.setThreads (threads + 1)
                    use session = tryResume run |> ok
                    let said = TrainingSession.remarks session
                    Expect.exists said _.Contains($"other threads ({threads}, now {threads + 1})") $"{said}"
                finally
                    CpuKernels.setThreads threads

                use session = tryResume run |> ok
                Expect.isEmpty (TrainingSession.remarks session) "nothing to say"))
    ]

// ---- what is counted

/// Pairs of a prompt of so many ids, which are only read, and a response.
let private pair (prompt: int) (response: int) : int[] = [|
    for i in 0 .. prompt - 1 -> ~~~(i % 24)
    for i in 0 .. response - 1 -> (prompt + i) % 24
|]

let private counts =
    testList "counts" [
        testCase "validation grades the same samples whatever the batch size" (fun () ->
            withData (fun folder ->
                let graded size accumulate =
                    let data = { dataOf (Path.Combine(folder, "data.tokens")) with ValidationShare = 0.4 }

                    let options = {
                        options with
                            BatchSize = size
                            Accumulate = accumulate
                            ValidateEvery = 12
                            ValidationTokens = 50
                    }

                    use session = tryStart options data (Path.Combine(folder, $"run{size}")) |> ok
                    Expect.equal (session.Graded |> List.sumBy Batch.tokens) 56 "seven samples of eight ids"
                    eventsOf session |> validations |> List.head

                let step, one = graded 6 1
                let other, two = graded 2 3
                Expect.equal (step, other) (0, 0) "the model as it was"

                for a, b in Array.zip one two do
                    Expect.isLessThan (abs (a - b)) 1e-5 $"{a} and {b}"))

        testCase "a step and a validation with nothing to learn say so, and move nothing" (fun () ->
            withFolder (fun folder ->
                let file name = Path.Combine(folder, name)
                TokenFile.write (file "data.tokens") (pair 2 4 :: List.replicate 9 (pair 20 2))
                |> ok
                |> ignore
                TokenFile.write (file "valid.tokens") (List.replicate 4 (pair 20 2)) |> ok |> ignore
                let data = { dataOf (file "data.tokens") with Validation = [ file "valid.tokens" ] }

                let options = {
                    options with
                        BatchSize = 1
                        Steps = 10
                        Layout = Layout.Each
                        ValidateEvery = 5
                }

                use session = tryStart options data (file "run") |> ok
                Expect.exists (TrainingSession.remarks session) _.Contains("nothing is validated") "said"
                Expect.equal (session.Coverage |> Option.map _.Silent) (Some 9) "texts"
                let events = eventsOf session
                Expect.isEmpty (validations events) "no 0.000"
                let idle, busy = reports events |> List.partition (fun report -> report.Sums.Tokens = 0)
                Expect.equal (idle.Length, busy.Length) (9, 1) "an epoch"
                Expect.all idle (fun report -> (LossSums.perToken report.Sums).IsNone) "no loss"
                Expect.all busy (fun report -> (LossSums.perToken report.Sums).Value > 0.5) "a loss"

                let losses =
                    File.ReadAllLines(Path.Combine(file "run", "log.jsonl"))
                    |> Array.choose (fun line ->
                        match JsonDocument.Parse(line).RootElement.TryGetProperty "loss" with
                        | true, loss -> Some loss.ValueKind
                        | _ -> None)

                Expect.equal
                    (losses |> Array.filter ((=) JsonValueKind.Null) |> Array.length)
                    9
                    "null in the log"))

        testCase
            "the log tells learned ids, those that were read, and padding apart; and what dropout kept"
            (fun () ->
                withFolder (fun folder ->
                    let file name = Path.Combine(folder, name)
                    TokenFile.write (file "data.tokens") [ pair 3 4; pair 1 2 ] |> ok |> ignore

                    let options = {
                        options with
                            BatchSize = 2
                            Steps = 3
                            Layout = Layout.Each
                            Recipe = { plain with Dropout = 1.0; Depth = DropoutShape.Exponential }
                    }

                    use session = tryStart options (dataOf (file "data.tokens")) (file "run") |> ok
                    eventsOf session |> ignore
                    let lines = File.ReadAllLines(Path.Combine(file "run", "log.jsonl"))
                    let last = JsonDocument.Parse(Array.last lines).RootElement
                    let number (name: string) = (last.GetProperty name).GetInt32()
                    Expect.equal (number "learned_tokens") 6 "responses"
                    Expect.equal (number "tokens") 10 "texts"
                    Expect.equal (number "padding") 4 "the shorter one's"
                    let kept = [
                        for layer in (last.GetProperty "kept").EnumerateObject() -> layer.Value.GetDouble()
                    ]
                    Expect.equal (kept.Head, List.last kept) (1.0, 0.0) "by layer"
                    let first = JsonDocument.Parse(lines[0]).RootElement.GetProperty "options"
                    Expect.equal ((first.GetProperty "dropout").GetDouble()) 1.0 "the options"))
    ]

[<Tests>]
let tests = testList "training runs" [ folders; damage; extensions; counts ]
