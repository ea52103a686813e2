namespace LayerSkip

open System
open LayerSkip.Kernels
open TorchSharp

/// The weights of one decoder layer.
type LayerWeights = LayerParts<Weight>

/// A whole model's weights in memory, on one device. `Dtype` is that of the matrices, but of those that stay in a file's formats, each in its
/// own: it is then float32. Norms and biases have the dtype of the activations.
[<NoEquality; NoComparison>]
type Weights = {
    Config: LlamaConfig
    Dtype: Dtype
    Device: Device
    Parts: DecoderParts<Weight>
    /// How the kernels multiply quantised matrices.
    Compute: Compute
    /// Made when a sequence first needs them.
    Rope: RopeTables
    /// The same memory for the CPU kernels, where they serve the dtype; None: everything goes through libtorch.
    Kernels: KernelWeights option
    /// How their caches read a prompt.
    Prefill: Prefill
    /// Products round what they read to the matrices' dtype, as training does in bfloat16 on a CPU; else the matrices are
    /// widened to the activations.
    RoundsInputs: bool
    /// How caches of these weights hold keys and values; None: as activations are held.
    Kv: KvFormat option
} with

    /// [vocabulary; hidden]
    member this.Embedding = this.Parts.Embedding
    /// From the first to the last.
    member this.Layers: LayerWeights[] = this.Parts.Layers
    /// [hidden]
    member this.Norm = this.Parts.Norm
    /// [vocabulary; hidden]: the embedding itself where they are tied.
    member this.Head = defaultArg this.Parts.Head this.Parts.Embedding

    interface IDisposable with
        member this.Dispose() =
            this.Kernels |> Option.iter (fun kernels -> (kernels :> IDisposable).Dispose())
            (this.Rope :> IDisposable).Dispose()

            for weight in DecoderParts.toList this.Parts do
                Scope.release (Weight.tensors weight)

                for file in Weight.files weight do
                    (file :> IDisposable).Dispose()

/// Making weights, and seeing them as others name and use them.
[<RequireQualifiedAccess>]
module Weights =
    let internal each (weights: Weights) = DecoderParts.toList weights.Parts

    /// Each tensor once, in the order of `DecoderParts`; a tied head is the embedding. Of weights in a dtype: in a file's blocks they have
    /// none.
    let tensors (weights: Weights) : Tensor[] = [| for weight in each weights -> weight.Tensor |]

    let internal withKernelForm (form: KernelForm) (weights: Weights) : Weights = {
        weights with
            Kernels =
                CpuKernels.tryOver
                    form
                    (Compute.form weights.Compute)
                    weights.Device
                    weights.Config
                    weights.Parts
    }

    /// The same weights for the CPU kernels, where they serve the device and dtype.
    let withKernels (weights: Weights) : Weights = withKernelForm KernelForms.Best weights

    /// Kernels of what was changed, in place of those that it had, if any.
    let private withFreshKernels (changed: Weights) : Weights =
        match changed.Kernels with
        | None -> changed
        | Some former ->
            (former :> IDisposable).Dispose()
            withKernels changed

    /// The same weights, with quantised matrices multiplied as `compute` says. Of the weights given, only the kernels are disposed.
    let withCompute (compute: Compute) (weights: Weights) : Weights =
        if compute = weights.Compute then
            weights
        else
            { weights with Compute = compute } |> withFreshKernels

    /// The same weights through libtorch alone, as `Ops` defines it; their caches hold what activations are.
    let withoutKernels (weights: Weights) : Weights = { weights with Kernels = None; Kv = None }

    let private activations (weights: Weights) = ScalarType.activations weights.Device weights.Dtype

    /// The name of what caches of the weights hold: "f32" where nothing else was asked for on a CPU, but "f64" with f64.
    let kv (weights: Weights) : string =
        match weights.Kv, ScalarType.tryDtype (activations weights) with
        | Some kv, _ -> KvFormat.name kv
        | None, Some dtype -> Dtype.name dtype
        | None, None -> invalidOp "activations of no dtype of ours"

    /// The same weights, with caches that hold keys and values in `kv`. Without the CPU kernels (on CUDA, and in f64) there is
    /// no q8, and f32 only where activations are.
    let withKv (kv: KvFormat) (weights: Weights) : Result<Weights, LayerSkipError list> =
        let own = Dtype.name weights.Dtype
        let elsewhere = $"kv {KvFormat.name kv} with {own} weights on this device"

        match kv, weights.Kernels with
        | _, Some _
        | KvFormat.F16, None -> Ok { weights with Kv = Some kv }
        | KvFormat.F32, None when activations weights = torch.ScalarType.Float32 ->
            Ok { weights with Kv = Some kv }
        | KvFormat.F32, None ->
            Check.unsupported elsewhere "leave kv out: keys and values are then held as they are computed"
        | KvFormat.Q8, None ->
            Check.unsupported
                elsewhere
                "q8 is for f32, f16, bf16 and quantised weights on a CPU: take kv f16, or leave it out"

    let private ofParts config dtype device parts : Weights = {
        Config = config
        Dtype = dtype
        Device = device
        Parts = parts
        Rope = new RopeTables()
        Kernels = None
        Compute = Compute.Auto
        Prefill = Prefill.Auto
        RoundsInputs = false
        Kv = None
    }

    /// A model of which `make` builds each tensor from its parts.
    let internal assemble config dtype device (make: CheckpointPart list -> Weight) : Weights =
        CheckpointPart.ofConfig config |> DecoderParts.map make |> ofParts config dtype device

    /// The same model over other tensors of the same shapes; a tied head stays tied. For libtorch alone.
    let mapTensors (change: Tensor -> Tensor) (weights: Weights) : Weights = {
        ofParts
            weights.Config
            weights.Dtype
            weights.Device
            (DecoderParts.map (Weight.map change) weights.Parts) with
            RoundsInputs = weights.RoundsInputs
    }

    /// The same model, differentiably, with its products in `dtype`, which is narrower than its activations. What is no
    /// product stays as it is: the rows of the embedding, norms, and the sums of gradients. For libtorch alone.
    let withProductsIn (dtype: Dtype) (weights: Weights) : Weights =
        let cast (tensor: Tensor) =
            if tensor.shape.Length > 1 then
                tensor.``to`` (ScalarType.ofDtype dtype)
            else
                tensor

        let parts = {
            weights.Parts with
                Head = Some(Weight.map cast weights.Head)
                Layers = Array.map (LayerParts.map (Weight.map cast)) weights.Layers
        }

        { ofParts weights.Config weights.Dtype weights.Device parts with RoundsInputs = true }

    /// x W^T + b of one of the matrices, as `Ops.linear` or `Ops.roundedLinear` has it.
    let internal linear (weights: Weights) (weight: Weight) (bias: Weight option) (x: Tensor) : Tensor =
        let product =
            if weights.RoundsInputs then
                Ops.roundedLinear
            else
                Ops.linear
        product (Weight.tensor weight) (Option.map Weight.tensor bias) x

    /// The same with other layers of the same shapes; the kernels of the weights given are disposed.
    let withLayers (layers: LayerWeights[]) (weights: Weights) : Weights =
        { weights with Parts = { weights.Parts with Layers = layers } } |> withFreshKernels

    /// The first layers of a model under `config`, which counts them; it shares the tensors, and so their life.
    let truncate (config: LlamaConfig) (weights: Weights) : Weights = {
        weights with
            Config = config
            Parts = { weights.Parts with Layers = Array.truncate config.Layers weights.Layers }
    }

    /// The tensors that a checkpoint of this configuration holds: Hugging Face names and shapes.
    let expected (config: LlamaConfig) : CheckpointPart list =
        List.concat (DecoderParts.toList (CheckpointPart.ofConfig config))

    /// The rows that each of the checkpoint's tensors has in a joined one, as views.
    let internal rowsOf (parts: CheckpointPart list) (whole: Tensor) : (string * Tensor) list =
        let place start (name, shape: int64 list) =
            (name, whole.narrow (0L, start, shape.Head)), start + shape.Head

        parts |> List.mapFold place 0L |> fst

    /// Tensors that go with the weights, in the order of `tensors` and of their shapes (moments, say), each under the
    /// Hugging Face name of its weight.
    let internal namedLike (config: LlamaConfig) (tensors: Tensor[]) : (string * Tensor) list =
        List.zip (DecoderParts.toList (CheckpointPart.ofConfig config)) (List.ofArray tensors)
        |> List.collect (fun (parts, whole) -> rowsOf parts whole)

    /// Every tensor of the model's checkpoint, by pieces, whatever it is held in; a tied head is none.
    let parts (weights: Weights) : WeightPart list =
        List.zip (DecoderParts.toList (CheckpointPart.ofConfig weights.Config)) (each weights)
        |> List.collect (fun (parts, weight) -> WeightPart.ofWeight parts weight)

    /// Every weight under its Hugging Face name, as views of the joined tensors; a tied head has no name. Of weights in a dtype, as
    /// `tensors`.
    let named (weights: Weights) : (string * Tensor) list = namedLike weights.Config (tensors weights)

    /// How many numbers a model of this configuration learns; a tied head counts once.
    let parameters (config: LlamaConfig) : int64 =
        expected config |> List.sumBy (fun (_, shape) -> List.fold (*) 1L shape)

    let internal torchDevice device =
        match device with
        | Device.Cpu -> torch.CPU
        | Device.Cuda -> torch.CUDA

    /// Norms and biases are vectors: beside the matrices they weigh nothing, so they keep the activations' precision.
    let private allocate dtype device (parts: CheckpointPart list) =
        let rows = parts |> List.sumBy (fun (_, shape) -> shape.Head)
        let size = Array.ofList (rows :: (snd parts.Head).Tail)

        let kind =
            if size.Length > 1 then
                ScalarType.ofDtype dtype
            else
                ScalarType.activations device dtype

        torch.empty (size, Nullable kind, torchDevice device)

    /// Fills each part's rows of a new tensor.
    let internal fill dtype device (write: string -> Tensor -> unit) (parts: CheckpointPart list) =
        let whole = allocate dtype device parts
        use _scope = Scope.start ()
        rowsOf parts whole |> List.iter (fun (name, rows) -> write name rows)
        whole

    let internal memoryFaults dtype device config =
        match device with
        | Device.Cpu ->
            Memory.faults
                (fun () -> $"the weights in {Dtype.name dtype}")
                (int64 (Dtype.bytes dtype) * parameters config)
        | Device.Cuda -> []

    /// Weights drawn from a law (see `InitialLaw`) of each tensor's name and shape, in the order of `tensors`.
    let private drawn (seed: int64) dtype device config law : Weights =
        Backend.ensure ()
        memoryFaults dtype device config |> Check.throwAny
        use _inference = Scope.inference ()
        use generator = new torch.Generator(uint64 seed)

        let write (name: string) (destination: Tensor) =
            let struct (mean: float, deviation) = law name destination.shape
            let noise = torch.randn (destination.shape, generator = generator)
            destination.copy_ (Scalars.timesInPlace deviation noise) |> ignore

            if mean <> 0.0 then
                Scalars.addNumberInPlace mean destination |> ignore

        let weights = assemble config dtype device (fill dtype device write >> Weight.ofTensor)
        Scope.own (tensors weights)
        withKernels weights

    /// Seeded random weights. Each residual block's output shrinks with depth (as `spread` to the layer), so that early
    /// exits agree with the last layer more often than untrained ones would.
    let random (seed: int64) (spread: float) dtype device (config: LlamaConfig) : Weights =
        drawn seed dtype device config (InitialLaw.random spread)

    /// Seeded weights to train from: matrices of deviation sqrt(2 / 5h) ("small init", arXiv 1910.05895), those that end a
    /// residual branch less by sqrt(2L) (GPT-2), embedding and head 0.02, norms 1, biases 0.
    let initial (seed: int64) dtype device (config: LlamaConfig) : Weights =
        drawn seed dtype device config (InitialLaw.toTrain config)

    /// Whether some matrix stays in its file's blocks.
    let isQuantised (weights: Weights) : bool = each weights |> List.exists Weight.isQuantised

    /// The name of how quantised matrices are multiplied: "auto", "float"; None where there are none.
    let compute (weights: Weights) : string option =
        if isQuantised weights then
            Some(Compute.name weights.Compute)
        else
            None

    /// Bytes of the weights in memory, those of mapped files included.
    let bytes (weights: Weights) : int64 = each weights |> List.sumBy Weight.bytes

    /// As reports name what the matrices are held in: of blocks the format that most bytes have ("q4_k"), else the dtype.
    let dtypeName (weights: Weights) : string =
        let rows = [
            for weight in each weights do
                if (Weight.shape weight).Length > 1 then
                    yield! weight.Rows
        ]

        let mostOf (names: (string * int64) list) =
            names |> List.groupBy fst |> List.maxBy (snd >> List.sumBy snd) |> fst

        let blocks =
            rows
            |> List.choose (function
                | WeightRows.Blocks blocks ->
                    Some(blocks.Format.Name.ToLowerInvariant(), blocks.Memory.Length)
                | WeightRows.Dense _ -> None)

        let dense =
            rows
            |> List.choose (function
                | WeightRows.Blocks _ -> None
                | WeightRows.Dense tensor ->
                    ScalarType.tryDtype tensor.dtype
                    |> Option.map (fun dtype -> Dtype.name dtype, tensor.numel () * tensor.ElementSize))

        if blocks.IsEmpty then mostOf dense else mostOf blocks

    /// The name that a GGUF file of blocks has for itself ("q4_k_m"), else `dtypeName`.
    let fileName (weights: Weights) : string =
        let isPlain name = Dtype.all |> List.exists (fun dtype -> Dtype.torchName dtype = name)

        match weights.Config.StoredDtype with
        | Some own when isQuantised weights && not (isPlain own) -> own.ToLowerInvariant()
        | _ -> dtypeName weights

    /// Both for people: "q4_k_m, mostly q5_0".
    let description (weights: Weights) : string =
        match fileName weights, dtypeName weights with
        | own, most when own = most -> most
        | own, most -> $"{own}, mostly {most}"
