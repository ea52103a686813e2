namespace LayerSkip

open System.Collections.Generic

/// jinja2's filters that go through lists and dictionaries.
[<RequireQualifiedAccess>]
module internal JinjaListFilters =
    let private noneGiven: Given = { Positional = []; Named = [] }

    // Sorting and telling apart take texts in lower case, unless asked not to.
    let private keyOf (context: JinjaContext) (arguments: Arguments) : Value -> Value =
        let isSensitive = arguments.Flag("case_sensitive", false)

        let lower (value: Value) =
            match value with
            | Value.Text text when not isSensitive -> Value.Text(JinjaCase.lowerText context.Work text)
            | value -> value

        match arguments.Or("attribute", Value.None) with
        | Value.None -> lower
        | Value.Text text when text.Text.Contains ',' ->
            let paths = [|
                for part in text.Text.Split ',' -> JinjaAccess.path context.Work (Value.text part)
            |]

            fun value -> Value.List(paths |> Array.map (fun path -> lower (path value)))
        | attribute -> JinjaAccess.path context.Work attribute >> lower

    /// What a filter's attribute asks for of each item; the item itself, where it names none.
    let private over (context: JinjaContext) (arguments: Arguments) : Value -> Value =
        match arguments.Or("attribute", Value.None) with
        | Value.None -> id
        | attribute -> JinjaAccess.path context.Work attribute

    let private sorted
        (context: JinjaContext)
        (isReverse: bool)
        (keyOf: Value -> Value)
        (items: Value[])
        : Value =
        let order (a, _) (b, _) =
            let order = JinjaOrder.tryCompare context.Work a b |> Option.defaultValue 0
            if isReverse then -order else order

        context.Work.Spend items.Length

        items
        |> Seq.map (fun item -> keyOf item, item)
        |> List.ofSeq
        |> List.sortWith order
        |> List.map snd
        |> Array.ofList
        |> Value.List

    let private sort (context: JinjaContext) value given =
        let arguments = Arguments("sort", [ "reverse"; "case_sensitive"; "attribute" ], given)
        let isReverse = arguments.Flag("reverse", false)
        sorted context isReverse (keyOf context arguments) (Value.items context.Work value)

    let private dictSort (context: JinjaContext) (value: Value) given =
        let arguments = Arguments("dictsort", [ "case_sensitive"; "by"; "reverse" ], given)

        let place =
            match arguments.TryText "by" |> Option.map _.Text with
            | None
            | Some "key" -> 0
            | Some "value" -> 1
            | Some other -> Value.fail $"dictsort sorts by key or by value, not by {other}"

        let lower =
            keyOf
                context
                (Arguments(
                    "dictsort",
                    [ "attribute"; "case_sensitive" ],
                    {
                        Positional = []
                        Named = [ "case_sensitive", Value.Bool(arguments.Flag("case_sensitive", false)) ]
                    }
                ))

        match value with
        | Value.Dict dict ->
            let key (pair: Value) =
                match pair with
                | Value.Tuple pair -> lower pair[place]
                | other -> other

            sorted context (arguments.Flag("reverse", false)) key (Value.pairs dict)
        | Value.Undefined what -> Value.fail what
        | other -> Value.fail $"dictsort is of dictionaries, not of a {Value.typeName other}"

    let private unique (context: JinjaContext) value given =
        let arguments = Arguments("unique", [ "case_sensitive"; "attribute" ], given)
        let keyOf = keyOf context arguments
        let seen = HashSet<string>()

        Value.items context.Work value
        |> Array.filter (keyOf >> Value.key >> seen.Add)
        |> Value.generator

    let private extreme (name: string) (sign: int) (context: JinjaContext) value given =
        let arguments = Arguments(name, [ "case_sensitive"; "attribute" ], given)
        let keyOf = keyOf context arguments

        let better a b =
            let order = JinjaOrder.tryCompare context.Work (keyOf b) (keyOf a) |> Option.defaultValue 0
            if order * sign < 0 then b else a

        match Value.items context.Work value with
        | [||] -> Value.Undefined "the list is empty"
        | items -> Array.reduce better items

    let private map (context: JinjaContext) value (given: Given) =
        let over =
            match given.Positional, given.Named with
            | [], named when List.exists (fst >> (=) "attribute") named ->
                let arguments = Arguments("map", [ "attribute"; "default" ], given)
                let path = JinjaAccess.path context.Work (arguments.Find "attribute")
                let fallback = arguments.Or("default", Value.None)

                fun item ->
                    let found = path item
                    if found.IsUndefined && not fallback.IsNone then
                        fallback
                    else
                        found
            | Value.Text name :: others, named ->
                fun item -> context.Filter name.Text item { Positional = others; Named = named }
            | _ -> Value.fail "map needs the name of a filter, or attribute"

        Value.items context.Work value |> Array.map over |> Value.generator

    /// Items for which a test holds, or does not; `byAttribute`: of what an attribute of them holds.
    let private select
        (name: string)
        (byAttribute: bool)
        (wanted: bool)
        (context: JinjaContext)
        value
        (given: Given)
        =
        let over, rest =
            match byAttribute, given.Positional with
            | true, attribute :: rest -> JinjaAccess.path context.Work attribute, rest
            | true, [] -> Value.fail $"{name} needs an attribute"
            | false, rest -> id, rest

        let holds =
            match rest with
            | Value.Text test :: others ->
                fun value -> context.Test test.Text value { given with Positional = others }
            | [] -> Value.isTrue
            | _ -> Value.fail $"{name} needs the name of a test"

        Value.items context.Work value
        |> Array.filter (fun item -> holds (over item) = wanted)
        |> Value.generator

    let private join (context: JinjaContext) value given =
        let arguments = Arguments("join", [ "d"; "attribute" ], given)

        let over = over context arguments
        let separator = JinjaPrint.text context.Work (arguments.Or("d", Value.text ""))

        Value.items context.Work value
        |> Array.map (over >> JinjaPrint.text context.Work)
        |> JinjaText.join context.Work separator
        |> Value.Text

    let private first (context: JinjaContext) (value: Value) =
        match value with
        | Value.Generator queue when queue.Count > 0 -> queue.Dequeue()
        | value ->
            Value.items context.Work value
            |> Array.tryHead
            |> Option.defaultValue (Value.Undefined "the list is empty, it has no first")

    let private backward (context: JinjaContext) (value: Value) : Value[] =
        match value with
        | Value.Generator _ -> Value.fail "a generator has no end to begin from; make it a list"
        | value -> Array.rev (Value.items context.Work value)

    let private reverse (context: JinjaContext) (value: Value) =
        match value with
        | Value.Text text ->
            let out = context.Work.Builder()

            for character in Array.rev (Value.characters context.Work text) do
                out.Append character

            Value.Text(out.Finish())
        | Value.Generator _ -> Value.List(Array.rev (Value.items context.Work value))
        | value -> Value.generator (backward context value)

    let private sum (context: JinjaContext) value given =
        let arguments = Arguments("sum", [ "attribute"; "start" ], given)
        let over = over context arguments
        let add a b = JinjaOperators.apply context.Work Operator.Add a (over b)
        Array.fold add (arguments.Or("start", Value.whole 0)) (Value.items context.Work value)

    let private batch (context: JinjaContext) value given =
        let arguments = Arguments("batch", [ "linecount"; "fill_with" ], given)
        let count = arguments.Int("linecount", 0)

        if count < 1 || count > 100_000 then
            Value.fail "batch: linecount must be 1 to 100000"

        let fill = arguments.Or("fill_with", Value.None)

        Value.items context.Work value
        |> Array.chunkBySize count
        |> Array.map (fun line ->
            if fill.IsNone || line.Length = count then
                Value.List line
            else
                Value.List(context.Work.Made(Array.append line (Array.replicate (count - line.Length) fill))))
        |> Value.generator

    let private items (value: Value) =
        match value with
        | Value.Undefined _ -> Value.generator []
        | Value.Dict dict -> Value.generator (Value.pairs dict)
        | other -> Value.fail $"items is of dictionaries, not of a {Value.typeName other}"

    /// A filter by its name; None of others.
    let tryFind (name: string) : (JinjaContext -> Value -> Given -> Value) option =
        let plain (make: JinjaContext -> Value -> Value) =
            Some(fun context value given ->
                Arguments(name, [], given) |> ignore
                make context value)

        match name with
        | "length"
        | "count" -> plain (fun _ value -> Value.whole (Value.length value))
        | "list" -> plain (fun context value -> Value.List(Array.copy (Value.items context.Work value)))
        | "join" -> Some join
        | "first" -> plain first
        | "last" ->
            plain (fun context value ->
                match backward context value with
                | [||] -> Value.Undefined "the list is empty, it has no last"
                | items -> items[0])
        | "reverse" -> plain reverse
        | "items" -> plain (fun _ -> items)
        | "sort" -> Some sort
        | "dictsort" -> Some dictSort
        | "unique" -> Some unique
        | "min" -> Some(extreme name 1)
        | "max" -> Some(extreme name -1)
        | "sum" -> Some sum
        | "batch" -> Some batch
        | "map" -> Some map
        | "select" -> Some(select name false true)
        | "reject" -> Some(select name false false)
        | "selectattr" -> Some(select name true true)
        | "rejectattr" -> Some(select name true false)
        | "attr" ->
            Some(fun context value given ->
                let name' = Arguments(name, [ "name" ], given).Text "name"

                match value with
                | Value.Dict _ -> Value.Undefined $"a dict has no attribute {name'.Text}"
                | value -> JinjaAccess.attribute context.Work value name'.Text)
        | _ -> None
