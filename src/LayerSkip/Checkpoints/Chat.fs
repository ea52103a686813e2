namespace LayerSkip

open System

/// Conversations with a model, over its own chat template.
[<RequireQualifiedAccess>]
module Chat =
    /// The model's chat template; without one, or with one that we cannot read, why.
    let template (checkpoint: Checkpoint) : Result<ChatTemplate, LayerSkipError list> =
        match checkpoint.Chat.Value with
        | Ok(Some template) -> Ok template
        | Ok None -> Error [ LayerSkipError.NoChatTemplate checkpoint.Path ]
        | Error faults -> Error faults

    /// What templates know of a tokenizer: bos_token and eos_token, where it has them.
    let private specials (tokenizer: Tokenizer) : (string * string) list = [
        for name, id in [ "bos_token", Tokenizer.bos tokenizer; "eos_token", Tokenizer.eos tokenizer ] do
            for id in Option.toList id do
                name, Tokenizer.tokenText tokenizer id
    ]

    let private rendered (request: ChatRequest) (checkpoint: Checkpoint) =
        Check.both (Checkpoint.tokenizer checkpoint) (template checkpoint)
        |> Result.bind (fun (tokenizer, template) ->
            // It would leave them out in silence.
            if request.Tools.IsEmpty || ChatTemplate.takesTools template then
                ChatTemplate.render request (specials tokenizer) template
                |> Result.map (fun text -> tokenizer, text)
            else
                Error [ LayerSkipError.NoPlaceForTools checkpoint.Path ])

    /// The text that a conversation becomes, with what was typed marked.
    let text (request: ChatRequest) (checkpoint: Checkpoint) : Result<MarkedText, LayerSkipError list> =
        rendered request checkpoint |> Result.map snd

    /// The ids that a conversation becomes: as transformers' apply_chat_template gives them, where no message holds a special
    /// token's text. Where one does, it is characters to the model. One line says why there are none: the model has no chat
    /// template, the template refuses the messages, has no place for the tools or asks for what we do not know, or there is no message.
    let prompt (request: ChatRequest) (checkpoint: Checkpoint) : Result<int[], LayerSkipError list> =
        if request.Messages.IsEmpty then
            Error [ LayerSkipError.ChatRefused "there is no message" ]
        else
            rendered request checkpoint
            |> Result.map (fun (tokenizer, text) -> Tokenizer.encodeMarked tokenizer text)

    // Nobody's words: what the template writes behind them ends the turn.
    let private question, answer = "Which?", "That one."

    /// The token that the template itself writes behind an answer.
    let internal turnEnd (checkpoint: Checkpoint) : int option =
        let request = {
            ChatRequest.ofMessages [ ChatMessage.user question; ChatMessage.assistant answer ] with
                AddGenerationPrompt = false
        }

        match rendered request checkpoint with
        | Error _ -> None
        | Ok(tokenizer, text) ->
            let whole = MarkedText.text text

            match whole.LastIndexOf(answer, StringComparison.Ordinal) with
            | -1 -> None
            | at ->
                whole[at + answer.Length ..]
                |> MarkedText.trusted
                |> Tokenizer.encodeMarked tokenizer
                |> Array.tryFind (fun id ->
                    not (String.IsNullOrWhiteSpace(Tokenizer.decodeContinuing true tokenizer [ id ])))
                |> Option.filter (Tokenizer.isControl tokenizer)

    /// The ids that end an answer: the model's stop ids, and what its template writes behind an answer where that is a token of
    /// its own, as `<|im_end|>` is; some models' files name only the end of a text.
    let stopIds (checkpoint: Checkpoint) : int[] =
        Array.append checkpoint.StopIds (Option.toArray (turnEnd checkpoint)) |> Array.distinct

    /// The text of an answer without the calls of tools in it, and the calls; see `ToolCalls.read`.
    let toolCalls (text: string) : string * ToolCall list = ToolCalls.read text
