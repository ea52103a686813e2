namespace LayerSkip

open System
open System.Collections.Concurrent
open System.Runtime.InteropServices
open Microsoft.FSharp.NativeInterop
open TorchSharp

#nowarn "9" "51" // Addresses of tensors, which outlive whoever reads them there.

type Tensor = torch.Tensor

/// libtorch's dtypes, by ours.
[<RequireQualifiedAccess>]
module ScalarType =
    /// The same width and format: no dtype is widened here.
    let ofDtype (dtype: Dtype) : torch.ScalarType =
        match dtype with
        | Dtype.F64 -> torch.ScalarType.Float64
        | Dtype.F32 -> torch.ScalarType.Float32
        | Dtype.F16 -> torch.ScalarType.Float16
        | Dtype.BF16 -> torch.ScalarType.BFloat16

    /// None for whole numbers and others that no weight has.
    let tryDtype (kind: torch.ScalarType) : Dtype option =
        [ Dtype.F64; Dtype.F32; Dtype.F16; Dtype.BF16 ]
        |> List.tryFind (fun dtype -> ofDtype dtype = kind)

    /// Of activations and KV cache: on a CPU float32 (float64 with f64), on CUDA that of the weights.
    let activations (device: Device) (dtype: Dtype) : torch.ScalarType =
        match device, dtype with
        | Device.Cpu, (Dtype.F16 | Dtype.BF16) -> torch.ScalarType.Float32
        | _ -> ofDtype dtype

    /// A tensor's values are beyond `kept`, the dtype that it is kept in: a fault that names dtypes which reach further.
    let internal beyond (name: string) (kept: torch.ScalarType) : LayerSkipError =
        match kept with
        | torch.ScalarType.Float16 -> LayerSkipError.BeyondDtype(name, "f16", "bf16 or f32")
        | torch.ScalarType.BFloat16 -> LayerSkipError.BeyondDtype(name, "bf16", "f32 or f64")
        | _ -> LayerSkipError.BeyondDtype(name, "f32", "f64")

/// Who frees native tensors: the scope that they are made in, where nobody lifts them out.
[<RequireQualifiedAccess>]
module Scope =
    /// `use _scope = Scope.start ()`: until its end, frees every tensor that was made in it.
    let start () : IDisposable = torch.NewDisposeScope()

    /// `use _noGrad = Scope.noGrad ()`: until its end, on this thread, nothing is remembered for gradients.
    let noGrad () : IDisposable = torch.no_grad ()

    /// `use _inference = Scope.inference ()`: `noGrad` and `start` at once.
    let inference () : IDisposable =
        let noGrad, scope = noGrad (), start ()

        {
            new IDisposable with
                member _.Dispose() =
                    scope.Dispose()
                    noGrad.Dispose()
        }

    /// Runs `body` in its own scope and lifts out the tensors of its result, and no others.
    let keep (tensorsOf: 'T -> seq<Tensor>) (body: unit -> 'T) : 'T =
        use scope = torch.NewDisposeScope()
        let result = body ()
        tensorsOf result |> Seq.cast<IDisposable> |> scope.MoveToOuter
        result

    /// `keep` of one tensor.
    let one (body: unit -> Tensor) : Tensor = keep Seq.singleton body

    /// Runs `body` in its own scope, which frees all it made: for results that hold no tensor.
    let free (body: unit -> 'T) : 'T =
        use _scope = start ()
        body ()

    /// Takes tensors out of every scope: whoever holds them disposes them.
    let own (tensors: seq<Tensor>) : unit =
        for tensor in tensors do
            tensor.DetachFromDisposeScope() |> ignore

    /// Frees tensors now, whichever scope they are in, if any.
    let release (tensors: seq<Tensor>) : unit =
        for tensor in tensors do
            tensor.Dispose()

/// Numbers for libtorch, kept for the life of the process: meant for constants.
///
/// TorchSharp lets go of a Scalar once it has read its address, and `+`, `square`, `vector_norm` and others make
/// one of their own. A collection on another thread may then free it while libtorch reads it. This library calls
/// no such function; a test reads its code for them.
[<RequireQualifiedAccess>]
module Scalars =
    let private kept = ConcurrentDictionary<float, Scalar>()

    // An integer serves tensors of every dtype.
    let private one =
        lazy
            (Backend.ensure ()
             1L.ToScalar())

    /// One for each value that is ever asked for: never of numbers that change from step to step.
    let ofFloat (value: float) : Scalar =
        kept.GetOrAdd(
            value,
            fun value ->
                Backend.ensure ()
                value.ToScalar()
        )

    /// a + b, of one shape or broadcast.
    let plus (a: Tensor) (b: Tensor) : Tensor = a.add (b, one.Value)
    /// a + b in a's memory, which it returns.
    let addInPlace (b: Tensor) (a: Tensor) : Tensor = a.add_ (b, one.Value)
    /// Each value and `b`, in a's memory, which it returns; `b` is kept (see `ofFloat`).
    let addNumberInPlace (b: float) (a: Tensor) : Tensor = a.add_ (ofFloat b, one.Value)
    /// Each value times `b`, in a's memory, which it returns; `b` is kept (see `ofFloat`).
    let timesInPlace (b: float) (a: Tensor) : Tensor = a.mul_ (ofFloat b)

/// Numbers into tensors and out of them. Who reads a tensor waits for its device.
[<RequireQualifiedAccess>]
module Tensors =
    /// A CPU tensor of ids, int64, in a shape of as many.
    let ofIds (shape: int64[]) (ids: int[]) : Tensor = torch.tensor(Array.map int64 ids).reshape shape

    /// A CPU tensor of float64, in a shape of as many; [||] is a single number.
    let ofFloats (shape: int64[]) (values: float[]) : Tensor = torch.tensor(values).reshape shape

    /// The values as float64, row after row.
    let toFloats (tensor: Tensor) : float[] =
        use _scope = Scope.start ()
        tensor.``to``(torch.ScalarType.Float64).cpu().contiguous().data<float>().ToArray()

    /// The values as float32, row after row; wider ones lose their last bits.
    let toFloat32s (tensor: Tensor) : float32[] =
        use _scope = Scope.start ()
        tensor.``to``(torch.ScalarType.Float32).cpu().contiguous().data<float32>().ToArray()

    /// The values of a tensor of int64, row after row.
    let toIds (tensor: Tensor) : int[] =
        use _scope = Scope.start ()
        tensor.cpu().contiguous().data<int64>().ToArray() |> Array.map int

    /// Where a contiguous CPU tensor's values begin, of whatever size.
    let rec internal address (tensor: Tensor) : nativeint =
        if tensor.numel () * tensor.ElementSize > int64 Int32.MaxValue then
            use _scope = Scope.start ()
            address (tensor.view(-1L).narrow(0L, 0L, 1L))
        else
            NativePtr.toNativeInt (&&MemoryMarshal.GetReference(tensor.bytes))

    /// A contiguous CPU tensor's values, as long as it lives.
    let internal memory (tensor: Tensor) : RawMemory = {
        Address = address tensor
        Length = tensor.numel () * tensor.ElementSize
    }

    /// Copies raw bytes into a contiguous CPU tensor of as many bytes, piece by piece.
    let fill (tensor: Tensor) (copy: FillSpan) : unit =
        RawMemory.fill copy (memory tensor)
        GC.KeepAlive tensor

    /// Reads a stored tensor's values into a contiguous CPU tensor of its shape and dtype.
    let read (stored: StoredTensor) (tensor: Tensor) : unit =
        StoredTensor.fill (memory tensor) stored
        GC.KeepAlive tensor

    /// A stored tensor's values as a new CPU tensor, which the caller owns.
    let ofStored (stored: StoredTensor) : Tensor =
        Backend.ensure ()
        let tensor = torch.empty (stored.Shape, dtype = ScalarType.ofDtype stored.Dtype, device = torch.CPU)
        read stored tensor
        tensor

    // Of a sum in another dtype: little beside the tensor.
    let private piece = 1L <<< 26

    /// True when no value is NaN or infinite. A sum in another dtype makes a copy first, so by pieces.
    let isFinite (tensor: Tensor) : bool =
        use _scope = Scope.start ()
        let flat = tensor.reshape -1L
        let count = flat.numel ()

        let isFinitePart start =
            use _part = Scope.start ()
            let part = flat.narrow (0L, start, min (piece / 4L) (count - start))
            // One pass; only a sum that is not finite (an overflow, or a real fault) costs the second.
            let sum = part.sum(torch.ScalarType.Float32).cpu().data<float32>().[0L]
            Single.IsFinite sum || part.isfinite().all().cpu().data<bool>().[0L]

        seq { 0L .. piece / 4L .. count - 1L } |> Seq.forall isFinitePart

    /// The first row of [1; rows; width] that holds NaN or infinity.
    let tryFirstNotFinite (tensor: Tensor) : int option =
        if isFinite tensor then
            None
        else
            Seq.init (int tensor.shape[1]) id
            |> Seq.tryFind (fun row -> not (isFinite (tensor.narrow (1L, int64 row, 1L))))
