module LayerSkip.Tests.AdapterTests

open System
open System.IO
open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.TensorSupport
open LayerSkip.Tests.Tiny
open LayerSkip.Tests.LossSupport

let private ok result = Check.getOrRaise result

let private forms = [ AdapterForm.Norm; AdapterForm.LowRank 3; AdapterForm.Block ]

/// A case's adapter of each form, with noise on all that it learned, over float64.
let private noisy (exit: ExitLayer) (form: AdapterForm) (weights: Weights) : Adapter =
    let adapter = Adapter.initial 5L 1 form exit weights
    use _scope = Scope.start ()

    for index, tensor in Array.indexed (Adapter.tensors adapter) do
        use generator = new torch.Generator(uint64 (index + 11))
        let noise = torch.randn (tensor.shape, generator = generator)
        tensor.add_ ((noise * 0.1).``to`` tensor.dtype) |> ignore

    adapter

let private divergence rope weights (adapter: Adapter) batch =
    let gaps = AdapterLoss.measure 5 rope weights adapter.Exit.Layers [ adapter ] batch
    gaps[1].Divergence

let private options layers form exit : AdapterOptions =
    let standard = AdapterOptions.standard layers form exit
    {
        standard with
            Run = {
                standard.Run with
                    Steps = 12
                    BatchSize = 4
                    SequenceLength = 9
                    Layout = Layout.Each
                    Rate = { Peak = 0.02; Warmup = 2; Floor = 0.1 }
                    ValidateEvery = 6
                    ValidationTokens = 60
                    SaveEvery = 5
            }
    }

let private config = Tiny.config 24 4 4 2 true

let private model () =
    Checkpoint.ofWeights (Path.GetTempPath()) (Weights.random 3L 0.8 Dtype.F32 Device.Cpu config) None

let private writing: SelfWriting = { Tokens = 400L; Opening = 3; Temperature = 0.9; AtOnce = 16 }

let private lessonsOf (folder: string) : AdapterLessons =
    let file = Path.Combine(folder, "data.tokens")
    TokenFile.write file rhythm |> ok |> ignore

    {
        Data = {
            Train = [ file ]
            Validation = []
            ValidationShare = 0.1
            Bos = false
            Eos = false
            Special = true
        }
        Writing = Some writing
    }

let private bits (tensors: Tensor seq) = [ for tensor in tensors -> Convert.ToHexString(bytesOf tensor) ]

let private loss =
    testList "loss" [
        testPropertyWithConfig (settings 10) "its gradient is that of finite differences, in every form"
        <| fun (case: Case) (seed: int) ->
            withWeights Dtype.F64 case.Model (fun weights ->
                use _scope = Scope.start ()
                let exit = Tiny.exit case.Model.Config.Layers case.Exit
                let rope = Rope.table case.Model.Config rows torch.ScalarType.Float64 torch.CPU
                let batch = batchOf seed 3

                for form in forms do
                    use adapter = noisy exit form weights

                    for tensor in Adapter.tensors adapter do
                        tensor.requires_grad_ true |> ignore

                    let sum = AdapterLoss.backward 5 rope weights adapter 1.0 batch
                    near
                        1e-10
                        "the sum"
                        (divergence rope weights adapter batch)
                        (Array.head (Tensors.toFloats sum))

                    for index, tensor in Array.indexed (Adapter.tensors adapter) do
                        use generator = new torch.Generator(uint64 index)
                        let noise =
                            torch.randn (tensor.shape, torch.ScalarType.Float64, generator = generator)
                        let direction = noise / noise.norm ()

                        let moved (h: float) =
                            use _noGrad = torch.no_grad ()
                            let before = tensor.clone ()
                            tensor.copy_ (tensor + direction * h) |> ignore
                            let value = divergence rope weights adapter batch
                            tensor.copy_ before |> ignore
                            value

                        let slope =
                            Array.map2 (*) (gradientOf tensor) (Tensors.toFloats direction) |> Array.sum

                        near 1e-6 $"%A{form}, tensor {index}" ((moved 1e-5 - moved -1e-5) / 2e-5) slope)

        testPropertyWithConfig (settings 15) "a norm and a low-rank map begin as the exit itself"
        <| fun (case: Case) (seed: int) ->
            withWeights Dtype.F64 case.Model (fun weights ->
                use _scope = Scope.start ()
                let exit = Tiny.exit case.Model.Config.Layers case.Exit
                // Norms take the scale out but for this.
                let weights = { weights with Config.NormEps = 1e-30 }
                let rope = Rope.table weights.Config rows torch.ScalarType.Float64 torch.CPU

                for form in forms[..1] do
                    use adapter = Adapter.initial 5L 1 form exit weights
                    let gaps = AdapterLoss.measure 4 rope weights exit.Layers [ adapter ] (batchOf seed 2)
                    near 1e-9 $"%A{form}" gaps[0].Divergence gaps[1].Divergence
                    Expect.equal gaps[1].Agreed gaps[0].Agreed "agreement")

        testPropertyWithConfig
            (settings 10)
            "a block that begins as the next layer is that layer, and the last one's gap is none"
        <| fun (model: Model) (seed: int) ->
            let config = { model.Config with Layers = 2; Windows = Array.create 2 None }

            withWeights Dtype.F64 { model with Config = config } (fun weights ->
                use _scope = Scope.start ()
                let rope = Rope.table config rows torch.ScalarType.Float64 torch.CPU
                use adapter = Adapter.initial 5L 2 AdapterForm.Block (Tiny.exit 2 1) weights
                let gaps = AdapterLoss.measure 50 rope weights 1 [ adapter ] (batchOf seed 2)
                near 1e-10 "KL" 0.0 gaps[1].Divergence
                Expect.equal gaps[1].Agreement 1.0 "agreement")
    ]

let private file =
    testList "file" [
        for form in forms do
            testCase $"{AdapterForm.name form}: what is written is read again, bit for bit" (fun () ->
                withFolder (fun folder ->
                    use model = model ()
                    let path = Path.Combine(folder, "adapter.safetensors")
                    use adapter = noisy (Tiny.exit 4 2) form model.Weights
                    AdapterFile.write path model.Weights adapter |> ok
                    use read = AdapterFile.load model.Weights path |> ok
                    Expect.equal read.Form adapter.Form "form"
                    Expect.equal read.Exit adapter.Exit "exit"
                    Expect.equal (bits (Adapter.tensors read)) (bits (Adapter.tensors adapter)) "tensors"
                    Expect.isEmpty (AdapterFile.remarks model.Weights path read.Base) "its own base"
                    use other = Weights.random 4L 0.8 Dtype.F32 Device.Cpu config
                    Expect.equal (AdapterFile.remarks other path read.Base).Length 1 "another base"))

        testCase "a base keeps its mark whatever its matrices are held in" (fun () ->
            use f32 = Weights.random 3L 0.8 Dtype.F32 Device.Cpu config
            use bf16 = Weights.random 3L 0.8 Dtype.BF16 Device.Cpu config
            Expect.equal (Adapter.fingerprint bf16) (Adapter.fingerprint f32) "bf16")

        testCase "bad files: one line each that says what is wrong" (fun () ->
            withFolder (fun folder ->
                use model = model ()
                let path = Path.Combine(folder, "adapter.safetensors")
                use adapter = noisy (Tiny.exit 4 3) AdapterForm.Block model.Weights

                let refuses (config: LlamaConfig) (words: string) =
                    use weights = Weights.random 3L 0.8 Dtype.F32 Device.Cpu config
                    match AdapterFile.load weights path with
                    | Ok _ -> failtest $"read, where it should say {words}"
                    | Error faults ->
                        let line = LayerSkipError.summary faults
                        Expect.stringContains line words "what is wrong"
                        Expect.isFalse (line.Contains '\n') "one line"

                refuses config "not found"
                AdapterFile.write path model.Weights adapter |> ok
                refuses { config with Hidden = 32 } "another model, of hidden size 16 (this model has 32)"
                refuses (Tiny.config 24 3 4 2 true) "layers 4 (this model has 3)"
                refuses { config with Intermediate = 32 } "has shape"
                refuses { config with QkvBias = true } "is missing"
                let whole = File.ReadAllBytes path
                File.WriteAllBytes(path, whole[.. whole.Length - 9])
                refuses config "adapter.safetensors"
                File.WriteAllBytes(path, whole[..100])
                refuses config "adapter.safetensors"
                TensorWriter.safetensors path (Map [ "format", "pt" ]) (Weights.named model.Weights) |> ok
                refuses config "is no adapter"
                (Array.head (Adapter.tensors adapter)).fill_(Scalars.ofFloat nan) |> ignore
                AdapterFile.write path model.Weights adapter |> ok
                refuses config "NaN"))
    ]

let private runs =
    testList "run" [
        testCase "the base stays, bit for bit, the adapter comes nearer, and nothing leaks" (fun () ->
            use model = model ()
            let before = bits (Weights.tensors model.Weights)
            let texts =
                SelfText.batch
                    model.Weights
                    { Length = 9; Temperature = 0.9; AtOnce = 64; Seed = 2L }
                    (Array.create 64 [| 1 |])
            let batch first count = Batch.ofIds (Array.init count (fun i -> texts[(int first + i) % 48]))
            let live = liveTensors ()

            for form in forms do
                let options = options 4 form 2
                let options = { options with Run.Steps = 60 }
                let plan = AdapterTraining.plan options model.Weights batch
                let mutable trainee = AdapterTraining.start options model.Weights |> ok
                let gap () = AdapterTraining.validate plan trainee.Adapter [ Batch.ofIds texts[48..] ]
                let struct (bare, first) = gap ()

                for _ in 1..60 do
                    let struct (_, next) =
                        AdapterTraining.step plan trainee
                        |> Result.defaultWith (fun fault -> failtest fault.What)
                    trainee <- next

                let struct (still, last) = gap ()
                Expect.equal still bare "the exit itself"
                Expect.isLessThan last.Divergence (0.8 * first.Divergence) $"%A{form}"
                (trainee :> IDisposable).Dispose()
                Scope.release (Rope.tensorsOf plan.Rope)

            Expect.equal (liveTensors ()) live "tensors"
            Expect.equal (bits (Weights.tensors model.Weights)) before "the base")

        testCase
            "it writes its lessons, stops, goes on to the same bits, and ends with the adapter in its folder"
            (fun () ->
                withFolder (fun folder ->
                    let options = options 4 AdapterForm.Block 2
                    let lessons = lessonsOf folder
                    let whole, parted = Path.Combine(folder, "whole"), Path.Combine(folder, "parted")
                    let baseFolder = Path.Combine(folder, "base")
                    use source = model ()
                    Export.writeIn Dtype.F32 ExportFormat.HuggingFace 4 baseFolder source |> ok |> ignore
                    let load () = Checkpoint.load baseFolder (Some Dtype.F32) Device.Cpu |> ok
                    let mutable written = 0L

                    let finish (session: AdapterSession) =
                        use session = session
                        AdapterSession.run (fun () -> false) session |> List.ofSeq

                    let events =
                        AdapterSession.start whole options (load ()) lessons (fun count -> written <- count)
                        |> ok
                        |> finish

                    Expect.isGreaterThanOrEqual written 400L "as many as were asked for"
                    let seen =
                        events
                        |> List.choose (fun event ->
                            match event with
                            | AdapterEvent.Validated(step, _, _) -> Some step
                            | _ -> None)
                    Expect.equal seen [ 0; 6; 12 ] "validations"

                    (use session = AdapterSession.start parted options (load ()) lessons ignore |> ok
                     let mutable steps = 0
                     AdapterSession.run (fun () -> steps >= 7) session
                     |> Seq.iter (fun event ->
                         if event.IsStepped then
                             steps <- steps + 1))

                    Expect.isFalse (File.Exists(Path.Combine(parted, "adapter.safetensors"))) "not finished"
                    Expect.isTrue (AdapterCheckpoint.isRun parted) "a run"
                    let rest = AdapterSession.resume parted Device.Cpu |> ok |> finish
                    Expect.equal (rest |> List.filter _.IsStepped).Length 5 "the steps that were left"

                    let bytes (output: string) =
                        File.ReadAllBytes(Path.Combine(output, "adapter.safetensors"))
                    Expect.equal
                        (Convert.ToHexString(bytes parted))
                        (Convert.ToHexString(bytes whole))
                        "the same bits"
                    let log = File.ReadAllLines(Path.Combine(parted, "log.jsonl"))
                    Expect.equal log.Length 15 "a line a step, and a validation")) // 12 + 3

        testCase "a base that is another one by now is refused" (fun () ->
            withFolder (fun folder ->
                let output, baseFolder = Path.Combine(folder, "run"), Path.Combine(folder, "base")
                let write seed =
                    use source =
                        Checkpoint.ofWeights
                            folder
                            (Weights.random seed 0.8 Dtype.F32 Device.Cpu config)
                            None
                    Export.writeIn Dtype.F32 ExportFormat.HuggingFace 4 baseFolder source |> ok |> ignore

                write 3L
                let options = options 4 AdapterForm.Norm 1
                use session =
                    AdapterSession.start
                        output
                        options
                        (Checkpoint.load baseFolder (Some Dtype.F32) Device.Cpu |> ok)
                        (lessonsOf folder)
                        ignore
                    |> ok
                let mutable steps = 0
                AdapterSession.run (fun () -> steps >= 1) session
                |> Seq.iter (fun event ->
                    if event.IsStepped then
                        steps <- steps + 1)
                (session :> IDisposable).Dispose()
                Directory.Delete(baseFolder, true)
                write 4L
                let faults =
                    AdapterSession.resume output Device.Cpu |> Check.faults |> LayerSkipError.summary
                Expect.stringContains faults "another model" "why"))
    ]

[<Tests>]
let tests = testSequenced <| testList "adapter" [ loss; file; runs ]
