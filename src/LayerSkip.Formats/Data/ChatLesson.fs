namespace LayerSkip

open System.Text.Json

/// A conversation to learn from.
type ChatLesson = {
    /// Where it stands in its file, as "line 3".
    Place: string
    Messages: ChatMessage list
    /// Which of the messages are learned, by their numbers from 0, ascending, at least one: the assistant's, each of which answers
    /// something.
    Learned: int list
    Tools: ChatTool list
}

/// Conversations as OpenAI's fine-tuning files, TRL and torchtune have them: "messages" of "role" and "content", with "tool_calls" and
/// "tools" as in requests.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module internal ChatLesson =
    /// A text, or the texts of parts, a line each.
    let private content (part: JsonPart) : string =
        let textOf (item: JsonPart) =
            match (item.Field "type").Text with
            | "text" -> (item.Field "text").Text
            | kind -> (item.Field "type").Fault $"is {Printable.cut 40 kind}; only text is learned from"

        match part.Kind with
        | JsonValueKind.String -> part.Text
        | JsonValueKind.Array -> part.Items |> Seq.map textOf |> String.concat "\n"
        | _ -> part.Fault "must be a text, or a list of parts of type text"

    /// An object as text; OpenAI's files have it as a text already.
    let private objectText (part: JsonPart) : string =
        match part.Kind with
        | JsonValueKind.Object -> part.Raw
        | JsonValueKind.String -> part.Text
        | _ -> part.Fault "must be an object, or the text of one"

    let private call (part: JsonPart) : ToolCall =
        let asked = part.Field "function"

        {
            Id = part.TryText "id"
            Name = (asked.Field "name").Text
            Arguments = objectText (asked.Field "arguments")
        }

    let private tool (part: JsonPart) : ChatTool =
        let told = part.Field "function"

        {
            Name = (told.Field "name").Text
            Description = told.TryText "description"
            Parameters =
                match told.TryField "parameters" with
                | Some parameters -> objectText parameters
                | None -> ChatTool.noParameters
        }

    /// What "weight" (OpenAI's, 0 or 1) and "train" say; true where they say nothing.
    let private mayLearn (part: JsonPart) (role: string) : bool =
        let weight =
            part.TryField "weight"
            |> Option.map (fun weight ->
                match weight.Number with
                | 0.0 -> weight, false
                | 1.0 -> weight, true
                | _ -> weight.Fault "must be 0 or 1")

        let train = part.TryField "train" |> Option.map (fun train -> train, train.Bool)
        let said = Option.toList weight @ Option.toList train

        match said |> List.tryFind snd with
        | Some(field, _) when role <> "assistant" ->
            field.Fault "asks for a message to be learned that is not the assistant's; leave it out"
        | _ -> List.forall snd said

    let private message (part: JsonPart) : struct (ChatMessage * bool) =
        let role = ChatMessage.roleOf (part.Field "role").Text

        let calls = part.TryField "tool_calls" |> Option.map (_.Items >> Seq.map call >> List.ofSeq)

        let said =
            match part.TryField "content" with
            | Some said -> content said
            | None when role = "assistant" && calls |> Option.exists (List.isEmpty >> not) -> ""
            | None -> content (part.Field "content")

        struct ({
                    Role = role
                    Content = said
                    ToolCalls = Option.defaultValue [] calls
                    ToolCallId = part.TryText "tool_call_id"
                    Name = part.TryText "name"
                },
                mayLearn part role && role = "assistant")

    /// The conversation of an object; what is wrong with it is thrown as JsonFault.
    let read (place: string) (root: JsonPart) : ChatLesson =
        let part = root.Field "messages"

        match part.Items |> Seq.map message |> List.ofSeq with
        | [] -> part.Fault "is empty; give the messages of a conversation"
        | messages ->
            let answers = [
                for number, struct (message, isLearned) in List.indexed messages do
                    // What opens a conversation answers nothing: no chat asks a model for it.
                    if number > 0 && message.Role = "assistant" then
                        number, isLearned
            ]

            let learned = answers |> List.filter snd |> List.map fst

            if answers.IsEmpty then
                part.Fault "has no answer of the assistant's, of which alone is learned"
            elif learned.IsEmpty then
                part.Fault "has nothing to learn: every answer of the assistant's is left out"

            {
                Place = place
                Messages = messages |> List.map (fun struct (message, _) -> message)
                Learned = learned
                Tools =
                    root.TryField "tools"
                    |> Option.map (_.Items >> Seq.map tool >> List.ofSeq)
                    |> Option.defaultValue []
            }
