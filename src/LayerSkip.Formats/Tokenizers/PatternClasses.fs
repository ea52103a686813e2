namespace LayerSkip

open System
open System.Collections
open System.Globalization
open System.Text

/// Writes classes of code points as .NET's classes of UTF-16 units.
[<RequireQualifiedAccess>]
module internal PatternClasses =
    let private units = 1 <<< 16
    let private surrogates = 0xD800, 0xDFFF

    let private unit (c: int) = $"\\u%04X{c}"

    let private range first last =
        if first = last then
            unit first
        else
            $"{unit first}-{unit last}"

    let private ofCategory =
        lazy
            [|
                for category in Enum.GetValues<UnicodeCategory>() ->
                    let bits = BitArray units
                    for c in 0 .. units - 1 do
                        if CharUnicodeInfo.GetUnicodeCategory(char c) = category then
                            bits[c] <- true
                    bits
            |]

    let private fill (bits: BitArray) first last =
        for c in first .. min last (units - 1) do
            bits[c] <- true

    let rec private bits (set: CodePoints) : BitArray =
        match set with
        | CodePoints.Range(first, last) ->
            let bits = BitArray units
            fill bits first last
            bits
        | CodePoints.Categories mask ->
            let all = BitArray units
            for category in 0 .. ofCategory.Value.Length - 1 do
                if (mask >>> category) &&& 1 = 1 then
                    all.Or ofCategory.Value[category] |> ignore
            all
        | CodePoints.Not inner -> (bits inner).Not()
        | CodePoints.Any sets ->
            let all = BitArray units
            for set in sets do
                match set with
                | CodePoints.Range(first, last) -> fill all first last
                | set -> all.Or(bits set) |> ignore
            all
        | CodePoints.All sets ->
            let all = BitArray(units, true)
            for set in sets do
                all.And(bits set) |> ignore
            all

    // Unit by unit, for what .NET's classes do not say.
    let private spelled (set: CodePoints) : string =
        let bits = bits set
        let text = StringBuilder()
        let isIn c = c < units && bits[c] && not (fst surrogates <= c && c <= snd surrogates)
        let mutable at = 0

        while at < units do
            if isIn at then
                let start = at
                while isIn at do
                    at <- at + 1
                text.Append(range start (at - 1)) |> ignore
            else
                at <- at + 1

        text.ToString()

    let private groups = [
        for initial in [ "L"; "M"; "N"; "Z"; "P"; "S" ] -> initial, CodePoints.maskOf initial
    ]

    /// The items of a class in .NET's own words, which its engine knows to be fast; None for what has no such words.
    let rec private tryItems (set: CodePoints) : string option =
        match set with
        | set when set = CodePoints.space -> Some "\\s"
        | CodePoints.Range(first, _) when first >= units -> Some ""
        | CodePoints.Range(first, last) when last < fst surrogates || (first > snd surrogates && last < units) ->
            Some(range first last)
        | CodePoints.Range _ -> None
        | CodePoints.Categories mask when (mask >>> int UnicodeCategory.Surrogate) &&& 1 = 1 -> None
        | CodePoints.Categories mask ->
            let whole, rest =
                groups
                |> List.fold
                    (fun (texts, mask) (name, group) ->
                        if mask &&& group = group then
                            $"\\p{{{name}}}" :: texts, mask &&& ~~~group
                        else
                            texts, mask)
                    ([], mask)

            let single = [
                for i in 0 .. CodePoints.shortNames.Length - 1 do
                    if (rest >>> i) &&& 1 = 1 then
                        $"\\p{{{CodePoints.shortNames[i]}}}"
            ]
            Some(String.concat "" (List.rev whole @ single))
        | CodePoints.Any sets -> sets |> List.map tryItems |> Check.every |> Option.map (String.concat "")
        | CodePoints.Not _
        | CodePoints.All _ -> None

    /// A class; with stand-ins, those of what the set has above U+FFFF belong to it. Exactly the set within U+FFFF
    /// but for surrogates; in .NET's own words (\s, \p{L}) where it has them, else as ranges of units.
    let write (standIns: StandIns option) (set: CodePoints) : string =
        let extra set =
            match standIns with
            | None -> ""
            | Some standIns ->
                [
                    for character, point, category in standIns.Examples do
                        if CodePoints.contains category point set then
                            unit (int character)
                ]
                |> String.concat ""

        let positive, inner =
            match set with
            | CodePoints.Not inner -> false, inner
            | set -> true, set

        let isPositive, items =
            match tryItems inner with
            | Some items -> positive, items + extra inner
            | None -> true, spelled set + extra set

        match isPositive, items with
        | true, "" -> "[^\\s\\S]"
        | true, items when items.StartsWith "\\u" && items.Length = 6 -> items
        | true, items -> $"[{items}]"
        | false, "" -> "[\\s\\S]"
        | false, items -> $"[^{items}]"
