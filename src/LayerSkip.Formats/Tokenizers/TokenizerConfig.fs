namespace LayerSkip

open System
open System.Collections.Generic
open System.IO
open System.Text.Json

/// What the files beside a vocabulary add to it: tokenizer_config.json, added_tokens.json, special_tokens_map.json.
type internal TokenizerConfig = {
    /// The tokenizer_class, without "Fast" at its end.
    Class: string option
    AddsBos: bool option
    AddsPrefixSpace: bool
    Bos: string option
    Eos: string option
    /// Tokens of added_tokens_decoder, and of added_tokens.json.
    Added: AddedToken list
    /// All that is named as a special token.
    Special: string list
    /// Chat templates by name.
    Templates: (string * string) list
} with

    /// Whether transformers' own post-processor of these classes stands in place of the file's, which begins a text with BOS
    /// unless add_bos_token is false.
    member this.BeginsAsLlama =
        match this.Class with
        | Some("LlamaTokenizer" | "CodeLlamaTokenizer" | "GemmaTokenizer" | "CohereTokenizer") -> true
        | _ -> false

/// Reading them as transformers does (tokenization_utils_base.py): a token is a string or an object, the template may
/// be a file of its own.
[<RequireQualifiedAccess>]
module internal TokenizerConfig =
    /// Of a folder that has none of them.
    let empty = {
        Class = None
        AddsBos = None
        AddsPrefixSpace = false
        Bos = None
        Eos = None
        Added = []
        Special = []
        Templates = []
    }

    // A token is a string, or an object with its `content`.
    let private token (part: JsonPart) : string option =
        match part.Kind with
        | JsonValueKind.String -> Some part.Text
        | JsonValueKind.Object -> part.TryText "content"
        | _ -> None

    let private named name (root: JsonPart) = root.TryField name |> Option.bind token

    let private specials (root: JsonPart) : string list = [
        for name in [ "bos"; "eos"; "unk"; "pad"; "sep"; "cls"; "mask" ] do
            yield! Option.toList (named $"{name}_token" root)
        match root.TryField "additional_special_tokens" with
        | Some tokens when tokens.Kind = JsonValueKind.Array -> yield! tokens.Items |> Seq.choose token
        | _ -> ()
    ]

    // A template is a string, or several are a list of objects with name and template.
    let private templates (root: JsonPart) : (string * string) list =
        match root.TryField "chat_template" with
        | Some part when part.Kind = JsonValueKind.String -> [ "default", part.Text ]
        | Some part when part.Kind = JsonValueKind.Array -> [
            for item in part.Items do
                if item.Kind = JsonValueKind.Object then
                    match item.TryText "name", item.TryText "template" with
                    | Some name, Some template -> name, template
                    | _ -> ()
          ]
        | _ -> []

    let private file (path: string) : string option =
        SourceFile.tryReadAll path |> Check.getOrRaise |> Option.map Utf8Text.decode

    /// Templates in files of their own: the usual one, and those of a folder by their names.
    let private jinja (folder: string) : (string * string) list =
        let others = Path.Combine(folder, "additional_chat_templates")

        [
            for template in Option.toList (file (Path.Combine(folder, "chat_template.jinja"))) do
                "default", template

            if Directory.Exists others then
                for path in Array.sort (Directory.GetFiles(others, "*.jinja")) do
                    for template in Option.toList (file path) do
                        Path.GetFileNameWithoutExtension path, template
        ]

    // A file of its own goes before what tokenizer_config.json says, as in transformers.
    let private withFiles (folder: string) (inConfig: (string * string) list) : (string * string) list =
        match jinja folder with
        | [] -> inConfig
        | inFiles -> inFiles

    /// added_tokens_decoder: tokens by id.
    let private decoder (root: JsonPart) : AddedToken list =
        match root.TryField "added_tokens_decoder" with
        | None -> []
        | Some tokens -> [
            for struct (id, token) in tokens.Fields ->
                match Int32.TryParse id with
                | true, id -> AddedToken.ofJson id (token.Field "content").Text token
                | _ -> token.Fault "must be named by an id"
          ]

    let private config (folder: string) (root: JsonPart) : Result<TokenizerConfig, LayerSkipError list> =
        let fast = "Fast"

        Ok {
            Class =
                root.TryText "tokenizer_class"
                |> Option.map (fun name ->
                    if name.EndsWith(fast, StringComparison.Ordinal) then
                        name[.. name.Length - 1 - fast.Length]
                    else
                        name)
            AddsBos = root.TryField "add_bos_token" |> Option.map _.Bool
            AddsPrefixSpace = root.Flag("add_prefix_space", false)
            Bos = named "bos_token" root
            Eos = named "eos_token" root
            Added = decoder root
            Special = specials root
            Templates = withFiles folder (templates root)
        }

    /// Tokens of an added_tokens.json, by their text.
    let private addedTokens
        (special: string list)
        (root: JsonPart)
        : Result<AddedToken list, LayerSkipError list> =
        Ok [
            for struct (content, id) in root.Fields ->
                AddedToken.plain id.Int content (List.contains content special)
        ]

    let private orEmpty (path: string) (fallback: 'T) (read: JsonPart -> Result<'T, LayerSkipError list>) =
        if File.Exists path then
            JsonPart.load path "" read
        else
            Ok fallback

    /// Reads what a folder has of them: each may be missing.
    let load (folder: string) : Result<TokenizerConfig, LayerSkipError list> =
        let file name = Path.Combine(folder, name)

        JsonPart.guard folder (fun () -> Ok { empty with Templates = jinja folder })
        |> Result.bind (fun none -> orEmpty (file "tokenizer_config.json") none (config folder))
        |> Result.bind (fun config ->
            orEmpty (file "special_tokens_map.json") [] (specials >> Ok)
            |> Result.map (fun more -> { config with Special = config.Special @ more }))
        |> Result.bind (fun config ->
            orEmpty (file "added_tokens.json") [] (addedTokens config.Special)
            |> Result.map (fun added ->
                let known = config.Added |> Seq.map _.Id |> HashSet
                let more = added |> List.filter (fun token -> not (known.Contains token.Id))
                { config with Added = config.Added @ more }))
