namespace LayerSkip

open System.Collections.Generic
open System.IO
open System.Text.Json

/// Hugging Face's tokenizer.json, of the kind BPE.
[<RequireQualifiedAccess>]
module internal TokenizerJson =
    // Far above any vocabulary: an id that is a slip of the pen must not ask for gigabytes.
    let private mostIds = 1 <<< 24

    let private added (root: JsonElement) : AddedToken list =
        match TokenizerStages.tryField "added_tokens" root with
        | None -> []
        | Some tokens -> [
            for token in tokens.EnumerateArray() ->
                {
                    Id = token.GetProperty("id").GetInt32()
                    Content = token.GetProperty("content").GetString()
                    Special = TokenizerStages.flag "special" false token
                    TakesLeft = TokenizerStages.flag "lstrip" false token
                    TakesRight = TokenizerStages.flag "rstrip" false token
                    SingleWord = TokenizerStages.flag "single_word" false token
                    Normalized = TokenizerStages.flag "normalized" false token
                }
          ]

    let private vocabulary path (model: JsonElement) : Result<Dictionary<string, int>, LayerSkipError list> =
        let vocabulary = model.GetProperty "vocab"
        let ids =
            Dictionary<string, int>(
                if vocabulary.ValueKind = JsonValueKind.Object then
                    vocabulary.GetPropertyCount()
                else
                    0
            )

        for entry in vocabulary.EnumerateObject() do
            ids[entry.Name] <- entry.Value.GetInt32()

        if ids.Values |> Seq.forall (fun id -> 0 <= id && id < mostIds) then
            Ok ids
        else
            Error [
                LayerSkipError.BadFile(path, $"the vocabulary has an id outside 0 to {mostIds - 1}")
            ]

    let private halves (merge: JsonElement) : struct (string * string) =
        if merge.ValueKind = JsonValueKind.Array && merge.GetArrayLength() <> 2 then
            struct ("", "")
        elif merge.ValueKind = JsonValueKind.Array then
            struct (merge[0].GetString(), merge[1].GetString())
        else
            let text = merge.GetString()
            let space = text.IndexOf ' '
            struct (text[.. space - 1], text[space + 1 ..])

    /// Merges by rank from pairs of pieces; pairs with a piece that the vocabulary lacks are an error.
    let merges (path: string) (ids: Dictionary<string, int>) (pairs: seq<struct (string * string)>) =
        let merges = Dictionary<int64, struct (int * int)>(2 * ids.Count)
        let mutable fault = None
        let mutable rank = 0

        for struct (left, right) in pairs do
            match ids.TryGetValue left, ids.TryGetValue right, ids.TryGetValue(left + right) with
            | (true, first), (true, second), (true, whole) ->
                merges.TryAdd(Pair.key first second, struct (rank, whole)) |> ignore
            | _ when fault.IsNone ->
                fault <-
                    Some(
                        LayerSkipError.BadFile(
                            path,
                            $"merge \"{left} {right}\" is not of pieces of the vocabulary"
                        )
                    )
            | _ -> ()

            rank <- rank + 1

        Check.all (Option.toList fault) merges

    let private bpe
        path
        byteLevel
        (model: JsonElement)
        : Result<Dictionary<string, int> * Bpe, LayerSkipError list> =
        let kind = TokenizerStages.tryText "type" model |> Option.defaultValue "BPE"
        let text name = TokenizerStages.tryText name model |> Option.defaultValue ""

        if kind <> "BPE" then
            Error [ LayerSkipError.Unsupported($"{path}: tokenizer model {kind}", "BPE is") ]
        elif text "continuing_subword_prefix" <> "" || text "end_of_word_suffix" <> "" then
            Error [
                LayerSkipError.Unsupported($"{path}: BPE with a word prefix or suffix", "plain BPE is")
            ]
        else
            match vocabulary path model with
            | Error faults -> Error faults
            | Ok ids ->
                let pairs = model.GetProperty("merges").EnumerateArray() |> Seq.map halves
                let idOf (piece: string) =
                    match ids.TryGetValue piece with
                    | true, id -> Some id
                    | _ -> None

                merges path ids pairs
                |> Result.map (fun merges ->
                    ids,
                    {
                        Alphabet =
                            if byteLevel then
                                TokenizerCore.byteLevel ids
                            else
                                Alphabet.CodePoints(TokenizerCore.codePoints ids)
                        Merges = merges
                        Words =
                            if TokenizerStages.flag "ignore_merges" false model then
                                Some ids
                            else
                                None
                        ByteFallback =
                            if TokenizerStages.flag "byte_fallback" false model then
                                TokenizerCore.byteFallback ids
                            else
                                None
                        Unknown = TokenizerStages.tryText "unk_token" model |> Option.bind idOf
                        FuseUnknown = TokenizerStages.flag "fuse_unk" false model
                    })

    /// The ids that a template puts before the text; None where no post-processor has a template.
    let rec private prefix (processor: JsonElement) : int list option =
        match TokenizerStages.tryText "type" processor with
        | Some "Sequence" ->
            processor.GetProperty("processors").EnumerateArray() |> List.ofSeq |> List.tryPick prefix
        | Some "TemplateProcessing" ->
            let special = processor.GetProperty "special_tokens"

            processor.GetProperty("single").EnumerateArray()
            |> Seq.map (TokenizerStages.tryField "SpecialToken")
            |> Seq.takeWhile (fun item -> item.IsSome)
            |> Seq.collect (fun item ->
                special
                    .GetProperty(item.Value.GetProperty("id").GetString())
                    .GetProperty("ids")
                    .EnumerateArray())
            |> Seq.map (fun id -> id.GetInt32())
            |> List.ofSeq
            |> Some
        | _ -> None

    let private build
        path
        (config: TokenizerConfig)
        (root: JsonElement)
        : Result<Tokenizer, LayerSkipError list> =
        let field name = TokenizerStages.tryField name root
        let model = root.GetProperty "model"
        let normalizer = TokenizerStages.normalizer path (field "normalizer")
        let words = TokenizerStages.preTokenizer path (field "pre_tokenizer")

        let byteLevel =
            match words with
            | Ok struct (_, byteLevel) -> byteLevel
            | Error _ -> false

        let byteFallback = TokenizerStages.flag "byte_fallback" false model
        let decoder = TokenizerStages.decoder path byteLevel byteFallback (field "decoder")

        Check.both (Check.both normalizer words) (Check.both decoder (bpe path byteLevel model))
        |> Result.bind (fun ((normalize, struct (words, _)), (struct (spelling, drops), (ids, bpe))) ->
            let added = added root
            let template = field "post_processor" |> Option.bind prefix

            let pieces =
                seq {
                    for entry in ids -> struct (entry.Value, entry.Key)
                    for token in added -> struct (token.Id, token.Content)
                }

            let idOf (content: string) =
                match
                    added |> List.tryFind (fun token -> token.Content = content), ids.TryGetValue content
                with
                | Some token, _ -> Some token.Id
                | None, (true, id) -> Some id
                | _ -> None

            let bos =
                config.Bos
                |> Option.bind idOf
                |> Option.orElse (Option.bind List.tryHead template)
                |> Option.orElse (List.tryPick idOf [ "<s>"; "<|begin_of_text|>" ])

            let parts = {
                Kind = (if byteLevel then "byte-level BPE" else "SentencePiece BPE")
                Spelling = spelling
                DropsFirstSpace = drops
                Normalize = normalize
                Words = words
                Bpe = bpe
                Prefix = template |> Option.defaultValue []
                AddsBos =
                    match template with
                    | Some prefix -> not prefix.IsEmpty
                    | None -> bos.IsSome && config.AddsBos = Some true
                Bos = bos
                Eos =
                    config.Eos
                    |> Option.bind idOf
                    |> Option.orElse (List.tryPick idOf [ "</s>"; "<|end_of_text|>"; "<|endoftext|>" ])
                Template = config.Template
            }

            // A token that is looked for after normalization is looked for as normalization leaves it.
            let sought =
                added
                |> List.map (fun token ->
                    if token.Normalized then
                        { token with Content = normalize Place.First token.Content }
                    else
                        token)

            TokenizerCore.create path mostIds parts sought pieces)

    /// Reads a tokenizer.json, and the tokenizer_config.json beside it.
    let load (path: string) : Result<Tokenizer, LayerSkipError list> =
        TokenizerConfig.guard path (fun () ->
            match Json.read path "a folder with a fast tokenizer has one" with
            | Error faults -> Error faults
            | Ok document ->
                use document = document
                let folder = Path.GetDirectoryName(Path.GetFullPath path)

                TokenizerConfig.load folder
                |> Result.bind (fun config -> build path config document.RootElement))
