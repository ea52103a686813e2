namespace LayerSkip

open System

/// A decimal number of any size, exactly: its digits before the point without leading zeros ("0" alone), those after it
/// without trailing ones. 0 is not negative.
type internal PlainDecimal = { Negative: bool; Whole: string; Fraction: string }

/// Numbers in JSON's spelling within bounds, as automata.
[<RequireQualifiedAccess>]
module internal NumberRange =
    let private mostDigits = 100

    /// Of a number as JSON spells it; None where it takes more than about a hundred digits.
    let tryDecimal (text: string) : PlainDecimal option =
        let mantissa, exponent =
            match text.IndexOfAny [| 'e'; 'E' |] with
            | -1 -> text, "0"
            | at -> text[.. at - 1], text[at + 1 ..]

        match Int32.TryParse(exponent.TrimStart '+') with
        | true, exponent when abs exponent <= mostDigits && mantissa.Length <= mostDigits ->
            let digits = mantissa.TrimStart '-'
            let point =
                if digits.Contains '.' then
                    digits.IndexOf '.'
                else
                    digits.Length
            let all = digits.Replace(".", "")
            // Zeros on both sides, so that the point falls within.
            let all = String('0', mostDigits) + all + String('0', mostDigits)
            let point = point + mostDigits + exponent
            let whole = all[.. point - 1].TrimStart '0'
            let fraction = all[point..].TrimEnd '0'
            let isZero = whole = "" && fraction = ""

            Some {
                Negative = mantissa.StartsWith '-' && not isZero
                Whole = if whole = "" then "0" else whole
                Fraction = fraction
            }
        | _ -> None

    /// As short as it is written without an exponent.
    let show (value: PlainDecimal) : string =
        (if value.Negative then "-" else "")
        + value.Whole
        + (if value.Fraction = "" then "" else "." + value.Fraction)

    /// A bound of a magnitude, and whether it is itself allowed.
    type private Bound = { Value: PlainDecimal; IsIncluded: bool }

    /// How what was read compares with a bound, at a position of its digits: -1, 0, 1 as they stand.
    let private compare (so: int) (digit: char) (bound: char) =
        if so <> 0 then so else sign (int digit - int bound)

    type private Part =
        | Begin
        | Signed
        | Zero
        | Whole
        | Point
        | Fraction

    /// Where a reader of digits stands.
    [<Struct>]
    type private Place = {
        Part: Part
        IsNegative: bool
        /// Digits of the part.
        Count: int
        /// Against the lower and upper bound of the magnitude.
        Low: int
        High: int
        Rest: int
        IsZero: bool
    }

    let private classes =
        Array.init 256 (fun b ->
            match char b with
            | '-' -> 1uy
            | '.' -> 2uy
            | c when Char.IsAsciiDigit c -> byte (3 + int c - int '0')
            | _ -> 0uy)

    /// Numbers from `least` to `most`, each with whether it is excluded itself, with up to `fraction` digits after the point, that
    /// are multiples of `multiple` (whole numbers only, where it is not 1). Their magnitude has at most 19 digits before
    /// the point, or as many as a bound has.
    let create
        (least: (PlainDecimal * bool) option)
        (most: (PlainDecimal * bool) option)
        (fraction: int)
        (multiple: int)
        : Dfa =
        // Of the magnitudes of one sign: a bound on the other side of 0 is none, or leaves nothing.
        let bounds isNegative : struct (Bound option * Bound option) voption =
            let near, far = if isNegative then most, least else least, most

            let own =
                Option.filter (fun (value: PlainDecimal, _) -> value.Negative = isNegative)
                >> Option.map (fun (value, isExcluded) -> { Value = value; IsIncluded = not isExcluded })

            match own far with
            | None when far.IsSome -> ValueNone
            | upper -> ValueSome(struct (own near, upper))

        let positive, negative = bounds false, bounds true
        let boundsOf place = ValueOption.get (if place.IsNegative then negative else positive)

        let digitsOf =
            List.choose id [ least; most ]
            |> List.map (fun (value: PlainDecimal, _) -> value.Whole.Length)
            |> List.fold max 19

        let against place (bound: Bound option) so digit =
            match bound, place.Part with
            | None, _ -> 0
            | Some bound, Fraction ->
                let theirs = bound.Value.Fraction
                compare
                    so
                    digit
                    (if place.Count <= theirs.Length then
                         theirs[place.Count - 1]
                     else
                         '0')
            | Some bound, _ ->
                let theirs = bound.Value.Whole
                if place.Count <= theirs.Length then
                    compare so digit theirs[place.Count - 1]
                else
                    so

        // Of numbers with another count of digits, the longer is the larger.
        let settled place (bound: Bound option) so =
            match bound, place.Part with
            | Some bound, (Zero | Whole) when place.Count <> bound.Value.Whole.Length ->
                sign (place.Count - bound.Value.Whole.Length)
            | _ -> so

        let read place (digit: char) =
            let struct (lower, upper) = boundsOf place

            ValueSome {
                place with
                    Low = against place lower place.Low digit
                    High = against place upper place.High digit
                    Rest = (place.Rest * 10 + int digit - int '0') % multiple
                    IsZero = place.IsZero && digit = '0'
            }

        let step place (b: byte) =
            let c = char b

            match place.Part with
            | Begin when c = '-' && negative.IsSome ->
                ValueSome { place with Part = Signed; IsNegative = true }
            | Begin when positive.IsNone -> ValueNone
            | Begin
            | Signed when c = '0' -> read { place with Part = Zero; Count = 1 } c
            | Begin
            | Signed when Char.IsAsciiDigit c -> read { place with Part = Whole; Count = 1 } c
            | Whole when Char.IsAsciiDigit c && place.Count < digitsOf ->
                read { place with Count = place.Count + 1 } c
            | Zero
            | Whole when c = '.' && fraction > 0 ->
                let struct (lower, upper) = boundsOf place

                ValueSome {
                    place with
                        Part = Point
                        Count = 0
                        Low = settled place lower place.Low
                        High = settled place upper place.High
                }
            | Point
            | Fraction when Char.IsAsciiDigit c && place.Count < fraction ->
                read { place with Part = Fraction; Count = place.Count + 1 } c
            | _ -> ValueNone

        let isEnd place =
            match place.Part with
            | Begin
            | Signed
            | Point -> false
            | _ ->
                let struct (lower, upper) = boundsOf place
                let fractionRead = if place.Part = Fraction then place.Count else 0

                // Digits that a bound has beyond those of the number make it the larger one.
                let isWithin (bound: Bound option) so isFar =
                    match bound with
                    | None -> true
                    | Some value ->
                        match settled place bound so with
                        | 0 when value.Value.Fraction.Length > fractionRead -> isFar -1
                        | 0 -> value.IsIncluded
                        | so -> isFar so

                isWithin lower place.Low (fun so -> so > 0)
                && isWithin upper place.High (fun so -> so < 0)
                && place.Rest = 0
                && not (place.IsNegative && place.IsZero)

        let start = {
            Part = Begin
            IsNegative = false
            Count = 0
            Low = 0
            High = 0
            Rest = 0
            IsZero = true
        }

        Dfa.explore classes start step isEnd
