namespace LayerSkip

open System
open System.Collections.Generic
open System.Text

/// A text in pieces, each with whether somebody typed it: what was typed is never read as a special token.
type MarkedText = { Pieces: struct (string * bool) list }

[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module MarkedText =
    /// A text that a user, a tool or a model wrote.
    let typed (text: string) : MarkedText = { Pieces = [ struct (text, true) ] }

    /// A text of the program's own or of a model's files, whose special tokens are meant.
    let trusted (text: string) : MarkedText = { Pieces = [ struct (text, false) ] }

    /// One after the other.
    let append (first: MarkedText) (second: MarkedText) : MarkedText = {
        Pieces = first.Pieces @ second.Pieces
    }

    /// The whole text, without its marks.
    let text (marked: MarkedText) : string =
        marked.Pieces |> List.map (fun (struct (piece, _)) -> piece) |> String.concat ""

/// A text whose characters [UTF-16] are trusted up to the first of `Flips`, typed from there to the next, and so on.
[<NoComparison>]
type internal Marked = {
    Text: string
    /// Ascending, below the text's length, each once.
    Flips: int[]
}

/// A text in the making. Longer than `most` characters it becomes no text, but a fault: `tooLong` raises it.
[<Sealed>]
type internal MarkedBuilder(most: int, tooLong: unit -> unit) =
    let text = StringBuilder()
    let flips = List<int>()
    let mutable isTyped = false

    /// The characters so far.
    member _.Length = text.Length

    /// Appends so many characters of a text, all typed or all trusted.
    member _.Append(piece: string, start: int, count: int, typed: bool) : unit =
        if count > 0 then
            if count > most - text.Length then
                tooLong ()

            if typed <> isTyped then
                flips.Add text.Length
                isTyped <- typed

            text.Append(piece, start, count) |> ignore

    /// Appends text.
    member this.Append(piece: string, typed: bool) : unit = this.Append(piece, 0, piece.Length, typed)

    /// Appends a part of a text, with its marks.
    member this.Append(marked: Marked, start: int, count: int) : unit =
        let stop = start + count
        let mutable at = start
        let mutable next = Array.BinarySearch(marked.Flips, start + 1)

        if next < 0 then
            next <- ~~~next

        while at < stop do
            let border =
                if next < marked.Flips.Length then
                    min stop marked.Flips[next]
                else
                    stop
            this.Append(marked.Text, at, border - at, next % 2 = 1)
            at <- border
            next <- next + 1

    /// Appends a text, with its marks.
    member this.Append(marked: Marked) : unit = this.Append(marked, 0, marked.Text.Length)

    /// What was appended.
    member _.Finish() : Marked = { Text = text.ToString(); Flips = flips.ToArray() }

[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module internal Marked =
    /// All of it trusted.
    let trusted (text: string) : Marked = { Text = text; Flips = [||] }
    /// All of it typed.
    let typed (text: string) : Marked = { Text = text; Flips = (if text = "" then [||] else [| 0 |]) }

    let private free () = MarkedBuilder(Int32.MaxValue, ignore)

    /// A part.
    let sub (start: int) (count: int) (marked: Marked) : Marked =
        if start = 0 && count = marked.Text.Length then
            marked
        elif marked.Flips.Length = 0 then
            trusted (marked.Text.Substring(start, count))
        else
            let builder = free ()
            builder.Append(marked, start, count)
            builder.Finish()

    /// How many flips lie at or before a character.
    let private flipsUpTo (at: int) (marked: Marked) : int =
        match Array.BinarySearch(marked.Flips, at) with
        | found when found >= 0 -> found + 1
        | missed -> ~~~missed

    /// Whether a character was typed.
    let isTyped (at: int) (marked: Marked) : bool = flipsUpTo at marked % 2 = 1

    /// Whether all characters from `start` to before `stop` are trusted; there is at least one.
    let isTrusted (start: int) (stop: int) (marked: Marked) : bool =
        let first = flipsUpTo start marked
        first % 2 = 0 && first = flipsUpTo (stop - 1) marked

    /// A text's marks on what `change` made of it, as far as they are known: each border is as far on as the text before it
    /// is long. Where that is not so, as when a border parts what Unicode's form C joins, nothing is trusted.
    let changed (change: string -> string) (made: string) (marked: Marked) : Marked =
        let border flip =
            if flip = 0 then
                Some 0
            else
                let before = change marked.Text[.. flip - 1]

                if made.StartsWith(before, StringComparison.Ordinal) then
                    Some before.Length
                else
                    None

        match marked.Flips with
        | [||] -> trusted made
        | flips ->
            match flips |> List.ofArray |> List.map border |> Check.every with
            | Some borders when
                borders |> List.pairwise |> List.forall (fun (a, b) -> a < b)
                && List.last borders < made.Length
                  ->
                  { Text = made; Flips = Array.ofList borders }
            | _ -> typed made

    /// Of pieces.
    let ofText (text: MarkedText) : Marked =
        let builder = free ()

        for struct (piece, typed) in text.Pieces do
            builder.Append(piece, typed)

        builder.Finish()

    /// In pieces, none of them empty.
    let toText (marked: Marked) : MarkedText =
        let borders = [|
            0
            for flip in marked.Flips do
                if flip > 0 then
                    flip
            marked.Text.Length
        |]

        {
            Pieces = [
                for start, stop in Array.pairwise borders do
                    if stop > start then
                        struct (marked.Text[start .. stop - 1], isTyped start marked)
            ]
        }
