namespace LayerSkip

open System
open System.Text

/// A regular expression over code points (`CodeRanges`), as far as an automaton can be made of it.
[<RequireQualifiedAccess>]
type internal EcmaPattern =
    | One of (int * int) list
    | Sequence of EcmaPattern list
    | Choice of EcmaPattern list
    /// `most` below 0: without end.
    | Repeat of EcmaPattern * least: int * most: int
    | Start
    | End

/// Reads regular expressions of ECMA-262, which JSON Schema's `pattern` is in (with its flag u: \d and \w are ASCII's). What
/// no automaton can tell, or we do not read, is refused by name (PatternRefused): look-around, back-references, \b, and
/// anchors within a pattern. Lazy repeats are repeats: the texts are the same.
[<RequireQualifiedAccess>]
module internal EcmaPattern =
    let private refuse what = PatternReader.Refuse what
    let private mostRepeats = 10_000
    let private range (first: char) (last: char) = int first, int last
    let private lineEnds = CodeRanges.ofList [ 0x0A, 0x0A; 0x0D, 0x0D; 0x2028, 0x2029 ]
    let private digits = CodeRanges.ofList [ range '0' '9' ]
    let private words = CodeRanges.ofList [ range '0' '9'; range 'A' 'Z'; range 'a' 'z'; range '_' '_' ]
    // ECMA-262's WhiteSpace and LineTerminator.
    let private spaces =
        lineEnds
        @ [
            0x09, 0x0D
            0x20, 0x20
            0xA0, 0xA0
            0x1680, 0x1680
            0x2000, 0x200A
            0x202F, 0x202F
        ]
        @ [ 0x205F, 0x205F; 0x3000, 0x3000; 0xFEFF, 0xFEFF ]
        |> CodeRanges.ofList

    let private property (reader: PatternReader) (negated: bool) =
        if not (reader.Take "{") then
            refuse "\\p without braces"
        let name = reader.Until '}'
        let name = name.Substring(name.IndexOf '=' + 1)

        match CodePoints.tryNamed name with
        | Some set ->
            let ranges = CodeRanges.ofCodePoints set
            if negated then CodeRanges.complement ranges else ranges
        | None -> refuse $"the property {name}"

    let private hex (reader: PatternReader) (count: int) =
        if reader.Count(Char.IsAsciiHexDigit, 0) < count then
            refuse "an escape with too few digits"
        reader.Hex count

    /// A code unit has been read; with the other half of a surrogate pair, where it is one.
    let private withLow (reader: PatternReader) (unit: int) =
        if Char.IsHighSurrogate(char unit) && reader.Take "\\u" then
            let low = hex reader 4
            if not (Char.IsLowSurrogate(char low)) then
                refuse "half of a surrogate pair"
            Char.ConvertToUtf32(char unit, char low)
        else
            unit

    let private controls = Map [ 't', 0x09; 'n', 0x0A; 'v', 0x0B; 'f', 0x0C; 'r', 0x0D ]

    /// What stands after a backslash, but for assertions.
    let private escape (reader: PatternReader) : (int * int) list =
        let point = reader.Next()
        let letter = if point < 0x80 then char point else '\uFFFF'

        let one (point: int) =
            if Rune.IsValid point then
                CodeRanges.single point
            else
                refuse "half of a surrogate pair"

        match letter with
        | 'd' -> digits
        | 'D' -> CodeRanges.complement digits
        | 'w' -> words
        | 'W' -> CodeRanges.complement words
        | 's' -> spaces
        | 'S' -> CodeRanges.complement spaces
        | 'p' -> property reader false
        | 'P' -> property reader true
        | 'x' -> one (hex reader 2)
        | 'u' when reader.Take "{" ->
            let point = reader.Hex 6
            if not (reader.Take "}") then
                refuse "an escape that is not closed"
            one point
        | 'u' -> one (withLow reader (hex reader 4))
        | 'c' when Char.IsAsciiLetter reader.Char -> one (reader.Next() % 32)
        | '0' when not (Char.IsAsciiDigit reader.Char) -> one 0
        | _ when controls.ContainsKey letter -> one controls[letter]
        | _ when Char.IsAsciiDigit letter -> refuse "a back-reference"
        | 'k' -> refuse "a back-reference"
        | 'b'
        | 'B' -> refuse "a word boundary (\\b)"
        | _ when Char.IsAsciiLetter letter -> refuse $"the escape \\{letter}"
        | _ -> one point

    /// A class, after its opening bracket.
    let private classOf (reader: PatternReader) : EcmaPattern =
        let negated = reader.Take "^"

        let item () =
            if reader.Take "\\b" then CodeRanges.single 0x08
            elif reader.Take "\\" then escape reader
            else CodeRanges.single (reader.Next())

        let rec items (found: (int * int) list) =
            if reader.Take "]" then
                found
            else
                match item () with
                | [ first, same ] when first = same && reader.Is "-" && reader.CharAt 1 <> ']' ->
                    reader.Skip 1

                    match item () with
                    | [ last, same ] when last = same && first <= last -> items ((first, last) :: found)
                    | _ -> refuse "a range that ends before it begins, or in a class"
                | set -> items (set @ found)

        let set = CodeRanges.ofList (items [])
        EcmaPattern.One(if negated then CodeRanges.complement set else set)

    let private quantified (reader: PatternReader) (item: EcmaPattern) : EcmaPattern =
        let bounds =
            if reader.Take "?" then
                Some(struct (0, 1))
            elif reader.Take "*" then
                Some(struct (0, -1))
            elif reader.Take "+" then
                Some(struct (1, -1))
            elif reader.Is "{" then
                reader.TryInterval(true, mostRepeats)
                |> Option.map (fun (struct (least, most, _)) ->
                    struct (least, (if most = Int32.MaxValue then -1 else most)))
            else
                None

        match bounds, item with
        | None, item -> item
        | Some _, (EcmaPattern.Start | EcmaPattern.End) -> refuse "a repeated anchor"
        | Some(struct (least, most)), item ->
            reader.Take "?" |> ignore
            EcmaPattern.Repeat(item, least, most)

    let rec private choice (reader: PatternReader) : EcmaPattern =
        reader.Deeper(fun () ->
            let rec alternatives found =
                let found = sequence reader [] :: found
                if reader.Take "|" then
                    alternatives found
                else
                    List.rev found

            match alternatives [] with
            | [ one ] -> one
            | several -> EcmaPattern.Choice several)

    and private sequence (reader: PatternReader) (found: EcmaPattern list) : EcmaPattern =
        if reader.AtEnd || reader.Is "|" || reader.Is ")" then
            EcmaPattern.Sequence(List.rev found)
        else
            sequence reader (quantified reader (item reader) :: found)

    and private group (reader: PatternReader) : EcmaPattern =
        if reader.Take "?" && not (reader.Take ":") then
            match reader.Take "<", reader.Char with
            | true, c when c <> '=' && c <> '!' -> reader.Until '>' |> ignore
            | _ -> refuse "look-around, or a group with flags"

        let inner = choice reader
        if not (reader.Take ")") then
            refuse "a group that is not closed"
        inner

    and private item (reader: PatternReader) : EcmaPattern =
        let point = reader.Next()

        match (if point < 0x80 then char point else '\uFFFF') with
        | '.' -> EcmaPattern.One(CodeRanges.complement lineEnds)
        | '^' -> EcmaPattern.Start
        | '$' -> EcmaPattern.End
        | '[' -> classOf reader
        | '(' -> group reader
        | '*'
        | '+'
        | '?' -> refuse "a quantifier with nothing before it"
        | '\\' -> EcmaPattern.One(escape reader)
        | _ when Rune.IsValid point -> EcmaPattern.One(CodeRanges.single point)
        | _ -> refuse "half of a surrogate pair"

    /// The pattern as written.
    let parse (text: string) : EcmaPattern =
        if text.Length > 65536 then
            refuse "more than 65536 characters"
        let reader = PatternReader text
        let pattern = choice reader
        if not reader.AtEnd then
            refuse "a bracket that closes no group"
        pattern

    let private anything = EcmaPattern.Repeat(EcmaPattern.One CodeRanges.all, 0, -1)

    /// The whole texts in which a pattern is found: where no anchor forbids it anything stands before and after. Anchors
    /// count at the edges of the pattern and of alternatives there; elsewhere they are refused when spelled.
    let rec private searched (before: bool) (after: bool) (pattern: EcmaPattern) : EcmaPattern =
        match pattern with
        | EcmaPattern.Choice items -> EcmaPattern.Choice(items |> List.map (searched before after))
        | EcmaPattern.Sequence [ EcmaPattern.Choice _ | EcmaPattern.Sequence _ as inner ] ->
            searched before after inner
        | EcmaPattern.Sequence items ->
            let isStart, isEnd =
                List.tryHead items = Some EcmaPattern.Start, List.tryLast items = Some EcmaPattern.End
            let items = if isStart then List.tail items else items
            let items =
                if isEnd && not items.IsEmpty then
                    List.take (items.Length - 1) items
                else
                    items

            match items with
            | [ EcmaPattern.Choice _ | EcmaPattern.Sequence _ as inner ] ->
                searched (before && not isStart) (after && not isEnd) inner
            | _ ->
                EcmaPattern.Sequence [
                    if before && not isStart then
                        anything
                    yield! items
                    if after && not isEnd then
                        anything
                ]
        | other ->
            EcmaPattern.Sequence [
                if before then
                    anything
                other
                if after then
                    anything
            ]

    /// The bytes of a pattern whose characters are spelled by `spell`.
    let rec private spelled (spell: (int * int) list -> ByteRegex) (pattern: EcmaPattern) : ByteRegex =
        match pattern with
        | EcmaPattern.One set -> spell set
        | EcmaPattern.Sequence items -> ByteRegex.Sequence(items |> List.map (spelled spell))
        | EcmaPattern.Choice items -> ByteRegex.Choice(items |> List.map (spelled spell))
        | EcmaPattern.Repeat(item, least, most) -> ByteRegex.Repeat(spelled spell item, least, most)
        | EcmaPattern.Start
        | EcmaPattern.End -> refuse "^ or $ within a pattern"

    /// Texts in which the pattern is found, as JSON Schema has it.
    let search (spell: (int * int) list -> ByteRegex) (text: string) : ByteRegex =
        parse text |> searched true true |> spelled spell

    /// Texts that are the pattern from beginning to end.
    let whole (spell: (int * int) list -> ByteRegex) (text: string) : ByteRegex =
        parse text |> searched false false |> spelled spell
