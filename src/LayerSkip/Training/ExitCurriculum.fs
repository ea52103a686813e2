namespace LayerSkip

/// C(t, l): the layers whose outputs learn at a step (LayerSkip has it in prose; the formulas are ours). All layers at every step slow training down and cost the last layer accuracy.
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

    /// Every `every`-th layer, one layer further each step, so that each is on once in `every` steps: the paper's C_rot,R.
    let rotational (every: int) : Curriculum = always every (fun step layer -> (layer - step) % every = 0)

    /// From the last layer down, one more every T / 2L of `steps` T, all at T / 2: the paper's C_grad, as its prose has it.
    let gradual (layers: int) (steps: int) : Curriculum =
        always ((max 0 steps + 1) / 2 + 1) (fun step layer ->
            2L * int64 layers * int64 step >= int64 (layers - 1 - layer) * int64 steps)

    /// The given layers in `groups` groups, dealt out in turn, a group each step.
    let grouped (groups: int) (layers: int list) : Curriculum =
        always groups (fun step layer ->
            match List.tryFindIndex ((=) layer) layers with
            | Some place -> (place - step) % groups = 0
            | None -> false)
