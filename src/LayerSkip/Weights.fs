namespace LayerSkip

open System
open LayerSkip.Kernels
open TorchSharp

/// The weights of one decoder layer. Products that read the same input are joined: q, k, v and gate, up.
[<NoEquality; NoComparison>]
type LayerWeights = {
    /// [hidden]
    AttentionNorm: Tensor
    /// [(heads + 2 kvHeads) * headDim; hidden]: q, then k, then v.
    Qkv: Tensor
    QkvBias: Tensor option
    /// [headDim] each, where the family norms q and k (Qwen3).
    QNorm: Tensor option
    KNorm: Tensor option
    /// [hidden; heads * headDim]
    Output: Tensor
    OutputBias: Tensor option
    /// [hidden]
    MlpNorm: Tensor
    /// [2 intermediate; hidden]: gate, then up.
    GateUp: Tensor
    GateUpBias: Tensor option
    /// [hidden; intermediate]
    Down: Tensor
    DownBias: Tensor option
}

/// A whole model's weights in memory, on one device. `Dtype` is that of the matrices; norms and biases have the
/// dtype of the activations.
[<NoEquality; NoComparison>]
type Weights = {
    Config: LlamaConfig
    Dtype: Dtype
    Device: Device
    /// [vocabulary; hidden]
    Embedding: Tensor
    Layers: LayerWeights[]
    /// [hidden]
    Norm: Tensor
    /// [vocabulary; hidden]: the embedding itself where they are tied.
    Head: Tensor
    /// Made when a sequence first needs them.
    Rope: RopeTables
    /// The same memory for the CPU kernels, where they serve the dtype; None: everything goes through libtorch.
    Kernels: KernelWeights option
} with

    interface IDisposable with
        member this.Dispose() =
            this.Kernels |> Option.iter (fun kernels -> (kernels :> IDisposable).Dispose())
            (this.Rope :> IDisposable).Dispose()

            for tensor in Weights.TensorsOf this do
                tensor.Dispose()

    static member TensorsOf(weights: Weights) : seq<Tensor> =
        seq {
            weights.Embedding
            weights.Norm
            // Disposing a tensor twice is harmless; a tied head is the embedding.
            weights.Head

            for layer in weights.Layers do
                yield! [
                    layer.AttentionNorm
                    layer.Qkv
                    layer.Output
                    layer.MlpNorm
                    layer.GateUp
                    layer.Down
                ]

                yield!
                    [
                        layer.QkvBias
                        layer.QNorm
                        layer.KNorm
                        layer.OutputBias
                        layer.GateUpBias
                        layer.DownBias
                    ]
                    |> List.choose id
        }

[<RequireQualifiedAccess>]
module Weights =
    /// One of a checkpoint's tensors: its Hugging Face name and shape.
    type private Part = string * int64 list

    /// The parts that make one tensor in memory, stacked by rows.
    let private layout (config: LlamaConfig) =
        let h, i, v = int64 config.Hidden, int64 config.Intermediate, int64 config.Vocabulary
        let dim = int64 config.HeadDim
        let q, kv = int64 config.Heads * dim, int64 config.KvHeads * dim

        let layer index =
            let name part = $"model.layers.{index}.{part}"
            let given condition parts : Part list = if condition then parts else []
            let attention part = name $"self_attn.{part}"
            let mlp part = name $"mlp.{part}"

            {|
                AttentionNorm = [ name "input_layernorm.weight", [ h ] ]
                Qkv = [
                    attention "q_proj.weight", [ q; h ]
                    attention "k_proj.weight", [ kv; h ]
                    attention "v_proj.weight", [ kv; h ]
                ]
                QkvBias =
                    given config.QkvBias [
                        attention "q_proj.bias", [ q ]
                        attention "k_proj.bias", [ kv ]
                        attention "v_proj.bias", [ kv ]
                    ]
                QNorm = given config.QkNorm [ attention "q_norm.weight", [ dim ] ]
                KNorm = given config.QkNorm [ attention "k_norm.weight", [ dim ] ]
                Output = [ attention "o_proj.weight", [ h; q ] ]
                OutputBias = given config.OutputBias [ attention "o_proj.bias", [ h ] ]
                MlpNorm = [ name "post_attention_layernorm.weight", [ h ] ]
                GateUp = [ mlp "gate_proj.weight", [ i; h ]; mlp "up_proj.weight", [ i; h ] ]
                GateUpBias = given config.MlpBias [ mlp "gate_proj.bias", [ i ]; mlp "up_proj.bias", [ i ] ]
                Down = [ mlp "down_proj.weight", [ h; i ] ]
                DownBias = given config.MlpBias [ mlp "down_proj.bias", [ h ] ]
            |}

        {|
            Embedding = [ "model.embed_tokens.weight", [ v; h ] ]
            Norm = [ "model.norm.weight", [ h ] ]
            Head =
                (if config.TiedHead then
                     []
                 else
                     [ "lm_head.weight", [ v; h ] ])
            Layers = Array.init config.Layers layer
        |}

    let private layerMemory (layer: LayerWeights) : LayerMemory =
        let at = Tensors.address
        let orZero = Option.map at >> Option.defaultValue 0n

        LayerMemory(
            AttentionNorm = at layer.AttentionNorm,
            Qkv = at layer.Qkv,
            QkvBias = orZero layer.QkvBias,
            QNorm = orZero layer.QNorm,
            KNorm = orZero layer.KNorm,
            Output = at layer.Output,
            OutputBias = orZero layer.OutputBias,
            MlpNorm = at layer.MlpNorm,
            GateUp = at layer.GateUp,
            GateUpBias = orZero layer.GateUpBias,
            Down = at layer.Down,
            DownBias = orZero layer.DownBias
        )

    let internal withKernelForm (form: KernelForm) (weights: Weights) : Weights =
        let memory format =
            DecoderMemory(
                format,
                Tensors.address weights.Embedding,
                Tensors.address weights.Norm,
                Tensors.address weights.Head,
                Array.map layerMemory weights.Layers
            )

        // Their memory lasts as long as these, whatever becomes of the weights.
        let own () = [|
            for tensor in Weights.TensorsOf weights |> Seq.distinctBy _.Handle ->
                tensor.detach().DetachFromDisposeScope()
        |]

        {
            weights with
                Kernels =
                    CpuKernels.format weights.Device weights.Dtype
                    |> Option.map (fun format ->
                        new KernelWeights(form, CpuKernels.shape weights.Config, memory format, own ()))
        }

    /// The same weights for the CPU kernels, where they serve the device and dtype.
    let withKernels (weights: Weights) : Weights = withKernelForm KernelForms.Best weights

    /// The same weights through libtorch alone, as `Ops` defines it.
    let withoutKernels (weights: Weights) : Weights = { weights with Kernels = None }

    /// The same model over other tensors of the same shapes; a tied head stays tied. For libtorch alone.
    let mapTensors (change: Tensor -> Tensor) (weights: Weights) : Weights =
        let embedding = change weights.Embedding
        let isTied = weights.Head.Handle = weights.Embedding.Handle

        let changeLayer (layer: LayerWeights) = {
            AttentionNorm = change layer.AttentionNorm
            Qkv = change layer.Qkv
            QkvBias = Option.map change layer.QkvBias
            QNorm = Option.map change layer.QNorm
            KNorm = Option.map change layer.KNorm
            Output = change layer.Output
            OutputBias = Option.map change layer.OutputBias
            MlpNorm = change layer.MlpNorm
            GateUp = change layer.GateUp
            GateUpBias = Option.map change layer.GateUpBias
            Down = change layer.Down
            DownBias = Option.map change layer.DownBias
        }

        {
            weights with
                Embedding = embedding
                Norm = change weights.Norm
                Head = if isTied then embedding else change weights.Head
                Layers = Array.map changeLayer weights.Layers
                Rope = new RopeTables()
                Kernels = None
        }

    /// Each of them once.
    let distinctTensors (weights: Weights) : Tensor[] =
        Weights.TensorsOf weights |> Seq.distinctBy _.Handle |> Array.ofSeq

    /// Builds every tensor of a model from its parts: `make` gets the parts of one tensor, in row order.
    let private assemble config dtype device (make: Part list -> Tensor) : Weights =
        let layout = layout config

        let tryMake parts = if List.isEmpty parts then None else Some(make parts)

        let embedding = make layout.Embedding

        {
            Config = config
            Dtype = dtype
            Device = device
            Embedding = embedding
            Norm = make layout.Norm
            Head = tryMake layout.Head |> Option.defaultValue embedding
            Layers =
                layout.Layers
                |> Array.map (fun layer -> {
                    AttentionNorm = make layer.AttentionNorm
                    Qkv = make layer.Qkv
                    QkvBias = tryMake layer.QkvBias
                    QNorm = tryMake layer.QNorm
                    KNorm = tryMake layer.KNorm
                    Output = make layer.Output
                    OutputBias = tryMake layer.OutputBias
                    MlpNorm = make layer.MlpNorm
                    GateUp = make layer.GateUp
                    GateUpBias = tryMake layer.GateUpBias
                    Down = make layer.Down
                    DownBias = tryMake layer.DownBias
                })
            Rope = new RopeTables()
            Kernels = None
        }

    /// The parts of every tensor in memory, in the order of `Weights.TensorsOf` where they stand in `layout`.
    let private partsOf config =
        let layout = layout config

        [
            layout.Embedding
            layout.Norm
            layout.Head
            for layer in layout.Layers do
                yield! [
                    layer.AttentionNorm
                    layer.Qkv
                    layer.Output
                    layer.MlpNorm
                    layer.GateUp
                    layer.Down
                    layer.QkvBias
                    layer.QNorm
                    layer.KNorm
                    layer.OutputBias
                    layer.GateUpBias
                    layer.DownBias
                ]
        ]
        |> List.filter (List.isEmpty >> not)

    /// The tensors that a checkpoint of this configuration holds: Hugging Face names and shapes.
    let expected (config: LlamaConfig) : (string * int64 list) list = List.concat (partsOf config)

    /// Every weight under its Hugging Face name, as views of the joined tensors; a tied head has no name.
    let named (weights: Weights) : (string * Tensor) list =
        let tensors = Weights.TensorsOf weights |> Seq.distinctBy (fun tensor -> tensor.Handle) |> List.ofSeq

        List.zip (partsOf weights.Config) tensors
        |> List.collect (fun (parts, whole) ->
            let starts = parts |> List.scan (fun start (_, shape) -> start + shape.Head) 0L

            List.zip parts (List.take parts.Length starts)
            |> List.map (fun ((name, shape), start) -> name, whole.narrow (0L, start, shape.Head)))

    let parameters (config: LlamaConfig) : int64 =
        expected config |> List.sumBy (fun (_, shape) -> List.fold (*) 1L shape)

    /// The tensors that checkpoints carry and no forward pass needs.
    let private ignored (config: LlamaConfig) (name: string) =
        name.EndsWith "rotary_emb.inv_freq"
        || name = "rope_freqs.weight"
        || (config.TiedHead && name = "lm_head.weight")

    /// Missing, unknown and mis-shaped tensors, all of them.
    let private faults config (stored: Map<string, StoredTensor>) =
        let expected = Map.ofList (expected config)

        [
            for KeyValue(name, shape) in expected do
                match Map.tryFind name stored with
                | None -> LayerSkipError.MissingTensor name
                | Some tensor when List.ofArray tensor.Shape <> shape ->
                    LayerSkipError.WrongShape(name, shape, List.ofArray tensor.Shape)
                | Some _ -> ()

            for KeyValue(name, _) in stored do
                if not (expected.ContainsKey name || ignored config name) then
                    LayerSkipError.UnknownTensor name
        ]

    let private torchDevice device =
        match device with
        | Device.Cpu -> torch.CPU
        | Device.Cuda -> torch.CUDA

    /// Norms and biases are vectors: beside the matrices they weigh nothing, so they keep the activations' precision.
    let private allocate dtype device (parts: Part list) =
        let rows = parts |> List.sumBy (fun (_, shape) -> shape.Head)
        let size = Array.ofList (rows :: (snd parts.Head).Tail)

        let kind =
            if size.Length > 1 then
                Dtype.scalarType dtype
            else
                Dtype.activations device dtype

        torch.empty (size, Nullable kind, torchDevice device)

    /// Fills each part's rows of a new tensor.
    let private fill dtype device (write: string -> Tensor -> unit) (parts: Part list) =
        let whole = allocate dtype device parts
        use _scope = torch.NewDisposeScope()
        let mutable start = 0L

        for name, shape in parts do
            write name (whole.narrow (0L, start, shape.Head))
            start <- start + shape.Head

        whole

    let private memoryFaults dtype device config =
        match device with
        | Device.Cpu ->
            Memory.faults
                (fun () -> $"the weights in {Dtype.name dtype}")
                (int64 (Dtype.bytes dtype) * parameters config)
        | Device.Cuda -> []

    /// Makes a model's weights from stored tensors, converted to `dtype`; every fault at once.
    /// One stored tensor at a time is in memory beside the result.
    let load dtype device config (stored: StoredTensor list) : Result<Weights, LayerSkipError list> =
        let byName = stored |> List.map (fun tensor -> tensor.Name, tensor) |> Map.ofList

        let fillAll () =
            use _noGrad = torch.no_grad ()
            use _scope = torch.NewDisposeScope()
            let unfit = ResizeArray()

            let read name (destination: Tensor) =
                let stored = byName[name]

                if device = Device.Cpu && destination.dtype = Dtype.scalarType stored.Dtype then
                    stored.Fill destination

                    if not (Tensors.isFinite destination) then
                        unfit.Add(LayerSkipError.NotFinite name)
                else
                    use source = stored.Read()
                    destination.copy_ source |> ignore

                    if not (Tensors.isFinite destination) then
                        unfit.Add(
                            if Tensors.isFinite source then
                                Dtype.beyond name destination.dtype
                            else
                                LayerSkipError.NotFinite name
                        )

            let weights = assemble config dtype device (fill dtype device read)

            match List.ofSeq unfit with
            | [] ->
                Scope.own (Weights.TensorsOf weights)
                Ok(withKernels weights)
            | errors -> Error errors

        match faults config byName @ memoryFaults dtype device config with
        | [] -> SourceFile.guard fillAll
        | errors -> Error errors

    /// What a named tensor is drawn from: its mean, and its deviation.
    let private drawn
        (seed: int64)
        dtype
        device
        config
        (law: string -> int64[] -> struct (float * float))
        : Weights =
        Backend.ensure ()
        Check.all (memoryFaults dtype device config) () |> Check.getOrRaise
        use _noGrad = torch.no_grad ()
        use _scope = torch.NewDisposeScope()
        use generator = new torch.Generator(uint64 seed)

        let write (name: string) (destination: Tensor) =
            let struct (mean, deviation) = law name destination.shape
            let noise = torch.randn (destination.shape, generator = generator)
            destination.copy_ (Scalars.timesInPlace deviation noise) |> ignore

            if mean <> 0.0 then
                Scalars.addNumberInPlace mean destination |> ignore

        let weights = assemble config dtype device (fill dtype device write)
        Scope.own (Weights.TensorsOf weights)
        withKernels weights

    let private isNorm (name: string) = name.EndsWith "norm.weight"
    let private isBias (name: string) = name.EndsWith ".bias"

    let private isResidualOutput (name: string) =
        name.EndsWith "o_proj.weight" || name.EndsWith "down_proj.weight"

    /// Seeded random weights. Each residual block's output shrinks with depth (2^-layer of `spread`), so
    /// that early exits agree with the last layer more often than untrained ones would.
    let random (seed: int64) (spread: float) dtype device (config: LlamaConfig) : Weights =
        drawn seed dtype device config (fun name shape ->
            if isNorm name then
                struct (1.0, 0.1)
            elif isBias name then
                struct (0.0, 0.1)
            elif isResidualOutput name then
                let layer = int (name.Split('.')[2])
                struct (0.0, spread ** float layer / sqrt (float shape[1]))
            elif name = "model.embed_tokens.weight" then
                struct (0.0, 1.0)
            else
                struct (0.0, 1.0 / sqrt (float shape[1])))

    /// Seeded weights to train from: matrices of deviation sqrt(2 / 5h) ("small init", arXiv 1910.05895), those that end a
    /// residual branch less by sqrt(2L) (GPT-2), embedding and head 0.02, norms 1, biases 0.
    let initial (seed: int64) dtype device (config: LlamaConfig) : Weights =
        let small = sqrt (0.4 / float config.Hidden)

        drawn seed dtype device config (fun name _ ->
            if isNorm name then
                struct (1.0, 0.0)
            elif isBias name then
                struct (0.0, 0.0)
            elif isResidualOutput name then
                struct (0.0, small / sqrt (2.0 * float config.Layers))
            elif name = "model.embed_tokens.weight" || name = "lm_head.weight" then
                struct (0.0, 0.02)
            else
                struct (0.0, small))

    /// Bytes of the weights in memory.
    let bytes (weights: Weights) : int64 =
        Weights.TensorsOf weights
        |> Seq.distinctBy _.Handle
        |> Seq.sumBy (fun tensor -> tensor.numel () * tensor.ElementSize)
