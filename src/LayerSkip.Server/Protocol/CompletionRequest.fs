namespace LayerSkip.Server

open System.Text.Json
open LayerSkip

/// A prompt as a request has it.
[<RequireQualifiedAccess>]
type PromptForm =
    | Text of string
    | Ids of int[]

/// A request for completions: `/v1/completions`.
[<NoEquality; NoComparison>]
type CompletionRequest = {
    /// One or more.
    Prompts: PromptForm list
    Writing: WritingRequest
    /// Whether the answer begins with the prompt.
    IsEchoed: bool
    /// How many of the likeliest tokens to tell at each place.
    LogProbs: int option
    /// Whether a text gets what the tokenizer puts in front of one.
    AddsSpecial: bool
}

[<RequireQualifiedAccess>]
module CompletionRequest =
    /// As OpenAI has it, where nothing is said.
    let defaultTokens = 16

    let private mostPrompts = 1024

    /// A text, a list of texts, a list of ids, or a list of lists of ids.
    let private tryPrompts (value: JsonElement) : PromptForm list option =
        match value.ValueKind with
        | JsonValueKind.String -> Some [ PromptForm.Text(value.GetString()) ]
        | JsonValueKind.Array when value.GetArrayLength() = 0 -> None
        | JsonValueKind.Array ->
            match value[0].ValueKind with
            | JsonValueKind.String -> RequestReader.TryTexts value |> Option.map (List.map PromptForm.Text)
            | JsonValueKind.Number ->
                RequestReader.TryIds value |> Option.map (fun ids -> [ PromptForm.Ids ids ])
            | _ ->
                [ for item in value.EnumerateArray() -> RequestReader.TryIds item ]
                |> Check.every
                |> Option.map (List.map PromptForm.Ids)
        | _ -> None

    let private prompts (reader: RequestReader) : PromptForm list =
        let must = "a text, a list of texts, a list of token ids, or a list of such lists"

        match reader.TryField "prompt" with
        | None ->
            reader.Fault("prompt", $"is missing; it must be {must}")
            []
        | Some _ ->
            match reader.Read("prompt", must, tryPrompts) with
            | Some prompts when prompts.Length > mostPrompts ->
                reader.Fault("prompt", $"has {prompts.Length} prompts, it may have {mostPrompts}")
                []
            | prompts -> defaultArg prompts []

    /// Reads a body's object; what is wrong with it stays with the reader.
    let internal read (reader: RequestReader) : CompletionRequest =
        let prompts = prompts reader
        let isEchoed = reader.Flag "echo"
        let writing = WritingFields.read [ "max_tokens" ] (if isEchoed then 0 else 1) reader
        let logProbs = reader.Whole("logprobs", 0, TokenLogProbs.most)
        KnownFields.refuseOfCompletions reader

        let addsSpecial = reader.Flag("add_special_tokens", true)

        {
            Prompts = prompts
            Writing = writing
            IsEchoed = isEchoed
            LogProbs = logProbs
            AddsSpecial = addsSpecial
        }
