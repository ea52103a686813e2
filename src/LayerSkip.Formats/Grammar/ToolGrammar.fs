namespace LayerSkip

open System
open System.Text.Json

/// How a family of models writes a call of a tool.
[<RequireQualifiedAccess>]
type ToolCallForm =
    /// Hermes', Qwen's and SmolLM's: {"name": ..., "arguments": ...} on a line between `<tool_call>` and `</tool_call>`.
    | Tagged
    /// Llama 3.1's and later: {"name": ..., "parameters": ...}, one call alone.
    | Parameters
    /// Mistral's: a list of {"name": ..., "arguments": ...}, without the special token that a text cannot have.
    | Listed

/// Grammars of calls that must be made: OpenAI's tool_choice "required", or a tool by name. `ToolCalls.read` finds the calls in
/// such a text.
[<RequireQualifiedAccess>]
module ToolGrammar =
    /// The form that a chat template (its Jinja source) asks for; Hermes' where it shows none.
    let formOf (template: string) : ToolCallForm =
        let has (text: string) = template.Contains(text, StringComparison.Ordinal)

        if has "<tool_call>" then
            ToolCallForm.Tagged
        elif has "[TOOL_CALLS]" then
            ToolCallForm.Listed
        elif has "\"parameters\"" || has "python_tag" then
            ToolCallForm.Parameters
        else
            ToolCallForm.Tagged

    let private ofTool (name: string) (fault: LayerSkipError) : LayerSkipError =
        match fault with
        | LayerSkipError.BadFile(what, fault) -> LayerSkipError.BadFile($"tool {name}: {what}", fault)
        | LayerSkipError.Unsupported(what, hint) -> LayerSkipError.Unsupported($"tool {name}: {what}", hint)
        | fault -> fault

    let private call
        (argumentsName: string)
        (name: string, parameters: string)
        : Result<Grammar, LayerSkipError list> =
        JsonSchemaGrammar.compile (
            if String.IsNullOrWhiteSpace parameters then
                """{"type":"object"}"""
            else
                parameters
        )
        |> Result.mapError (List.map (ofTool name))
        |> Result.map (fun arguments ->
            let name = GrammarPart.Text(JsonText.literal (JsonText.quote name))
            Grammar(JsonParts.object [ "name", name, true; argumentsName, arguments.Root, true ] None))

    /// The texts that call one of the tools, each a name with the JSON schema of its arguments; several calls one after the
    /// other where `several` is set and the form has that. Errors: no tool, or a schema that we do not serve.
    let create
        (form: ToolCallForm)
        (several: bool)
        (tools: (string * string) list)
        : Result<Grammar, LayerSkipError list> =
        let argumentsName =
            if form = ToolCallForm.Parameters then
                "parameters"
            else
                "arguments"

        if tools.IsEmpty then
            Check.unsupported "a tool call without tools" "name a tool, or ask for none"
        else
            tools
            |> List.map (call argumentsName)
            |> Check.list
            |> Result.map (fun calls ->
                let one = (Grammar.either calls).Root
                let text value = GrammarPart.Text(JsonText.literal value)

                let all =
                    match form with
                    | ToolCallForm.Parameters -> one
                    | ToolCallForm.Listed -> JsonParts.arrayOf one 1 (if several then -1 else 1)
                    | ToolCallForm.Tagged ->
                        let tagged =
                            GrammarPart.sequence [ text "<tool_call>\n"; one; text "\n</tool_call>" ]
                        let more = GrammarPart.Repeat(GrammarPart.Both(text "\n", tagged), 0, -1)
                        if several then GrammarPart.Both(tagged, more) else tagged

                Grammar all)
