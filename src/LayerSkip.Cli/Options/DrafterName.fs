namespace LayerSkip.Cli

/// What `--drafter` names.
[<RequireQualifiedAccess>]
type internal DrafterName =
    | Exit
    | Lookup
    | Adapter
