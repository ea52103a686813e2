namespace LayerSkip.Cli

open LayerSkip

/// How an `eval` command line wants answers decoded; numbers as they are typed.
type internal EvalDecoding = {
    Own: GenerationEvalOptions
    Temperature: string option
    TopK: int
    TopP: string option
    StopIds: string option
    IgnoreEos: bool
}

/// Reads the options of `layerskip eval` that tasks of generated answers heed.
[<RequireQualifiedAccess>]
module internal EvalDecoding =
    /// What a command line without options gives.
    let none: EvalDecoding = {
        Own = GenerationEvalOptions.defaults
        Temperature = None
        TopK = Sampling.defaultTopK
        TopP = None
        StopIds = None
        IgnoreEos = false
    }

    let private way (name: StrategyName) : GenerationWay =
        match name with
        | StrategyName.Autoregressive -> GenerationWay.Autoregressive
        | StrategyName.EarlyExit -> GenerationWay.EarlyExit
        | StrategyName.SelfSpeculative -> GenerationWay.SelfSpeculative

    /// The name of the option and what is given with it; None of an option that is none of these.
    let tryAdd (given: EvalDecoding) (argument: EvalArgument) : (string * EvalDecoding) option =
        match argument with
        | EvalArgument.Strategy name ->
            Some("strategy", { given with Own.Strategies = given.Own.Strategies @ [ way name ] })
        | EvalArgument.ExitLayer exit -> Some("exit-layer", { given with Own.Exit = Some exit })
        | EvalArgument.DraftLength length ->
            Some("draft-length", { given with Own.DraftLength = Some length })
        | EvalArgument.MaxNewTokens count ->
            Some("max-new-tokens", { given with Own.MaxNewTokens = Some count })
        | EvalArgument.Temperature number -> Some("temperature", { given with Temperature = Some number })
        | EvalArgument.TopK count -> Some("top-k", { given with TopK = count })
        | EvalArgument.TopP number -> Some("top-p", { given with TopP = Some number })
        | EvalArgument.Samples count -> Some("samples", { given with Own.Samples = count })
        | EvalArgument.StopIds ids -> Some("stop-ids", { given with StopIds = Some ids })
        | EvalArgument.IgnoreEos -> Some("ignore-eos", { given with IgnoreEos = true })
        | EvalArgument.AllowCodeExecution -> Some("allow-code-execution", { given with Own.RunCode = true })
        | _ -> None

    /// What the library is asked for.
    let resolve (given: EvalDecoding) : GenerationEvalOptions =
        let sampling = Inputs.sampling given.Temperature given.TopK given.TopP None

        {
            given.Own with
                Sampling = Check.getOrRaise sampling
                StopIds =
                    match given.StopIds with
                    | Some ids -> Some(Inputs.numbers "stop-ids" ids)
                    | None when given.IgnoreEos -> Some [||]
                    | None -> None
        }
