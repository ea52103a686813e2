namespace LayerSkip

open System.IO
open System.Text.Json

/// The layer set that a model's folder recommends for drafts: a field of generation_config.json, which goes wherever the others go.
[<RequireQualifiedAccess>]
module DraftLayers =
    /// Its name; its value is spelled as `LayerSet.tryParse` reads it.
    let field = "layerskip_draft_layers"

    /// The set that the folder recommends, if it does; a value that is no set of the model's layers is the file's fault.
    let recommended (checkpoint: Checkpoint) : Result<LayerSet option, LayerSkipError list> =
        let path = Path.Combine(checkpoint.Path, "generation_config.json")
        let bad what = Check.bad path $"\"{field}\" {what}"

        match checkpoint.Kept.OfGeneration |> List.tryFind (fun (name, _) -> name = field) with
        | None -> Ok None
        | Some(_, raw) ->
            use document = JsonDocument.Parse raw

            if document.RootElement.ValueKind <> JsonValueKind.String then
                bad $"is {raw}, it must be a string, as \"1-10,15,30\""
            else
                match LayerSet.tryParse checkpoint.Config.Layers (document.RootElement.GetString()) with
                | Ok set -> Ok(Some set)
                | Error faults -> bad $"is {raw}: {LayerSkipError.summary faults}"

    /// The same model with another recommendation, which `Export` writes.
    let recommend (set: LayerSet) (checkpoint: Checkpoint) : Checkpoint =
        let others = checkpoint.Kept.OfGeneration |> List.filter (fun (name, _) -> name <> field)

        {
            checkpoint with
                Kept.OfGeneration = others @ [ field, JsonSerializer.Serialize $"{set}" ]
        }
