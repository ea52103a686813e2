namespace LayerSkip

open System
open System.Text.Json

/// A call of a tool that the model asks for.
type ToolCall = {
    /// What the answer's `ToolCallId` names it by, where the model's family has that.
    Id: string option
    Name: string
    /// A JSON object, as text.
    Arguments: string
}

/// A tool that the model may ask for.
type ChatTool = {
    Name: string
    Description: string option
    /// The JSON schema of its arguments, as text.
    Parameters: string
}

[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module internal ChatTool =
    /// The schema of arguments of which nothing is said.
    let noParameters = """{"type": "object", "properties": {}}"""

/// What somebody said. All of it counts as typed: none of it becomes a special token.
type ChatMessage = {
    /// "system", "user", "assistant", "tool", or what else the model's template knows.
    Role: string
    Content: string
    ToolCalls: ToolCall list
    /// Of a tool's answer: the call that it answers.
    ToolCallId: string option
    Name: string option
}

[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module ChatMessage =
    /// A role as templates know it, by a client's word: newer ones call the system's developer.
    let internal roleOf (word: string) : string = if word = "developer" then "system" else word

    /// A message of a role.
    let ofRole (role: string) (content: string) : ChatMessage = {
        Role = role
        Content = content
        ToolCalls = []
        ToolCallId = None
        Name = None
    }

    /// What the model is told before the conversation.
    let system (content: string) : ChatMessage = ofRole "system" content
    /// What the user says.
    let user (content: string) : ChatMessage = ofRole "user" content
    /// What the model said.
    let assistant (content: string) : ChatMessage = ofRole "assistant" content

/// A conversation as a chat template is given it.
type ChatRequest = {
    Messages: ChatMessage list
    Tools: ChatTool list
    /// Ends with what begins the assistant's turn.
    AddGenerationPrompt: bool
    /// Ends within the last message, which the model goes on with; there is no generation prompt then.
    ContinueFinal: bool
    /// What a template takes for today.
    Now: DateTimeOffset
    /// More variables of the template, as "enable_thinking"; they go before those of this request.
    Extra: (string * JsonElement) list
}

[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module ChatRequest =
    /// Messages without tools, to be answered now.
    let ofMessages (messages: ChatMessage list) : ChatRequest = {
        Messages = messages
        Tools = []
        AddGenerationPrompt = true
        ContinueFinal = false
        Now = DateTimeOffset.Now
        Extra = []
    }
