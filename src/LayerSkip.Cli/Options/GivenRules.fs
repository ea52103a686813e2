namespace LayerSkip.Cli

open LayerSkip

/// What changes the logits, as a command line gives it.
type internal GivenRules = {
    RepetitionPenalty: string option
    PresencePenalty: string option
    FrequencyPenalty: string option
    /// Each as ID=X.
    LogitBias: string list
}

[<RequireQualifiedAccess>]
module internal GivenRules =
    let none: GivenRules = {
        RepetitionPenalty = None
        PresencePenalty = None
        FrequencyPenalty = None
        LogitBias = []
    }

    let private bias (text: string) : int * float =
        let parts = text.Split '='

        match parts.Length, Number.tryWhole parts[0], Number.tryReal (Array.last parts) with
        | 2, Some id, Some number -> id, number
        | _ -> Inputs.usage $"--logit-bias is \"{text}\", it must be a token id, = and a number, as 42=-100"

    /// As numbers, which may be out of range.
    let read (given: GivenRules) : TokenRules =
        let orElse standard option allowed text =
            text |> Option.map (Inputs.real option allowed) |> Option.defaultValue standard

        let none = TokenRules.none

        {
            none with
                RepetitionPenalty =
                    given.RepetitionPenalty
                    |> orElse none.RepetitionPenalty "repetition-penalty" "0.01 to 100"
                PresencePenalty =
                    given.PresencePenalty |> orElse none.PresencePenalty "presence-penalty" "-2 to 2"
                FrequencyPenalty =
                    given.FrequencyPenalty |> orElse none.FrequencyPenalty "frequency-penalty" "-2 to 2"
                LogitBias = List.map bias given.LogitBias
        }
