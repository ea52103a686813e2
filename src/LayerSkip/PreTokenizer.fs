namespace LayerSkip

open System
open System.Collections.Generic
open System.Globalization
open System.Text
open System.Text.RegularExpressions

/// What becomes of the matches of a split, in tokenizer.json's terms.
[<RequireQualifiedAccess>]
type internal SplitBehavior =
    | Removed
    | Isolated
    | MergedWithPrevious
    | MergedWithNext
    | Contiguous

/// Where a part of a text stands, which says whether a space is put in front of it.
[<RequireQualifiedAccess>]
type internal Place =
    /// The text begins with it.
    | First
    /// Anywhere else in the text.
    | Later
    /// The text begins with it, but goes on from another: no space comes between them.
    | Continuing

/// A part of the text on its way to words.
[<Struct>]
type internal Piece = { Text: string; Place: Place }

[<RequireQualifiedAccess>]
module internal PreTokenizer =
    /// The words of GPT-2.
    let gpt2 = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

    // A character of each category, from the basic plane and outside ASCII.
    let private standIn (rune: Rune) =
        match Rune.GetUnicodeCategory rune with
        | UnicodeCategory.UppercaseLetter -> '\u0100'
        | UnicodeCategory.LowercaseLetter -> '\u0101'
        | UnicodeCategory.TitlecaseLetter -> '\u01C5'
        | UnicodeCategory.ModifierLetter -> '\u02B0'
        | UnicodeCategory.OtherLetter -> '\u01BB'
        | UnicodeCategory.NonSpacingMark -> '\u0300'
        | UnicodeCategory.SpacingCombiningMark -> '\u0903'
        | UnicodeCategory.EnclosingMark -> '\u0488'
        | UnicodeCategory.DecimalDigitNumber -> '\u0660'
        | UnicodeCategory.LetterNumber -> '\u2160'
        | UnicodeCategory.OtherNumber -> '\u00B2'
        | UnicodeCategory.Format -> '\u2060'
        | UnicodeCategory.PrivateUse -> '\uE000'
        | UnicodeCategory.OtherNotAssigned -> '\u0378'
        | UnicodeCategory.DashPunctuation
        | UnicodeCategory.ConnectorPunctuation
        | UnicodeCategory.OpenPunctuation
        | UnicodeCategory.ClosePunctuation
        | UnicodeCategory.InitialQuotePunctuation
        | UnicodeCategory.FinalQuotePunctuation
        | UnicodeCategory.OtherPunctuation -> '\u00A1'
        | UnicodeCategory.MathSymbol -> '\u00AC'
        | UnicodeCategory.CurrencySymbol -> '\u00A2'
        | UnicodeCategory.ModifierSymbol -> '\u00A8'
        | _ -> '\u00A6'

    /// .NET's regular expressions see UTF-16 units, the tokenizers' see code points: each surrogate pair gives way to one
    /// character of its category. Also returns where each character of the result stands in the text.
    let private shadow (text: string) : struct (string * (int -> int)) =
        if text |> Seq.exists Char.IsHighSurrogate then
            let shadow = StringBuilder text.Length
            let starts = List<int> text.Length
            let mutable at = 0

            while at < text.Length do
                starts.Add at

                match Rune.TryGetRuneAt(text, at) with
                | true, rune when rune.Utf16SequenceLength = 2 ->
                    shadow.Append(standIn rune) |> ignore
                    at <- at + 2
                | _ ->
                    shadow.Append text[at] |> ignore
                    at <- at + 1

            starts.Add text.Length
            struct (shadow.ToString(), (fun i -> starts[i]))
        else
            struct (text, id)

    // Spans cover the text; `matched` tells matches from what is between them.
    let private spans (regex: Regex) (invert: bool) (text: string) : List<struct (int * int * bool)> =
        let struct (shadow, place) = shadow text
        let spans = List<struct (int * int * bool)>()
        let mutable start = 0

        for found in regex.EnumerateMatches(shadow.AsSpan()) do
            if found.Length > 0 then
                if found.Index > start then
                    spans.Add(struct (place start, place found.Index, invert))

                start <- found.Index + found.Length
                spans.Add(struct (place found.Index, place start, not invert))

        if start < shadow.Length then
            spans.Add(struct (place start, text.Length, invert))

        spans

    let private joined joins (spans: List<struct (int * int * bool)>) =
        let result = List<struct (int * int * bool)>()

        for struct (start, stop, matched) in spans do
            let last =
                if result.Count = 0 then
                    struct (0, 0, false)
                else
                    result[result.Count - 1]

            let struct (first, _, before) = last

            if result.Count > 0 && joins before matched then
                result[result.Count - 1] <- struct (first, stop, matched)
            else
                result.Add(struct (start, stop, matched))

        result

    /// Splits each piece at the matches of a regular expression.
    let split (regex: Regex) (behavior: SplitBehavior) (invert: bool) (piece: Piece) : Piece[] =
        let spans = spans regex invert piece.Text

        let kept =
            match behavior with
            | SplitBehavior.Isolated -> spans
            | SplitBehavior.Removed ->
                spans.RemoveAll(fun (struct (_, _, matched)) -> matched) |> ignore
                spans
            | SplitBehavior.Contiguous -> joined (=) spans
            | SplitBehavior.MergedWithPrevious -> joined (fun before matched -> matched && not before) spans
            | SplitBehavior.MergedWithNext -> joined (fun before matched -> before && not matched) spans

        Array.init kept.Count (fun i ->
            let struct (start, stop, _) = kept[i]
            {
                Text = piece.Text.Substring(start, stop - start)
                Place = if start = 0 then piece.Place else Place.Later
            })

    /// The regular expression of a pattern written for Rust's or C++'s tokenizers, where .NET can read it.
    let tryRegex (pattern: string) : Regex option =
        try
            Some(Regex(pattern, RegexOptions.CultureInvariant ||| RegexOptions.Compiled))
        with :? ArgumentException ->
            None

    /// One stage after the other.
    let sequence (stages: (Piece -> Piece[]) list) (piece: Piece) : Piece[] =
        List.fold (fun pieces stage -> Array.collect stage pieces) [| piece |] stages

    /// Every piece begins with a space.
    let prefixSpace (piece: Piece) : Piece[] =
        if piece.Text.StartsWith ' ' || piece.Place = Place.Continuing then
            [| piece |]
        else
            [| { piece with Text = " " + piece.Text } |]
