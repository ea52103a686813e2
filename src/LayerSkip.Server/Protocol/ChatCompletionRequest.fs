namespace LayerSkip.Server

open System.Text.Json
open LayerSkip

/// Whether a chat's answer may, must or must not call tools.
[<RequireQualifiedAccess>]
type ToolChoice =
    | Auto
    | Never
    | Some
    | One of name: string

/// A request for an answer in a conversation: `/v1/chat/completions`.
[<NoEquality; NoComparison>]
type ChatCompletionRequest = {
    Chat: ChatRequest
    ToolChoice: ToolChoice
    /// Whether an answer may call more than one.
    IsParallel: bool
    Writing: WritingRequest
    /// How many of the likeliest tokens to tell at each place.
    LogProbs: int option
}

[<RequireQualifiedAccess>]
module ChatCompletionRequest =
    let private toolChoice (reader: RequestReader) (tools: ChatTool list) : ToolChoice =
        let words = [
            "auto", ToolChoice.Auto
            "none", ToolChoice.Never
            "required", ToolChoice.Some
        ]

        let choice =
            match reader.TryField "tool_choice" with
            | None -> ToolChoice.Auto
            | Some value when value.ValueKind = JsonValueKind.Object ->
                let named =
                    reader.Object "tool_choice" |> Option.bind (fun choice -> choice.Object "function")

                match named |> Option.bind (fun named -> named.Text "name") with
                | Some name ->
                    if tools |> List.forall (fun tool -> tool.Name <> name) then
                        reader.Fault(
                            "tool_choice",
                            $"names {Fault.quoted name}, which is not among the tools"
                        )

                    ToolChoice.One name
                | None ->
                    reader.Fault("tool_choice", "must name a function of the tools")
                    ToolChoice.Auto
            | Some _ -> reader.Word("tool_choice", words) |> Option.defaultValue ToolChoice.Auto

        if tools.IsEmpty && choice = ToolChoice.Some then
            reader.Fault("tool_choice", "is required, but there are no tools")

        choice

    let private logProbs (reader: RequestReader) : int option =
        let isAsked = reader.Flag "logprobs"
        let top = reader.Whole("top_logprobs", 0, TokenLogProbs.most)

        if top.IsSome && not isAsked then
            reader.Fault("top_logprobs", "goes with \"logprobs\": true")

        if isAsked then Some(defaultArg top 0) else None

    /// Reads a body's object; what is wrong with it stays with the reader.
    let internal read (reader: RequestReader) : ChatCompletionRequest =
        let messages = ChatMessages.read reader
        let tools = ChatMessages.tools reader
        let choice = toolChoice reader tools
        let writing = WritingFields.read [ "max_completion_tokens"; "max_tokens" ] 1 reader
        let logProbs = logProbs reader
        let isParallel = reader.Flag("parallel_tool_calls", true)
        let offered = if choice = ToolChoice.Never then [] else tools
        let chat = ChatMessages.conversation messages offered reader

        if
            writing.Format <> TextFormat.Free
            && choice <> ToolChoice.Auto
            && choice <> ToolChoice.Never
        then
            reader.Fault("response_format", "does not go with a tool_choice that must call a tool")

        KnownFields.refuseOfChat reader

        {
            Chat = chat
            ToolChoice = choice
            IsParallel = isParallel
            Writing = writing
            LogProbs = logProbs
        }
