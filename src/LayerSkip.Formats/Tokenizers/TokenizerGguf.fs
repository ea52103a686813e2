namespace LayerSkip

open System.Collections.Generic

/// The tokenizer in the metadata of a GGUF file. Keys `tokenizer.ggml.*` of docs/gguf.md: byte-level BPE (model
/// "gpt2", words by `pre`) and SentencePiece BPE (model "llama", merges from the scores).
[<RequireQualifiedAccess>]
module internal TokenizerGguf =
    /// Metadata with a fault for each entry that is missing or of the wrong kind.
    type private Reader(path: string, metadata: Map<string, GgufValue>) =
        let faults = List<LayerSkipError>()
        let key name = "tokenizer.ggml." + name
        let fault name what = faults.Add(LayerSkipError.BadFile(path, $"{key name} {what}"))

        let optional name what read =
            metadata.TryFind(key name)
            |> Option.bind (fun value ->
                let found = read value
                if Option.isNone found then
                    fault name $"is not {what}"
                found)

        member _.Faults = List.ofSeq faults

        /// The value, or `fallback`; a fault where the key is missing.
        member _.Require(name: string, value: 'T option, fallback: 'T) : 'T =
            if value.IsNone && not (metadata.ContainsKey(key name)) then
                fault name "is missing"
            defaultArg value fallback

        /// Texts by id.
        member _.Texts(name: string) =
            optional name "a list of texts" (function
                | GgufValue.Texts texts -> Some texts
                | _ -> None)

        /// Scores or types by id.
        member _.Numbers(name: string) =
            optional name "a list of numbers" (function
                | GgufValue.Floats values -> Some values
                | GgufValue.Ints values -> Some(Array.map float values)
                | _ -> None)

        /// A token id of 32 bits, at least 0.
        member _.Id(name: string) =
            optional name "an id" (function
                | GgufValue.Int id when 0L <= id && id <= int64 System.Int32.MaxValue -> Some(int id)
                | _ -> None)

        /// true or false.
        member _.Flag(name: string) =
            optional name "true or false" (function
                | GgufValue.Bool flag -> Some flag
                | _ -> None)

        /// A text.
        member _.Text(name: string) = optional name "a text" GgufValue.tryText

        /// A fault where a list is not as long as the vocabulary.
        member _.SameLength(name: string, count: int, expected: int) =
            if count <> expected then
                fault name $"has {count} entries for {expected} tokens"

    let private byteLevel path (reader: Reader) (pieces: string[]) =
        let pre = reader.Text "pre" |> Option.defaultValue "default"
        let texts = reader.Require("merges", reader.Texts "merges", [||])
        let ids = Dictionary<string, int> pieces.Length
        pieces |> Array.iteri (fun id piece -> ids.TryAdd(piece, id) |> ignore)

        // A piece may begin with the space that parts the halves, so the first place is never it.
        let halves (text: string) =
            let space = if text.Length > 1 then text.IndexOf(' ', 1) else -1
            if space < 0 then
                struct (text, "")
            else
                struct (text[.. space - 1], text[space + 1 ..])

        let rule =
            match WordRules.tryFind pre with
            | Some rule -> Ok rule
            | None ->
                Check.unsupported
                    $"{path}: pre-tokenizer {pre}"
                    "those of llama.cpp's that stand for a regular expression are, such as llama-bpe, qwen2 and gpt-2"

        Check.both rule (TokenizerJson.merges path ids (Seq.map halves texts))
        |> Result.map (fun (rule, merges) -> WordRules.parts rule ids merges)

    let private sentencePiece (reader: Reader) (pieces: string[]) (types: int[]) =
        let scores = reader.Require("scores", reader.Numbers "scores", Array.zeroCreate pieces.Length)
        reader.SameLength("scores", scores.Length, pieces.Length)
        let prefix = reader.Flag "add_space_prefix" |> Option.defaultValue true

        if not reader.Faults.IsEmpty then
            Error []
        else
            Ok(SentencePieceBpe.parts prefix (SentencePieceBpe.build pieces scores types true))

    // One key for the usual template, and one with its name behind a dot for each other.
    let private templates (metadata: Map<string, GgufValue>) : (string * string) list = [
        let key = "tokenizer.chat_template"

        for entry in metadata do
            match entry.Value with
            | GgufValue.Text template when entry.Key = key -> "default", template
            | GgufValue.Text template when entry.Key.StartsWith(key + ".", System.StringComparison.Ordinal) ->
                entry.Key[key.Length + 1 ..], template
            | _ -> ()
    ]

    let private build path metadata (model: string) : Result<Tokenizer, LayerSkipError list> =
        let reader = Reader(path, metadata)
        let pieces = reader.Require("tokens", reader.Texts "tokens", [||])

        let types =
            match reader.Numbers "token_type" with
            | Some types -> Array.map int types
            | None -> Array.create pieces.Length PieceType.normal

        reader.SameLength("token_type", types.Length, pieces.Length)

        let parts =
            match model with
            | "gpt2" -> byteLevel path reader pieces
            | "llama" -> sentencePiece reader pieces types
            | other -> Check.unsupported $"{path}: tokenizer model {other}" "gpt2 and llama are"

        let bos, eos = reader.Id "bos_token_id", reader.Id "eos_token_id"
        let addsBos = reader.Flag "add_bos_token"

        match parts with
        | Ok parts when reader.Faults.IsEmpty ->
            let parts = {
                parts with
                    AddsBos = bos.IsSome && defaultArg addsBos parts.AddsBos
                    Bos = bos
                    Eos = eos
                    Templates = templates metadata
            }

            pieces
            |> Seq.mapi (fun id piece -> struct (id, piece))
            |> TokenizerCore.create path parts (PieceType.added false pieces types)
        | _ -> Error(Check.faults parts @ reader.Faults)

    /// None where the metadata names no tokenizer. A pre-tokenizer or model that we do not know is Unsupported; lists
    /// that are missing or too short are BadFile, all at once.
    let load
        (path: string)
        (metadata: Map<string, GgufValue>)
        : Result<Tokenizer option, LayerSkipError list> =
        match metadata.TryFind "tokenizer.ggml.model" with
        | None
        | Some(GgufValue.Text("none" | "no_vocab")) -> Ok None
        | Some(GgufValue.Text model) -> build path metadata model |> Result.map Some
        | Some _ -> Check.bad path "tokenizer.ggml.model is not a text"
