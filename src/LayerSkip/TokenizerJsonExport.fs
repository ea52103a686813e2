namespace LayerSkip

open System.IO
open System.Text.Json

/// A tokenizer that came without files of its own, a GGUF's, as those that Hugging Face's libraries read.
[<RequireQualifiedAccess>]
module internal TokenizerJsonExport =
    let private kind (json: Utf8JsonWriter) (name: string) = json.WriteString("type", name)
    let private object, array, item =
        TokenizerJsonWriter.object, TokenizerJsonWriter.array, TokenizerJsonWriter.item

    let private byteLevel json (name: string) =
        object json name (fun () -> TokenizerJsonWriter.byteLevel json true false)

    /// Words by these patterns, one after the other, in bytes.
    let private inBytes json (patterns: string list) (isNormalized: bool) =
        if isNormalized then
            object json "normalizer" (fun () -> kind json "NFC")
        else
            json.WriteNull "normalizer"

        object json "pre_tokenizer" (fun () ->
            kind json "Sequence"

            array json "pretokenizers" (fun () ->
                for pattern in patterns do
                    item json (fun () ->
                        kind json "Split"
                        object json "pattern" (fun () -> json.WriteString("Regex", pattern))
                        json.WriteString("behavior", "Isolated")
                        json.WriteBoolean("invert", false))

                item json (fun () -> TokenizerJsonWriter.byteLevel json true false)))

        byteLevel json "decoder"

    /// SentencePiece's way: no words, U+2581 for a space.
    let private inPieces json (startsWithSpace: bool) =
        let replace (from: string) (into: string) =
            item json (fun () ->
                kind json "Replace"
                object json "pattern" (fun () -> json.WriteString("String", from))
                json.WriteString("content", into))

        object json "normalizer" (fun () ->
            kind json "Sequence"

            array json "normalizers" (fun () ->
                if startsWithSpace then
                    item json (fun () ->
                        kind json "Prepend"
                        json.WriteString("prepend", "\u2581"))

                replace " " "\u2581"))

        json.WriteNull "pre_tokenizer"

        object json "decoder" (fun () ->
            kind json "Sequence"

            array json "decoders" (fun () ->
                replace "\u2581" " "
                item json (fun () -> kind json "ByteFallback")
                item json (fun () -> kind json "Fuse")

                if startsWithSpace then
                    item json (fun () ->
                        kind json "Strip"
                        json.WriteString("content", " ")
                        json.WriteNumber("start", 1)
                        json.WriteNumber("stop", 0))))

    let private model json (tokenizer: Tokenizer) =
        let bpe = tokenizer.Parts.Bpe

        object json "model" (fun () ->
            kind json "BPE"
            json.WriteNull "dropout"

            match bpe.Unknown with
            | Some id -> json.WriteString("unk_token", tokenizer.Pieces[id])
            | None -> json.WriteNull "unk_token"

            json.WriteBoolean("fuse_unk", bpe.Unknown.IsSome && bpe.FuseUnknown)
            json.WriteBoolean("byte_fallback", bpe.ByteFallback.IsSome)
            json.WriteBoolean("ignore_merges", bpe.Words.IsSome)

            object json "vocab" (fun () ->
                // A piece that stands twice means its first id.
                tokenizer.Pieces
                |> Seq.indexed
                |> Seq.filter (fun (_, piece) -> piece <> "")
                |> Seq.distinctBy snd
                |> Seq.iter (fun (id, piece) -> json.WriteNumber(piece, id)))

            array json "merges" (fun () ->
                for merge in GgufTokenizerExport.merges tokenizer do
                    json.WriteStringValue merge))

    let private file (patterns: string list) (isNormalized: bool) (tokenizer: Tokenizer) : byte[] =
        TokenizerJsonWriter.json (fun json ->
            json.WriteString("version", "1.0")
            json.WriteNull "truncation"
            json.WriteNull "padding"
            TokenizerJsonWriter.added json tokenizer.Added.Values

            match tokenizer.Parts.Spelling with
            | Spelling.ByteLevel -> inBytes json patterns isNormalized
            | Spelling.SentencePiece _ -> inPieces json tokenizer.Parts.DropsFirstSpace

            if tokenizer.Parts.AddsBos then
                object json "post_processor" (fun () ->
                    TokenizerJsonWriter.template json [
                        for id in tokenizer.Parts.Prefix -> id, tokenizer.Pieces[id]
                    ])
            else
                json.WriteNull "post_processor"

            model json tokenizer)

    let private config (tokenizer: Tokenizer) : byte[] =
        let piece = Option.map (fun id -> tokenizer.Pieces[id])
        TokenizerJsonWriter.config
            tokenizer.Parts.AddsBos
            (piece tokenizer.Parts.Bos)
            (piece tokenizer.Parts.Eos)
            tokenizer.Parts.Template
            None

    /// Whether a folder's tokenizer cuts, encodes and decodes as the source does.
    let private agrees (source: Tokenizer) (folder: string) =
        let probe = GgufTokenizerExport.probe
        let words (tokenizer: Tokenizer) = tokenizer.Parts.Words { Text = probe; Place = Place.First }
        let ids = Tokenizer.encode source probe

        match Tokenizer.tryLoad folder with
        | Ok(Some made) ->
            words made = words source
            && Tokenizer.encode made probe = ids
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
