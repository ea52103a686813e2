namespace LayerSkip

open System
open System.Buffers
open System.Collections.Generic

/// A token that is cut out of the text before it is split into words, in tokenizer.json's terms.
type internal AddedToken = {
    Id: int
    Content: string
    Special: bool
    /// It takes the white space on its left (`lstrip`) or right (`rstrip`) with it.
    TakesLeft: bool
    TakesRight: bool
    SingleWord: bool
    /// It is looked for after normalization, not in the text as typed.
    Normalized: bool
}

/// A stretch of text, or an added token with the text that it took.
[<Struct; RequireQualifiedAccess>]
type internal Segment =
    | Text of text: string
    | Token of id: int * taken: string

/// Tokens as tokenizer.json's "added_tokens" and tokenizer_config.json's "added_tokens_decoder" describe them, and
/// how a text is cut at them (the tokenizers library's AddedVocabulary).
[<RequireQualifiedAccess>]
module internal AddedToken =
    /// A token that stands where its text does, in the text as typed.
    let plain (id: int) (content: string) (special: bool) : AddedToken = {
        Id = id
        Content = content
        Special = special
        TakesLeft = false
        TakesRight = false
        SingleWord = false
        Normalized = false
    }

    /// A token with the flags of a JSON object.
    let ofJson (id: int) (content: string) (part: JsonPart) : AddedToken = {
        plain id content (part.Flag("special", false)) with
            TakesLeft = part.Flag("lstrip", false)
            TakesRight = part.Flag("rstrip", false)
            SingleWord = part.Flag("single_word", false)
            Normalized = part.Flag("normalized", false)
    }

    /// Ids with their pieces, of a vocabulary and of the tokens that are added to it.
    let pieces (vocabulary: Dictionary<string, int>) (added: AddedToken list) : seq<struct (int * string)> =
        seq {
            for entry in vocabulary -> struct (entry.Value, entry.Key)
            for token in added -> struct (token.Id, token.Content)
        }

    let private isWord (text: string) (at: int) =
        at >= 0 && at < text.Length && (Char.IsLetterOrDigit text[at] || text[at] = '_')

    /// Whether a text that somebody typed must never become it: special tokens, and those that look like one. Tools that add
    /// tokens to a model often leave the flag out, and `<|im_start|>` forges a turn whatever its flag is; llama.cpp's conversion
    /// takes the same for control tokens.
    let isGuarded (token: AddedToken) : bool =
        let isBetween (first: string) (last: string) =
            token.Content.StartsWith(first, StringComparison.Ordinal)
            && token.Content.EndsWith(last, StringComparison.Ordinal)

        token.Special || isBetween "<|" "|>" || isBetween "<\uFF5C" "\uFF5C>"

    /// Cuts a text at the leftmost longest occurrences of the tokens that may stand there: `allows token start stop`, in characters
    /// of the text [UTF-16]. Of tokens with the same text the last counts. Threads may share the function.
    let cutter (tokens: AddedToken list) : (AddedToken -> int -> int -> bool) -> string -> Segment list =
        let tokens = tokens |> List.filter (fun token -> token.Content <> "")

        if tokens.IsEmpty then
            fun _ text -> [ Segment.Text text ]
        else
            let byContent = Dictionary<string, AddedToken>()

            for token in tokens do
                byContent[token.Content] <- token

            let bySpan = byContent.GetAlternateLookup<ReadOnlySpan<char>>()
            let search =
                SearchValues.Create(ReadOnlySpan(Array.ofSeq byContent.Keys), StringComparison.Ordinal)
            let lengths =
                byContent.Keys |> Seq.map _.Length |> Seq.distinct |> Seq.sortDescending |> Array.ofSeq

            // The longest that stands there and may.
            let tokenAt
                (allows: AddedToken -> int -> int -> bool)
                (text: string)
                (at: int)
                : AddedToken voption =
                let mutable found = ValueNone
                let mutable next = 0

                while found.IsNone && next < lengths.Length do
                    let length = lengths[next]
                    let mutable token = Unchecked.defaultof<AddedToken>

                    if
                        at + length <= text.Length
                        && bySpan.TryGetValue(text.AsSpan(at, length), &token)
                        && allows token at (at + length)
                    then
                        found <- ValueSome token

                    next <- next + 1

                found

            // From `start`, or -1.
            let find (text: string) (start: int) =
                match text.AsSpan(start).IndexOfAny search with
                | -1 -> -1
                | at -> start + at

            fun allows text ->
                let segments = List<Segment>()
                let mutable start = 0
                let mutable found = find text 0

                while found >= 0 do
                    match tokenAt allows text found with
                    | ValueNone -> found <- find text (found + 1)
                    | ValueSome token ->
                        let mutable left = found
                        let mutable right = found + token.Content.Length
                        let within = token.SingleWord && (isWord text (left - 1) || isWord text right)

                        if not within then
                            while token.TakesLeft && left > start && Char.IsWhiteSpace text[left - 1] do
                                left <- left - 1

                            while token.TakesRight && right < text.Length && Char.IsWhiteSpace text[right] do
                                right <- right + 1

                            if left > start then
                                segments.Add(Segment.Text text[start .. left - 1])

                            segments.Add(Segment.Token(token.Id, text[left .. right - 1]))
                            start <- right

                        found <- find text right

                if start < text.Length then
                    segments.Add(Segment.Text text[start..])

                List.ofSeq segments

    /// The same where all tokens may stand anywhere.
    let splitter (tokens: AddedToken list) : string -> Segment list = cutter tokens (fun _ _ _ -> true)
