namespace LayerSkip

open System
open System.Collections.Generic
open System.Globalization
open System.IO
open System.Text

/// Unicode normalization form C (Unicode Standard Annex #15) from our own table: .NET's `Normalize` does nothing
/// where globalization is invariant. The table holds UnicodeData.txt's combining classes and canonical
/// decompositions, and which of these compose again.
[<RequireQualifiedAccess>]
module internal Nfc =
    type private Table = {
        Class: Dictionary<int, int>
        Decomposed: Dictionary<int, int[]>
        Composed: Dictionary<struct (int * int), int>
    }

    let private hex (text: string) = Int32.Parse(text, NumberStyles.HexNumber, CultureInfo.InvariantCulture)

    let private table =
        lazy
            (let table = { Class = Dictionary(); Decomposed = Dictionary(); Composed = Dictionary() }
             use stream = typeof<Table>.Assembly.GetManifestResourceStream "LayerSkip.nfc.txt"
             use reader = new StreamReader(stream)

             for line in reader.ReadToEnd().Split '\n' do
                 match List.ofArray (line.Split ' ') with
                 | [ "c"; first; last; ``class`` ] ->
                     for point in hex first .. hex last do
                         table.Class[point] <- hex ``class``
                 | [ "d"; point; first; second; "=" ] ->
                     table.Decomposed[hex point] <- [| hex first; hex second |]
                     table.Composed[struct (hex first, hex second)] <- hex point
                 | "d" :: point :: parts ->
                     table.Decomposed[hex point] <- parts |> List.map hex |> Array.ofList
                 | _ -> ()

             table)

    // Hangul syllables by arithmetic: The Unicode Standard, section 3.12.
    let private syllables, leads, vowels, trails = 0xAC00, 0x1100, 0x1161, 0x11A7
    let private isIn first count point = first <= point && point < first + count

    let rec private decompose (points: List<int>) (point: int) =
        if isIn syllables 11172 point then
            let index = point - syllables
            points.Add(leads + index / 588)
            points.Add(vowels + index % 588 / 28)

            if index % 28 > 0 then
                points.Add(trails + index % 28)
        else
            match table.Value.Decomposed.TryGetValue point with
            | true, parts -> parts |> Array.iter (decompose points)
            | _ -> points.Add point

    let private tryCompose (first: int) (second: int) : int voption =
        if isIn leads 19 first && isIn vowels 21 second then
            ValueSome(syllables + ((first - leads) * 21 + second - vowels) * 28)
        elif isIn syllables 11172 first && (first - syllables) % 28 = 0 && isIn (trails + 1) 27 second then
            ValueSome(first + second - trails)
        else
            match table.Value.Composed.TryGetValue(struct (first, second)) with
            | true, point -> ValueSome point
            | _ -> ValueNone

    let private classOf (point: int) = table.Value.Class.GetValueOrDefault(point, 0)

    /// Sorts each run of combining marks by class, keeping the order of equals.
    let private order (points: List<int>) =
        let mutable start = 0

        while start < points.Count do
            let mutable stop = start

            while stop < points.Count && classOf points[stop] > 0 do
                stop <- stop + 1

            if stop - start > 1 then
                // Array.sortBy would not keep the order of equals.
                points.GetRange(start, stop - start)
                |> List.ofSeq
                |> List.sortBy classOf
                |> List.iteri (fun i point -> points[start + i] <- point)

            start <- max stop (start + 1)

    let private compose (points: List<int>) : List<int> =
        let composed = List<int> points.Count
        let mutable starter = -1
        let mutable lastClass = 0

        for point in points do
            let here = classOf point
            // A mark reaches its starter only past marks of lower classes, another starter only when next to it.
            let reaches =
                starter >= 0 && (lastClass < here || (lastClass = 0 && starter = composed.Count - 1))

            match
                (if reaches then
                     tryCompose composed[starter] point
                 else
                     ValueNone)
            with
            | ValueSome whole -> composed[starter] <- whole
            | ValueNone ->
                composed.Add point
                lastClass <- here

                if here = 0 then
                    starter <- composed.Count - 1

        composed

    /// The text in form C; lone surrogates become U+FFFD. It may be longer than the text.
    let normalize (text: string) : string =
        // Below U+0300 there is neither a combining mark nor a character that form C changes.
        if text |> Seq.forall (fun c -> c < '\u0300') then
            text
        else
            let points = List<int> text.Length

            for rune in text.EnumerateRunes() do
                decompose points rune.Value

            order points
            let builder = StringBuilder text.Length

            for point in compose points do
                builder.Append((Rune point).ToString()) |> ignore

            builder.ToString()
