namespace LayerSkip

open System
open System.Collections.Generic
open System.Globalization
open System.Numerics
open System.Text.RegularExpressions

[<RequireQualifiedAccess>]
type internal JinjaToken =
    /// Text outside of tags, with what the tags beside it strip off already gone.
    | Text of string
    | BlockBegin
    | BlockEnd
    | PrintBegin
    | PrintEnd
    | Name of string
    | String of string
    | Int of BigInteger
    | Float of float
    | Sign of string
    | End

/// Cutting a template into tokens as jinja2's lexer does with trim_blocks and lstrip_blocks, as transformers sets them: the
/// newline after a block or comment goes, and so does white space before one on its line.
[<RequireQualifiedAccess>]
module internal JinjaLexer =
    let private signs = [
        "//"
        "**"
        "=="
        "!="
        ">="
        "<="
        yield! "+-/*%~[](){}><=.:|,;" |> Seq.map string
    ]

    let private options = RegexOptions.IgnoreCase ||| RegexOptions.CultureInvariant

    let private float =
        Regex(
            @"\G(?:[0-9]+_)*[0-9]+(?:(?:\.(?:[0-9]+_)*[0-9]+)?e[+\-]?(?:[0-9]+_)*[0-9]+|\.(?:[0-9]+_)*[0-9]+)",
            options
        )

    let private int =
        Regex(@"\G(?:0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[0-9a-f])+|[1-9](?:_?[0-9])*|0(?:_?0)*)", options)

    let private string =
        Regex(@"\G(?:'[^'\\]*(?:\\.[^'\\]*)*'|""[^""\\]*(?:\\.[^""\\]*)*"")", RegexOptions.Singleline)

    let private rawBegin = Regex(@"\G\{%[-+]?\s*raw\s*(?:-%\}\s*|%\})", RegexOptions.CultureInvariant)
    let private rawEnd =
        Regex(@"\{%([-+]?)\s*endraw\s*(?:\+%\}|-%\}\s*|%\}\n?)", RegexOptions.CultureInvariant)

    let private isNamePart (unit: char) = Char.IsLetterOrDigit unit || unit = '_'

    /// The tokens of a template with their places, `End` last.
    let tokens (template: string) : (struct (JinjaToken * JinjaPlace))[] =
        let source = template.Replace("\r\n", "\n").Replace('\r', '\n')
        let source =
            if source.EndsWith '\n' then
                source[.. source.Length - 2]
            else
                source
        let found = List<struct (JinjaToken * JinjaPlace)>()
        let mutable at = 0
        let lineStarts = [|
            0
            for index in 0 .. source.Length - 1 do
                if source[index] = '\n' then
                    index + 1
        |]

        let placeOf (index: int) : JinjaPlace =
            let found = Array.BinarySearch(lineStarts, index)
            let line = if found >= 0 then found else ~~~found - 1
            { Line = line + 1; Column = index - lineStarts[line] + 1 }

        let fault index what : 'T = raise (JinjaFault(placeOf index, what))
        let add index token = found.Add(struct (token, placeOf index))
        let starts (text: string) (index: int) =
            String.CompareOrdinal(source, index, text, 0, text.Length) = 0

        let skipSpace () =
            while at < source.Length && JinjaText.isSpace source[at] do
                at <- at + 1

        let skipNewline () =
            if at < source.Length && source[at] = '\n' then
                at <- at + 1

        // The text before a tag at `stop`, as the tag and the rules for lines leave it.
        let addText (start: int) (stop: int) (sign: char) (isPrint: bool) =
            let text = source[start .. stop - 1]
            let isLineStart = start = 0 || source[start - 1] = '\n'
            let lineBegin = text.LastIndexOf '\n' + 1

            let text =
                if sign = '-' then
                    (Marked.trusted text |> JinjaText.trim false true None).Text
                elif
                    sign <> '+'
                    && not isPrint
                    && (lineBegin > 0 || isLineStart)
                    && Seq.forall JinjaText.isSpace text[lineBegin..]
                then
                    text[.. lineBegin - 1]
                else
                    text

            if text <> "" then
                add start (JinjaToken.Text text)

        let signAt index = if index < source.Length then source[index] else ' '
        let isSigned index = signAt index = '-' || signAt index = '+'

        /// The end of a tag that starts with `closing`, where one stands.
        let tryEnd (closing: string) : bool =
            let isBlock = closing <> "}}"

            if starts ("-" + closing) at then
                at <- at + 3
                skipSpace ()
                true
            elif isBlock && starts ("+" + closing) at then
                at <- at + 3
                true
            elif starts closing at then
                at <- at + 2
                if isBlock then
                    skipNewline ()
                true
            else
                false

        let comment (start: int) =
            at <- start + (if isSigned (start + 2) then 3 else 2)
            let mutable isOpen = true

            while isOpen do
                match source.IndexOf("#}", at, StringComparison.Ordinal) with
                | -1 -> fault start "this comment has no end"
                | close ->
                    at <-
                        if close > at && isSigned (close - 1) then
                            close - 1
                        else
                            close
                    isOpen <- not (tryEnd "#}")

        let raw (start: int) =
            let opening = rawBegin.Match(source, start)
            let inner = start + opening.Length
            let closing = rawEnd.Match(source, inner)

            if not closing.Success then
                fault start "raw has no endraw"

            let sign =
                if closing.Groups[1].Length > 0 then
                    closing.Groups[1].Value[0]
                else
                    ' '
            addText inner closing.Index sign false
            at <- closing.Index + closing.Length

        // One token inside a tag.
        let inside (nesting: Stack<char>) =
            let start = at
            let matched (regex: Regex) = regex.Match(source, at)
            let precededByDot = at > 0 && source[at - 1] = '.'
            let number = if precededByDot then Match.Empty else matched float

            if number.Success then
                at <- at + number.Length
                add
                    start
                    (JinjaToken.Float(
                        Double.Parse(number.Value.Replace("_", ""), CultureInfo.InvariantCulture)
                    ))
            else
                let whole = matched int

                if whole.Success then
                    at <- at + whole.Length
                    add start (JinjaToken.Int(JinjaLiterals.whole whole.Value))
                elif isNamePart source[at] then
                    while at < source.Length && isNamePart source[at] do
                        at <- at + 1

                    if Char.IsDigit source[start] then
                        fault start "a name begins with a digit"

                    add start (JinjaToken.Name source[start .. at - 1])
                elif source[at] = '\'' || source[at] = '"' then
                    let literal = matched string

                    if not literal.Success then
                        fault start "this text has no end"

                    at <- at + literal.Length
                    let place = placeOf start
                    let refuse what : string = raise (JinjaFault(place, what))
                    let text = JinjaLiterals.text refuse literal.Value[1 .. literal.Length - 2]
                    found.Add(struct (JinjaToken.String text, place))
                else
                    match signs |> List.tryFind (fun sign -> starts sign at) with
                    | None -> fault start $"unexpected {source[at]}"
                    | Some sign ->
                        match sign with
                        | "("
                        | "["
                        | "{" ->
                            nesting.Push(
                                if sign = "(" then ')'
                                elif sign = "[" then ']'
                                else '}'
                            )
                        | ")"
                        | "]"
                        | "}" when nesting.Count = 0 || nesting.Pop() <> sign[0] ->
                            fault start $"unexpected {sign}"
                        | _ -> ()

                        at <- at + sign.Length
                        add start (JinjaToken.Sign sign)

        let tag (start: int) (opening: JinjaToken) (closing: string) (ending: JinjaToken) =
            add start opening
            at <- start + (if isSigned (start + 2) then 3 else 2)
            let nesting = Stack<char>()
            let mutable isOpen = true

            while isOpen do
                skipSpace ()
                let here = at

                if at >= source.Length then
                    fault start $"this tag has no {closing}"
                elif nesting.Count = 0 && tryEnd closing then
                    isOpen <- false
                    add here ending
                else
                    inside nesting

        let rec nextTag (from: int) =
            match source.IndexOf('{', from) with
            | -1 -> -1
            | brace when brace + 1 < source.Length && "%{#".Contains source[brace + 1] -> brace
            | brace -> nextTag (brace + 1)

        while at < source.Length do
            let start = at

            match nextTag at with
            | -1 ->
                add start (JinjaToken.Text source[start..])
                at <- source.Length
            | tagAt ->
                let kind = source[tagAt + 1]
                addText start tagAt (signAt (tagAt + 2)) (kind = '{')

                if kind = '#' then
                    comment tagAt
                elif kind = '{' then
                    tag tagAt JinjaToken.PrintBegin "}}" JinjaToken.PrintEnd
                elif rawBegin.Match(source, tagAt).Success then
                    raw tagAt
                else
                    tag tagAt JinjaToken.BlockBegin "%}" JinjaToken.BlockEnd

        add source.Length JinjaToken.End
        found.ToArray()
