module LayerSkip.Tests.OneOfTests

open System
open System.Text
open System.Text.Json.Nodes
open Expecto
open LayerSkip
open LayerSkip.Tests.GrammarSupport

let private settings = { FsCheckConfig.defaultConfig with maxTest = 300 }

let private pick (random: Random) (items: 'T[]) = items[random.Next items.Length]

let private scalars = [|
    """{"type":"integer"}"""
    """{"type":"number"}"""
    """{"type":"integer","multipleOf":3}"""
    """{"type":"integer","multipleOf":5,"minimum":0}"""
    """{"type":"number","minimum":-2,"maximum":7.5}"""
    """{"type":"number","multipleOf":0.1,"exclusiveMinimum":3}"""
    """{"minimum":4}"""
    """{"type":"string"}"""
    """{"type":"string","maxLength":4}"""
    """{"type":"string","minLength":3,"maxLength":6}"""
    """{"type":"string","pattern":"^a"}"""
    """{"type":"string","pattern":"^.b"}"""
    """{"type":"string","format":"date"}"""
    """{"pattern":"^[ab]"}"""
    """{"enum":["ab","b",3,15,2.5,true,null]}"""
    """{"const":"ab"}"""
    """{"const":15}"""
    """{"type":["string","null"]}"""
    """{"type":["boolean","integer"]}"""
    """{"type":"boolean"}"""
    """{"type":"null"}"""
    "true"
    "{}"
|]

let rec private schema (random: Random) (depth: int) : string =
    let inner () = schema random (depth - 1)
    let name () = pick random [| "a"; "b"; "kind" |]

    match random.Next(if depth = 0 then 6 else 14) with
    | 6
    | 7
    | 8
    | 9 ->
        let names = List.distinct [ for _ in 1 .. random.Next(1, 4) -> name () ]

        let properties =
            [
                for name in names do
                    let value =
                        if name = "kind" then
                            pick random [| "{\"const\":\"p\"}"; "{\"const\":\"q\"}" |]
                        else
                            inner ()
                    $"\"{name}\":{value}"
            ]
            |> String.concat ","

        let required = List.distinct [ for _ in 1 .. random.Next 3 -> $"\"{name ()}\"" ] |> String.concat ","

        let additional =
            pick random [|
                ""
                ",\"additionalProperties\":false"
                ",\"additionalProperties\":{\"type\":\"integer\"}"
            |]

        $"{{\"type\":\"object\",\"properties\":{{{properties}}},\"required\":[{required}]{additional}}}"
    | 10 -> $"{{\"required\":[\"{name ()}\"]}}"
    | 11 -> $"{{\"type\":\"array\",\"items\":{inner ()},\"minItems\":{random.Next 3}}}"
    | 12 -> $"{{\"type\":\"array\",\"prefixItems\":[{inner ()},{inner ()}],\"minItems\":1,\"maxItems\":3}}"
    | 13 -> $"{{\"anyOf\":[{inner ()},{inner ()}]}}"
    | _ -> pick random scalars

let private oneOf (random: Random) (depth: int) =
    let items = [ for _ in 1 .. random.Next(2, 4) -> schema random depth ] |> String.concat ","

    match random.Next 4 with
    | 0 ->
        $"{{\"type\":\"object\",\"properties\":{{\"a\":{{\"type\":\"integer\"}},\"b\":{{\"type\":\"string\",\"maxLength\":3}},\"kind\":{{}}}},\"oneOf\":[{items}]}}"
    | 1 -> $"{{\"type\":\"array\",\"items\":{{\"oneOf\":[{items}]}},\"maxItems\":2}}"
    | _ -> $"{{\"oneOf\":[{items}]}}"

/// Texts under a grammar, by random tokens.
let private texts (random: Random) (grammar: Grammar) (count: int) = [
    for _ in 1..count ->
        walk random smallTokens.Count stop smallTokens.Item (small grammar)
        |> Encoding.UTF8.GetString
]

/// A name may stand twice among additional properties, which a validator may read in another way.
let private isPlain (text: string) =
    try
        JsonNode.Parse text |> ignore
        true
    with _ ->
        false

/// A schema, texts that exactly one alternative allows, and texts that none or two do.
let private meanings = [
    """{"oneOf":[{"type":"integer","multipleOf":3},{"type":"integer","multipleOf":5}]}""",
    [ "3"; "5"; "-9"; "25"; "18" ],
    [ "15"; "0"; "30"; "1"; "3.0" ]
    """{"oneOf":[{"type":"integer"},{"type":"number"}]}""", [ "0.5"; "-12.25" ], [ "1"; "1.0"; "10e0"; "0" ]
    """{"oneOf":[{"type":"string","maxLength":3},{"type":"string","minLength":3}]}""",
    [ "\"ab\""; "\"abcd\""; "\"\"" ],
    [ "\"abc\""; "\"\\u0061bc\"" ]
    """{"oneOf":[{"type":"string","pattern":"^a"},{"type":"string","pattern":"b$"}]}""",
    [ "\"a\""; "\"b\""; "\"ax\"" ],
    [ "\"ab\""; "\"x\""; "\"\\u0061b\"" ]
    """{"oneOf":[{"type":"string"},{"const":"x\u001f"}]}""",
    [ "\"x\""; "\"\"" ],
    [ "\"x\\u001f\""; "\"x\\u001F\"" ]
    """{"oneOf":[{"enum":["a","b",1]},{"enum":["b","c"]},{"type":"integer"}]}""",
    [ "\"a\""; "\"c\""; "2" ],
    [ "\"b\""; "1" ]
    """{"oneOf":[{"type":["boolean","null"]},{"const":true}]}""", [ "false"; "null" ], [ "true" ]
    """{"oneOf":[{"type":"string","format":"date"},{"type":"string","format":"email"}]}""",
    [ "\"2024-01-31\""; "\"a@b.org\"" ],
    [ "\"a\"" ]
    """{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"null"}},"oneOf":[{"required":["a"]},{"required":["b"]}]}""",
    [ "{\"a\":1}"; "{\"b\":null}" ],
    [ "{}"; "{\"a\":1,\"b\":null}" ]
    """{"oneOf":[{"type":"object","properties":{"k":{"const":"a"},"x":{"type":"integer"}},"required":["k","x"]},{"type":"object","properties":{"k":{"const":"b"},"x":{"type":"null"}},"required":["k"]}]}""",
    [ "{\"k\":\"a\",\"x\":1}"; "{\"k\":\"b\",\"x\":null}"; "{\"k\":\"b\"}" ],
    [ "{\"k\":\"a\",\"x\":null}"; "{\"x\":1}" ]
    """{"oneOf":[{"type":"object","properties":{"k":{"const":"a"}}},{"type":"object","properties":{"k":{"const":"b"}}}]}""",
    [ "{\"k\":\"a\"}"; "{\"k\":\"b\"}" ],
    [ "{}" ]
    """{"oneOf":[{"type":"object","properties":{"x":{"type":"integer"}},"required":["x"],"additionalProperties":false},{"type":"object","properties":{"x":{"type":"number"},"y":{}},"additionalProperties":false}]}""",
    [ "{}"; "{\"x\":0.5}"; "{\"x\":1,\"y\":2}"; "{\"y\":[]}" ],
    [ "{\"x\":1}" ]
    """{"oneOf":[{"type":"array","items":{"type":"string"}},{"type":"array","items":{"type":"integer"}}]}""",
    [ "[\"a\"]"; "[1,2]" ],
    [ "[]"; "[\"a\",1]" ]
    """{"oneOf":[{"type":"array","items":{},"maxItems":2},{"type":"array","items":{},"minItems":2}]}""",
    [ "[]"; "[1]"; "[1,2,3]" ],
    [ "[1,2]" ]
    """{"$ref":"#/$defs/tree","$defs":{"tree":{"oneOf":[{"type":"object","properties":{"leaf":{"type":"integer"}},"required":["leaf"]},{"type":"object","properties":{"left":{"$ref":"#/$defs/tree"},"right":{"$ref":"#/$defs/tree"}},"required":["left","right"]}]}}}""",
    [ "{\"leaf\":1}"; "{\"left\":{\"leaf\":1},\"right\":{\"leaf\":2}}" ],
    [ "{\"leaf\":1,\"left\":{\"leaf\":1},\"right\":{\"leaf\":2}}"; "{}" ]
]

[<Tests>]
let tests =
    testList "oneOf" [
        testPropertyWithConfig settings "every text of the grammar fits exactly one alternative"
        <| fun (seed: int) ->
            let random = Random seed
            let schema = oneOf random 2

            match JsonSchemaGrammar.compile schema with
            | Error faults ->
                // By its name and place, or nothing fits.
                let told = LayerSkipError.summary faults
                Expect.isTrue (told.Contains "JSON schema" && not (told.Contains '\n')) told
            | Ok grammar ->
                for text in texts random grammar 4 do
                    if isPlain text && not (isValid schema text) then
                        failtest $"{schema} does not allow {text}"

        testCase "most random schemas are served" (fun () ->
            let random = Random 3
            let results = [ for _ in 1..300 -> JsonSchemaGrammar.compile (oneOf random 1) ]
            let served = results |> List.filter Result.isOk
            Expect.isGreaterThan served.Length 200 "served")

        testPropertyWithConfig settings "alternatives of a property's constants lose no text"
        <| fun (seed: int) ->
            let random = Random seed
            let several = [| for _ in 1 .. random.Next(2, 5) -> made random 1 |]

            let alternatives =
                several
                |> Array.mapi (fun place made ->
                    $"{{\"type\":\"object\",\"properties\":{{\"kind\":{{\"const\":{place}}},\"of\":{made.Schema.ToJsonString()}}},\"required\":[\"kind\",\"of\"],\"additionalProperties\":false}}")
                |> String.concat ","

            let grammar = grammarOf $"{{\"oneOf\":[{alternatives}]}}"

            for place, made in Array.indexed several do
                let value = written "" (made.Instance random)
                let text = $"{{\"kind\":{place},\"of\":{value}}}"
                Expect.isTrue (accepts grammar text) text

        testCase "what schemas mean, by hand" (fun () ->
            for schema, inside, outside in meanings do
                let grammar = grammarOf schema

                for text in inside do
                    Expect.isTrue (accepts grammar text) $"{schema} allows {text}"
                    Expect.isTrue (isValid schema text) $"and rightly: {schema} {text}"

                for text in outside do
                    Expect.isFalse (accepts grammar text) $"{schema} does not allow {text}")

        testCase "what cannot be told apart is refused with its place" (fun () ->
            for schema, words in
                [
                    """{"properties":{"x":{"oneOf":[{"type":"object","patternProperties":{"^a":{"type":"integer"}}},{"type":"object","patternProperties":{"^b":{"type":"integer"}}}]}}}""",
                    "\"oneOf\" at #/properties/x/oneOf"
                    """{"oneOf":[{"type":"integer"},{"type":"integer"}]}""", "no text is valid"
                    """{"oneOf":[{"type":"object"},{"type":"object","minProperties":1}]}""",
                    "\"oneOf\" at #/oneOf"
                ] do
                match JsonSchemaGrammar.compile schema with
                | Ok _ -> failtest $"{schema} is served"
                | Error faults -> Expect.stringContains (LayerSkipError.summary faults) words schema)

        testCase "hundreds of constants are told apart at once" (fun () ->
            let items =
                [
                    for place in 1..400 -> $"{{\"const\":\"value {place}\",\"title\":\"{place}\"}}"
                ]
                |> String.concat ","
            let grammar = grammarOf $"{{\"oneOf\":[{items}]}}"
            Expect.isTrue (accepts grammar "\"value 400\"") "one of them")
    ]
