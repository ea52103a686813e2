namespace LayerSkip

open System
open System.Collections.Generic
open System.Globalization
open System.Text

/// Stands for the code points above U+FFFF in what .NET matches. .NET's regular expressions see UTF-16 units, the tokenizers'
/// see code points: each surrogate pair gives way to one surrogate, which no text holds otherwise. Code points that every
/// class of the pattern takes alike share one.
[<NoEquality; NoComparison>]
type internal StandIns = {
    /// Where ranges above U+FFFF begin or have ended, in order; the first is U+10000.
    Borders: int[]
    /// By interval between borders, and by category.
    Characters: char[][]
    /// A code point of each stand-in, as its interval and category.
    Examples: (char * int * UnicodeCategory) list
}

/// Building them for the classes of a pattern, and the stand-in of a character.
[<RequireQualifiedAccess>]
module internal StandIns =
    let private mostBorders = 500
    let private astral = 0x10000
    let private categories = Enum.GetValues<UnicodeCategory>()

    // As many as there are surrogates.
    let private first, most = 0xD800, 2048

    /// None where a pattern tells too many of them apart.
    let tryBuild (sets: CodePoints list) : StandIns option =
        let borders =
            sets
            |> List.collect CodePoints.ranges
            |> List.collect (fun (start, last) -> [ start; last + 1 ])
            |> List.filter (fun border -> border > astral && border <= 0x10FFFF)
            |> List.append [ astral ]
            |> List.distinct
            |> List.sort

        // A class of the basic plane alone tells nothing apart.
        let rec isTelling set =
            match set with
            | CodePoints.Range(_, last) -> last >= astral
            | CodePoints.Any sets -> List.exists isTelling sets
            | CodePoints.All sets -> List.forall isTelling sets
            | CodePoints.Categories _
            | CodePoints.Not _ -> true

        if borders.Length > mostBorders then
            None
        else
            let telling = sets |> List.filter isTelling |> List.distinct
            let known = Dictionary<string, char>()
            let examples = List<char * int * UnicodeCategory>()

            let characters = [|
                for border in borders ->
                    categories
                    |> Array.map (fun category ->
                        let signature =
                            telling
                            |> List.map (fun set ->
                                if CodePoints.contains category border set then "1" else "0")
                            |> String.concat ""

                        match known.TryGetValue signature with
                        | true, character -> character
                        | _ ->
                            let character = char (first + min known.Count (most - 1))
                            known[signature] <- character
                            examples.Add((character, border, category))
                            character)
            |]

            if known.Count > most then
                None
            else
                Some {
                    Borders = Array.ofList borders
                    Characters = characters
                    Examples = List.ofSeq examples
                }

    /// What stands for a code point above U+FFFF; one below is a bug.
    let ofRune (standIns: StandIns) (rune: Rune) : char =
        let found = Array.BinarySearch(standIns.Borders, rune.Value)
        let interval = if found >= 0 then found else ~~~found - 1
        standIns.Characters[interval][int (Rune.GetUnicodeCategory rune)]
