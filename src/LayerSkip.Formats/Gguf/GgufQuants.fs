namespace LayerSkip

open System
open System.Buffers
open System.Runtime.CompilerServices
open System.Runtime.ExceptionServices
open System.Runtime.InteropServices
open System.Runtime.Intrinsics
open System.Threading.Tasks
open FSharp.NativeInterop

#nowarn "9" // Blocks are read and written by address.

/// A ggml format that we read.
[<RequireQualifiedAccess>]
type internal GgufFormat =
    | F32
    | F16
    | BF16
    | Q8_0
    | Q4_0
    | Q4_1

/// Numbers, names and blocks of ggml's formats (ggml.h, enum ggml_type; ggml-common.h, block_q8_0 and its like).
[<RequireQualifiedAccess>]
module internal GgufFormat =
    /// The formats that we read, for the hint of an error.
    let readable = "F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are read"

    /// From ggml's number.
    let tryOf (kind: uint32) : GgufFormat option =
        match kind with
        | 0u -> Some GgufFormat.F32
        | 1u -> Some GgufFormat.F16
        | 2u -> Some GgufFormat.Q4_0
        | 3u -> Some GgufFormat.Q4_1
        | 8u -> Some GgufFormat.Q8_0
        | 30u -> Some GgufFormat.BF16
        | _ -> None

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

    /// Values in a block, and its bytes.
    let block (format: GgufFormat) : struct (int64 * int64) =
        match format with
        | GgufFormat.F32 -> 1L, 4L
        | GgufFormat.F16
        | GgufFormat.BF16 -> 1L, 2L
        | GgufFormat.Q8_0 -> 32L, 34L
        | GgufFormat.Q4_0 -> 32L, 18L
        | GgufFormat.Q4_1 -> 32L, 20L

    /// The smallest dtype that holds every value: a 4-bit number times a float16 scale needs float32.
    let dtype (format: GgufFormat) : Dtype =
        match format with
        | GgufFormat.F16 -> Dtype.F16
        | GgufFormat.BF16 -> Dtype.BF16
        | GgufFormat.F32
        | GgufFormat.Q8_0
        | GgufFormat.Q4_0
        | GgufFormat.Q4_1 -> Dtype.F32

/// Quantised blocks to float32, bit for bit as ggml's dequantize_row functions. A block is 32 values: a float16 scale
/// d, in Q4_1 a float16 least m, then the numbers q. Q8_0 is d * q, Q4_0 d * (q - 8), Q4_1 d * q + m.
[<RequireQualifiedAccess>]
module internal GgufQuants =
    let private half (at: nativeint) : float32 =
        float32 (Unsafe.ReadUnaligned<Half>(NativePtr.ofNativeInt<byte> at |> NativePtr.toVoidPtr))

    let private load (at: nativeint) : Vector128<byte> = Vector128.Load(NativePtr.ofNativeInt<byte> at)

    /// 8 whole numbers, each through `finish`, to 8 values.
    let inline private spread (numbers: Vector128<int16>) (target: nativeint) ([<InlineIfLambda>] finish) =
        let struct (low, high) = Vector128.Widen numbers
        let at = NativePtr.ofNativeInt<float32> target
        Vector128.Store(finish (Vector128.ConvertToSingle low), at)
        Vector128.Store(finish (Vector128.ConvertToSingle high), NativePtr.add at 4)

    /// A block's 16 bytes of two 4-bit numbers: the low ones come first, then the high ones.
    let inline private nibbles (source: nativeint) (target: nativeint) ([<InlineIfLambda>] finish) =
        let packed = load source
        let struct (a, b) = Vector128.Widen(Vector128.BitwiseAnd(packed, Vector128.Create 15uy))
        let struct (c, d) = Vector128.Widen(Vector128.ShiftRightLogical(packed, 4))
        spread (a.AsInt16()) target finish
        spread (b.AsInt16()) (target + 32n) finish
        spread (c.AsInt16()) (target + 64n) finish
        spread (d.AsInt16()) (target + 96n) finish

    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private q4_0 (source: nativeint) (target: nativeint) (blocks: int) =
        let eight = Vector128.Create 8.0f

        for index in 0 .. blocks - 1 do
            let block = source + nativeint index * 18n
            let scale = Vector128.Create(half block)

            nibbles (block + 2n) (target + nativeint index * 128n) (fun numbers ->
                Vector128.Multiply(Vector128.Subtract(numbers, eight), scale))

    // The product is exact (4 bits by 11), so that a C compiler's fused multiply-add gives the same sum.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private q4_1 (source: nativeint) (target: nativeint) (blocks: int) =
        for index in 0 .. blocks - 1 do
            let block = source + nativeint index * 20n
            let scale = Vector128.Create(half block)
            let least = Vector128.Create(half (block + 2n))

            nibbles (block + 4n) (target + nativeint index * 128n) (fun numbers ->
                Vector128.Add(Vector128.Multiply(numbers, scale), least))

    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private q8_0 (source: nativeint) (target: nativeint) (blocks: int) =
        for index in 0 .. blocks - 1 do
            let block = source + nativeint index * 34n
            let values = target + nativeint index * 128n
            let scale = Vector128.Create(half block)
            let struct (a, b) = Vector128.Widen((load (block + 2n)).AsSByte())
            let struct (c, d) = Vector128.Widen((load (block + 18n)).AsSByte())
            spread a values (fun numbers -> Vector128.Multiply(numbers, scale))
            spread b (values + 32n) (fun numbers -> Vector128.Multiply(numbers, scale))
            spread c (values + 64n) (fun numbers -> Vector128.Multiply(numbers, scale))
            spread d (values + 96n) (fun numbers -> Vector128.Multiply(numbers, scale))

    // Some 80 KB in and 512 KB out: enough to be worth a task.
    let private blocksPerTask = 4096L

    /// Reads blocks from byte `first` of a file on and spreads them into `target`, so many at a time in each thread.
    let private inTasks
        run
        (width: int)
        (file: SourceFile)
        (first: int64)
        (target: nativeint)
        (blocks: int64)
        =
        let tasks = (blocks + blocksPerTask - 1L) / blocksPerTask

        let work (task: int64) =
            let start = task * blocksPerTask
            let count = int (min blocksPerTask (blocks - start))
            let packed = ArrayPool.Shared.Rent(count * width)

            try
                file.Copy(first + start * int64 width, packed.AsSpan(0, count * width))
                use source = fixed packed
                run (NativePtr.toNativeInt source) (target + nativeint (start * 128L)) count
            finally
                ArrayPool.Shared.Return packed

        try
            Parallel.For(0L, tasks, work) |> ignore
        with :? AggregateException as e ->
            ExceptionDispatchInfo.Throw e.InnerException

    /// Fills memory with the values at byte `first` of a file, in the format's dtype. Blocks are spread in as many
    /// threads as there are cores; LayerSkipException where the file has become shorter.
    let read (file: SourceFile) (format: GgufFormat) (first: int64) (memory: RawMemory) : unit =
        // A block of 32 values fills 128 bytes.
        let blocks run (width: int) =
            RawMemory.fill
                (FillSpan(fun at destination ->
                    use target = fixed &MemoryMarshal.GetReference destination
                    let start = first + at / 128L * int64 width

                    inTasks
                        run
                        width
                        file
                        start
                        (NativePtr.toNativeInt target)
                        (int64 destination.Length / 128L)))
                memory

        match format with
        | GgufFormat.F32
        | GgufFormat.F16
        | GgufFormat.BF16 ->
            RawMemory.fill (FillSpan(fun at destination -> file.Copy(first + at, destination))) memory
        | GgufFormat.Q8_0 -> blocks q8_0 34
        | GgufFormat.Q4_0 -> blocks q4_0 18
        | GgufFormat.Q4_1 -> blocks q4_1 20
