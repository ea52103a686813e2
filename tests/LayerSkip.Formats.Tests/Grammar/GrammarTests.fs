module LayerSkip.Tests.GrammarTests

open System
open System.Text
open System.Text.RegularExpressions
open Expecto
open FsCheck
open FsCheck.FSharp
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.GrammarSupport

/// What each token's bytes come to, fed one by one.
let private brute (tokens: TokenBytes) (stopIds: int[]) (state: GrammarState) (single: int[]) : bool[] =
    Array.init tokens.Count (fun id ->
        if Array.contains id stopIds then
            state.MayEnd
        else
            match tokens.Item id with
            | [||] -> false
            | bytes ->
                let last =
                    bytes |> Array.fold (fun (state: GrammarState) b -> state.Advance single[int b]) state
                not last.HasLeft)

let private singles (tokens: TokenBytes) =
    let ids = Array.create 256 -1

    for id in 0 .. tokens.Count - 1 do
        match tokens.Item id with
        | [| one |] -> ids[int one] <- id
        | _ -> ()

    ids

let private settings = { FsCheckConfig.defaultConfig with maxTest = 150 }

let private properties = [
    testPropertyWithConfig
        settings
        "every beginning of a value that fits is allowed, however it is cut into tokens"
    <| fun (seed: int) ->
        let random = Random seed
        let made = made random 3
        let schema = made.Schema.ToJsonString()
        let start = small (grammarOf schema)

        for _ in 1..4 do
            let text = written (if random.Next 2 = 0 then "" else " ") (made.Instance random)
            let mutable state = start

            for id in cut random smallTokens (utf8 text) do
                if not (has (maskOf smallTokens.Count state) id) then
                    failtest $"{schema} does not allow token {id} in {text}"
                state <- state.Advance id

            Expect.isTrue (has (maskOf smallTokens.Count state) stop) $"{schema} does not end after {text}"

    testPropertyWithConfig
        settings
        "whatever tokens are chosen among those allowed, the text is valid for its schema"
    <| fun (seed: int) ->
        let random = Random seed
        let schema = (made random 3).Schema.ToJsonString()
        let start = small (grammarOf schema)

        for _ in 1..4 do
            let text = walk random smallTokens.Count stop smallTokens.Item start
            let text = UTF8Encoding(false, true).GetString text
            Expect.isTrue (isValid schema text) $"{schema}: {text}"

    testPropertyWithConfig settings "a mask is what feeding each token's bytes one by one gives"
    <| fun (seed: int) ->
        let random = Random seed
        let made = made random 2
        let single = singles smallTokens
        let mutable state = small (grammarOf (made.Schema.ToJsonString()))

        for id in cut random smallTokens (utf8 (written " " (made.Instance random))) do
            let mask = maskOf smallTokens.Count state
            Expect.equal
                (Array.init smallTokens.Count (has mask))
                (brute smallTokens [| stop |] state single)
                "mask"
            state <- state.Advance id

    testPropertyWithConfig settings "numbers within bounds are those, and no others"
    <| fun (a: int) (b: int) (scaleA: byte) (scaleB: byte) (x: int) (scaleX: byte) (exclusive: bool) ->
        let decimal (value: int) (scale: byte) = decimal value / decimal (pown 10 (int scale % 5))
        let a, b, x = decimal a scaleA, decimal b scaleB, decimal x scaleX
        let low, high = min a b, max a b

        for x in [ x; low; high; (low + high) / 2m; 0m ] do
            let x = Math.Round(x, 8)
            let keyword = if exclusive then "exclusiveMinimum" else "minimum"
            let expected = (if exclusive then low < x else low <= x) && x <= high
            let text = x.ToString("0.#########", Globalization.CultureInfo.InvariantCulture)
            let low, high = (string low), (string high)

            match JsonSchemaGrammar.compile $"""{{"type":"number","{keyword}":{low},"maximum":{high}}}""" with
            | Ok grammar -> Expect.equal (accepts grammar text) expected $"{low} {text} {high}"
            | Error _ -> Expect.isTrue (exclusive && a = b) "only nothing fits nothing"

    testPropertyWithConfig settings "whole numbers within bounds are those, multiples too"
    <| fun (a: int) (b: int) (x: int) (PositiveInt step) ->
        let low, high = int64 (min a b) * 1000L, int64 (max a b) * 1000L
        let step = 1L + int64 step % 40L

        match
            JsonSchemaGrammar.compile
                $"""{{"type":"integer","minimum":{low},"maximum":{high},"multipleOf":{step}}}"""
        with
        | Ok grammar ->
            for x in
                [
                    int64 x
                    low
                    high
                    low + 1L
                    high - 1L
                    low / step * step
                    0L
                    -step
                    step * 17L
                ] do
                Expect.equal
                    (accepts grammar (string x))
                    (low <= x && x <= high && x % step = 0L)
                    $"{low} {x} {high} {step}"
        | Error _ -> Expect.isFalse (low % step = 0L) "nothing fits"
]

/// Regular expressions with letters that often match.
let private patterns: Gen<string> =
    let atom = Gen.elements [ "a"; "b"; "."; "[ab]"; "[^a]"; "\\d"; "\\w"; "c"; "\\s"; "[a-c1]"; "\\." ]

    let rec expression size =
        if size <= 0 then
            atom
        else
            Gen.oneof [
                atom
                Gen.map2 (fun a b -> a + b) (expression (size / 2)) (expression (size / 2))
                Gen.map2 (fun a b -> $"(?:{a}|{b})") (expression (size / 2)) (expression (size / 2))
                Gen.map2
                    (fun a q -> $"({a}){q}")
                    (expression (size / 2))
                    (Gen.elements [ "*"; "+"; "?"; "{2}"; "{1,3}"; "{2,}"; "*?" ])
            ]

    gen {
        let! first = Gen.elements [ ""; "^" ]
        let! size = Gen.choose (0, 8)
        let! middle = expression size
        let! last = Gen.elements [ ""; "$" ]
        return first + middle + last
    }

let private regexes = [
    testPropertyWithConfig { settings with maxTest = 400 } "a pattern finds what .NET's finds"
    <| Prop.forAll
        (Arb.fromGen (
            Gen.zip patterns (Gen.listOf (Gen.elements [ 'a'; 'b'; 'c'; '1'; '.'; ' '; '\n'; '_' ]))
        ))
        (fun (pattern, letters) ->
            let text = String(Array.ofList letters)
            // $ there stands before a last newline too; and backtracking may take forever over (.)*(.)*.
            let expected = Regex.IsMatch(text, pattern.Replace("$", "\\z"), RegexOptions.NonBacktracking)
            let schema = $"""{{"type":"string","pattern":{JsonText.quote pattern}}}"""
            Expect.equal (accepts (grammarOf schema) (JsonText.quote text)) expected $"{pattern} {text}")

    testCase "patterns by hand" (fun () ->
        let cases = [
            "^[\\u4e00-\\u9fff]{2}$", [ "\u4e2d\u6587" ], [ "\u4e2d"; "ab" ]
            "^\\p{Lu}\\p{Ll}+$", [ "Ab"; "\u00c9\u00e9" ], [ "ab" ]
            "^.$", [ "\U0001F600"; "a" ], [ ""; "ab"; "\n" ]
            "^(a|b$)", [ "ax"; "b" ], [ "bx" ]
            "^[\\w.]+@x\\x2eorg$", [ "a.b@x.org" ], [ "@x.org"; "a@xxorg" ]
            "^\\u{1F600}$", [ "\U0001F600" ], [ "\U0001F601" ]
            "^\\ud83d\\ude00$", [ "\U0001F600" ], [ "\U0001F601" ]
            "", [ ""; "x" ], []
            "a{,2}", [ "a{,2}" ], [ "aa" ]
        ]

        for pattern, inside, outside in cases do
            let grammar = grammarOf $"""{{"type":"string","pattern":{JsonText.quote pattern}}}"""

            for text in inside do
                Expect.isTrue (accepts grammar (JsonText.quote text)) $"{pattern} {text}"

            for text in outside do
                Expect.isFalse (accepts grammar (JsonText.quote text)) $"{pattern} {text}")
]

/// A schema, texts that it allows, and texts that it does not.
let private meanings = [
    "true",
    [
        "1"
        "-0.5e-7"
        "\"\\uD83D\\uDE00\\u00e9\u00e9\""
        "[]"
        "[[], {}]"
        "{\"a\": null, \"\": [1,2]}"
    ],
    [
        ""
        "01"
        "1."
        "[1,]"
        "{,}"
        "\"\\uD83D\""
        "\"\\uDE00\""
        "\"\n\""
        "tru"
        "{\"a\"}"
        "[1  ,2]"
        "\"\\x\""
        "+1"
        " 1"
    ]
    """{"type":"object"}""", [ "{}"; "{\"a\":1}" ], [ "[]"; "1" ]
    """{"type":"object","properties":{}}""", [ "{}" ], [ "{\"a\":1}" ]
    """{"type":["integer","null"]}""", [ "5"; "-12"; "null" ], [ "1.0"; "-0"; "\"\"" ]
    """{"properties":{"b":{"type":"integer"},"a":{}},"required":["b"]}""",
    [ "{\"b\":1}"; "{\"b\":1,\"a\":[]}"; "{\"b\": 1, \"a\": {}}" ],
    [ "{\"a\":1,\"b\":1}"; "{}"; "{\"b\":1,\"c\":1}"; "{\"b\":1,}" ]
    """{"properties":{"b":{}},"additionalProperties":{"type":"boolean"}}""",
    [ "{}"; "{\"b\":1,\"c\":true}"; "{\"c\":true}"; "{\"bb\":true,\"d\":false}" ],
    [ "{\"c\":1}"; "{\"c\":true,\"b\":1}"; "{\"\\u0062\":true}" ]
    """{"type":"object","patternProperties":{"^x_":{"type":"integer"},"^y":{"type":"null"}},"additionalProperties":false}""",
    [ "{}"; "{\"x_a\":1,\"y\":null}"; "{\"x_\":1}" ],
    [ "{\"x_a\":null}"; "{\"z\":1}" ]
    """{"$ref":"#/$defs/tree","$defs":{"tree":{"type":"object","properties":{"kids":{"type":"array","items":{"$ref":"#/$defs/tree"}}},"required":["kids"]}}}""",
    [ "{\"kids\":[]}"; "{\"kids\":[{\"kids\":[]},{\"kids\":[{\"kids\":[]}]}]}" ],
    [ "{}"; "{\"kids\":[[]]}" ]
    """{"allOf":[{"type":"object","properties":{"a":{"minimum":3}}},{"properties":{"a":{"type":"integer"},"b":{"const":null}},"required":["a"]}]}""",
    [ "{\"a\":3}"; "{\"a\":44,\"b\":null}" ],
    [ "{\"a\":2}"; "{\"a\":3.5}"; "{}" ]
    """{"type":"string","enum":["a",1,"b"]}""", [ "\"a\""; "\"b\"" ], [ "1"; "\"c\"" ]
    """{"enum":["ab","abc",12],"minimum":13,"maxLength":2}""", [ "\"ab\"" ], [ "\"abc\""; "12" ]
    """{"const":{"a":[1,{"b":"x"}]}}""",
    [ "{\"a\":[1,{\"b\":\"x\"}]}"; "{\"a\": [1, {\"b\": \"x\"}]}" ],
    [ "{\"a\":[1]}" ]
    """{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":{"type":"null"},"minItems":1,"maxItems":3}""",
    [ "[1]"; "[1,\"\"]"; "[1,\"\",null]" ],
    [ "[]"; "[\"\"]"; "[1,\"\",null,null]"; "[1,null]" ]
    """{"type":"string","minLength":2,"maxLength":3}""",
    [ "\"ab\""; "\"\U0001F600\U0001F600\U0001F600\""; "\"\\uD83D\\uDE00\\n\"" ],
    [ "\"a\""; "\"abcd\"" ]
    """{"type":"string","pattern":"b","minLength":2,"maxLength":3}""",
    [ "\"ab\""; "\"abb\"" ],
    [ "\"b\""; "\"aa\""; "\"abbb\"" ]
    """{"type":"string","format":"date-time"}""",
    [ "\"2024-02-29T00:00:00Z\""; "\"1999-12-31T23:59:59.123+01:30\"" ],
    [
        "\"2023-02-29T00:00:00Z\""
        "\"2024-13-01T00:00:00Z\""
        "\"2024-01-01 00:00:00Z\""
    ]
    """{"type":"string","format":"uuid"}""",
    [ "\"123e4567-e89b-12d3-a456-426614174000\"" ],
    [ "\"123e4567\"" ]
    """{"type":"string","format":"ipv4"}""", [ "\"255.0.10.199\"" ], [ "\"256.0.0.1\""; "\"01.0.0.1\"" ]
    """{"type":"string","format":"ipv6"}""",
    [ "\"::1\""; "\"1:2:3:4:5:6:7:8\""; "\"fe80::1\"" ],
    [ "\"1:2:3\"" ]
    """{"type":"string","format":"email"}""", [ "\"a.b@c-d.org\"" ], [ "\"a@b\""; "\"@b.org\"" ]
    """{"type":"number","multipleOf":0.01,"minimum":0}""", [ "0"; "1.25"; "3.5" ], [ "1.255"; "-1" ]
    """{"type":"integer","multipleOf":400}""", [ "0"; "-800"; "123456789012345600" ], [ "401"; "-1" ]
    """{"anyOf":[{"type":"object","properties":{"k":{"const":"a"},"x":{"type":"integer"}},"required":["k","x"]},{"type":"object","properties":{"k":{"const":"b"},"y":{"type":"null"}},"required":["k","y"]}]}""",
    [ "{\"k\":\"a\",\"x\":1}"; "{\"k\":\"b\",\"y\":null}" ],
    [ "{\"k\":\"a\",\"y\":null}" ]
    """{"type":"object","properties":{"n":{"type":"integer"}},"anyOf":[{"required":["n"]},{"properties":{"m":{"type":"null"}},"required":["m"]}]}""",
    [ "{\"n\":1}"; "{\"n\":1,\"m\":null}"; "{\"m\":null}" ],
    [ "{}" ]
]

let private refusals = [
    """{"not":{}}""", "\"not\" at #"
    """{"properties":{"a":{"type":"array","uniqueItems":true}}}""", "\"uniqueItems\" at #/properties/a"
    """{"properties":{"a/b":{"if":{}}}}""", "\"if\" at #/properties/a~1b"
    """{"maximun":3}""", "\"maximun\" at #"
    """{"type":"text"}""", "#/type is \"text\""
    """{"$ref":"other.json"}""", "other.json"
    """{"$ref":"#/$defs/x"}""", "names #/$defs/x, which is not there"
    """{"$ref":"#"}""", "refers to itself"
    """{"anyOf":[{"$ref":"#"},{"type":"null"}]}""", "refers to itself"
    """{"type":"string","pattern":"(?=a)"}""", "look-around"
    """{"type":"string","pattern":"(a)\\1"}""", "a back-reference"
    """{"type":"string","pattern":"\\bword"}""", "word boundary"
    """{"type":"string","format":"iban"}""", "\"iban\"; these are known: date"
    """{"type":"string","minLength":-1}""", "#/minLength is -1"
    """{"type":"string","pattern":"(a{100}){100}"}""", "more states"
    """{"type":"string","pattern":"((a{1000}){1000}){1000}"}""", "more states"
    """{"type":"string","pattern":"(.*a.{14}b|c)"}""", "more states"
    """{"type":"integer","minimum":3,"maximum":2}""", "no text is valid"
    """{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}""", "no text is valid"
    "false", "no text is valid"
    "[1]", "is no schema"
    "{\"a\"", "not valid JSON"
]

let private byHand = [
    testCase "what schemas mean, by hand" (fun () ->
        for schema, inside, outside in meanings do
            let grammar = grammarOf schema

            for text in inside do
                Expect.isTrue (accepts grammar text) $"{schema} allows {text}"

                if schema <> "true" then
                    Expect.isTrue (isValid schema text) $"and rightly: {schema} {text}"

            for text in outside do
                Expect.isFalse (accepts grammar text) $"{schema} does not allow {text}")

    testCase "what is not served is refused by its name and place, on one line, at once" (fun () ->
        for schema, words in refusals do
            let clock = Diagnostics.Stopwatch.StartNew()

            match JsonSchemaGrammar.compile schema with
            | Ok _ -> failtest $"{schema} is served"
            | Error faults ->
                let message = LayerSkipError.summary faults
                Expect.stringContains message words schema
                Expect.isFalse (message.Contains '\n') "one line"
                // No timing fails a test; what does not end does.
                Expect.isLessThan clock.Elapsed.TotalMinutes 1.0 schema)

    testCase "choices and regular expressions" (fun () ->
        let choices = Grammar.choices [ "yes"; "no"; "not \u00e9" ] |> Check.getOrRaise
        let regex = Grammar.regex "[A-Z]{2}\\d+|x" |> Check.getOrRaise

        for grammar, text, expected in
            [
                choices, "yes", true
                choices, "not \u00e9", true
                choices, "not", false
                regex, "AB12", true
                regex, "x", true
                regex, "AB", false
                regex, "xx", false
            ] do
            Expect.equal (accepts grammar text) expected text

        Expect.isError (Grammar.choices []) "none"
        Expect.isError (Grammar.choices [ "" ]) "empty"
        Expect.isError (Grammar.regex "a(") "open")

    testCase "a token that may not come leaves the grammar, and nothing follows" (fun () ->
        let state = (small Grammar.jsonObject).Advance(int '[')
        Expect.isTrue state.HasLeft "left"
        Expect.isEmpty (allowed smallTokens.Count state) "nothing"
        Expect.isFalse (small Grammar.jsonObject).HasLeft "the one before stays")

    testCase "after its end a text allows the stop ids alone; no grammar goes without" (fun () ->
        let over =
            "{}"
            |> Seq.fold (fun (state: GrammarState) c -> state.Advance(int c)) (small Grammar.jsonObject)
        Expect.isTrue over.IsComplete "complete"
        Expect.equal (allowed smallTokens.Count over) [| stop |] "stop"
        Expect.equal (allowed smallTokens.Count (over.Advance stop)) [| stop |] "and again"
        Expect.isError (Grammar.start Grammar.json smallTokens [||]) "no stop id"
        Expect.isError (Grammar.start Grammar.json (TokenBytes.ofBytes [| utf8 "a" |]) [| 0 |]) "no bytes")

    testCase "texts nested deep, and ambiguous at each level, stay cheap" (fun () ->
        let schema =
            """{"$ref":"#/$defs/a","$defs":{"a":{"anyOf":[{"type":"object","properties":{"x":{"$ref":"#/$defs/a"},"y":{"type":"integer"}}},{"type":"object","properties":{"x":{"$ref":"#/$defs/a"},"z":{"type":"integer"}}}]}}}"""

        let depth = 300
        let grammar = grammarOf schema
        let text = String.replicate depth "{\"x\":" + "{}" + String.replicate depth ",\"z\":1}"
        Expect.isTrue (accepts grammar text) "nested")

    testCase "any JSON, thousands deep" (fun () ->
        Expect.isTrue (accepts Grammar.json (String.replicate 5000 "[" + String.replicate 5000 "]")) "deep")
]

let private overSmol = [
    sharedTest
        "over SmolLM2's vocabulary, masks are what each token's bytes give"
        [ "smollm2-135m-instruct" ]
        (fun _ ->
            let tokens = TokenBytes.ofTokenizer (smol ())
            let single = singles tokens
            let random = Random 7

            for seed in 1..6 do
                let made = made (Random seed) 2
                let grammar = grammarOf (made.Schema.ToJsonString())
                let mutable state = startOf grammar tokens [| 2 |]
                let bytes = utf8 (written " " (made.Instance random))

                for b in bytes do
                    if random.Next 3 = 0 then
                        let mask = maskOf tokens.Count state
                        Expect.isTrue
                            (Array.init tokens.Count (has mask) = brute tokens [| 2 |] state single)
                            "mask"
                    state <- state.Advance single[int b])

    sharedTest
        "over SmolLM2's vocabulary, random texts are valid for their schemas"
        [ "smollm2-135m-instruct" ]
        (fun _ ->
            let tokens = TokenBytes.ofTokenizer (smol ())

            for seed in 1..40 do
                let random = Random seed
                let schema = (made random 3).Schema.ToJsonString()
                let text = walk random tokens.Count 2 tokens.Item (startOf (grammarOf schema) tokens [| 2 |])
                Expect.isTrue (isValid schema (UTF8Encoding(false, true).GetString text)) schema)

    sharedTest
        "special tokens are never allowed, but for stop ids at the end"
        [ "smollm2-135m-instruct" ]
        (fun _ ->
            let tokenizer = smol ()
            let tokens = TokenBytes.ofTokenizer tokenizer
            let single = singles tokens
            let inString =
                "{\"a\":\""
                |> Seq.fold
                    (fun (s: GrammarState) c -> s.Advance single[int c])
                    (startOf Grammar.json tokens [| 2 |])
            let mask = maskOf tokens.Count inString

            for id in 0 .. tokens.Count - 1 do
                if Tokenizer.isSpecial tokenizer id then
                    Expect.isFalse (has mask id) (Tokenizer.tokenText tokenizer id))
]

[<Tests>]
let tests = testList "grammar" (properties @ regexes @ byHand @ overSmol)
