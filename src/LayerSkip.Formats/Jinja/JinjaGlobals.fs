namespace LayerSkip

open System
open System.Collections.Generic
open System.Globalization
open System.Numerics

/// The functions that every chat template may call: jinja2's and transformers'.
[<RequireQualifiedAccess>]
module internal JinjaGlobals =
    // jinja2's sandbox has the same bound.
    let private longestRange = BigInteger 100_000

    let private range (given: Given) : Value =
        let whole (value: Value) =
            match Value.tryWhole value with
            | ValueSome whole -> whole
            | ValueNone -> Value.fail $"range takes whole numbers, not a {Value.typeName value}"

        if not given.Named.IsEmpty then
            Value.fail "range takes no arguments by name"

        let start, stop, step =
            match List.map whole given.Positional with
            | [ stop ] -> BigInteger.Zero, stop, BigInteger.One
            | [ start; stop ] -> start, stop, BigInteger.One
            | [ start; stop; step ] -> start, stop, step
            | _ -> Value.fail "range takes one to three numbers"

        if step.IsZero then
            Value.fail "the step of a range must not be zero"

        if Value.rangeLength start stop step > longestRange then
            Value.fail $"a range of more than {longestRange} numbers"

        Value.Range(start, stop, step)

    /// What a dictionary and named arguments give, as dict and namespace take them.
    let private pairs (name: string) (given: Given) : seq<struct (Value * Value)> =
        seq {
            match given.Positional with
            | [] -> ()
            | [ Value.Dict dict ] ->
                for key, value in Array.zip dict.Keys dict.Values do
                    struct (key, value)
            | [ Value.List items ]
            | [ Value.Tuple items ]
            | [ Value.View(_, items) ] ->
                for item in items do
                    match item with
                    | Value.Tuple [| key; value |]
                    | Value.List [| key; value |] -> struct (key, value)
                    | _ -> Value.fail $"{name} takes pairs"
            | _ -> Value.fail $"{name} takes a dictionary, or arguments by name"

            for key, value in given.Named do
                struct (Value.text key, value)
        }

    let private dict (work: Work) (given: Given) : Value =
        let pairs = work.Made(Array.ofSeq (pairs "dict" given))
        Value.Dict(Value.dict pairs)

    let private ``namespace`` (given: Given) : Value =
        let names = Dictionary<string, Value>()

        for struct (key, value) in pairs "namespace" given do
            match key with
            | Value.Text key -> names[key.Text] <- value
            | other -> Value.fail $"a namespace has names, not a {Value.typeName other}"

        Value.Namespace names

    /// Python's strftime in English.
    let private time (now: DateTimeOffset) (format: string) : string =
        let culture = CultureInfo.InvariantCulture
        let shown (format: string) = now.ToString(format, culture)
        let out = Text.StringBuilder()
        let mutable at = 0

        while at < format.Length do
            if format[at] <> '%' then
                out.Append format[at] |> ignore
                at <- at + 1
            else
                // glibc's: without the zeros in front.
                let bare = at + 1 < format.Length && format[at + 1] = '-'
                let letter = at + (if bare then 2 else 1)

                if letter >= format.Length then
                    Value.fail "strftime_now: a format ends in %"

                let text =
                    match format[letter] with
                    | 'Y' -> shown "yyyy"
                    | 'y' -> shown "yy"
                    | 'm' -> shown "MM"
                    | 'd' -> shown "dd"
                    | 'e' -> (shown "dd").TrimStart('0').PadLeft 2
                    | 'H' -> shown "HH"
                    | 'I' -> shown "hh"
                    | 'M' -> shown "mm"
                    | 'S' -> shown "ss"
                    | 'f' -> shown "ffffff"
                    | 'p' -> shown "tt"
                    | 'b'
                    | 'h' -> shown "MMM"
                    | 'B' -> shown "MMMM"
                    | 'a' -> shown "ddd"
                    | 'A' -> shown "dddd"
                    | 'j' -> now.DayOfYear.ToString("000", culture)
                    | 'u' -> string ((int now.DayOfWeek + 6) % 7 + 1)
                    | 'w' -> string (int now.DayOfWeek)
                    | 'F' -> shown "yyyy-MM-dd"
                    | 'T' -> shown "HH:mm:ss"
                    | 'R' -> shown "HH:mm"
                    | 'D' -> shown "MM'/'dd'/'yy"
                    | '%' -> "%"
                    | 'n' -> "\n"
                    | 't' -> "\t"
                    | other -> Value.fail $"strftime_now: %%{other} is not known here"

                let text =
                    if not bare then
                        text
                    else
                        match text.TrimStart '0' with
                        | "" -> "0"
                        | stripped -> stripped

                out.Append text |> ignore
                at <- letter + 1

        out.ToString()

    let private one (name: string) (given: Given) : Marked = Arguments(name, [ "text" ], given).Text "text"

    /// Functions by name; `now` is what strftime_now tells.
    let all (work: Work) (now: DateTimeOffset) : (string * Value) list = [
        for name, invoke in
            [
                "range", range
                "dict", dict work
                "namespace", ``namespace``
                "raise_exception",
                fun given ->
                    let why =
                        match given.Positional with
                        | [ value ] -> (JinjaPrint.text work value).Text
                        | _ -> (one "raise_exception" given).Text

                    raise (JinjaRefusal why)
                "strftime_now",
                fun given ->
                    let format = one "strftime_now" given

                    if format.Flips.Length > 0 then
                        Value.fail "strftime_now: the format must be the template's own"

                    Value.text (time now format.Text)
            ] do
            name, Value.Function { Name = name; Invoke = invoke }

        for name in [ "lipsum"; "cycler"; "joiner" ] do
            name, Value.Function { Name = name; Invoke = fun _ -> Value.fail $"{name} is not known here" }
    ]
