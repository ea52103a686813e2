namespace LayerSkip

open System
open System.IO
open System.Text.Json

/// What a tokenizer_config.json adds to the vocabulary beside it.
type internal TokenizerConfig = {
    AddsBos: bool option
    Bos: string option
    Eos: string option
    Template: string option
}

[<RequireQualifiedAccess>]
module internal TokenizerConfig =
    let empty = { AddsBos = None; Bos = None; Eos = None; Template = None }

    /// Turns what a JsonElement throws when it is of another kind than asked for, and what a file does, into errors.
    let guard
        (path: string)
        (read: unit -> Result<'T, LayerSkipError list>)
        : Result<'T, LayerSkipError list> =
        try
            read ()
        with
        | :? InvalidOperationException
        | :? FormatException
        | :? Collections.Generic.KeyNotFoundException as e ->
            Error [ LayerSkipError.BadFile(path, $"not the JSON of a tokenizer: {e.Message}") ]
        | :? IOException
        | :? UnauthorizedAccessException as e -> Error [ LayerSkipError.BadFile(path, e.Message) ]

    // A token is a string, or an object with its `content`.
    let private token name root =
        match TokenizerStages.tryField name root with
        | Some value when value.ValueKind = JsonValueKind.String -> Some(value.GetString())
        | Some value -> TokenizerStages.tryText "content" value
        | None -> None

    // A template is a string, or one of a list under the name "default".
    let private template root =
        match TokenizerStages.tryField "chat_template" root with
        | Some value when value.ValueKind = JsonValueKind.String -> Some(value.GetString())
        | Some value when value.ValueKind = JsonValueKind.Array ->
            value.EnumerateArray()
            |> Seq.tryFind (fun item -> TokenizerStages.tryText "name" item = Some "default")
            |> Option.bind (TokenizerStages.tryText "template")
        | _ -> None

    let private jinja (folder: string) =
        let path = Path.Combine(folder, "chat_template.jinja")
        if File.Exists path then
            Some(File.ReadAllText path)
        else
            None

    /// Reads the configuration of a folder; empty where there is none.
    let load (folder: string) : Result<TokenizerConfig, LayerSkipError list> =
        let path = Path.Combine(folder, "tokenizer_config.json")

        guard path (fun () ->
            if not (File.Exists path) then
                Ok { empty with Template = jinja folder }
            else
                Json.read path ""
                |> Result.map (fun document ->
                    use document = document
                    let root = document.RootElement
                    let kind = TokenizerStages.tryText "tokenizer_class" root
                    // transformers' Llama tokenizers begin texts with BOS unless told otherwise.
                    let isLlama = kind = Some "LlamaTokenizer" || kind = Some "LlamaTokenizerFast"

                    {
                        AddsBos =
                            TokenizerStages.tryField "add_bos_token" root
                            |> Option.map (fun value -> value.GetBoolean())
                            |> Option.orElse (if isLlama then Some true else None)
                        Bos = token "bos_token" root
                        Eos = token "eos_token" root
                        Template = template root |> Option.orElse (jinja folder)
                    }))
