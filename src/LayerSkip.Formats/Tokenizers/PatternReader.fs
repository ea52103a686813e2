namespace LayerSkip

open System
open System.Collections.Generic
open System.Text

/// What a regular expression has that we do not read.
exception internal PatternRefused of what: string

/// A regular expression as it is read, code point by code point.
type internal PatternReader(text: string) =
    let points = [| for rune in text.EnumerateRunes() -> rune.Value |]
    let mutable at = 0
    let mutable depth = 0

    let mostDepth = 200

    /// Throws PatternRefused, which `PatternSyntax.parse` turns into an error; `what` is a noun: "a range that ends
    /// in a class".
    static member Refuse<'T>(what: string) : 'T = raise (PatternRefused what)

    /// Whether all has been read.
    member _.AtEnd = at >= points.Length

    /// An ASCII character to come; U+FFFF for others and beyond the end.
    member _.CharAt(ahead: int) : char =
        if at + ahead < points.Length && points[at + ahead] < 0x80 then
            char points[at + ahead]
        else
            '\uFFFF'

    /// The next character, which stays.
    member this.Char = this.CharAt 0
    /// Passes over so many code points; back, where it is negative.
    member _.Skip(count: int) = at <- at + count

    /// The next code point, and past it; refused at the end.
    member this.Next() : int =
        if this.AtEnd then
            PatternReader.Refuse "its end within a group, class or escape"
        at <- at + 1
        points[at - 1]

    /// Whether an ASCII word comes next.
    member this.Is(word: string) = word |> Seq.indexed |> Seq.forall (fun (i, c) -> this.CharAt i = c)

    /// Whether an ASCII word comes next, which is then passed over.
    member this.Take(word: string) =
        let isThere = this.Is word
        if isThere then
            this.Skip word.Length
        isThere

    /// How many characters of a kind stand from a place on.
    member this.Count(isKind: char -> bool, start: int) : int =
        Seq.initInfinite (fun i -> this.CharAt(start + i)) |> Seq.takeWhile isKind |> Seq.length

    /// The text up to a character, which is taken too.
    member this.Until(stop: char) : string =
        let builder = StringBuilder()
        let mutable next = this.Next()

        while next <> int stop do
            builder.Append((Rune next).ToString()) |> ignore
            next <- this.Next()

        builder.ToString()

    /// The value of up to `most` hexadecimal digits.
    member this.Hex(most: int) : int =
        let count = min most (this.Count(Char.IsAsciiHexDigit, 0))

        if count = 0 then
            PatternReader.Refuse "an escape without digits"

        let digits = String(Array.init count this.CharAt)
        this.Skip count
        Convert.ToInt32(digits, 16)

    /// How often a quantifier in braces repeats, which is passed over: {n}, {n,}, {n,m}, and {,m} where `least` may be left out;
    /// without an end Int32.MaxValue; and whether it is {n}. None where the brace is a character like others.
    member this.TryInterval(needsLeast: bool, mostRepeats: int) : struct (int * int * bool) option =
        let digits start = this.Count(Char.IsAsciiDigit, start)

        let number start count =
            if count = 0 then
                0
            else
                let value =
                    if count > 6 then
                        Int32.MaxValue
                    else
                        int (String(Array.init count (fun i -> this.CharAt(start + i))))

                if value > mostRepeats then
                    PatternReader.Refuse $"more than {mostRepeats} repeats"

                value

        let least = digits 1
        let isFixed = this.CharAt(1 + least) <> ','
        let most = if isFixed then 0 else digits (2 + least)
        let close = 1 + least + (if isFixed then 0 else 1 + most)

        if this.CharAt close <> '}' || (least = 0 && (needsLeast || most = 0)) then
            None
        else
            let low = number 1 least

            let high =
                if isFixed then low
                elif most = 0 then Int32.MaxValue
                else number (2 + least) most

            if high < low then
                PatternReader.Refuse "a repeat of at most fewer than at least"

            this.Skip(close + 1)
            Some(struct (low, high, isFixed))

    /// Keeps groups and classes within groups from being too many for a stack.
    member _.Deeper(read: unit -> 'T) : 'T =
        depth <- depth + 1

        if depth > mostDepth then
            PatternReader.Refuse $"more than {mostDepth} groups within each other"

        let result = read ()
        depth <- depth - 1
        result

/// Escapes and classes, in Oniguruma's Ruby syntax. The grammar is Oniguruma's doc/RE; \d, \s, \w and POSIX brackets
/// are over Unicode, as tokenizers sets it up.
[<RequireQualifiedAccess>]
module internal PatternClass =
    let private refuse what = PatternReader.Refuse what

    let private negatedIf negated set = if negated then CodePoints.Not set else set

    let private property (reader: PatternReader) (negated: bool) =
        if not (reader.Take "{") then
            refuse "\\p without braces"

        let negated = reader.Take "^" <> negated
        let name = reader.Until '}'

        match CodePoints.tryNamed name with
        | Some set -> negatedIf negated set
        | None -> refuse $"the property {name}"

    let private sets =
        Map [
            's', CodePoints.space
            'd', CodePoints.digit
            'w', CodePoints.word
            'h', CodePoints.hexDigit
        ]

    /// What stands after a backslash and means a set of characters.
    let trySet (reader: PatternReader) : CodePoints option =
        let letter = reader.Char
        let negated = Char.IsAsciiLetterUpper letter

        match sets.TryFind(Char.ToLowerInvariant letter) with
        | Some set ->
            reader.Skip 1
            Some(negatedIf negated set)
        | None when reader.Take "p" || reader.Take "P" -> Some(property reader negated)
        | None -> None

    let private controls = Map [ 't', 0x09; 'n', 0x0A; 'v', 0x0B; 'f', 0x0C; 'r', 0x0D; 'a', 0x07; 'e', 0x1B ]

    let private checkedPoint (point: int) =
        if Rune.IsValid point then
            point
        else
            refuse $"the character {point:X}"

    /// The one character that an escape stands for, after its backslash.
    let escaped (reader: PatternReader) : int =
        let c = reader.Next()

        match (if c < 0x80 then char c else '\uFFFF') with
        | letter when controls.ContainsKey letter -> controls[letter]
        | 'x' when reader.Take "{" ->
            let value = reader.Hex 6
            if not (reader.Take "}") then
                refuse "a hexadecimal escape of more than one character"
            checkedPoint value
        // More is a byte of a character's UTF-8.
        | 'x' ->
            let value = reader.Hex 2
            if value > 0x7F then
                refuse "an escape of a byte above 7F"
            value
        | 'u' -> checkedPoint (reader.Hex 4)
        | '0' when not (Char.IsAsciiDigit reader.Char) -> 0
        | letter when Char.IsAsciiLetterOrDigit letter -> refuse $"\\{letter}"
        | _ -> c

    /// [:name:], not a class that begins with a colon.
    let private tryPosix (reader: PatternReader) : CodePoints option =
        let start = if reader.CharAt 2 = '^' then 3 else 2
        let stop = start + reader.Count(Char.IsAsciiLetter, start)

        if not (reader.Is "[:") || reader.CharAt stop <> ':' || reader.CharAt(stop + 1) <> ']' then
            None
        else
            reader.Skip start
            let name = reader.Until ':'
            reader.Skip 1

            match CodePoints.tryNamed name with
            | Some set -> Some(negatedIf (start = 3) set)
            | None -> refuse $"[:{name}:]"

    let private point (reader: PatternReader) : int =
        match reader.Next() with
        | c when c <> int '\\' -> c
        | _ when reader.Take "b" -> 0x08
        | _ -> escaped reader

    let private rangeOrPoint (reader: PatternReader) : CodePoints =
        let first = point reader

        if reader.Char <> '-' || reader.CharAt 1 = ']' || reader.Is "-&&" then
            CodePoints.single first
        else
            reader.Skip 1

            if reader.Is "[" || (reader.Is "\\" && "sSdDwWhHpP".Contains(reader.CharAt 1)) then
                refuse "a range that ends in a class"

            let last = point reader
            if last < first then
                refuse "a range that ends before it begins"
            CodePoints.Range(first, last)

    /// A class, after its opening bracket.
    let rec read (reader: PatternReader) : CodePoints =
        reader.Deeper(fun () ->
            let negated = reader.Take "^"
            // Parts of an intersection, the last of them still being read.
            let operands = List<CodePoints>()
            let items = List<CodePoints>()

            let finish () =
                operands.Add(CodePoints.Any(List.ofSeq items))
                items.Clear()

            let item () =
                match tryPosix reader with
                | Some set -> set
                | None when reader.Take "[" -> read reader
                | None when reader.Take "\\" ->
                    match trySet reader with
                    | Some set -> set
                    | None ->
                        reader.Skip -1
                        rangeOrPoint reader
                | None -> rangeOrPoint reader

            // A bracket that stands first is a character.
            let mutable isFirst = true

            while isFirst || not (reader.Take "]") do
                if reader.Take "&&" then finish () else items.Add(item ())
                isFirst <- false

            finish ()
            let whole =
                if operands.Count = 1 then
                    operands[0]
                else
                    CodePoints.All(List.ofSeq operands)
            negatedIf negated whole)
