/// JSON, changed in what it calls a value and a name; and the header of a safetensors file.
module LayerSkip.Tests.FuzzJson

open System
open System.Buffers.Binary
open System.Text
open System.Text.Json
open LayerSkip.Tests.FuzzBytes

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
