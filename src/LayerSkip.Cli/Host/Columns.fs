namespace LayerSkip.Cli

open System
open System.Globalization
open System.Text

/// Texts in columns of a terminal, as most draw them.
[<RequireQualifiedAccess>]
module Columns =
    /// The scripts of East Asia, and pictures.
    let private wide = [
        0x1100, 0x115F
        0x2E80, 0xA4CF
        0xAC00, 0xD7A3
        0xF900, 0xFAFF
        0xFE30, 0xFE6F
        0xFF01, 0xFF60
        0x1F300, 0x1FAFF
        0x20000, 0x3FFFD
    ]

    let private ofRune (rune: Rune) =
        match Rune.GetUnicodeCategory rune with
        | UnicodeCategory.NonSpacingMark
        | UnicodeCategory.EnclosingMark
        | UnicodeCategory.Format -> 0
        | _ when wide |> List.exists (fun (first, last) -> first <= rune.Value && rune.Value <= last) -> 2
        | _ -> 1

    /// How many a text takes.
    let count (text: string) : int = text.EnumerateRunes() |> Seq.sumBy ofRune

    /// A text in exactly so many: cut with an ellipsis, or followed by spaces.
    let fit (columns: int) (text: string) : string =
        let fitted =
            if count text <= columns then
                text
            else
                let runes = List.ofSeq (text.EnumerateRunes())
                let ends = runes |> List.scan (fun sum rune -> sum + ofRune rune) 0 |> List.tail
                let kept = List.zip runes ends |> List.takeWhile (fun (_, ends) -> ends < columns)
                (kept |> List.map (fst >> string) |> String.concat "") + "…"

        fitted + String(' ', columns - count fitted)
