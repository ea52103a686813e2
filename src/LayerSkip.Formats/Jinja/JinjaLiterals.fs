namespace LayerSkip

open System
open System.Globalization
open System.Numerics
open System.Text

/// Numbers and texts of a template, as Python writes them.
[<RequireQualifiedAccess>]
module internal JinjaLiterals =
    /// The number of digits with a base and underscores.
    let whole (text: string) : BigInteger =
        let text = text.Replace("_", "").ToLowerInvariant()

        let inBase (radix: int) =
            text[2..]
            |> Seq.fold
                (fun sum digit -> sum * BigInteger radix + BigInteger(Convert.ToInt32(string digit, 16)))
                BigInteger.Zero

        match text with
        | _ when text.StartsWith "0b" -> inBase 2
        | _ when text.StartsWith "0o" -> inBase 8
        | _ when text.StartsWith "0x" -> inBase 16
        | _ -> BigInteger.Parse(text, CultureInfo.InvariantCulture)

    let private single =
        Map [
            '\n', ""
            '\\', "\\"
            '\'', "'"
            '"', "\""
            'a', "\a"
            'b', "\b"
            'f', "\f"
            'n', "\n"
            'r', "\r"
            't', "\t"
            'v', "\v"
        ]

    /// The value of a literal, whose escapes are Python's; what is no escape stays as it stands.
    let text (fault: string -> string) (literal: string) : string =
        let out = StringBuilder()
        let mutable at = 0

        // So many digits, or at most so many octal ones.
        let number (start: int) (count: int) (radix: int) (isExact: bool) =
            let mutable stop = start

            while stop < literal.Length
                  && stop < start + count
                  && (if radix = 8 then
                          literal[stop] >= '0' && literal[stop] <= '7'
                      else
                          Char.IsAsciiHexDigit literal[stop]) do
                stop <- stop + 1

            if isExact && stop < start + count then
                fault "an escape in a text has too few digits" |> ignore

            let value = Convert.ToInt32(literal[start .. stop - 1], radix)

            if value > 0x10FFFF || value >= 0xD800 && value <= 0xDFFF then
                fault "an escape in a text stands for no character" |> ignore

            out.Append(Rune(value).ToString()) |> ignore
            at <- stop

        while at < literal.Length do
            if literal[at] <> '\\' || at + 1 = literal.Length then
                out.Append literal[at] |> ignore
                at <- at + 1
            else
                match literal[at + 1] with
                | 'x' -> number (at + 2) 2 16 true
                | 'u' -> number (at + 2) 4 16 true
                | 'U' -> number (at + 2) 8 16 true
                | 'N' -> fault "characters by name (\\N) are not known here" |> ignore
                | digit when digit >= '0' && digit <= '7' -> number (at + 1) 3 8 false
                | unit ->
                    match single.TryFind unit with
                    | Some text -> out.Append text |> ignore
                    | None -> out.Append('\\').Append unit |> ignore

                    at <- at + 2

        out.ToString()
