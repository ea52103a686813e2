/// ggml's blocks, by their formulas, a value at a time.
module LayerSkip.Tests.GgufBlockSupport

open System
open LayerSkip
open LayerSkip.Tests.GgufWriter

let bits (values: float32[]) = values |> Array.map BitConverter.SingleToInt32Bits

/// The files of ../shared/data/quants, each one of llama.cpp's mixes.
let quantFiles = [
    "Q8_0"
    "Q4_0"
    "Q4_1"
    "Q5_0"
    "Q5_1"
    "Q2_K"
    "Q3_K_M"
    "Q4_K_M"
    "Q5_K_M"
    "Q6_K"
    "IQ4_NL"
    "IQ4_XS"
]

/// Name, format and where the float16 scales of a block lie.
let internal formats: (string * BlockFormat * int list) list = [
    "Q8_0", GgufBlocks.q8_0, [ 0 ]
    "Q4_0", GgufBlocks.q4_0, [ 0 ]
    "Q4_1", GgufBlocks.q4_1, [ 0; 2 ]
    "Q5_0", GgufBlocks.q5_0, [ 0 ]
    "Q5_1", GgufBlocks.q5_1, [ 0; 2 ]
    "Q2_K", GgufBlocks.q2_K, [ 80; 82 ]
    "Q3_K", GgufBlocks.q3_K, [ 108 ]
    "Q4_K", GgufBlocks.q4_K, [ 0; 2 ]
    "Q5_K", GgufBlocks.q5_K, [ 0; 2 ]
    "Q6_K", GgufBlocks.q6_K, [ 208 ]
    "IQ4_NL", GgufBlocks.iq4_NL, [ 0 ]
    "IQ4_XS", GgufBlocks.iq4_XS, [ 0 ]
]

let internal formatOf (kind: uint32) = formats |> List.find (fun (_, format, _) -> format.Kind = kind)

/// Random blocks with scales of `scale`'s making.
let blocksWith (scale: Random -> Half) (random: Random) (kind: uint32) (count: int) : byte[] =
    let _, format, scales = formatOf kind
    let bytes = Array.zeroCreate<byte>(count * format.Bytes)
    random.NextBytes bytes

    for block in 0 .. count - 1 do
        for at in scales do
            BitConverter.GetBytes(scale random).CopyTo(bytes, block * format.Bytes + at)

    bytes

/// Random blocks whose scales are finite, of both signs, some subnormal.
let blocks (random: Random) (kind: uint32) (count: int) : byte[] =
    let finite (random: Random) =
        BitConverter.UInt16BitsToHalf(uint16 (random.Next 0x7C00 ||| (random.Next 2 <<< 15)))

    blocksWith finite random kind count

/// Blocks of these values at least, whatever they are worth.
let internal decode (format: BlockFormat) (bytes: byte[]) : float32[] =
    let values = Array.zeroCreate<float32>(bytes.Length / format.Bytes * format.Values)
    format.Decode.Invoke(ReadOnlySpan bytes, Span values)
    values

let private levels = [| -127; -104; -83; -65; -49; -35; -22; -10; 1; 13; 25; 38; 53; 69; 89; 113 |]

/// One value of a block that starts at `at`.
let private valueOf (kind: uint32) (bytes: byte[]) (at: int) (index: int) : float32 =
    let byteAt place = int bytes[at + place]
    let half place = float32 (BitConverter.ToHalf(bytes, at + place))
    // Of 32 values in 16 bytes.
    let nibble first index = byteAt (first + index % 16) >>> (4 * (index / 16)) &&& 15
    let bit first number = byteAt (first + number / 8) >>> (number % 8) &&& 1

    /// Two bits of 64 bytes that hold 256 values: 32 bytes a half, a quarter of the half in each pair of bits.
    let pair first = byteAt (first + 32 * (index / 128) + index % 32) >>> (2 * (index / 32 % 4)) &&& 3

    /// A nibble of 128 bytes that hold 256 values, 64 in each 32.
    let nibbleOf64 first = byteAt (first + 32 * (index / 64) + index % 32) >>> (4 * (index / 32 % 2)) &&& 15

    /// Scale and minimum of Q4_K and Q5_K.
    let sixBits first part =
        let s place = byteAt (first + place)

        if part < 4 then
            s part &&& 63, s (part + 4) &&& 63
        else
            (s (part + 4) &&& 15) ||| ((s (part - 4) >>> 6) <<< 4),
            (s (part + 4) >>> 4) ||| ((s part >>> 6) <<< 4)

    let ofMinimum (scale: int, least: int) (number: int) =
        half 0 * float32 scale * float32 number - half 2 * float32 least

    match kind with
    | 2u -> half 0 * float32 (nibble 2 index - 8)
    | 3u -> half 0 * float32 (nibble 4 index) + half 2
    | 6u -> half 0 * float32 ((nibble 6 index ||| (bit 2 index <<< 4)) - 16)
    | 7u -> half 0 * float32 (nibble 8 index ||| (bit 4 index <<< 4)) + half 2
    | 8u -> half 0 * float32 (sbyte bytes[at + 2 + index])
    | 10u ->
        let packed = byteAt (index / 16)
        half 80 * float32 (packed &&& 15) * float32 (pair 16) - half 82 * float32 (packed >>> 4)
    | 11u ->
        let group = index / 16
        let low = byteAt (96 + group % 8) >>> (4 * (group / 8)) &&& 15
        let high = byteAt (104 + group % 4) >>> (2 * (group / 4)) &&& 3
        let third = byteAt (index % 32) >>> (index / 32) &&& 1
        half 108
        * float32 ((low ||| (high <<< 4)) - 32)
        * float32 ((pair 32 ||| (third <<< 2)) - 4)
    | 12u -> ofMinimum (sixBits 4 (index / 32)) (nibbleOf64 16)
    | 13u ->
        let fifth = byteAt (16 + index % 32) >>> (index / 32) &&& 1
        ofMinimum (sixBits 4 (index / 32)) (nibbleOf64 48 ||| (fifth <<< 4))
    | 14u ->
        let inside = index % 128
        let low = byteAt (64 * (index / 128) + inside % 64) >>> (4 * (inside / 64)) &&& 15
        let scale = float32 (sbyte bytes[at + 192 + index / 16])
        half 208 * scale * float32 ((low ||| (pair 128 <<< 4)) - 32)
    | 20u -> half 0 * float32 levels[nibble 2 index]
    | 23u ->
        let part = index / 32
        let low = byteAt (4 + part / 2) >>> (4 * (part % 2)) &&& 15
        let high = (byteAt 2 ||| (byteAt 3 <<< 8)) >>> (2 * part) &&& 3
        half 0
        * float32 ((low ||| (high <<< 4)) - 32)
        * float32 levels[nibble (8 + 16 * part) (index % 32)]
    | _ -> invalidArg (nameof kind) $"{kind}"

/// ggml's dequantize_row functions, a value at a time.
let naive (kind: uint32) (bytes: byte[]) : float32[] =
    let _, format, _ = formatOf kind

    Array.init (bytes.Length / format.Bytes * format.Values) (fun index ->
        valueOf kind bytes (index / format.Values * format.Bytes) (index % format.Values))

/// A .gguf of blocks, each matrix in the format of the ggml number that `kind` has for its name.
let quantisedModel hidden intermediate (kind: string -> uint32) : byte[] =
    let random = Random 5

    let matrix name rows columns =
        let kind = kind name
        let _, format, _ = formatOf kind
        // Of a size at which the scales within a larger block leave values like the others'.
        let scale = if format.Values = 32 then 0.01f else 0.0003f
        let signed (random: Random) : Half = Half.op_Explicit (if random.Next 2 = 0 then scale else -scale)
        let blocks = blocksWith signed random kind (rows * columns / format.Values)
        name, [ uint64 columns; uint64 rows ], kind, blocks

    let norm name =
        name, [ uint64 hidden ], 0u, Array.concat (Array.create hidden (BitConverter.GetBytes 1.0f))

    gguf
        3u
        (modelOf hidden intermediate "llama"
         @ [
             entryInt "llama.attention.key_length" 32
             entryFloat "llama.rope.freq_base" 10000.0f
         ])
        (placed [
            matrix "token_embd.weight" 10 hidden
            norm "blk.0.attn_norm.weight"
            matrix "blk.0.attn_q.weight" 64 hidden
            matrix "blk.0.attn_k.weight" 32 hidden
            matrix "blk.0.attn_v.weight" 32 hidden
            matrix "blk.0.attn_output.weight" hidden 64
            norm "blk.0.ffn_norm.weight"
            matrix "blk.0.ffn_gate.weight" intermediate hidden
            matrix "blk.0.ffn_up.weight" intermediate hidden
            matrix "blk.0.ffn_down.weight" hidden intermediate
            norm "output_norm.weight"
            matrix "output.weight" 10 hidden
        ])

/// Three formats in one file.
let mixed (name: string) =
    match name.Split '.' with
    | [| _; _; "attn_k" | "ffn_gate"; _ |] -> 3u
    | [| _; _; "attn_q" | "attn_output" | "ffn_down"; _ |] -> 2u
    | _ -> 8u

/// One format wherever its blocks fit into the rows, and Q8_0 beside it, as llama.cpp falls back.
let modelOfFormat (kind: uint32) : byte[] =
    quantisedModel 256 256 (fun name -> if name.Contains "attn_output" then 8u else kind)
