namespace LayerSkip

open System

/// A value for each layer, or for each training step, both counted from 0.
type Schedule = int -> float

[<RequireQualifiedAccess>]
module Schedule =
    let constant (value: float) : Schedule = fun _ -> value
    let scale (peak: float) (inner: Schedule) : Schedule = fun i -> peak * inner i

    /// 0 before `first`.
    let startingAt (first: int) (inner: Schedule) : Schedule = fun i -> if i < first then 0.0 else inner i

    /// 0 for all but the chosen.
    let among (chosen: bool[]) (inner: Schedule) : Schedule = fun i -> if chosen[i] then inner i else 0.0

    /// `shape` of the way from the first of `count` to the last, and 1 from the last on; a single one has no way to
    /// go, and 0.
    let private rising (shape: float -> float) (count: int) : Schedule =
        fun i ->
            if count < 2 then
                0.0
            elif i >= count - 1 then
                1.0
            else
                Math.Clamp(shape (float (max 0 i) / float (count - 1)), 0.0, 1.0)

    /// 2^x - 1: the paper's D(l) over layers (equation 3), and its S(t) over the steps of a training from scratch.
    let exponential (count: int) : Schedule = rising (fun x -> 2.0 ** x - 1.0) count

    let linear (count: int) : Schedule = rising id count
    let logarithmic (count: int) : Schedule =
        rising (fun x -> log (x * float (count - 1) + 1.0) / log (float count)) count
    let sine (count: int) : Schedule = rising (fun x -> sin (0.5 * Math.PI * x)) count
    let sigmoid (count: int) : Schedule = rising (fun x -> 1.0 / (1.0 + exp (-10.0 * (x - 0.5)))) count

/// C(t, l): the layers whose outputs learn at a step.
[<NoEquality; NoComparison>]
type Curriculum = {
    /// By step and layer.
    Enabled: int -> int -> bool
    /// How many steps, from 0, show every set of layers that there will be.
    Cycle: int
    /// The last layer learns at every step, whatever `Enabled` says: true unless it is set otherwise.
    LastAlways: bool
}

[<RequireQualifiedAccess>]
module Curriculum =
    let private always cycle enabled = { Enabled = enabled; Cycle = cycle; LastAlways = true }

    /// Which of the layers learn at a step.
    let at (layers: int) (curriculum: Curriculum) (step: int) : bool[] =
        Array.init layers (fun layer ->
            (curriculum.LastAlways && layer = layers - 1) || curriculum.Enabled step layer)

    /// Every layer at every step.
    let all: Curriculum = always 1 (fun _ _ -> true)

    /// No early layer: plain training.
    let lastOnly: Curriculum = always 1 (fun _ _ -> false)

    /// Every `every`-th layer, one layer further each step: the paper's C_rot,R.
    let rotational (every: int) : Curriculum = always every (fun step layer -> (layer - step) % every = 0)

    /// From the last layer down, one more every T / 2L of `steps` T, all at T / 2: the paper's C_grad, as its prose has it.
    let gradual (layers: int) (steps: int) : Curriculum =
        always ((max 0 steps + 1) / 2 + 1) (fun step layer ->
            2L * int64 layers * int64 step >= int64 (layers - 1 - layer) * int64 steps)

    /// The chosen layers, all of them rolled by one each step, the last to the first: torchtune's rotation, which keeps
    /// no distance of R where R does not divide L.
    let torchtuneRotational (chosen: bool[]) : Curriculum =
        let layers = chosen.Length
        always layers (fun step layer -> chosen[((layer - step) % layers + layers) % layers])

    /// Of the chosen layers, from the last down, all at `fraction` of `steps`: torchtune's, a step later than the prose
    /// and with L parts where that has L - 1.
    let torchtuneGradual (fraction: float) (steps: int) (chosen: bool[]) : Curriculum =
        let layers = chosen.Length

        always (int (fraction * float (max 0 steps)) + 3) (fun step layer ->
            step > 0
            && chosen[layer]
            && float (step - 1) / float steps >= fraction * float (layers - layer) / float layers)

    /// The given layers in `groups` groups, dealt out in turn, a group each step.
    let grouped (groups: int) (layers: int list) : Curriculum =
        always groups (fun step layer ->
            match List.tryFindIndex ((=) layer) layers with
            | Some place -> (place - step) % groups = 0
            | None -> false)

/// e(l): a weight for each layer that is on, before they are normalised. It is 0 where a layer is off.
type LossScale = bool[] -> float[]

[<RequireQualifiedAccess>]
module LossScale =
    let private weigh (enabled: bool[]) (weight: Schedule) =
        enabled |> Array.mapi (fun layer on -> if on then weight layer else 0.0)

    /// The paper's e(l), quadratic in depth (equation 7); 1 for a model of one layer. Layer 0 weighs nothing.
    let paper (eScale: float) : LossScale =
        fun enabled ->
            let last = enabled.Length - 1
            let sumTo layer = float (layer * (layer + 1) / 2)

            weigh enabled (fun layer ->
                if last = 0 then 1.0
                elif layer < last then eScale * sumTo layer
                else float last + eScale * sumTo (last - 1))

    /// A weight of its own for each layer.
    let own (weights: float[]) : LossScale = fun enabled -> weigh enabled (Array.get weights)

    /// A weight by depth, and all but the last layer's times `eScale`: the common form of torchtune's.
    let byDepth (weight: float -> float) (eScale: float) : LossScale =
        fun enabled ->
            weigh enabled (fun layer ->
                weight (float (layer + 1)) * (if layer < enabled.Length - 1 then eScale else 1.0))

    /// torchtune's `sum_l`: the sum of l + 1 over the layers that are on, up to and with this one.
    let runningSum (eScale: float) : LossScale =
        fun enabled ->
            let ones = weigh enabled (fun layer -> float (layer + 1))
            let sums = Array.scan (+) 0.0 ones |> Array.tail
            weigh enabled (fun layer -> sums[layer] * (if layer < enabled.Length - 1 then eScale else 1.0))

/// e~(t, l): by step, each layer's share of the loss. The shares of a step are 0 or more, and 1 together.
type ExitShares = int -> float[]

[<RequireQualifiedAccess>]
module ExitShares =
    /// Normalises the weights of the layers that are on, each step anew (equation 6). A step without weight on any
    /// layer is an error.
    let tryCreate
        (layers: int)
        (curriculum: Curriculum)
        (scale: LossScale)
        : Result<ExitShares, LayerSkipError list> =
        let weights step = scale (Curriculum.at layers curriculum step)

        let fault step =
            let weights = weights step

            match weights |> Array.tryFind (fun weight -> not (Double.IsFinite weight && weight >= 0.0)) with
            | Some weight -> Some(LayerSkipError.OutOfRange("an exit's weight", string weight, "0 or more"))
            | None when Array.sum weights <= 0.0 -> Some(LayerSkipError.NoExitWeight step)
            | None -> None

        if layers < 1 || curriculum.Cycle < 1 then
            let value = string (min layers curriculum.Cycle)
            Error [
                LayerSkipError.OutOfRange("the curriculum's number of layers or steps", value, "1 or more")
            ]
        else
            let faults = Seq.init curriculum.Cycle id |> Seq.tryPick fault |> Option.toList

            Check.all faults (fun step ->
                let weights = weights step
                let total = Array.sum weights
                weights |> Array.map (fun weight -> weight / total))

    /// The exits before the last layer, in words.
    let internal allowed (layers: int) : string =
        if layers < 2 then
            "left out: a model of one layer has no earlier exit"
        else
            $"1 to {layers - 1}: the model has {layers} layers"

    /// Beyond the paper: a chosen set of exits, each with its own weight beside the last layer's 1, in `groups` that
    /// take turns. An exit of E is what the first E layers make.
    let emphasis
        (layers: int)
        (groups: int)
        (exits: (int * float) list)
        : Result<ExitShares, LayerSkipError list> =
        let outside =
            exits
            |> List.collect (fun (exit, _) ->
                Check.that
                    (exit >= 1 && exit < layers)
                    (LayerSkipError.OutOfRange(
                        "exit emphasis",
                        $"for exit {exit}",
                        $"for exits {allowed layers}"
                    )))

        let grouped =
            Check.that
                (groups >= 1 && groups <= max 1 exits.Length)
                (LayerSkipError.OutOfRange(
                    "exit emphasis",
                    $"in {groups} groups",
                    $"in 1 to {max 1 exits.Length} groups, as there are exits"
                ))

        let weighed =
            Check.that
                (exits.IsEmpty || exits |> List.exists (fun (_, weight) -> weight <> 0.0))
                (LayerSkipError.OutOfRange(
                    "exit emphasis",
                    "without any weight",
                    "above 0 for one exit; `last` is plain training"
                ))

        let twice =
            exits
            |> List.countBy fst
            |> List.filter (fun (_, count) -> count > 1)
            |> List.map (fun (exit, _) ->
                LayerSkipError.OutOfRange(
                    "exit emphasis",
                    $"given twice for {exit}",
                    "given once for an exit"
                ))

        match outside @ grouped @ weighed @ twice with
        | [] ->
            let weights =
                Array.init layers (fun layer ->
                    if layer = layers - 1 then
                        1.0
                    else
                        exits
                        |> List.tryFind (fun (exit, _) -> exit = layer + 1)
                        |> Option.map snd
                        |> Option.defaultValue 0.0)

            let curriculum = exits |> List.map (fun (exit, _) -> exit - 1) |> Curriculum.grouped groups
            tryCreate layers curriculum (LossScale.own weights)
        | faults -> Error faults
