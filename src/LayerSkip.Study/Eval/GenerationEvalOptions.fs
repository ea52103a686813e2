namespace LayerSkip

/// How answers are decoded.
[<RequireQualifiedAccess>]
type GenerationWay =
    | Autoregressive
    | EarlyExit
    | SelfSpeculative

/// What tasks that generate their answers are asked for beside the rest.
type GenerationEvalOptions = {
    /// None given: plain decoding and self-speculation, and early exit at each of the exit layers before the last.
    Strategies: GenerationWay list
    /// Where drafts are made, and how many a round; None: as the model recommends.
    Exit: int option
    DraftLength: int option
    /// The most new tokens of an answer; None: what those who published the task took.
    MaxNewTokens: int option
    Sampling: Sampling
    /// Answers to each question; more than one needs a temperature.
    Samples: int
    /// Tokens that end an answer; None: the model's.
    StopIds: int[] option
    /// Whether Python that the model writes may be run, and within which limits.
    RunCode: bool
    Limits: SandboxLimits
}

[<RequireQualifiedAccess>]
module GenerationEvalOptions =
    /// One greedy answer each, plainly and by self-speculation; no code is run.
    let defaults: GenerationEvalOptions = {
        Strategies = []
        Exit = None
        DraftLength = None
        MaxNewTokens = None
        Sampling = Sampling.Greedy
        Samples = 1
        StopIds = None
        RunCode = false
        Limits = Sandbox.defaults
    }
