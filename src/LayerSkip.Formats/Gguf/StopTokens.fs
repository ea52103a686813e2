namespace LayerSkip

open System.Collections.Generic

/// The tokens at which a GGUF file's texts end.
[<RequireQualifiedAccess>]
module internal StopTokens =
    /// All of them, in order: llama.cpp has one key each for the end of a text, of a message and of a turn, and takes others
    /// by their names, so that neither holds any list.
    let key = "layerskip.stop_token_ids"

    /// llama.cpp's keys, in transformers' order of Llama 3's three.
    let keys = [ "eos"; "eom"; "eot" ] |> List.map (fun name -> $"tokenizer.ggml.{name}_token_id")

    // Ends of text, message and turn, and what stands between the files of a repository.
    let private names =
        [
            "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s>"
            "<|eom_id|> <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response>"
            "<\uFF5Cend\u2581of\u2581sentence\uFF5C> [e~[ <|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]"
            "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame> <|file_sep|>"
        ]
        |> Seq.collect _.Split(' ')
        |> HashSet

    // Where these name other ends, a text goes on after the one beside them.
    let private unless: (string * string list list) list = [
        "<|end|>",
        [
            [ "<|return|>"; "<|call|>" ]
            [ "<|return|>"; "<|calls|>" ]
            [ "<|call|>"; "<|flush|>" ]
            [ "<|calls|>"; "<|flush|>" ]
        ]
        "</s>", [ [ "<|tool_response>" ] ]
    ]

    /// The ids of a vocabulary whose names end a text, whatever the metadata's keys say. In the order of ids. The
    /// names are llama.cpp's (llama-vocab.cpp, "special_eog_ids").
    let named (pieces: string[]) : int list =
        let found = Dictionary<string, int>()

        pieces
        |> Array.iteri (fun id piece ->
            if names.Contains piece then
                found[piece] <- id)

        for name, groups in unless do
            if groups |> List.exists (List.forall found.ContainsKey) then
                found.Remove name |> ignore

        found.Values |> Seq.sort |> List.ofSeq

    /// Those of a file's metadata, inside the vocabulary: our own list where there is one, else `declared`, which
    /// llama.cpp's keys name, and those of known names. The error is a phrase for the caller to put the path to.
    let ofMetadata
        (vocabulary: int)
        (declared: int list)
        (metadata: Map<string, GgufValue>)
        : Result<int[], string> =
        match metadata.TryFind key, metadata.TryFind "tokenizer.ggml.tokens" with
        | Some(GgufValue.Ints ids), _ when ids |> Array.forall (fun id -> 0L <= id && id < int64 vocabulary) ->
            Ok(Array.map int ids)
        | Some _, _ -> Error $"\"{key}\" must be a list of ids from 0 to {vocabulary - 1}"
        | None, Some(GgufValue.Texts pieces) ->
            declared @ (named pieces |> List.filter (fun id -> id < vocabulary))
            |> List.distinct
            |> Array.ofList
            |> Ok
        | None, _ -> declared |> List.distinct |> Array.ofList |> Ok

    /// As metadata.
    let metadata (ids: int[]) : (string * GgufValue) list = [ key, GgufValue.Ints(Array.map int64 ids) ]
