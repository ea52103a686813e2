namespace LayerSkip

open System
open System.Collections.Generic
open System.Globalization
open System.Text

[<RequireQualifiedAccess>]
type internal Greed =
    | Greedy
    | Lazy
    | Possessive

/// A regular expression over code points.
[<RequireQualifiedAccess>]
type internal Pattern =
    | One of CodePoints
    | Sequence of Pattern list
    | Choice of Pattern list
    | Repeat of Pattern * least: int * most: int * Greed
    | Look of Pattern * ahead: bool * negated: bool
    | Atomic of Pattern
    | LineStart
    | LineEnd
    | TextStart
    | TextEnd
    /// The end, or before a newline that ends the text.
    | LastLineEnd
    | Boundary of negated: bool

/// Reads regular expressions as tokenizers' Oniguruma does, in its Ruby syntax. What we do not read is refused by name.
[<RequireQualifiedAccess>]
module internal PatternSyntax =
    exception private Refused of what: string

    let private refuse what = raise (Refused what)

    /// More of either is no tokenizer's pattern.
    let private mostLength, mostDepth = 1 <<< 16, 200

    // Oniguruma's own.
    let private mostRepeats = 100_000

    let private newline = CodePoints.single 0x0A
    let private anything = CodePoints.Range(0, 0x10FFFF)
    let private notNewline = CodePoints.Not newline

    [<Struct>]
    type private Modes = { IgnoresCase: bool; DotsAll: bool }

    // Two letters that one character stands for where case does not count, such as the sharp s.
    let private ligatures = set [ "ff"; "fi"; "fl"; "ss"; "st" ]

    type private Reader(text: string) =
        let points = [| for rune in text.EnumerateRunes() -> rune.Value |]
        let mutable at = 0
        let mutable depth = 0

        member _.AtEnd = at >= points.Length
        member _.Peek = if at < points.Length then points[at] else -1
        member _.PeekAt(ahead: int) =
            if at + ahead < points.Length then
                points[at + ahead]
            else
                -1
        member _.Skip(count: int) = at <- at + count

        member this.Next() : int =
            if this.AtEnd then
                refuse "its end within a group, class or escape"
            at <- at + 1
            points[at - 1]

        member this.Is(word: string) =
            Seq.forall2 (fun (c: char) i -> this.PeekAt i = int c) word (seq { 0 .. word.Length - 1 })

        member this.Take(word: string) =
            let isThere = this.Is word
            if isThere then
                this.Skip word.Length
            isThere

        /// The text up to a character, which is taken too.
        member this.Until(stop: char) : string =
            let builder = StringBuilder()
            let mutable next = this.Next()

            while next <> int stop do
                builder.Append((Rune next).ToString()) |> ignore
                next <- this.Next()

            builder.ToString()

        /// Up to `most` digits of a base.
        member this.Number(radix: int, most: int) : int =
            let digit c =
                if c < 0 || c > 0x7F then
                    -1
                elif Char.IsAsciiHexDigit(char c) then
                    Convert.ToInt32(string (char c), 16)
                else
                    -1

            let mutable value = 0
            let mutable count = 0

            while count < most && 0 <= digit this.Peek && digit this.Peek < radix do
                value <- value * radix + digit this.Peek
                this.Skip 1
                count <- count + 1

            if count = 0 then
                refuse "an escape without digits"
            value

        /// Keeps groups and classes within groups from being too many for a stack.
        member _.Deeper(read: unit -> 'T) : 'T =
            depth <- depth + 1

            if depth > mostDepth then
                refuse $"more than {mostDepth} groups within each other"

            let result = read ()
            depth <- depth - 1
            result

    let private isPoint point = point <= 0x10FFFF && not (0xD800 <= point && point <= 0xDFFF)

    let private checkedPoint point =
        if isPoint point then
            point
        else
            refuse $"the character {point:X}"

    let private property (reader: Reader) (negated: bool) =
        if not (reader.Take "{") then
            refuse "\\p without braces"

        let negated = if reader.Take "^" then not negated else negated
        let name = reader.Until '}'

        match CodePoints.tryNamed name with
        | Some set when negated -> CodePoints.Not set
        | Some set -> set
        | None -> refuse $"the property {name}"

    /// What stands after a backslash and means a set of characters, or one.
    let private trySet (reader: Reader) : CodePoints option =
        let negation set negated =
            reader.Skip 1
            Some(if negated then CodePoints.Not set else set)

        match reader.Peek with
        | c when c < 0 || c > 0x7F -> None
        | c ->
            match char c with
            | 's' -> negation CodePoints.space false
            | 'S' -> negation CodePoints.space true
            | 'd' -> negation CodePoints.digit false
            | 'D' -> negation CodePoints.digit true
            | 'w' -> negation CodePoints.word false
            | 'W' -> negation CodePoints.word true
            | 'h' -> negation CodePoints.hexDigit false
            | 'H' -> negation CodePoints.hexDigit true
            | 'p' ->
                reader.Skip 1
                Some(property reader false)
            | 'P' ->
                reader.Skip 1
                Some(property reader true)
            | _ -> None

    /// The one character that an escape stands for, after its backslash.
    let private escaped (reader: Reader) : int =
        let c = reader.Next()

        if c > 0x7F then
            c
        else
            match char c with
            | 't' -> 0x09
            | 'n' -> 0x0A
            | 'v' -> 0x0B
            | 'f' -> 0x0C
            | 'r' -> 0x0D
            | 'a' -> 0x07
            | 'e' -> 0x1B
            | 'x' when reader.Take "{" ->
                let value = reader.Number(16, 6)
                if not (reader.Take "}") then
                    refuse "a hexadecimal escape of more than one character"
                checkedPoint value
            // More is a byte of a character's UTF-8.
            | 'x' ->
                let value = reader.Number(16, 2)
                if value > 0x7F then
                    refuse "an escape of a byte above 7F"
                value
            | 'u' ->
                let value = reader.Number(16, 4)
                checkedPoint value
            | '0' when not (Char.IsAsciiDigit(char (max 0 reader.Peek))) -> 0
            | letter when Char.IsAsciiLetterOrDigit letter -> refuse $"\\{letter}"
            | _ -> c

    let private isFolding modes set =
        if not modes.IgnoresCase then
            set
        else
            match CodePoints.tryIgnoreCase set with
            | Some folded -> folded
            | None -> refuse "case that does not count, of other letters than ASCII's"

    /// Whether [:name:] comes next, not a class that begins with a colon.
    let private isPosixName (reader: Reader) =
        let isLetter at = Char.IsAsciiLetter(char (max 0 (min 0x7F (reader.PeekAt at))))

        if not (reader.Is "[:") then
            false
        else
            let mutable at = if reader.PeekAt 2 = int '^' then 3 else 2
            while isLetter at do
                at <- at + 1
            reader.PeekAt at = int ':' && reader.PeekAt(at + 1) = int ']'

    /// A class, after its opening bracket.
    let rec private charClass (reader: Reader) : CodePoints =
        reader.Deeper(fun () ->
            let negated = reader.Take "^"
            let operands = List<CodePoints>()
            let items = List<CodePoints>()
            let mutable isFirst = true
            let mutable isOver = false

            let point () =
                match reader.Next() with
                | c when c <> int '\\' -> c
                | _ when reader.Peek = int 'b' ->
                    reader.Skip 1
                    0x08
                | _ -> escaped reader

            let rangeOrPoint () =
                let first = point ()

                let isRange =
                    reader.Peek = int '-'
                    && reader.PeekAt 1 <> int ']'
                    && reader.PeekAt 1 <> -1
                    && not (reader.PeekAt 1 = int '&' && reader.PeekAt 2 = int '&')

                if isRange then
                    reader.Skip 1

                    let isSet =
                        reader.Peek = int '['
                        || (reader.Peek = int '\\' && "sSdDwWhHpP".Contains(char (max 0 (reader.PeekAt 1))))

                    if isSet then
                        refuse "a range that ends in a class"

                    let last = point ()
                    if last < first then
                        refuse "a range that ends before it begins"
                    items.Add(CodePoints.Range(first, last))
                else
                    items.Add(CodePoints.single first)

            while not isOver do
                if reader.Peek = int ']' && not isFirst then
                    reader.Skip 1
                    isOver <- true
                elif reader.Take "&&" then
                    operands.Add(CodePoints.Any(List.ofSeq items))
                    items.Clear()
                elif isPosixName reader then
                    reader.Skip 2
                    let negated = reader.Take "^"
                    let name = reader.Until ':'
                    reader.Skip 1

                    match CodePoints.tryNamed name with
                    | Some set -> items.Add(if negated then CodePoints.Not set else set)
                    | None -> refuse $"[:{name}:]"
                elif reader.Take "[" then
                    items.Add(charClass reader)
                elif reader.Peek = int '\\' then
                    reader.Skip 1

                    match trySet reader with
                    | Some set -> items.Add set
                    | None ->
                        reader.Skip -1
                        rangeOrPoint ()
                else
                    rangeOrPoint ()

                isFirst <- false

            let last = CodePoints.Any(List.ofSeq items)

            let whole =
                if operands.Count = 0 then
                    last
                else
                    CodePoints.All(List.ofSeq operands @ [ last ])

            if negated then CodePoints.Not whole else whole)

    /// {n}, {n,}, {n,m} or {,m}; None where the brace is a character like others.
    let private tryInterval (reader: Reader) : struct (int * int * bool) option =
        let digits start =
            let mutable count = 0
            while Char.IsAsciiDigit(char (max 0 (min 0x7F (reader.PeekAt(start + count))))) do
                count <- count + 1
            count

        let number start count =
            if count > 6 then
                refuse $"more than {mostRepeats} repeats"

            Seq.fold
                (fun value i -> value * 10 + reader.PeekAt(start + i) - int '0')
                0
                (seq { 0 .. count - 1 })

        let least = digits 1
        let comma = reader.PeekAt(1 + least) = int ','
        let most = if comma then digits (2 + least) else 0
        let close = 1 + least + (if comma then 1 + most else 0)

        if reader.PeekAt close <> int '}' || (least = 0 && most = 0) then
            None
        else
            let low = number 1 least
            let high =
                if not comma then low
                elif most = 0 then Int32.MaxValue
                else number (2 + least) most

            if low > mostRepeats || (high > mostRepeats && high < Int32.MaxValue) then
                refuse $"more than {mostRepeats} repeats"

            if high < low then
                refuse "a repeat of at most fewer than at least"

            reader.Skip(close + 1)
            Some(struct (low, high, not comma))

    /// The quantifiers after an item, each of the whole before it.
    let rec private quantified (reader: Reader) (item: Pattern) : Pattern =
        let simple least most =
            reader.Skip 1

            let greed =
                if reader.Take "?" then Greed.Lazy
                elif reader.Take "+" then Greed.Possessive
                else Greed.Greedy

            quantified reader (Pattern.Repeat(item, least, most, greed))

        match reader.Peek with
        | 0x3F -> simple 0 1
        | 0x2A -> simple 0 Int32.MaxValue
        | 0x2B -> simple 1 Int32.MaxValue
        | 0x7B ->
            match tryInterval reader with
            | None -> item
            | Some(struct (least, most, isFixed)) ->
                // After a fixed count, a question mark is a quantifier of its own.
                let greed =
                    if not isFixed && reader.Take "?" then
                        Greed.Lazy
                    else
                        Greed.Greedy
                quantified reader (Pattern.Repeat(item, least, most, greed))
        | _ -> item

    let private letterOf (item: Pattern) : string =
        match item with
        | Pattern.One(CodePoints.Range(first, last)) when first = last && first < 0x80 ->
            string (Char.ToLowerInvariant(char first))
        | _ -> ""

    let rec private choice (reader: Reader) (modes: Modes) : Pattern =
        reader.Deeper(fun () ->
            let alternatives = List<Pattern>()
            alternatives.Add(sequence reader modes)

            while reader.Take "|" do
                alternatives.Add(sequence reader modes)

            if alternatives.Count = 1 then
                alternatives[0]
            else
                Pattern.Choice(List.ofSeq alternatives))

    and private sequence (reader: Reader) (modes: Modes) : Pattern =
        let items = List<Pattern>()
        // As written, before case is ignored.
        let mutable before = ""
        let mutable isOver = false

        while not isOver do
            match reader.Peek with
            | -1
            | 0x7C
            | 0x29 -> isOver <- true
            | _ ->
                let item = item reader modes
                let letter = letterOf item

                if modes.IgnoresCase && ligatures.Contains(before + letter) then
                    refuse $"case that does not count, of {before}{letter}, which one character may stand for"

                before <- letter

                let item =
                    match item with
                    | Pattern.One set -> Pattern.One(isFolding modes set)
                    | item -> item

                items.Add(quantified reader item)

        Pattern.Sequence(List.ofSeq items)

    and private group (reader: Reader) (modes: Modes) : Pattern =
        let inner () =
            let inner = choice reader modes
            if not (reader.Take ")") then
                refuse "a group that is not closed"
            inner

        if not (reader.Take "?") then
            inner ()
        elif reader.Take ":" then
            inner ()
        elif reader.Take "=" then
            Pattern.Look(inner (), true, false)
        elif reader.Take "!" then
            Pattern.Look(inner (), true, true)
        elif reader.Take "<=" then
            Pattern.Look(inner (), false, false)
        elif reader.Take "<!" then
            Pattern.Look(inner (), false, true)
        elif reader.Take ">" then
            Pattern.Atomic(inner ())
        elif reader.Take "#" then
            reader.Until ')' |> ignore
            Pattern.Sequence []
        elif reader.Take "<" then
            reader.Until '>' |> ignore
            inner ()
        else
            let mutable modes = modes
            let mutable isOn = true
            let mutable isOver = false

            while not isOver do
                match char (min 0x7F (reader.Next())) with
                | 'i' -> modes <- { modes with IgnoresCase = isOn }
                | 'm' -> modes <- { modes with DotsAll = isOn }
                | '-' -> isOn <- false
                // The rest of the group around it, alternatives and all.
                | ')' -> isOver <- true
                | ':' -> isOver <- true
                | c -> refuse $"(?{c}"

            reader.Skip -1

            if reader.Take ":" then
                let inner = choice reader modes
                if not (reader.Take ")") then
                    refuse "a group that is not closed"
                inner
            else
                reader.Skip 1
                choice reader modes

    and private item (reader: Reader) (modes: Modes) : Pattern =
        match reader.Next() with
        | c when c > 0x7F -> Pattern.One(CodePoints.single c)
        | c ->
            match char c with
            | '.' -> Pattern.One(if modes.DotsAll then anything else notNewline)
            | '^' -> Pattern.LineStart
            | '$' -> Pattern.LineEnd
            | '[' -> Pattern.One(charClass reader)
            | '(' -> group reader modes
            | '*'
            | '+'
            | '?' -> refuse "a quantifier with nothing before it"
            | '\\' ->
                match trySet reader with
                | Some set -> Pattern.One set
                | None ->
                    if reader.Take "b" then
                        Pattern.Boundary false
                    elif reader.Take "B" then
                        Pattern.Boundary true
                    elif reader.Take "A" then
                        Pattern.TextStart
                    elif reader.Take "z" then
                        Pattern.TextEnd
                    elif reader.Take "Z" then
                        Pattern.LastLineEnd
                    elif reader.Take "R" then
                        Pattern.Atomic(
                            Pattern.Choice [
                                Pattern.Sequence [
                                    for c in [ 0x0D; 0x0A ] -> Pattern.One(CodePoints.single c)
                                ]
                                Pattern.One(
                                    CodePoints.Any [
                                        CodePoints.Range(0x0A, 0x0D)
                                        CodePoints.single 0x85
                                        CodePoints.Range(0x2028, 0x2029)
                                    ]
                                )
                            ]
                        )
                    else
                        Pattern.One(CodePoints.single (escaped reader))
            | _ -> Pattern.One(CodePoints.single c)

    /// The pattern, or what it has that we do not read.
    let parse (text: string) : Result<Pattern, string> =
        if text.Length > mostLength then
            Error $"more than {mostLength} characters"
        else
            try
                let reader = Reader text
                let pattern = choice reader { IgnoresCase = false; DotsAll = false }

                if reader.AtEnd then
                    Ok pattern
                else
                    Error "a bracket that closes no group"
            with Refused what ->
                Error what
