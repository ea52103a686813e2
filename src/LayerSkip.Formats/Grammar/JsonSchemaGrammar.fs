namespace LayerSkip

open System
open System.Collections.Generic
open System.Text
open System.Text.Json

/// Makes parts of a grammar from what a schema asks for.
[<Sealed>]
type private SchemaCompiler(root: JsonElement) =
    let reader = SchemaReader root
    let rules = Dictionary<string, GrammarRule>()
    let pending = Queue<struct (GrammarRule * SchemaNode list)>()

    /// An automaton, or the place of the schema that it is too large for, or not to be made.
    let automaton (facts: SchemaFacts) keyword (make: unit -> Dfa) : Dfa =
        try
            make ()
        with PatternRefused what ->
            SchemaReader.Refuse keyword facts.Place $"it has {what}; write a simpler one"

    let string (facts: SchemaFacts) : Dfa =
        let known (format: string) =
            match StringFormats.tryFind format with
            | Some dfa -> dfa
            | None ->
                let names = String.concat ", " StringFormats.names
                SchemaReader.Refuse "format" facts.Place $"it is \"{format}\"; these are known: {names}"

        let patterned (pattern: string) =
            automaton facts "pattern" (fun () ->
                EcmaPattern.search JsonText.character pattern |> JsonText.quoted |> Dfa.ofRegex)

        let isBounded = facts.LeastLength > 0 || facts.MostLength >= 0

        if facts.MostLength >= 0 && facts.MostLength < facts.LeastLength then
            SchemaReader.Refuse "maxLength" facts.Place $"it is less than minLength, {facts.LeastLength}"

        match List.map known facts.Formats @ List.map patterned facts.Patterns with
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
    let number (isInteger: bool) (facts: SchemaFacts) : Dfa =
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
            then
                SchemaReader.Refuse
                    "multipleOf"
                    facts.Place
                    $"it is {NumberRange.show multiple}; whole numbers from 1 to 999, and 0.1, 0.01 and so on, are"

        let isAnything = facts.Lower.IsEmpty && facts.Upper.IsEmpty && facts.Multiples.IsEmpty

        if isAnything then
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

    let scalar (facts: SchemaFacts) (kind: string) : Dfa option =
        match kind with
        | "string" -> Some(string facts)
        | "number" -> Some(number false facts)
        | "integer" -> Some(number true facts)
        | _ -> None

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
            | None -> SchemaReader.Refuse "enum" facts.Place "a number of it has too many digits"
        | "object" when SchemaFacts.isOfObjects facts ->
            SchemaReader.Refuse
                "enum"
                facts.Place
                "an object of it has other rules beside it; leave those out"
        | "array" when SchemaFacts.isOfArrays facts ->
            SchemaReader.Refuse "enum" facts.Place "an array of it has other rules beside it; leave those out"
        | _ -> true

    /// Any value of these schemas.
    member this.Part(nodes: SchemaNode list) : GrammarPart =
        let nodes =
            nodes
            |> List.map reader.Follow
            |> List.filter (fun node -> node.Element.ValueKind <> JsonValueKind.True)
            |> List.distinctBy _.Place

        if nodes.IsEmpty then
            JsonParts.any
        else
            let key = nodes |> List.map _.Place |> String.concat " "

            match rules.TryGetValue key with
            | true, rule -> GrammarPart.Rule rule
            | _ ->
                let rule = GrammarRule key
                rules[key] <- rule
                pending.Enqueue(struct (rule, nodes))
                GrammarPart.Rule rule

    member private this.Extra(extra: SchemaExtra) : GrammarPart option =
        match extra with
        | SchemaExtra.Never -> None
        | SchemaExtra.Unsaid -> Some(this.Part [])
        | SchemaExtra.All nodes -> Some(this.Part nodes)

    /// Names of patternProperties with their values; a name of two patterns would have to be of both.
    member private this.Patterned(facts: SchemaFacts) : (Dfa * GrammarPart) list =
        let named =
            facts.Patterned
            |> List.map (fun (pattern, node) ->
                let name =
                    automaton facts "patternProperties" (fun () ->
                        EcmaPattern.search JsonText.character pattern |> JsonText.quoted |> Dfa.ofRegex)

                name, this.Part [ node ])

        let names =
            List.map fst named
            @ (facts.Properties |> List.map (fun (name, _) -> JsonText.literal (JsonText.quote name)))

        for i in 0 .. facts.Patterned.Length - 1 do
            for j in i + 1 .. names.Length - 1 do
                if not (Dfa.both names[i] names[j]).IsNothing then
                    SchemaReader.Refuse
                        "patternProperties"
                        facts.Place
                        "a name may be of two of its patterns or properties"

        named

    member private this.Object(facts: SchemaFacts) : GrammarPart =
        let required =
            facts.Required
            |> List.filter (fun name -> not (List.exists (fun (known, _) -> known = name) facts.Properties))

        if not (required.IsEmpty || facts.Patterned.IsEmpty) then
            SchemaReader.Refuse "required" facts.Place $"{required.Head} is not among the properties"

        let unnamed =
            match facts.Additional with
            | SchemaExtra.Unsaid -> Some []
            | SchemaExtra.Never -> None
            | SchemaExtra.All nodes -> Some nodes

        let properties =
            (facts.Properties |> List.map (fun (name, nodes) -> name, Some nodes))
            @ (required |> List.map (fun name -> name, unnamed))

        let parts =
            properties
            |> List.map (fun (name, nodes) ->
                let value =
                    match nodes with
                    | Some nodes -> this.Part nodes
                    | None -> GrammarPart.Either []

                name, value, List.contains name facts.Required)

        let patterned = this.Patterned facts

        // What names its properties is closed, unless it says that it is open.
        let others =
            match facts.Additional with
            | SchemaExtra.Unsaid when facts.NamesProperties || not (required.IsEmpty && patterned.IsEmpty) ->
                None
            | extra -> this.Extra extra

        let otherName () =
            let named =
                JsonText.oneOf (properties |> List.map (fst >> JsonText.quote)) :: List.map fst patterned

            // A name may be spelled in many ways: the ones that are taken are told by the shortest, so names use it.
            let shortest =
                ByteRegex.Repeat(JsonText.character CodeRanges.all, 0, -1)
                |> JsonText.quoted
                |> Dfa.ofRegex

            List.fold Dfa.except shortest named

        let pairs = [
            for name, value in patterned do
                JsonParts.pair name value
            for value in Option.toList others do
                let name =
                    if properties.IsEmpty && patterned.IsEmpty then
                        JsonText.text
                    else
                        automaton facts "additionalProperties" otherName

                JsonParts.pair name value
        ]

        let least, most = facts.LeastProperties, facts.MostProperties

        if properties.IsEmpty then
            match pairs with
            | [] when least > 0 -> GrammarPart.Either []
            | [] -> JsonParts.object [] None
            // Were a name there twice, there would be too few.
            | _ when least > 1 ->
                SchemaReader.Refuse "minProperties" facts.Place "above 1 it needs properties that are named"
            | pairs -> JsonParts.mapOf (GrammarPart.Either pairs) least most
        else
            if least > facts.Required.Length then
                SchemaReader.Refuse
                    "minProperties"
                    facts.Place
                    "it asks for more than are required; name those under required"
            if most >= 0 && (most < properties.Length || not pairs.IsEmpty) then
                SchemaReader.Refuse
                    "maxProperties"
                    facts.Place
                    "it is less than its properties could be; leave it out"

            JsonParts.object
                parts
                (if pairs.IsEmpty then
                     None
                 else
                     Some(GrammarPart.Either pairs))

    member private this.Array(facts: SchemaFacts) : GrammarPart =
        let least, most = facts.LeastItems, facts.MostItems

        if most >= 0 && most < least then
            SchemaReader.Refuse "maxItems" facts.Place $"it is less than minItems, {least}"

        match facts.Prefix, this.Extra facts.Items with
        | [], Some item -> JsonParts.arrayOf item least most
        | prefix, rest -> JsonParts.tuple (prefix |> List.map this.Part) rest least most

    member private this.Of(facts: SchemaFacts) : GrammarPart =
        let types = SchemaFacts.types facts

        match facts.Values with
        | Some values ->
            let isNested (value: JsonElement) =
                value.ValueKind = JsonValueKind.Object || value.ValueKind = JsonValueKind.Array
            let nested, scalars = values |> List.filter (allows facts types) |> List.partition isNested

            GrammarPart.Either [
                if not scalars.IsEmpty then
                    GrammarPart.Text(
                        automaton facts "enum" (fun () ->
                            scalars |> List.map JsonParts.scalar |> JsonText.oneOf)
                    )
                yield! nested |> List.map JsonParts.value
            ]
        | None ->
            GrammarPart.Either [
                for kind in types do
                    match kind with
                    | "object" -> this.Object facts
                    | "array" -> this.Array facts
                    | "boolean" -> JsonParts.boolean
                    | "null" -> JsonParts.nothing
                    | kind -> GrammarPart.Text (scalar facts kind).Value
            ]

    /// The rules that were asked for, and those that they ask for.
    member this.Complete() : unit =
        while pending.Count > 0 do
            let struct (rule, nodes) = pending.Dequeue()

            if rules.Count > 50_000 then
                SchemaReader.Bad rule.Name "makes the schema too large"

            rule.Body <- reader.Alternatives nodes |> List.map this.Of |> GrammarPart.Either

/// Grammars of JSON that a schema allows.
[<RequireQualifiedAccess>]
module JsonSchemaGrammar =
    let private mostLength = 1 <<< 20

    /// The JSON texts that a JSON schema (draft 2020-12) allows, as far as a grammar can tell: properties come in the order of
    /// the schema, as OpenAI's strict mode has it, with no white space but for at most one space after a colon or comma; an
    /// object whose schema has a list of properties and does not speak of additionalProperties has no others; oneOf is anyOf; where
    /// no type is said it is told by the other keywords. Every text of the grammar is valid for the schema, but that a name
    /// may stand twice among additional properties. Errors: what is no JSON or no schema, a keyword that we do not serve, by
    /// its name and place; a schema that nothing fits; one that is too large (1 MiB, or automata of more than 16,384
    /// states).
    let compile (schema: string) : Result<Grammar, LayerSkipError list> =
        let fault what = Check.bad "JSON schema" what

        if schema.Length > mostLength then
            fault $"more than {mostLength} characters; write a shorter one"
        else
            match Json.parse (Encoding.UTF8.GetBytes schema) with
            | Error what -> fault what
            | Ok document ->
                use document = document

                Check.guard (fun () ->
                    let compiler = SchemaCompiler document.RootElement
                    let root = compiler.Part [ { Place = "#"; Element = document.RootElement } ]
                    compiler.Complete()

                    match GrammarPart.tryGrammar root with
                    | Some grammar -> Ok grammar
                    | None -> fault "no text is valid for it; let it allow something")
