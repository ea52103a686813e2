namespace LayerSkip

open System
open System.IO
open System.Text.Json
open System.Text.RegularExpressions

/// Which files of a repository make the model that is meant. Paths have "/" between their parts.
type internal HubPlan = {
    /// What says which others are needed: they come first.
    First: string list
    /// The others that are known already.
    Rest: string list
    /// Whose presence makes a folder a model: it comes last.
    Last: string
    /// Whether the model is this last file, and not the folder.
    IsGguf: bool
}

/// What a repository has and what of it is needed; never a pickle. Nothing here asks a network.
[<RequireQualifiedAccess>]
module internal HubFiles =
    let private config, generation, index, single =
        "config.json", "generation_config.json", "model.safetensors.index.json", "model.safetensors"

    /// What goes with weights, where it is there.
    let private beside = [
        "tokenizer.json"
        "tokenizer.model"
        "vocab.json"
        "merges.txt"
        "tokenizer_config.json"
        "special_tokens_map.json"
        "added_tokens.json"
        "chat_template.jinja"
    ]

    let private hasEnd (ending: string) (path: string) =
        path.EndsWith(ending, StringComparison.OrdinalIgnoreCase)

    /// The models among the .gguf files, each with its parts in order; projectors and importance matrices are none.
    let private ggufs (names: string list) : string list list =
        let isModel (path: string) =
            let name = Path.GetFileName path

            hasEnd ".gguf" path
            && not (
                name.StartsWith("mmproj", StringComparison.OrdinalIgnoreCase)
                || name.Contains("imatrix", StringComparison.OrdinalIgnoreCase)
            )

        names
        |> List.filter isModel
        |> List.groupBy (GgufParts.all >> List.head)
        |> List.map (fun (first, _) -> GgufParts.all first)
        |> List.sort

    /// Whether a path says so of its model: "-Q4_K_M." does not say Q4_K.
    let private says (quantisation: string) (path: string) =
        Regex.IsMatch(
            path,
            $"(^|[-./]){Regex.Escape quantisation}([-./]|$)",
            RegexOptions.IgnoreCase ||| RegexOptions.CultureInvariant
        )

    /// The one that is meant, or what to write instead. As llama.cpp, of several Q4_K_M where none is named.
    let private chooseGguf (file: string option) (models: string list list) : Result<string list, string> =
        let named =
            match file with
            | None -> models
            | Some file when hasEnd ".gguf" file ->
                models
                |> List.filter (List.exists (fun part -> part = file || Path.GetFileName part = file))
            | Some quantisation -> models |> List.filter (List.head >> says quantisation)

        let list (models: string list list) =
            let shown = models |> List.truncate 8 |> List.map List.head |> String.concat ", "
            if models.Length > 8 then
                $"{shown}, and {models.Length - 8} more"
            else
                shown

        match named, named |> List.filter (List.head >> says "Q4_K_M") with
        | [ only ], _ -> Ok only
        | [], _ when models.IsEmpty -> Error "it has no .gguf file; leave out what follows \":\""
        | [], _ -> Error $"it has no .gguf file \"{file.Value}\"; it has {list models}"
        | _, [ usual ] when file.IsNone -> Ok usual
        | several, _ -> Error $"it has several models: {list several}; name one as NAME:FILE"

    let private planGguf (file: string option) (names: string list) (models: string list list) =
        chooseGguf file models
        |> Result.bind (fun parts ->
            match List.except names parts with
            | [] -> Ok { First = []; Rest = List.tail parts; Last = List.head parts; IsGguf = true }
            | absent :: _ -> Error $"its model in {parts.Length} files lacks {absent}; name another")

    let private planFolder (names: string list) =
        let has name = List.contains name names
        let isWeights (name: string) = not (name.Contains '/') && hasEnd ".safetensors" name

        let plan weights first = {
            First = first @ List.filter has [ generation ]
            Rest = weights @ List.filter has beside
            Last = config
            IsGguf = false
        }

        match List.filter isWeights names with
        | _ when not (has config) ->
            Error "it has neither a config.json nor a .gguf file: no model that is read here; name another"
        | _ when has single -> Ok(plan [ single ] [])
        | _ when has index -> Ok(plan [] [ index ])
        | [ only ] -> Ok(plan [ only ] [])
        | [] when names |> List.exists (hasEnd ".bin") ->
            Error
                "its weights are pickles (.bin), which are never read here; take a repository that has them as .safetensors"
        | [] -> Error "it has no weights as .safetensors or .gguf; name another"
        | several -> Error $"it has {several.Length} .safetensors files and no {index}; name another"

    /// What to bring of a repository with these files: GGUF where one is named, or where there are no safetensors.
    let plan (file: string option) (names: string list) : Result<HubPlan, string> =
        let names = names |> List.filter HubName.isFile
        let models = ggufs names

        if file.IsSome then
            planGguf file names models
        else
            match planFolder names with
            | Error _ when not models.IsEmpty -> planGguf None names models
            | planned -> planned

    // Whatever else is wrong with such a file is told when the model is read.
    let private names (read: JsonElement -> string seq) (bytes: byte[]) : string list =
        match Json.parse bytes with
        | Error _ -> []
        | Ok document ->
            use document = document

            if document.RootElement.ValueKind = JsonValueKind.Object then
                read document.RootElement
                |> Seq.filter (fun name -> HubName.isFile name && not (name.Contains '/'))
                |> Seq.distinct
                |> List.ofSeq
            else
                []

    let private textOf (value: JsonElement) =
        if value.ValueKind = JsonValueKind.String then
            value.GetString()
        else
            ""

    /// What one of `First` names: the shards of an index, the adapters of a generation_config.json.
    let named (path: string) (bytes: byte[]) : string list =
        let values
            (name: string)
            (kind: JsonValueKind)
            (items: JsonElement -> string list)
            (root: JsonElement)
            =
            match root.TryGetProperty name with
            | true, value when value.ValueKind = kind -> items value
            | _ -> []

        let ofObject (map: JsonElement) = [ for entry in map.EnumerateObject() -> textOf entry.Value ]
        let ofList (list: JsonElement) = [ for item in list.EnumerateArray() -> textOf item ]

        if path = index then
            names (values "weight_map" JsonValueKind.Object ofObject >> Seq.ofList) bytes
        elif path = generation then
            names (values "layerskip_adapters" JsonValueKind.Array ofList >> Seq.ofList) bytes
        else
            []

    /// Whether a model cannot be without what `path` names. Adapters it can.
    let isBinding (path: string) : bool = path = index
