namespace LayerSkip.Cli

open Argu

/// What `--strategy` names.
[<RequireQualifiedAccess>]
type internal StrategyName =
    | Autoregressive
    | [<CustomCommandLine("early-exit")>] EarlyExit
    | [<CustomCommandLine("self-speculative")>] SelfSpeculative
