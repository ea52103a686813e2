namespace LayerSkip.Cli

open System.IO
open LayerSkip

/// The model that is used where `--model` names none.
[<RequireQualifiedAccess>]
module DefaultModel =
    /// A small one that answers messages, to be named with --model.
    let chatting = "HuggingFaceTB/SmolLM2-135M-Instruct"

    let private hint =
        "name one with --model: a Hugging Face model folder, a .gguf file, or a model on the hub as org/name"

    /// The models in a folder: the folder itself, its .gguf files, its folders with a config.json.
    let private models (folder: string) =
        let isModel (path: string) = File.Exists(Path.Combine(path, "config.json"))

        if not (Directory.Exists folder) then
            [||]
        elif isModel folder then
            [| folder |]
        else
            Array.append
                (Directory.GetDirectories folder |> Array.filter isModel)
                // A model in several parts is named by its first.
                (Directory.GetFiles(folder, "*.gguf")
                 |> Array.filter (fun path -> List.head (GgufParts.all path) = path))
            |> Array.sort

    /// The one model in `models` of the project that `start` lies in.
    let rec find (start: string) : Result<string, string> =
        if File.Exists(Path.Combine(start, "LayerSkip.FSharp.sln")) then
            let folder = Path.Combine(start, "models")

            match models folder with
            | [| model |] -> Ok model
            | [||] -> Error $"no model: {folder} holds none; put one there, or {hint}"
            | several ->
                let names = several |> Array.map Path.GetFileName |> String.concat ", "
                Error $"no model: {folder} holds several ({names}); name one with --model"
        else
            match Path.GetDirectoryName(Path.TrimEndingDirectorySeparator start) with
            | null ->
                Error
                    $"no model: only a clone of the project has one of its own; {hint} ({chatting} is a small one)"
            | parent -> find parent
