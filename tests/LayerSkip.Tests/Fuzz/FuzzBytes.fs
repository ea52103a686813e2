/// Bytes and lines of any file, changed as a damaged disk or somebody who means harm would.
module LayerSkip.Tests.FuzzBytes

open System
open System.Text

type Mutation = Random -> byte[] -> byte[]

let pick (random: Random) (items: 'T[]) = items[random.Next items.Length]

let splice (file: byte[]) (start: int) (length: int) (put: byte[]) =
    Array.concat [ file[.. start - 1]; put; file[start + length ..] ]

/// Whole numbers at which a size, an index or a product of two turns over.
let edges = [|
    yield! [
        0L
        1L
        2L
        3L
        7L
        16L
        31L
        33L
        64L
        127L
        128L
        255L
        256L
        65535L
        65536L
        65537L
        100000L
    ]
    yield! [
        268435458L
        536870913L
        0x7fffffffL
        0x80000000L
        0xffffffffL
        0x100000000L
        0x100000001L
    ]
    yield! [ 1L <<< 53; 1L <<< 62; Int64.MaxValue; Int64.MinValue; -1L; -2L; -128L ]
|]

/// float32 values that a norm or an angle cannot stand, as their bits.
let floatEdges = [|
    for value in
        [
            nanf
            infinityf
            -infinityf
            -1.0f
            0.0f
            1e30f
            3e38f
            1e-30f
            1e-44f
            65504.0f
            65536.0f
        ] -> int64 (BitConverter.SingleToUInt32Bits value)
|]

/// Bits flipped, bytes set, pieces cut out, doubled, moved or zeroed, the end cut off.
let rec bytes (random: Random) (file: byte[]) : byte[] =
    if file.Length = 0 then
        [| byte (random.Next 256) |]
    else
        let at = random.Next file.Length
        let length = random.Next(1, 1 + min 64 (file.Length - at))

        match random.Next 9 with
        | 0 -> splice file at 1 [| file[at] ^^^ byte (1 <<< random.Next 8) |]
        | 1 -> splice file at 1 [| byte (random.Next 256) |]
        | 2 -> splice file at length [||]
        | 3 -> splice file at 0 file[at .. at + length - 1]
        | 4 -> splice file (random.Next file.Length) 0 file[at .. at + length - 1]
        | 5 -> splice file at length (Array.zeroCreate length)
        | 6 -> file[.. at - 1]
        | 7 ->
            let number = BitConverter.GetBytes(pick random edges)
            let width = min (pick random [| 1; 2; 4; 8 |]) (file.Length - at)
            splice file at width number[.. width - 1]
        | _ -> Array.append file file[at .. at + length - 1]

/// A line left out, given twice, joined, parted or made long.
let lines (random: Random) (file: byte[]) : byte[] =
    let lines = Encoding.Latin1.GetString(file).Split '\n'
    let at = random.Next lines.Length

    let changed =
        match random.Next 6 with
        | 0 -> Array.removeAt at lines
        | 1 -> Array.insertAt (random.Next lines.Length) lines[at] lines
        | 2 -> Array.updateAt at (lines[at].Replace(" ", "")) lines
        | 3 -> Array.updateAt at (lines[at] + " x") lines
        | 4 -> Array.updateAt at (String('a', 20_000) + " b") lines
        | _ -> Array.updateAt at "" lines

    Encoding.Latin1.GetBytes(String.Join('\n', changed))
