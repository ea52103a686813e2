namespace LayerSkip

open System.Collections.Generic
open System.Numerics
open System.Runtime.CompilerServices

/// Something that a template asks for and that Python's jinja2 would refuse too, or that we do not know: without the place.
exception internal JinjaError of what: string

/// What the template itself says against its messages: its raise_exception.
exception internal JinjaRefusal of why: string

/// How much a rendering may still do: a step a node, a character in sixteen of each text that is made, an item of each list.
[<Sealed>]
type internal Work(steps: int) =
    let mutable left = steps

    /// Takes so many steps; a fault where they are not left.
    member _.Spend(count: int) : unit =
        left <- left - count

        if left < 0 then
            raise (
                JinjaError
                    "the template does not come to an end: it takes more steps than any conversation needs"
            )

    /// Builder of a text of at most 32 Mi characters.
    member this.Builder() : MarkedBuilder =
        MarkedBuilder(1 <<< 25, fun () -> raise (JinjaError "a text grows beyond 32 Mi characters"))

    /// The steps of a text.
    member this.Made(text: Marked) : Marked =
        this.Spend(text.Text.Length / 16)
        text

    /// The steps of a list.
    member this.Made(items: 'T[]) : 'T[] =
        this.Spend items.Length
        items

/// A value of a template, as Python has it. Nothing changes but namespaces, generators and loops, as in jinja2's immutable sandbox.
[<NoEquality; NoComparison; RequireQualifiedAccess>]
type internal Value =
    /// With what is said to whoever uses it.
    | Undefined of what: string
    | None
    | Bool of bool
    | Int of BigInteger
    | Float of float
    | Text of Marked
    | List of Value[]
    | Tuple of Value[]
    | Dict of Dict
    /// A dictionary's keys, values or items: "dict_items".
    | View of name: string * items: Value[]
    | Range of start: BigInteger * stop: BigInteger * step: BigInteger
    /// What can be gone through once.
    | Generator of Queue<Value>
    | Namespace of Dictionary<string, Value>
    | Loop of Loop
    | Function of Function

/// A dictionary in the order of its keys.
and [<NoEquality; NoComparison>] internal Dict = {
    Keys: Value[]
    Values: Value[]
    /// Places by `Key.ofValue`.
    Index: Dictionary<string, int>
}

/// What a call gives.
and [<NoEquality; NoComparison>] internal Given = { Positional: Value list; Named: (string * Value) list }

and [<NoEquality; NoComparison>] internal Function = { Name: string; Invoke: Given -> Value }

/// Where a for stands.
and [<NoEquality; NoComparison>] internal Loop = {
    Items: Value[]
    mutable Index: int
    Depth: int
    /// What `changed` saw last.
    mutable Seen: Value list option
}

/// What Python calls things.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module internal Value =
    /// A trusted text.
    let text (text: string) : Value = Value.Text(Marked.trusted text)

    /// A whole number.
    let whole (value: int) : Value = Value.Int(BigInteger value)

    let typeName (value: Value) : string =
        match value with
        | Value.Undefined _ -> "Undefined"
        | Value.None -> "NoneType"
        | Value.Bool _ -> "bool"
        | Value.Int _ -> "int"
        | Value.Float _ -> "float"
        | Value.Text _ -> "str"
        | Value.List _ -> "list"
        | Value.Tuple _ -> "tuple"
        | Value.Dict _ -> "dict"
        | Value.View(name, _) -> name
        | Value.Range _ -> "range"
        | Value.Generator _ -> "generator"
        | Value.Namespace _ -> "Namespace"
        | Value.Loop _ -> "LoopContext"
        | Value.Function _ -> "function"

    /// A fault.
    let fail (what: string) : 'T = raise (JinjaError what)

    /// A number, where a value is one: True is 1.
    let tryWhole (value: Value) : BigInteger voption =
        match value with
        | Value.Int value -> ValueSome value
        | Value.Bool value -> ValueSome(if value then BigInteger.One else BigInteger.Zero)
        | _ -> ValueNone

    /// A number, where a value is one.
    let tryNumber (value: Value) : float voption =
        match value with
        | Value.Float value -> ValueSome value
        | value ->
            match tryWhole value with
            | ValueSome whole -> ValueSome(float whole)
            | ValueNone -> ValueNone

    /// How many numbers a range holds.
    let rangeLength (start: BigInteger) (stop: BigInteger) (step: BigInteger) : BigInteger =
        let span = if step.Sign > 0 then stop - start else start - stop
        let step = BigInteger.Abs step
        if span.Sign <= 0 then
            BigInteger.Zero
        else
            (span + step - BigInteger.One) / step

    let range (start: BigInteger) (stop: BigInteger) (step: BigInteger) : Value[] =
        Array.init (int (rangeLength start stop step)) (fun i -> Value.Int(start + step * BigInteger i))

    /// Python's truth.
    let isTrue (value: Value) : bool =
        match value with
        | Value.Undefined _
        | Value.None -> false
        | Value.Bool value -> value
        | Value.Int value -> not value.IsZero
        | Value.Float value -> value <> 0.0
        | Value.Text text -> text.Text <> ""
        | Value.List items
        | Value.Tuple items
        | Value.View(_, items) -> items.Length > 0
        | Value.Dict dict -> dict.Keys.Length > 0
        | Value.Range(start, stop, step) -> not (rangeLength start stop step).IsZero
        | Value.Generator _
        | Value.Namespace _
        | Value.Loop _
        | Value.Function _ -> true

    /// What is found in a dictionary under equal keys; unhashable values are a fault.
    let rec key (value: Value) : string =
        RuntimeHelpers.EnsureSufficientExecutionStack()

        match value with
        | Value.Text text -> "t" + text.Text
        | Value.None -> "none"
        | Value.Tuple items ->
            let keys = items |> Array.map key
            let all = keys |> Array.map (fun key -> $"{key.Length}:{key}") |> String.concat ""
            "(" + all
        | Value.Float value when value = floor value && abs value < 1e300 -> $"n{BigInteger value}"
        | Value.Float value -> "f" + value.ToString("R", System.Globalization.CultureInfo.InvariantCulture)
        | Value.Undefined _ -> "undefined"
        | value ->
            match tryWhole value with
            | ValueSome whole -> $"n{whole}"
            | ValueNone -> fail $"a {typeName value} cannot be the key of a dictionary"

    /// Of pairs in their order; of equal keys the first, with the last value, as in Python.
    let dict (pairs: seq<struct (Value * Value)>) : Dict =
        let index = Dictionary<string, int>()
        let keys, values = List<Value>(), List<Value>()

        for struct (name, value) in pairs do
            let place = key name

            match index.TryGetValue place with
            | true, at -> values[at] <- value
            | _ ->
                index[place] <- keys.Count
                keys.Add name
                values.Add value

        { Keys = keys.ToArray(); Values = values.ToArray(); Index = index }

    /// The value under a key.
    let tryFind (name: Value) (dict: Dict) : Value voption =
        match dict.Index.TryGetValue(key name) with
        | true, at -> ValueSome dict.Values[at]
        | _ -> ValueNone

    /// The pairs as tuples.
    let pairs (dict: Dict) : Value[] =
        Array.map2 (fun name value -> Value.Tuple [| name; value |]) dict.Keys dict.Values

    /// The code units [UTF-16] of each character, in order: places of the characters, and the length.
    let private points (text: string) : int[] = [|
        let mutable at = 0

        while at < text.Length do
            yield at
            at <-
                at
                + (if
                       System.Char.IsHighSurrogate text[at]
                       && at + 1 < text.Length
                       && System.Char.IsLowSurrogate text[at + 1]
                   then
                       2
                   else
                       1)

        yield text.Length
    |]

    let private isPlain (text: string) =
        not (
            System.MemoryExtensions.ContainsAnyInRange(
                System.MemoryExtensions.AsSpan text,
                '\uD800',
                '\uDFFF'
            )
        )

    /// How many characters a text has, counted as Python does, in code points.
    let textLength (text: string) : int =
        if isPlain text then
            text.Length
        else
            (points text).Length - 1

    /// From places in characters to places in code units.
    let unitAt (text: string) : int -> int =
        if isPlain text then
            id
        else
            let points = points text
            fun at -> points[at]

    /// From places in code units to places in characters.
    let pointAt (text: string) : int -> int =
        if isPlain text then
            id
        else
            let points = points text
            fun at -> System.Array.BinarySearch(points, at)

    /// The characters of a text, a text each.
    let characters (work: Work) (text: Marked) : Marked[] =
        let count = textLength text.Text
        work.Spend count
        let unit = unitAt text.Text
        Array.init count (fun i -> Marked.sub (unit i) (unit (i + 1) - unit i) text)

    /// What a for goes through.
    let items (work: Work) (value: Value) : Value[] =
        match value with
        | Value.Undefined _ -> [||]
        | Value.List items
        | Value.Tuple items
        | Value.View(_, items) -> items
        | Value.Dict dict -> dict.Keys
        | Value.Text text -> characters work text |> Array.map Value.Text
        | Value.Range(start, stop, step) ->
            work.Spend(int (rangeLength start stop step))
            range start stop step
        | Value.Generator queue ->
            let rest = queue.ToArray()
            queue.Clear()
            rest
        | Value.None
        | Value.Bool _
        | Value.Int _
        | Value.Float _
        | Value.Namespace _
        | Value.Loop _
        | Value.Function _ -> fail $"a {typeName value} cannot be gone through"

    /// Python's `len`.
    let length (value: Value) : int =
        match value with
        | Value.Undefined _ -> 0
        | Value.Text text -> textLength text.Text
        | Value.List items
        | Value.Tuple items
        | Value.View(_, items) -> items.Length
        | Value.Dict dict -> dict.Keys.Length
        | Value.Range(start, stop, step) -> int (rangeLength start stop step)
        | Value.Loop loop -> loop.Items.Length
        | Value.None
        | Value.Bool _
        | Value.Int _
        | Value.Float _
        | Value.Generator _
        | Value.Namespace _
        | Value.Function _ -> fail $"a {typeName value} has no length"

    /// What `map`, `select` and their like give.
    let generator (items: seq<Value>) : Value = Value.Generator(Queue items)
