namespace LayerSkip.Cli

open LayerSkip

/// From prompts as they are typed to token ids.
[<RequireQualifiedAccess>]
module internal PromptWords =
    /// The tokenizer that a prompt in words needs; where there is none, ids take their place.
    let private promptTokenizer (checkpoint: Checkpoint) : Tokenizer =
        match Checkpoint.tokenizer checkpoint with
        | Ok tokenizer -> tokenizer
        | Error [ LayerSkipError.NoTokenizer _ | LayerSkipError.NoTokenizerInGguf _ as fault ] ->
            Inputs.usage $"{LayerSkipError.message fault}, or give the prompt as ids (--prompt-ids 1,2,3)"
        | Error faults -> raise (LayerSkipException faults)

    /// A prompt's ids; of an empty text the tokenizer's beginning-of-text token.
    let encode (checkpoint: Checkpoint) (text: string) : int[] =
        let tokenizer = promptTokenizer checkpoint

        if text = "" then
            Option.toArray (Tokenizer.bos tokenizer)
        else
            Tokenizer.encode tokenizer text
