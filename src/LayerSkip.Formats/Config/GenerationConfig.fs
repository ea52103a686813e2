namespace LayerSkip

open System.IO
open System.Text.Json

/// How a model is to be decoded, as its makers have it: `generation_config.json`.
type internal GenerationConfig = {
    /// Its `eos_token_id`, else the configuration's.
    StopIds: int[]
    /// Exit layer and draft length, under transformers' names for drafts by early exit.
    Recommended: (int * int) option
    /// Names of adapters' files in the model's folder.
    Adapters: string list
    /// What nothing here computes with, each name with its raw JSON.
    Kept: (string * string) list
}

[<RequireQualifiedAccess>]
module internal GenerationConfig =
    let private file = "generation_config.json"

    let private stopName, exitName, lengthName =
        "eos_token_id", "assistant_early_exit", "num_assistant_tokens"

    let private adaptersName = "layerskip_adapters"

    /// A list of names of files in the folder itself.
    let private adapters (path: string) (root: JsonElement) : Result<string list, LayerSkipError list> =
        let isName (item: JsonElement) =
            item.ValueKind = JsonValueKind.String
            && item.GetString() <> ""
            && Path.GetFileName(item.GetString()) = item.GetString()

        match root.TryGetProperty adaptersName with
        | true, names when names.ValueKind = JsonValueKind.Array && Seq.forall isName (names.EnumerateArray()) ->
            Ok [ for name in names.EnumerateArray() -> name.GetString() ]
        | true, names when names.ValueKind <> JsonValueKind.Null ->
            Check.bad path $"\"{adaptersName}\" must be a list of names of files in this folder"
        | _ -> Ok []

    /// What is wrong with the exit layer and draft length that a file recommends, under the names that it has for them.
    let faults (config: LlamaConfig) (path: string) (exitName, lengthName) (recommended: (int * int) option) =
        let must holds (name: string) (value: int) wanted =
            Check.that holds (LayerSkipError.BadFile(path, $"\"{name}\" is {value}, it must be {wanted}"))

        match recommended with
        | None -> []
        | Some(exit, length) ->
            must (exit >= 1 && exit < config.Layers) exitName exit (LayerSkipError.oneTo (config.Layers - 1))
            @ must (length >= 1) lengthName length "at least 1"

    /// Of a model's folder; where it has no such file, what its configuration says.
    let read (folder: string) (config: LlamaConfig) : Result<GenerationConfig, LayerSkipError list> =
        let path = Path.Combine(folder, file)

        let ofRoot root =
            let json = JsonReader(path, root)
            let stops = json.TokenIds(stopName, config.Vocabulary) |> Option.defaultValue config.StopIds
            json.TokenIds("bos_token_id", config.Vocabulary) |> ignore
            let length = json.Int(lengthName, 4)
            let recommended = json.TryInt exitName |> Option.map (fun exit -> exit, length)
            let isOurs name =
                List.contains name [ stopName; exitName; adaptersName ]
                || name = lengthName && recommended.IsSome

            Check.both
                (Check.all (json.Faults @ faults config path (exitName, lengthName) recommended) ())
                (adapters path root)
            |> Result.map (fun ((), adapters) -> {
                StopIds = stops
                Recommended = recommended
                Adapters = adapters
                Kept = KeptFields.where (isOurs >> not) root
            })

        match Json.load path "" ofRoot with
        | Error [ LayerSkipError.NotFound _ ] ->
            Ok { StopIds = config.StopIds; Recommended = None; Adapters = []; Kept = [] }
        | result -> result

    /// Writes it into a model's folder; `bos` is the configuration's, which fields that are kept overrule.
    let write (folder: string) (bos: int option) (it: GenerationConfig) : Result<unit, LayerSkipError list> =
        Json.write (fun json ->
            ConfigJsonExport.ids json stopName it.StopIds

            match bos with
            | Some bos when not (List.exists (fun (name, _) -> name = "bos_token_id") it.Kept) ->
                json.WriteNumber("bos_token_id", bos)
            | _ -> ()

            if not it.Adapters.IsEmpty then
                json.WriteStartArray adaptersName
                List.iter (fun (name: string) -> json.WriteStringValue name) it.Adapters
                json.WriteEndArray()

            match it.Recommended with
            | Some(exit, length) ->
                json.WriteNumber(exitName, exit)
                json.WriteNumber(lengthName, length)
                KeptFields.write [ lengthName ] it.Kept json
            | None -> KeptFields.write [] it.Kept json)
        |> AtomicFile.writeBytes (Path.Combine(folder, file))
