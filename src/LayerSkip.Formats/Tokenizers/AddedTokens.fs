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

    /// Cuts a text at the leftmost longest occurrences of the tokens. Of tokens with the same text the last counts.
    /// Threads may share the function.
    let splitter (tokens: AddedToken list) : string -> Segment list =
        let tokens = tokens |> List.filter (fun token -> token.Content <> "")

        if tokens.IsEmpty then
            fun text -> [ Segment.Text text ]
        else
            let byContent = Dictionary<string, AddedToken>()

            for token in tokens do
                byContent[token.Content] <- token

            let bySpan = byContent.GetAlternateLookup<ReadOnlySpan<char>>()
            let search =
                SearchValues.Create(ReadOnlySpan(Array.ofSeq byContent.Keys), StringComparison.Ordinal)
            let lengths =
                byContent.Keys |> Seq.map _.Length |> Seq.distinct |> Seq.sortDescending |> Array.ofSeq

            // The longest that stands there.
            let tokenAt (text: string) (at: int) : AddedToken =
                let length =
                    lengths
                    |> Array.find (fun length ->
                        at + length <= text.Length && bySpan.ContainsKey(text.AsSpan(at, length)))

                bySpan[text.AsSpan(at, length)]

            // From `start`, or -1.
            let find (text: string) (start: int) =
                match text.AsSpan(start).IndexOfAny search with
                | -1 -> -1
                | at -> start + at

            fun text ->
                let segments = List<Segment>()
                let mutable start = 0
                let mutable found = find text 0

                while found >= 0 do
                    let token = tokenAt text found
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
