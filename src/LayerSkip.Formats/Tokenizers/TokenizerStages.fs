namespace LayerSkip

/// The normalizer, pre-tokenizer and decoder of a tokenizer.json as functions. What is of another kind than it must be
/// throws JsonFault.
[<RequireQualifiedAccess>]
module internal TokenizerStages =
    /// No tokenizer has more; each costs memory and time.
    let private mostStages = 64

    let private kindOf (part: JsonPart) = part.TryText "type" |> Option.defaultValue "without a type"

    let private unsupported path what supported = Check.unsupported $"{path}: {what}" $"{supported} are"

    let private pattern path (part: JsonPart) : Result<TextPattern, LayerSkipError list> =
        let pattern = part.Field "pattern"

        match pattern.TryText "String" with
        | Some literal -> Ok(TextPattern.literal literal)
        | None -> TextPattern.expression path (pattern.Field "Regex").Text

    /// The parts of a sequence, and of sequences within it, under a name; or the one part.
    let private flat (name: string) (part: JsonPart option) : JsonPart list =
        let rec parts (part: JsonPart) : seq<JsonPart> =
            if kindOf part = "Sequence" then
                (part.Field name).Items |> Seq.collect parts
            else
                Seq.singleton part

        let found = part |> Option.map (parts >> List.ofSeq) |> Option.defaultValue []

        if found.Length > mostStages then
            part.Value.Fault $"has more than {mostStages} stages"

        found

    /// How long a text may be that was so long before: many times what any language's normal form needs.
    let private bound (length: int) = 4096L + 16L * int64 length

    /// A step of normalization, which may not make a text longer than `most`.
    let private step path (part: JsonPart) : Result<int64 -> Place -> string -> string, LayerSkipError list> =
        let limited most length =
            if length > most then
                let why =
                    "its normalizer makes a text more than 16 times as long as it was; use another tokenizer, or give the prompt as ids"

                Check.throw (LayerSkipError.BadFile(path, why))

        match kindOf part with
        | "NFC" -> Ok(fun _ _ -> Nfc.normalize)
        | "Prepend" ->
            let prefix = (part.Field "prepend").Text

            Ok(fun most place text ->
                if text = "" || place = Place.Continuing then
                    text
                else
                    limited most (int64 prefix.Length + int64 text.Length)
                    prefix + text)
        | "Replace" ->
            let content = (part.Field "content").Text

            pattern path part
            |> Result.map (fun pattern most _ text ->
                let found = pattern.Find text

                let grown =
                    found
                    |> Seq.sumBy (fun (struct (start, stop)) -> int64 content.Length - int64 (stop - start))

                limited most (int64 text.Length + grown)
                TextPattern.replace found content text)
        | kind -> unsupported path $"normalizer {kind}" "NFC, Prepend, Replace and Sequence"

    /// The normalizer of a text, by the place where it stands: NFC, Prepend, Replace, and sequences of them. No part:
    /// the text as it is. Other kinds are Unsupported; a text that grows beyond 16 times its length (and 4,096
    /// characters) throws LayerSkipException.
    let normalizer
        (path: string)
        (part: JsonPart option)
        : Result<Place -> string -> string, LayerSkipError list> =
        flat "normalizers" part
        |> List.map (step path)
        |> Check.list
        |> Result.map (fun steps place text ->
            let most = bound text.Length
            List.fold (fun text step -> step most place text) text steps)

    let private behavior path (part: JsonPart) =
        match part.TryText "behavior" |> Option.defaultValue "Isolated" with
        | "Removed" -> Ok SplitBehavior.Removed
        | "Isolated" -> Ok SplitBehavior.Isolated
        | "MergedWithPrevious" -> Ok SplitBehavior.MergedWithPrevious
        | "MergedWithNext" -> Ok SplitBehavior.MergedWithNext
        | "Contiguous" -> Ok SplitBehavior.Contiguous
        | other -> Check.bad path $"split behavior \"{other}\" is unknown"

    /// How a Metaspace puts a space in front: "always", "first" or "never".
    let private scheme (part: JsonPart) =
        match part.TryText "prepend_scheme" with
        | Some scheme -> scheme
        | None when part.Flag("add_prefix_space", true) -> "always"
        | None -> "never"

    let private metaspace (part: JsonPart) =
        let replacement = part.TryText "replacement" |> Option.defaultValue "\u2581"

        if Seq.length (replacement.EnumerateRunes()) <> 1 then
            (part.Field "replacement").Fault "must be one character"

        let scheme = scheme part
        let split = part.Flag("split", true)
        let cut = TextPattern.literal replacement

        fun (piece: Piece) ->
            let text = piece.Text.Replace(" ", replacement)

            let wanted =
                match piece.Place with
                | Place.First -> scheme <> "never"
                | Place.Later -> scheme = "always"
                | Place.Continuing -> false

            let missing = not (text.StartsWith(replacement, System.StringComparison.Ordinal))
            let piece = { piece with Text = (if wanted && missing then replacement + text else text) }

            if split then
                PreTokenizer.split cut SplitBehavior.MergedWithNext false piece
            else
                [| piece |]

    let private stage path (part: JsonPart) =
        let isolated (source: string) =
            TextPattern.expression path source
            |> Result.map (fun pattern -> PreTokenizer.split pattern SplitBehavior.Isolated false)

        match kindOf part with
        | "Split" ->
            Check.both (pattern path part) (behavior path part)
            |> Result.map (fun (pattern, behavior) ->
                PreTokenizer.split pattern behavior (part.Flag("invert", false)))
        | "Digits" ->
            let repeat = if part.Flag("individual_digits", false) then "" else "+"
            isolated (@"\p{N}" + repeat)
        | "ByteLevel" ->
            let prefix = part.Flag("add_prefix_space", true)
            let words = part.Flag("use_regex", true)

            isolated PreTokenizer.gpt2
            |> Result.map (fun split ->
                PreTokenizer.sequence [
                    if prefix then
                        PreTokenizer.prefixSpace
                    if words then
                        split
                ])
        | "Metaspace" -> Ok(metaspace part)
        | kind -> unsupported path $"pre-tokenizer {kind}" "Split, Digits, ByteLevel, Metaspace and Sequence"

    /// The pre-tokenizer, and whether it writes words in bytes. Split, Digits, ByteLevel, Metaspace, and sequences of
    /// them; no part: one word. Other kinds are Unsupported.
    let preTokenizer (path: string) (part: JsonPart option) =
        let parts = flat "pretokenizers" part
        let byteLevel = parts |> List.exists (fun part -> kindOf part = "ByteLevel")

        parts
        |> List.map (stage path)
        |> Check.list
        |> Result.map (fun stages -> struct (PreTokenizer.sequence stages, byteLevel))

    /// How pieces spell bytes, and whether the first space of a decoded text is dropped. ByteLevel, or Replace,
    /// ByteFallback, Fuse, Strip and Metaspace as SentencePiece's decoders are made of them; other kinds are
    /// Unsupported.
    let decoder (path: string) (byteLevel: bool) (byteFallback: bool) (part: JsonPart option) =
        let parts = flat "decoders" part
        let kinds = parts |> List.map kindOf
        let known = [ "ByteLevel"; "Replace"; "ByteFallback"; "Fuse"; "Strip"; "Metaspace" ]

        match kinds |> List.tryFind (fun kind -> not (List.contains kind known)) with
        | Some kind -> unsupported path $"decoder {kind}" (String.concat ", " known)
        | None when List.contains "ByteLevel" kinds || (kinds.IsEmpty && byteLevel) ->
            Ok struct (Spelling.ByteLevel, false)
        | None ->
            let drops (part: JsonPart) =
                match kindOf part with
                | "Strip" -> (part.Field "start").Int > 0
                | "Metaspace" -> scheme part <> "never"
                | _ -> false

            let bytes = List.contains "ByteFallback" kinds || (kinds.IsEmpty && byteFallback)
            Ok struct (Spelling.SentencePiece bytes, List.exists drops parts)
