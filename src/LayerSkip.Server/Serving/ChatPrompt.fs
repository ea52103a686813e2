namespace LayerSkip.Server

open LayerSkip

/// Conversations as the model's chat template writes them.
[<RequireQualifiedAccess>]
module internal ChatPrompt =
    /// What a template makes of messages is theirs to put right, though the fault is told as one of a file.
    let private ofTemplate (refusal: Refusal) : Refusal =
        if refusal = Refusal.ofBug then
            Refusal.ofFaults [
                {
                    Field = "messages"
                    Text = "the model's chat template does not take these messages, or chat_template_kwargs"
                }
            ]
        else
            refusal

    /// The ids that a conversation becomes.
    let ids (service: Service) (chat: ChatRequest) : Result<int[], Refusal> =
        Chat.prompt chat service.Model.Checkpoint
        |> Result.mapError (Service.refusalOf service >> ofTemplate)
