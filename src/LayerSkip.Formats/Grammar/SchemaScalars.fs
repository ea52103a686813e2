namespace LayerSkip

open System.Text
open System.Text.Json

/// What a schema asks of values that hold no others, as automata.
[<RequireQualifiedAccess>]
module internal SchemaScalars =
    // With more, a number of 19 digits would take too many states.
    let private mostMultiple = 400

    /// An automaton; what is too large for one, or none, is refused with the place of its schema.
    let automaton (facts: SchemaFacts) keyword (make: unit -> Dfa) : Dfa =
        try
            make ()
        with PatternRefused what ->
            SchemaFault.refuse keyword facts.Place $"it has {what}; write a simpler one"

    /// The quoted texts in which a pattern is found, which is a keyword's.
    let matching (facts: SchemaFacts) (keyword: string) (pattern: string) : Dfa =
        automaton facts keyword (fun () ->
            EcmaPattern.search JsonText.character pattern |> JsonText.quoted |> Dfa.ofRegex)

    let private known (facts: SchemaFacts) (find: string -> Dfa option) (format: string) : Dfa =
        match find format with
        | Some dfa -> dfa
        | None ->
            let names = String.concat ", " StringFormats.names
            SchemaFault.refuse "format" facts.Place $"it is \"{format}\"; these are known: {names}"

    let private isBounded (facts: SchemaFacts) = facts.LeastLength > 0 || facts.MostLength >= 0

    /// Bounds, formats and patterns as automata of strings in their shortest spelling; none where nothing is said.
    let private spelled (facts: SchemaFacts) (formats: string -> Dfa option) : Dfa list = [
        if isBounded facts then
            automaton facts "maxLength" (fun () ->
                ByteRegex.Repeat(JsonText.character CodeRanges.all, facts.LeastLength, facts.MostLength)
                |> JsonText.quoted
                |> Dfa.ofRegex)

        yield! facts.Formats |> List.map (known facts formats)
        yield! facts.Patterns |> List.map (matching facts "pattern")
    ]

    /// Whether a schema speaks of a type that JSON has: integers are numbers.
    let isOf (kind: string) (facts: SchemaFacts) : bool =
        match facts.Types with
        | None -> true
        | Some types -> types.Contains kind || kind = "number" && types.Contains "integer"

    /// Texts without those of others, each value in one spelling.
    let private less (facts: SchemaFacts) (others: Dfa list) (from: Dfa) : Dfa =
        automaton facts "oneOf" (fun () -> List.fold Dfa.except from others)

    /// At least the strings that fit, in their shortest spelling.
    let private widestString (facts: SchemaFacts) : Dfa =
        match facts.Values with
        | Some values ->
            JsonText.shortestOf [
                for value in values do
                    if value.ValueKind = JsonValueKind.String then
                        value.GetString()
            ]
        | None ->
            automaton facts "pattern" (fun () ->
                spelled facts StringFormats.tryFindWider |> List.fold Dfa.both JsonText.shortest)

    /// The strings that we write, in their shortest spelling.
    let private shortestString (facts: SchemaFacts) : Dfa =
        automaton facts "pattern" (fun () ->
            spelled facts StringFormats.tryFind |> List.fold Dfa.both JsonText.shortest)
        |> less facts (facts.Without |> List.filter (isOf "string") |> List.map widestString)

    let private string (facts: SchemaFacts) : Dfa =
        if facts.MostLength >= 0 && facts.MostLength < facts.LeastLength then
            SchemaFault.refuse "maxLength" facts.Place $"it is less than minLength, {facts.LeastLength}"

        if facts.Without |> List.exists (isOf "string") then
            shortestString facts
        elif facts.Formats.IsEmpty && facts.Patterns.IsEmpty then
            if isBounded facts then
                Dfa.counting facts.LeastLength facts.MostLength JsonText.text
            else
                JsonText.text
        else
            automaton facts "pattern" (fun () -> List.reduce Dfa.both (spelled facts StringFormats.tryFind))

    /// Of multiples we write those of whole numbers, and those of 0.1, 0.01 and so on.
    let private numberOf (isInteger: bool) (facts: SchemaFacts) : Dfa =
        let isStep (multiple: PlainDecimal) = multiple.Whole = "0" && multiple.Fraction.TrimStart '0' = "1"

        let fraction =
            facts.Multiples
            |> List.filter isStep
            |> List.map _.Fraction.Length
            |> List.fold min (if isInteger then 0 else 17)

        let wholes = facts.Multiples |> List.filter (isStep >> not)

        for multiple in wholes do
            if
                multiple.Negative
                || multiple.Fraction <> ""
                || multiple.Whole = "0"
                || multiple.Whole.Length > 3
                || int multiple.Whole > mostMultiple
            then
                SchemaFault.refuse
                    "multipleOf"
                    facts.Place
                    $"it is {NumberRange.show multiple}; whole numbers from 1 to {mostMultiple}, and 0.1, 0.01 and so on, are"

        if not (SchemaFacts.isOfNumbers { facts with Without = [] }) then
            if isInteger then JsonText.integer else JsonText.number
        else
            // Digits enough for what the bounds tell apart.
            let fraction =
                if fraction < 17 then
                    fraction
                else
                    facts.Lower @ facts.Upper
                    |> List.map (fun (bound, _) -> bound.Fraction.Length + 1)
                    |> List.fold max 17

            let fraction = if wholes.IsEmpty then fraction else 0
            let ends = List.map Some >> fun ends -> if List.isEmpty ends then [ None ] else ends

            automaton facts "minimum" (fun () ->
                [
                    for least in ends facts.Lower do
                        for most in ends facts.Upper do
                            NumberRange.create least most fraction 1
                    for multiple in wholes do
                        NumberRange.create None None 0 (int multiple.Whole)
                ]
                |> List.reduce Dfa.both)

    /// The numbers that fit, in their shortest spelling.
    let rec private shortestNumber (facts: SchemaFacts) : Dfa =
        match facts.Values with
        | Some values ->
            JsonText.oneOf [
                for value in values do
                    if value.ValueKind = JsonValueKind.Number then
                        // One of more digits than we write is none that we write.
                        yield!
                            NumberRange.tryDecimal (value.GetRawText())
                            |> Option.map NumberRange.show
                            |> Option.toList
            ]
        | None ->
            let isInteger = facts.Types |> Option.exists (fun types -> not (types.Contains "number"))
            automaton facts "oneOf" (fun () -> Dfa.both JsonText.shortestNumber (numberOf isInteger facts))
            |> less facts (facts.Without |> List.filter (isOf "number") |> List.map shortestNumber)

    let private number (isInteger: bool) (facts: SchemaFacts) : Dfa =
        let all = numberOf isInteger facts

        match facts.Without |> List.filter (isOf "number") with
        | [] -> all
        | without ->
            automaton facts "oneOf" (fun () -> Dfa.both JsonText.shortestNumber all)
            |> less facts (List.map shortestNumber without)

    /// The texts of strings, numbers or integers; of another type None.
    let tryAutomaton (facts: SchemaFacts) (kind: string) : Dfa option =
        match kind with
        | "string" -> Some(string facts)
        | "number" -> Some(number false facts)
        | "integer" -> Some(number true facts)
        | _ -> None

    /// Whether no string, or number, is of both: what `a` has and what `b` may have.
    let areApart (kind: string) (a: SchemaFacts) (b: SchemaFacts) : bool =
        let ways () =
            match kind with
            | "string" -> Dfa.both (shortestString a) (widestString b)
            | _ -> Dfa.both (shortestNumber a) (shortestNumber b)

        (automaton a "oneOf" ways).IsNothing

    /// The type that JSON has a value under.
    let kindOf (value: JsonElement) =
        match value.ValueKind with
        | JsonValueKind.Object -> "object"
        | JsonValueKind.Array -> "array"
        | JsonValueKind.String -> "string"
        | JsonValueKind.Number -> "number"
        | JsonValueKind.Null -> "null"
        | _ -> "boolean"

    /// Whether a value is one that the rest of its schema allows, as far as we can tell it.
    let allows (facts: SchemaFacts) (types: Set<string>) (value: JsonElement) : bool =
        let kind = kindOf value
        let isWhole () =
            match NumberRange.tryDecimal (value.GetRawText()) with
            | Some number -> number.Fraction = ""
            | None -> false

        let isOf = types.Contains kind || (kind = "number" && types.Contains "integer" && isWhole ())

        match kind with
        | _ when not isOf -> false
        | "string" when SchemaFacts.isOfStrings facts ->
            (string facts).Matches(Encoding.UTF8.GetBytes(JsonText.quote (value.GetString())))
        | "number" when SchemaFacts.isOfNumbers facts ->
            match NumberRange.tryDecimal (value.GetRawText()) with
            | Some plain -> (number false facts).Matches(Encoding.UTF8.GetBytes(NumberRange.show plain))
            | None -> SchemaFault.refuse "enum" facts.Place "a number of it has too many digits"
        | "object" when SchemaFacts.isOfObjects facts ->
            SchemaFault.refuse "enum" facts.Place "an object of it has other rules beside it; leave those out"
        | "array" when SchemaFacts.isOfArrays facts ->
            SchemaFault.refuse "enum" facts.Place "an array of it has other rules beside it; leave those out"
        | _ -> true
