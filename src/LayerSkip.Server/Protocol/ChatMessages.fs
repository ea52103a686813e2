namespace LayerSkip.Server

open System.Text.Json
open LayerSkip

/// Reads "messages" and "tools".
[<RequireQualifiedAccess>]
module internal ChatMessages =
    let private roles =
        [ "system"; "developer"; "user"; "assistant"; "tool" ]
        |> List.map (fun word -> word, ChatMessage.roleOf word)

    /// The text of parts, a line each; a part of another kind than text is a fault.
    let private parts (reader: RequestReader) : string =
        reader.Objects "content"
        |> Option.defaultValue []
        |> List.map (fun part ->
            match part.Text "type" with
            | Some "text" ->
                match part.Text "text" with
                | Some text -> text
                | None ->
                    part.Fault("text", "is missing; it must be a text")
                    ""
            | Some kind ->
                part.Fault("type", $"is {Fault.quoted kind}; only text is read here")
                ""
            | None ->
                part.Fault("type", "is missing; it must be \"text\"")
                "")
        |> String.concat "\n"

    let private content (reader: RequestReader) (mayBeAbsent: bool) : string =
        match reader.TryField "content" with
        | None ->
            if not mayBeAbsent then
                reader.Fault("content", "is missing; it must be a text, or a list of parts of type text")

            ""
        | Some value when value.ValueKind = JsonValueKind.Array -> parts reader
        | Some _ -> reader.Text "content" |> Option.defaultValue ""

    let private required (reader: RequestReader) (name: string) : string =
        reader.Required(name, "a text", reader.Text) |> Option.defaultValue ""

    let private call (reader: RequestReader) : ToolCall =
        match reader.Object "function" with
        | Some named -> {
            Id = reader.Text "id"
            Name = required named "name"
            Arguments = required named "arguments"
          }
        | None ->
            if reader.TryField("function").IsNone then
                reader.Fault("function", "is missing; it must be an object with name and arguments")

            { Id = None; Name = ""; Arguments = "" }

    let private message (reader: RequestReader) : ChatMessage =
        let role =
            match reader.TryField "role" with
            | None ->
                reader.Fault("role", "is missing; it must be system, user, assistant or tool")
                None
            | Some _ -> reader.Word("role", roles)

        let calls = reader.Objects "tool_calls" |> Option.defaultValue [] |> List.map call

        {
            Role = defaultArg role "user"
            Content = content reader (role = Some "assistant" && not calls.IsEmpty)
            ToolCalls = calls
            ToolCallId = reader.Text "tool_call_id"
            Name = reader.Text "name"
        }

    /// One or more.
    let read (reader: RequestReader) : ChatMessage list =
        match reader.TryField "messages" with
        | None ->
            reader.Fault("messages", "is missing; it must be a list of messages")
            []
        | Some _ ->
            match reader.Objects "messages" with
            | Some [] ->
                reader.Fault("messages", "is empty; it must have a message or more")
                []
            | messages -> messages |> Option.defaultValue [] |> List.map message

    let private tool (reader: RequestReader) : ChatTool =
        reader.Required("type", "\"function\"", fun name -> reader.Word(name, [ "function", () ]))
        |> ignore

        match reader.Required("function", "an object with name", reader.Object) with
        | Some named -> {
            Name = required named "name"
            Description = named.Text "description"
            Parameters =
                match named.Object "parameters" with
                | Some _ -> (named.TryField "parameters").Value.GetRawText()
                | None -> ChatTool.noParameters
          }
        | None -> { Name = ""; Description = None; Parameters = "{}" }

    /// The tools that the model may ask for, none where there are none.
    let tools (reader: RequestReader) : ChatTool list =
        reader.Objects "tools" |> Option.defaultValue [] |> List.map tool

    let private variables (reader: RequestReader) : (string * JsonElement) list =
        match reader.Object "chat_template_kwargs", reader.TryField "chat_template_kwargs" with
        // What of them is kept outlives the request's body.
        | Some _, Some given -> [ for field in given.EnumerateObject() -> field.Name, field.Value.Clone() ]
        | _ -> []

    /// These messages and tools as the chat template is given them, with what the request says of how it ends.
    let conversation
        (messages: ChatMessage list)
        (tools: ChatTool list)
        (reader: RequestReader)
        : ChatRequest =
        let continues = reader.Flag "continue_final_message"
        let prompts = reader.Flag("add_generation_prompt", not continues)

        if continues && prompts then
            reader.Fault("continue_final_message", "does not go with add_generation_prompt")

        {
            ChatRequest.ofMessages messages with
                Tools = tools
                AddGenerationPrompt = prompts
                ContinueFinal = continues
                Extra = variables reader
        }
