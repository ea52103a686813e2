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

/// Sets by name, and what they contain. Categories are those of .NET's Unicode version (UAX #44, General_Category).
[<RequireQualifiedAccess>]
module internal CodePoints =
    /// Unicode's short names of the categories, by their numbers in .NET.
    let shortNames =
        "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Zs Zl Zp Cc Cf Cs Co Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Cn".Split ' '

    let private longNames =
        [
            "uppercaseletter lowercaseletter titlecaseletter modifierletter otherletter"
            "nonspacingmark spacingmark enclosingmark decimalnumber letternumber othernumber"
            "spaceseparator lineseparator paragraphseparator control format surrogate privateuse"
            "connectorpunctuation dashpunctuation openpunctuation closepunctuation"
            "initialpunctuation finalpunctuation otherpunctuation"
            "mathsymbol currencysymbol modifiersymbol othersymbol unassigned"
        ]
        |> List.collect (_.Split(' ') >> List.ofArray)

    /// The mask of the categories whose short name begins so.
    let maskOf (initial: string) : int =
        shortNames
        |> Seq.indexed
        |> Seq.filter (fun (_, name) -> name.StartsWith(initial, StringComparison.Ordinal))
        |> Seq.sumBy (fun (category, _) -> 1 <<< category)

    let private categories (names: string list) =
        names |> List.fold (fun mask name -> mask ||| maskOf name) 0 |> CodePoints.Categories
    /// One code point.
    let single point = CodePoints.Range(point, point)
    let private letters = maskOf "L"
    /// Oniguruma's \d over Unicode: decimal digits of every script.
    let digit = categories [ "Nd" ]
    /// Oniguruma's \s over Unicode: White_Space.
    let space = CodePoints.Any [ CodePoints.Range(0x09, 0x0D); single 0x85; categories [ "Z" ] ]

    /// Unicode's Alphabetic, marks, decimal digits and connectors. Of the symbols that are alphabetic, all are named here.
    let word =
        CodePoints.Any [
            categories [ "L"; "M"; "Nl"; "Nd"; "Pc" ]
            CodePoints.Range(0x24B6, 0x24E9)
            CodePoints.Range(0x1F130, 0x1F149)
            CodePoints.Range(0x1F150, 0x1F169)
            CodePoints.Range(0x1F170, 0x1F189)
        ]

    /// Oniguruma's \h: ASCII only.
    let hexDigit =
        CodePoints.Any [
            CodePoints.Range(int '0', int '9')
            CodePoints.Range(int 'A', int 'F')
            CodePoints.Range(int 'a', int 'f')
        ]

    /// The script Han.
    let private han =
        let hex (text: string) = Convert.ToInt32(text, 16)

        [
            "2E80-2E99 2E9B-2EF3 2F00-2FD5 3005-3005 3007-3007 3021-3029 3038-303B 3400-4DBF 4E00-9FFF"
            "F900-FA6D FA70-FAD9 16FE2-16FE3 16FF0-16FF1 20000-2A6DF 2A700-2B739 2B740-2B81D 2B820-2CEA1"
            "2CEB0-2EBE0 2EBF0-2EE5D 2F800-2FA1D 30000-3134A 31350-323AF"
        ]
        |> List.collect (_.Split(' ') >> List.ofArray)
        |> List.map (fun range ->
            CodePoints.Range(hex range[.. range.IndexOf '-' - 1], hex range[range.IndexOf '-' + 1 ..]))
        |> CodePoints.Any

    // Unicode's names of its categories, and of groups of them.
    let private named =
        let groups = "letter L mark M number N punctuation P symbol S separator Z other C".Split ' '

        Map [
            for short, long in Seq.zip shortNames longNames do
                short.ToLowerInvariant(), categories [ short ]
                long, categories [ short ]
            for pair in Seq.chunkBySize 2 groups do
                pair[0], categories [ pair[1] ]
                pair[1].ToLowerInvariant(), categories [ pair[1] ]
            "any", CodePoints.Range(0, 0x10FFFF)
            "assigned", CodePoints.Not(categories [ "Cn" ])
            "ascii", CodePoints.Range(0, 0x7F)
            "blank", CodePoints.Any [ single 0x09; categories [ "Zs" ] ]
            "cntrl", categories [ "Cc" ]
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

    /// Whether a set has a code point, whose category the caller knows: text is walked by runes, which have it.
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
        | _ when point < 0x80 || not (Rune.IsValid point) -> Some [ point ]
        | _ ->
            let rune = Rune point

            if Rune.ToUpperInvariant rune = rune && Rune.ToLowerInvariant rune = rune then
                Some [ point ]
            else
                None

    /// The set where case does not count; None where we cannot say it exactly.
    let rec tryIgnoreCase (set: CodePoints) : CodePoints option =
        match set with
        | _ when set = word || set = space || set = CodePoints.Range(0, 0x10FFFF) -> Some set
        | CodePoints.Range(first, last) when last - first > 0x300 -> None
        | CodePoints.Range(first, last) ->
            [ first..last ]
            |> List.map tryFolded
            |> Check.every
            |> Option.map (fun folded -> CodePoints.Any(set :: (List.concat folded |> List.map single)))
        | CodePoints.Categories mask ->
            // All letters or none: cased ones come together.
            match mask &&& letters with
            | 0 -> Some set
            | some when some = letters -> Some set
            | _ -> None
        | CodePoints.Not inner -> tryIgnoreCase inner |> Option.map CodePoints.Not
        | CodePoints.Any sets -> sets |> List.map tryIgnoreCase |> Check.every |> Option.map CodePoints.Any
        | CodePoints.All _ -> None
