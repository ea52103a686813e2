/// Where templates come from, requests, and calls of tools in answers.
module LayerSkip.Tests.ChatFilesTests

open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.ChatSupport
open LayerSkip.Tests.TokenizerSupport

let private tokenizerJson = byteJson [ $"\"pre_tokenizer\": {byteStage}" ] []

let private templatesOf (files: (string * string) list) =
    inFolder ([ "tokenizer.json", tokenizerJson ] @ files) (fun folder ->
        Tokenizer.tryLoad folder |> Check.getOrRaise |> Option.get |> Tokenizer.chatTemplates)

let private whole template request =
    ChatTemplate.render request ownTokens template |> Result.map MarkedText.text

let private weather = {
    Name = "get_weather"
    Description = Some "The weather."
    Parameters = """{"type": "object", "properties": {"place": {"type": "string"}}}"""
}

[<Tests>]
let tests =
    testList "chat files" [
        testCase
            "tokenizer_config.json has one template, or several by name; a file of its own goes before it"
            (fun () ->
                let config = "tokenizer_config.json"
                Expect.equal (templatesOf [ config, """{"chat_template": "a"}""" ]) [ "default", "a" ] "one"

                let several =
                    """{"chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}, 3, {"name": "x"}]}"""

                Expect.equal (templatesOf [ config, several ]) [ "default", "a"; "tool_use", "b" ] "several"
                Expect.equal
                    (templatesOf [ config, several; "chat_template.jinja", "c" ])
                    [ "default", "c" ]
                    "a file"
                Expect.equal (templatesOf [ "chat_template.jinja", "c" ]) [ "default", "c" ] "a file alone"
                Expect.equal (templatesOf []) [] "none")

        testCase "a folder of templates is read by their names" (fun () ->
            inFolder [ "tokenizer.json", tokenizerJson; "chat_template.jinja", "c" ] (fun folder ->
                let others = Directory.CreateDirectory(Path.Combine(folder, "additional_chat_templates"))
                File.WriteAllText(Path.Combine(others.FullName, "tool_use.jinja"), "t")
                let tokenizer = Tokenizer.tryLoad folder |> Check.getOrRaise |> Option.get
                Expect.equal (Tokenizer.chatTemplates tokenizer) [ "default", "c"; "tool_use", "t" ] "both"))

        testCase "a GGUF file has them under keys, and an export keeps them" (fun () ->
            let metadata =
                byteGguf "gpt-2"
                |> Map.add "tokenizer.chat_template" (GgufValue.Text "a")
                |> Map.add "tokenizer.chat_template.tool_use" (GgufValue.Text "b")

            let tokenizer = ofGguf metadata
            let named = [ "default", "a"; "tool_use", "b" ]
            Expect.equal (Tokenizer.chatTemplates tokenizer) named "by key"
            let again =
                GgufTokenizerExport.ofTokenizer byteTokens.Length [||] tokenizer
                |> Check.getOrRaise
                |> Map.ofList
            Expect.equal (Tokenizer.chatTemplates (ofGguf again)) named "as GGUF"

            inFolder [] (fun folder ->
                Expect.isTrue
                    (TokenizerJsonExport.tryWrite folder tokenizer |> Check.getOrRaise)
                    "is written"
                let made = Tokenizer.tryLoad folder |> Check.getOrRaise |> Option.get
                Expect.equal (Tokenizer.chatTemplates made) named "as a folder"))

        testCase "a template for tools is taken where there are tools" (fun () ->
            let template =
                ChatTemplate.ofNamed "test" [ "default", "plain"; "tool_use", "tools: {{ tools | length }}" ]
                |> Check.getOrRaise
            let request = ChatRequest.ofMessages [ ChatMessage.user "x" ]
            Expect.equal (whole template request) (Ok "plain") "without"
            Expect.equal (whole template { request with Tools = [ weather ] }) (Ok "tools: 1") "with")

        testCase "tools and calls are what templates expect of transformers" (fun () ->
            let call = {
                Id = Some "c1"
                Name = "get_weather"
                Arguments = """{"place": "Rome", "days": 2.0}"""
            }
            let asked = { ChatMessage.assistant "" with ToolCalls = [ call ] }
            let request = { ChatRequest.ofMessages [ asked ] with Tools = [ weather ] }
            let template = parse "{{ tools[0] | tojson }}\n{{ messages[0].tool_calls[0] | tojson }}"

            Expect.equal
                (whole template request)
                (Ok
                    """{"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}}}
{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"place": "Rome", "days": 2.0}}}""")
                "as JSON"

            let broken = {
                request with
                    Messages = [ { asked with ToolCalls = [ { call with Arguments = "{oh" } ] } ]
            }
            Expect.equal
                (whole (parse "{{ messages[0].tool_calls[0].function.arguments }}") broken)
                (Ok "{oh")
                "no JSON stays text"
            let faults = whole template { request with Tools = [ { weather with Parameters = "[" } ] }
            Expect.isTrue (Result.isError faults) "parameters that are no object")

        testCase "more variables go before the request's own" (fun () ->
            let extra = [
                "enable_thinking", JsonDocument.Parse("false").RootElement
                "tools", JsonDocument.Parse("[1]").RootElement
            ]
            let request = { ChatRequest.ofMessages [ ChatMessage.user "x" ] with Extra = extra }
            Expect.equal (whole (parse "{{ enable_thinking }}{{ tools }}") request) (Ok "False[1]") "both")

        testCase "a message to be continued ends the text" (fun () ->
            let template = parse (templateOf "smollm2-135m-instruct")
            let request said = {
                ChatRequest.ofMessages [ ChatMessage.user "Count."; ChatMessage.assistant said ] with
                    ContinueFinal = true
            }

            let ends said = whole template (request said) |> Result.defaultWith (fun _ -> failtest "refused")
            Expect.stringEnds (ends "One, two,") "<|im_start|>assistant\nOne, two," "without the turn's end"
            Expect.stringEnds (ends "One, two, ") "assistant\nOne, two, " "with its last space"
            let refused = whole (parse "nothing") (request "One")
            Expect.isTrue (Result.isError refused) "a template that does not write it")

        testCase "a refusal says where, in one line" (fun () ->
            let message source =
                match
                    ChatTemplate.parse "m/tokenizer_config.json" source
                    |> Result.bind (fun t -> whole t (ChatRequest.ofMessages [ ChatMessage.user "x" ]))
                with
                | Ok text -> failtest text
                | Error faults -> LayerSkipError.summary faults

            Expect.equal
                (message "\n {{ messages | shout }}")
                "m/tokenizer_config.json: the chat template, line 2, column 16: no filter shout is known here"
                "a filter"
            Expect.equal
                (message "{% if %}")
                "m/tokenizer_config.json: the chat template, line 1, column 7: a value is expected, not the end of the tag"
                "no expression"
            Expect.equal
                (message "{{ raise_exception('No!') }}")
                "the model's chat template refuses these messages: No!"
                "its own words")

        testCase "calls are found in what the known families write" (fun () ->
            let call arguments = { Id = None; Name = "f"; Arguments = arguments }

            for text, expected in
                [
                    "Let me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
                    ("Let me see.", [ call "{\"a\": 1}"; call "{}" ])
                    "<tool_call>\n{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}",
                    ("", [ call "{\"a\": 1}" ])
                    "{\"name\": \"f\", \"parameters\": {\"a\": \"}\"}}", ("", [ call "{\"a\": \"}\"}" ])
                    "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"f\", \"parameters\": {\"b\": 2}}",
                    ("", [ call "{}"; call "{\"b\": 2}" ])
                    "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": []}, \"id\": \"abc\"}]",
                    ("", [ { call "{\"a\": []}" with Id = Some "abc" } ])
                    "[{\"name\": \"f\", \"arguments\": {}}]", ("", [ call "{}" ])
                    "Sure. [TOOL_CALLS]f[ARGS]{\"a\": 1}", ("Sure.", [ call "{\"a\": 1}" ])
                    "Nothing to call.", ("Nothing to call.", [])
                    "{\"answer\": 42}", ("{\"answer\": 42}", [])
                    "{\"name\": \"f\", \"arguments\": {} and more",
                    ("{\"name\": \"f\", \"arguments\": {} and more", [])
                    "<tool_call>broken</tool_call>", ("<tool_call>broken</tool_call>", [])
                ] do
                Expect.equal (ToolCalls.read text) expected text)

        testProperty "any answer without calls stays, and nothing throws"
        <| fun (pieces: int list) ->
            let parts = [|
                "<tool_call>"
                "</tool_call>"
                "{"
                "}"
                "\"name\""
                ":"
                "\"f\""
                ","
                "[TOOL_CALLS]"
                "<|python_tag|>"
                " "
                "["
                "]"
                "x"
            |]
            let text = pieces |> List.map (fun i -> parts[abs (i % parts.Length)]) |> String.concat ""

            match ToolCalls.read text with
            | kept, [] -> kept.Trim() = text.Trim()
            | _ -> true
    ]
