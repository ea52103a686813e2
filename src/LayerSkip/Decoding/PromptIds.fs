namespace LayerSkip

/// What ids must be for a model to go on from them.
[<RequireQualifiedAccess>]
module internal PromptIds =
    /// The fault of the first id that the vocabulary has not.
    let unknown (config: LlamaConfig) (ids: int[]) : LayerSkipError list =
        ids
        |> Array.tryFind (fun id -> id < 0 || id >= config.Vocabulary)
        |> Option.map (fun id -> LayerSkipError.UnknownToken(id, config.Vocabulary))
        |> Option.toList

    /// The fault of no ids, or of so many that the context has no room for one more.
    let length (config: LlamaConfig) (ids: int[]) : LayerSkipError list = [
        if ids.Length = 0 then
            LayerSkipError.EmptyPrompt

        if ids.Length >= config.Context then
            LayerSkipError.PromptTooLong(ids.Length, config.Context)
    ]

    /// Both.
    let faults (config: LlamaConfig) (ids: int[]) : LayerSkipError list =
        length config ids @ unknown config ids
