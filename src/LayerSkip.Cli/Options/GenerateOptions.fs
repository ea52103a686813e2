namespace LayerSkip.Cli

open LayerSkip

/// What a `generate` command line gives; None where it leaves the choice to us or the model.
type internal GenerateOptions = {
    Prompts: GivenPrompts
    /// The prompt is a user's message.
    Chat: bool
    /// What the model is told before it.
    System: string option
    /// The library's options, as far as they are the command line's alone.
    Own: GenerationOptions
    Strategy: StrategyKind option
    /// The exit layer is early-exit's too.
    Drafting: DraftingOptions
    AdapterFile: string option
    /// Files and folders of past texts.
    PastTexts: string list
    Temperature: string option
    TopK: int
    TopP: string option
    MinP: string option
    Rules: GivenRules
    /// One at most.
    Grammar: GivenGrammar list
    StopIds: string option
    IgnoreEos: bool
    Output: string option
    Html: string option
}

/// Reads the options of `layerskip generate`, and fills in what they leave open from the model.
[<RequireQualifiedAccess>]
module internal GenerateOptions =
    /// What a command line without options gives.
    let private none: GenerateOptions = {
        Prompts = GivenPrompts.none
        Chat = false
        System = None
        Own = GenerationOptions.defaults
        Strategy = None
        Drafting = DraftingOptions.none
        AdapterFile = None
        PastTexts = []
        Temperature = None
        TopK = Sampling.defaultTopK
        TopP = None
        MinP = None
        Rules = GivenRules.none
        Grammar = []
        StopIds = None
        IgnoreEos = false
        Output = None
        Html = None
    }

    let private under grammar (given: GenerateOptions) = { given with Grammar = given.Grammar @ [ grammar ] }

    /// The options with one more.
    let add (given: GenerateOptions) (argument: GenerateArgument) : GenerateOptions =
        match argument with
        | GenerateArgument.Prompt text -> { given with Prompts = GivenPrompts.text text given.Prompts }
        | GenerateArgument.PromptIds ids -> { given with Prompts = GivenPrompts.ids ids given.Prompts }
        | GenerateArgument.PromptFile file -> { given with Prompts = GivenPrompts.file file given.Prompts }
        | GenerateArgument.Chat -> { given with Chat = true }
        | GenerateArgument.System text -> { given with System = Some text }
        | GenerateArgument.MaxNewTokens count -> { given with Own.MaxNewTokens = count }
        | GenerateArgument.Strategy name -> { given with Strategy = Some(StrategyName.kind name) }
        | GenerateArgument.ExitLayer exit -> { given with Drafting.ExitLayer = Some exit }
        | GenerateArgument.DraftLength length -> { given with Drafting.DraftLength = Some length }
        | GenerateArgument.Drafter drafter -> { given with Drafting.Drafter = Some drafter }
        | GenerateArgument.Policy policy -> { given with Drafting.Policy = Some policy }
        | GenerateArgument.StopRule rule -> {
            given with
                Drafting.StopRule = Some(DraftingArguments.rule rule)
          }
        | GenerateArgument.DraftVocabulary ids -> { given with Drafting.DraftVocabulary = Some ids }
        | GenerateArgument.LayersKept layers -> { given with Drafting.LayersKept = Some layers }
        | GenerateArgument.AdapterFile file -> { given with AdapterFile = Some file }
        | GenerateArgument.PastTexts path -> { given with PastTexts = given.PastTexts @ [ path ] }
        | GenerateArgument.Temperature number -> { given with Temperature = Some number }
        | GenerateArgument.TopK count -> { given with TopK = count }
        | GenerateArgument.TopP number -> { given with TopP = Some number }
        | GenerateArgument.MinP number -> { given with MinP = Some number }
        | GenerateArgument.RepetitionPenalty number -> { given with Rules.RepetitionPenalty = Some number }
        | GenerateArgument.PresencePenalty number -> { given with Rules.PresencePenalty = Some number }
        | GenerateArgument.FrequencyPenalty number -> { given with Rules.FrequencyPenalty = Some number }
        | GenerateArgument.LogitBias bias -> { given with Rules.LogitBias = given.Rules.LogitBias @ [ bias ] }
        | GenerateArgument.LogProbs count -> { given with Own.LogProbs = Some count }
        | GenerateArgument.JsonSchema schema -> given |> under (GivenGrammar.JsonSchema schema)
        | GenerateArgument.JsonObject -> given |> under GivenGrammar.JsonObject
        | GenerateArgument.Choices texts -> given |> under (GivenGrammar.Choices texts)
        | GenerateArgument.Regex pattern -> given |> under (GivenGrammar.Regex pattern)
        | GenerateArgument.Stop text -> { given with Own.StopTexts = given.Own.StopTexts @ [ text ] }
        | GenerateArgument.StopIds ids -> { given with StopIds = Some ids }
        | GenerateArgument.IgnoreEos -> { given with IgnoreEos = true }
        | GenerateArgument.Special -> { given with Own.ShowSpecial = true }
        | GenerateArgument.Output file -> { given with Output = Some file }
        | GenerateArgument.Html file -> { given with Html = Some file }

    /// Reads what `generate` was given.
    let read (arguments: GenerateArgument list) : GenerateOptions = List.fold add none arguments

    let private choice (given: GenerateOptions) : StrategyChoice = {
        Strategy = given.Strategy
        Drafting = given.Drafting
    }

    /// Past texts are read when the model is there, and by who drafts.
    let private pastExclusions (given: GenerateOptions) : LayerSkipError list =
        match given.Strategy with
        | Some kind ->
            given.PastTexts
            |> List.truncate 1
            |> List.map (fun path -> "past-texts", path)
            |> StrategyKind.exclusions kind
        | None -> []

    /// The one prompt; options of a conversation that make none are refused.
    let prompt (given: GenerateOptions) : GivenPrompt =
        let prompt = GivenPrompts.one given.Prompts

        match prompt with
        | GivenPrompt.Ids _ when given.Chat ->
            Inputs.usage
                "--chat and --prompt-ids exclude each other: ids are no message; give --prompt or --prompt-file"
        | _ when given.System.IsSome && not given.Chat ->
            Inputs.usage "--system is of conversations; give --chat with it, or leave it out"
        | prompt -> prompt

    /// What the model is prompted with.
    let encode (checkpoint: Checkpoint) (given: GenerateOptions) (prompt: GivenPrompt) : int[] =
        match prompt with
        | GivenPrompt.Text text when given.Chat ->
            let messages = [
                for system in Option.toList given.System do
                    ChatMessage.system system
                ChatMessage.user text
            ]

            Chat.prompt (ChatRequest.ofMessages messages) checkpoint |> Check.getOrRaise
        | prompt -> GivenPrompts.encode checkpoint prompt

    /// What can be checked before a model is loaded: every fault at once.
    let sampling (given: GenerateOptions) : Sampling =
        Drafters.checkFile given.AdapterFile given.Drafting
        Drafters.checkPast given.PastTexts
        let sampling = Inputs.sampling given.Temperature given.TopK given.TopP given.MinP

        let emptyStop =
            Check.that
                (not (List.contains "" given.Own.StopTexts))
                (LayerSkipError.OutOfRange("stop", "empty", "a text of one character or more"))

        Inputs.refuse (
            StrategyChoice.exclusions (choice given)
            @ pastExclusions given
            @ Check.faults sampling
            @ TokenRules.outOfRange (GivenRules.read given.Rules)
            @ TokenLogProbs.faults "logprobs" given.Own.LogProbs
            @ Inputs.atLeastOne "max-new-tokens" given.Own.MaxNewTokens
            @ (given.Drafting.DraftLength
               |> Option.toList
               |> List.collect (Inputs.atLeastOne "draft-length"))
            @ emptyStop
        )

        Check.getOrRaise sampling

    /// What the library is asked for: given options, and the model's choices for the others; and the drafting that the strategy has.
    let resolve
        (seed: int64)
        (sampling: Sampling)
        (checkpoint: Checkpoint)
        (given: GenerateOptions)
        : GenerationOptions * DraftingPlan option =
        let plan = StrategyChoice.plan sampling checkpoint (choice given) |> Check.getOrRaise

        {
            given.Own with
                Strategy = StrategyPlan.strategy checkpoint plan
                Sampling = sampling
                Rules = GivenRules.read given.Rules
                StopIds =
                    match given.StopIds with
                    | Some ids -> Inputs.numbers "stop-ids" ids
                    | None when given.IgnoreEos -> [||]
                    | None when given.Chat -> Chat.stopIds checkpoint
                    | None -> checkpoint.StopIds
                Seed = seed
        },
        StrategyPlan.drafting plan
