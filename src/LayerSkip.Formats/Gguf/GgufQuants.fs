namespace LayerSkip

open System
open System.Buffers
open System.Runtime.ExceptionServices
open System.Runtime.InteropServices
open System.Threading.Tasks
open FSharp.NativeInterop

#nowarn "9" // Blocks are read and written by address.

/// A ggml format that we read.
[<RequireQualifiedAccess>]
type internal GgufFormat =
    | F32
    | F16
    | BF16
    | Quantised of BlockFormat

/// Numbers, names and blocks of ggml's formats (ggml.h, enum ggml_type; ggml-common.h, block_q8_0 and its like).
[<RequireQualifiedAccess>]
module internal GgufFormat =
    /// From ggml's number.
    let tryOf (kind: uint32) : GgufFormat option =
        match kind with
        | 0u -> Some GgufFormat.F32
        | 1u -> Some GgufFormat.F16
        | 30u -> Some GgufFormat.BF16
        | _ ->
            GgufBlocks.all
            |> List.tryFind (fun format -> format.Kind = kind)
            |> Option.map GgufFormat.Quantised

    /// ggml's number.
    let kind (format: GgufFormat) : uint32 =
        match format with
        | GgufFormat.F32 -> 0u
        | GgufFormat.F16 -> 1u
        | GgufFormat.BF16 -> 30u
        | GgufFormat.Quantised format -> format.Kind

    // In the order of ggml's enum ggml_type; a dash where a number is no format, or one that ggml has given up.
    let private names =
        [
            "F32 F16 Q4_0 Q4_1 - - Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S"
            "IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 - - - TQ1_0 TQ2_0 - - - MXFP4"
        ]
        |> List.collect (_.Split(' ') >> List.ofArray)

    /// ggml's name of a format, also of one that we do not read.
    let name (kind: uint32) : string =
        match names |> List.tryItem (int (min kind 1000u)) with
        | Some name when name <> "-" -> name
        | _ -> $"ggml type {kind}"

    /// The formats that we read, for the hint of an error.
    let readable =
        let quantised = GgufBlocks.all |> List.map (fun format -> name format.Kind)
        Architecture.listed ([ "F32"; "F16"; "BF16" ] @ quantised) + " read"

    /// Values in a block, and its bytes.
    let block (format: GgufFormat) : struct (int64 * int64) =
        match format with
        | GgufFormat.F32 -> 1L, 4L
        | GgufFormat.F16
        | GgufFormat.BF16 -> 1L, 2L
        | GgufFormat.Quantised format -> int64 format.Values, int64 format.Bytes

    /// The bytes of a tensor. Its rows are whole blocks.
    let size (format: GgufFormat) (shape: int64[]) : int64 =
        let struct (values, bytes) = block format
        Array.fold (*) 1L shape / values * bytes

    /// That of plain values; None for float64, which llama.cpp has no kernels for.
    let tryOfDtype (dtype: Dtype) : GgufFormat option =
        match dtype with
        | Dtype.F32 -> Some GgufFormat.F32
        | Dtype.F16 -> Some GgufFormat.F16
        | Dtype.BF16 -> Some GgufFormat.BF16
        | Dtype.F64 -> None

    /// The smallest dtype that holds every value: a 4-bit number times a float16 scale needs float32.
    let dtype (format: GgufFormat) : Dtype =
        match format with
        | GgufFormat.F16 -> Dtype.F16
        | GgufFormat.BF16 -> Dtype.BF16
        | GgufFormat.F32
        | GgufFormat.Quantised _ -> Dtype.F32

/// Values of a file's tensors: copied, or decoded by `GgufBlocks`.
[<RequireQualifiedAccess>]
module internal GgufQuants =
    // 512 KB out: enough to be worth a task.
    let private valuesPerTask = 131_072L

    /// Reads blocks from byte `first` of a file on and spreads them into `values`, so many at a time in each thread.
    let private inTasks
        (format: BlockFormat)
        (file: SourceFile)
        (first: int64)
        (values: nativeint)
        (blocks: int64)
        =
        let perTask = valuesPerTask / int64 format.Values
        let tasks = (blocks + perTask - 1L) / perTask

        let work (task: int64) =
            let start = task * perTask
            let count = int (min perTask (blocks - start))
            let size = count * format.Bytes
            let packed = ArrayPool.Shared.Rent size

            try
                file.Copy(first + start * int64 format.Bytes, packed.AsSpan(0, size))
                let target = values + nativeint (start * int64 format.Values * 4L)

                format.Decode.Invoke(
                    ReadOnlySpan(packed, 0, size),
                    Span<float32>(
                        NativePtr.toVoidPtr (NativePtr.ofNativeInt<byte> target),
                        count * format.Values
                    )
                )
            finally
                ArrayPool.Shared.Return packed

        try
            Parallel.For(0L, tasks, work) |> ignore
        with :? AggregateException as e ->
            ExceptionDispatchInfo.Throw e.InnerException

    /// Packs whole rows of finite float32 values into blocks, memory of just their size, in as many threads as there are cores.
    let packInto (format: BlockFormat) (values: RawMemory) (blocks: RawMemory) : unit =
        let count = values.Length / 4L
        let encode = GgufEncodeK.encoder format

        let work (task: int64) =
            let start = task * valuesPerTask
            let count = min valuesPerTask (count - start)

            let from = RawMemory.span (4L * start) (int (4L * count)) values
            let into =
                RawMemory.span (BlockFormat.bytes start format) (int (BlockFormat.bytes count format)) blocks
            encode.Invoke(MemoryMarshal.Cast<byte, float32>(Span<byte>.op_Implicit from), into)

        Parallel.For(0L, (count + valuesPerTask - 1L) / valuesPerTask, work) |> ignore

    /// The same into a new array.
    let pack (format: BlockFormat) (values: ReadOnlyMemory<float32>) : byte[] =
        let blocks = Array.zeroCreate<byte>(int (BlockFormat.bytes (int64 values.Length) format))
        use from = values.Pin()
        use into = fixed blocks

        packInto
            format
            {
                Address = NativePtr.toNativeInt (NativePtr.ofVoidPtr<byte> from.Pointer)
                Length = 4L * int64 values.Length
            }
            { Address = NativePtr.toNativeInt into; Length = blocks.LongLength }

        blocks

    /// Fills memory with the values at byte `first` of a file, in the format's dtype. Blocks are spread in as many
    /// threads as there are cores; LayerSkipException where the file has become shorter.
    let read (file: SourceFile) (format: GgufFormat) (first: int64) (memory: RawMemory) : unit =
        match format with
        | GgufFormat.F32
        | GgufFormat.F16
        | GgufFormat.BF16 ->
            RawMemory.fill (FillSpan(fun at destination -> file.Copy(first + at, destination))) memory
        | GgufFormat.Quantised format ->
            let size = int64 format.Values * 4L

            RawMemory.fill
                (FillSpan(fun at destination ->
                    use target = fixed &MemoryMarshal.GetReference destination
                    let start = first + at / size * int64 format.Bytes
                    let blocks = int64 destination.Length / size
                    inTasks format file start (NativePtr.toNativeInt target) blocks))
                memory
