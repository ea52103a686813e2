module LayerSkip.Tests.RopeResumeTests

open System
open System.IO
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport

Backend.ensure ()

let private ok result = Check.getOrRaise result

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

let private options: TrainingOptions = {
    TrainingOptions.standard (Recipe.tryPreset "plain" 4 |> ok) with
        Steps = 4
        BatchSize = 4
        SequenceLength = 24
        Rate = { Peak = 0.01; Warmup = 1; Floor = 0.1 }
        ValidateEvery = 0
        SaveEvery = 100
}

/// The weights and moments of a session, as bits.
let private bits (session: TrainingSession) = [
    for tensor in
        Seq.append (Weights.tensors session.Trainee.Weights) (AdamWState.TensorsOf session.Trainee.Optimiser) do
        Tensors.toFloat32s tensor |> Array.map BitConverter.SingleToInt32Bits
]

/// Makes steps until there are so many, or none are left.
let private runFor steps (session: TrainingSession) =
    let mutable made = 0

    for event in TrainingSession.run (fun () -> made >= steps) session do
        match event with
        | TrainingEvent.Stepped _ -> made <- made + 1
        | _ -> ()

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

                    let data: TrainingData = {
                        Train = [ file "data.tokens" ]
                        Validation = []
                        ValidationShare = 0.0
                        Bos = false
                        Eos = false
                        Special = true
                    }

                    let start output =
                        let model = Checkpoint.load (file "model.gguf") (Some Dtype.F32) Device.Cpu |> ok
                        TrainingSession.start (file output) options Ranks.alone model data |> ok

                    let unbroken =
                        use session = start "unbroken"
                        runFor Int32.MaxValue session
                        bits session

                    using (start "parted") (runFor 2)
                    use session = TrainingSession.resume (file "parted") Ranks.alone Device.Cpu |> ok
                    Expect.equal session.Trainee.Step 2 "goes on"
                    runFor Int32.MaxValue session
                    Expect.isTrue (bits session = unbroken) "the same bits"))
    ]
