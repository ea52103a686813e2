/// Random schemas with instances that fit them, and texts under a grammar.
module LayerSkip.Tests.GrammarSupport

open System
open System.IO
open System.Text
open System.Text.Json.Nodes
open Expecto
open LayerSkip
open LayerSkip.Tests.Support

let utf8 (text: string) = Encoding.UTF8.GetBytes text

/// What must be a grammar.
let grammarOf (schema: string) : Grammar =
    match JsonSchemaGrammar.compile schema with
    | Ok grammar -> grammar
    | Error faults -> failtest $"{schema}: {LayerSkipError.summary faults}"

/// Every byte alone, the end 256, and some pieces that go over the boundaries of JSON's parts.
let smallTokens =
    let pieces =
        "{\" \": \", , \" \"} \"} }} [{ }] ]} , 00 12 1. e1 true al fals null nul \\\" \\u \\uD8 ab abc name \": \u00e9 \U0001F600 \":\" \", \" {\"a\": } 10, 5] -1 .5"
            .Split
            ' '

    let split = utf8 "\U0001F600"

    Array.concat [
        [| for b in 0..255 -> [| byte b |] |]
        [| [||] |]
        pieces |> Array.map utf8
        [|
            utf8 "\", \""
            utf8 "\": \""
            utf8 "  "
            utf8 " a"
            split[..1]
            split[2..]
            Array.append split[3..] (utf8 "\"")
        |]
    ]
    |> TokenBytes.ofBytes

/// The id that ends a text of `smallTokens`.
let stop = 256

let startOf (grammar: Grammar) (tokens: TokenBytes) (stopIds: int[]) : GrammarState =
    match Grammar.start grammar tokens stopIds with
    | Ok state -> state
    | Error faults -> failtest (LayerSkipError.summary faults)

let small (grammar: Grammar) = startOf grammar smallTokens [| stop |]

let maskOf (count: int) (state: GrammarState) : uint64[] =
    let mask = Array.create ((count + 63) / 64) UInt64.MaxValue
    state.Allows(mask.AsSpan())
    mask

let has (mask: uint64[]) (id: int) = (mask[id >>> 6] >>> (id &&& 63)) &&& 1UL = 1UL

let allowed (count: int) (state: GrammarState) : int[] =
    let mask = maskOf count state
    [|
        for id in 0 .. count - 1 do
            if has mask id then
                id
    |]

/// Whether a text is one of the grammar's, byte by byte.
let accepts (grammar: Grammar) (text: string) : bool =
    let last =
        utf8 text
        |> Array.fold (fun (state: GrammarState) b -> state.Advance(int b)) (small grammar)
    last.MayEnd

/// A way to cut bytes into tokens, chosen at random: at each place one of the tokens that stand there.
let cut (random: Random) (tokens: TokenBytes) (bytes: byte[]) : int list =
    let standing = [|
        for at in 0 .. bytes.Length - 1 ->
            [|
                for id in 0 .. tokens.Count - 1 do
                    let item = tokens.Item id
                    if item.Length > 0 && bytes.AsSpan(at).StartsWith(ReadOnlySpan item) then
                        id
            |]
    |]

    let rec go at =
        if at = bytes.Length then
            []
        else
            let id = standing[at][random.Next standing[at].Length]
            id :: go (at + (tokens.Item id).Length)

    go 0

/// A text under a grammar by random tokens: once it is long, it ends where it may, and prefers what closes.
let walk (random: Random) (count: int) (stopId: int) (bytesOf: int -> byte[]) (start: GrammarState) : byte[] =
    use text = new MemoryStream()
    let mutable state = start
    let mutable isOver = false

    while not isOver do
        let ids = allowed count state
        if ids.Length = 0 then
            failtest $"nothing may follow {Encoding.UTF8.GetString(text.ToArray())}"

        let closing () =
            ids
            |> Array.filter (fun id ->
                id = stopId
                || (let item = bytesOf id in
                    item.Length = 1 && Array.contains (char item[0]) [| '"'; '}'; ']' |]))

        let choices =
            if text.Length < 60L then
                ids
            elif Array.contains stopId ids then
                [| stopId |]
            else
                match closing () with
                | [||] -> ids
                | closing -> closing

        let id = choices[random.Next choices.Length]

        if id = stopId then
            isOver <- true
        else
            text.Write(ReadOnlySpan(bytesOf id))
            state <- state.Advance id

        if text.Length > 20_000L then
            failtest $"does not end: {Encoding.UTF8.GetString(text.ToArray())[..200]}"

    text.ToArray()

/// A random schema, and how to make a value that it allows.
type Made = { Schema: JsonNode; Instance: Random -> JsonNode }

let private names = [| "name"; "age"; "a"; "ab"; "type"; "x y"; "\u00e9"; "na\"me" |]
let private letters = [|
    "a"
    "b"
    "Z"
    " "
    "\""
    "\\"
    "\n"
    "\u00e9"
    "\u4e2d"
    "\U0001F600"
    "\u0001"
    "/"
|]

let private textOf (random: Random) (length: int) =
    String.Concat [ for _ in 1..length -> letters[random.Next letters.Length] ]

let private node (value: 'T) : JsonNode = JsonValue.Create<'T> value :> JsonNode
let private schemaOf (fields: (string * JsonNode) list) : JsonNode =
    let o = JsonObject()

    for name, value in fields do
        o[name] <- value
    o

let private someNames (random: Random) (count: int) =
    Array.truncate count (random.GetItems(names, 8) |> Array.distinct)

/// Schemas of a depth at most, over all that we serve.
let rec made (random: Random) (depth: int) : Made =
    match random.Next(if depth = 0 then 9 else 14) with
    | 0 -> { Schema = schemaOf [ "type", node "boolean" ]; Instance = fun r -> node (r.Next 2 = 0) }
    | 1 -> { Schema = schemaOf [ "type", node "null" ]; Instance = fun _ -> null }
    | 2 ->
        let least, most = random.Next(-300, 300), random.Next(0, 400)
        let most = least + most

        {
            Schema = schemaOf [ "type", node "integer"; "minimum", node least; "maximum", node most ]
            Instance = fun r -> node (r.Next(least, most + 1))
        }
    | 3 -> {
        Schema = schemaOf [ "type", node "number"; "exclusiveMinimum", node -2.5 ]
        Instance = fun r -> node (decimal (r.Next 100_000) / 1000m - 2.499m)
      }
    | 4 ->
        let least, more = random.Next 4, random.Next 6

        {
            Schema =
                schemaOf [
                    "type", node "string"
                    "minLength", node least
                    "maxLength", node (least + more)
                ]
            Instance = fun r -> node (textOf r (r.Next(least, least + more + 1)))
        }
    | 5 -> {
        Schema = schemaOf [ "type", node "string" ]
        Instance = fun r -> node (textOf r (r.Next 12))
      }
    | 6 -> {
        Schema = schemaOf [ "type", node "string"; "pattern", node "^[a-c]+(-[0-9]{2})?$" ]
        Instance = fun r -> node ("abc"[r.Next 3 ..] + (if r.Next 2 = 0 then "" else $"-{r.Next(10, 99)}"))
      }
    | 7 ->
        let values = [| node "red"; node "re\"d\n"; node 5; node null; node true; node -1.5 |]
        let chosen = values[random.Next 4 ..]

        {
            Schema =
                schemaOf [
                    "enum",
                    JsonArray([| for value in chosen -> (if isNull value then null else value.DeepClone()) |])
                ]
            Instance =
                fun r ->
                    (match chosen[r.Next chosen.Length] with
                     | null -> null
                     | value -> value.DeepClone())
        }
    | 8 -> {
        Schema = schemaOf [ "type", node "string"; "format", node "date" ]
        Instance = fun r -> node (DateTime(2000, 1, 1).AddDays(float (r.Next 20_000)).ToString("yyyy-MM-dd"))
      }
    | 9
    | 10 ->
        let inner =
            someNames random (random.Next 5)
            |> Array.map (fun name -> name, made random (depth - 1), random.Next 2 = 0)
        let isOpen = random.Next 3 = 0
        let properties =
            JsonObject()
            |> fun o ->
                (for name, inner, _ in inner do
                    o[name] <- inner.Schema.DeepClone())
                o

        {
            Schema =
                schemaOf [
                    "type", node "object"
                    "properties", properties
                    "required",
                    JsonArray(
                        [|
                            for name, _, isRequired in inner do
                                if isRequired then
                                    node name
                        |]
                    )
                    "additionalProperties",
                    (if isOpen then
                         schemaOf [ "type", node "integer" ]
                     else
                         node false)
                ]
            Instance =
                fun r ->
                    let o = JsonObject()

                    for name, inner, isRequired in inner do
                        if isRequired || r.Next 2 = 0 then
                            o[name] <- inner.Instance r

                    if isOpen && r.Next 2 = 0 then
                        o["other"] <- node (r.Next 100)
                    o
        }
    | 11 ->
        let inner = made random (depth - 1)
        let least, more = random.Next 3, random.Next 3

        {
            Schema =
                schemaOf [
                    "type", node "array"
                    "items", inner.Schema
                    "minItems", node least
                    "maxItems", node (least + more)
                ]
            Instance =
                fun r -> JsonArray([| for _ in 1 .. r.Next(least, least + more + 1) -> inner.Instance r |])
        }
    | 12 ->
        let prefix = [| for _ in 1 .. random.Next(1, 3) -> made random (depth - 1) |]

        {
            Schema =
                schemaOf [
                    "type", node "array"
                    "prefixItems", JsonArray([| for item in prefix -> item.Schema |])
                    "items", node false
                    "minItems", node 1
                ]
            Instance =
                fun r ->
                    JsonArray(
                        [|
                            for item in Array.truncate (r.Next(1, prefix.Length + 1)) prefix ->
                                item.Instance r
                        |]
                    )
        }
    | _ ->
        let several = [| for _ in 1 .. random.Next(1, 4) -> made random (depth - 1) |]

        {
            Schema = schemaOf [ "anyOf", JsonArray([| for one in several -> one.Schema |]) ]
            Instance = fun r -> several[r.Next several.Length].Instance r
        }

/// A value as we write it; `space` stands after colons and commas, or not.
let rec written (space: string) (value: JsonNode) : string =
    match value with
    | null -> "null"
    | :? JsonObject as o ->
        let pairs = [
            for pair in o -> $"{JsonText.quote pair.Key}:{space}{written space pair.Value}"
        ]
        "{" + String.Join("," + space, pairs) + "}"
    | :? JsonArray as items ->
        "[" + String.Join("," + space, [ for item in items -> written space item ]) + "]"
    | value when value.GetValueKind() = System.Text.Json.JsonValueKind.String ->
        JsonText.quote (value.GetValue<string>())
    | value -> value.ToJsonString()

/// What JsonSchema.Net says of a text.
let isValid (schema: string) (text: string) : bool =
    let options =
        Json.Schema.EvaluationOptions(
            RequireFormatValidation = true,
            OutputFormat = Json.Schema.OutputFormat.Flag
        )

    (Json.Schema.JsonSchema.FromText schema)
        .Evaluate((System.Text.Json.JsonDocument.Parse text).RootElement, options)
        .IsValid

/// SmolLM2's tokenizer.
let smol () : Tokenizer =
    Tokenizer.ofJson (sharedPath [ "smollm2-135m-instruct"; "tokenizer.json" ])
    |> Check.getOrRaise
