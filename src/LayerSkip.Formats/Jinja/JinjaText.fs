namespace LayerSkip

open System
open System.Collections.Generic

/// Python's methods of texts, over texts with marks: each character keeps its own.
[<RequireQualifiedAccess>]
module internal JinjaText =
    /// What Python takes for white space: .NET's, and the four separators of ASCII.
    let isSpace (unit: char) : bool = Char.IsWhiteSpace unit || unit >= '\u001C' && unit <= '\u001F'

    /// From the first to before the last character that stays.
    let private strip left right (drops: char -> bool) (text: Marked) : Marked =
        let all = text.Text
        let mutable first, stop = 0, all.Length

        while left && first < stop && drops all[first] do
            first <- first + 1

        while right && stop > first && drops all[stop - 1] do
            stop <- stop - 1

        Marked.sub first (stop - first) text

    /// Without white space, or the characters of a text, at its sides.
    let trim (left: bool) (right: bool) (characters: string option) (text: Marked) : Marked =
        match characters with
        | None -> strip left right isSpace text
        | Some set when Seq.exists Char.IsSurrogate set ->
            Value.fail "only characters up to U+FFFF can be stripped here"
        | Some set -> strip left right set.Contains text

    let private indexOf (text: string) (piece: string) (start: int) : int =
        if start > text.Length then
            -1
        else
            text.IndexOf(piece, start, StringComparison.Ordinal)

    /// Every occurrence of a piece becomes another, `most` of them at most where that is not negative. A piece of nothing stands
    /// between all characters.
    let replace (work: Work) (old: string) (fresh: Marked) (most: int) (text: Marked) : Marked =
        let out = work.Builder()
        let most = if most < 0 then Int32.MaxValue else most

        if old = "" then
            let characters = Value.characters work text
            let mutable count = 0

            let between () =
                if count < most then
                    out.Append fresh
                    count <- count + 1

            between ()

            for character in characters do
                out.Append character
                between ()
        else
            let mutable start, count = 0, 0
            let mutable found = indexOf text.Text old 0

            while found >= 0 && count < most do
                out.Append(text, start, found - start)
                out.Append fresh
                start <- found + old.Length
                count <- count + 1
                found <- indexOf text.Text old start

            out.Append(text, start, text.Text.Length - start)

        work.Made(out.Finish())

    let private texts (work: Work) (pieces: seq<Marked>) : Value =
        Value.List(work.Made(pieces |> Seq.map Value.Text |> Array.ofSeq))

    /// Split at a separator, `most` times at most where that is not negative.
    let split (work: Work) (separator: string) (most: int) (text: Marked) : Value =
        if separator = "" then
            Value.fail "a text cannot be split at an empty separator"

        let pieces = List<Marked>()
        let mutable start = 0
        let mutable found = indexOf text.Text separator 0

        while found >= 0 && (most < 0 || pieces.Count < most) do
            pieces.Add(Marked.sub start (found - start) text)
            start <- found + separator.Length
            found <- indexOf text.Text separator start

        pieces.Add(Marked.sub start (text.Text.Length - start) text)
        texts work pieces

    /// The same from the end.
    let splitFromEnd (work: Work) (separator: string) (most: int) (text: Marked) : Value =
        if separator = "" then
            Value.fail "a text cannot be split at an empty separator"

        let pieces = List<Marked>()
        let mutable stop = text.Text.Length
        let last () =
            if stop = 0 then
                -1
            else
                text.Text.LastIndexOf(separator, stop - 1, stop, StringComparison.Ordinal)
        let mutable found = last ()

        while found >= 0 && (most < 0 || pieces.Count < most) do
            let after = found + separator.Length
            pieces.Add(Marked.sub after (stop - after) text)
            stop <- found
            found <- last ()

        pieces.Add(Marked.sub 0 stop text)
        pieces.Reverse()
        texts work pieces

    /// Split at runs of white space, none at the sides.
    let words (work: Work) (most: int) (text: Marked) : Value =
        let all = text.Text
        let pieces = List<Marked>()
        let mutable at = 0

        let skip (wanted: bool) =
            while at < all.Length && isSpace all[at] = wanted do
                at <- at + 1

        skip true

        while at < all.Length do
            let start = at

            if most >= 0 && pieces.Count >= most then
                at <- all.Length
                pieces.Add(trim false true None (Marked.sub start (at - start) text))
            else
                skip false
                pieces.Add(Marked.sub start (at - start) text)
                skip true

        texts work pieces

    /// The lines, with the end of each where `keeps`.
    let lines (work: Work) (keeps: bool) (text: Marked) : Marked[] =
        let all = text.Text
        let pieces = List<Marked>()
        let mutable start, at = 0, 0

        while at < all.Length do
            let ends =
                match all[at] with
                | '\r' when at + 1 < all.Length && all[at + 1] = '\n' -> 2
                | '\n'
                | '\r'
                | '\u000B'
                | '\u000C'
                | '\u001C'
                | '\u001D'
                | '\u001E'
                | '\u0085'
                | '\u2028'
                | '\u2029' -> 1
                | _ -> 0

            if ends > 0 then
                pieces.Add(Marked.sub start (at - start + (if keeps then ends else 0)) text)
                at <- at + ends
                start <- at
            else
                at <- at + 1

        if start < all.Length then
            pieces.Add(Marked.sub start (all.Length - start) text)

        work.Made(pieces.ToArray())

    /// Texts with another between them.
    let join (work: Work) (separator: Marked) (pieces: Marked[]) : Marked =
        let out = work.Builder()

        for i in 0 .. pieces.Length - 1 do
            if i > 0 then
                out.Append separator

            out.Append pieces[i]

        work.Made(out.Finish())

    /// How often a piece stands in a text, without overlaps.
    let count (piece: string) (text: string) : int =
        if piece = "" then
            Value.textLength text + 1
        else
            let mutable found, start = 0, indexOf text piece 0

            while start >= 0 do
                found <- found + 1
                start <- indexOf text piece (start + piece.Length)

            found

    /// A text so many times.
    let repeat (work: Work) (times: int) (text: Marked) : Marked =
        if text.Text <> "" && int64 times * int64 text.Text.Length > (1L <<< 25) then
            Value.fail "a text grows beyond 32 Mi characters"

        let out = work.Builder()

        if text.Text <> "" then
            for _ in 1..times do
                out.Append text

        work.Made(out.Finish())

    /// What stands before a piece, the piece, and what stands after it.
    let partition (fromEnd: bool) (piece: string) (text: Marked) : Value =
        let part start stop = Value.Text(Marked.sub start (stop - start) text)

        let found =
            if fromEnd then
                text.Text.LastIndexOf(piece, StringComparison.Ordinal)
            else
                text.Text.IndexOf(piece, StringComparison.Ordinal)

        if piece = "" then
            Value.fail "a text cannot be parted at nothing"
        elif found >= 0 then
            let after = found + piece.Length
            Value.Tuple [| part 0 found; part found after; part after text.Text.Length |]
        elif fromEnd then
            Value.Tuple [| Value.text ""; Value.text ""; Value.Text text |]
        else
            Value.Tuple [| Value.Text text; Value.text ""; Value.text "" |]

    /// Filled up to a width with spaces or another character, on the left, on the right, or on both sides as Python shares them.
    let pad (work: Work) (width: int) (fill: string) (side: string) (text: Marked) : Marked =
        let missing = width - Value.textLength text.Text

        if missing <= 0 then
            text
        else
            let left =
                match side with
                | "left" -> missing
                | "right" -> 0
                | _ -> missing / 2 + (missing &&& width &&& 1)

            let filled count = repeat work count (Marked.trusted fill)
            join work (Marked.trusted "") [| filled left; text; filled (missing - left) |]
