namespace LayerSkip

open System.Buffers
open System.Text
open System.Text.Encodings.Web
open System.Text.Json

/// Writes JSON for other programs to read, in one line. Writers of a field come last, for pipes.
[<RequireQualifiedAccess>]
module internal JsonWrite =
    /// No web page: quotes and letters of any script stay readable.
    let options = JsonWriterOptions(Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping)

    /// One object, on one line.
    let line (fields: Utf8JsonWriter -> unit) : string =
        let buffer = ArrayBufferWriter<byte>()

        using (new Utf8JsonWriter(buffer, options)) (fun json ->
            json.WriteStartObject()
            fields json
            json.WriteEndObject())

        Encoding.UTF8.GetString buffer.WrittenSpan

    /// "name": an object with these fields.
    let object (name: string) (fields: Utf8JsonWriter -> unit) (json: Utf8JsonWriter) : unit =
        json.WriteStartObject name
        fields json
        json.WriteEndObject()

    /// "name": an array, an element for each item.
    let array (name: string) (items: 'T seq) (write: 'T -> unit) (json: Utf8JsonWriter) : unit =
        json.WriteStartArray name
        Seq.iter write items
        json.WriteEndArray()

    /// "name": an array, an object for each item, with the fields that `write` writes.
    let objects (name: string) (items: 'T seq) (write: 'T -> unit) (json: Utf8JsonWriter) : unit =
        json
        |> array name items (fun item ->
            json.WriteStartObject()
            write item
            json.WriteEndObject())

    /// "name": an array of whole numbers.
    let ints (name: string) (items: int seq) (json: Utf8JsonWriter) : unit =
        array name items (fun item -> json.WriteNumberValue item) json

    /// "name": an object with a number for each item.
    let counts (name: string) (items: (string * int) seq) (json: Utf8JsonWriter) : unit =
        json
        |> object name (fun json -> items |> Seq.iter (fun (key, count) -> json.WriteNumber(key, count)))

    let private orNull (name: string) (value: 'T option) (write: 'T -> unit) (json: Utf8JsonWriter) : unit =
        match value with
        | Some value -> write value
        | None -> json.WriteNull name

    /// "name": the number, or null.
    let intOrNull (name: string) (value: int option) (json: Utf8JsonWriter) : unit =
        json |> orNull name value (fun value -> json.WriteNumber(name, value))

    /// "name": the text, or null.
    let textOrNull (name: string) (value: string option) (json: Utf8JsonWriter) : unit =
        json |> orNull name value (fun value -> json.WriteString(name, value))

    /// "name": an object with the fields that are written of a value, or null.
    let objectOrNull (name: string) (value: 'T option) (fields: 'T -> unit) (json: Utf8JsonWriter) : unit =
        json |> orNull name value (fun value -> json |> object name (fun _ -> fields value))
