namespace LayerSkip

open System.Collections.Generic

/// A tokenizer as llama.cpp's metadata. What it makes is read again and compared over a text that has all that tells
/// tokenizers apart; what does not agree is an error, not a file.
[<RequireQualifiedAccess>]
module internal GgufTokenizerExport =
    // Its words tell llama.cpp's pre-tokenizers apart: contractions, digits, runs of space and of signs, scripts.
    /// A text that is encoded by source and copy before a copy is believed.
    let probe =
        "Hello  World, it's WE'LL I'm 'tis\n\n \n\t x1 22 333 4444 55555 3.14 $9 a+b=c  \r\n ~ ^^|| <<>> ...!? (normal)"
        + " caf\u00e9 \u041f\u0440\u0438\u0432\u0435\u0442 \u4f60\u597d\u4e16\u754c 1\u5e74 \u1780\u17b6\u1793 \u2705 \U0001F999\U0001F999 =====\n   end \n"

    /// llama.cpp's names of pre-tokenizers that we know, the most particular first.
    let preTokenizers = [ "llama-bpe"; "qwen2"; "smollm"; "gpt-2"; "default" ]

    let private key name = "tokenizer.ggml." + name

    let private isByteLevel (tokenizer: Tokenizer) = tokenizer.Parts.Spelling = Spelling.ByteLevel

    let private pieceType (tokenizer: Tokenizer) : int -> int =
        let bytes = tokenizer.Parts.Bpe.ByteFallback |> Option.defaultValue [||] |> HashSet

        fun id ->
            match Tokenizer.tokenText tokenizer id, tokenizer.Added.TryFind id with
            | "", _ -> PieceType.unused
            | _ when tokenizer.Parts.Bpe.Unknown = Some id && not (isByteLevel tokenizer) -> PieceType.unknown
            | _, Some added when added.Special -> PieceType.control
            | _, Some _ -> PieceType.userDefined
            | _ when bytes.Contains id -> PieceType.``byte``
            | _ -> PieceType.normal

    let private pieceText (tokenizer: Tokenizer) (kind: int) (id: int) =
        match Tokenizer.tokenText tokenizer id with
        | "" -> $"[PAD{id}]"
        // llama.cpp looks for these in the text as typed.
        | piece when kind = PieceType.userDefined && not (isByteLevel tokenizer) ->
            piece.Replace('\u2581', ' ')
        | piece -> piece

    /// Two pieces and a space between them, by rank; without those of a character that is no piece.
    let merges (tokenizer: Tokenizer) : string[] =
        tokenizer.Parts.Bpe.Merges
        |> Seq.sortBy (fun entry ->
            let struct (rank, _) = entry.Value
            rank)
        |> Seq.map (fun entry -> Pair.halves entry.Key)
        |> Seq.filter (fun (struct (left, right)) -> left >= 0 && right >= 0)
        |> Seq.map (fun (struct (left, right)) -> $"{tokenizer.Pieces[left]} {tokenizer.Pieces[right]}")
        |> Array.ofSeq

    /// The rank of the merges that make a piece, as SentencePiece scores it: 0, -1, -2; what no merge makes comes last.
    let private scores (tokenizer: Tokenizer) (types: int[]) : float[] =
        let ranks = Dictionary<int, int>()

        for entry in tokenizer.Parts.Bpe.Merges do
            let struct (rank, id) = entry.Value

            match ranks.TryGetValue id with
            | true, best when best <= rank -> ()
            | _ -> ranks[id] <- rank

        let last = if ranks.Count = 0 then 0 else 1 + Seq.max ranks.Values

        types
        |> Array.mapi (fun id kind ->
            match ranks.TryGetValue id with
            | true, rank -> -float rank
            | _ when kind = PieceType.normal || kind = PieceType.unused -> -float last
            | _ -> 0.0)

    /// llama.cpp has one key each for the end of a text, of a message and of a turn; `StopTokens` keeps the whole list.
    let private stops (ids: int list) =
        match ids with
        | [] -> []
        | [ eos ] -> [ "eos", eos ]
        | [ eos; eot ] -> [ "eos", eos; "eot", eot ]
        | eos :: eom :: others -> [ "eos", eos; "eom", eom; "eot", List.last others ]

    let private ids (bos: int option) (stopIds: int list) = [
        for name, id in [ for id in Option.toList bos -> "bos", id ] @ stops stopIds do
            key $"{name}_token_id", GgufValue.Int(int64 id)
    ]

    /// A model that takes and gives ids only.
    let none (bos: int option) (stopIds: int[]) : (string * GgufValue) list =
        (key "model", GgufValue.Text "no_vocab") :: ids bos (List.ofArray stopIds)

    let private metadata vocabulary (stopIds: int list) (tokenizer: Tokenizer) (model: string) =
        let types = Array.init vocabulary (pieceType tokenizer)

        let startsWithSpace =
            let words =
                tokenizer.Parts.Words {
                    Text = tokenizer.Parts.Normalize Place.First "a"
                    Place = Place.First
                }
            words.Length > 0 && words[0].Text.StartsWith '\u2581'

        let bos =
            if tokenizer.Parts.AddsBos then
                List.tryHead tokenizer.Parts.Prefix
            else
                tokenizer.Parts.Bos
        let eos =
            if stopIds.IsEmpty then
                Option.toList tokenizer.Parts.Eos
            else
                stopIds

        [
            key "model", GgufValue.Text model
            key "tokens", GgufValue.Texts(types |> Array.mapi (fun id kind -> pieceText tokenizer kind id))
            key "token_type", GgufValue.Ints(Array.map int64 types)

            if isByteLevel tokenizer then
                key "merges", GgufValue.Texts(merges tokenizer)
            else
                key "scores", GgufValue.Floats(scores tokenizer types)

            yield! ids bos eos

            for id in Option.toList tokenizer.Parts.Bpe.Unknown do
                key "unknown_token_id", GgufValue.Int(int64 id)

            key "add_bos_token", GgufValue.Bool tokenizer.Parts.AddsBos
            key "add_space_prefix", GgufValue.Bool startsWithSpace

            for name, template in tokenizer.Parts.Templates do
                let suffix = if name = "default" then "" else "." + name
                "tokenizer.chat_template" + suffix, GgufValue.Text template

            match tokenizer.Parts.Templates |> List.map fst |> List.filter ((<>) "default") with
            | [] -> ()
            | names -> "tokenizer.chat_templates", GgufValue.Texts(Array.ofList names)
        ]

    /// Whether two tokenizers cut the probe into the same words, and encode it to the same ids.
    let encodesAlike (a: Tokenizer) (b: Tokenizer) : bool =
        let words (tokenizer: Tokenizer) = tokenizer.Parts.Words { Text = probe; Place = Place.First }
        words a = words b && Tokenizer.encode a probe = Tokenizer.encode b probe

    /// Whether the metadata make a tokenizer that cuts and encodes as the source does.
    let private agrees (tokenizer: Tokenizer) (metadata: (string * GgufValue) list) =
        match TokenizerGguf.load "" (Map.ofList metadata) with
        | Ok(Some made) when isByteLevel tokenizer -> encodesAlike made tokenizer
        | Ok(Some made) -> Tokenizer.encode made probe = Tokenizer.encode tokenizer probe
        | Ok None
        | Error _ -> false

    /// The metadata of a tokenizer, padded to the model's vocabulary; an error where llama.cpp has none that encodes alike.
    let ofTokenizer
        (vocabulary: int)
        (stopIds: int[])
        (tokenizer: Tokenizer)
        : Result<(string * GgufValue) list, LayerSkipError list> =
        let unsupported what = Check.unsupported what "export a Hugging Face folder"
        let metadata = metadata vocabulary (List.ofArray stopIds) tokenizer

        let candidates =
            if isByteLevel tokenizer then
                let front = metadata "gpt2"
                [ for pre in preTokenizers -> front @ [ key "pre", GgufValue.Text pre ] ]
            else
                [ metadata "llama" @ [ key "pre", GgufValue.Text "default" ] ]

        if tokenizer.Pieces.Length > vocabulary then
            unsupported
                $"a GGUF file whose tokenizer has {tokenizer.Pieces.Length} tokens and whose model {vocabulary}"
        else
            match candidates |> List.tryFind (agrees tokenizer) with
            | Some found -> Ok found
            | None -> unsupported "a tokenizer that none of llama.cpp's pre-tokenizers agrees with"
