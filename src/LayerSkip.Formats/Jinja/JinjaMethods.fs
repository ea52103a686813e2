namespace LayerSkip

open System
open System.Globalization
open System.Numerics

/// What was given to a function, by the names of its parameters.
[<Sealed>]
type internal Arguments(name: string, parameters: string list, given: Given) =
    do
        if given.Positional.Length > parameters.Length then
            Value.fail
                $"{name} takes at most {parameters.Length} arguments, {given.Positional.Length} are given"

        for argument, _ in given.Named do
            match List.tryFindIndex ((=) argument) parameters with
            | None -> Value.fail $"{name} has no argument {argument}"
            | Some place when place < given.Positional.Length ->
                Value.fail $"{name} is given {argument} twice"
            | Some _ -> ()

    /// The value of a parameter, where one is given.
    member _.TryFind(parameter: string) : Value option =
        match List.tryFind (fst >> (=) parameter) given.Named with
        | Some(_, value) -> Some value
        | None -> List.tryItem (List.findIndex ((=) parameter) parameters) given.Positional

    /// The value of a parameter that must be given.
    member this.Find(parameter: string) : Value =
        match this.TryFind parameter with
        | Some value -> value
        | None -> Value.fail $"{name} needs its argument {parameter}"

    member this.Or(parameter: string, fallback: Value) : Value =
        this.TryFind parameter |> Option.defaultValue fallback

    /// A text that must be given.
    member this.Text(parameter: string) : Marked =
        match this.Find parameter with
        | Value.Text text -> text
        | Value.Undefined what -> Value.fail what
        | other -> Value.fail $"{name}: {parameter} must be a text, not a {Value.typeName other}"

    /// A text, unless it is not given or None.
    member this.TryText(parameter: string) : Marked option =
        match this.TryFind parameter with
        | None
        | Some Value.None -> None
        | Some _ -> Some(this.Text parameter)

    /// A whole number of 32 bits.
    member this.Int(parameter: string, fallback: int) : int =
        match this.TryFind parameter with
        | None -> fallback
        | Some value ->
            match Value.tryWhole value with
            | ValueSome whole when BigInteger.Abs whole <= BigInteger Int32.MaxValue -> int whole
            | _ -> Value.fail $"{name}: {parameter} must be a whole number of 32 bits"

    member this.Flag(parameter: string, fallback: bool) : bool =
        this.TryFind parameter |> Option.map Value.isTrue |> Option.defaultValue fallback

/// The methods that values have in Python, those that change nothing.
[<RequireQualifiedAccess>]
module internal JinjaMethods =
    type private Method = Work -> Given -> Value

    let private truth (value: bool) = Value.Bool value

    // startswith and endswith take one text or a tuple of them, and a part of the text to look at.
    let private sides (text: Marked) (name: string) (holds: string -> string -> bool) (given: Given) =
        let arguments = Arguments(name, [ "prefix" ], given)

        match arguments.Find "prefix" with
        | Value.Tuple pieces ->
            pieces
            |> Array.exists (fun piece ->
                match piece with
                | Value.Text piece -> holds text.Text piece.Text
                | other -> Value.fail $"{name} takes texts, not a {Value.typeName other}")
            |> truth
        | _ -> truth (holds text.Text (arguments.Text "prefix").Text)

    let private startsWith (text: string) (piece: string) = text.StartsWith(piece, StringComparison.Ordinal)
    let private endsWith (text: string) (piece: string) = text.EndsWith(piece, StringComparison.Ordinal)

    let private find (text: Marked) (fromEnd: bool) (name: string) (isIndex: bool) (given: Given) =
        let piece = (Arguments(name, [ "sub" ], given).Text "sub").Text

        let at =
            if fromEnd then
                text.Text.LastIndexOf(piece, StringComparison.Ordinal)
            else
                text.Text.IndexOf(piece, StringComparison.Ordinal)

        if at < 0 && isIndex then
            Value.fail $"{name}: the piece is not in the text"

        Value.whole (if at < 0 then -1 else Value.pointAt text.Text at)

    let private every (holds: char -> bool) (text: Marked) : Value =
        if text.Text |> Seq.exists (fun unit -> not (Char.IsAscii unit)) then
            Value.fail "kinds of characters are only asked of ASCII here"

        truth (text.Text <> "" && Seq.forall holds text.Text)

    let private ofText (text: Marked) (name: string) : Method voption =
        let plain (make: Work -> Marked) : Method voption =
            ValueSome(fun work given ->
                Arguments(name, [], given) |> ignore
                Value.Text(make work))

        let strip left right : Method voption =
            ValueSome(fun _ given ->
                let characters = Arguments(name, [ "chars" ], given).TryText "chars" |> Option.map _.Text
                Value.Text(JinjaText.trim left right characters text))

        let split splitAt : Method voption =
            ValueSome(fun work given ->
                let arguments = Arguments(name, [ "sep"; "maxsplit" ], given)
                let most = arguments.Int("maxsplit", -1)

                match arguments.TryText "sep" with
                | Some separator -> splitAt work separator.Text most text
                | None when name = "rsplit" && most >= 0 ->
                    Value.fail "rsplit with maxsplit needs a separator here"
                | None -> JinjaText.words work most text)

        let padded side : Method voption =
            ValueSome(fun work given ->
                let arguments = Arguments(name, [ "width"; "fillchar" ], given)
                let fill = arguments.TryText "fillchar" |> Option.map _.Text |> Option.defaultValue " "

                if Value.textLength fill <> 1 then
                    Value.fail $"{name}: fillchar must be one character"

                arguments.Find "width" |> ignore
                Value.Text(JinjaText.pad work (arguments.Int("width", 0)) fill side text))

        let ask (holds: unit -> Value) : Method voption =
            ValueSome(fun _ given ->
                Arguments(name, [], given) |> ignore
                holds ())

        match name with
        | "strip" -> strip true true
        | "lstrip" -> strip true false
        | "rstrip" -> strip false true
        | "split" -> split JinjaText.split
        | "rsplit" -> split JinjaText.splitFromEnd
        | "upper" -> plain (fun work -> JinjaCase.upperText work text)
        | "lower" -> plain (fun work -> JinjaCase.lowerText work text)
        | "title" -> plain (fun work -> JinjaCase.titled work text)
        | "capitalize" -> plain (fun work -> JinjaCase.capitalized work text)
        | "swapcase" -> plain (fun work -> JinjaCase.swapped work text)
        | "ljust" -> padded "right"
        | "rjust" -> padded "left"
        | "center" -> padded "both"
        | "startswith" -> ValueSome(fun _ -> sides text name startsWith)
        | "endswith" -> ValueSome(fun _ -> sides text name endsWith)
        | "find" -> ValueSome(fun _ -> find text false name false)
        | "rfind" -> ValueSome(fun _ -> find text true name false)
        | "index" -> ValueSome(fun _ -> find text false name true)
        | "rindex" -> ValueSome(fun _ -> find text true name true)
        | "count" ->
            ValueSome(fun _ given ->
                Value.whole (JinjaText.count (Arguments(name, [ "sub" ], given).Text "sub").Text text.Text))
        | "replace" ->
            ValueSome(fun work given ->
                let arguments = Arguments(name, [ "old"; "new"; "count" ], given)
                let old, fresh = (arguments.Text "old").Text, arguments.Text "new"
                Value.Text(JinjaText.replace work old fresh (arguments.Int("count", -1)) text))
        | "join" ->
            ValueSome(fun work given ->
                Value.items work (Arguments(name, [ "iterable" ], given).Find "iterable")
                |> Array.map (fun piece ->
                    match piece with
                    | Value.Text piece -> piece
                    | other -> Value.fail $"join takes texts, not a {Value.typeName other}")
                |> JinjaText.join work text
                |> Value.Text)
        | "splitlines" ->
            ValueSome(fun work given ->
                let keeps = Arguments(name, [ "keepends" ], given).Flag("keepends", false)
                Value.List(JinjaText.lines work keeps text |> Array.map Value.Text))
        | "removeprefix" ->
            ValueSome(fun _ given ->
                let prefix = (Arguments(name, [ "prefix" ], given).Text "prefix").Text
                let cut = if startsWith text.Text prefix then prefix.Length else 0
                Value.Text(Marked.sub cut (text.Text.Length - cut) text))
        | "removesuffix" ->
            ValueSome(fun _ given ->
                let suffix = (Arguments(name, [ "suffix" ], given).Text "suffix").Text
                let cut = if endsWith text.Text suffix then suffix.Length else 0
                Value.Text(Marked.sub 0 (text.Text.Length - cut) text))
        | "partition" ->
            ValueSome(fun _ given ->
                JinjaText.partition false (Arguments(name, [ "sep" ], given).Text "sep").Text text)
        | "rpartition" ->
            ValueSome(fun _ given ->
                JinjaText.partition true (Arguments(name, [ "sep" ], given).Text "sep").Text text)
        | "isupper" -> ask (fun () -> truth (JinjaCase.isAll UnicodeCategory.UppercaseLetter text.Text))
        | "islower" -> ask (fun () -> truth (JinjaCase.isAll UnicodeCategory.LowercaseLetter text.Text))
        | "isspace" -> ask (fun () -> truth (text.Text <> "" && Seq.forall JinjaText.isSpace text.Text))
        | "isascii" -> ask (fun () -> truth (Seq.forall Char.IsAscii text.Text))
        | "isalpha" -> ask (fun () -> every Char.IsLetter text)
        | "isdigit"
        | "isdecimal"
        | "isnumeric" -> ask (fun () -> every Char.IsDigit text)
        | "isalnum" -> ask (fun () -> every Char.IsLetterOrDigit text)
        | _ -> ValueNone

    let private ofDict (dict: Dict) (name: string) : Method voption =
        let view (items: unit -> Value[]) : Method voption =
            ValueSome(fun work given ->
                Arguments(name, [], given) |> ignore
                Value.View("dict_" + name, work.Made(items ())))

        match name with
        | "keys" -> view (fun () -> dict.Keys)
        | "values" -> view (fun () -> dict.Values)
        | "items" -> view (fun () -> Value.pairs dict)
        | "copy" -> ValueSome(fun _ _ -> Value.Dict dict)
        | "get" ->
            ValueSome(fun _ given ->
                let arguments = Arguments(name, [ "key"; "default" ], given)

                match Value.tryFind (arguments.Find "key") dict with
                | ValueSome value -> value
                | ValueNone -> arguments.Or("default", Value.None))
        | _ -> ValueNone

    let private ofList (items: Value[]) (name: string) : Method voption =
        match name with
        | "count" ->
            ValueSome(fun work given ->
                let wanted = Arguments(name, [ "value" ], given).Find "value"
                Value.whole (items |> Array.filter (JinjaOrder.equal work wanted) |> Array.length))
        | "index" ->
            ValueSome(fun work given ->
                let wanted = Arguments(name, [ "value" ], given).Find "value"

                match Array.tryFindIndex (JinjaOrder.equal work wanted) items with
                | Some at -> Value.whole at
                | None -> Value.fail "index: the value is not in the list")
        | "copy" -> ValueSome(fun _ _ -> Value.List items)
        | _ -> ValueNone

    // What Python has and we have not: refused by name, so that nothing reads as undefined that is defined there.
    let private unknown (value: Value) : string =
        match value with
        | Value.Text _ ->
            "casefold encode expandtabs format format_map isidentifier isprintable istitle maketrans translate zfill"
        | Value.Dict _ -> "fromkeys"
        | Value.View _ -> "isdisjoint mapping"
        | Value.Range _ -> "start stop step count index"
        | Value.Int _
        | Value.Bool _
        | Value.Float _ ->
            "real imag numerator denominator bit_length bit_count conjugate to_bytes from_bytes as_integer_ratio is_integer hex fromhex"
        | Value.Generator _ -> "send throw close"
        | Value.Function _ -> "name arguments catch_kwargs catch_varargs caller"
        | _ -> ""

    // What jinja2's immutable sandbox keeps from templates.
    let private changing (value: Value) : string =
        match value with
        | Value.Dict _ -> "clear pop popitem setdefault update"
        | Value.List _ -> "append clear pop reverse insert sort extend remove"
        | _ -> ""

    let private has (name: string) (names: string) = Array.contains name (names.Split ' ')

    /// A method or another attribute that Python's type has, ready to be called.
    let tryFind (work: Work) (value: Value) (name: string) : Value voption =
        let methodOf =
            match value with
            | Value.Text text -> ofText text name
            | Value.Dict dict -> ofDict dict name
            | Value.List items -> ofList items name
            | Value.Tuple items when name <> "copy" -> ofList items name
            | _ -> ValueNone

        match methodOf with
        | ValueSome run -> ValueSome(Value.Function { Name = name; Invoke = run work })
        | ValueNone when has name (changing value) ->
            ValueSome(
                Value.Undefined
                    $"{name} would change a {Value.typeName value}, which templates may not; make a new one by +"
            )
        | ValueNone when name <> "" && has name (unknown value) ->
            Value.fail $"{name} of a {Value.typeName value} is not known here"
        | ValueNone -> ValueNone
