namespace LayerSkip

open System.Collections.Generic
open System.IO

/// Hugging Face's tokenizer.json, of the kind BPE. The tokenizers library's own format, which has no specification
/// but its code: vocabulary and merges under "model", the stages of encoding and decoding beside it.
[<RequireQualifiedAccess>]
module internal TokenizerJson =
    /// Tokens as "added_tokens" lists them.
    let private added (root: JsonPart) : AddedToken list =
        match root.TryField "added_tokens" with
        | None -> []
        | Some tokens -> [
            for token in tokens.Items ->
                AddedToken.ofJson (token.Field "id").Int (token.Field "content").Text token
          ]

    let private tryId (ids: Dictionary<string, int>) (piece: string) : int option =
        match ids.TryGetValue piece with
        | true, id -> Some id
        | _ -> None

    /// Pieces by text.
    let vocabulary (part: JsonPart) : Dictionary<string, int> =
        let ids = Dictionary<string, int>()

        for struct (piece, id) in part.Fields do
            ids[piece] <- id.Int

        ids

    let private halves (merge: JsonPart) : struct (string * string) =
        if merge.Kind = System.Text.Json.JsonValueKind.Array then
            match List.ofSeq merge.Items with
            | [ left; right ] -> struct (left.Text, right.Text)
            | _ -> merge.Fault "must be two pieces"
        else
            let text = merge.Text

            match text.IndexOf ' ' with
            | -1 -> merge.Fault "must be two pieces with a space between them"
            | space -> struct (text[.. space - 1], text[space + 1 ..])

    /// Merges by rank from pairs of pieces; pairs with a piece that the vocabulary lacks are an error. Each merge is
    /// the key of its pair with its rank and the id of the whole; of a pair that stands twice the first counts.
    let merges (path: string) (ids: Dictionary<string, int>) (pairs: seq<struct (string * string)>) =
        let merges = Dictionary<int64, struct (int * int)>(2 * ids.Count)
        let mutable fault = Ok()
        let mutable rank = 0

        for struct (left, right) in pairs do
            match ids.TryGetValue left, ids.TryGetValue right, ids.TryGetValue(left + right) with
            | (true, first), (true, second), (true, whole) ->
                merges.TryAdd(Pair.key first second, struct (rank, whole)) |> ignore
            | _ when Result.isOk fault ->
                fault <- Check.bad path $"merge \"{left} {right}\" is not of pieces of the vocabulary"
            | _ -> ()

            rank <- rank + 1

        fault |> Result.map (fun () -> merges)

    let private bpe byteLevel (model: JsonPart) (path: string) =
        let kind = model.TryText "type" |> Option.defaultValue "BPE"
        let text name = model.TryText name |> Option.defaultValue ""

        if kind <> "BPE" then
            Check.unsupported $"{path}: tokenizer model {kind}" "BPE is"
        elif text "continuing_subword_prefix" <> "" || text "end_of_word_suffix" <> "" then
            Check.unsupported $"{path}: BPE with a word prefix or suffix" "plain BPE is"
        else
            let ids = vocabulary (model.Field "vocab")

            (model.Field "merges").Items
            |> Seq.map halves
            |> merges path ids
            |> Result.map (fun merges ->
                ids,
                {
                    Alphabet =
                        if byteLevel then
                            TokenizerCore.byteLevel ids
                        else
                            Alphabet.CodePoints(TokenizerCore.codePoints ids)
                    Merges = merges
                    Words = Some ids |> Option.filter (fun _ -> model.Flag("ignore_merges", false))
                    ByteFallback =
                        TokenizerCore.byteFallback ids
                        |> Option.filter (fun _ -> model.Flag("byte_fallback", false))
                    Unknown = model.TryText "unk_token" |> Option.bind (tryId ids)
                    FuseUnknown = model.Flag("fuse_unk", false)
                })

    /// The ids that a template puts before the text; None where no post-processor has a template.
    let rec private prefix (processor: JsonPart) : int list option =
        match processor.TryText "type" with
        | Some "Sequence" -> (processor.Field "processors").Items |> Seq.tryPick prefix
        | Some "TemplateProcessing" ->
            let special = processor.Field "special_tokens"

            (processor.Field "single").Items
            |> Seq.map (fun item -> item.TryField "SpecialToken")
            |> Seq.takeWhile Option.isSome
            |> Seq.collect (fun item ->
                ((special.Field (item.Value.Field "id").Text).Field "ids").Items |> Seq.map _.Int)
            |> List.ofSeq
            |> Some
        | _ -> None

    let private build
        path
        (config: TokenizerConfig)
        (root: JsonPart)
        : Result<Tokenizer, LayerSkipError list> =
        let model = root.Field "model"
        let normalizer = TokenizerStages.normalizer path (root.TryField "normalizer")
        let words = TokenizerStages.preTokenizer path (root.TryField "pre_tokenizer")

        let byteLevel = words |> Result.exists (fun (struct (_, byteLevel)) -> byteLevel)
        let byteFallback = model.Flag("byte_fallback", false)
        let decoder = TokenizerStages.decoder path byteLevel byteFallback (root.TryField "decoder")

        Check.both (Check.both normalizer words) (Check.both decoder (bpe byteLevel model path))
        |> Result.bind (fun ((normalize, struct (words, _)), (struct (spelling, drops), (ids, bpe))) ->
            let own = added root
            let taken = own |> Seq.map _.Id |> Seq.append ids.Values |> HashSet
            let known = own |> Seq.map _.Content |> Seq.append ids.Keys |> HashSet

            // Those that tokenizer_config.json has besides.
            let added =
                own
                @ (config.Added
                   |> List.filter (fun token ->
                       not (taken.Contains token.Id || known.Contains token.Content)))

            let template = root.TryField "post_processor" |> Option.bind prefix

            let idOf (content: string) =
                added
                |> List.tryFind (fun token -> token.Content = content)
                |> Option.map _.Id
                |> Option.orElse (tryId ids content)

            let bos =
                config.Bos
                |> Option.bind idOf
                |> Option.orElse (Option.bind List.tryHead template)
                |> Option.orElse (List.tryPick idOf [ "<s>"; "<|begin_of_text|>" ])

            // transformers' Llama tokenizers make a post-processor of their own, of their configuration alone; all others
            // keep the file's, where it has one.
            let prefix =
                match template, config.BeginsAsLlama with
                | Some prefix, false -> prefix
                | None, false when config.AddsBos <> Some true -> []
                | _, true when config.AddsBos = Some false -> []
                | _ -> Option.toList bos

            let parts = {
                Kind = (if byteLevel then "byte-level BPE" else "SentencePiece BPE")
                Spelling = spelling
                DropsFirstSpace = drops
                Normalize = normalize
                Words = words
                Bpe = bpe
                Prefix = prefix
                AddsBos = not prefix.IsEmpty
                Bos = bos
                Eos =
                    config.Eos
                    |> Option.bind idOf
                    |> Option.orElse (List.tryPick idOf [ "</s>"; "<|end_of_text|>"; "<|endoftext|>" ])
                Templates = config.Templates
            }

            // A token that is looked for after normalization is looked for as normalization leaves it.
            let sought =
                added
                |> List.map (fun token ->
                    if token.Normalized then
                        { token with Content = normalize Place.First token.Content }
                    else
                        token)

            TokenizerCore.create path parts sought (AddedToken.pieces ids added))

    /// Reads a tokenizer.json, and the tokenizer_config.json beside it. The first fault of the file, or all kinds of
    /// stages in it that we do not read.
    let load (path: string) : Result<Tokenizer, LayerSkipError list> =
        TokenizerConfig.load (Path.GetDirectoryName(Path.GetFullPath path))
        |> Result.bind (fun config ->
            JsonPart.load path "a folder with a fast tokenizer has one" (build path config))
