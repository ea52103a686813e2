namespace LayerSkip

open System
open System.Collections.Generic
open System.IO

/// GPT-2's two files: a vocab.json of pieces, and a merges.txt of pairs by rank.
[<RequireQualifiedAccess>]
module internal TokenizerVocab =
    /// The rule by which a class of transformers' makes words.
    let private ruleOf path (config: TokenizerConfig) =
        match config.Class with
        | None
        | Some "GPT2Tokenizer" -> Ok "gpt-2"
        | Some "Qwen2Tokenizer" -> Ok "qwen2"
        | Some other ->
            Check.unsupported
                $"{path}: a vocabulary of {other}"
                "those of GPT2Tokenizer and Qwen2Tokenizer are; a tokenizer.json of the same model may work"

    // The first line names the version.
    let private pairs (text: byte[]) : seq<struct (string * string)> =
        (Utf8Text.decode text).Split('\n', StringSplitOptions.TrimEntries)
        |> Seq.filter (fun line -> line <> "" && not (line.StartsWith("#version", StringComparison.Ordinal)))
        |> Seq.map (fun line ->
            match line.IndexOf ' ' with
            | -1 -> struct (line, "")
            | space -> struct (line[.. space - 1], line[space + 1 ..]))

    let private build path mergesPath (config: TokenizerConfig) (root: JsonPart) =
        let ids = TokenizerJson.vocabulary root

        let merges =
            SourceFile.readAll mergesPath "GPT-2's merges are needed"
            |> Result.bind (fun text -> TokenizerJson.merges mergesPath ids (pairs text))

        Check.both (ruleOf path config) merges
        |> Result.bind (fun (rule, merges) ->
            let rule = (WordRules.tryFind rule).Value
            let beside = config.Added |> Seq.map _.Content |> HashSet
            let ending = "<|endoftext|>"

            // What is named as special, or ends a text, is special though it stands among the pieces.
            let added =
                config.Added
                @ [
                    for name in List.distinct (ending :: config.Special) do
                        match ids.TryGetValue name with
                        | true, id when not (beside.Contains name) -> AddedToken.plain id name true
                        | _ -> ()
                ]

            let idOf name = added |> List.tryFind (fun token -> token.Content = name) |> Option.map _.Id
            // GPT-2's; Qwen 2 has none.
            let usual = if rule.IsNormalized then None else Some ending
            let bos = config.Bos |> Option.orElse usual |> Option.bind idOf

            let parts = WordRules.parts rule ids merges

            let parts = {
                parts with
                    Words =
                        PreTokenizer.sequence [
                            if config.AddsPrefixSpace then
                                PreTokenizer.prefixSpace
                            parts.Words
                        ]
                    AddsBos = bos.IsSome && config.AddsBos = Some true
                    Bos = bos
                    Eos = config.Eos |> Option.defaultValue ending |> idOf
                    Templates = config.Templates
            }

            TokenizerCore.create path parts added (AddedToken.pieces ids config.Added))

    /// Reads a folder's two files, and the tokenizer_config.json and added_tokens.json beside them. The class that
    /// tokenizer_config.json names says how words are made: GPT-2's or Qwen 2's; others are Unsupported.
    let load (folder: string) : Result<Tokenizer, LayerSkipError list> =
        let path, mergesPath = Path.Combine(folder, "vocab.json"), Path.Combine(folder, "merges.txt")

        TokenizerConfig.load folder
        |> Result.bind (fun config ->
            JsonPart.load path "GPT-2's vocabulary is needed" (build path mergesPath config))
