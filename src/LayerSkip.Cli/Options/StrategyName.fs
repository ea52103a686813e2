namespace LayerSkip.Cli

open Argu
open LayerSkip

/// What `--strategy` names.
[<RequireQualifiedAccess>]
type internal StrategyName =
    | Autoregressive
    | [<CustomCommandLine("early-exit")>] EarlyExit
    | [<CustomCommandLine("self-speculative")>] SelfSpeculative

[<RequireQualifiedAccess>]
module internal StrategyName =
    /// The strategy itself.
    let kind (name: StrategyName) : StrategyKind =
        match name with
        | StrategyName.Autoregressive -> StrategyKind.Autoregressive
        | StrategyName.EarlyExit -> StrategyKind.EarlyExit
        | StrategyName.SelfSpeculative -> StrategyKind.SelfSpeculative
