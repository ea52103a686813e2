namespace LayerSkip

open System.Globalization

/// Sets of code points as ranges in order, which neither touch nor overlap; surrogates are never among them.
[<RequireQualifiedAccess>]
module internal CodeRanges =
    let private surrogates = 0xD800, 0xDFFF

    let private join (ranges: (int * int) list) =
        let add joined (first, last) =
            match joined with
            | (start, stop) :: before when first <= stop + 1 -> (start, max stop last) :: before
            | _ -> (first, last) :: joined

        ranges |> List.sort |> List.fold add [] |> List.rev

    /// What lies outside ranges in order.
    let private gaps (ranges: (int * int) list) =
        let next, between =
            ranges
            |> List.fold (fun (next, between) (first, last) -> last + 1, (next, first - 1) :: between) (0, [])

        (next, 0x10FFFF) :: between
        |> List.rev
        |> List.filter (fun (first, last) -> first <= last)

    /// Of ranges in any order.
    let ofList (ranges: (int * int) list) : (int * int) list =
        ranges
        |> List.collect (fun (first, last) -> [
            first, min last (fst surrogates - 1)
            max first (snd surrogates + 1), last
        ])
        |> List.filter (fun (first, last) -> first <= last)
        |> join

    /// All code points that are not among them.
    let complement (ranges: (int * int) list) : (int * int) list = ofList (gaps ranges)

    /// Those that both have.
    let both (a: (int * int) list) (b: (int * int) list) : (int * int) list =
        complement (join (complement a @ complement b))

    /// Those of `a` that `b` has not.
    let except (a: (int * int) list) (b: (int * int) list) : (int * int) list = both a (complement b)

    /// Every code point.
    let all = complement []

    /// One code point.
    let single (point: int) : (int * int) list = ofList [ point, point ]

    /// A set that categories may be part of, which takes a look at every code point.
    let ofCodePoints (set: CodePoints) : (int * int) list =
        [
            for first, last in all do
                for point in first..last do
                    if CodePoints.contains (CharUnicodeInfo.GetUnicodeCategory point) point set then
                        point, point
        ]
        |> join
