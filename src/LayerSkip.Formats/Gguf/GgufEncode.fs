namespace LayerSkip

open System
open System.Buffers.Binary
open System.Runtime.InteropServices
open FSharp.NativeInterop

#nowarn "9" // Values are read by address.

/// Writes whole blocks that hold the values best, one block after the other. The values are finite.
type internal EncodeBlocks = delegate of values: ReadOnlySpan<float32> * blocks: Span<byte> -> unit

/// Writes 32 codes the way that a format packs them.
type private PutCodes = delegate of codes: ReadOnlySpan<int> * block: Span<byte> -> unit

/// Numbers that stay where they are.
[<Sealed>]
type internal Pinned<'T when 'T: struct>(count: int) =
    let items: 'T[] = GC.AllocateArray<'T>(count, pinned = true)
    let address = Marshal.UnsafeAddrOfPinnedArrayElement(items, 0)
    member _.Items = items
    member _.Address = address

/// What a block is worked out in. A block of 256 values has up to 16 groups: value = D * Scales * q - DMin * Least.
[<Sealed>]
type internal EncodeScratch() =
    /// What the square of each value's error counts.
    member val Weights = Pinned<float32> 256
    /// The number of each value, from 0 on.
    member val Codes = Pinned<int> 256
    member val Scales = Pinned<float32> 16
    member val Least = Pinned<float32> 16
    member val ScaleWeights = Pinned<float32> 16
    member val LeastWeights = Pinned<float32> 16
    member val D = 0.0f with get, set
    member val DMin = 0.0f with get, set

/// Blocks of 32 values: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL. The layouts are those of `GgufBlocks`, which decodes them.
[<RequireQualifiedAccess>]
module internal GgufEncode =
    /// Numbers from `first` to `last` by `step`, both among them.
    let targets (first: float32) (step: float32) (last: float32) : float32[] =
        Array.init (int (round ((last - first) / step)) + 1) (fun index -> first + float32 index * step)

    let putHalf (block: Span<byte>) (at: int) (value: float32) : unit =
        BinaryPrimitives.WriteHalfLittleEndian(block.Slice at, Half.op_Explicit value)

    /// Nibbles of 32 codes: the low ones are the first 16.
    let putNibbles (codes: ReadOnlySpan<int>) (block: Span<byte>) : unit =
        for index in 0..15 do
            block[index] <- byte (codes[index] &&& 15 ||| (codes[index + 16] <<< 4))

    /// Fifth bits of 32 codes, bit j for code j.
    let private putFifths (codes: ReadOnlySpan<int>) (block: Span<byte>) : unit =
        let mutable bits = 0u

        for index in 0..31 do
            bits <- bits ||| (uint32 (codes[index] >>> 4) <<< index)

        BinaryPrimitives.WriteUInt32LittleEndian(block, bits)

    /// Encodes block after block: `one` has the values' address, the scratch, and the block's bytes.
    let each (format: BlockFormat) (one: nativeint -> EncodeScratch -> byte[] -> unit) : EncodeBlocks =
        EncodeBlocks(fun values blocks ->
            let count = values.Length / format.Values

            if values.Length % format.Values <> 0 || blocks.Length <> count * format.Bytes then
                invalidArg (nameof blocks) $"{values.Length} values, {blocks.Length} bytes"

            use source = fixed &MemoryMarshal.GetReference values
            let scratch = EncodeScratch()
            let made = Array.zeroCreate<byte> format.Bytes

            for block in 0 .. count - 1 do
                let from = NativePtr.toNativeInt source + nativeint (block * format.Values * 4)
                GgufFit.weigh { Values = from; Weights = scratch.Weights.Address; Count = format.Values }
                Array.Clear made
                one from scratch made
                made.AsSpan().CopyTo(blocks.Slice(block * format.Bytes, format.Bytes)))

    let private group (values: nativeint) (scratch: EncodeScratch) = {
        Values = values
        Weights = scratch.Weights.Address
        Count = 32
    }

    /// A format of d and numbers of either sign.
    let private ofScale format grid targets (put: PutCodes) =
        each format (fun values scratch block ->
            let group = group values scratch
            let d = GgufFit.toScale (GgufFit.scale grid targets group)
            GgufFit.codes grid group d 0.0f scratch.Codes.Address
            putHalf (block.AsSpan()) 0 d
            put.Invoke(ReadOnlySpan(scratch.Codes.Items, 0, 32), block.AsSpan 2))

    /// A format of d, m and numbers from 0 on.
    let private ofLine format grid targets (put: PutCodes) =
        each format (fun values scratch block ->
            let group = group values scratch
            let struct (scale, offset) = GgufFit.line grid targets false group
            let d, m = GgufFit.toScale scale, GgufFit.toHalf offset
            GgufFit.codes grid group d m scratch.Codes.Address
            putHalf (block.AsSpan()) 0 d
            putHalf (block.AsSpan()) 2 m
            put.Invoke(ReadOnlySpan(scratch.Codes.Items, 0, 32), block.AsSpan 4))

    let private nibbles = PutCodes(fun codes block -> putNibbles codes block)

    let private fives =
        PutCodes(fun codes block ->
            putFifths codes block
            putNibbles codes (block.Slice 4))

    // -128 has no place: what multiplies numbers by signs cannot turn it around.
    let private bytes =
        PutCodes(fun codes block ->
            for index in 0..31 do
                block[index] <- byte (sbyte (codes[index] - 127)))

    /// To either side of what the numbers reach.
    let private bothSides step (low: float32 * float32) (high: float32 * float32) =
        Array.append (targets (fst low) step (snd low)) (targets (fst high) step (snd high))

    let q8_0 = ofScale GgufBlocks.q8_0 (WholeNumbers(-127.0f, 127.0f)) (targets 120.0f 1.0f 127.0f) bytes

    let q4_0 =
        ofScale
            GgufBlocks.q4_0
            (WholeNumbers(-8.0f, 7.0f))
            (bothSides 0.25f (-9.0f, -5.5f) (5.5f, 8.0f))
            nibbles

    let q4_1 = ofLine GgufBlocks.q4_1 (WholeNumbers(0.0f, 15.0f)) (targets 12.5f 0.25f 16.5f) nibbles

    let q5_0 =
        ofScale
            GgufBlocks.q5_0
            (WholeNumbers(-16.0f, 15.0f))
            (bothSides 0.5f (-17.0f, -13.0f) (13.0f, 16.0f))
            fives

    let q5_1 = ofLine GgufBlocks.q5_1 (WholeNumbers(0.0f, 31.0f)) (targets 28.0f 0.5f 32.5f) fives

    /// The numbers of IQ4_NL and IQ4_XS, and where the value furthest from 0 is tried.
    let levels = Levels.Of GgufBlocks.levels

    let levelTargets =
        Array.append [| -127.0f; -104.0f; 89.0f; 113.0f |] (bothSides 4.0f (-138.0f, -98.0f) (86.0f, 122.0f))

    let iq4_NL = ofScale GgufBlocks.iq4_NL levels levelTargets nibbles
