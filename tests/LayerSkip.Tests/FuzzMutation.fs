/// Files of a model, changed as a damaged disk or somebody who means harm would: bytes anywhere, and what each format
/// calls a value, a name, a count or an entry.
module LayerSkip.Tests.FuzzMutation

open System
open System.Buffers.Binary
open System.Text
open System.Text.Json

type Mutation = Random -> byte[] -> byte[]

let private pick (random: Random) (items: 'T[]) = items[random.Next items.Length]

let private splice (file: byte[]) (start: int) (length: int) (put: byte[]) =
    Array.concat [ file[.. start - 1]; put; file[start + length ..] ]

/// Whole numbers at which a size, an index or a product of two turns over.
let private edges = [|
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
let private floatEdges = [|
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

// ---- JSON ----

/// Where a value lies; a member's also knows where its name starts.
[<Struct>]
type private Span = { Start: int; Stop: int; NameStart: int }

/// The values of a JSON text, members' names apart; none where it is no JSON.
let private jsonSpans (file: byte[]) : Span[] * (int * int)[] =
    let values, names = ResizeArray<Span>(), ResizeArray<int * int>()
    let opened = Collections.Generic.Stack<int * int>()
    let mutable name = -1

    try
        let mutable reader = Utf8JsonReader(ReadOnlySpan file, JsonReaderOptions(MaxDepth = 512))

        while reader.Read() do
            let start = int reader.TokenStartIndex
            let stop = int reader.BytesConsumed

            match reader.TokenType with
            | JsonTokenType.PropertyName ->
                // BytesConsumed is behind the colon.
                names.Add(start, start + reader.ValueSpan.Length + 2)
                name <- start
            | JsonTokenType.StartObject
            | JsonTokenType.StartArray ->
                opened.Push(start, name)
                name <- -1
            | JsonTokenType.EndObject
            | JsonTokenType.EndArray ->
                let start, name = opened.Pop()
                values.Add { Start = start; Stop = stop; NameStart = name }
            | _ ->
                values.Add { Start = start; Stop = stop; NameStart = name }
                name <- -1
    with _ ->
        ()

    values.ToArray(), names.ToArray()

let private quoted (text: string) = $"\"{text}\""

let private jsonValues = [|
    yield! [
        "null"
        "true"
        "false"
        "[]"
        "{}"
        "[null]"
        """{"a":null}"""
        "[0,0,0]"
        "[[1,2],[3]]"
        "\"\""
    ]
    yield! [
        "-1"
        "0"
        "1"
        "0.5"
        "-0.0"
        "1e-320"
        "1e308"
        "1e999"
        "-1e999"
        "1e18"
        "3"
        "48"
        "1E5"
    ]
    yield! [ for edge in edges -> string edge ]
    yield! [ "9223372036854775808"; "18446744073709551616" ]
    yield!
        List.map quoted [
            "x"
            " "
            "\\ud800"
            "\\u001b[31m\\u0000"
            "\\u0000"
            "llama"
            "yarn"
            "qwen3"
            "F16"
            "BF16"
            "I64"
            "../../etc/passwd"
            "(a+)+$"
            "("
            "[[:alpha:]&&[^a]]"
            "((((a?){30}){30}){30}){30}"
            "\\\\p{Foo}"
            "[z-a]"
            "(?<a>a)\\\\k<a>"
            "(?>a*)b"
            "\ufffd\u0301\u0323"
            "<0x41>"
            "▁"
            "{% for m in messages %}"
        ]
    "[" + String.replicate 70 "[" + String.replicate 70 "]" + "]"
    String('9', 20_000)
    "1." + String('3', 20_000)
    quoted (String('a', 100_000))
    "[" + String.Join(",", Array.create 20_000 "0") + "]"
    "[" + String.Join(",", Array.create 5_000 "{}") + "]"
|]

let private comma (file: byte[]) (start: int) (stop: int) =
    let isSpace (b: byte) = b = 32uy || b = 10uy || b = 13uy || b = 9uy
    let mutable after = stop
    while after < file.Length && isSpace file[after] do
        after <- after + 1

    let mutable before = start - 1
    while before >= 0 && isSpace file[before] do
        before <- before - 1

    if after < file.Length && file[after] = byte ',' then
        start, after + 1
    elif before >= 0 && file[before] = byte ',' then
        before, stop
    else
        start, stop

/// A value replaced by an odd one or by another of the file, a member or item left out or given twice, a name changed.
let json (random: Random) (file: byte[]) : byte[] =
    match jsonSpans file with
    | [||], _ -> bytes random file
    | values, names ->
        let span = pick random values
        let first = if span.NameStart >= 0 then span.NameStart else span.Start
        let raw (text: string) = Encoding.UTF8.GetBytes text

        match random.Next 12 with
        | 0
        | 1
        | 2
        | 3
        | 4 -> splice file span.Start (span.Stop - span.Start) (raw (pick random jsonValues))
        | 5
        | 6 ->
            let other = pick random values
            splice file span.Start (span.Stop - span.Start) file[other.Start .. other.Stop - 1]
        | 7 ->
            let start, stop = comma file first span.Stop
            splice file start (stop - start) [||]
        | 8 ->
            let other = pick random values
            splice file first 0 (Array.append file[first .. span.Stop - 1] (raw ","))
            |> fun doubled ->
                if random.Next 2 = 0 then
                    doubled
                else
                    splice doubled other.Start 0 [||]
        | 9 when names.Length > 0 ->
            let start, stop = pick random names
            let from, till = pick random names
            splice file start (stop - start) file[from .. till - 1]
        | 10 ->
            // Not UTF-8 inside a text.
            splice file (min (span.Start + 1) (file.Length - 1)) 1 [| 0xffuy |]
        | _ -> bytes random file

// ---- safetensors ----

/// The header as JSON, mostly with its length put right; or the values, or any byte.
let safetensors (random: Random) (file: byte[]) : byte[] =
    let length =
        if file.Length < 8 then
            -1L
        else
            BitConverter.ToInt64(file, 0)

    if length < 0L || length > int64 (file.Length - 8) then
        bytes random file
    else
        let length = int length
        let header, data = file[8 .. 7 + length], file[8 + length ..]

        match random.Next 8 with
        | 0 -> bytes random file
        | 1 when data.Length >= 4 ->
            let value = BitConverter.GetBytes(pick random floatEdges)[..3]
            let at = random.Next(data.Length / 4) * 4
            Array.concat [ file[.. 7 + length]; splice data at 4 value ]
        | 2 -> Array.concat [ file[.. 7 + length]; bytes random data ]
        | kind ->
            let changed = json random header
            let size = if kind = 3 then pick random edges else int64 changed.Length
            Array.concat [ BitConverter.GetBytes size; changed; data ]

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

// ---- merges.txt ----

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
