namespace LayerSkip

open System
open System.Collections.Generic
open LayerSkip.Kernels
open TorchSharp

/// The weights of a model as the CPU kernels see them: addresses in tensors of its own over the same memory, and in files, which last
/// until it is disposed and the last sequence has ended. `own` belongs to it.
[<Sealed>]
type KernelWeights
    internal
    (form: KernelForm, compute: ComputeForm, shape: DecoderShape, memory: DecoderMemory, own: IDisposable list)
    =
    let gate = obj ()
    // Passes hold scratch memory; each sequence takes one for itself and gives it back.
    let idle = Stack<DecoderPass>()
    let mutable rented = 0
    let mutable disposed = false

    let freeIfUnused () =
        if disposed && rented = 0 then
            for part in own do
                part.Dispose()

    member internal _.Shape = shape

    member internal _.Rent() : DecoderPass =
        lock gate (fun () ->
            ObjectDisposedException.ThrowIf(disposed, typeof<KernelWeights>)

            let pass =
                match idle.TryPop() with
                | true, pass -> pass
                | _ -> DecoderPass.Create(form, shape, memory, compute)

            rented <- rented + 1
            pass)

    member internal _.Return(pass: DecoderPass) : unit =
        lock gate (fun () ->
            rented <- rented - 1

            if disposed then
                pass.Dispose()
            else
                pass.Release()
                idle.Push pass

            freeIfUnused ())

    interface IDisposable with
        member _.Dispose() =
            lock gate (fun () ->
                if not disposed then
                    disposed <- true

                    for pass in idle do
                        pass.Dispose()

                    freeIfUnused ())

/// The fast forms of what `Ops` and `Model` define, for quantised, 16- and 32-bit weights on a CPU.
[<RequireQualifiedAccess>]
module CpuKernels =
    /// The format that the kernels read a tensor as; None: they do not.
    let private format (tensor: Tensor) : WeightFormat option =
        match tensor.dtype with
        | torch.ScalarType.Float32 -> Some WeightFormat.Float32
        | torch.ScalarType.Float16 -> Some WeightFormat.Float16
        | torch.ScalarType.BFloat16 -> Some WeightFormat.BFloat16
        | _ -> None

    let private decoder (format: BlockFormat) =
        BlockDecoder(fun blocks values count -> BlockFormat.decodeAt blocks values count format)

    /// Where a matrix lies; of rows of a format that the kernels do not read, nothing.
    let private matrices (weight: Weight) : MatrixMemory list = [
        for rows in weight.Rows do
            match rows with
            | WeightRows.Dense tensor ->
                match format tensor with
                | Some format -> MatrixMemory(format, Tensors.address tensor, int tensor.shape[0])
                | None -> ()
            | WeightRows.Blocks blocks ->
                MatrixMemory(
                    Enum.Parse<WeightFormat> blocks.Format.Name,
                    blocks.Memory.Address,
                    int blocks.Shape[0],
                    Decode = decoder blocks.Format,
                    PairsRows = blocks.PairedRows.IsSome
                )
    ]

    let private isRead (parts: DecoderParts<Weight>) =
        DecoderParts.toList parts
        |> Seq.collect Weight.tensors
        |> Seq.forall (fun tensor -> (format tensor).IsSome)

    let internal shape (config: LlamaConfig) : DecoderShape =
        DecoderShape(
            config.Hidden,
            config.Intermediate,
            config.Heads,
            config.KvHeads,
            config.HeadDim,
            config.Vocabulary,
            float32 config.NormEps,
            Windows = (config.Windows |> Array.map (Option.defaultValue 0))
        )

    let private layerMemory (layer: LayerParts<Weight>) : LayerMemory =
        let at (vector: Weight) = Tensors.address vector.Tensor
        let orZero = Option.map at >> Option.defaultValue 0n

        LayerMemory(
            AttentionNorm = at layer.AttentionNorm,
            Qkv = Array.ofList (matrices layer.Qkv),
            QkvBias = orZero layer.QkvBias,
            QNorm = orZero layer.QNorm,
            KNorm = orZero layer.KNorm,
            Output = (matrices layer.Output).Head,
            OutputBias = orZero layer.OutputBias,
            MlpNorm = at layer.MlpNorm,
            GateUp = Array.ofList (matrices layer.GateUp),
            GateUpBias = orZero layer.GateUpBias,
            Down = (matrices layer.Down).Head,
            DownBias = orZero layer.DownBias
        )

    /// The kernels over a model's memory, which then lasts as long as they; None where they serve not the device or a dtype.
    let internal tryOver form compute device config (parts: DecoderParts<Weight>) : KernelWeights option =
        if device <> Device.Cpu || not (isRead parts) then
            None
        else
            let matrix weight = (matrices weight).Head

            let memory =
                DecoderMemory(
                    matrix parts.Embedding,
                    Tensors.address parts.Norm.Tensor,
                    matrix (defaultArg parts.Head parts.Embedding),
                    Array.map layerMemory parts.Layers
                )

            let weights = DecoderParts.toList parts
            let tensors = weights |> List.collect Weight.tensors |> List.map _.detach()
            Scope.own tensors

            let own: IDisposable list = [
                for tensor in tensors -> tensor
                for file in List.collect Weight.files weights -> file.Share()
            ]

            Some(new KernelWeights(form, compute, shape config, memory, own))

    /// The vectors that the processor at hand is given: "AVX2 (256 bits)".
    let form () : string =
        match KernelForms.Best with
        | KernelForm.Avx512 -> "AVX-512 (512 bits)"
        | KernelForm.Avx2 -> "AVX2 (256 bits)"
        | _ -> "portable (128 bits)"

    /// Threads that the kernels run on.
    let threads () : int = Workers.Shared.Threads

    /// Threads of the kernels, and of libtorch's own products, 1 to `Backend.mostThreads`; a LayerSkipException else.
    let setThreads (threads: int) : unit =
        Backend.checkThreads threads

        try
            Workers.Use threads
        with :? OutOfMemoryException ->
            Check.outOfRange "threads" (string threads) "fewer: the system gives no more"
            |> Check.getOrRaise

        Backend.setThreads threads

    /// Whether `head` reads a tensor: what it takes for float32 must be that, and rows must have the model's width.
    let internal readsHidden (weights: KernelWeights) (hidden: Tensor) : bool =
        hidden.dtype = torch.ScalarType.Float32
        && hidden.device_type = DeviceType.CPU
        && not hidden.requires_grad
        && hidden.dim () > 0L
        && hidden.shape[int (hidden.dim ()) - 1] = int64 weights.Shape.Hidden
        && hidden.is_contiguous ()

    /// Final norm and head: hidden states [..; hidden], which it `readsHidden`, -> logits [..; vocabulary].
    let internal head (weights: KernelWeights) (hidden: Tensor) : Tensor =
        let size = hidden.shape
        let rows = Checked.int (hidden.numel () / int64 weights.Shape.Hidden)
        size[size.Length - 1] <- int64 weights.Shape.Vocabulary
        let logits = torch.empty (size, dtype = torch.ScalarType.Float32, device = torch.CPU)
        let pass = weights.Rent()

        try
            pass.Head(Tensors.address hidden, rows, Tensors.address logits)
        finally
            weights.Return pass

        GC.KeepAlive hidden
        logits
