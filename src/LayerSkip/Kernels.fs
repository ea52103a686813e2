namespace LayerSkip

open System
open System.Collections.Concurrent
open System.Runtime.InteropServices
open LayerSkip.Kernels
open Microsoft.FSharp.NativeInterop
open TorchSharp

#nowarn "9" "51" // addresses of tensors, which outlive the kernels that read them

/// The weights of a model as the CPU kernels see them: addresses, valid until the weights are disposed.
[<Sealed>]
type KernelWeights internal (form: KernelForm, shape: DecoderShape, memory: DecoderMemory) =
    // Passes hold scratch memory; each sequence takes one for itself and gives it back.
    let idle = ConcurrentBag<DecoderPass>()
    let mutable disposed = false

    member internal _.Shape = shape

    member internal _.Rent() : DecoderPass =
        if disposed then
            raise (ObjectDisposedException "Weights")

        match idle.TryTake() with
        | true, pass -> pass
        | _ -> DecoderPass.Create(form, shape, memory)

    member internal _.Return(pass: DecoderPass) : unit = if disposed then pass.Dispose() else idle.Add pass

    interface IDisposable with
        member _.Dispose() =
            disposed <- true

            for pass in idle do
                pass.Dispose()

[<RequireQualifiedAccess>]
module internal TensorMemory =
    /// Where a CPU tensor's values begin.
    let address (tensor: Tensor) : nativeint =
        NativePtr.toNativeInt (&&MemoryMarshal.GetReference(tensor.bytes))

    let addressOrZero (tensor: Tensor option) : nativeint =
        tensor |> Option.map address |> Option.defaultValue 0n

/// Logits of some rows: a tensor [1; rows; vocabulary], or the place where the kernels left as many float32 numbers,
/// which their next pass overwrites.
[<RequireQualifiedAccess; NoEquality; NoComparison>]
type internal Logits =
    | Tensor of Tensor
    | InMemory of first: nativeint * rows: int * vocabulary: int

[<RequireQualifiedAccess>]
module internal Logits =
    let private row (first: nativeint) vocabulary index : ReadOnlySpan<float32> =
        let values = NativePtr.add (NativePtr.ofNativeInt<float32> first) (index * vocabulary)
        ReadOnlySpan<float32>(NativePtr.toVoidPtr values, vocabulary)

    /// The largest logit's id in each row; of equal ones the lowest.
    let argmax (logits: Logits) : int[] =
        let inMemory first rows vocabulary =
            Array.init rows (fun index -> Search.IndexOfMax(row first vocabulary index))

        match logits with
        | Logits.InMemory(first, rows, vocabulary) -> inMemory first rows vocabulary
        | Logits.Tensor tensor when
            tensor.dtype = torch.ScalarType.Float32 && tensor.device_type = DeviceType.CPU
            ->
            inMemory (TensorMemory.address tensor) (int tensor.shape[1]) (int tensor.shape[2])
        | Logits.Tensor tensor -> Tensors.toIds (tensor.argmax -1L)

    /// The values of each row.
    let toFloats (logits: Logits) : float[][] =
        match logits with
        | Logits.InMemory(first, rows, vocabulary) ->
            Array.init rows (fun index -> (row first vocabulary index).ToArray() |> Array.map float)
        | Logits.Tensor tensor -> Tensors.toFloats tensor |> Array.chunkBySize (int tensor.shape[2])

/// The keys, values and hidden states of one sequence as the CPU kernels see them: the fast form of
/// `Model.runLayers` over a preallocated cache, in place.
[<Sealed>]
type internal KernelSequence(weights: KernelWeights, sequence: SequenceMemory, hidden: nativeint) =
    let pass = weights.Rent()
    let width = weights.Shape.Hidden
    let rowAt position = hidden + nativeint position * nativeint (width * sizeof<float32>)

    /// Puts the embeddings of ids where the hidden states of positions from `position` lie.
    member _.Embed(ids: int[], position: int) : unit = pass.Embed(ids, rowAt position)

    /// Runs layers over the hidden states of positions `start` to `start` + `rows` - 1, in place.
    member _.Run(first: int, count: int, rows: int, start: int) : unit =
        if rows > 0 then
            pass.Run(sequence, first, count, rowAt start, rows, start)

    /// Final norm and head of the hidden states of as many positions from `position`.
    member _.Head(position: int, rows: int) : Logits =
        Logits.InMemory(pass.Head(rowAt position, rows), rows, weights.Shape.Vocabulary)

    interface IDisposable with
        member _.Dispose() = weights.Return pass

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
            raise (
                LayerSkipException [
                    LayerSkipError.OutOfRange("threads", string threads, "fewer: the system gives no more")
                ]
            )

        Backend.setThreads threads

    /// Final norm and head: hidden states [..; hidden], contiguous, -> logits [..; vocabulary].
    let internal head (weights: KernelWeights) (hidden: Tensor) : Tensor =
        let size = hidden.shape
        let rows = int (hidden.numel () / size[size.Length - 1])
        size[size.Length - 1] <- int64 weights.Shape.Vocabulary
        let logits = torch.empty (size, dtype = torch.ScalarType.Float32, device = torch.CPU)
        let pass = weights.Rent()
        pass.Head(TensorMemory.address hidden, rows, TensorMemory.address logits)
        weights.Return pass
        logits

    /// The largest logit's id in each row of [1; rows; vocabulary]; of equal ones the lowest.
    let argmax (logits: Tensor) : int[] = Logits.argmax (Logits.Tensor logits)
