namespace LayerSkip

open System
open System.Numerics
open System.Text.Json

/// A model's chat template, read: the usual one, and others by name as models have them for tools. Immutable; threads may share it.
[<NoEquality; NoComparison>]
type ChatTemplate = internal {
    Place: string
    /// By name; "default" is what is taken where the request asks for nothing else.
    Named: Map<string, JinjaTemplate>
    Sources: Map<string, string>
}

/// Chat templates are Jinja, rendered as transformers' apply_chat_template does: trim_blocks, lstrip_blocks, loop controls,
/// an immutable sandbox. What our interpreter does not know is an error that says where.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module ChatTemplate =
    let private fault (place: string) (name: string) (at: JinjaPlace) (what: string) : LayerSkipError =
        let which =
            if name = "default" then
                "the chat template"
            else
                $"the chat template {name}"
        LayerSkipError.BadFile(place, $"{which}, line {at.Line}, column {at.Column}: {what}")

    /// Templates by name, of which one is "default" or the only one; `place` says in errors where they come from.
    let ofNamed
        (place: string)
        (sources: (string * string) list)
        : Result<ChatTemplate, LayerSkipError list> =
        let parsed (name, source) =
            try
                Ok(name, JinjaTemplate.parse source)
            with JinjaFault(at, what) ->
                Error [ fault place name at what ]

        match sources with
        | [] -> Error [ LayerSkipError.NoChatTemplate place ]
        | sources ->
            sources
            |> List.map parsed
            |> Check.list
            |> Result.map (fun named -> {
                Place = place
                Named = Map.ofList named
                Sources = Map.ofList sources
            })

    /// One template.
    let parse (place: string) (source: string) : Result<ChatTemplate, LayerSkipError list> =
        ofNamed place [ "default", source ]

    // As transformers chooses.
    let private choose (request: ChatRequest) (template: ChatTemplate) : string =
        if not request.Tools.IsEmpty && template.Named.ContainsKey "tool_use" then
            "tool_use"
        elif template.Named.ContainsKey "default" then
            "default"
        else
            template.Named |> Seq.head |> _.Key

    /// The text of the usual template, as the model's files have it.
    let source (template: ChatTemplate) : string =
        template.Sources[choose (ChatRequest.ofMessages []) template]

    /// Whether a template makes use of tools: it names the variable.
    let takesTools (template: ChatTemplate) : bool =
        template.Named.ContainsKey "tool_use"
        || template.Sources
           |> Map.exists (fun _ source -> source.Contains("tools", StringComparison.Ordinal))

    // Templates write these into special tokens, as '<|' + role + '|>'; any other role is somebody's words.
    let private ownRoles =
        set [
            "system"
            "user"
            "assistant"
            "tool"
            "developer"
            "function"
            "ipython"
            "model"
        ]

    let private typed (text: string) : Value = Value.Text(Marked.typed text)

    /// A value of JSON, whose texts are typed.
    let rec internal ofJson (element: JsonElement) : Value =
        match element.ValueKind with
        | JsonValueKind.String -> typed (element.GetString())
        | JsonValueKind.True -> Value.Bool true
        | JsonValueKind.False -> Value.Bool false
        | JsonValueKind.Number ->
            let raw = element.GetRawText()

            if raw.AsSpan().IndexOfAny('.', 'e', 'E') >= 0 then
                Value.Float(element.GetDouble())
            elif raw.Length > 1000 then
                Value.fail "a number of more than 1000 digits"
            else
                Value.Int(BigInteger.Parse(raw, Globalization.CultureInfo.InvariantCulture))
        | JsonValueKind.Array -> Value.List [| for item in element.EnumerateArray() -> ofJson item |]
        | JsonValueKind.Object ->
            Value.Dict(
                Value.dict (
                    seq {
                        for field in element.EnumerateObject() ->
                            struct (typed field.Name, ofJson field.Value)
                    }
                )
            )
        | _ -> Value.None

    let private dict (fields: (string * Value) list) : Value =
        Value.Dict(Value.dict (fields |> Seq.map (fun (name, value) -> struct (Value.text name, value))))

    let private parsed (what: string) (text: string) : Result<JsonElement, LayerSkipError list> =
        match Json.parse (Text.Encoding.UTF8.GetBytes text) with
        | Ok document when document.RootElement.ValueKind = JsonValueKind.Object -> Ok document.RootElement
        | Ok _ -> Check.outOfRange what (Printable.cut 60 text) "a JSON object"
        | Error fault -> Check.outOfRange what (Printable.cut 60 text) $"a JSON object; it is {fault}"

    let private call (call: ToolCall) : Value =
        // What a model wrote may be no JSON; templates are given it as it is then.
        let arguments =
            match parsed "" call.Arguments with
            | Ok arguments -> ofJson arguments
            | Error _ -> typed call.Arguments

        dict [
            for id in Option.toList call.Id do
                "id", typed id
            "type", Value.text "function"
            "function", dict [ "name", typed call.Name; "arguments", arguments ]
        ]

    let private message (message: ChatMessage) : Value =
        let role =
            if ownRoles.Contains message.Role then
                Value.text message.Role
            else
                typed message.Role

        dict [
            "role", role
            "content", typed message.Content
            if not message.ToolCalls.IsEmpty then
                "tool_calls", Value.List [| for asked in message.ToolCalls -> call asked |]
            for id in Option.toList message.ToolCallId do
                "tool_call_id", typed id
            for name in Option.toList message.Name do
                "name", typed name
        ]

    let private tool (tool: ChatTool) : Result<Value, LayerSkipError list> =
        parsed $"the parameters of tool {tool.Name}" tool.Parameters
        |> Result.map (fun parameters ->
            dict [
                "type", Value.text "function"
                "function",
                dict [
                    "name", typed tool.Name
                    for description in Option.toList tool.Description do
                        "description", typed description
                    "parameters", ofJson parameters
                ]
            ])

    /// The text up to the end of the last message's content, as transformers cuts it for a message that is to be continued.
    let private upToFinal (request: ChatRequest) (text: Marked) : Result<Marked, LayerSkipError list> =
        let strip left right =
            (JinjaText.trim left right None (Marked.trusted (List.last request.Messages).Content)).Text
        let inner, kept = strip true true, strip true false

        match text.Text.LastIndexOf(inner, StringComparison.Ordinal) with
        | -1 ->
            Error [
                LayerSkipError.ChatRefused
                    "the template does not write the last message as it is, so it cannot be continued"
            ]
        | at when String.CompareOrdinal(text.Text, at, kept, 0, kept.Length) = 0 ->
            Ok(Marked.sub 0 (at + kept.Length) text)
        | at -> Ok(Marked.sub 0 (at + inner.Length) text)

    /// What the model is prompted with. `specials`: variables of the model's special tokens, as "bos_token", "<s>". What the
    /// messages hold is typed, what the template writes is trusted. An error where the template refuses the messages or asks
    /// for what we do not know.
    let render
        (request: ChatRequest)
        (specials: (string * string) list)
        (template: ChatTemplate)
        : Result<MarkedText, LayerSkipError list> =
        let name = choose request template

        let variables (tools: Value list) (_: Work) = [
            for name, text in specials do
                name, Value.text text

            "messages", Value.List [| for said in request.Messages -> message said |]
            "tools",
            (if tools.IsEmpty then
                 Value.None
             else
                 Value.List(Array.ofList tools))
            "documents", Value.None
            "add_generation_prompt", Value.Bool(request.AddGenerationPrompt && not request.ContinueFinal)

            for name, value in request.Extra do
                name, ofJson value
        ]

        if request.ContinueFinal && request.Messages.IsEmpty then
            Error [ LayerSkipError.ChatRefused "there is no message to continue" ]
        else
            request.Tools
            |> List.map tool
            |> Check.list
            |> Result.bind (fun tools ->
                try
                    Ok(JinjaTemplate.render request.Now (variables tools) template.Named[name])
                with
                | JinjaFault(at, what) -> Error [ fault template.Place name at what ]
                | JinjaRefusal why -> Error [ LayerSkipError.ChatRefused why ])
            |> Result.bind (fun text ->
                if request.ContinueFinal then
                    upToFinal request text
                else
                    Ok text)
            |> Result.map Marked.toText
