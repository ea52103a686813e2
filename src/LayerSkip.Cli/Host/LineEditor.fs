namespace LayerSkip.Cli

open System
open System.Globalization
open System.Text

/// A line while it is typed, as a value: its text, where the next character goes, and the lines that were typed before.
type EditedLine = {
    Text: string
    /// In characters of .NET, between two of the user's.
    Cursor: int
    /// The latest first.
    Past: string list
    /// How many lines back the text comes from; 0: it is new.
    Back: int
    /// The new line, while an older one is looked at.
    Kept: string
}

/// What a key did.
[<RequireQualifiedAccess>]
type Edit =
    | Going of EditedLine
    | Entered of string
    /// Ctrl-C: the line is given up.
    | Abandoned
    /// Ctrl-D on an empty line.
    | Ended

/// Line editing by the keys that shells have.
[<RequireQualifiedAccess>]
module LineEditor =
    /// An empty line after others, the latest of which is first.
    let start (past: string list) : EditedLine = { Text = ""; Cursor = 0; Past = past; Back = 0; Kept = "" }

    let private withText text line = { line with Text = text; Cursor = text.Length }

    /// Where what the user calls a character begins, each.
    let private starts (text: string) = StringInfo.ParseCombiningCharacters text

    let private before (line: EditedLine) =
        starts line.Text
        |> Array.filter (fun at -> at < line.Cursor)
        |> Array.tryLast
        |> Option.defaultValue 0

    let private after (line: EditedLine) =
        starts line.Text
        |> Array.tryFind (fun at -> at > line.Cursor)
        |> Option.defaultValue line.Text.Length

    /// Where the word before the cursor begins, or the one after it ends.
    let private wordStart (line: EditedLine) =
        let mutable at = line.Cursor

        while at > 0 && Char.IsWhiteSpace line.Text[at - 1] do
            at <- at - 1

        while at > 0 && not (Char.IsWhiteSpace line.Text[at - 1]) do
            at <- at - 1

        at

    let private wordEnd (line: EditedLine) =
        let mutable at = line.Cursor

        while at < line.Text.Length && Char.IsWhiteSpace line.Text[at] do
            at <- at + 1

        while at < line.Text.Length && not (Char.IsWhiteSpace line.Text[at]) do
            at <- at + 1

        at

    /// Without the characters between two places.
    let private cut first last (line: EditedLine) = {
        line with
            Text = line.Text.Remove(first, last - first)
            Cursor = first
    }

    /// Text put in at the cursor.
    let insert (text: string) (line: EditedLine) : EditedLine = {
        line with
            Text = line.Text.Insert(line.Cursor, text)
            Cursor = line.Cursor + text.Length
    }

    let private look back (line: EditedLine) =
        if back < 0 || back > line.Past.Length then
            line
        else
            let kept = if line.Back = 0 then line.Text else line.Kept

            { line with Back = back; Kept = kept }
            |> withText (if back = 0 then kept else line.Past[back - 1])

    /// What a key makes of a line.
    let press (key: ConsoleKeyInfo) (line: EditedLine) : Edit =
        let control = key.Modifiers.HasFlag ConsoleModifiers.Control
        let alt = key.Modifiers.HasFlag ConsoleModifiers.Alt
        let at cursor = { line with Cursor = cursor }

        match key.Key with
        | ConsoleKey.Enter -> Edit.Entered line.Text
        // As it comes from what was typed ahead, or put in.
        | _ when key.KeyChar = '\n' || key.KeyChar = '\r' -> Edit.Entered line.Text
        | ConsoleKey.C when control -> Edit.Abandoned
        | ConsoleKey.D when control && line.Text = "" -> Edit.Ended
        | ConsoleKey.D when control -> Edit.Going(cut line.Cursor (after line) line)
        | ConsoleKey.A when control -> Edit.Going(at 0)
        | ConsoleKey.E when control -> Edit.Going(at line.Text.Length)
        | ConsoleKey.B when control -> Edit.Going(at (before line))
        | ConsoleKey.F when control -> Edit.Going(at (after line))
        | ConsoleKey.K when control -> Edit.Going(cut line.Cursor line.Text.Length line)
        | ConsoleKey.U when control -> Edit.Going(cut 0 line.Cursor line)
        | ConsoleKey.W when control -> Edit.Going(cut (wordStart line) line.Cursor line)
        | ConsoleKey.P when control -> Edit.Going(look (line.Back + 1) line)
        | ConsoleKey.N when control -> Edit.Going(look (line.Back - 1) line)
        | ConsoleKey.B when alt -> Edit.Going(at (wordStart line))
        | ConsoleKey.F when alt -> Edit.Going(at (wordEnd line))
        | ConsoleKey.LeftArrow when control -> Edit.Going(at (wordStart line))
        | ConsoleKey.RightArrow when control -> Edit.Going(at (wordEnd line))
        | ConsoleKey.LeftArrow -> Edit.Going(at (before line))
        | ConsoleKey.RightArrow -> Edit.Going(at (after line))
        | ConsoleKey.Home -> Edit.Going(at 0)
        | ConsoleKey.End -> Edit.Going(at line.Text.Length)
        | ConsoleKey.UpArrow -> Edit.Going(look (line.Back + 1) line)
        | ConsoleKey.DownArrow -> Edit.Going(look (line.Back - 1) line)
        | ConsoleKey.Backspace when alt || control -> Edit.Going(cut (wordStart line) line.Cursor line)
        | ConsoleKey.Backspace -> Edit.Going(cut (before line) line.Cursor line)
        | ConsoleKey.Delete -> Edit.Going(cut line.Cursor (after line) line)
        | _ when key.KeyChar = '\t' -> Edit.Going(insert " " line)
        | _ when Char.IsControl key.KeyChar -> Edit.Going line
        | _ -> Edit.Going(insert (string key.KeyChar) line)

    /// What of a line is shown in so many columns, with the cursor in it, and the cursor's column there.
    let window (columns: int) (line: EditedLine) : struct (string * int) =
        let parts = starts line.Text
        let ends = Array.append parts[min 1 parts.Length ..] [| line.Text.Length |]
        let pieces = Array.zip parts (Array.truncate parts.Length ends)
        let width (text: string) = Columns.count text

        // As far to the left as leaves the cursor a column.
        let first =
            Seq.append parts [ line.Text.Length ]
            |> Seq.find (fun start ->
                start >= line.Cursor || width line.Text[start .. line.Cursor - 1] < columns)

        let shown = StringBuilder()
        let mutable used = 0

        for start, stop in pieces do
            if start >= first && used >= 0 then
                let piece = line.Text[start .. stop - 1]

                if used + width piece <= columns then
                    shown.Append piece |> ignore
                    used <- used + width piece
                else
                    // Nothing behind what does not fit.
                    used <- -1

        struct (shown.ToString(), width line.Text[first .. line.Cursor - 1])

    /// A line in `width` columns, `columns` of them for what asks for it, written over what stood there, and the cursor put back in its place.
    /// A dumb terminal knows spaces and the carriage return alone.
    let drawn (isDumb: bool) (width: int) (asks: string) (columns: int) (line: EditedLine) : string =
        // The last column stays free: to write there may begin a line.
        let room = width - columns - 1
        let struct (text, cursor) = window room line
        let shown = LayerSkip.Printable.line text
        let place = columns + cursor

        if not isDumb then
            let move = if place > 0 then $"\u001b[{place}C" else ""
            $"\r{asks}{shown}\u001b[K\r{move}"
        else
            let rest = String(' ', max 0 (room - Columns.count shown))

            let before =
                seq { text.Length .. -1 .. 0 }
                |> Seq.map (fun length -> text.Substring(0, length))
                |> Seq.tryFind (fun before -> Columns.count before = cursor)

            $"\r{asks}{shown}{rest}\r{asks}{LayerSkip.Printable.line (defaultArg before text)}"
