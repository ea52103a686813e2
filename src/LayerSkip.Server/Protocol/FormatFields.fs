namespace LayerSkip.Server

open System.Text.Json

/// What a text must be, as `response_format` says it.
[<RequireQualifiedAccess>]
type TextFormat =
    /// Anything.
    | Free
    /// A JSON object.
    | Json
    /// JSON that a schema allows; the schema as text.
    | Schema of string

/// Reads `response_format`.
[<RequireQualifiedAccess>]
module internal FormatFields =
    let private schema (reader: RequestReader) : TextFormat =
        match reader.Object "json_schema" with
        | None ->
            if reader.TryField("json_schema").IsNone then
                reader.Fault("json_schema", "is missing; it must be an object with \"schema\"")

            TextFormat.Free
        | Some named ->
            let must = "a JSON schema: an object, true or false"

            let read (value: JsonElement) =
                match value.ValueKind with
                | JsonValueKind.Object
                | JsonValueKind.True
                | JsonValueKind.False -> Some(TextFormat.Schema(value.GetRawText()))
                | _ -> None

            named.Required("schema", must, fun name -> named.Read(name, must, read))
            |> Option.defaultValue TextFormat.Free

    /// Free where nothing is said.
    let read (reader: RequestReader) : TextFormat =
        match reader.Object "response_format" with
        | None -> TextFormat.Free
        | Some format ->
            match format.Word("type", [ "text", 0; "json_object", 1; "json_schema", 2 ]) with
            | Some 1 -> TextFormat.Json
            | Some 2 -> schema format
            | Some _ -> TextFormat.Free
            | None ->
                if format.TryField("type").IsNone then
                    format.Fault("type", "is missing; it must be text, json_object or json_schema")

                TextFormat.Free
