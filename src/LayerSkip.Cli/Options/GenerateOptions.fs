namespace LayerSkip.Cli

open LayerSkip

/// What a `generate` command line gives; None where it leaves the choice to us or the model.
type internal GenerateOptions = {
    Prompts: GivenPrompts
    /// The library's options, as far as they are the command line's alone.
    Own: GenerationOptions
    Strategy: StrategyName option
    ExitLayer: int option
    DraftLength: int option
    Drafter: DrafterName option
    AdapterFile: string option
    Temperature: string option
    TopK: int
    TopP: string option
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
        Own = GenerationOptions.defaults
        Strategy = None
        ExitLayer = None
        DraftLength = None
        Drafter = None
        AdapterFile = None
        Temperature = None
        TopK = Sampling.defaultTopK
        TopP = None
        StopIds = None
        IgnoreEos = false
        Output = None
        Html = None
    }

    /// The options with one more.
    let private add (given: GenerateOptions) (argument: GenerateArgument) : GenerateOptions =
        match argument with
        | GenerateArgument.Prompt text -> { given with Prompts = GivenPrompts.text text given.Prompts }
        | GenerateArgument.PromptIds ids -> { given with Prompts = GivenPrompts.ids ids given.Prompts }
        | GenerateArgument.PromptFile file -> { given with Prompts = GivenPrompts.file file given.Prompts }
        | GenerateArgument.MaxNewTokens count -> { given with Own.MaxNewTokens = count }
        | GenerateArgument.Strategy name -> { given with Strategy = Some name }
        | GenerateArgument.ExitLayer exit -> { given with ExitLayer = Some exit }
        | GenerateArgument.DraftLength length -> { given with DraftLength = Some length }
        | GenerateArgument.Drafter name -> { given with Drafter = Some name }
        | GenerateArgument.AdapterFile file -> { given with AdapterFile = Some file }
        | GenerateArgument.Temperature number -> { given with Temperature = Some number }
        | GenerateArgument.TopK count -> { given with TopK = count }
        | GenerateArgument.TopP number -> { given with TopP = Some number }
        | GenerateArgument.Stop text -> { given with Own.StopTexts = given.Own.StopTexts @ [ text ] }
        | GenerateArgument.StopIds ids -> { given with StopIds = Some ids }
        | GenerateArgument.IgnoreEos -> { given with IgnoreEos = true }
        | GenerateArgument.Special -> { given with Own.ShowSpecial = true }
        | GenerateArgument.Output file -> { given with Output = Some file }
        | GenerateArgument.Html file -> { given with Html = Some file }

    /// Reads what `generate` was given.
    let read (arguments: GenerateArgument list) : GenerateOptions = List.fold add none arguments

    /// Options that a strategy has no use for would be ignored in silence.
    let private checkStrategy (given: GenerateOptions) =
        let exclude option strategy why =
            Inputs.usage $"{option} and --strategy {strategy} exclude each other: {why}; leave one out"

        if given.AdapterFile.IsSome && given.Drafter <> Some DrafterName.Adapter then
            Inputs.usage "--adapter-file goes with --drafter adapter"

        match given.Strategy with
        | Some StrategyName.Autoregressive when given.Drafter.IsSome ->
            exclude "--drafter" "autoregressive" "it drafts nothing"
        | Some StrategyName.EarlyExit when given.Drafter.IsSome ->
            exclude "--drafter" "early-exit" "it drafts nothing"
        | Some StrategyName.Autoregressive when given.ExitLayer.IsSome ->
            exclude "--exit-layer" "autoregressive" "it runs every layer"
        | Some StrategyName.Autoregressive when given.DraftLength.IsSome ->
            exclude "--draft-length" "autoregressive" "it drafts nothing"
        | Some StrategyName.EarlyExit when given.DraftLength.IsSome ->
            exclude "--draft-length" "early-exit" "it drafts nothing"
        | _ -> ()

    /// What can be checked before a model is loaded: every fault at once.
    let sampling (given: GenerateOptions) : Sampling =
        checkStrategy given

        let sampling = Inputs.sampling given.Temperature given.TopK given.TopP

        let emptyStop =
            Check.that
                (not (List.contains "" given.Own.StopTexts))
                (LayerSkipError.OutOfRange("stop", "empty", "a text of one character or more"))

        Inputs.refuse (
            Check.faults sampling
            @ Inputs.atLeastOne "max-new-tokens" given.Own.MaxNewTokens
            @ (given.DraftLength |> Option.toList |> List.collect (Inputs.atLeastOne "draft-length"))
            @ emptyStop
        )

        Check.getOrRaise sampling

    /// The one that is named; else self-speculation where the model or an option gives a reason for it.
    let private strategy (given: GenerateOptions) (checkpoint: Checkpoint) : Strategy =
        let exit, length = Checkpoint.exitAndDraft checkpoint
        let speculates = checkpoint.Recommended.IsSome || given.ExitLayer.IsSome || given.DraftLength.IsSome

        let exit () =
            ExitLayer.TryCreate(checkpoint.Config.Layers, defaultArg given.ExitLayer exit)
            |> Check.getOrRaise

        match given.Strategy with
        | None
        | Some StrategyName.SelfSpeculative when given.Drafter.IsSome ->
            Drafters.strategy
                given.Drafter.Value
                given.ExitLayer
                (defaultArg given.DraftLength length)
                checkpoint
        | Some StrategyName.EarlyExit -> Strategy.EarlyExit(exit ())
        | None when not speculates -> Strategy.Autoregressive
        | Some StrategyName.Autoregressive -> Strategy.Autoregressive
        | Some StrategyName.SelfSpeculative
        | None -> Strategy.SelfSpeculative(exit (), defaultArg given.DraftLength length)

    /// What the library is asked for: given options, and the model's choices for the others.
    let resolve
        (seed: int64)
        (sampling: Sampling)
        (checkpoint: Checkpoint)
        (given: GenerateOptions)
        : GenerationOptions = {
        given.Own with
            Strategy = strategy given checkpoint
            Sampling = sampling
            StopIds =
                match given.StopIds with
                | Some ids -> Inputs.numbers "stop-ids" ids
                | None when given.IgnoreEos -> [||]
                | None -> checkpoint.StopIds
            Seed = seed
    }
