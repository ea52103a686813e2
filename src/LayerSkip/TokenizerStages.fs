namespace LayerSkip

open System.Text.Json
open System.Text.RegularExpressions

/// The normalizer, pre-tokenizer and decoder of a tokenizer.json as functions. Wrong JSON kinds throw
/// InvalidOperationException or KeyNotFoundException, as JsonElement does; `TokenizerJson` turns them into errors.
[<RequireQualifiedAccess>]
module internal TokenizerStages =
    /// The field, unless it is absent or null.
    let tryField (name: string) (element: JsonElement) : JsonElement option =
        match element.ValueKind, element.TryGetProperty name with
        | JsonValueKind.Object, (true, value) when value.ValueKind <> JsonValueKind.Null -> Some value
        | _ -> None

    let tryText name element = tryField name element |> Option.map (fun value -> value.GetString())
    let flag name fallback element =
        tryField name element
        |> Option.map (fun v -> v.GetBoolean())
        |> Option.defaultValue fallback

    let private kindOf element = tryText "type" element |> Option.defaultValue "without a type"

    let private unsupported path what supported =
        Error [ LayerSkipError.Unsupported($"{path}: {what}", $"{supported} are") ]

    let private all (results: Result<'T, LayerSkipError list> list) : Result<'T list, LayerSkipError list> =
        let values = results |> List.choose (fun result -> Result.toOption result)
        Check.all (List.collect Check.faults results) values

    let private regex path (pattern: string) =
        match PreTokenizer.tryRegex pattern with
        | Some regex -> Ok regex
        | None -> unsupported path $"the pattern {pattern}" "the regular expressions that .NET reads"

    let private pattern path (element: JsonElement) =
        let pattern = element.GetProperty "pattern"

        match tryText "String" pattern with
        | Some literal -> Ok(Regex(Regex.Escape literal, RegexOptions.CultureInvariant))
        | None -> regex path (pattern.GetProperty("Regex").GetString())

    let rec normalizer
        (path: string)
        (element: JsonElement option)
        : Result<Place -> string -> string, LayerSkipError list> =
        match element with
        | None -> Ok(fun _ -> id)
        | Some element ->
            match kindOf element with
            | "Sequence" ->
                [
                    for inner in element.GetProperty("normalizers").EnumerateArray() ->
                        normalizer path (Some inner)
                ]
                |> all
                |> Result.map (fun steps place text ->
                    List.fold (fun text step -> step place text) text steps)
            | "NFC" -> Ok(fun _ -> Nfc.normalize)
            | "Prepend" ->
                let prefix = element.GetProperty("prepend").GetString()
                Ok(fun place text ->
                    if text = "" || place = Place.Continuing then
                        text
                    else
                        prefix + text)
            | "Replace" ->
                let content = element.GetProperty("content").GetString()

                pattern path element
                |> Result.map (fun regex _ text -> regex.Replace(text, MatchEvaluator(fun _ -> content)))
            | kind -> unsupported path $"normalizer {kind}" "NFC, Prepend, Replace and Sequence"

    let private behavior path (element: JsonElement) =
        match tryText "behavior" element |> Option.defaultValue "Isolated" with
        | "Removed" -> Ok SplitBehavior.Removed
        | "Isolated" -> Ok SplitBehavior.Isolated
        | "MergedWithPrevious" -> Ok SplitBehavior.MergedWithPrevious
        | "MergedWithNext" -> Ok SplitBehavior.MergedWithNext
        | "Contiguous" -> Ok SplitBehavior.Contiguous
        | other -> Error [ LayerSkipError.BadFile(path, $"split behavior \"{other}\" is unknown") ]

    /// How a Metaspace puts a space in front: "always", "first" or "never".
    let private scheme element =
        match tryText "prepend_scheme" element with
        | Some scheme -> scheme
        | None when flag "add_prefix_space" true element -> "always"
        | None -> "never"

    let private metaspace (element: JsonElement) =
        let replacement = tryText "replacement" element |> Option.defaultValue "\u2581"
        let scheme = scheme element
        let split = flag "split" true element
        let cut = Regex(Regex.Escape replacement, RegexOptions.CultureInvariant)

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

    let private stage path (element: JsonElement) =
        match kindOf element with
        | "Split" ->
            Check.both (pattern path element) (behavior path element)
            |> Result.map (fun (regex, behavior) ->
                PreTokenizer.split regex behavior (flag "invert" false element))
        | "Digits" ->
            let digits =
                if flag "individual_digits" false element then
                    @"\p{N}"
                else
                    @"\p{N}+"

            regex path digits
            |> Result.map (fun regex -> PreTokenizer.split regex SplitBehavior.Isolated false)
        | "ByteLevel" ->
            let prefix = flag "add_prefix_space" true element
            let words = flag "use_regex" true element

            regex path PreTokenizer.gpt2
            |> Result.map (fun regex ->
                PreTokenizer.sequence [
                    if prefix then
                        PreTokenizer.prefixSpace
                    if words then
                        PreTokenizer.split regex SplitBehavior.Isolated false
                ])
        | "Metaspace" -> Ok(metaspace element)
        | kind -> unsupported path $"pre-tokenizer {kind}" "Split, Digits, ByteLevel, Metaspace and Sequence"

    let rec private stages (element: JsonElement) : JsonElement list =
        if kindOf element = "Sequence" then
            [
                for inner in element.GetProperty("pretokenizers").EnumerateArray() do
                    yield! stages inner
            ]
        else
            [ element ]

    /// The pre-tokenizer, and whether it writes words in bytes.
    let preTokenizer (path: string) (element: JsonElement option) =
        let elements = element |> Option.map stages |> Option.defaultValue []
        let byteLevel = elements |> List.exists (fun element -> kindOf element = "ByteLevel")

        elements
        |> List.map (stage path)
        |> all
        |> Result.map (fun stages -> struct (PreTokenizer.sequence stages, byteLevel))

    let rec private decoders (element: JsonElement) : JsonElement list =
        if kindOf element = "Sequence" then
            [
                for inner in element.GetProperty("decoders").EnumerateArray() do
                    yield! decoders inner
            ]
        else
            [ element ]

    /// How pieces spell bytes, and whether the first space of a decoded text is dropped.
    let decoder (path: string) (byteLevel: bool) (byteFallback: bool) (element: JsonElement option) =
        let elements = element |> Option.map decoders |> Option.defaultValue []
        let kinds = elements |> List.map kindOf
        let known = [ "ByteLevel"; "Replace"; "ByteFallback"; "Fuse"; "Strip"; "Metaspace" ]

        match kinds |> List.tryFind (fun kind -> not (List.contains kind known)) with
        | Some kind -> unsupported path $"decoder {kind}" (String.concat ", " known)
        | None when List.contains "ByteLevel" kinds || (kinds.IsEmpty && byteLevel) ->
            Ok struct (Spelling.ByteLevel, false)
        | None ->
            let drops element =
                match kindOf element with
                | "Strip" -> (element.GetProperty "start").GetInt32() > 0
                | "Metaspace" -> scheme element <> "never"
                | _ -> false

            let bytes = List.contains "ByteFallback" kinds || (kinds.IsEmpty && byteFallback)
            Ok struct (Spelling.SentencePiece bytes, List.exists drops elements)
