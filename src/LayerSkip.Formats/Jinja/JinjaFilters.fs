namespace LayerSkip

open System
open System.Globalization
open System.Numerics
open System.Text.RegularExpressions

/// What filters and tests ask of the rendering around them.
[<NoEquality; NoComparison>]
type internal JinjaContext = {
    Work: Work
    /// A filter by its name, over a value.
    Filter: string -> Value -> Given -> Value
    /// A test by its name.
    Test: string -> Value -> Given -> bool
}

/// jinja2's filters of one value.
[<RequireQualifiedAccess>]
module internal JinjaFilters =
    let private text (context: JinjaContext) (value: Value) : Marked = JinjaPrint.text context.Work value

    /// The text of a value that Python would ask methods of texts of.
    let private needsText (name: string) (value: Value) : Marked =
        match value with
        | Value.Text text -> text
        | Value.Undefined what -> Value.fail what
        | other -> Value.fail $"{name} is of texts, not of a {Value.typeName other}"

    let private wordBeginnings = Regex(@"[-\s({\[<]+", RegexOptions.CultureInvariant)

    /// jinja2's own title case: a capital after a space, a dash or an opening bracket.
    let private title (context: JinjaContext) (value: Marked) : Marked =
        let starts =
            Set [
                0
                for beginning in wordBeginnings.Matches value.Text do
                    beginning.Index
                    beginning.Index + beginning.Length
            ]

        value
        |> JinjaCase.mapped context.Work (fun at rune ->
            if starts.Contains at then
                JinjaCase.upper rune
            else
                JinjaCase.lower value.Text at rune)

    let private indent (context: JinjaContext) (value: Value) (given: Given) : Value =
        let arguments = Arguments("indent", [ "width"; "first"; "blank" ], given)
        let work = context.Work

        let margin =
            match arguments.Or("width", Value.whole 4) with
            | Value.Text text -> text
            | _ -> JinjaText.repeat work (max 0 (arguments.Int("width", 4))) (Marked.trusted " ")

        let newline = Marked.trusted "\n"
        let whole = JinjaText.join work (Marked.trusted "") [| needsText "indent" value; newline |]
        let lines = JinjaText.lines work false whole
        let out = work.Builder()

        if arguments.Flag("first", false) then
            out.Append margin

        lines
        |> Array.iteri (fun i line ->
            if i > 0 then
                out.Append newline

                if arguments.Flag("blank", false) || line.Text <> "" then
                    out.Append margin

            out.Append line)

        Value.Text(work.Made(out.Finish()))

    let private json (context: JinjaContext) (value: Value) (given: Given) : Value =
        let arguments = Arguments("tojson", [ "ensure_ascii"; "indent"; "separators"; "sort_keys" ], given)

        let indent =
            match arguments.Or("indent", Value.None) with
            | Value.None -> None
            | Value.Text text -> Some text.Text
            | _ ->
                let width = arguments.Int("indent", 0)
                if width > 64 then
                    Value.fail "tojson: an indent of 64 is the most"
                Some(String(' ', max 0 width))

        let separators =
            match arguments.Or("separators", Value.None) with
            | Value.None when indent.IsSome -> ",", ": "
            | Value.None -> ", ", ": "
            | Value.Tuple [| Value.Text items; Value.Text keys |]
            | Value.List [| Value.Text items; Value.Text keys |] -> items.Text, keys.Text
            | _ -> Value.fail "tojson: separators must be two texts"

        let style: JinjaPrint.JsonStyle = {
            Indent = indent
            Separators = separators
            SortsKeys = arguments.Flag("sort_keys", false)
            EnsuresAscii = arguments.Flag("ensure_ascii", false)
        }

        Value.Text(JinjaPrint.json context.Work style value)

    let private wholeText = Regex(@"^\s*([+-]?[0-9]+(?:_[0-9]+)*)\s*$", RegexOptions.CultureInvariant)

    let private floatText =
        Regex(
            @"^\s*[+-]?(?:[0-9]+(?:_[0-9]+)*\.?(?:[0-9]+(?:_[0-9]+)*)?|\.[0-9]+(?:_[0-9]+)*)(?:e[+-]?[0-9]+)?\s*$",
            RegexOptions.IgnoreCase ||| RegexOptions.CultureInvariant
        )

    let private tryFloat (value: Value) : float option =
        match value with
        | Value.Text text when text.Text.Length < 5000 && floatText.IsMatch text.Text ->
            Some(Double.Parse(text.Text.Replace("_", "").Trim(), CultureInfo.InvariantCulture))
        | Value.Text text ->
            match text.Text.Trim().ToLowerInvariant().TrimStart('+', '-') with
            | "nan" -> Some nan
            | "inf"
            | "infinity" -> Some(if text.Text.Contains '-' then -infinity else infinity)
            | _ -> None
        | other -> Value.tryNumber other |> ValueOption.toOption

    let private int (value: Value) (given: Given) : Value =
        let arguments = Arguments("int", [ "default"; "base" ], given)

        if (arguments.TryFind "base").IsSome then
            Value.fail "int with a base is not known here"

        let fallback () = arguments.Or("default", Value.whole 0)

        match value with
        | Value.Text text when text.Text.Length < 1200 && wholeText.IsMatch text.Text ->
            Value.Int(BigInteger.Parse(text.Text.Replace("_", "").Trim(), CultureInfo.InvariantCulture))
        | Value.Undefined what -> Value.fail what
        | _ ->
            match Value.tryWhole value, tryFloat value with
            | ValueSome whole, _ -> Value.Int whole
            | _, Some number when Double.IsFinite number -> Value.Int(BigInteger(truncate number))
            | _ -> fallback ()

    let private float (value: Value) (given: Given) : Value =
        match value with
        | Value.Undefined what -> Value.fail what
        | _ ->
            match tryFloat value with
            | Some number -> Value.Float number
            | None -> Arguments("float", [ "default" ], given).Or("default", Value.Float 0.0)

    let private round (value: Value) (given: Given) : Value =
        let arguments = Arguments("round", [ "precision"; "method" ], given)
        let precision = arguments.Int("precision", 0)

        if precision < 0 || precision > 15 then
            Value.fail "round: a precision of 0 to 15 is known here"

        let way = arguments.TryText "method" |> Option.map _.Text |> Option.defaultValue "common"
        let scale = Math.Pow(10.0, Operators.float precision)

        match value, Value.tryNumber value, way with
        | Value.Int whole, _, "common" -> Value.Int whole
        // The decimal digits of the number itself, as Python rounds, halves to even.
        | _, ValueSome number, "common" when precision > 0 ->
            let digits = number.ToString("F" + string precision, CultureInfo.InvariantCulture)
            Value.Float(Double.Parse(digits, CultureInfo.InvariantCulture))
        | _, ValueSome number, "common" -> Value.Float(Math.Round(number, MidpointRounding.ToEven))
        | _, ValueSome number, "ceil" -> Value.Float(ceil (number * scale) / scale)
        | _, ValueSome number, "floor" -> Value.Float(floor (number * scale) / scale)
        | _, ValueSome _, _ -> Value.fail "round: method must be common, ceil or floor"
        | _ -> Value.fail $"a {Value.typeName value} cannot be rounded"

    let private abs (value: Value) : Value =
        match value, Value.tryWhole value with
        | _, ValueSome whole -> Value.Int(BigInteger.Abs whole)
        | Value.Float number, _ -> Value.Float(Math.Abs number)
        | _ -> Value.fail $"a {Value.typeName value} has no absolute value"

    let private replace (context: JinjaContext) (value: Value) (given: Given) : Value =
        let arguments = Arguments("replace", [ "old"; "new"; "count" ], given)
        let most =
            match arguments.TryFind "count" with
            | None
            | Some Value.None -> -1
            | Some _ -> arguments.Int("count", -1)

        let old, fresh = text context (arguments.Find "old"), text context (arguments.Find "new")
        Value.Text(JinjaText.replace context.Work old.Text fresh most (text context value))

    let private wordCount (context: JinjaContext) (value: Value) =
        let words = Regex.Matches((text context value).Text, @"\w+", RegexOptions.CultureInvariant)
        Value.whole words.Count

    /// A filter by its name; None of those that go through lists (`JinjaListFilters`), and of those that we do not know.
    let tryFind (name: string) : (JinjaContext -> Value -> Given -> Value) option =
        let plain (make: JinjaContext -> Value -> Value) =
            Some(fun context value given ->
                Arguments(name, [], given) |> ignore
                make context value)

        let cased (make: Work -> Marked -> Marked) =
            plain (fun context value -> Value.Text(make context.Work (text context value)))

        match name with
        | "upper" -> cased JinjaCase.upperText
        | "lower" -> cased JinjaCase.lowerText
        | "capitalize" -> cased JinjaCase.capitalized
        | "title" -> plain (fun context value -> Value.Text(title context (text context value)))
        | "trim" ->
            Some(fun context value given ->
                let characters = Arguments(name, [ "chars" ], given).TryText "chars" |> Option.map _.Text
                Value.Text(JinjaText.trim true true characters (text context value)))
        | "string" -> plain (fun context value -> Value.Text(text context value))
        // Nothing is escaped, so nothing need be said to be safe.
        | "safe" -> plain (fun context value -> Value.Text(text context value))
        | "tojson" -> Some json
        | "indent" -> Some indent
        | "replace" -> Some replace
        | "int" -> Some(fun _ -> int)
        | "float" -> Some(fun _ -> float)
        | "round" -> Some(fun _ -> round)
        | "abs" -> plain (fun _ -> abs)
        | "wordcount" -> plain wordCount
        | "center" ->
            Some(fun context value given ->
                let width = Arguments(name, [ "width" ], given).Int("width", 80)
                Value.Text(JinjaText.pad context.Work width " " "both" (text context value)))
        | "default"
        | "d" ->
            Some(fun _ value given ->
                let arguments = Arguments(name, [ "default_value"; "boolean" ], given)
                let isMissing =
                    value.IsUndefined || arguments.Flag("boolean", false) && not (Value.isTrue value)
                if isMissing then
                    arguments.Or("default_value", Value.text "")
                else
                    value)
        | _ -> None
