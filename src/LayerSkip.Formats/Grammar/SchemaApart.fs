namespace LayerSkip

open System.Collections.Generic
open System.Text.Json

/// Tells schemas apart, for oneOf: whether a value can fit two, and what fits one and not another. Where that takes more than facts can say, less is
/// said: what comes of it holds only of values that are meant, though maybe not of all. `read` gives the alternatives of what several schemas
/// hold of together.
[<Sealed>]
type internal SchemaApart(read: SchemaNode list -> SchemaFacts list) =
    static let mostAlternatives, mostDepth = 512, 3

    static let element (json: string) = JsonDocument.Parse(json).RootElement
    static let never = { Place = "#never"; Element = element "false"; IsDenied = false }

    let known = Dictionary<string, bool>()
    let mutable depth = 0

    // Of b no keyword tells its type: what is not said is allowed.
    let types (facts: SchemaFacts) = facts.Types |> Option.defaultValue SchemaFacts.allTypes

    let kinds (facts: SchemaFacts) =
        types facts |> Set.map (fun name -> if name = "integer" then "number" else name)

    let isUnsure (value: JsonElement) =
        value.ValueKind = JsonValueKind.Object || value.ValueKind = JsonValueKind.Array

    /// Whether a value may be one that facts allow, so far as can be told; what holds others is not looked into.
    let mayFit (facts: SchemaFacts) (value: JsonElement) : bool =
        match facts.Values with
        | Some values -> values |> List.exists (fun other -> JsonElement.DeepEquals(value, other))
        | None when not (SchemaScalars.isOf (SchemaScalars.kindOf value) facts) -> false
        | None when isUnsure value || not facts.Formats.IsEmpty -> true
        | None -> SchemaScalars.allows facts (types facts) value

    /// `a` with those of these values that `b` has not.
    let among (a: SchemaFacts) (b: SchemaFacts) (values: JsonElement list) : SchemaFacts list =
        match List.filter (mayFit b >> not) values with
        | [] -> []
        | values -> [ { a with Values = Some values } ]

    /// Of numbers beyond those that are compared.
    let isVast (facts: SchemaFacts) =
        facts.Lower @ facts.Upper
        |> List.exists (fun (bound, _) -> bound.Whole.Length > 18 || bound.Fraction.Length > 16)

    let areLengthsApart (leastA, mostA) (leastB, mostB) =
        mostA >= 0 && mostA < leastB || mostB >= 0 && mostB < leastA

    /// Whether nothing is said of a type's values but that they may be there.
    let isFree (kind: string) (facts: SchemaFacts) =
        facts.Values.IsNone
        && (match kind with
            | "object" -> not (SchemaFacts.isOfObjects facts)
            | "array" -> not (SchemaFacts.isOfArrays facts)
            | "string" -> not (SchemaFacts.isOfStrings facts)
            | "number" -> not (SchemaFacts.isOfNumbers facts) && (types facts).Contains "number"
            | "integer" -> not (SchemaFacts.isOfNumbers facts)
            | _ -> true)

    /// What a schema asks of a property or an item; None where it may not be.
    let ofProperty (facts: SchemaFacts) name =
        match facts.Properties |> List.tryFind (fun (known, _) -> known = name) with
        | Some(_, nodes) -> Some nodes
        // A pattern may allow it.
        | None when not facts.Patterned.IsEmpty -> Some []
        | None -> SchemaFacts.unnamed facts.Additional

    let ofItem (facts: SchemaFacts) place =
        match List.tryItem place facts.Prefix with
        | Some nodes -> Some nodes
        | None -> SchemaFacts.unnamed facts.Items

    let deny (node: SchemaNode) = { node with IsDenied = not node.IsDenied }

    // Closed, though it does not say so: its text has no other properties (`SchemaCompiler.Object`).
    let isClosed (facts: SchemaFacts) = facts.NamesProperties && facts.Additional.IsUnsaid

    /// With more asked of a property, if that may be there.
    let withProperty (name: string) (more: SchemaNode list) (facts: SchemaFacts) : SchemaFacts option =
        match facts.Properties |> List.tryFindIndex (fun (known, _) -> known = name) with
        | Some place ->
            let nodes = snd facts.Properties[place] @ more
            Some { facts with Properties = List.updateAt place (name, nodes) facts.Properties }
        | None ->
            ofProperty facts name
            |> Option.map (fun nodes -> { facts with Properties = facts.Properties @ [ name, nodes @ more ] })

    let requiring (name: string) (facts: SchemaFacts) = {
        facts with
            Required = List.distinct (facts.Required @ [ name ])
    }

    /// With a property that does not fit a schema.
    let spoiling (facts: SchemaFacts) (name: string, node: SchemaNode) : SchemaFacts list =
        let isNamed = facts.Properties |> List.exists (fun (known, _) -> known = name)

        if not isNamed && (isClosed facts || not facts.Patterned.IsEmpty) then
            []
        else
            withProperty name [ deny node ] facts |> Option.map (requiring name) |> Option.toList

    let objects (a: SchemaFacts) (b: SchemaFacts) : SchemaFacts list =
        let lacking = [
            for name in b.Required do
                if not (List.contains name a.Required) && a.Patterned.IsEmpty then
                    yield! withProperty name [ never ] a |> Option.defaultValue a |> List.singleton
        ]

        let isUnnamed (name, _) =
            b.Patterned.IsEmpty && not (List.exists (fun (known, _) -> known = name) b.Properties)

        let unnamed = a.Properties |> List.filter isUnnamed |> List.map fst

        [
            yield! lacking
            for name, nodes in b.Properties do
                for node in nodes do
                    yield! spoiling a (name, node)
            for name in unnamed do
                match b.Additional with
                | SchemaExtra.Unsaid -> ()
                | SchemaExtra.Never -> requiring name a
                | SchemaExtra.All nodes ->
                    for node in nodes do
                        yield! spoiling a (name, node)
        ]

    let arrays (a: SchemaFacts) (b: SchemaFacts) : SchemaFacts list =
        let atLeast count = { a with LeastItems = max count a.LeastItems }

        let fits (facts: SchemaFacts) = facts.MostItems < 0 || facts.LeastItems <= facts.MostItems

        // An item that does not fit, the first of those that a schema is for.
        let spoiling place (node: SchemaNode) =
            let places = [ 0 .. max place (a.Prefix.Length - 1) ]

            places
            |> List.map (ofItem a)
            |> Check.every
            |> Option.map (fun prefix -> {
                atLeast (place + 1) with
                    Prefix = List.updateAt place (prefix[place] @ [ deny node ]) prefix
            })
            |> Option.toList

        [
            if b.LeastItems > 0 then
                let most = b.LeastItems - 1
                { a with MostItems = (if a.MostItems < 0 then most else min most a.MostItems) }
            if b.MostItems >= 0 then
                atLeast (b.MostItems + 1)
            for place, nodes in List.indexed b.Prefix do
                for node in nodes do
                    yield! spoiling place node
            match b.Items with
            | SchemaExtra.Unsaid -> ()
            | SchemaExtra.Never -> atLeast (b.Prefix.Length + 1)
            | SchemaExtra.All nodes ->
                for node in nodes do
                    yield! spoiling b.Prefix.Length node
        ]
        |> List.filter fits

    /// What `a` allows and `b` does not.
    member private this.Except (a: SchemaFacts) (b: SchemaFacts) : SchemaFacts list =
        let ofKind name =
            let a = { a with Types = Some(Set.singleton name) }

            match name with
            | _ when isFree name b -> []
            | "object" -> if b.Values.IsSome then [] else objects a b
            | "array" -> if b.Values.IsSome then [] else arrays a b
            | "boolean" -> among a b [ element "true"; element "false" ]
            | "null" -> among a b [ element "null" ]
            | _ -> [ { a with Without = b :: a.Without } ]

        match a.Values with
        | _ when this.AreApart a b -> [ a ]
        | Some values -> among a b values
        | None ->
            let shared, own = types a |> Set.partition (fun name -> SchemaScalars.isOf name b)
            // Integers are numbers, whatever the other calls them.
            let shared, own =
                if own.Contains "integer" && SchemaScalars.isOf "number" b then
                    shared.Add "integer", own.Remove "integer"
                else
                    shared, own

            [
                if not own.IsEmpty then
                    { a with Types = Some own }
                for name in shared do
                    yield! ofKind name
            ]

    /// Whether no value is of both, so far as can be told: what `a` has and what `b` may have.
    member private this.AreApart (a: SchemaFacts) (b: SchemaFacts) : bool =
        match a.Values, b.Values with
        | Some values, _ -> values |> List.forall (mayFit b >> not)
        | None, Some values -> values |> List.forall (mayFit a >> not)
        | None, None ->
            Set.intersect (kinds a) (kinds b) |> Set.forall (fun kind -> this.AreOfKindApart kind a b)

    member private this.AreOfKindApart kind (a: SchemaFacts) (b: SchemaFacts) : bool =
        match kind with
        | "object" ->
            List.distinct (a.Required @ b.Required)
            |> List.exists (fun name ->
                match ofProperty a name, ofProperty b name with
                | Some a, Some b -> this.AreNodesApart a b
                | _ -> true)
        | "array" ->
            areLengthsApart (a.LeastItems, a.MostItems) (b.LeastItems, b.MostItems)
            || [
                0 .. min (max a.LeastItems b.LeastItems - 1) (max a.Prefix.Length b.Prefix.Length)
               ]
               |> List.exists (fun place ->
                   match ofItem a place, ofItem b place with
                   | Some a, Some b -> this.AreNodesApart a b
                   | _ -> true)
        | "string" ->
            areLengthsApart (a.LeastLength, a.MostLength) (b.LeastLength, b.MostLength)
            || not (isFree kind a || isFree kind b) && SchemaScalars.areApart kind a b
        | "number" ->
            not (isFree kind a || isFree kind b || isVast a || isVast b)
            && SchemaScalars.areApart kind a b
        | _ -> false

    /// The same of what several schemas hold of together.
    member private this.AreNodesApart (a: SchemaNode list) (b: SchemaNode list) : bool =
        let keys nodes = nodes |> List.map (fun (node: SchemaNode) -> node.Key) |> String.concat " "
        let key = $"{keys a}\n{keys b}"

        match known.TryGetValue key with
        | true, found -> found
        | _ when depth = mostDepth -> false
        | _ ->
            depth <- depth + 1

            let found =
                try
                    // What is wrong with them is told where they are read for their own sake.
                    try
                        let b = read b
                        read a |> List.forall (fun a -> b |> List.forall (this.AreApart a))
                    with :? LayerSkipException ->
                        false
                finally
                    depth <- depth - 1

            known[key] <- found
            found

    /// What is left of alternatives without those that others allow. `place` is that of the keyword.
    member private this.Less (place: string) (own: SchemaFacts list) (others: SchemaFacts list) =
        let less (left: SchemaFacts list) other =
            let left = left |> List.collect (fun a -> this.Except a other)

            if left.Length > mostAlternatives then
                SchemaFault.refuse
                    "oneOf"
                    place
                    "its alternatives overlap in too many ways; give each a required property with a const of its own"

            left

        List.fold less own others

    /// Whether nothing left of one without another means that there is nothing.
    member private _.IsSure (a: SchemaFacts) (b: SchemaFacts) : bool =
        let isFree kind = not (SchemaScalars.isOf kind a && SchemaScalars.isOf kind b) || isFree kind b

        match a.Values with
        | Some values -> b.Values.IsSome || b.Formats.IsEmpty && not (List.exists isUnsure values)
        | None -> isFree "object" && isFree "array"

    /// What exactly one of several allows, each a list of alternatives. Refused: one of which nothing is left so far as can be told, though
    /// something may be.
    member this.ExactlyOne (place: string) (groups: SchemaFacts list list) : SchemaFacts list =
        // What is written of those that do not say their type is of the type that their keywords tell.
        let typed (facts: SchemaFacts) = { facts with Types = Some(SchemaFacts.types facts) }

        [
            for index, own in List.indexed groups do
                let others = groups |> List.removeAt index |> List.concat
                let left = this.Less place (List.map typed own) others

                let isSure a = others |> List.forall (this.IsSure a)

                if left.IsEmpty && not (List.forall isSure own) then
                    SchemaFault.refuse
                        "oneOf"
                        place
                        $"what fits its schema {index} alone cannot be told from what fits another; give each a required property with a const of its own, or write anyOf"

                yield! left
        ]

    /// What none of the alternatives allows.
    member this.Denied (place: string) (alternatives: SchemaFacts list) : SchemaFacts list =
        let any = { SchemaFacts.any place with Types = Some SchemaFacts.allTypes }
        this.Less place [ any ] alternatives
