namespace LayerSkip

open System
open System.Threading.Tasks
open FSharp.NativeInterop

#nowarn "9" // Blocks are read by address.

/// Writes the values of whole blocks, one block after the other.
type DecodeBlocks = delegate of blocks: ReadOnlySpan<byte> * values: Span<float32> -> unit

/// One of ggml's quantised formats.
[<ReferenceEquality>]
type BlockFormat = {
    /// ggml's: "Q4_K".
    Name: string
    /// ggml's number of it.
    Kind: uint32
    /// In a block.
    Values: int
    /// Of a block.
    Bytes: int
    /// Where in a block its float16 scales stand.
    Scales: int list
    /// Bit for bit what ggml's dequantize_row function of the format makes: whole numbers times scales are exact in float32
    /// (11 bits by 8 by 5 at most), so that at most one rounding is left, fused with the product or not.
    Decode: DecodeBlocks
}

/// What blocks say, wherever they lie.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module BlockFormat =
    // 4 MiB or so: enough to be worth a task.
    let private blocksPerTask = 1L <<< 15

    /// The bytes of a number of values, whole blocks.
    let bytes (values: int64) (format: BlockFormat) : int64 =
        values / int64 format.Values * int64 format.Bytes

    /// `Decode` of `count` blocks at an address, into float32 at another.
    let decodeAt (blocks: nativeint) (values: nativeint) (count: int) (format: BlockFormat) : unit =
        format.Decode.Invoke(
            ReadOnlySpan<byte>(
                NativePtr.toVoidPtr (NativePtr.ofNativeInt<byte> blocks),
                Checked.int (int64 count * int64 format.Bytes)
            ),
            Span<float32>(
                NativePtr.toVoidPtr (NativePtr.ofNativeInt<byte> values),
                Checked.int (int64 count * int64 format.Values)
            )
        )

    /// Whether no scale of `count` blocks is NaN or infinite: what else a block holds is whole numbers. Reads all of them.
    let areFinite (format: BlockFormat) (blocks: nativeint) (count: int64) : bool =
        let isFinite (block: nativeint) =
            let mutable finite = true

            for scale in format.Scales do
                let bits = NativePtr.read (NativePtr.ofNativeInt<uint16>(block + nativeint scale))
                finite <- finite && bits &&& 0x7C00us <> 0x7C00us

            finite

        let mutable finite = true

        Parallel.For(
            0L,
            (count + blocksPerTask - 1L) / blocksPerTask,
            fun (task: int64) ->
                for block in task * blocksPerTask .. min count ((task + 1L) * blocksPerTask) - 1L do
                    if not (isFinite (blocks + nativeint (block * int64 format.Bytes))) then
                        finite <- false
        )
        |> ignore

        finite
