namespace LayerSkip

open System
open System.Collections.Generic
open System.Text.Json

/// Reads the keywords of JSON Schema (draft 2020-12, and what of older drafts means the same): a schema becomes alternatives
/// of facts. A keyword that we do not know is refused with its place, but for annotations and names that begin with "x-".
[<Sealed>]
type internal SchemaReader(root: JsonElement) as this =
    static let mostAlternatives = 512
    static let mostCount = 1_000_000

    static let annotations =
        set [
            "title"
            "description"
            "default"
            "examples"
            "example"
            "deprecated"
            "readOnly"
            "writeOnly"
            "$comment"
            "$schema"
            "$id"
            "id"
            "$defs"
            "definitions"
            "contentEncoding"
            "contentMediaType"
            "discriminator"
        ]

    static let combining = set [ "$ref"; "allOf"; "anyOf"; "oneOf" ]

    let mutable read = 0
    let apart = SchemaApart(fun nodes -> this.Alternatives nodes)

    static member private Step (node: SchemaNode) (steps: string) (element: JsonElement) : SchemaNode = {
        Place = $"{node.Place}/{steps}"
        Element = element
        IsDenied = false
    }

    static member private Escaped(name: string) = name.Replace("~", "~0").Replace("/", "~1")

    static member private Count (place: string) (element: JsonElement) : int =
        match element.ValueKind = JsonValueKind.Number, NumberRange.tryDecimal (element.GetRawText()) with
        | true, Some { Negative = false; Whole = whole; Fraction = "" } when
            whole.Length < 8 && int whole <= mostCount
            ->
            int whole
        | _ ->
            SchemaFault.bad
                place
                $"is {element.GetRawText()}, it must be a whole number from 0 to {mostCount}"

    static member private Decimal (place: string) (element: JsonElement) : PlainDecimal =
        match element.ValueKind with
        | JsonValueKind.Number ->
            match NumberRange.tryDecimal (element.GetRawText()) with
            | Some value -> value
            | None ->
                SchemaFault.bad place $"is {element.GetRawText()}, it must have fewer than a hundred digits"
        | _ -> SchemaFault.bad place "must be a number"

    static member private Text (place: string) (element: JsonElement) : string =
        if element.ValueKind = JsonValueKind.String then
            element.GetString()
        else
            SchemaFault.bad place "must be a text"

    static member private Items (place: string) (element: JsonElement) : JsonElement list =
        if element.ValueKind = JsonValueKind.Array then
            List.ofSeq (element.EnumerateArray())
        else
            SchemaFault.bad place "must be a list"

    static member private Fields (place: string) (element: JsonElement) : (string * JsonElement) list =
        if element.ValueKind <> JsonValueKind.Object then
            SchemaFault.bad place "must be an object"

        // Of a name that stands twice the last counts.
        let fields = [ for field in element.EnumerateObject() -> field.Name, field.Value ]
        let last = Map.ofList fields
        fields |> List.map fst |> List.distinct |> List.map (fun name -> name, last[name])

    static member private Types (place: string) (element: JsonElement) : Set<string> =
        let names =
            match element.ValueKind with
            | JsonValueKind.Array -> SchemaReader.Items place element |> List.map (SchemaReader.Text place)
            | _ -> [ SchemaReader.Text place element ]

        for name in names do
            if not (SchemaFacts.allTypes.Contains name || name = "integer") then
                SchemaFault.bad
                    place
                    $"is \"{name}\", it must be object, array, string, number, integer, boolean or null"

        if names.IsEmpty then
            SchemaFault.bad place "is empty; name a type"

        let types = set names
        if types.Contains "number" then
            types.Remove "integer"
        else
            types

    static member private Extra (node: SchemaNode) (keyword: string) (element: JsonElement) : SchemaExtra =
        match element.ValueKind with
        | JsonValueKind.False -> SchemaExtra.Never
        | _ -> SchemaExtra.All [ SchemaReader.Step node keyword element ]

    static member private Named (node: SchemaNode) (keyword: string) (element: JsonElement) =
        SchemaReader.Fields $"{node.Place}/{keyword}" element
        |> List.map (fun (name, element) ->
            name, SchemaReader.Step node $"{keyword}/{SchemaReader.Escaped name}" element)

    static member private Keyword
        (node: SchemaNode)
        (facts: SchemaFacts)
        (keyword: string, element: JsonElement)
        : SchemaFacts =
        let place = $"{node.Place}/{keyword}"
        let count () = SchemaReader.Count place element
        let bound isExcluded = SchemaReader.Decimal place element, isExcluded

        match keyword with
        | "type" -> { facts with Types = Some(SchemaReader.Types place element) }
        | "enum" -> { facts with Values = Some(SchemaReader.Items place element) }
        | "const" -> { facts with Values = Some [ element ] }
        | "properties" ->
            let properties =
                SchemaReader.Named node keyword element
                |> List.map (fun (name, schema) -> name, [ schema ])
            { facts with Properties = properties; NamesProperties = true }
        | "required" ->
            let names = SchemaReader.Items place element |> List.map (SchemaReader.Text place)
            { facts with Required = List.distinct names }
        | "additionalProperties" -> { facts with Additional = SchemaReader.Extra node keyword element }
        | "patternProperties" -> { facts with Patterned = SchemaReader.Named node keyword element }
        | "minProperties" -> { facts with LeastProperties = count () }
        | "maxProperties" -> { facts with MostProperties = count () }
        | "prefixItems" ->
            let items =
                SchemaReader.Items place element
                |> List.mapi (fun i item -> [ SchemaReader.Step node $"{keyword}/{i}" item ])
            { facts with Prefix = items }
        | "items" when element.ValueKind = JsonValueKind.Array ->
            SchemaFault.refuse keyword node.Place "as a list it is an older draft's; write prefixItems"
        | "items" -> { facts with Items = SchemaReader.Extra node keyword element }
        | "minItems" -> { facts with LeastItems = count () }
        | "maxItems" -> { facts with MostItems = count () }
        | "uniqueItems" when element.ValueKind = JsonValueKind.False -> facts
        | "minLength" -> { facts with LeastLength = count () }
        | "maxLength" -> { facts with MostLength = count () }
        | "pattern" -> { facts with Patterns = [ SchemaReader.Text place element ] }
        | "format" -> { facts with Formats = [ SchemaReader.Text place element ] }
        | "minimum" -> { facts with Lower = bound false :: facts.Lower }
        | "exclusiveMinimum" -> { facts with Lower = bound true :: facts.Lower }
        | "maximum" -> { facts with Upper = bound false :: facts.Upper }
        | "exclusiveMaximum" -> { facts with Upper = bound true :: facts.Upper }
        | "multipleOf" -> { facts with Multiples = [ SchemaReader.Decimal place element ] }
        | _ when combining.Contains keyword || annotations.Contains keyword -> facts
        | _ when keyword.StartsWith("x-", StringComparison.Ordinal) -> facts
        | _ ->
            SchemaFault.refuse
                keyword
                node.Place
                "leave it out, or say it by type, properties, items, enum, anyOf, pattern and bounds"

    /// The schema that a reference names.
    member private _.Resolve (place: string) (pointer: string) : SchemaNode =
        if pointer <> "#" && not (pointer.StartsWith("#/", StringComparison.Ordinal)) then
            SchemaFault.refuse
                "$ref"
                place
                $"it names {pointer}, which is outside the document; put it under $defs"

        let steps =
            pointer.Split '/'
            |> List.ofArray
            |> List.tail
            |> List.map (fun step -> Uri.UnescapeDataString(step).Replace("~1", "/").Replace("~0", "~"))

        let missing () : JsonElement = SchemaFault.bad $"{place}/$ref" $"names {pointer}, which is not there"

        let step (element: JsonElement) (name: string) =
            match element.ValueKind with
            | JsonValueKind.Object ->
                match element.TryGetProperty name with
                | true, found -> found
                | _ -> missing ()
            | JsonValueKind.Array ->
                match Number.tryWhole name with
                | Some index when index >= 0 && index < element.GetArrayLength() -> element[index]
                | _ -> missing ()
            | _ -> missing ()

        {
            Place =
                steps
                |> List.map SchemaReader.Escaped
                |> List.fold (fun place step -> $"{place}/{step}") "#"
            Element = List.fold step root steps
            IsDenied = false
        }

    /// The schema itself, where this one is a mere reference to it.
    member this.Follow(node: SchemaNode) : SchemaNode =
        let rec follow seen (node: SchemaNode) =
            match node.Element.ValueKind with
            | JsonValueKind.Object ->
                let says =
                    node.Element.EnumerateObject()
                    |> Seq.filter (fun field -> not (annotations.Contains field.Name))
                    |> List.ofSeq

                match says with
                | [ one ] when one.Name = "$ref" && one.Value.ValueKind = JsonValueKind.String ->
                    let target = this.Resolve node.Place (one.Value.GetString())
                    if Set.contains target.Place seen then
                        SchemaFault.bad node.Place "refers to itself, and says nothing else"
                    follow (seen.Add target.Place) { target with IsDenied = node.IsDenied }
                | _ -> node
            | _ -> node

        follow (set [ node.Place ]) node

    member private _.Product (place: string) (a: SchemaFacts list) (b: SchemaFacts list) : SchemaFacts list =
        if a.Length * b.Length > mostAlternatives then
            SchemaFault.refuse "anyOf" place $"its combinations are more than {mostAlternatives}; write fewer"

        [
            for a in a do
                for b in b do
                    yield! Option.toList (SchemaFacts.both a b)
        ]

    /// What a schema allows, or where it is denied does not: one of these, none where nothing. `within` are the places that are being read.
    member private this.Read (within: Set<string>) (node: SchemaNode) : SchemaFacts list =
        if node.IsDenied then
            this.Allowed within { node with IsDenied = false } |> apart.Denied node.Place
        else
            this.Allowed within node

    member private this.Allowed (within: Set<string>) (node: SchemaNode) : SchemaFacts list =
        read <- read + 1
        if read > 100_000 then
            SchemaFault.bad node.Place "makes the schema too large; write less of anyOf and allOf"
        if within.Contains node.Place then
            SchemaFault.bad
                node.Place
                "refers to itself before it says anything; put the reference into a property or an item"
        let within = within.Add node.Place

        match node.Element.ValueKind with
        | JsonValueKind.True -> [ SchemaFacts.any node.Place ]
        | JsonValueKind.False -> []
        | JsonValueKind.Object ->
            let fields = SchemaReader.Fields node.Place node.Element
            let own = fields |> List.fold (SchemaReader.Keyword node) (SchemaFacts.any node.Place)

            let each keyword (element: JsonElement) =
                let items = SchemaReader.Items $"{node.Place}/{keyword}" element
                if items.IsEmpty then
                    SchemaFault.bad $"{node.Place}/{keyword}" "is empty; leave it out"
                items
                |> List.mapi (fun i item -> this.Read within (SchemaReader.Step node $"{keyword}/{i}" item))

            let combine alternatives (keyword, element: JsonElement) =
                match keyword with
                | "$ref" ->
                    this.Resolve node.Place (SchemaReader.Text $"{node.Place}/$ref" element)
                    |> this.Read within
                    |> this.Product node.Place alternatives
                | "allOf" -> each keyword element |> List.fold (this.Product node.Place) alternatives
                | "anyOf" -> each keyword element |> List.concat |> this.Product node.Place alternatives
                | "oneOf" ->
                    each keyword element
                    |> apart.ExactlyOne $"{node.Place}/{keyword}"
                    |> this.Product node.Place alternatives
                | _ -> alternatives

            fields |> List.fold combine [ own ]
        | _ -> SchemaFault.bad node.Place "is no schema: it must be an object, true or false"

    /// What holds of a value that all of the schemas allow: one of these.
    member this.Alternatives(nodes: SchemaNode list) : SchemaFacts list =
        let place = nodes |> List.tryHead |> Option.map _.Place |> Option.defaultValue "#"
        nodes
        |> List.map (this.Read Set.empty)
        |> List.fold (this.Product place) [ SchemaFacts.any place ]
