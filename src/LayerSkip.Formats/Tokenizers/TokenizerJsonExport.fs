namespace LayerSkip

open System.IO

/// A tokenizer that came without files of its own, a GGUF's, as those that Hugging Face's libraries read.
[<RequireQualifiedAccess>]
module internal TokenizerJsonExport =
    let private object, stage, sequence =
        TokenizerJsonWriter.object, TokenizerJsonWriter.stage, TokenizerJsonWriter.sequence

    /// Words by these patterns, one after the other, in bytes.
    let private inBytes (patterns: string list) (isNormalized: bool) : (string * obj) list =
        let split (pattern: string) =
            stage "Split" [
                "pattern", object [ "Regex", pattern ]
                "behavior", "Isolated"
                "invert", false
            ]

        let bytes = TokenizerJsonWriter.byteLevel true false

        [
            "normalizer", (if isNormalized then stage "NFC" [] else null)
            "pre_tokenizer", sequence "pretokenizers" (List.map split patterns @ [ bytes ])
            "decoder", bytes
        ]

    /// SentencePiece's way: no words, U+2581 for a space.
    let private inPieces (startsWithSpace: bool) : (string * obj) list =
        let replace (from: string) (into: string) =
            stage "Replace" [ "pattern", object [ "String", from ]; "content", into ]

        let atStart stage = if startsWithSpace then [ stage ] else []

        [
            "normalizer",
            sequence
                "normalizers"
                (atStart (stage "Prepend" [ "prepend", "\u2581" ]) @ [ replace " " "\u2581" ])
            "pre_tokenizer", null
            "decoder",
            sequence
                "decoders"
                ([ replace "\u2581" " "; stage "ByteFallback" []; stage "Fuse" [] ]
                 @ atStart (stage "Strip" [ "content", " "; "start", 1; "stop", 0 ]))
        ]

    let private model (tokenizer: Tokenizer) : obj =
        let bpe = tokenizer.Parts.Bpe

        // A piece that stands twice means its first id.
        let vocabulary =
            tokenizer.Pieces
            |> Seq.indexed
            |> Seq.filter (fun (_, piece) -> piece <> "")
            |> Seq.distinctBy snd
            |> Seq.map (fun (id, piece) -> piece, box id)

        stage "BPE" [
            "dropout", null
            "unk_token",
            (match bpe.Unknown with
             | Some id -> box tokenizer.Pieces[id]
             | None -> null)
            "fuse_unk", (bpe.Unknown.IsSome && bpe.FuseUnknown)
            "byte_fallback", bpe.ByteFallback.IsSome
            "ignore_merges", bpe.Words.IsSome
            "vocab", object (List.ofSeq vocabulary)
            "merges", GgufTokenizerExport.merges tokenizer
        ]

    let private file (patterns: string list) (isNormalized: bool) (tokenizer: Tokenizer) : byte[] =
        let parts = tokenizer.Parts
        let prefix = [ for id in parts.Prefix -> id, tokenizer.Pieces[id] ]

        TokenizerJsonWriter.file [
            "version", "1.0"
            "truncation", null
            "padding", null
            "added_tokens", TokenizerJsonWriter.added tokenizer.Added.Values
            yield!
                (match parts.Spelling with
                 | Spelling.ByteLevel -> inBytes patterns isNormalized
                 | Spelling.SentencePiece _ -> inPieces parts.DropsFirstSpace)
            "post_processor",
            (if parts.AddsBos then
                 TokenizerJsonWriter.template prefix
             else
                 null)
            "model", model tokenizer
        ]

    let private config (tokenizer: Tokenizer) : byte[] =
        let piece = Option.map (fun id -> tokenizer.Pieces[id])
        TokenizerJsonWriter.config
            tokenizer.Parts.AddsBos
            (piece tokenizer.Parts.Bos)
            (piece tokenizer.Parts.Eos)
            tokenizer.Parts.Templates
            None

    /// Whether a folder's tokenizer cuts, encodes and decodes as the source does.
    let private agrees (source: Tokenizer) (folder: string) =
        let ids = Tokenizer.encode source GgufTokenizerExport.probe

        match Tokenizer.tryLoad folder with
        | Ok(Some made) ->
            GgufTokenizerExport.encodesAlike made source
            && Tokenizer.decode false made ids = Tokenizer.decode false source ids
            && (made.Parts.Bos, made.Parts.Eos, made.Parts.AddsBos) =
                (source.Parts.Bos, source.Parts.Eos, source.Parts.AddsBos)
        | Ok None
        | Error _ -> false

    /// Writes tokenizer.json and tokenizer_config.json into a folder; false, and nothing, where no form of them encodes alike.
    let tryWrite (folder: string) (tokenizer: Tokenizer) : Result<bool, LayerSkipError list> =
        let json = Path.Combine(folder, "tokenizer.json")
        let beside = Path.Combine(folder, "tokenizer_config.json")

        let candidates =
            match tokenizer.Parts.Spelling with
            | Spelling.ByteLevel -> [
                for name in GgufTokenizerExport.preTokenizers do
                    match WordRules.tryFind name with
                    | Some rule -> rule.Patterns, rule.IsNormalized
                    | None -> ()
              ]
            | Spelling.SentencePiece _ -> [ [], false ]

        let tried (patterns, isNormalized) =
            AtomicFile.writeBytes json (file patterns isNormalized tokenizer)
            |> Result.map (fun () -> agrees tokenizer folder)

        let rec find candidates =
            match candidates with
            | [] ->
                File.Delete json
                File.Delete beside
                Ok false
            | candidate :: others ->
                tried candidate |> Result.bind (fun agrees -> if agrees then Ok true else find others)

        AtomicFile.writeBytes beside (config tokenizer) |> Result.bind (fun () -> find candidates)
