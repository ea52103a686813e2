module LayerSkip.Tests.RopeResumeTests

open System
open System.IO
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.TrainingSupport

/// Llama 3's scaling, so that some pairs of dimensions turn as they did, some slower, and some in between.
let private config = {
    Tiny.config 24 4 4 2 true with
        HeadDim = 16
        RopeTheta = 500.0
        RopeScaling = RopeScaling.Llama3(8.0, 1.0, 4.0, 64)
}

/// A GGUF file of a model to train from, with its table of divisors.
let private writeGguf (path: string) : unit =
    use model = Checkpoint.ofWeights "initial" (Weights.initial 3L Dtype.F32 Device.Cpu config) None

    Export.write ExportFormat.Gguf config.Layers path model |> ok |> ignore

let private options = { optionsOf plain with Steps = 4; SequenceLength = 24; Rate.Warmup = 1 }

[<Tests>]
let tests =
    testSequenced
    <| testList "llama3 angles" [
        testCase "a table of divisors is read as the numbers it was made from, and has their bits" (fun () ->
            withFolder (fun folder ->
                let path = Path.Combine(folder, "model.gguf")
                writeGguf path
                use file = Gguf.openFile path |> ok
                let struct (written, _) = RopeAngles.frequencies config
                let struct (found, _) = RopeAngles.frequencies file.Config
                let struct (plain, _) =
                    RopeAngles.frequencies { config with RopeScaling = RopeScaling.Default }
                Expect.isGreaterThan
                    (Array.distinct (Array.map2 (/) plain written)).Length
                    2
                    "all three kinds of angles"
                Expect.equal found written "the same bits"))

        testCase "a table that no numbers of llama3 come to stays as it is" (fun () ->
            let odd = { config with RopeScaling = RopeScaling.Divided [| for i in 1..8 -> 1.0 + float i |] }
            Expect.equal (RopeAngles.named odd) odd.RopeScaling "divisors")

        testCase
            "a run from a Llama-3 GGUF that stops and goes on makes the bits of one that does not stop"
            (fun () ->
                withFolder (fun folder ->
                    let file name = Path.Combine(folder, name)
                    writeGguf (file "model.gguf")
                    TokenFile.write (file "data.tokens") [|
                        for text in Tiny.rhythm -> Array.append text text
                    |]
                    |> ok
                    |> ignore

                    let start output =
                        let model = Checkpoint.load (file "model.gguf") (Some Dtype.F32) Device.Cpu |> ok
                        TrainingSession.start
                            (file output)
                            options
                            Ranks.alone
                            model
                            (dataOf (file "data.tokens"))
                        |> ok

                    let unbroken =
                        use session = start "unbroken"
                        eventsOf session |> ignore
                        bits session

                    using (start "parted") (runFor 2) |> ignore
                    use session = tryResume (file "parted") |> ok
                    Expect.equal session.Trainee.Step 2 "goes on"
                    eventsOf session |> ignore
                    Expect.isTrue (bits session = unbroken) "the same bits"))
    ]
