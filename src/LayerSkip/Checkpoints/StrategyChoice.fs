namespace LayerSkip

/// A way to decode, as options name it.
[<RequireQualifiedAccess>]
type StrategyKind =
    /// Every layer, one token at a time.
    | Autoregressive
    /// The layers up to an exit only.
    | EarlyExit
    /// What drafts, and all layers verify.
    | SelfSpeculative

[<RequireQualifiedAccess>]
module StrategyKind =
    /// All.
    let all = [
        StrategyKind.Autoregressive
        StrategyKind.EarlyExit
        StrategyKind.SelfSpeculative
    ]

    /// As options and reports spell it: "early-exit".
    let name (kind: StrategyKind) : string =
        match kind with
        | StrategyKind.Autoregressive -> "autoregressive"
        | StrategyKind.EarlyExit -> "early-exit"
        | StrategyKind.SelfSpeculative -> "self-speculative"

    /// Of options that say how to draft, by name and value, those that a strategy has no use for and would ignore in silence
    /// (`LayerSkipError.Excluded`).
    let exclusions (kind: StrategyKind) (given: (string * string) list) : LayerSkipError list = [
        for option, value in given do
            let excluded why = LayerSkipError.Excluded(option, value, "strategy", name kind, why)

            match kind, option with
            | StrategyKind.SelfSpeculative, _
            | StrategyKind.EarlyExit, "exit-layer" -> ()
            | StrategyKind.Autoregressive, "exit-layer" -> excluded "it runs every layer"
            | _ -> excluded "it drafts nothing"
    ]

/// How a text is to be written, as far as that is said; None leaves it to the model and to us.
[<NoEquality; NoComparison>]
type StrategyChoice = {
    Strategy: StrategyKind option
    /// The exit layer is early exit's too.
    Drafting: DraftingOptions
}

/// A strategy that fits a model: what a choice left open is decided.
[<RequireQualifiedAccess; NoEquality; NoComparison>]
type StrategyPlan =
    | Autoregressive
    | EarlyExit of ExitLayer
    | SelfSpeculative of DraftingPlan

[<RequireQualifiedAccess>]
module StrategyPlan =
    /// What drafts, where something does.
    let drafting (plan: StrategyPlan) : DraftingPlan option =
        match plan with
        | StrategyPlan.SelfSpeculative plan -> Some plan
        | StrategyPlan.Autoregressive
        | StrategyPlan.EarlyExit _ -> None

    /// The strategy, one for any number of texts. Errors and measurements: those of `Drafting.strategy`.
    let strategy (checkpoint: Checkpoint) (plan: StrategyPlan) : Strategy =
        match plan with
        | StrategyPlan.Autoregressive -> Strategy.Autoregressive
        | StrategyPlan.EarlyExit exit -> Strategy.EarlyExit exit
        | StrategyPlan.SelfSpeculative plan -> Drafting.strategy checkpoint plan

/// The one place that chooses among strategies, for the command, the server, the C# facade and scripts.
[<RequireQualifiedAccess>]
module StrategyChoice =
    /// Nothing is said.
    let none: StrategyChoice = { Strategy = None; Drafting = DraftingOptions.none }

    /// Whether nothing is.
    let saysNothing (choice: StrategyChoice) : bool =
        choice.Strategy.IsNone && (DraftingOptions.named choice.Drafting).IsEmpty

    /// The options that the named strategy has no use for. No model is asked.
    let exclusions (choice: StrategyChoice) : LayerSkipError list =
        match choice.Strategy with
        | Some kind -> StrategyKind.exclusions kind (DraftingOptions.given choice.Drafting)
        | None -> []

    /// What is wrong with a choice that drafts nothing, and early exit's exit layer. A number that no model or no draft takes is told as
    /// that, not as one too many.
    let private undrafted kind (checkpoint: Checkpoint) (choice: StrategyChoice) =
        let given = choice.Drafting

        let exit =
            match kind, given.ExitLayer with
            | StrategyKind.Autoregressive, None -> Ok None
            | _ ->
                defaultArg given.ExitLayer (fst (Checkpoint.exitAndDraft checkpoint))
                |> fun layer -> ExitLayer.TryCreate(checkpoint.Config.Layers, layer)
                |> Result.map Some

        let length = given.DraftLength |> Option.toList |> List.collect (Check.atLeast 1 "draft-length")

        let sound = {
            given with
                ExitLayer = exit |> Result.toOption |> Option.bind (fun _ -> given.ExitLayer)
                DraftLength = if length.IsEmpty then given.DraftLength else None
        }

        let faults = Check.faults exit @ length @ StrategyKind.exclusions kind (DraftingOptions.given sound)

        Check.all faults exit |> Result.bind id

    /// What a choice comes to for a model: the strategy that is named, else self-speculation where the model or an option gives a reason for it,
    /// else every layer. `adapters` has the adapter of an exit layer (None: the model's first). Errors, all at once: options that the strategy
    /// has no use for, and those of `Drafting.decide`.
    let planWith
        (adapters: int option -> Result<Adapter, LayerSkipError list>)
        (sampling: Sampling)
        (checkpoint: Checkpoint)
        (choice: StrategyChoice)
        : Result<StrategyPlan, LayerSkipError list> =
        let drafted options =
            Drafting.decideWith adapters sampling checkpoint options
            |> Result.map StrategyPlan.SelfSpeculative

        match choice.Strategy with
        | None when not (Drafting.isMeant checkpoint choice.Drafting) -> Ok StrategyPlan.Autoregressive
        | None -> drafted choice.Drafting
        | Some StrategyKind.SelfSpeculative -> drafted (Drafting.ofSelfSpeculative choice.Drafting)
        | Some StrategyKind.Autoregressive ->
            undrafted StrategyKind.Autoregressive checkpoint choice
            |> Result.map (fun _ -> StrategyPlan.Autoregressive)
        | Some StrategyKind.EarlyExit ->
            undrafted StrategyKind.EarlyExit checkpoint choice
            |> Result.map (fun exit -> StrategyPlan.EarlyExit exit.Value)

    /// `planWith`, with the model's own adapters; one that drafts is loaded for the plan.
    let plan (sampling: Sampling) (checkpoint: Checkpoint) (choice: StrategyChoice) =
        planWith (fun exit -> Adapters.load exit checkpoint) sampling checkpoint choice

    /// `plan`, as a strategy.
    let create
        (sampling: Sampling)
        (checkpoint: Checkpoint)
        (choice: StrategyChoice)
        : Result<Strategy, LayerSkipError list> =
        plan sampling checkpoint choice |> Result.map (StrategyPlan.strategy checkpoint)
