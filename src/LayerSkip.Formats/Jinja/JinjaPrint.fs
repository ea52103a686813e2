namespace LayerSkip

open System
open System.Globalization
open System.Numerics
open System.Runtime.CompilerServices
open System.Text

/// Values as Python's str, repr and json.dumps write them. What stood in a typed text is typed, what is written around it trusted.
[<RequireQualifiedAccess>]
module internal JinjaPrint =
    /// The shortest digits that read as the same number, laid out as Python does.
    let float (value: float) : string =
        if Double.IsNaN value then
            "nan"
        elif Double.IsPositiveInfinity value then
            "inf"
        elif Double.IsNegativeInfinity value then
            "-inf"
        else
            let text = value.ToString("R", CultureInfo.InvariantCulture)
            let sign, text = if text[0] = '-' then "-", text[1..] else "", text

            let mantissa, exponent =
                match text.IndexOf 'E' with
                | -1 -> text, 0
                | at -> text[.. at - 1], int text[at + 1 ..]

            let whole, fraction =
                match mantissa.IndexOf '.' with
                | -1 -> mantissa, ""
                | at -> mantissa[.. at - 1], mantissa[at + 1 ..]

            let all = whole + fraction
            let digits = all.TrimStart '0'

            if digits = "" then
                sign + "0.0"
            else
                // value = 0.digits * 10^point
                let point = whole.Length + exponent - (all.Length - digits.Length)
                let digits = digits.TrimEnd '0'

                if point > 16 || point < -3 then
                    let rest = if digits.Length > 1 then "." + digits[1..] else ""
                    let power = point - 1
                    let mark = if power < 0 then "-" else "+"
                    $"{sign}{digits[0]}{rest}e{mark}{abs power:D2}"
                elif point <= 0 then
                    sign + "0." + String('0', -point) + digits
                elif point >= digits.Length then
                    sign + digits + String('0', point - digits.Length) + ".0"
                else
                    sign + digits[.. point - 1] + "." + digits[point..]

    let private isPrintable (rune: Rune) : bool =
        match Rune.GetUnicodeCategory rune with
        | UnicodeCategory.Control
        | UnicodeCategory.Format
        | UnicodeCategory.Surrogate
        | UnicodeCategory.PrivateUse
        | UnicodeCategory.OtherNotAssigned
        | UnicodeCategory.LineSeparator
        | UnicodeCategory.ParagraphSeparator -> false
        | UnicodeCategory.SpaceSeparator -> rune.Value = 32
        | _ -> true

    let private hex (width: int) (value: int) =
        value.ToString("x" + string width, CultureInfo.InvariantCulture)

    /// Writes a text, each character as `escape` says or, where that is null, as it is.
    let private escaped (out: MarkedBuilder) (text: Marked) (escape: Rune -> string) : unit =
        let mutable at = 0
        // What is copied as it is, from here.
        let mutable kept = 0

        for rune in text.Text.EnumerateRunes() do
            let size = rune.Utf16SequenceLength
            let written = escape rune

            if not (isNull written) then
                out.Append(text, kept, at - kept)
                out.Append(written, Marked.isTyped at text)
                kept <- at + size

            at <- at + size

        out.Append(text, kept, text.Text.Length - kept)

    let private reprText (out: MarkedBuilder) (text: Marked) : unit =
        let quote =
            if text.Text.Contains '\'' && not (text.Text.Contains '"') then
                '"'
            else
                '\''
        out.Append(string quote, false)

        escaped out text (fun rune ->
            match rune.Value with
            | 92 -> "\\\\"
            | 10 -> "\\n"
            | 13 -> "\\r"
            | 9 -> "\\t"
            | value when value = int quote -> "\\" + string quote
            | value when value >= 32 && value < 127 || isPrintable rune -> null
            | value when value < 0x100 -> "\\x" + hex 2 value
            | value when value < 0x10000 -> "\\u" + hex 4 value
            | value -> "\\U" + hex 8 value)

        out.Append(string quote, false)

    let private separated (out: MarkedBuilder) (write: 'T -> unit) (items: 'T[]) : unit =
        for i in 0 .. items.Length - 1 do
            if i > 0 then
                out.Append(", ", false)

            write items[i]

    let private none (value: Value) : 'T =
        Value.fail $"a {Value.typeName value} has no text; make it a list, or print what is in it"

    let rec private repr (work: Work) (out: MarkedBuilder) (value: Value) : unit =
        RuntimeHelpers.EnsureSufficientExecutionStack()
        work.Spend 1
        let add (text: string) = out.Append(text, false)

        match value with
        | Value.Text text -> reprText out text
        | Value.Undefined _ -> add "Undefined"
        | Value.None -> add "None"
        | Value.Bool value -> add (if value then "True" else "False")
        | Value.Int value -> add (value.ToString CultureInfo.InvariantCulture)
        | Value.Float value -> add (float value)
        | Value.List items ->
            add "["
            separated out (repr work out) items
            add "]"
        | Value.Tuple items ->
            add "("
            separated out (repr work out) items
            add (if items.Length = 1 then ",)" else ")")
        | Value.Dict dict ->
            add "{"

            Array.zip dict.Keys dict.Values
            |> separated out (fun (name, value) ->
                repr work out name
                add ": "
                repr work out value)

            add "}"
        | Value.View(name, items) ->
            add $"{name}(["
            separated out (repr work out) items
            add "])"
        | Value.Range(start, stop, step) ->
            add (
                if step.IsOne then
                    $"range({start}, {stop})"
                else
                    $"range({start}, {stop}, {step})"
            )
        | Value.Generator _
        | Value.Namespace _
        | Value.Loop _
        | Value.Function _ -> none value

    /// Python's repr.
    let ofValue (work: Work) (value: Value) : Marked =
        let out = work.Builder()
        repr work out value
        work.Made(out.Finish())

    /// Python's str: a text is itself, what is undefined nothing.
    let text (work: Work) (value: Value) : Marked =
        match value with
        | Value.Text text -> text
        | Value.Undefined _ -> Marked.trusted ""
        | value -> ofValue work value

    /// How json.dumps is asked to write.
    type JsonStyle = {
        /// What each level is indented by; None: all on one line.
        Indent: string option
        /// Between items, and between a name and its value.
        Separators: string * string
        SortsKeys: bool
        /// Characters beyond ASCII are escaped.
        EnsuresAscii: bool
    }

    let private jsonText (style: JsonStyle) (out: MarkedBuilder) (text: Marked) : unit =
        out.Append("\"", false)

        escaped out text (fun rune ->
            match rune.Value with
            | value when value < 127 -> Json.spelled value
            | value when style.EnsuresAscii && value > 127 ->
                rune.ToString() |> Seq.map (fun unit -> "\\u" + hex 4 (int unit)) |> String.concat ""
            | _ -> null)

        out.Append("\"", false)

    let rec private jsonValue work style (out: MarkedBuilder) (level: int) (value: Value) : unit =
        RuntimeHelpers.EnsureSufficientExecutionStack()
        (work: Work).Spend 1
        let add (text: string) = out.Append(text, false)
        let itemSeparator, keySeparator = (style: JsonStyle).Separators

        let breakAt level =
            match style.Indent with
            | Some indent ->
                add "\n"

                for _ in 1..level do
                    add indent
            | None -> ()

        let block (opening: string) (closing: string) (items: 'T[]) (write: 'T -> unit) =
            add opening

            if items.Length > 0 then
                for i in 0 .. items.Length - 1 do
                    if i > 0 then
                        add itemSeparator

                    breakAt (level + 1)
                    write items[i]

                breakAt level

            add closing

        // Keys that are numbers, truths or None become texts.
        let keyText (name: Value) : Marked =
            match name with
            | Value.Text text -> text
            | Value.Bool value -> Marked.trusted (if value then "true" else "false")
            | Value.None -> Marked.trusted "null"
            | Value.Int _
            | Value.Float _ -> ofValue work name
            | other -> Value.fail $"a {Value.typeName other} cannot be a key in JSON"

        match value with
        | Value.Text text -> jsonText style out text
        | Value.None -> add "null"
        | Value.Bool value -> add (if value then "true" else "false")
        | Value.Int value -> add (value.ToString CultureInfo.InvariantCulture)
        | Value.Float value when Double.IsNaN value -> add "NaN"
        | Value.Float value when Double.IsInfinity value ->
            add (if value > 0.0 then "Infinity" else "-Infinity")
        | Value.Float value -> add (float value)
        | Value.List items
        | Value.Tuple items -> block "[" "]" items (jsonValue work style out (level + 1))
        | Value.Dict dict ->
            let pairs = Array.zip dict.Keys dict.Values

            let pairs =
                if style.SortsKeys then
                    let byKey (a, _) (b, _) = JinjaOrder.tryCompare work a b |> Option.defaultValue 0
                    pairs |> List.ofArray |> List.sortWith byKey |> Array.ofList
                else
                    pairs

            block "{" "}" pairs (fun (name, value) ->
                jsonText style out (keyText name)
                add keySeparator
                jsonValue work style out (level + 1) value)
        | other -> Value.fail $"a {Value.typeName other} cannot be written as JSON"

    /// Python's json.dumps.
    let json (work: Work) (style: JsonStyle) (value: Value) : Marked =
        let out = work.Builder()
        jsonValue work style out 0 value
        work.Made(out.Finish())
