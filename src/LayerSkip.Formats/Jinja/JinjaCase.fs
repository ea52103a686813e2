namespace LayerSkip

open System
open System.Collections.Generic
open System.Globalization
open System.IO
open System.Reflection
open System.Text

/// Upper, lower and title case as Python maps them: Unicode's full mappings, in which a character may become several.
[<RequireQualifiedAccess>]
module internal JinjaCase =
    /// Unicode's SpecialCasing.txt where it does not depend on the language, as Python has it: characters with their upper case of
    /// several characters, then those whose title case is not their upper case.
    let private tables =
        lazy
            (use stream = Assembly.GetExecutingAssembly().GetManifestResourceStream "LayerSkip.case.txt"

             use reader = new StreamReader(stream)

             let table () =
                 let found = Dictionary<int, string>()

                 for entry in reader.ReadLine().Split ' ' do
                     let rune = Rune.GetRuneAt(entry, 0)
                     found[rune.Value] <- entry[rune.Utf16SequenceLength ..]

                 found

             let upper = table ()
             struct (upper, table ()))

    /// The upper case of a character.
    let upper (rune: Rune) : string =
        if rune.IsAscii then
            (Rune.ToUpperInvariant rune).ToString()
        else
            let struct (special, _) = tables.Value

            match special.TryGetValue rune.Value with
            | true, several -> several
            | _ -> (Rune.ToUpperInvariant rune).ToString()

    /// The case that a character has at the beginning of a word.
    let title (rune: Rune) : string =
        let struct (_, special) = tables.Value

        match special.TryGetValue rune.Value with
        | true, found -> found
        // Georgian's letters have an upper case, but no title.
        | _ when rune.Value >= 0x10D0 && rune.Value <= 0x10FF -> rune.ToString()
        | _ -> upper rune

    let private isCased (rune: Rune) =
        match Rune.GetUnicodeCategory rune with
        | UnicodeCategory.UppercaseLetter
        | UnicodeCategory.LowercaseLetter
        | UnicodeCategory.TitlecaseLetter -> true
        | _ -> false

    let private isIgnored (rune: Rune) =
        match Rune.GetUnicodeCategory rune with
        | UnicodeCategory.NonSpacingMark
        | UnicodeCategory.EnclosingMark
        | UnicodeCategory.Format
        | UnicodeCategory.ModifierLetter
        | UnicodeCategory.ModifierSymbol -> true
        | _ -> "'.:\u00B7\u2018\u2019\u2024\u2027".Contains(rune.ToString(), StringComparison.Ordinal)

    /// Whether a sigma there ends a word (Unicode, section 3.13, Final_Sigma).
    let private endsWord (text: string) (at: int) : bool =
        let rec isCasedBefore stop =
            match Rune.DecodeLastFromUtf16(text.AsSpan(0, stop)) with
            | Buffers.OperationStatus.Done, rune, size when isIgnored rune -> isCasedBefore (stop - size)
            | status, rune, _ -> status = Buffers.OperationStatus.Done && isCased rune

        let rec isCasedAfter start =
            match Rune.DecodeFromUtf16(text.AsSpan(start: int)) with
            | Buffers.OperationStatus.Done, rune, size when isIgnored rune -> isCasedAfter (start + size)
            | status, rune, _ -> status = Buffers.OperationStatus.Done && isCased rune

        isCasedBefore at && not (isCasedAfter (at + 1))

    /// The lower case of the character at a place of a text.
    let lower (text: string) (at: int) (rune: Rune) : string =
        match rune.Value with
        | 0x130 -> "i\u0307"
        | 0x3A3 when endsWord text at -> "\u03C2"
        | _ -> (Rune.ToLowerInvariant rune).ToString()

    /// A text whose characters become others; `map` is given where a character stands.
    let mapped (work: Work) (map: int -> Rune -> string) (text: Marked) : Marked =
        let out = work.Builder()
        let mutable at = 0

        for rune in text.Text.EnumerateRunes() do
            out.Append(map at rune, Marked.isTyped at text)
            at <- at + rune.Utf16SequenceLength

        work.Made(out.Finish())

    let upperText work (text: Marked) : Marked = mapped work (fun _ -> upper) text
    let lowerText work (text: Marked) : Marked = mapped work (lower text.Text) text

    /// The first character in title case, all others in lower case.
    let capitalized work (text: Marked) : Marked =
        text
        |> mapped work (fun at rune -> if at = 0 then title rune else lower text.Text at rune)

    /// Python's str.title: words are runs of letters that have a case.
    let titled work (text: Marked) : Marked =
        let mutable isInside = false

        text
        |> mapped work (fun at rune ->
            let written = if isInside then lower text.Text at rune else title rune
            isInside <- isCased rune
            written)

    let swapped work (text: Marked) : Marked =
        text
        |> mapped work (fun at rune ->
            if Rune.IsUpper rune then lower text.Text at rune
            elif Rune.IsLower rune then upper rune
            else rune.ToString())

    /// Python's isupper and islower: some letter has the case, and none the other.
    let isAll (wanted: UnicodeCategory) (text: string) : bool =
        let cased = text.EnumerateRunes() |> Seq.filter isCased |> List.ofSeq
        not cased.IsEmpty
        && cased |> List.forall (fun rune -> Rune.GetUnicodeCategory rune = wanted)
