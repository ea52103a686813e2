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
            SchemaReader.Refuse keyword facts.Place $"it has {what}; write a simpler one"

    /// The quoted texts in which a pattern is found, which is a keyword's.
    let matching (facts: SchemaFacts) (keyword: string) (pattern: string) : Dfa =
        automaton facts keyword (fun () ->
            EcmaPattern.search JsonText.character pattern |> JsonText.quoted |> Dfa.ofRegex)

    let private string (facts: SchemaFacts) : Dfa =
        let known (format: string) =
            match StringFormats.tryFind format with
            | Some dfa -> dfa
            | None ->
                let names = String.concat ", " StringFormats.names
                SchemaReader.Refuse "format" facts.Place $"it is \"{format}\"; these are known: {names}"

        let isBounded = facts.LeastLength > 0 || facts.MostLength >= 0

        if facts.MostLength >= 0 && facts.MostLength < facts.LeastLength then
            SchemaReader.Refuse "maxLength" facts.Place $"it is less than minLength, {facts.LeastLength}"

        match List.map known facts.Formats @ List.map (matching facts "pattern") facts.Patterns with
        | [] when isBounded -> Dfa.counting facts.LeastLength facts.MostLength JsonText.text
        | [] -> JsonText.text
        | several ->
            let several =
                if isBounded then
                    automaton facts "maxLength" (fun () ->
                        ByteRegex.Repeat(
                            JsonText.character CodeRanges.all,
                            facts.LeastLength,
                            facts.MostLength
                        )
                        |> JsonText.quoted
                        |> Dfa.ofRegex)
                    :: several
                else
                    several

            automaton facts "pattern" (fun () -> List.reduce Dfa.both several)

    /// Of multiples we write those of whole numbers, and those of 0.1, 0.01 and so on.
    let private number (isInteger: bool) (facts: SchemaFacts) : Dfa =
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
                SchemaReader.Refuse
                    "multipleOf"
                    facts.Place
                    $"it is {NumberRange.show multiple}; whole numbers from 1 to {mostMultiple}, and 0.1, 0.01 and so on, are"

        if not (SchemaFacts.isOfNumbers facts) then
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

    /// The texts of strings, numbers or integers; of another type None.
    let tryAutomaton (facts: SchemaFacts) (kind: string) : Dfa option =
        match kind with
        | "string" -> Some(string facts)
        | "number" -> Some(number false facts)
        | "integer" -> Some(number true facts)
        | _ -> None

    let private kindOf (value: JsonElement) =
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
            | None -> SchemaReader.Refuse "enum" facts.Place "a number of it has too many digits"
        | "object" when SchemaFacts.isOfObjects facts ->
            SchemaReader.Refuse
                "enum"
                facts.Place
                "an object of it has other rules beside it; leave those out"
        | "array" when SchemaFacts.isOfArrays facts ->
            SchemaReader.Refuse "enum" facts.Place "an array of it has other rules beside it; leave those out"
        | _ -> true
