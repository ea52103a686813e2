namespace LayerSkip

open System
open System.Buffers.Text
open System.Text.Json
open System.Text.Unicode

/// Reading one JSON object: optional fields, with a fault for each of the wrong kind.
type internal JsonReader private (path: string, root: JsonElement, faults: ResizeArray<LayerSkipError>) =
    let isId (value: JsonElement) = value.ValueKind = JsonValueKind.Number && fst (value.TryGetInt32())

    let fault text = faults.Add(LayerSkipError.BadFile(path, text))

    new(path, root) = JsonReader(path, root, ResizeArray())

    member _.Faults = List.ofSeq faults
    member _.Fault(text: string) = fault text

    member _.TryField(name: string) : JsonElement option =
        match root.TryGetProperty name with
        | true, value when value.ValueKind <> JsonValueKind.Null -> Some value
        | _ -> None

    /// An object inside, whose faults are reported with this one's.
    member this.Object(name: string) : JsonReader option =
        match this.TryField name with
        | Some value when value.ValueKind = JsonValueKind.Object -> Some(JsonReader(path, value, faults))
        | Some _ ->
            fault $"\"{name}\" must be an object"
            None
        | None -> None

    member this.Float(name: string, fallback: float) : float =
        match this.TryField name with
        // GetDouble reads 1e999 as infinity.
        | Some value when value.ValueKind = JsonValueKind.Number && Double.IsFinite(value.GetDouble()) ->
            value.GetDouble()
        | Some _ ->
            fault $"\"{name}\" must be a finite number"
            fallback
        | None -> fallback

    /// A whole number that a float could not hold.
    member this.Long(name: string, fallback: int64) : int64 =
        match this.TryField name with
        | Some value ->
            let isNumber = value.ValueKind = JsonValueKind.Number

            if isNumber && fst (value.TryGetInt64()) then
                value.GetInt64()
            else
                fault $"\"{name}\" must be a whole number of 64 bits"
                fallback
        | None -> fallback

    member this.TryInt(name: string) : int option =
        match this.TryField name with
        | Some value ->
            match value.ValueKind with
            | JsonValueKind.Number when value.GetDouble() = Math.Floor(value.GetDouble()) ->
                let number = value.GetDouble()

                if abs number <= float Int32.MaxValue then
                    Some(int number)
                else
                    fault
                        $"\"{name}\" is {value.GetRawText()}, which is too big; it must be at most {Int32.MaxValue}"
                    None
            | _ ->
                fault $"\"{name}\" must be a whole number"
                None
        | None -> None

    member this.Int(name: string, fallback: int) : int = this.TryInt name |> Option.defaultValue fallback

    /// A count that must be there, at least 1 and at most `most`.
    member this.Size(name: string, most: int) : int =
        match this.TryField name, this.TryInt name with
        | None, _ ->
            fault $"\"{name}\" is missing"
            1
        | Some _, Some size when size > most ->
            fault $"\"{name}\" is {size}, which is too big; it must be at most {most}"
            1
        | Some _, Some size when size >= 1 -> size
        | Some _, Some size ->
            fault $"\"{name}\" is {size}, it must be at least 1"
            1
        | Some _, None -> 1

    member this.Size(name: string) : int = this.Size(name, Int32.MaxValue)

    member this.Bool(name: string, fallback: bool) : bool =
        match this.TryField name with
        | Some value when value.ValueKind = JsonValueKind.True || value.ValueKind = JsonValueKind.False ->
            value.GetBoolean()
        | Some _ ->
            fault $"\"{name}\" must be true or false"
            fallback
        | None -> fallback

    member this.TryString(name: string) : string option =
        match this.TryField name with
        | Some value when value.ValueKind = JsonValueKind.String -> Some(value.GetString())
        | Some _ ->
            fault $"\"{name}\" must be a string"
            None
        | None -> None

    /// A number or a list of numbers.
    member this.Ids(name: string) : int[] option =
        match this.TryField name with
        | Some value when isId value -> Some [| value.GetInt32() |]
        | Some value when value.ValueKind = JsonValueKind.Array && value.EnumerateArray() |> Seq.forall isId ->
            Some [| for id in value.EnumerateArray() -> id.GetInt32() |]
        | Some _ ->
            fault $"\"{name}\" must be an id or a list of ids"
            None
        | None -> None

    /// A list of numbers, of any length.
    member this.Floats(name: string) : float list =
        match this.TryField name with
        | Some value when
            value.ValueKind = JsonValueKind.Array
            && value.EnumerateArray() |> Seq.forall (fun item -> item.ValueKind = JsonValueKind.Number)
              ->
              [ for item in value.EnumerateArray() -> item.GetDouble() ]
        | Some _ ->
            fault $"\"{name}\" must be a list of numbers"
            []
        | None -> []

    /// `Ids` of tokens in a vocabulary of this size.
    member this.TokenIds(name: string, vocabulary: int) : int[] option =
        let ids = this.Ids name

        match ids |> Option.bind (Array.tryFind (fun id -> id < 0 || id >= vocabulary)) with
        | Some id ->
            fault
                $"\"{name}\" names {id}, which is outside the vocabulary; ids run from 0 to {vocabulary - 1}"
        | None -> ()

        ids

[<RequireQualifiedAccess>]
module internal Json =
    /// Where a text stops being JSON, without the parser's own words, which speak of its code.
    let place (e: JsonException) : string =
        match e.LineNumber.HasValue, e.BytePositionInLine.HasValue with
        | true, true ->
            $"not valid JSON: fault at line {e.LineNumber.Value + 1L}, byte {e.BytePositionInLine.Value + 1L}"
        | _ -> "not valid JSON"

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
        let begins (mark: byte list) = List.ofArray (Array.truncate mark.Length bytes) = mark

        let text = ReadOnlyMemory(bytes).Slice(Utf8Text.markLength (ReadOnlySpan bytes))

        if begins [ 0xFFuy; 0xFEuy ] || begins [ 0xFEuy; 0xFFuy ] then
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

    /// Parses a file into its root object. The document must outlive the reader.
    let read (path: string) (hint: string) : Result<JsonDocument, LayerSkipError list> =
        let bad text = Error [ LayerSkipError.BadFile(path, text) ]

        match SourceFile.readAll path hint |> Result.map parse with
        | Error faults -> Error faults
        | Ok(Error fault) -> bad $"{fault}; repair it, or get it again"
        | Ok(Ok document) when document.RootElement.ValueKind = JsonValueKind.Object -> Ok document
        | Ok(Ok document) ->
            document.Dispose()
            bad "not a JSON object"
