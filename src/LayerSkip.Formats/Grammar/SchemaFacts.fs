namespace LayerSkip

open System.Text.Json

/// A schema and its place in the document, a JSON pointer after "#".
[<NoEquality; NoComparison>]
type internal SchemaNode = {
    Place: string
    Element: JsonElement
    /// Whether what is meant is what the schema does not allow.
    IsDenied: bool
} with

    /// What tells it from all others of the document.
    member this.Key = if this.IsDenied then "not " + this.Place else this.Place

/// What else an object or array may hold.
[<RequireQualifiedAccess; NoEquality; NoComparison>]
type internal SchemaExtra =
    | Unsaid
    | Never
    /// What all of these hold of.
    | All of SchemaNode list

/// What a schema asks for, its parts that combine others apart. Counts below 0 are no bounds.
[<NoEquality; NoComparison>]
type internal SchemaFacts = {
    Place: string
    /// JSON Schema's names; None: not said. "number" has the integers.
    Types: Set<string> option
    /// enum, const.
    Values: JsonElement list option
    /// In their order; each what all of its schemas hold of.
    Properties: (string * SchemaNode list) list
    /// Whether there is a list of properties, be it empty.
    NamesProperties: bool
    Required: string list
    Additional: SchemaExtra
    /// patternProperties.
    Patterned: (string * SchemaNode) list
    LeastProperties: int
    MostProperties: int
    Prefix: SchemaNode list list
    Items: SchemaExtra
    LeastItems: int
    MostItems: int
    LeastLength: int
    MostLength: int
    Patterns: string list
    Formats: string list
    /// Bounds, and whether they are excluded themselves.
    Lower: (PlainDecimal * bool) list
    Upper: (PlainDecimal * bool) list
    Multiples: PlainDecimal list
    /// Of strings and numbers: those that fit none of these.
    Without: SchemaFacts list
}

/// What holds where several schemas do.
[<RequireQualifiedAccess>]
module internal SchemaFacts =
    /// Of a schema that says nothing.
    let any (place: string) : SchemaFacts = {
        Place = place
        Types = None
        Values = None
        Properties = []
        NamesProperties = false
        Required = []
        Additional = SchemaExtra.Unsaid
        Patterned = []
        LeastProperties = 0
        MostProperties = -1
        Prefix = []
        Items = SchemaExtra.Unsaid
        LeastItems = 0
        MostItems = -1
        LeastLength = 0
        MostLength = -1
        Patterns = []
        Formats = []
        Lower = []
        Upper = []
        Multiples = []
        Without = []
    }

    /// Whether something is said of objects, and so on.
    let isOfObjects (facts: SchemaFacts) : bool =
        not (
            not facts.NamesProperties
            && facts.Required.IsEmpty
            && facts.Additional.IsUnsaid
            && facts.Patterned.IsEmpty
        )
        || facts.LeastProperties > 0
        || facts.MostProperties >= 0

    let isOfArrays (facts: SchemaFacts) : bool =
        not (facts.Prefix.IsEmpty && facts.Items.IsUnsaid)
        || facts.LeastItems > 0
        || facts.MostItems >= 0

    let isOfStrings (facts: SchemaFacts) : bool =
        not (facts.Patterns.IsEmpty && facts.Formats.IsEmpty && facts.Without.IsEmpty)
        || facts.LeastLength > 0
        || facts.MostLength >= 0

    let isOfNumbers (facts: SchemaFacts) : bool =
        not (
            facts.Lower.IsEmpty
            && facts.Upper.IsEmpty
            && facts.Multiples.IsEmpty
            && facts.Without.IsEmpty
        )

    /// Every type there is.
    let allTypes = set [ "object"; "array"; "string"; "number"; "boolean"; "null" ]

    /// The types that are meant: where none is said, those that the schema says something of, else all.
    let types (facts: SchemaFacts) : Set<string> =
        match facts.Types with
        | Some types -> types
        | None when facts.Values.IsSome -> allTypes
        | None ->
            let said =
                set [
                    if isOfObjects facts then
                        "object"
                    if isOfArrays facts then
                        "array"
                    if isOfStrings facts then
                        "string"
                    if isOfNumbers facts then
                        "number"
                ]

            if said.IsEmpty then allTypes else said

    let private bothTypes (a: Set<string>) (b: Set<string>) =
        let whole (a: Set<string>) (b: Set<string>) = a.Contains "integer" && b.Contains "number"
        let shared = Set.intersect a b
        if whole a b || whole b a then
            shared.Add "integer"
        else
            shared

    let private bothOptions merge a b =
        match a, b with
        | Some a, Some b -> Some(merge a b)
        | a, None -> a
        | None, b -> b

    let private bothExtras a b =
        match a, b with
        | SchemaExtra.Never, _
        | _, SchemaExtra.Never -> SchemaExtra.Never
        | SchemaExtra.All a, SchemaExtra.All b -> SchemaExtra.All(a @ b)
        | SchemaExtra.Unsaid, extra
        | extra, SchemaExtra.Unsaid -> extra

    /// What a schema asks of what it does not name; None where that may not be.
    let unnamed (extra: SchemaExtra) =
        match extra with
        | SchemaExtra.Unsaid -> Some []
        | SchemaExtra.Never -> None
        | SchemaExtra.All nodes -> Some nodes

    let private bothProperties (a: SchemaFacts) (b: SchemaFacts) =
        let of' (facts: SchemaFacts) name =
            match facts.Properties |> List.tryFind (fun (known, _) -> known = name) with
            | Some(_, nodes) -> Some nodes
            | None -> unnamed facts.Additional

        List.map fst a.Properties @ List.map fst b.Properties
        |> List.distinct
        |> List.choose (fun name ->
            match of' a name, of' b name with
            | Some a, Some b -> Some(name, a @ b)
            | _ -> None)

    let private bothPrefixes (a: SchemaFacts) (b: SchemaFacts) =
        let of' (facts: SchemaFacts) place =
            match List.tryItem place facts.Prefix with
            | Some nodes -> Some nodes
            | None -> unnamed facts.Items

        let merged =
            [ 0 .. max a.Prefix.Length b.Prefix.Length - 1 ]
            |> List.map (fun place -> Option.map2 (@) (of' a place) (of' b place))
            |> List.takeWhile Option.isSome

        List.choose id merged, merged.Length < max a.Prefix.Length b.Prefix.Length

    let private least (a: int) (b: int) =
        if a < 0 then b
        elif b < 0 then a
        else min a b

    /// What holds where both do; None where nothing can.
    let both (a: SchemaFacts) (b: SchemaFacts) : SchemaFacts option =
        if not (a.Patterned.IsEmpty && b.Patterned.IsEmpty) && isOfObjects a && isOfObjects b then
            Check.throw (
                LayerSkipError.Unsupported(
                    $"JSON schema: patternProperties at {a.Place} beside other rules for the same object at {b.Place}",
                    "write them into one schema"
                )
            )

        let prefix, isCut = bothPrefixes a b

        let merged = {
            Place = a.Place
            Types = bothOptions bothTypes a.Types b.Types
            Values =
                bothOptions
                    (fun (a: JsonElement list) b ->
                        a |> List.filter (fun x -> b |> List.exists (fun y -> JsonElement.DeepEquals(x, y))))
                    a.Values
                    b.Values
            Properties = bothProperties a b
            NamesProperties = a.NamesProperties || b.NamesProperties
            Required = List.distinct (a.Required @ b.Required)
            Additional = bothExtras a.Additional b.Additional
            Patterned = a.Patterned @ b.Patterned
            LeastProperties = max a.LeastProperties b.LeastProperties
            MostProperties = least a.MostProperties b.MostProperties
            Prefix = prefix
            Items =
                if isCut then
                    SchemaExtra.Never
                else
                    bothExtras a.Items b.Items
            LeastItems = max a.LeastItems b.LeastItems
            MostItems = least a.MostItems b.MostItems
            LeastLength = max a.LeastLength b.LeastLength
            MostLength = least a.MostLength b.MostLength
            Patterns = a.Patterns @ b.Patterns
            Formats = a.Formats @ b.Formats
            Lower = a.Lower @ b.Lower
            Upper = a.Upper @ b.Upper
            Multiples = a.Multiples @ b.Multiples
            Without = a.Without @ b.Without
        }

        if merged.Types = Some Set.empty || (merged.Values |> Option.exists List.isEmpty) then
            None
        else
            Some merged
