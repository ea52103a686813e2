namespace LayerSkip

open System.Collections.Generic

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

/// Cutting a text into the words that merges never cross. Stages are functions of a piece, one after the other, in
/// the order of tokenizer.json.
[<RequireQualifiedAccess>]
module internal PreTokenizer =
    /// The words of GPT-2: the expression of OpenAI's encoder.py.
    let gpt2 = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

    // Spans cover the text; `matched` tells matches from what is between them.
    let private spans (pattern: TextPattern) (invert: bool) (text: string) : List<struct (int * int * bool)> =
        let spans = List<struct (int * int * bool)>()
        let mutable start = 0

        for struct (first, stop) in pattern.Find text do
            if first > start then
                spans.Add(struct (start, first, invert))

            spans.Add(struct (first, stop, not invert))
            start <- stop

        if start < text.Length then
            spans.Add(struct (start, text.Length, invert))

        spans

    let private joined joins (spans: List<struct (int * int * bool)>) =
        let result = List<struct (int * int * bool)>()

        for struct (start, stop, matched) in spans do
            let struct (first, _, before) =
                if result.Count = 0 then
                    struct (0, 0, false)
                else
                    result[result.Count - 1]

            if result.Count > 0 && joins before matched then
                result[result.Count - 1] <- struct (first, stop, matched)
            else
                result.Add(struct (start, stop, matched))

        result

    /// Splits each piece at the matches of a pattern. `invert` takes what is between matches for matches. Pieces of
    /// nothing are left out.
    let split (pattern: TextPattern) (behavior: SplitBehavior) (invert: bool) (piece: Piece) : Piece[] =
        let spans = spans pattern invert piece.Text

        let kept =
            match behavior with
            | SplitBehavior.Isolated -> spans
            | SplitBehavior.Removed ->
                spans.RemoveAll(fun (struct (_, _, matched)) -> matched) |> ignore
                spans
            | SplitBehavior.Contiguous -> joined (=) spans
            | SplitBehavior.MergedWithPrevious -> joined (fun before matched -> matched && not before) spans
            | SplitBehavior.MergedWithNext -> joined (fun before matched -> before && not matched) spans

        // A match of nothing parts what is on its sides, and is no piece itself.
        kept.RemoveAll(fun (struct (start, stop, _)) -> start = stop) |> ignore

        Array.init kept.Count (fun i ->
            let struct (start, stop, _) = kept[i]
            {
                Text = piece.Text.Substring(start, stop - start)
                Place = if start = 0 then piece.Place else Place.Later
            })

    /// A pattern of our own.
    let known (source: string) : TextPattern = TextPattern.expression "" source |> Check.getOrRaise

    /// One stage after the other.
    let sequence (stages: (Piece -> Piece[]) list) (piece: Piece) : Piece[] =
        List.fold (fun pieces stage -> Array.collect stage pieces) [| piece |] stages

    /// Every piece begins with a space.
    let prefixSpace (piece: Piece) : Piece[] =
        if piece.Text.StartsWith ' ' || piece.Place = Place.Continuing then
            [| piece |]
        else
            [| { piece with Text = " " + piece.Text } |]
