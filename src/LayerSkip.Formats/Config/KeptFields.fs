namespace LayerSkip

open System.Text.Json

/// Fields of a model's JSON files that nothing here computes with, each name with its raw JSON: who writes the model again
/// writes them too.
type KeptFields = {
    /// Of config.json.
    OfConfig: (string * string) list
    /// Of generation_config.json: its sampling, for one.
    OfGeneration: (string * string) list
}

/// Taking them from an object and writing them again, byte for byte.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module KeptFields =
    /// No field.
    let none: KeptFields = { OfConfig = []; OfGeneration = [] }

    /// An object's fields of which `isKept` holds; of two with one name the last, as every reader has it.
    let internal where (isKept: string -> bool) (root: JsonElement) : (string * string) list =
        [ for field in root.EnumerateObject() -> field.Name, field.Value.GetRawText() ]
        |> List.filter (fst >> isKept)
        |> List.rev
        |> List.distinctBy fst
        |> List.rev

    /// Of a config.json that was found good.
    let ofConfig (path: string) : KeptFields =
        Json.load path "" (fun root -> Ok { none with OfConfig = where ((=) "pad_token_id") root })
        |> Result.defaultValue none

    /// Writes them after an object's own fields, which come first.
    let internal write (own: string list) (fields: (string * string) list) (json: Utf8JsonWriter) : unit =
        for name, value in fields do
            if not (List.contains name own) then
                json.WritePropertyName name
                json.WriteRawValue value
