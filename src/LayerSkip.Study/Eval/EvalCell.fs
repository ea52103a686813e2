namespace LayerSkip

open System.Text.Json

/// Scores as the cells of a run's file hold them.
[<RequireQualifiedAccess>]
module internal EvalCell =
    let private writeFields (fields: EvalFields) (json: Utf8JsonWriter) =
        for name, numbers in fields.Numbers do
            json |> JsonWrite.array name numbers json.WriteNumberValue

        for name, text in fields.Texts do
            json.WriteString(name, text)

    /// What a cell's object holds beside its number.
    let write (score: EvalScore) (json: Utf8JsonWriter) : unit =
        json |> JsonWrite.object "item" (writeFields score.Item)

        json
        |> JsonWrite.objects "exits" score.Exits (fun (exit, fields) ->
            json.WriteNumber("exit_layer", exit)
            writeFields fields json)

    let private fieldsOf (part: JsonPart) : EvalFields =
        let fields = List.ofSeq part.Fields

        let numbers (part: JsonPart) =
            if part.Kind = JsonValueKind.Array then
                Some [ for item in part.Items -> item.Number ]
            else
                None

        {
            Numbers = [
                for struct (name, value) in fields do
                    match numbers value with
                    | Some numbers -> name, numbers
                    | None -> ()
            ]
            Texts = [
                for struct (name, value) in fields do
                    if value.Kind = JsonValueKind.String then
                        name, value.Text
            ]
        }

    let private ofPart (root: JsonPart) : EvalScore = {
        Item = fieldsOf (root.Field "item")
        Exits = [
            for exit in (root.Field "exits").Items -> (exit.Field "exit_layer").Int, fieldsOf exit
        ]
    }

    /// The score that a cell holds; `path` is for messages.
    let read (path: string) (cell: RunCell) : Result<EvalScore, LayerSkipError list> =
        JsonPart.guard path (fun () ->
            use document = JsonDocument.Parse cell.Json
            Ok(ofPart (JsonPart document.RootElement)))
        |> Result.mapError (fun _ -> [
            LayerSkipError.BadFile(path, $"cell {cell.Cell} is none that eval writes; the file is damaged")
        ])
