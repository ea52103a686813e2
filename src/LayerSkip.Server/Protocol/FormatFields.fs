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
            match named.TryField "schema" with
            | Some schema when
                schema.ValueKind = JsonValueKind.Object
                || schema.ValueKind = JsonValueKind.True
                || schema.ValueKind = JsonValueKind.False
                ->
                TextFormat.Schema(schema.GetRawText())
            | _ ->
                named.Fault("schema", "must be a JSON schema")
                TextFormat.Free

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
