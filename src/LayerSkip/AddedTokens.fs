namespace LayerSkip

open System
open System.Collections.Generic
open System.Text.RegularExpressions

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

/// A stretch of text, or the id of an added token.
[<Struct; RequireQualifiedAccess>]
type internal Segment =
    | Text of text: string
    | Token of id: int

[<RequireQualifiedAccess>]
module internal AddedToken =
    let plain (id: int) (content: string) (special: bool) : AddedToken = {
        Id = id
        Content = content
        Special = special
        TakesLeft = false
        TakesRight = false
        SingleWord = false
        Normalized = false
    }

    let private isWord (text: string) (at: int) =
        at >= 0 && at < text.Length && (Char.IsLetterOrDigit text[at] || text[at] = '_')

    /// Cuts a text at the leftmost longest occurrences of the tokens.
    let splitter (tokens: AddedToken list) : string -> Segment list =
        let tokens = tokens |> List.filter (fun token -> token.Content <> "")

        if tokens.IsEmpty then
            fun text -> [ Segment.Text text ]
        else
            let byContent = Dictionary<string, AddedToken>()

            for token in tokens do
                byContent[token.Content] <- token

            // Alternatives are tried in order, so the longest come first.
            let pattern =
                byContent.Keys
                |> Seq.sortByDescending (fun content -> content.Length)
                |> Seq.map Regex.Escape
                |> String.concat "|"

            let regex = lazy (Regex(pattern, RegexOptions.CultureInvariant))

            fun text ->
                let segments = List<Segment>()
                let mutable start = 0
                let mutable found = regex.Value.Match text

                while found.Success do
                    let token = byContent[found.Value]
                    let mutable left = found.Index
                    let mutable right = found.Index + found.Length
                    let within = token.SingleWord && (isWord text (left - 1) || isWord text right)

                    if not within then
                        while token.TakesLeft && left > start && Char.IsWhiteSpace text[left - 1] do
                            left <- left - 1

                        while token.TakesRight && right < text.Length && Char.IsWhiteSpace text[right] do
                            right <- right + 1

                        if left > start then
                            segments.Add(Segment.Text text[start .. left - 1])

                        segments.Add(Segment.Token token.Id)
                        start <- right

                    found <- regex.Value.Match(text, right)

                if start < text.Length then
                    segments.Add(Segment.Text text[start..])

                List.ofSeq segments
