namespace LayerSkip

open System
open System.IO
open System.Runtime.InteropServices
open Microsoft.FSharp.NativeInterop

#nowarn "9" // Memory by its address.

/// Writes the bytes that start at an offset into a span.
type FillSpan = delegate of start: int64 * destination: Span<byte> -> unit

/// Memory outside .NET's heap, of any size. Whoever hands it on keeps it alive meanwhile.
[<Struct>]
type RawMemory = {
    Address: nativeint
    /// In bytes.
    Length: int64
}

/// Spans of raw memory; all offsets and lengths are in bytes, and are checked.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module RawMemory =
    /// In bytes: a multiple of every block that a file has, and little beside the tensors it is read for.
    let private piece = 1L <<< 26

    /// `length` bytes from byte `start` on.
    let span (start: int64) (length: int) (memory: RawMemory) : Span<byte> =
        ArgumentOutOfRangeException.ThrowIfNegative start
        ArgumentOutOfRangeException.ThrowIfGreaterThan(start, memory.Length - int64 length)
        Span<byte>(
            NativePtr.toVoidPtr (NativePtr.ofNativeInt<byte>(memory.Address + nativeint start)),
            length
        )

    /// Writes all of it, piece by piece: a span holds 2 GiB at most.
    let fill (copy: FillSpan) (memory: RawMemory) : unit =
        for start in 0L .. piece .. memory.Length - 1L do
            copy.Invoke(start, span start (int (min piece (memory.Length - start))) memory)

    /// Writes all of it to a stream, piece by piece.
    let write (stream: Stream) (memory: RawMemory) : unit =
        for start in 0L .. piece .. memory.Length - 1L do
            stream.Write(
                Span.op_Implicit (span start (int (min piece (memory.Length - start))) memory)
                : ReadOnlySpan<byte>
            )

/// Some of a tensor's rows: the slices of its first dimension. A scalar is one row.
[<Struct>]
type Rows = { First: int64; Count: int64 }

/// Where a file holds a tensor's blocks.
[<NoEquality; NoComparison>]
type StoredBlocks = {
    Format: BlockFormat
    /// Maps the file.
    Map: unit -> MappedFile
    /// Which of its bytes they begin at.
    Start: int64
    /// Rows of a head whose rows stand in pairs that turn together, where they do; else they stand half a head apart.
    PairedRows: int option
}

/// A tensor as a file holds it. Only its place is known until `Fill` reads it; several threads may read tensors of
/// one file.
[<NoEquality; NoComparison>]
type StoredTensor = {
    /// Hugging Face's name, whatever the file calls it.
    Name: string
    Shape: int64[]
    /// The format as the file names it: "BF16", "Q4_1".
    Format: string
    /// The smallest dtype that holds the values (float32 for quantised ones).
    Dtype: Dtype
    /// Writes rows, one after the other, as values of `Dtype` into memory of just their size.
    Fill: Rows -> RawMemory -> unit
    /// Of quantised tensors.
    Blocks: StoredBlocks option
}

/// Reading tensors, whole or by rows, without a copy of the file in memory.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module StoredTensor =
    /// Every row of a shape.
    let internal every (shape: int64[]) : Rows = {
        First = 0L
        Count = Array.tryHead shape |> Option.defaultValue 1L
    }

    /// `width` times all dimensions; None where they, but for those of 0, multiply to more than 63 bits hold.
    let internal tryProduct (width: int64) (shape: uint64[]) : int64 option =
        let grow (total: int64 option) (dim: uint64) =
            match total with
            | Some total when dim <= uint64 (Int64.MaxValue / total) -> Some(total * int64 (max 1UL dim))
            | _ -> None

        Array.fold grow (Some width) shape
        |> Option.map (fun all -> if Array.contains 0UL shape then 0L else all)

    /// In bytes, of `Dtype`.
    let internal size (stored: StoredTensor) : int64 =
        Array.fold (*) (int64 (Dtype.bytes stored.Dtype)) stored.Shape

    /// Writes all values into memory of just their size. LayerSkipException where the file has become shorter, or the
    /// disk fails.
    let fill (memory: RawMemory) (stored: StoredTensor) : unit =
        if memory.Length <> size stored then
            invalidArg (nameof memory) $"{memory.Length} bytes for the {size stored} of {stored.Name}"

        stored.Fill (every stored.Shape) memory

    /// `count` of its rows from row `first` on, as a tensor of their own. Of shape [count; ...]: the others stay on
    /// disk. Rows outside it are a bug of the caller, and throw.
    let rows (first: int64) (count: int64) (stored: StoredTensor) : StoredTensor =
        ArgumentOutOfRangeException.ThrowIfNegative first
        ArgumentOutOfRangeException.ThrowIfNegative count
        ArgumentOutOfRangeException.ThrowIfGreaterThan(first, stored.Shape[0] - count)

        {
            stored with
                Shape = Array.append [| count |] stored.Shape[1..]
                Fill = fun rows -> stored.Fill { rows with First = first + rows.First }
                Blocks =
                    stored.Blocks
                    |> Option.map (fun blocks ->
                        let row = Array.fold (*) 1L stored.Shape[1..]
                        { blocks with Start = blocks.Start + BlockFormat.bytes (first * row) blocks.Format })
        }

    /// The same tensors, which tell before each reading how many bytes were read so far and how many there are, as values of `Dtype`.
    /// What `tell` throws ends the reading.
    let telling (tell: int64 -> int64 -> unit) (tensors: StoredTensor list) : StoredTensor list =
        let all, read = List.sumBy size tensors, ref 0L

        let count bytes =
            tell (min all (Threading.Interlocked.Read &read.contents)) all
            Threading.Interlocked.Add(&read.contents, bytes) |> ignore

        tensors
        |> List.map (fun tensor -> {
            tensor with
                Fill =
                    fun rows memory ->
                        count memory.Length
                        tensor.Fill rows memory
                Blocks =
                    tensor.Blocks
                    |> Option.map (fun blocks -> {
                        blocks with
                            Map =
                                fun () ->
                                    count (size tensor)
                                    blocks.Map()
                    })
        })

    /// The values as float64: of tables, which an array holds.
    let toFloats (stored: StoredTensor) : float[] =
        let bytes = Array.zeroCreate<byte>(Checked.int (size stored))
        use memory = fixed bytes
        fill { Address = NativePtr.toNativeInt memory; Length = bytes.LongLength } stored
        let values () : 'T[] = MemoryMarshal.Cast<byte, 'T>(bytes.AsSpan()).ToArray()

        match stored.Dtype with
        | Dtype.F64 -> values ()
        | Dtype.F32 -> values () |> Array.map (fun (value: float32) -> float value)
        | Dtype.F16 -> values () |> Array.map (fun (value: Half) -> float value)
        | Dtype.BF16 ->
            values ()
            |> Array.map (fun (bits: uint16) -> float (BitConverter.UInt32BitsToSingle(uint32 bits <<< 16)))

/// A tensor to write, whose values are made when its turn comes. What formats there are is the file's: a `Dtype`, or
/// one of ggml's.
[<NoEquality; NoComparison>]
type TensorItem<'Format> = {
    /// As the file is to call it.
    Name: string
    /// Slowest dimension first, as everywhere but in GGUF files.
    Shape: int64[]
    Format: 'Format
    /// In bytes.
    Size: int64
    /// Writes the values, row after row, in that format.
    Write: Stream -> unit
}
