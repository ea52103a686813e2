module LayerSkip.Server.Tests.FaultTests

open System
open System.Text.Json
open Expecto
open FsCheck
open LayerSkip.Server
open LayerSkip.Server.Tests.ServerSupport

let private message (path: string) (body: string) = text "message" (refusal 400 (post path body))

/// Fields that are each at fault by itself, as different parts find it, with what a message says of it.
let private wrong = [
    "temperature", "-1", "\"temperature\" must be"
    "draft_length", "0", "\"draft_length\" must be"
    "seed", "\"x\"", "\"seed\" must be"
    "exit_layer", "99", "exit layer is 99"
    "logit_bias", """{"99999": 1}""", "\"logit_bias\" has 99999"
    "stop_token_ids", "[99999]", "\"stop_token_ids\" has 99999"
    "prompt", "[88888]", "88888"
    "response_format",
    """{"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}""",
    "\"nothing\""
]

[<Tests>]
let tests =
    testList "faults" [
        testPropertyWithConfig
            { FsCheckConfig.defaultConfig with maxTest = 40 }
            "all faults of a request come in one message, whoever finds them, and no others"
        <| fun (chosen: bool[]) ->
            let isWrong place = place < chosen.Length && chosen[place]
            let fields = [ for place, field in List.indexed wrong -> field, isWrong place ]

            let body =
                fields
                |> List.choose (fun ((name, value, _), isWrong) ->
                    match name with
                    | _ when isWrong -> Some $"\"{name}\": {value}"
                    | "prompt" -> Some "\"prompt\": \"a\""
                    | _ -> None)
                |> String.concat ", "

            if List.exists snd fields then
                let told = message "/v1/completions" $"""{{{body}, "max_tokens": 1}}"""

                for (name, _, says), isWrong in fields do
                    Expect.equal (told.Contains says) isWrong $"{name}: {told}"

        testCase
            "of a conversation too, whose prompt is not judged where its messages are at fault"
            (fun () ->
                let told =
                    message
                        "/v1/chat/completions"
                        """{"messages": [{"role": "king", "content": "x"}], "exit_layer": 99, "max_tokens": 0}"""

                for part in [ "\"king\""; "exit layer is 99"; "\"max_tokens\"" ] do
                    Expect.stringContains told part told

                Expect.equal (told.Split("; ").Length) 3 told)

        testCase "what follows from a fault is none of its own" (fun () ->
            for fields in
                [
                    """"policy": "dell", "drafter": "lookup", "exit_layer": 99"""
                    """"drafter": "layrs", "layers_kept": "1-4", "exit_layer": 99"""
                    """"strategy": "early", "draft_length": 4, "exit_layer": 99"""
                ] do
                let told = message "/v1/completions" $"""{{"prompt": "a", {fields}}}"""
                Expect.equal (told.Split("; ").Length) 2 told
                Expect.stringContains told "exit layer is 99" "and what is wrong by itself"

            let told =
                message
                    "/v1/completions"
                    """{"prompt": "a", "drafter": "lookup", "exit_layer": 2, "stop_rule": "confidence:0.6", "draft_length": 4}"""

            Expect.equal (told.Split("; ").Length) 2 told)

        testCase "a fault shows what was sent" (fun () ->
            for path, fields, shown in
                [
                    "", """"strategy": "speculate" """, "but is \"speculate\""
                    "", """"policy": "dell" """, "but is \"dell\""
                    "", """"drafter": "Exit" """, "but is \"Exit\""
                    "",
                    """"draft_vocabulary": "many" """,
                    "a number of ids, \"auto\" or \"all\", but is \"many\""
                    "", """"stop_rule": "entropie:1" """, "\"stop_rule\" is entropie:1"
                    "", """"temperature": "warm" """, "but is \"warm\""
                    "", """"max_tokens": [] """, "but is an empty list"
                    "", """"response_format": {"type": "xml"} """, "but is \"xml\""
                    "chat/", """"response_format": {"type": "xml"} """, "but is \"xml\""
                    "chat/", """"tools": [{"type": "web"}] """, "but is \"web\""
                    "chat/", """"tool_choice": "sometimes" """, "but is \"sometimes\""
                    "chat/", """"messages": [{"role": "king", "content": "x"}] """, "but is \"king\""
                    "chat/",
                    """"messages": [{"role": "user", "content": [{"type": "image_url"}]}] """,
                    "is \"image_url\""
                ] do
                let told = message $"/v1/{path}completions" $"""{{"prompt": "a", {fields}}}"""
                Expect.stringContains told shown fields

            Expect.stringContains
                (message "/v1/completions" """{"prompt": []}""")
                "is an empty list"
                "prompt")

        testProperty "a message is one short line, whatever text a field was given"
        <| fun (NonNull(value: string)) (PositiveInt times) ->
            let value = String.replicate (times % 100) value + "\u001b[31m\n\u202e"
            let reader = RequestReader(JsonDocument.Parse($"""{{"x": {quoted value}}}""").RootElement)
            reader.Word("x", [ "a", 1 ]) |> ignore
            let told = (List.exactlyOne reader.Faults).Text
            Expect.isFalse
                (told |> Seq.exists (fun letter -> Char.IsControl letter || letter = '\u202e'))
                told
            Expect.isLessThan told.Length 600 "short"
    ]
