namespace LayerSkip

open System
open System.Globalization
open System.Text

/// Texts of files, models and command lines as a terminal or a log may be given them: what would steer a terminal,
/// hide or reorder its words, is shown as `\u001b` is here. Against names and texts of models that hold escape
/// sequences or change the order of a line (Unicode Technical Report 36).
[<RequireQualifiedAccess>]
module Printable =
    /// Controls, the separators that end a line, the marks that turn the order of a line's characters around.
    let private steers (character: char) =
        Char.IsControl character
        || character >= '\u2028' && character <= '\u202e'
        || character >= '\u2066' && character <= '\u2069'

    let private isLone (text: string) (index: int) =
        Char.IsHighSurrogate text[index]
        && not (index + 1 < text.Length && Char.IsLowSurrogate text[index + 1])
        || Char.IsLowSurrogate text[index] && not (index > 0 && Char.IsHighSurrogate text[index - 1])

    let private shown (keeps: char -> bool) (text: string) : string =
        let isShown index = keeps text[index] || not (steers text[index] || isLone text index)

        if Seq.forall isShown (seq { 0 .. text.Length - 1 }) then
            text
        else
            let out = StringBuilder text.Length

            for index in 0 .. text.Length - 1 do
                if isShown index then
                    out.Append text[index] |> ignore
                else
                    out.Append("\\u").Append((int text[index]).ToString("x4", CultureInfo.InvariantCulture))
                    |> ignore

            out.ToString()

    /// On one line: line ends and tabs are shown as escapes too.
    let line (text: string) : string = shown (fun _ -> false) text

    /// With its lines and tabs. For what a model generates, as a terminal is given it.
    let text (text: string) : string = shown (fun character -> character = '\n' || character = '\t') text

    /// At most about `most` characters: the beginning and the end, and how many are left out between them.
    let cut (most: int) (text: string) : string =
        if text.Length <= most then
            text
        else
            let first, last = most * 2 / 3, most / 3
            let left = (text.Length - first - last).ToString("N0", CultureInfo.InvariantCulture)
            $"{text[.. first - 1]}... ({left} characters) ...{text[text.Length - last ..]}"
