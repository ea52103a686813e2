namespace LayerSkip

open System.Text.Json

/// A field of a record as a JSON object holds it, for writing and reading alike. A list of them is a format: who adds
/// a field to a record adds one line, for both directions.
[<NoEquality; NoComparison>]
type internal JsonField<'Record> = {
    Name: string
    /// Files of earlier versions may lack it.
    IsOptional: bool
    Write: Utf8JsonWriter -> 'Record -> unit
    /// The record with the value that the reader has; faults go to the reader.
    Read: JsonReader -> 'Record -> 'Record
}

/// Fields by the type of their values: `get` takes the value from a record, `set` puts one in. A missing field keeps
/// the value that the record has, and is a fault unless it is `optional`.
[<RequireQualifiedAccess>]
module internal JsonField =
    let private create name write read = { Name = name; IsOptional = false; Write = write; Read = read }

    /// The field, which files may lack.
    let optional (field: JsonField<'R>) = { field with IsOptional = true }

    /// A finite number of 64 bits.
    let real name (get: 'R -> float) (set: float -> 'R -> 'R) =
        create name (fun json it -> json.WriteNumber(name, get it)) (fun json it ->
            set (json.Float(name, get it)) it)

    /// A whole number of 32 bits.
    let whole name (get: 'R -> int) (set: int -> 'R -> 'R) =
        create name (fun json it -> json.WriteNumber(name, get it)) (fun json it ->
            set (json.Int(name, get it)) it)

    /// A whole number of 64 bits.
    let long name (get: 'R -> int64) (set: int64 -> 'R -> 'R) =
        create name (fun json it -> json.WriteNumber(name, get it)) (fun json it ->
            set (json.Long(name, get it)) it)

    /// true or false.
    let bool name (get: 'R -> bool) (set: bool -> 'R -> 'R) =
        create name (fun json it -> json.WriteBoolean(name, get it)) (fun json it ->
            set (json.Bool(name, get it)) it)

    /// A text.
    let text name (get: 'R -> string) (set: string -> 'R -> 'R) =
        create name (fun json it -> json.WriteString(name, get it)) (fun json it ->
            set (json.TryString name |> Option.defaultValue (get it)) it)

    /// A text that stands for a value; what the text may be is said where it is another.
    let parsed name (format: 'T -> string) (parse: string -> Result<'T, string>) (get: 'R -> 'T) set =
        create name (fun json it -> json.WriteString(name, format (get it))) (fun json it ->
            match json.TryString name |> Option.map parse with
            | Some(Ok value) -> set value it
            | Some(Error fault) ->
                json.Fault fault
                it
            | None -> it)

    /// One of some named values.
    let oneOf name (known: (string * 'T) list) (get: 'R -> 'T) set =
        let format value = known |> List.find (snd >> (=) value) |> fst

        let parse text =
            match List.tryFind (fst >> (=) text) known with
            | Some(_, value) -> Ok value
            | None ->
                let allowed = known |> List.map fst |> String.concat ", "
                Error $"\"{name}\" is \"{text}\", it must be one of {allowed}"

        parsed name format parse get set

    let private list name (writeItem: Utf8JsonWriter -> 'T -> unit) (get: 'R -> 'T list) read =
        let write (json: Utf8JsonWriter) it =
            json.WriteStartArray(name: string)
            get it |> List.iter (writeItem json)
            json.WriteEndArray()

        create name write read

    /// Whole numbers of 32 bits, in their order.
    let wholes name (get: 'R -> int list) set =
        list name (fun json (value: int) -> json.WriteNumberValue value) get (fun json it ->
            set (json.Ids name |> Option.map List.ofArray |> Option.defaultValue (get it)) it)

    /// Numbers of 64 bits, in their order.
    let reals name (get: 'R -> float list) set =
        list name (fun json (value: float) -> json.WriteNumberValue value) get (fun json it ->
            set (json.Floats name) it)

    /// A part's field, which stands among those of the whole.
    let ofPart (get: 'R -> 'Part) (set: 'Part -> 'R -> 'R) (field: JsonField<'Part>) : JsonField<'R> = {
        Name = field.Name
        IsOptional = field.IsOptional
        Write = fun json it -> field.Write json (get it)
        Read = fun json it -> set (field.Read json (get it)) it
    }

    /// Writes the fields of an object that has begun.
    let write (fields: JsonField<'R> list) (json: Utf8JsonWriter) (it: 'R) : unit =
        for field in fields do
            field.Write json it

    /// The record with all that the reader has; what is missing, and may not be, is a fault.
    let read (fields: JsonField<'R> list) (json: JsonReader) (it: 'R) : 'R =
        (it, fields)
        ||> List.fold (fun it field ->
            match json.TryField field.Name with
            | Some _ -> field.Read json it
            | None ->
                if not field.IsOptional then
                    json.Fault $"has no \"{field.Name}\""

                it)

    /// An object inside, which others write and read.
    let insideBy name writeInner readInner (get: 'R -> 'Inner) (set: 'Inner -> 'R -> 'R) =
        let write (json: Utf8JsonWriter) it =
            json.WriteStartObject(name: string)
            writeInner json (get it)
            json.WriteEndObject()

        create name write (fun json it ->
            match json.Object name with
            | Some inner -> set (readInner inner (get it)) it
            | None -> it)

    /// An object inside, of these fields.
    let inside name (fields: JsonField<'Inner> list) get (set: 'Inner -> 'R -> 'R) =
        insideBy name (write fields) (read fields) get set
