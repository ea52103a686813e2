namespace LayerSkip.Cli

open Argu
open LayerSkip

/// The options of `layerskip chat`: its own, and those of `generate` that say how an answer is written.
[<RequireQualifiedAccess>]
type internal ChatArgument =
    | [<Unique; EqualsAssignmentOrSpaced>] System of text: string
    | [<Unique; EqualsAssignmentOrSpaced>] Load of file: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--max-new-tokens")>] MaxNewTokens of n: int
    | [<Unique; EqualsAssignmentOrSpaced>] Strategy of StrategyName
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--exit-layer")>] ExitLayer of e: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--draft-length")>] DraftLength of d: int
    | [<Unique; EqualsAssignmentOrSpaced>] Drafter of DrafterKind
    | [<Unique; EqualsAssignmentOrSpaced>] Policy of DraftPolicyKind
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--stop-rule")>] StopRule of rule: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--draft-vocabulary")>] DraftVocabulary of
        ids: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--layers-kept")>] LayersKept of layers: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--adapter-file")>] AdapterFile of file: string
    | [<EqualsAssignmentOrSpaced; CustomCommandLine("--past-texts")>] PastTexts of path: string
    | [<Unique; EqualsAssignmentOrSpaced>] Temperature of t: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--top-k")>] TopK of k: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--top-p")>] TopP of p: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--min-p")>] MinP of p: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--repetition-penalty")>] RepetitionPenalty of
        x: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--presence-penalty")>] PresencePenalty of
        x: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--frequency-penalty")>] FrequencyPenalty of
        x: string
    | [<EqualsAssignmentOrSpaced; CustomCommandLine("--logit-bias")>] LogitBias of bias: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--json-schema")>] JsonSchema of schema: string
    | [<Unique; CustomCommandLine("--json-object")>] JsonObject
    | [<Unique; EqualsAssignmentOrSpaced>] Choices of texts: string
    | [<Unique; EqualsAssignmentOrSpaced>] Regex of pattern: string
    | [<EqualsAssignmentOrSpaced>] Stop of text: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--stop-ids")>] StopIds of ids: string
    | [<Unique>] Special

    /// The option of `generate` that it is.
    member this.OfGenerate: GenerateArgument option =
        match this with
        | System _
        | Load _ -> None
        | MaxNewTokens count -> Some(GenerateArgument.MaxNewTokens count)
        | Strategy name -> Some(GenerateArgument.Strategy name)
        | ExitLayer exit -> Some(GenerateArgument.ExitLayer exit)
        | DraftLength length -> Some(GenerateArgument.DraftLength length)
        | Drafter drafter -> Some(GenerateArgument.Drafter drafter)
        | Policy policy -> Some(GenerateArgument.Policy policy)
        | StopRule rule -> Some(GenerateArgument.StopRule rule)
        | DraftVocabulary ids -> Some(GenerateArgument.DraftVocabulary ids)
        | LayersKept layers -> Some(GenerateArgument.LayersKept layers)
        | AdapterFile file -> Some(GenerateArgument.AdapterFile file)
        | PastTexts path -> Some(GenerateArgument.PastTexts path)
        | Temperature number -> Some(GenerateArgument.Temperature number)
        | TopK count -> Some(GenerateArgument.TopK count)
        | TopP number -> Some(GenerateArgument.TopP number)
        | MinP number -> Some(GenerateArgument.MinP number)
        | RepetitionPenalty number -> Some(GenerateArgument.RepetitionPenalty number)
        | PresencePenalty number -> Some(GenerateArgument.PresencePenalty number)
        | FrequencyPenalty number -> Some(GenerateArgument.FrequencyPenalty number)
        | LogitBias bias -> Some(GenerateArgument.LogitBias bias)
        | JsonSchema schema -> Some(GenerateArgument.JsonSchema schema)
        | JsonObject -> Some GenerateArgument.JsonObject
        | Choices texts -> Some(GenerateArgument.Choices texts)
        | Regex pattern -> Some(GenerateArgument.Regex pattern)
        | Stop text -> Some(GenerateArgument.Stop text)
        | StopIds ids -> Some(GenerateArgument.StopIds ids)
        | Special -> Some GenerateArgument.Special

    /// Whether it says what every answer must be; one at a time does.
    member this.IsGrammar: bool = this.IsJsonSchema || this.IsJsonObject || this.IsChoices || this.IsRegex

    /// The most new tokens of an answer, where nothing is said.
    static member DefaultMaxNewTokens = 512

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | System _ ->
                "what the model is told to be, before the first message; in place of what a --load file says of it."
            | Load _ ->
                "a conversation that /save wrote, to go on with, its system message too unless --system says another."
            | MaxNewTokens _ ->
                $"the most tokens of an answer, 1 or more (default {ChatArgument.DefaultMaxNewTokens}); a full context ends it sooner."
            | PastTexts _ ->
                DraftingArguments.pastTexts
                + " Answers of this chat are looked up in any case, also after /new and /undo."
            | argument -> (argument.OfGenerate.Value :> IArgParserTemplate).Usage
