namespace LayerSkip

open System
open System.Buffers.Text
open System.Globalization
open System.IO
open System.Text.Json
open System.Text.Unicode

/// Reads one JSON object: optional fields, with a fault for each of the wrong kind.
[<Sealed>]
type internal JsonReader private (path: string, root: JsonElement, faults: ResizeArray<LayerSkipError>) =
    inherit FieldReader<JsonElement>(path, faults)

    static let isNumber (value: JsonElement) = value.ValueKind = JsonValueKind.Number
    static let isId (value: JsonElement) = isNumber value && fst (value.TryGetInt32())

    static let isList (isItem: JsonElement -> bool) (value: JsonElement) =
        value.ValueKind = JsonValueKind.Array && value.EnumerateArray() |> Seq.forall isItem

    static let where (isWanted: JsonElement -> bool) (get: JsonElement -> 'T) (value: JsonElement) =
        if isWanted value then Some(get value) else None

    new(path, root) = JsonReader(path, root, ResizeArray())

    override _.TryField(name: string) : JsonElement option =
        match root.TryGetProperty name with
        | true, value when value.ValueKind <> JsonValueKind.Null -> Some value
        | _ -> None

    /// A number without a fraction, also one that is written as 1e3.
    override this.TryInt(name: string) : int option =
        let isWhole (value: JsonElement) = isNumber value && value.GetDouble() = Math.Floor(value.GetDouble())

        match this.TryRead(name, "a whole number", where isWhole id) with
        | Some value when abs (value.GetDouble()) > float Int32.MaxValue ->
            this.Fault
                $"\"{name}\" is {value.GetRawText()}, which is too big; it must be at most {Int32.MaxValue}"
            None
        | value -> value |> Option.map (fun value -> int (value.GetDouble()))

    /// An object inside, whose faults are reported with this one's.
    member this.Object(name: string) : JsonReader option =
        let isObject (value: JsonElement) = value.ValueKind = JsonValueKind.Object
        this.TryRead(name, "an object", where isObject (fun value -> JsonReader(path, value, faults)))

    /// A finite number of 64 bits; `fallback` where it is absent or another.
    member this.Float(name: string, fallback: float) : float =
        // GetDouble reads 1e999 as infinity.
        let isFinite (value: JsonElement) = isNumber value && Double.IsFinite(value.GetDouble())
        this.TryRead(name, "a finite number", where isFinite _.GetDouble())
        |> Option.defaultValue fallback

    /// A whole number that a float could not hold.
    member this.Long(name: string, fallback: int64) : int64 =
        let isLong (value: JsonElement) = isNumber value && fst (value.TryGetInt64())
        this.TryRead(name, "a whole number of 64 bits", where isLong _.GetInt64())
        |> Option.defaultValue fallback

    /// `TryInt`, or `fallback`.
    member this.Int(name: string, fallback: int) : int = this.TryInt name |> Option.defaultValue fallback

    /// true or false; `fallback` where it is absent or neither.
    member this.Bool(name: string, fallback: bool) : bool =
        let isBool (value: JsonElement) =
            value.ValueKind = JsonValueKind.True || value.ValueKind = JsonValueKind.False
        this.TryRead(name, "true or false", where isBool _.GetBoolean())
        |> Option.defaultValue fallback

    /// A text, of any length.
    member this.TryString(name: string) : string option =
        let isString (value: JsonElement) = value.ValueKind = JsonValueKind.String
        this.TryRead(name, "a string", where isString _.GetString())

    /// Whole numbers of 32 bits: one, or a list of any length.
    member this.Ids(name: string) : int[] option =
        let all (value: JsonElement) =
            if isId value then
                [| value.GetInt32() |]
            else
                [| for id in value.EnumerateArray() -> id.GetInt32() |]

        this.TryRead(name, "an id or a list of ids", where (fun value -> isId value || isList isId value) all)

    /// A list of numbers, of any length.
    member this.Floats(name: string) : float list =
        let all (value: JsonElement) = [ for item in value.EnumerateArray() -> item.GetDouble() ]
        this.TryRead(name, "a list of numbers", where (isList isNumber) all)
        |> Option.defaultValue []

    /// `Ids` of tokens in a vocabulary of this size. One outside 0 to `vocabulary` - 1 is a fault.
    member this.TokenIds(name: string, vocabulary: int) : int[] option =
        let ids = this.Ids name

        match ids |> Option.bind (Array.tryFind (fun id -> id < 0 || id >= vocabulary)) with
        | Some id ->
            this.Fault
                $"\"{name}\" names {id}, which is outside the vocabulary; ids run from 0 to {vocabulary - 1}"
        | None -> ()

        ids

/// JSON (RFC 8259) in UTF-8. A name that stands twice means its last value, as in Python.
[<RequireQualifiedAccess>]
module internal Json =
    /// Where a text stops being JSON, without the parser's own words, which speak of its code.
    let place (e: JsonException) : string =
        match e.LineNumber.HasValue, e.BytePositionInLine.HasValue with
        | true, true ->
            $"not valid JSON: fault at line {e.LineNumber.Value + 1L}, byte {e.BytePositionInLine.Value + 1L}"
        | _ -> "not valid JSON"

    /// How a string spells a character of its own [UTF-16]; null where it stands as it is.
    let spelled (unit: int) : string =
        match unit with
        | 34 -> "\\\""
        | 92 -> "\\\\"
        | 8 -> "\\b"
        | 9 -> "\\t"
        | 10 -> "\\n"
        | 12 -> "\\f"
        | 13 -> "\\r"
        | _ when unit < 0x20 -> "\\u" + unit.ToString("x4", CultureInfo.InvariantCulture)
        | _ -> null

    let private backslash = byte '\\'

    /// The code unit of an escape `\u....` that starts with its backslash; None of anything else.
    let private escaped (text: ReadOnlySpan<byte>) : int option =
        let mutable unit, used = 0, 0

        if
            text.Length >= 6
            && text[1] = byte 'u'
            && Utf8Parser.TryParse(text.Slice(2, 4), &unit, &used, 'x')
            && used = 4
        then
            Some unit
        else
            None

    /// Whether some escape is half of a surrogate pair without its other half: no text, though the grammar has it.
    let private hasHalf (text: ReadOnlySpan<byte>) : bool =
        let mutable rest = text
        let mutable found = false
        let mutable next = rest.IndexOf backslash

        while next >= 0 && not found do
            rest <- rest.Slice next

            let length =
                match escaped rest with
                | Some unit when Char.IsHighSurrogate(char unit) ->
                    match escaped (rest.Slice 6) with
                    | Some low when Char.IsLowSurrogate(char low) -> 12
                    | _ ->
                        found <- true
                        6
                | Some unit ->
                    found <- Char.IsLowSurrogate(char unit)
                    6
                | None -> min 2 rest.Length

            rest <- rest.Slice length
            next <- rest.IndexOf backslash

        found

    /// Parses text in UTF-8, with or without a byte-order mark, or says in a phrase what it is instead. Every string of the
    /// document is one: GetString of an element would throw where bytes are no UTF-8 or a surrogate stands alone.
    let parse (bytes: byte[]) : Result<JsonDocument, string> =
        let text = ReadOnlyMemory(bytes).Slice(Utf8Text.markLength (ReadOnlySpan bytes))

        if Utf8Text.isUtf16 (ReadOnlySpan bytes) then
            Error "in UTF-16; save it as UTF-8"
        elif not (Utf8.IsValid text.Span) then
            Error "not valid JSON: it holds text that is not valid Unicode (UTF-8)"
        elif hasHalf text.Span then
            Error "not valid JSON: it holds text that is not valid Unicode, half of a surrogate pair"
        else
            try
                Ok(JsonDocument.Parse text)
            with :? JsonException as e ->
                Error(place e)

    /// What `read` makes of the root object of a UTF-8 file of at most 1 GiB; nothing of it may outlive `read`.
    let load (path: string) (hint: string) (read: JsonElement -> Result<'T, LayerSkipError list>) =
        SourceFile.readAll path hint
        |> Result.bind (fun bytes ->
            match parse bytes with
            | Error fault -> Check.bad path $"{fault}; repair it, or get it again"
            | Ok document ->
                use document = document

                if document.RootElement.ValueKind = JsonValueKind.Object then
                    read document.RootElement
                else
                    Check.bad path "not a JSON object")

    /// An object over several lines, in UTF-8, with a newline at its end; `fields` writes what is in it.
    let write (fields: Utf8JsonWriter -> unit) : byte[] =
        use memory = new MemoryStream()
        using (new Utf8JsonWriter(memory, JsonWriterOptions(Indented = true))) (fun json ->
            json.WriteStartObject()
            fields json
            json.WriteEndObject())
        memory.WriteByte(byte '\n')
        memory.ToArray()
