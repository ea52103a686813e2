module LayerSkip.Tests.ToolGrammarTests

open Expecto
open LayerSkip
open LayerSkip.Tests.GrammarSupport

let private tools = [
    "weather", """{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}"""
    "now", """{"type":"object","properties":{}}"""
    "any", ""
]

let private made form several = ToolGrammar.create form several tools |> Check.getOrRaise

[<Tests>]
let tests =
    testList "tool grammar" [
        testCase "a call is written as the template's family writes it" (fun () ->
            let weather = "{\"name\": \"weather\", \"arguments\": {\"city\": \"Bern\"}}"

            let cases = [
                ToolCallForm.Tagged, false, $"<tool_call>\n{weather}\n</tool_call>", true
                ToolCallForm.Tagged,
                false,
                $"<tool_call>\n{weather}\n</tool_call>\n<tool_call>\n{weather}\n</tool_call>",
                false
                ToolCallForm.Tagged,
                true,
                $"<tool_call>\n{weather}\n</tool_call>\n<tool_call>\n{weather}\n</tool_call>",
                true
                ToolCallForm.Tagged, false, weather, false
                ToolCallForm.Listed, false, $"[{weather}]", true
                ToolCallForm.Listed, true, $"[{weather}, {weather}]", true
                ToolCallForm.Listed, true, "[]", false
                ToolCallForm.Parameters, false, weather.Replace("arguments", "parameters"), true
                ToolCallForm.Parameters, false, weather, false
                ToolCallForm.Listed, false, "[{\"name\":\"now\",\"arguments\":{}}]", true
                ToolCallForm.Listed, false, "[{\"name\":\"now\",\"arguments\":{\"city\":\"\"}}]", false
                ToolCallForm.Listed, false, "[{\"name\":\"weather\",\"arguments\":{}}]", false
                ToolCallForm.Listed, false, "[{\"name\":\"other\",\"arguments\":{}}]", false
                ToolCallForm.Listed, false, "[{\"name\":\"any\",\"arguments\":{\"x\":[1]}}]", true
            ]

            for form, several, text, expected in cases do
                Expect.equal (accepts (made form several) text) expected $"{form} {text}")

        testCase "templates show their form" (fun () ->
            for template, form in
                [
                    "{{ '<tool_call>' }}", ToolCallForm.Tagged
                    "[TOOL_CALLS]", ToolCallForm.Listed
                    "{\"name\": function name, \"parameters\": dictionary}", ToolCallForm.Parameters
                    "{{ messages }}", ToolCallForm.Tagged
                ] do
                Expect.equal (ToolGrammar.formOf template) form template)

        testCase "faults name the tool, all at once" (fun () ->
            match ToolGrammar.create ToolCallForm.Listed false [ "a", "{\"not\":{}}"; "b", "[" ] with
            | Ok _ -> failtest "served"
            | Error faults ->
                let message = LayerSkipError.summary faults
                Expect.stringContains message "tool a: JSON schema" "a"
                Expect.stringContains message "tool b: JSON schema" "b"

            Expect.isError (ToolGrammar.create ToolCallForm.Listed false []) "no tool")
    ]
