module LayerSkip.Tests.CudaTests

open System
open System.IO
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.Support
open LayerSkip.Tests.TensorSupport
open LayerSkip.Tests.Tiny
open LayerSkip.Tests.CudaSupport

Backend.ensure ()

let private ok result = Check.getOrRaise result

/// Every exit's logits over some ids.
let private exits (weights: Weights) (ids: int[]) : float[][] =
    let logits = Array.create weights.Config.Layers [||]
    use ids = Tensors.ofIds [| 1L; int64 ids.Length |] ids
    Decoder.exits
        (Weights.withoutKernels weights)
        (fun exit tensor -> logits[exit - 1] <- Tensors.toFloats tensor)
        ids
    logits

let private farthest (a: float[][]) (b: float[][]) =
    Seq.map2 (fun x y -> Array.map2 (fun x y -> abs (x - y)) x y |> Array.max) a b |> Seq.max

let private near a b within what =
    let distance = farthest a b
    Expect.isTrue (distance <= within) $"{what}: {distance} apart, {within} allowed"

let private passes =
    testList "passes" [
        cudaProperty "every exit's logits are the CPU's" 30 (fun (case: Case) ->
            use cpu = on Device.Cpu Dtype.F64 case.Model
            let expected = exits cpu case.Prompt

            for dtype, within in [ Dtype.F64, 1e-10; Dtype.F32, 5e-4; Dtype.BF16, 0.6 ] do
                use gpu = on Device.Cuda dtype case.Model
                near (exits gpu case.Prompt) expected within $"{Dtype.name dtype}, {case}")

        cudaProperty "self-speculative text is the CPU's greedy text, in float64" 20 (fun (case: Case) ->
            use cpu = on Device.Cpu Dtype.F64 case.Model
            use gpu = on Device.Cuda Dtype.F64 case.Model
            let exit = exit case.Model.Config.Layers case.Exit

            let text weights strategy =
                (Generation.complete weights None (options strategy 24) case.Prompt |> ok).TokenIds

            let expected = text cpu Strategy.Autoregressive
            Expect.equal (text gpu (Strategy.SelfSpeculative(exit, case.Draft))) expected "self-speculative"
            Expect.equal (text gpu Strategy.Autoregressive) expected "autoregressive")

        cudaProperty "whatever drafts, the text is the CPU's, in float64" 10 (fun (case: Case) ->
            use cpu = on Device.Cpu Dtype.F64 case.Model
            use gpu = on Device.Cuda Dtype.F64 case.Model
            let layers = case.Model.Config.Layers
            let exits = List.init (layers - 1) (fun index -> exit layers (index + 1))

            let auto =
                AutoDrafter.create {
                    Costs = PassCosts.ofShares layers 1.0 1.0
                    Exits = exits
                    Start = Some exits.Head
                    Longest = 6
                    Lookup = true
                    Past = None
                }

            let text weights strategy =
                (Generation.complete weights None (options strategy 32) case.Prompt |> ok).TokenIds

            let expected = text cpu Strategy.Autoregressive

            for drafter in
                [
                    auto
                    // It moves the border of the halves, and looks at the states after every layer.
                    AdaptivePolicies.del true layers [||] |> Drafter.ofPolicy exits 8 StopRule.adaEdl
                    Drafter.suffixLookup None
                    Drafter.earlyExitUntil StopRule.draftVerify exits.Head
                ] do
                let strategy = Strategy.Adaptive drafter
                Expect.equal (text gpu strategy) expected drafter.Name

                let within = strategy.Within(ContextVocabulary.around [| 0..7 |])
                Expect.equal (text gpu within) expected $"{drafter.Name}, of some ids")

        cudaTest "what passes take is profiled" (fun () ->
            use gpu = on Device.Cuda Dtype.BF16 { Config = config 24 4 2 1 true; Seed = 1L }
            let costs = PassProfile.measure gpu
            Expect.isGreaterThan costs.Rows[0] 0.0 "a pass"
            Expect.isGreaterThan (PassCosts.draft costs 2) 0.0 "a draft")

        cudaTest "decoding frees what it makes" (fun () ->
            use gpu = on Device.Cuda Dtype.BF16 { Config = config 24 4 2 1 true; Seed = 1L }
            let strategy = Strategy.SelfSpeculative(exit 4 2, 3)
            let decode () = Generation.complete gpu None (options strategy 20) [| 1; 2; 3 |] |> ok |> ignore
            decode ()
            let before = liveTensors ()
            decode ()
            Expect.equal (liveTensors ()) before "live tensors")
    ]

/// A loss's sums and gradients on a device, with dropout.
let private learn device dtype (options: LossOptions) (model: Model) : float[] * float[][] =
    use weights = on device dtype model
    use _scope = torch.NewDisposeScope()
    let parameters = Weights.tensors weights

    for tensor in parameters do
        tensor.requires_grad_ true |> ignore

    let layers = model.Config.Layers
    let activations = ScalarType.activations device dtype
    let rope = Rope.table model.Config 7 activations weights.Embedding.Tensor.device
    let random = Random(int model.Seed)
    let batch = Batch.ofIds (Array.init 5 (fun _ -> Array.init 7 (fun _ -> random.Next 24)))
    let dropout = { Rate = (fun _ layer -> if layer % 2 = 0 then 0.4 else 0.2); Seed = 9L }
    let wrap = LayerDropout.wrap dropout { Step = 2; First = 0 }
    let shares = Array.create layers (1.0 / float layers)
    let sums = EarlyExitLoss.backward options rope weights shares wrap 1.0 batch

    Array.append [| sums.Objective |] sums.CrossEntropy, Array.map gradientOf parameters

let private training =
    let recipe: Recipe = {
        Dropout = 0.4
        Depth = DropoutShape.Exponential
        Time = DropoutShape.Constant
        Exits = ExitRule.Rotational(2, 0.5)
        Targets = { Labels = 0.5; LastLayer = 1.0 }
    }

    let options = {
        TrainingOptions.standard recipe with
            Steps = 12
            BatchSize = 4
            SequenceLength = 9
            Rate = { Peak = 0.01; Warmup = 3; Floor = 0.1 }
            ValidateEvery = 4
            SaveEvery = 100
    }

    /// The losses of a run, and what it validates; stopped once, and gone on with.
    let run device precision =
        withFolder (fun folder ->
            let file = Path.Combine(folder, "data.tokens")

            TokenFile.write file rhythm |> ok |> ignore

            let data = {
                Train = [ file ]
                Validation = [ file ]
                ValidationShare = 0.0
                Bos = false
                Eos = false
                Special = true
            }
            let options = { options with Precision = precision }
            let config = config 24 4 4 2 true

            let weights = Weights.initial 3L (Training.masterDtype options) device config

            let model = { Checkpoint.ofWeights folder weights None with StopIds = [| 2 |] }

            let output = Path.Combine(folder, "run")

            let follow steps (session: TrainingSession) = [|
                let mutable made = 0

                for event in TrainingSession.run (fun () -> made >= steps) session do
                    match event with
                    | TrainingEvent.Stepped report ->
                        made <- made + 1
                        report.Sums.Objective / float report.Sums.Tokens
                    | TrainingEvent.Validated(_, entropies) -> yield! entropies
                    | _ -> ()
            |]

            let first = using (TrainingSession.start output options Ranks.alone model data |> ok) (follow 5)
            let rest = using (TrainingSession.resume output Ranks.alone device |> ok) (follow 100)
            Array.append first rest)

    testList "training" [
        cudaProperty "the loss and its gradients are the CPU's, in float64" 20 (fun (model: Model) ->
            for recompute in [ false; true ] do
                let options = {
                    LossOptions.standard with
                        Targets = { Labels = 0.7; LastLayer = 1.5 }
                        Recompute = recompute
                }

                let sums, gradients = learn Device.Cpu Dtype.F64 options model
                let sums', gradients' = learn Device.Cuda Dtype.F64 options model
                near [| sums |] [| sums' |] 1e-9 "sums"
                near gradients gradients' 1e-9 "gradients")

        cudaTest "a run, stopped and gone on with, comes to the CPU's losses" (fun () ->
            let expected = run Device.Cpu Dtype.F64
            let far precision = farthest [| run Device.Cuda precision |] [| expected |]

            for precision, within in [ Dtype.F64, 1e-9; Dtype.F32, 1e-3; Dtype.BF16, 0.1 ] do
                let distance = far precision
                Expect.isTrue (distance <= within) $"{Dtype.name precision}: {distance} apart")

        cudaTest "a step frees what it makes" (fun () ->
            let model = { Config = config 24 4 2 1 true; Seed = 1L }
            let step () = learn Device.Cuda Dtype.BF16 LossOptions.standard model |> ignore
            step ()
            let before = liveTensors ()
            step ()
            Expect.equal (liveTensors ()) before "live tensors")
    ]

[<Tests>]
let tests = testList "CUDA" [ passes; training ]
