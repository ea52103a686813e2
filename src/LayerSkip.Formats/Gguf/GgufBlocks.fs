namespace LayerSkip

open System
open System.Runtime.CompilerServices
open System.Runtime.InteropServices
open System.Runtime.Intrinsics
open FSharp.NativeInterop

#nowarn "9" // Blocks are read and values written by address.

/// What ggml's blocks hold, by the layouts of ggml-common.h (little endian; d, m and dmin are float16).
[<RequireQualifiedAccess>]
module internal GgufBlocks =
    let private half (at: nativeint) : float32 =
        float32 (Unsafe.ReadUnaligned<Half>(NativePtr.ofNativeInt<byte> at |> NativePtr.toVoidPtr))

    let private byteAt (at: nativeint) : int = int (NativePtr.read (NativePtr.ofNativeInt<byte> at))
    let private load (at: nativeint) : Vector128<byte> = Vector128.Load(NativePtr.ofNativeInt<byte> at)

    /// The bits from `shift` on that `mask` has, of 16 bytes.
    let inline private field (shift: int) (mask: byte) (bytes: Vector128<byte>) : Vector128<byte> =
        Vector128.BitwiseAnd(Vector128.ShiftRightLogical(bytes, shift), Vector128.Create mask)

    let inline private minus (zero: sbyte) (numbers: Vector128<byte>) : Vector128<sbyte> =
        Vector128.Subtract(numbers.AsSByte(), Vector128.Create zero)

    /// Where bit i of 16 is set, 16 in byte i: a fifth bit.
    let private fifth (bits: int) : Vector128<byte> =
        let eight (bits: int) = uint64 (bits &&& 255) * 0x0101010101010101UL
        let own = Vector128.Create(0x8040201008040201UL).AsByte()
        let spread = Vector128.Create(eight bits, eight (bits >>> 8)).AsByte()
        let isSet = Vector128.Equals(Vector128.BitwiseAnd(spread, own), own)
        Vector128.BitwiseAnd(isSet, Vector128.Create 16uy)

    /// What the numbers of IQ4_NL and IQ4_XS are worth.
    let levels = [|
        -127y
        -104y
        -83y
        -65y
        -49y
        -35y
        -22y
        -10y
        1y
        13y
        25y
        38y
        53y
        69y
        89y
        113y
    |]

    /// The levels of IQ4_NL and IQ4_XS by their numbers.
    let inline private level (table: Vector128<sbyte>) (numbers: Vector128<byte>) : Vector128<sbyte> =
        Vector128.Shuffle(table, numbers.AsSByte())

    /// 16 whole numbers, each times `scale` and plus `offset`.
    let inline private putWith
        (offset: float32)
        (scale: float32)
        (numbers: Vector128<sbyte>)
        (values: nativeint)
        =
        let scale, offset = Vector128.Create scale, Vector128.Create offset

        let inline put (four: Vector128<int>) (at: nativeint) =
            let scaled = Vector128.Multiply(Vector128.ConvertToSingle four, scale)
            Vector128.Store(Vector128.Add(scaled, offset), NativePtr.ofNativeInt<float32>(values + at))

        let low, high = Vector128.WidenLower numbers, Vector128.WidenUpper numbers
        put (Vector128.WidenLower low) 0n
        put (Vector128.WidenUpper low) 16n
        put (Vector128.WidenLower high) 32n
        put (Vector128.WidenUpper high) 48n

    /// The same without an offset: -0 is the number that changes no other by its addition, not even 0.
    let inline private put (scale: float32) (numbers: Vector128<sbyte>) (values: nativeint) =
        putWith -0.0f scale numbers values

    let inline private each
        bytes
        values
        source
        target
        count
        ([<InlineIfLambda>] one: nativeint -> nativeint -> unit)
        =
        for index in 0 .. count - 1 do
            one (source + nativeint (index * bytes)) (target + nativeint (index * values * 4))

    /// The two halves of 16 bytes' nibbles: the low ones are the first 16 numbers of 32.
    let inline private nibbles
        (packed: Vector128<byte>)
        ([<InlineIfLambda>] one: int -> Vector128<byte> -> unit)
        =
        one 0 (field 0 15uy packed)
        one 1 (field 4 15uy packed)

    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private decodeQ8_0 (source: nativeint) (target: nativeint) (count: int) =
        each 34 32 source target count (fun block values ->
            let d = half block
            put d ((load (block + 2n)).AsSByte()) values
            put d ((load (block + 18n)).AsSByte()) (values + 64n))

    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private decodeQ4_0 (source: nativeint) (target: nativeint) (count: int) =
        each 18 32 source target count (fun block values ->
            let d = half block
            nibbles (load (block + 2n)) (fun part q -> put d (minus 8y q) (values + nativeint part * 64n)))

    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private decodeQ4_1 (source: nativeint) (target: nativeint) (count: int) =
        each 20 32 source target count (fun block values ->
            let d, m = half block, half (block + 2n)
            nibbles (load (block + 4n)) (fun part q ->
                putWith m d (q.AsSByte()) (values + nativeint part * 64n)))

    /// The numbers of Q5_0 and Q5_1: a fifth bit apart, in front of the nibbles.
    let inline private fives (bits: nativeint) ([<InlineIfLambda>] one: int -> Vector128<byte> -> unit) =
        nibbles (load (bits + 4n)) (fun part q ->
            let at = bits + nativeint (2 * part)
            one part (Vector128.BitwiseOr(q, fifth (byteAt at ||| (byteAt (at + 1n) <<< 8)))))

    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private decodeQ5_0 (source: nativeint) (target: nativeint) (count: int) =
        each 22 32 source target count (fun block values ->
            let d = half block
            fives (block + 2n) (fun part q -> put d (minus 16y q) (values + nativeint part * 64n)))

    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private decodeQ5_1 (source: nativeint) (target: nativeint) (count: int) =
        each 24 32 source target count (fun block values ->
            let d, m = half block, half (block + 2n)
            fives (block + 4n) (fun part q -> putWith m d (q.AsSByte()) (values + nativeint part * 64n)))

    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private decodeIQ4_NL (source: nativeint) (target: nativeint) (count: int) =
        let table = Vector128.Create(levels, 0)

        each 18 32 source target count (fun block values ->
            let d = half block
            nibbles (load (block + 2n)) (fun part q -> put d (level table q) (values + nativeint part * 64n)))

    // d; u16 of high bits of eight 6-bit scales; 4 bytes of their low nibbles; 16 bytes of nibbles for each.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private decodeIQ4_XS (source: nativeint) (target: nativeint) (count: int) =
        let table = Vector128.Create(levels, 0)

        each 136 256 source target count (fun block values ->
            let d = half block
            let high = byteAt (block + 2n) ||| (byteAt (block + 3n) <<< 8)

            for part in 0..7 do
                let low = byteAt (block + 4n + nativeint (part / 2)) >>> (4 * (part % 2)) &&& 15
                let scale = d * float32 ((low ||| ((high >>> (2 * part) &&& 3) <<< 4)) - 32)
                let values = values + nativeint part * 128n
                nibbles (load (block + 8n + nativeint part * 16n)) (fun part q ->
                    put scale (level table q) (values + nativeint part * 64n)))

    /// The 256 values of a block as 16 groups of 16, two a quarter of a half: bits 2 `quarter` and on of 32 bytes a half.
    let inline private sixteens ([<InlineIfLambda>] one: int -> int -> int -> int -> unit) =
        for group in 0..15 do
            one group (group / 8) (group / 2 % 4) (group % 2)

    // 16 bytes of a scale (low nibble) and a minimum; 64 bytes of 2-bit numbers; d, dmin.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private decodeQ2_K (source: nativeint) (target: nativeint) (count: int) =
        each 84 256 source target count (fun block values ->
            let d, dmin = half (block + 80n), half (block + 82n)

            sixteens (fun group part quarter side ->
                let packed = byteAt (block + nativeint group)
                let q = field (2 * quarter) 3uy (load (block + 16n + nativeint (32 * part + 16 * side)))
                let least = dmin * float32 (packed >>> 4)
                putWith -least (d * float32 (packed &&& 15)) (q.AsSByte()) (values + nativeint group * 64n)))

    // 32 bytes of third bits, bit i for group pair i; 64 bytes of 2-bit numbers; 12 bytes of 6-bit scales; d.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private decodeQ3_K (source: nativeint) (target: nativeint) (count: int) =
        each 110 256 source target count (fun block values ->
            let d, scales = half (block + 108n), block + 96n

            sixteens (fun group part quarter side ->
                let low = byteAt (scales + nativeint (group % 8)) >>> (4 * (group / 8)) &&& 15
                let high = byteAt (scales + nativeint (8 + group % 4)) >>> (2 * (group / 4)) &&& 3
                let q = field (2 * quarter) 3uy (load (block + 32n + nativeint (32 * part + 16 * side)))
                let third = field (4 * part + quarter) 1uy (load (block + nativeint (16 * side)))
                let numbers = minus 4y (Vector128.BitwiseOr(q, Vector128.ShiftLeft(third, 2)))
                put (d * float32 ((low ||| (high <<< 4)) - 32)) numbers (values + nativeint group * 64n)))

    /// Scale and minimum `part` of 8, 6 bits each, in 12 bytes.
    let private scaleAndLeast (scales: nativeint) (part: int) : struct (int * int) =
        let at offset = byteAt (scales + nativeint offset)

        if part < 4 then
            struct (at part &&& 63, at (part + 4) &&& 63)
        else
            let low = at (part + 4)
            struct ((low &&& 15) ||| ((at (part - 4) >>> 6) <<< 4), (low >>> 4) ||| ((at part >>> 6) <<< 4))

    /// 8 parts of 32 values, each with the two sides' place among the nibbles: low and high ones of the same 32 bytes in turn.
    let inline private thirtyTwos
        (block: nativeint)
        (values: nativeint)
        ([<InlineIfLambda>] numbers: int -> int -> Vector128<byte>)
        =
        let d, dmin = half block, half (block + 2n)

        for part in 0..7 do
            let struct (scale, least) = scaleAndLeast (block + 4n) part

            for side in 0..1 do
                putWith
                    -(dmin * float32 least)
                    (d * float32 scale)
                    ((numbers part side).AsSByte())
                    (values + nativeint (part * 128 + side * 64))

    // d, dmin; 12 bytes of scales; 128 bytes of nibbles.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private decodeQ4_K (source: nativeint) (target: nativeint) (count: int) =
        each 144 256 source target count (fun block values ->
            thirtyTwos block values (fun part side ->
                field (4 * (part % 2)) 15uy (load (block + 16n + nativeint (part / 2 * 32 + side * 16)))))

    // The same, with 32 bytes of fifth bits before the nibbles: bit i for part i.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private decodeQ5_K (source: nativeint) (target: nativeint) (count: int) =
        each 176 256 source target count (fun block values ->
            thirtyTwos block values (fun part side ->
                let q =
                    field (4 * (part % 2)) 15uy (load (block + 48n + nativeint (part / 2 * 32 + side * 16)))

                let fifth = field part 1uy (load (block + 16n + nativeint (side * 16)))
                Vector128.BitwiseOr(q, Vector128.ShiftLeft(fifth, 4))))

    // 128 bytes of nibbles; 64 bytes of two more bits; 16 int8 scales; d.
    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    let private decodeQ6_K (source: nativeint) (target: nativeint) (count: int) =
        each 210 256 source target count (fun block values ->
            let d = half (block + 208n)

            sixteens (fun group part quarter side ->
                let nibbles = block + nativeint (64 * part + 32 * (quarter % 2) + 16 * side)
                let low = field (4 * (quarter / 2)) 15uy (load nibbles)
                let high = field (2 * quarter) 3uy (load (block + 128n + nativeint (32 * part + 16 * side)))
                let numbers = minus 32y (Vector128.BitwiseOr(low, Vector128.ShiftLeft(high, 4)))
                let scale = float32 (sbyte (byteAt (block + 192n + nativeint group)))
                put (d * scale) numbers (values + nativeint group * 64n)))

    let private format
        name
        kind
        values
        bytes
        scales
        (decode: nativeint -> nativeint -> int -> unit)
        : BlockFormat = {
        Name = name
        Kind = kind
        Values = values
        Bytes = bytes
        Scales = scales
        Decode =
            DecodeBlocks(fun blocks target ->
                let count = blocks.Length / bytes

                if blocks.Length % bytes <> 0 || target.Length <> count * values then
                    invalidArg (nameof target) $"{blocks.Length} bytes, {target.Length} values"

                use source = fixed &MemoryMarshal.GetReference blocks
                use target = fixed &MemoryMarshal.GetReference target
                decode (NativePtr.toNativeInt source) (NativePtr.toNativeInt target) count)
    }

    let q4_0 = format "Q4_0" 2u 32 18 [ 0 ] decodeQ4_0
    let q4_1 = format "Q4_1" 3u 32 20 [ 0; 2 ] decodeQ4_1
    let q5_0 = format "Q5_0" 6u 32 22 [ 0 ] decodeQ5_0
    let q5_1 = format "Q5_1" 7u 32 24 [ 0; 2 ] decodeQ5_1
    let q8_0 = format "Q8_0" 8u 32 34 [ 0 ] decodeQ8_0
    let q2_K = format "Q2_K" 10u 256 84 [ 80; 82 ] decodeQ2_K
    let q3_K = format "Q3_K" 11u 256 110 [ 108 ] decodeQ3_K
    let q4_K = format "Q4_K" 12u 256 144 [ 0; 2 ] decodeQ4_K
    let q5_K = format "Q5_K" 13u 256 176 [ 0; 2 ] decodeQ5_K
    let q6_K = format "Q6_K" 14u 256 210 [ 208 ] decodeQ6_K
    let iq4_NL = format "IQ4_NL" 20u 32 18 [ 0 ] decodeIQ4_NL
    let iq4_XS = format "IQ4_XS" 23u 256 136 [ 0 ] decodeIQ4_XS

    let all = [ q8_0; q4_0; q4_1; q5_0; q5_1; q2_K; q3_K; q4_K; q5_K; q6_K; iq4_NL; iq4_XS ]
