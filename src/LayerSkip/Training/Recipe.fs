namespace LayerSkip

open System
open System.Globalization

/// Which exits learn beside the last layer, when, and how much.
[<RequireQualifiedAccess>]
type ExitRule =
    /// None: plain training.
    | LastOnly
    /// The paper's e(l), every layer at every step.
    | All of eScale: float
    /// The paper's e(l), every `every`-th layer, one further each step (C_rot,R). e(l) gives the first layer no weight.
    | Rotational of every: int * eScale: float
    /// The paper's e(l), from the last layer down, all of them after half of the steps (C_grad).
    | Gradual of eScale: float
    /// Beyond the paper: chosen exits (1 is what the first layer makes), each with its own weight beside the last layer's
    /// 1. Dealt out in turn to so many groups, which take turns: with 2 groups the first, third, ... exit learn at even steps.
    | Emphasis of exits: (int * float) list * groups: int

/// How layer dropout grows with depth or with time.
[<RequireQualifiedAccess>]
type DropoutShape =
    | Constant
    /// 2^x - 1, from 0 to 1.
    | Exponential
    /// x, from 0 to 1: beyond the paper.
    | Linear

/// How a model learns to exit early: all of it but the optimiser.
type Recipe = {
    /// p_max of layer dropout, 0 to 1; 0: none.
    Dropout: float
    /// D(l), over the layers.
    Depth: DropoutShape
    /// S(t), over the steps.
    Time: DropoutShape
    /// C(t, l) and e(l).
    Exits: ExitRule
    Targets: ExitTargets
}

/// A recipe for one model and one number of steps.
[<NoEquality; NoComparison>]
type RecipeParts = { Shares: ExitShares; Dropout: LayerDropout option; Targets: ExitTargets }

[<RequireQualifiedAccess>]
module ExitRule =
    let private number (value: float) = value.ToString("R", CultureInfo.InvariantCulture)

    /// "rotational:8:0.2", "emphasis:1=0.25,2=0.25:2"; `tryParse` reads it.
    let format (rule: ExitRule) : string =
        match rule with
        | ExitRule.LastOnly -> "last"
        | ExitRule.All scale -> $"all:{number scale}"
        | ExitRule.Rotational(every, scale) -> $"rotational:{every}:{number scale}"
        | ExitRule.Gradual scale -> $"gradual:{number scale}"
        | ExitRule.Emphasis(exits, groups) ->
            let weights = exits |> List.map (fun (exit, weight) -> $"{exit}={number weight}")
            $"""emphasis:{String.concat "," weights}:{groups}"""

    let private (|Real|_|) (text: string) = Number.tryReal text
    let private (|Whole|_|) (text: string) = Number.tryWhole text |> Option.filter (fun number -> number >= 0)

    let private (|Weights|_|) (text: string) =
        let weight (part: string) =
            match part.Split '=' with
            | [| Whole exit; Real weight |] -> Some(exit, weight)
            | [| Whole exit |] -> Some(exit, 1.0)
            | _ -> None

        let weights = text.Split(',', StringSplitOptions.TrimEntries) |> Array.map weight
        if Array.forall Option.isSome weights then
            Some(weights |> Array.choose id |> List.ofArray)
        else
            None

    /// What may be written; an exit without a weight weighs 1, numbers left out are the paper's.
    let tryParse (text: string) : Result<ExitRule, LayerSkipError list> =
        match text.Split ':' with
        | [| "last" |] -> Ok ExitRule.LastOnly
        | [| "all" |] -> Ok(ExitRule.All 0.2)
        | [| "all"; Real scale |] -> Ok(ExitRule.All scale)
        | [| "rotational"; Whole every |] -> Ok(ExitRule.Rotational(every, 0.2))
        | [| "rotational"; Whole every; Real scale |] -> Ok(ExitRule.Rotational(every, scale))
        | [| "gradual" |] -> Ok(ExitRule.Gradual 1.0)
        | [| "gradual"; Real scale |] -> Ok(ExitRule.Gradual scale)
        | [| "emphasis"; Weights exits |] -> Ok(ExitRule.Emphasis(exits, 1))
        | [| "emphasis"; Weights exits; Whole groups |] -> Ok(ExitRule.Emphasis(exits, groups))
        | _ ->
            "last, all:SCALE, rotational:EVERY:SCALE, gradual:SCALE or emphasis:E=WEIGHT,E=WEIGHT:GROUPS"
            |> Check.outOfRange "exits" $"\"{text}\""

/// The paper's recipes and ours, and what they come to for a model.
[<RequireQualifiedAccess>]
module Recipe =
    let private labels: ExitTargets = LossOptions.standard.Targets

    let private paper dropout time exits = {
        Dropout = dropout
        Depth = DropoutShape.Exponential
        Time = time
        Exits = exits
        Targets = labels
    }

    /// Exits 1 to L/3 in two groups at 0.25 each.
    let private early layers =
        let last = max 1 (min (layers - 1) (int (round (float layers / 3.0))))
        ExitRule.Emphasis([ for exit in 1..last -> exit, 0.25 ], min 2 last)

    /// The named recipes for a model of so many layers. The paper's own (LayerSkip, table 9) rotate by R = 8, L - 1 and 16
    /// of 32 layers; in a model with fewer than that, by L - 1.
    let presets: (string * (int -> Recipe)) list = [
        "plain", (fun _ -> paper 0.0 DropoutShape.Constant ExitRule.LastOnly)
        "continual",
        (fun layers -> paper 0.1 DropoutShape.Constant (ExitRule.Rotational(max 1 (min 8 (layers - 1)), 0.2)))
        "scratch",
        (fun layers -> paper 0.1 DropoutShape.Exponential (ExitRule.Rotational(max 1 (layers - 1), 0.2)))
        "code",
        (fun layers ->
            paper 0.1 DropoutShape.Constant (ExitRule.Rotational(max 1 (min 16 (layers - 1)), 1.0)))
        "fine-tune", (fun _ -> paper 0.2 DropoutShape.Constant (ExitRule.Gradual 1.0))
        "emphasis", (fun layers -> paper 0.0 DropoutShape.Constant (early layers))
        "self-distillation",
        (fun layers -> {
            paper 0.0 DropoutShape.Constant (early layers) with
                Targets = { Labels = 0.0; LastLayer = 1.0 }
        })
    ]

    /// The preset of that name, for a model of `layers` layers.
    let tryPreset (name: string) (layers: int) : Result<Recipe, LayerSkipError list> =
        match List.tryFind (fst >> (=) name) presets with
        | Some(_, make) -> Ok(make layers)
        | None ->
            let known = presets |> List.map fst |> String.concat ", "
            Check.outOfRange "recipe" name $"one of {known}"

    let private shape (shape: DropoutShape) count : Schedule =
        match shape with
        | DropoutShape.Constant -> Schedule.constant 1.0
        | DropoutShape.Exponential -> Schedule.exponential count
        | DropoutShape.Linear -> Schedule.linear count

    let private shares layers steps (rule: ExitRule) =
        let paper curriculum scale = ExitShares.tryCreate layers curriculum (ExitScale.paper scale)

        match rule with
        | ExitRule.LastOnly -> paper Curriculum.lastOnly 0.0
        | ExitRule.All scale -> paper Curriculum.all scale
        | ExitRule.Rotational(every, scale) -> paper (Curriculum.rotational every) scale
        | ExitRule.Gradual scale -> paper (Curriculum.gradual layers steps) scale
        | ExitRule.Emphasis(exits, groups) -> ExitShares.emphasis layers groups exits

    let private scaleFaults (rule: ExitRule) =
        match rule with
        | ExitRule.Rotational(every, _) when every < 1 ->
            Check.inRange false "exits" $"rotational:{every}" "rotational:EVERY:SCALE with EVERY 1 or more"
        | ExitRule.All scale
        | ExitRule.Rotational(_, scale)
        | ExitRule.Gradual scale ->
            Check.inRange (scale >= 0.0 && scale <= 1.0) "the scale of early exits" (string scale) "0 to 1"
        | ExitRule.LastOnly
        | ExitRule.Emphasis _ -> []

    let private targetFaults (targets: ExitTargets) =
        let labels, last = targets.Labels, targets.LastLayer
        let areWeights = List.forall (fun weight -> Double.IsFinite weight && weight >= 0.0) [ labels; last ]
        let value = $"labels {labels} and last layer {last}"

        "weights of 0 or more, and not both 0"
        |> Check.inRange (areWeights && labels + last > 0.0) "what early exits learn from" value

    /// Makes a recipe's parts for a model of `layers` layers and a run of `steps`; every fault at once.
    let tryBuild (layers: int) (steps: int) (seed: int64) (recipe: Recipe) =
        let depth, time = shape recipe.Depth layers, shape recipe.Time steps
        let dropout = LayerDropout.tryCreate seed recipe.Dropout depth time

        let shares =
            Check.all (scaleFaults recipe.Exits) ()
            |> Result.bind (fun () -> shares layers steps recipe.Exits)

        Check.both (Check.both shares dropout) (Check.all (targetFaults recipe.Targets) ())
        |> Result.map (fun ((shares, dropout), ()) -> {
            Shares = shares
            Dropout = if recipe.Dropout > 0.0 then Some dropout else None
            Targets = recipe.Targets
        })
