namespace LayerSkip

open System
open System.Collections.Generic
open LayerSkip.Kernels
open TorchSharp

/// The weights of a model as the CPU kernels see them: addresses in tensors of its own over the same memory, which last
/// until it is disposed and the last sequence has ended. `own` belongs to it.
[<Sealed>]
type KernelWeights internal (form: KernelForm, shape: DecoderShape, memory: DecoderMemory, own: Tensor[]) =
    let gate = obj ()
    // Passes hold scratch memory; each sequence takes one for itself and gives it back.
    let idle = Stack<DecoderPass>()
    let mutable rented = 0
    let mutable disposed = false

    let freeIfUnused () =
        if disposed && rented = 0 then
            Scope.release own

    member internal _.Shape = shape

    member internal _.Rent() : DecoderPass =
        lock gate (fun () ->
            ObjectDisposedException.ThrowIf(disposed, typeof<KernelWeights>)

            let pass =
                match idle.TryPop() with
                | true, pass -> pass
                | _ -> DecoderPass.Create(form, shape, memory)

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

/// The fast forms of what `Ops` and `Model` define, for 16- and 32-bit weights on a CPU.
[<RequireQualifiedAccess>]
module CpuKernels =
    /// The format that the kernels read a dtype as; None: they do not.
    let internal format (device: Device) (dtype: Dtype) : WeightFormat option =
        match device, dtype with
        | Device.Cpu, Dtype.F32 -> Some WeightFormat.Float32
        | Device.Cpu, Dtype.F16 -> Some WeightFormat.Float16
        | Device.Cpu, Dtype.BF16 -> Some WeightFormat.BFloat16
        | Device.Cpu, Dtype.F64
        | Device.Cuda, _ -> None

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

    let private layerMemory (layer: LayerParts<nativeint>) : LayerMemory =
        let orZero = Option.defaultValue 0n

        LayerMemory(
            AttentionNorm = layer.AttentionNorm,
            Qkv = layer.Qkv,
            QkvBias = orZero layer.QkvBias,
            QNorm = orZero layer.QNorm,
            KNorm = orZero layer.KNorm,
            Output = layer.Output,
            OutputBias = orZero layer.OutputBias,
            MlpNorm = layer.MlpNorm,
            GateUp = layer.GateUp,
            GateUpBias = orZero layer.GateUpBias,
            Down = layer.Down,
            DownBias = orZero layer.DownBias
        )

    /// The kernels over a model's tensors, whose memory then lasts as long as they; None where they serve not device or dtype.
    let internal tryOver form device dtype config (parts: DecoderParts<Tensor>) : KernelWeights option =
        let over format =
            let at = DecoderParts.map Tensors.address parts

            let memory =
                DecoderMemory(
                    format,
                    at.Embedding,
                    at.Norm,
                    defaultArg at.Head at.Embedding,
                    Array.map layerMemory at.Layers
                )

            let own = DecoderParts.toList parts |> List.map _.detach()
            Scope.own own
            new KernelWeights(form, shape config, memory, Array.ofList own)

        format device dtype |> Option.map over

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
