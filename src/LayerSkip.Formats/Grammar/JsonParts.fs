namespace LayerSkip

open System.Text.Json

/// Values of JSON as parts of a grammar.
[<RequireQualifiedAccess>]
module internal JsonParts =
    let private text dfa = GrammarPart.Text dfa
    let private comma = text JsonText.comma
    let private openBracket, closeBracket = text JsonText.openBracket, text JsonText.closeBracket
    let private openBrace, closeBrace = text JsonText.openBrace, text JsonText.closeBrace

    let string, number, integer = text JsonText.text, text JsonText.number, text JsonText.integer
    let boolean, nothing = text (JsonText.oneOf [ "true"; "false" ]), text (JsonText.literal "null")

    /// Pairs with a comma between them, `least` to `most` (below 0: any number).
    let private between (item: GrammarPart) (least: int) (most: int) : GrammarPart =
        let more =
            GrammarPart.Repeat(
                GrammarPart.Both(comma, item),
                max 0 (least - 1),
                (if most < 0 then -1 else most - 1)
            )

        if most = 0 then
            GrammarPart.Empty
        elif least = 0 then
            GrammarPart.optional (GrammarPart.Both(item, more))
        else
            GrammarPart.Both(item, more)

    /// An array of `least` to `most` such items.
    let arrayOf (item: GrammarPart) (least: int) (most: int) : GrammarPart =
        GrammarPart.sequence [ openBracket; between item least most; closeBracket ]

    /// An object of `least` to `most` such pairs, each a name with its value.
    let mapOf (pair: GrammarPart) (least: int) (most: int) : GrammarPart =
        GrammarPart.sequence [ openBrace; between pair least most; closeBrace ]

    /// A name of an automaton, and a value.
    let pair (name: Dfa) (value: GrammarPart) : GrammarPart =
        GrammarPart.sequence [ text name; text JsonText.colon; value ]

    /// Any value, nested without bound.
    let any: GrammarPart =
        let rule = GrammarRule "any"
        let value = GrammarPart.Rule rule

        rule.Body <-
            GrammarPart.Either [
                string
                number
                boolean
                nothing
                mapOf (pair JsonText.text value) 0 -1
                arrayOf value 0 -1
            ]

        value

    /// An array that begins with `prefix`, each with what may stand there, and goes on with `rest`, if anything may.
    let tuple (prefix: GrammarPart list) (rest: GrammarPart option) (least: int) (most: int) : GrammarPart =
        let most = if most < 0 && rest.IsNone then prefix.Length else most
        let prefix = if most < 0 then prefix else List.truncate most prefix
        let count = prefix.Length

        let tail =
            match rest with
            | Some rest when most < 0 || most > count ->
                let more = GrammarPart.Both(comma, rest)
                GrammarPart.Repeat(more, max 0 (least - count), (if most < 0 then -1 else most - count))
            | _ when least > count -> GrammarPart.Either []
            | _ -> GrammarPart.Empty

        // From the back: what follows the item before `place`.
        let add (place: int, following) item =
            let place = place - 1
            let item = if place = 0 then item else GrammarPart.Both(comma, item)
            let here = GrammarPart.Both(item, following)
            place, GrammarPart.rule "item" (if place >= least then GrammarPart.optional here else here)

        let _, items = List.fold add (count, tail) (List.rev prefix)
        GrammarPart.sequence [ openBracket; items; closeBracket ]

    /// An object of these properties in their order: each with its name, its value and whether it must be there; then pairs
    /// of `extra`, if any may follow.
    let object (properties: (string * GrammarPart * bool) list) (extra: GrammarPart option) : GrammarPart =
        let more, first =
            match extra with
            | None -> GrammarPart.Empty, GrammarPart.Empty
            | Some pair -> GrammarPart.Repeat(GrammarPart.Both(comma, pair), 0, -1), between pair 0 -1

        // From the back: what may stand where a property came before, and where none did.
        let add (later, first) (name, value, isRequired) =
            let next isLater skipped =
                let here = GrammarPart.sequence [ text (JsonText.key isLater name); value; later ]
                GrammarPart.rule
                    name
                    (if isRequired then
                         here
                     else
                         GrammarPart.Either [ here; skipped ])

            next true later, next false first

        let _, all = List.fold add (more, first) (List.rev properties)
        GrammarPart.sequence [ openBrace; all; closeBrace ]

    /// The text of a value that holds no others.
    let scalar (element: JsonElement) : string =
        match element.ValueKind with
        | JsonValueKind.String -> JsonText.quote (element.GetString())
        | _ -> element.GetRawText()

    /// Just this value, its objects' properties in their order.
    let rec value (element: JsonElement) : GrammarPart =
        match element.ValueKind with
        | JsonValueKind.Object ->
            object
                [
                    for field in element.EnumerateObject() -> field.Name, value field.Value, true
                ]
                None
        | JsonValueKind.Array ->
            let items = [ for item in element.EnumerateArray() -> value item ]
            tuple items None items.Length items.Length
        | _ -> text (JsonText.literal (scalar element))
