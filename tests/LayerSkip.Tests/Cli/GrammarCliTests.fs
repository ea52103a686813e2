/// `generate` under a grammar.
module LayerSkip.Tests.GrammarCliTests

open System.IO
open System.Text.Json
open Expecto
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.Support

let private stories = Path.Combine(root, "models", "stories-10m")
let private made options = generate stories ([ "--prompt"; "Once" ] @ count 100 @ options)
let private textOf (result: JsonElement) = (result.GetProperty "text").GetString()
let private finish (result: JsonElement) = (result.GetProperty "finish_reason").GetString()
let private schema =
    """{"type":"object","properties":{"n":{"type":"integer","minimum":10,"maximum":99}},"required":["n"]}"""

let private refused (name: string) (options: string list) (words: string list) =
    testCase name (fun () ->
        [ "generate"; "--model"; stories; "--prompt"; "Once" ] @ options |> refuses words)

[<Tests>]
let tests =
    testList "command line: grammars" [
        testCase "the text is JSON for its schema, given as text or file" (fun () ->
            withFolder (fun folder ->
                let file = Path.Combine(folder, "schema.json")
                File.WriteAllText(file, schema)
                let result = made [ "--json-schema"; schema ]
                use document = JsonDocument.Parse(textOf result)
                let n = (document.RootElement.GetProperty "n").GetInt32()
                Expect.isTrue (n >= 10 && n <= 99) "within bounds"
                Expect.equal (finish result) "stop" "it ends"
                Expect.equal
                    (tokenIds (made [ "--json-schema"; file ]))
                    (tokenIds result)
                    "the same of a file"

                let plain = made [ "--json-schema"; schema; "--strategy"; "autoregressive" ]
                Expect.equal (tokenIds plain) (tokenIds result) "and plain decoding's"))

        testCase "an object, choices and a regular expression" (fun () ->
            Expect.stringStarts (textOf (made [ "--json-object" ])) "{" "an object"
            Expect.contains [ "yes"; "no" ] (textOf (made [ "--choices"; "yes,no" ])) "a choice"
            Expect.isMatch
                (textOf (made [ "--regex"; "[A-Z]{3}-[0-9]{2}" ]))
                "^[A-Z]{3}-[0-9]{2}$"
                "a pattern")

        testCase "what is cut has finish_reason length" (fun () ->
            let cut = generate stories ([ "--prompt"; "Once" ] @ count 2 @ [ "--json-schema"; schema ])
            Expect.equal (finish cut) "length" "cut"
            let outcome =
                cli (
                    [ "generate"; "--model"; stories; "--prompt"; "Once"; "--json-schema"; schema ] @ count 2
                )
            Expect.stringContains outcome.Error "before its grammar let it end" "and it is said")

        refused "a schema that is not JSON" [ "--json-schema"; "{\"type\"" ] [
            "JSON schema"
            "not valid JSON"
        ]
        refused "a keyword that is not served" [ "--json-schema"; """{"properties":{"a":{"not":{}}}}""" ] [
            "\"not\""
            "#/properties/a"
        ]
        refused "a schema file that is not there" [ "--json-schema"; "/nowhere/s.json" ] [
            "/nowhere/s.json"
            "not found"
        ]
        refused "two grammars" [ "--json-object"; "--choices"; "a,b" ] [
            "--json-object"
            "--choices"
            "exclude"
        ]
        refused "a grammar that nothing ends" [ "--json-object"; "--ignore-eos" ] [
            "--ignore-eos"
            "exclude"
        ]
        refused "no choices" [ "--choices"; "" ] [ "choices" ]
        refused "a regular expression with look-around" [ "--regex"; "(?=a)b" ] [ "look-around" ]
        testCase "a model without a tokenizer" (fun () ->
            withModel (fun folder ->
                [ "generate"; "--model"; folder ] @ ids @ [ "--json-object" ] |> refuses [ "tokenizer" ]))
    ]
