namespace LayerSkip.Cli

open System
open System.IO
open LayerSkip

/// A question, and what the model said to it.
type internal ChatTurn = { Question: string; Answer: string }

/// A conversation as it stands.
type internal ChatTurns = {
    /// The time that templates which tell it tell: one, so that a conversation begins the same at every turn.
    Since: DateTimeOffset
    System: string option
    /// The oldest first.
    Turns: ChatTurn list
    /// How many of the oldest the model is not told any more, as the context has no room for them.
    Untold: int
}

[<RequireQualifiedAccess>]
module internal ChatTurns =
    /// Nothing said yet.
    let start (system: string option) : ChatTurns = {
        Since = DateTimeOffset.Now
        System = system
        Turns = []
        Untold = 0
    }

    /// With one more.
    let add (question: string) (answer: string) (chat: ChatTurns) : ChatTurns = {
        chat with
            Turns = chat.Turns @ [ { Question = question; Answer = answer } ]
    }

    /// Without the last one, which it is beside.
    let undo (chat: ChatTurns) : (ChatTurn * ChatTurns) option =
        match List.rev chat.Turns with
        | [] -> None
        | last :: earlier ->
            Some(last, { chat with Turns = List.rev earlier; Untold = min chat.Untold earlier.Length })

    /// What the model is told of it, and a question.
    let private request (question: string) (chat: ChatTurns) : ChatRequest =
        let messages = [
            for text in Option.toList chat.System do
                ChatMessage.system text
            for turn in List.skip chat.Untold chat.Turns do
                ChatMessage.user turn.Question
                ChatMessage.assistant turn.Answer
            ChatMessage.user question
        ]

        { ChatRequest.ofMessages messages with Now = chat.Since }

    /// The ids of a question after what was said, with room for an answer of so many tokens: where the context has none, the oldest turns are told
    /// no more.
    let rec prompt
        (room: int)
        (checkpoint: Checkpoint)
        (question: string)
        (chat: ChatTurns)
        : Result<int[] * ChatTurns, LayerSkipError list> =
        Chat.prompt (request question chat) checkpoint
        |> Result.bind (fun ids ->
            if ids.Length + room > checkpoint.Config.Context && chat.Untold < chat.Turns.Length then
                prompt room checkpoint question { chat with Untold = chat.Untold + 1 }
            else
                Ok(ids, chat))

    /// Of the messages of a file that `save` wrote.
    let load (path: string) : Result<ChatTurns, LayerSkipError list> =
        JsonPart.load path "name a file that /save wrote" (fun root ->
            let messages = [
                for part in (root.Field "messages").Items do
                    part, (part.Field "role").Text, (part.Field "content").Text
            ]

            let rec read chat messages =
                match messages with
                | [] -> Ok chat
                | (_, "user", question) :: (_, "assistant", answer) :: rest ->
                    read (add question answer chat) rest
                | (part: JsonPart, role, _) :: _ ->
                    part.Fault $"is {role}'s; messages of user and assistant take turns here"

            match messages with
            | (_, "system", text) :: rest -> read (start (Some text)) rest
            | messages -> read (start None) messages)

    /// Writes its messages to a file that is not there yet, or that such messages are in.
    let save (path: string) (chat: ChatTurns) : Result<unit, LayerSkipError list> =
        if File.Exists path && Result.isError (load path) then
            Check.bad path "is there, and is no conversation; name another file"
        else
            Json.write (fun json ->
                json
                |> JsonWrite.objects
                    "messages"
                    [
                        for text in Option.toList chat.System do
                            "system", text
                        for turn in chat.Turns do
                            "user", turn.Question
                            "assistant", turn.Answer
                    ]
                    (fun (role, content) ->
                        json.WriteString("role", role)
                        json.WriteString("content", content)))
            |> AtomicFile.writeBytes path
            |> Result.mapError (
                List.map (fun error ->
                    match error with
                    | LayerSkipError.BadFile(path, fault) ->
                        LayerSkipError.BadFile(path, fault.Replace("another place", "another file"))
                    | error -> error)
            )
