/// GGUF and protobuf, changed in what they call a value, a count or an entry; and which mutation knows a file's format.
module LayerSkip.Tests.FuzzMutation

open System
open System.Buffers.Binary
open System.Text
open LayerSkip.Tests.FuzzBytes
open LayerSkip.Tests.FuzzJson

// ---- GGUF ----

[<RequireQualifiedAccess>]
type private Field =
    | Number of at: int * width: int
    /// Of its length's eight bytes and what follows.
    | Text of at: int * length: int
    /// A metadata entry or a tensor's.
    | Entry of at: int * length: int * countAt: int

let private widths = [| 1; 1; 2; 2; 4; 4; 4; 1; 0; 0; 8; 8; 8 |]

/// The fields of a GGUF's header, and where it ends; fewer where it is damaged.
let private ggufFields (file: byte[]) : Field[] * int =
    let fields = ResizeArray<Field>()
    let mutable at = 4

    let number width =
        fields.Add(Field.Number(at, width))
        let value =
            match width with
            | 1 -> uint64 file[at]
            | 2 -> uint64 (BitConverter.ToUInt16(file, at))
            | 4 -> uint64 (BitConverter.ToUInt32(file, at))
            | _ -> BitConverter.ToUInt64(file, at)

        at <- at + width
        value

    let text () =
        let length = int (BitConverter.ToUInt64(file, at))
        fields.Add(Field.Text(at, length))
        at <- at + 8 + length

    let value kind =
        match kind with
        | 8 -> text ()
        | kind when kind < widths.Length && widths[kind] > 0 -> number widths[kind] |> ignore
        | _ -> failwith "an unknown type"

    try
        number 4 |> ignore
        let tensors = number 8
        let entries = number 8

        for _ in 1UL .. entries do
            let start = at
            text ()

            match int (number 4) with
            | 9 ->
                let kind = int (number 4)
                let count = number 8

                for _ in 1UL .. count do
                    value kind
            | kind -> value kind

            fields.Add(Field.Entry(start, at - start, 16))

        for _ in 1UL .. tensors do
            let start = at
            text ()

            for _ in 1UL .. number 4 do
                number 8 |> ignore

            number 4 |> ignore
            number 8 |> ignore
            fields.Add(Field.Entry(start, at - start, 8))
    with _ ->
        ()

    fields.ToArray(), at

let private texts = [|
    ""
    "x"
    "\u001b[31m"
    "<0x0A>"
    "<|im_end|>"
    "general.architecture"
    "gpt2"
    "llama"
    "llama.attention.key_length"
    "blk.0.attn_q.weight"
    "output.weight"
    "rope_freqs.weight"
    String('▁', 3)
    String('a', 50_000)
|]

/// A number set to an edge, a text changed, an entry left out or given twice; mostly with counts and padding put right.
let gguf (random: Random) (file: byte[]) : byte[] =
    match ggufFields file with
    | [||], _ -> bytes random file
    | fields, stop ->
        let aligned size = (size + 31) / 32 * 32
        let header, data = file[.. stop - 1], file[min file.Length (aligned stop) ..]

        /// The header, padded again, and the data.
        let whole (header: byte[]) =
            Array.concat [ header; Array.zeroCreate (aligned header.Length - header.Length); data ]

        let recount countAt change (header: byte[]) =
            if random.Next 10 = 0 then
                header
            else
                let count = BitConverter.ToInt64(header, countAt) + change
                splice header countAt 8 (BitConverter.GetBytes count)

        match random.Next 10 with
        | 0 -> bytes random file
        | 1 -> Array.append header (bytes random file[stop..])
        | _ ->
            match pick random fields with
            | Field.Number(at, width) ->
                let current = header[at .. at + width - 1]
                let around =
                    BinaryPrimitives.ReadInt64LittleEndian(
                        ReadOnlySpan(Array.append current (Array.zeroCreate 8))
                    )

                let value =
                    match random.Next 4 with
                    | 0 when width = 4 -> pick random floatEdges
                    | 0
                    | 1 -> around + pick random [| -1L; 1L; 32L; around |]
                    | _ -> pick random edges

                let put = BitConverter.GetBytes value
                whole (splice header at width put[.. width - 1])
            | Field.Text(at, length) ->
                let text =
                    match pick random fields with
                    | Field.Text(at, length) when random.Next 2 = 0 -> header[at + 8 .. at + 7 + length]
                    | _ when random.Next 2 = 0 -> bytes random header[at + 8 .. at + 7 + length]
                    | _ -> Encoding.UTF8.GetBytes(pick random texts)

                let put = Array.append (BitConverter.GetBytes(int64 text.Length)) text
                whole (splice header at (8 + length) put)
            | Field.Entry(at, length, countAt) ->
                let entry = header[at .. at + length - 1]

                match random.Next 3 with
                | 0 -> splice header at length [||] |> recount countAt -1L |> whole
                | 1 -> splice header at 0 entry |> recount countAt 1L |> whole
                | _ ->
                    let many = pick random [| 2; 50; 500 |]
                    splice header at 0 (Array.concat (Array.create many entry))
                    |> recount countAt (int64 many)
                    |> whole

// ---- tokenizer.model ----

/// The fields at the top of a protobuf message, tag and all; fewer where it is damaged.
let private protobufFields (file: byte[]) : (int * int)[] =
    let fields = ResizeArray<int * int>()
    let mutable at = 0

    let varint () =
        let mutable value, shift, more = 0UL, 0, true

        while more do
            value <- value ||| (uint64 (file[at] &&& 127uy) <<< shift)
            more <- file[at] >= 128uy
            shift <- shift + 7
            at <- at + 1

        value

    try
        while at < file.Length do
            let start = at

            match varint () &&& 7UL with
            | 0UL -> varint () |> ignore
            | 1UL -> at <- at + 8
            | 2UL ->
                let length = int (varint ())
                at <- at + length
            | 5UL -> at <- at + 4
            | _ -> failwith "an unknown type"

            fields.Add(start, at - start)
    with _ ->
        ()

    fields.ToArray()

/// A piece or another field left out, given twice, moved or changed inside.
let protobuf (random: Random) (file: byte[]) : byte[] =
    match protobufFields file with
    | [||] -> bytes random file
    | fields ->
        let at, length = pick random fields
        let field = file[at .. at + length - 1]

        match random.Next 6 with
        | 0 -> splice file at length [||]
        | 1 -> splice file at 0 field
        | 2 -> splice file (fst (pick random fields)) 0 field
        | 3
        | 4 -> splice file at length (bytes random field)
        | _ -> bytes random file

/// The mutation that knows a file's format, by its name. A file that an earlier one broke too much for it is any file.
let ofFile (name: string) : Mutation =
    let mutate =
        if name.EndsWith ".json" then json
        elif name.EndsWith ".safetensors" then safetensors
        elif name.EndsWith ".gguf" then gguf
        elif name.EndsWith ".model" then protobuf
        elif name.EndsWith ".txt" then lines
        else bytes

    fun random file ->
        try
            mutate random file
        with
        | :? ArgumentException
        | :? IndexOutOfRangeException
        | :? OverflowException -> bytes random file
