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

    /// Any value of these schemas.
    member this.Part(nodes: SchemaNode list) : GrammarPart =
        let nodes =
            nodes
            |> List.map reader.Follow
            |> List.filter (fun node -> node.IsDenied || node.Element.ValueKind <> JsonValueKind.True)
            |> List.distinctBy _.Key

        if nodes.IsEmpty then
            JsonParts.any
        else
            let key = nodes |> List.map _.Key |> String.concat " "

            match rules.TryGetValue key with
            | true, rule -> GrammarPart.Rule rule
            | _ ->
                let rule = GrammarRule key
                rules[key] <- rule
                pending.Enqueue(struct (rule, nodes))
                GrammarPart.Rule rule

    member private this.Extra(extra: SchemaExtra) : GrammarPart option =
        SchemaFacts.unnamed extra |> Option.map this.Part

    /// Names of patternProperties with their values; a name of two patterns would have to be of both.
    member private this.Patterned(facts: SchemaFacts) : (Dfa * GrammarPart) list =
        let named =
            facts.Patterned
            |> List.map (fun (pattern, node) ->
                SchemaScalars.matching facts "patternProperties" pattern, this.Part [ node ])

        let names =
            List.map fst named
            @ (facts.Properties |> List.map (fun (name, _) -> JsonText.literal (JsonText.quote name)))

        for i in 0 .. facts.Patterned.Length - 1 do
            for j in i + 1 .. names.Length - 1 do
                if not (Dfa.both names[i] names[j]).IsNothing then
                    SchemaFault.refuse
                        "patternProperties"
                        facts.Place
                        "a name may be of two of its patterns or properties"

        named

    member private this.Object(facts: SchemaFacts) : GrammarPart =
        let required =
            facts.Required
            |> List.filter (fun name -> not (List.exists (fun (known, _) -> known = name) facts.Properties))

        if not (required.IsEmpty || facts.Patterned.IsEmpty) then
            SchemaFault.refuse "required" facts.Place $"{required.Head} is not among the properties"

        let unnamed = SchemaFacts.unnamed facts.Additional

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
            List.fold Dfa.except JsonText.shortest named

        let pairs = [
            for name, value in patterned do
                JsonParts.pair name value
            for value in Option.toList others do
                let name =
                    if properties.IsEmpty && patterned.IsEmpty then
                        JsonText.text
                    else
                        SchemaScalars.automaton facts "additionalProperties" otherName

                JsonParts.pair name value
        ]

        let least, most = facts.LeastProperties, facts.MostProperties

        if properties.IsEmpty then
            match pairs with
            | [] when least > 0 -> GrammarPart.Either []
            | [] -> JsonParts.object [] None
            // Were a name there twice, there would be too few.
            | _ when least > 1 ->
                SchemaFault.refuse "minProperties" facts.Place "above 1 it needs properties that are named"
            | pairs -> JsonParts.mapOf (GrammarPart.Either pairs) least most
        else
            if least > facts.Required.Length then
                SchemaFault.refuse
                    "minProperties"
                    facts.Place
                    "it asks for more than are required; name those under required"
            if most >= 0 && (most < properties.Length || not pairs.IsEmpty) then
                SchemaFault.refuse
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
            SchemaFault.refuse "maxItems" facts.Place $"it is less than minItems, {least}"

        match facts.Prefix, this.Extra facts.Items with
        | [], Some item -> JsonParts.arrayOf item least most
        | prefix, rest -> JsonParts.tuple (prefix |> List.map this.Part) rest least most

    member private this.Of(facts: SchemaFacts) : GrammarPart =
        let types = SchemaFacts.types facts

        match facts.Values with
        | Some values ->
            let isNested (value: JsonElement) =
                value.ValueKind = JsonValueKind.Object || value.ValueKind = JsonValueKind.Array
            let nested, scalars =
                values |> List.filter (SchemaScalars.allows facts types) |> List.partition isNested

            GrammarPart.Either [
                if not scalars.IsEmpty then
                    GrammarPart.Text(
                        SchemaScalars.automaton facts "enum" (fun () ->
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
                    | kind -> GrammarPart.Text (SchemaScalars.tryAutomaton facts kind).Value
            ]

    /// The rules that were asked for, and those that they ask for.
    member this.Complete() : unit =
        while pending.Count > 0 do
            let struct (rule, nodes) = pending.Dequeue()

            if rules.Count > 50_000 then
                SchemaFault.bad rule.Name "makes the schema too large"

            rule.Body <- reader.Alternatives nodes |> List.map this.Of |> GrammarPart.Either

/// Grammars of JSON that a schema allows.
[<RequireQualifiedAccess>]
module JsonSchemaGrammar =
    let private mostLength = 1 <<< 20

    /// The JSON texts that a JSON schema (draft 2020-12) allows, as far as a grammar can tell: properties come in the order of
    /// the schema, as OpenAI's strict mode has it, with no white space but for at most one space after a colon or comma; an
    /// object whose schema has a list of properties and does not speak of additionalProperties has no others; where
    /// no type is said it is told by the other keywords. Every text of the grammar is valid for the schema, but that a name
    /// may stand twice among additional properties. Errors: what is no JSON or no schema, a keyword that we do not serve, or a oneOf
    /// whose alternatives we cannot tell apart, by its name and place; a schema that nothing fits; one that is too large (1 MiB, or automata of more than 16,384
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
                    let root =
                        compiler.Part [ { Place = "#"; Element = document.RootElement; IsDenied = false } ]
                    compiler.Complete()

                    match GrammarPart.tryGrammar root with
                    | Some grammar -> Ok grammar
                    | None -> fault "no text is valid for it; let it allow something")
