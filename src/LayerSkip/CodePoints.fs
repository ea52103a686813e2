namespace LayerSkip

open System
open System.Globalization
open System.Text

/// A set of Unicode code points, as a regular expression's class says it.
[<RequireQualifiedAccess>]
type internal CodePoints =
    | Range of first: int * last: int
    /// Those of some general categories, a bit of `mask` each.
    | Categories of mask: int
    | Not of CodePoints
    | Any of CodePoints list
    | All of CodePoints list

[<RequireQualifiedAccess>]
module internal CodePoints =
    let maskOf (categories: UnicodeCategory list) : int =
        categories |> List.fold (fun mask category -> mask ||| (1 <<< int category)) 0

    let private categories = CodePoints.Categories << maskOf
    let single point = CodePoints.Range(point, point)

    let letters =
        maskOf [
            UnicodeCategory.UppercaseLetter
            UnicodeCategory.LowercaseLetter
            UnicodeCategory.TitlecaseLetter
            UnicodeCategory.ModifierLetter
            UnicodeCategory.OtherLetter
        ]

    let marks =
        maskOf [
            UnicodeCategory.NonSpacingMark
            UnicodeCategory.SpacingCombiningMark
            UnicodeCategory.EnclosingMark
        ]

    let digit = categories [ UnicodeCategory.DecimalDigitNumber ]

    let space =
        CodePoints.Any [
            CodePoints.Range(0x09, 0x0D)
            single 0x85
            categories [
                UnicodeCategory.SpaceSeparator
                UnicodeCategory.LineSeparator
                UnicodeCategory.ParagraphSeparator
            ]
        ]

    /// Unicode's Alphabetic, marks, decimal digits and connectors. Of the symbols that are alphabetic, all are named here.
    let word =
        CodePoints.Any [
            CodePoints.Categories(letters ||| marks)
            categories [
                UnicodeCategory.LetterNumber
                UnicodeCategory.DecimalDigitNumber
                UnicodeCategory.ConnectorPunctuation
            ]
            CodePoints.Range(0x24B6, 0x24E9)
            CodePoints.Range(0x1F130, 0x1F149)
            CodePoints.Range(0x1F150, 0x1F169)
            CodePoints.Range(0x1F170, 0x1F189)
        ]

    let hexDigit =
        CodePoints.Any [
            CodePoints.Range(int '0', int '9')
            CodePoints.Range(int 'A', int 'F')
            CodePoints.Range(int 'a', int 'f')
        ]

    /// The script Han.
    let private han =
        CodePoints.Any [
            for first, last in
                [
                    0x2E80, 0x2E99
                    0x2E9B, 0x2EF3
                    0x2F00, 0x2FD5
                    0x3005, 0x3005
                    0x3007, 0x3007
                    0x3021, 0x3029
                    0x3038, 0x303B
                    0x3400, 0x4DBF
                    0x4E00, 0x9FFF
                    0xF900, 0xFA6D
                    0xFA70, 0xFAD9
                    0x16FE2, 0x16FE3
                    0x16FF0, 0x16FF1
                    0x20000, 0x2A6DF
                    0x2A700, 0x2B739
                    0x2B740, 0x2B81D
                    0x2B820, 0x2CEA1
                    0x2CEB0, 0x2EBE0
                    0x2EBF0, 0x2EE5D
                    0x2F800, 0x2FA1D
                    0x30000, 0x3134A
                    0x31350, 0x323AF
                ] do
                CodePoints.Range(first, last)
        ]

    // Unicode's names of its categories, and of groups of them.
    let private named =
        let all = [
            "Lu", "uppercaseletter", UnicodeCategory.UppercaseLetter
            "Ll", "lowercaseletter", UnicodeCategory.LowercaseLetter
            "Lt", "titlecaseletter", UnicodeCategory.TitlecaseLetter
            "Lm", "modifierletter", UnicodeCategory.ModifierLetter
            "Lo", "otherletter", UnicodeCategory.OtherLetter
            "Mn", "nonspacingmark", UnicodeCategory.NonSpacingMark
            "Mc", "spacingmark", UnicodeCategory.SpacingCombiningMark
            "Me", "enclosingmark", UnicodeCategory.EnclosingMark
            "Nd", "decimalnumber", UnicodeCategory.DecimalDigitNumber
            "Nl", "letternumber", UnicodeCategory.LetterNumber
            "No", "othernumber", UnicodeCategory.OtherNumber
            "Pc", "connectorpunctuation", UnicodeCategory.ConnectorPunctuation
            "Pd", "dashpunctuation", UnicodeCategory.DashPunctuation
            "Ps", "openpunctuation", UnicodeCategory.OpenPunctuation
            "Pe", "closepunctuation", UnicodeCategory.ClosePunctuation
            "Pi", "initialpunctuation", UnicodeCategory.InitialQuotePunctuation
            "Pf", "finalpunctuation", UnicodeCategory.FinalQuotePunctuation
            "Po", "otherpunctuation", UnicodeCategory.OtherPunctuation
            "Sm", "mathsymbol", UnicodeCategory.MathSymbol
            "Sc", "currencysymbol", UnicodeCategory.CurrencySymbol
            "Sk", "modifiersymbol", UnicodeCategory.ModifierSymbol
            "So", "othersymbol", UnicodeCategory.OtherSymbol
            "Zs", "spaceseparator", UnicodeCategory.SpaceSeparator
            "Zl", "lineseparator", UnicodeCategory.LineSeparator
            "Zp", "paragraphseparator", UnicodeCategory.ParagraphSeparator
            "Cc", "control", UnicodeCategory.Control
            "Cf", "format", UnicodeCategory.Format
            "Cs", "surrogate", UnicodeCategory.Surrogate
            "Co", "privateuse", UnicodeCategory.PrivateUse
            "Cn", "unassigned", UnicodeCategory.OtherNotAssigned
        ]

        let group (initial: string) =
            categories [
                for short, _, category in all do
                    if short.StartsWith(initial, StringComparison.Ordinal) then
                        category
            ]

        Map [
            for short, long, category in all do
                short.ToLowerInvariant(), categories [ category ]
                long, categories [ category ]
            for initial, long in
                [
                    "L", "letter"
                    "M", "mark"
                    "N", "number"
                    "P", "punctuation"
                    "S", "symbol"
                    "Z", "separator"
                    "C", "other"
                ] do
                initial.ToLowerInvariant(), group initial
                long, group initial
            "any", CodePoints.Range(0, 0x10FFFF)
            "assigned", CodePoints.Not(categories [ UnicodeCategory.OtherNotAssigned ])
            "ascii", CodePoints.Range(0, 0x7F)
            "blank", CodePoints.Any [ single 0x09; categories [ UnicodeCategory.SpaceSeparator ] ]
            "cntrl", categories [ UnicodeCategory.Control ]
            "digit", digit
            "space", space
            "whitespace", space
            "xdigit", hexDigit
            "word", word
            "han", han
        ]

    /// A property by its name: categories, the script Han, and those POSIX classes that mean one thing in every version of
    /// Oniguruma (punct does not).
    let tryNamed (name: string) : CodePoints option =
        named.TryFind(name.ToLowerInvariant().Replace("_", "").Replace(" ", "").Replace("-", ""))

    let rec contains (category: UnicodeCategory) (point: int) (set: CodePoints) : bool =
        match set with
        | CodePoints.Range(first, last) -> first <= point && point <= last
        | CodePoints.Categories mask -> (mask >>> int category) &&& 1 = 1
        | CodePoints.Not inner -> not (contains category point inner)
        | CodePoints.Any sets -> List.exists (contains category point) sets
        | CodePoints.All sets -> List.forall (contains category point) sets

    /// The ranges that a set is written with.
    let rec ranges (set: CodePoints) : (int * int) list =
        match set with
        | CodePoints.Range(first, last) -> [ first, last ]
        | CodePoints.Categories _ -> []
        | CodePoints.Not inner -> ranges inner
        | CodePoints.Any sets
        | CodePoints.All sets -> List.collect ranges sets

    /// A code point with the others that a regular expression takes for it where case does not count; None where that is not
    /// one character for another.
    let private tryFolded (point: int) : int list option =
        match point with
        | _ when int 'a' <= point && point <= int 'z' || int 'A' <= point && point <= int 'Z' ->
            let lower = point ||| 0x20

            Some [
                lower
                lower - 0x20
                if lower = int 'k' then
                    0x212A
                if lower = int 's' then
                    0x17F
            ]
        | _ when point < 0x80 -> Some [ point ]
        | _ when not (Rune.IsValid point) -> Some [ point ]
        | _ ->
            let rune = Rune point

            if Rune.ToUpperInvariant rune = rune && Rune.ToLowerInvariant rune = rune then
                Some [ point ]
            else
                None

    /// The set where case does not count; None where we cannot say it exactly.
    let rec tryIgnoreCase (set: CodePoints) : CodePoints option =
        let all sets =
            let folded = sets |> List.map tryIgnoreCase
            if List.forall Option.isSome folded then
                Some(List.map Option.get folded)
            else
                None

        match set with
        | _ when set = word || set = space || set = CodePoints.Range(0, 0x10FFFF) -> Some set
        | CodePoints.Range(first, last) when last - first > 0x300 -> None
        | CodePoints.Range(first, last) ->
            let folded = [ first..last ] |> List.map tryFolded

            if List.forall Option.isSome folded then
                Some(CodePoints.Any(set :: (folded |> List.collect Option.get |> List.map single)))
            else
                None
        | CodePoints.Categories mask ->
            // All letters or none: cased ones come together.
            match mask &&& letters with
            | 0 -> Some set
            | some when some = letters -> Some set
            | _ -> None
        | CodePoints.Not inner -> tryIgnoreCase inner |> Option.map CodePoints.Not
        | CodePoints.Any sets -> all sets |> Option.map CodePoints.Any
        | CodePoints.All _ -> None
