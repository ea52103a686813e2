namespace LayerSkip

open System.Text

/// How JSON (RFC 8259) is spelled, as automata: a text of ours has no white space but for at most one space after a colon and
/// after a comma.
[<RequireQualifiedAccess>]
module internal JsonText =
    let private hexDigits = ByteRegex.oneOf "0123456789abcdefABCDEF"

    let private hex (count: int) = ByteRegex.Repeat(hexDigits, count, count)
    let private sequence items = ByteRegex.Sequence items
    let private controls = CodeRanges.ofList [ 0, 0x1F ]
    let private marks = CodeRanges.ofList [ int '"', int '"'; int '\\', int '\\' ]
    let private plain = CodeRanges.except CodeRanges.all (controls @ marks |> CodeRanges.ofList)

    /// A text between quotes.
    let quoted (inner: ByteRegex) : ByteRegex =
        sequence [ ByteRegex.literal "\""; inner; ByteRegex.literal "\"" ]

    /// Any character in any spelling; halves of a surrogate pair only together.
    let private anyCharacter =
        let unit first second = sequence [ ByteRegex.literal "\\u"; ByteRegex.oneOf first; second; hex 2 ]
        let d = ByteRegex.oneOf "dD"
        let surrogate second = sequence [ ByteRegex.literal "\\u"; d; ByteRegex.oneOf second; hex 2 ]

        ByteRegex.Choice [
            ByteRegex.utf8 plain
            sequence [ ByteRegex.literal "\\"; ByteRegex.oneOf "\"\\/bfnrt" ]
            unit "0123456789abcefABCEF" hexDigits
            surrogate "01234567"
            sequence [ surrogate "89abAB"; surrogate "cdefCDEF" ]
        ]

    /// Any string.
    let text: Dfa = ByteRegex.Repeat(anyCharacter, 0, -1) |> quoted |> Dfa.ofRegex

    /// One character of a set, spelled as short as JSON has it.
    let character (set: (int * int) list) : ByteRegex =
        let has point = set |> List.exists (fun (first, last) -> first <= point && point <= last)

        ByteRegex.Choice [
            ByteRegex.utf8 (CodeRanges.both set plain)
            for point in 0..0x7F do
                if has point then
                    match Json.spelled point with
                    | null -> ()
                    | short when short.Length = 2 -> ByteRegex.literal short
                    // The last digit is of either case.
                    | long ->
                        sequence [
                            ByteRegex.literal long[..4]
                            ByteRegex.oneOf (long[5..] + long[5..].ToUpperInvariant())
                        ]
        ]

    /// Any string, spelled as short as JSON has it.
    let shortest: Dfa = ByteRegex.Repeat(character CodeRanges.all, 0, -1) |> quoted |> Dfa.ofRegex

    /// One of these strings, as `shortest` spells it.
    let shortestOf (values: string list) : Dfa =
        [
            for value in values ->
                sequence [
                    for rune in value.EnumerateRunes() -> character (CodeRanges.single rune.Value)
                ]
        ]
        |> ByteRegex.Choice
        |> quoted
        |> Dfa.ofRegex

    /// A string as `character` spells it, with its quotes.
    let quote (value: string) : string =
        let out = StringBuilder "\""

        for c in value do
            match Json.spelled (int c) with
            | null -> out.Append c
            | spelled -> out.Append spelled
            |> ignore

        out.Append('"').ToString()

    let private digits least most = ByteRegex.Repeat(ByteRegex.Bytes(byte '0', byte '9'), least, most)
    let private minus = ByteRegex.optional (ByteRegex.literal "-")

    let private whole =
        ByteRegex.Choice [
            ByteRegex.literal "0"
            sequence [ ByteRegex.Bytes(byte '1', byte '9'); digits 0 18 ]
        ]

    /// Whole numbers of up to 19 digits.
    let integer: Dfa =
        ByteRegex.Choice [
            ByteRegex.literal "0"
            sequence [ minus; ByteRegex.Bytes(byte '1', byte '9'); digits 0 18 ]
        ]
        |> Dfa.ofRegex

    let private numberRegex =
        sequence [
            minus
            whole
            ByteRegex.optional (sequence [ ByteRegex.literal "."; digits 1 17 ])
            ByteRegex.optional (
                sequence [ ByteRegex.oneOf "eE"; ByteRegex.optional (ByteRegex.oneOf "+-"); digits 1 2 ]
            )
        ]

    /// Numbers of up to 19 digits before the point, 17 after it, and 2 in the exponent: none is beyond 64 bits.
    let number: Dfa = Dfa.ofRegex numberRegex

    /// Numbers of up to 19 digits before the point and 17 after it, each value in one spelling: without an exponent or a last 0.
    let shortestNumber: Dfa =
        let digit = ByteRegex.Bytes(byte '1', byte '9')

        ByteRegex.Choice [
            ByteRegex.literal "0"
            sequence [ minus; digit; digits 0 18 ]
            sequence [ minus; whole; ByteRegex.literal "."; digits 0 16; digit ]
        ]
        |> Dfa.ofRegex

    /// Just this text.
    let literal (value: string) : Dfa = Dfa.ofRegex (ByteRegex.literal value)

    /// One of these texts.
    let oneOf (values: string seq) : Dfa =
        values |> Seq.map ByteRegex.literal |> List.ofSeq |> ByteRegex.Choice |> Dfa.ofRegex

    let private thenSpace (value: string) =
        sequence [ ByteRegex.literal value; ByteRegex.optional (ByteRegex.literal " ") ]

    /// A colon or a comma, and a space or none.
    let colon, comma = Dfa.ofRegex (thenSpace ":"), Dfa.ofRegex (thenSpace ",")

    /// A property's name up to its value; `later`, with the comma before it.
    let key (later: bool) (name: string) : Dfa =
        sequence [
            if later then
                thenSpace ","
            ByteRegex.literal (quote name)
            thenSpace ":"
        ]
        |> Dfa.ofRegex

    /// Brackets of objects and arrays.
    let openBrace, closeBrace, openBracket, closeBracket = literal "{", literal "}", literal "[", literal "]"
