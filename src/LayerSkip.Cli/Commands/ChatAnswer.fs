namespace LayerSkip.Cli

open System
open LayerSkip

/// A chat under way.
[<NoEquality; NoComparison>]
type internal ChatState = {
    /// As options and /set have it.
    Own: ChatArgument list
    Given: GenerateOptions
    Seed: int64
    Options: GenerationOptions
    Plan: DraftingPlan option
    Turns: ChatTurns
    /// Answers so far: each has a seed of its own.
    Answers: int64
    Last: Completion option
}

/// What stays.
[<NoEquality; NoComparison>]
type internal ChatRoom = {
    Terminal: Terminal
    Input: LineInput
    Json: bool
    Checkpoint: Checkpoint
    Conversation: Conversation
    /// Texts of files, and the answers: what lookup finds beside the conversation as it stands.
    Past: PastTexts
}

/// The answer to a question, as it comes.
[<RequireQualifiedAccess>]
module internal ChatAnswer =
    let private context (room: ChatRoom) = room.Checkpoint.Config.Context

    /// What became of the answer, where that is not plain.
    let private remarks (room: ChatRoom) (completion: Completion) =
        let used = completion.PromptIds.Length + completion.TokenIds.Length

        if completion.Finish = FinishReason.Length then
            Terminal.remark
                room.Terminal
                (if used >= context room then
                     $"the context of {context room} tokens is full, and the answer cut; /new begins another conversation"
                 else
                     $"the answer was cut at {completion.TokenIds.Length} tokens; /set max-new-tokens N allows more")

    let statistics (room: ChatRoom) plan (completion: Completion) =
        let used = completion.PromptIds.Length + completion.TokenIds.Length

        let read =
            $"read {completion.PromptIds.Length - completion.ReusedIds} of {completion.PromptIds.Length} prompt tokens"

        $"{GenerateCommand.statistics plan completion}; {read}; {used} of {context room} tokens of context"

    /// An answer as an object; times in milliseconds.
    let private json (chat: ChatState) (question: string) (completion: Completion) =
        JsonWrite.line (fun writer ->
            writer.WriteNumber("turn", chat.Turns.Turns.Length)
            writer.WriteString("user", question)
            writer |> JsonWrite.textOrNull "assistant" completion.Text
            writer |> JsonWrite.ints "token_ids" completion.TokenIds

            writer.WriteString("finish_reason", FinishReason.name completion.Finish)

            writer.WriteNumber("prompt_tokens", completion.PromptIds.Length)
            writer.WriteNumber("reused_tokens", completion.ReusedIds)
            writer |> Output.stats completion.Stats

            writer
            |> JsonWrite.object "timings" (fun _ ->
                writer |> Output.milliseconds "ttft_ms" completion.Timings.TtftMs
                writer |> Output.milliseconds "decode_ms" completion.Timings.DecodeMs
                writer |> Output.milliseconds "tokens_per_second" completion.TokensPerSecond))

    /// Writes the answer to a question: the chat with both. An exit code where a signal ends the command.
    let answer (room: ChatRoom) (chat: ChatState) (question: string) : Result<ChatState, int> =
        let terminal, checkpoint = room.Terminal, room.Checkpoint
        let space = min chat.Options.MaxNewTokens (context room / 4)
        let ids, turns = ChatTurns.prompt space checkpoint question chat.Turns |> Check.getOrRaise

        let options = { chat.Options with Seed = chat.Seed + chat.Answers }
        // A question that has no room in any case is told of alone.
        let start = Conversation.continued options ids room.Conversation |> Check.getOrRaise

        if turns.Untold > chat.Turns.Untold then
            let turnsOut = Terminal.count turns.Untold "oldest turn"

            Terminal.remark
                terminal
                $"the context has {context room} tokens: the model is not told the {turnsOut} any more; /new begins another conversation"

        let tokens = ResizeArray<ShownToken>()
        let outcome = GenerateCommand.follow terminal checkpoint room.Json tokens.Add start

        if not room.Json then
            terminal.Out.WriteLine()
            terminal.Out.Flush()

        let said text last = {
            chat with
                Turns = ChatTurns.add question text turns
                Answers = chat.Answers + 1L
                Last = last
        }

        match outcome with
        | Ok completion ->
            let text = completion.Text |> Option.defaultValue ""
            let chat = said text (Some completion)
            room.Past.Add(ReadOnlySpan completion.TokenIds)

            if room.Json then
                json chat question completion |> Terminal.result terminal

            remarks room completion

            if room.Input.IsTyped then
                statistics room chat.Plan completion |> Terminal.faint terminal |> Terminal.say terminal

            Ok chat
        | Error code when code = ExitCode.interrupted && room.Input.IsTyped ->
            Terminal.remark terminal "(interrupted)"
            Ok(said (tokens |> Seq.map _.Text |> String.concat "") None)
        | Error code ->
            Terminal.fault terminal "interrupted"
            Error code
