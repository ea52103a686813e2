namespace LayerSkip

open System

/// e(l): a weight for each layer that is on, before they are normalised. It is 0 where a layer is off.
type ExitScale = bool[] -> float[]

/// How much an exit weighs for its depth.
[<RequireQualifiedAccess>]
module ExitScale =
    /// A weight of its own for each layer, of which there must be as many as the model has.
    let own (weights: float[]) : ExitScale = Array.map2 (fun weight on -> if on then weight else 0.0) weights

    /// The paper's e(l), quadratic in depth (LayerSkip, equation 7): e_scale l (l + 1) / 2 before the last layer L - 1, which
    /// weighs L - 1 + e_scale (L - 2) (L - 1) / 2; 1 for a model of one layer. Layer 0 weighs nothing. With L = 4 and
    /// e_scale 0.1 that is 0, 0.1, 0.3, 3.3.
    let paper (eScale: float) : ExitScale =
        fun enabled ->
            let last = enabled.Length - 1
            let sumTo layer = float (layer * (layer + 1) / 2)

            let weights =
                Array.init enabled.Length (fun layer ->
                    if last = 0 then 1.0
                    elif layer < last then eScale * sumTo layer
                    else float last + eScale * sumTo (last - 1))

            own weights enabled

/// e~(t, l): by step, each layer's share of the loss. The shares of a step are 0 or more, and 1 together.
type ExitShares = int -> float[]

[<RequireQualifiedAccess>]
module ExitShares =
    /// Normalises the weights of the layers that are on, each step anew: e~(t, l) = C(t, l) e(l) / sum over i of C(t, i) e(i)
    /// (LayerSkip, equation 6). A step without weight on any layer is an error, as is a weight below 0.
    let tryCreate (layers: int) (curriculum: Curriculum) (scale: ExitScale) =
        let weights step = scale (Curriculum.at layers curriculum step)

        let fault step =
            let weights = weights step

            match weights |> Array.tryFind (fun weight -> not (Double.IsFinite weight && weight >= 0.0)) with
            | Some weight -> Some(LayerSkipError.OutOfRange("an exit's weight", string weight, "0 or more"))
            | None when Array.sum weights <= 0.0 -> Some(LayerSkipError.NoExitWeight step)
            | None -> None

        if layers < 1 || curriculum.Cycle < 1 then
            let least = string (min layers curriculum.Cycle)
            Check.outOfRange "the curriculum's number of layers or steps" least "1 or more"
        else
            let faults = Seq.init curriculum.Cycle id |> Seq.tryPick fault |> Option.toList

            let shares: ExitShares =
                fun step ->
                    let weights = weights step
                    let total = Array.sum weights
                    weights |> Array.map (fun weight -> weight / total)

            Check.all faults shares

    /// The exits before the last layer, in words.
    let internal allowed (layers: int) : string =
        if layers < 2 then
            "left out: a model of one layer has no earlier exit"
        else
            $"{LayerSkipError.oneTo (layers - 1)}: the model has {layers} layers"

    let private emphasisFaults layers groups (exits: (int * float) list) : LayerSkipError list = [
        let fault value allowed = LayerSkipError.OutOfRange("exit emphasis", value, allowed)

        for exit, _ in exits do
            if exit < 1 || exit >= layers then
                fault $"for exit {exit}" $"for exits {allowed layers}"

        let most = max 1 exits.Length

        if groups < 1 || groups > most then
            fault $"in {groups} groups" $"in 1 to {most} groups, as there are exits"

        if not exits.IsEmpty && exits |> List.forall (fun (_, weight) -> weight = 0.0) then
            fault "without any weight" "above 0 for one exit; `last` is plain training"

        for exit, count in List.countBy fst exits do
            if count > 1 then
                fault $"given twice for {exit}" "given once for an exit"
    ]

    /// Beyond the paper: a chosen set of exits, each with its own weight beside the last layer's 1, in `groups` that
    /// take turns. An exit of E is what the first E layers make.
    let emphasis (layers: int) (groups: int) (exits: (int * float) list) =
        Check.all (emphasisFaults layers groups exits) ()
        |> Result.bind (fun () ->
            let weights = Map.ofList ((layers, 1.0) :: exits)
            let weightOf layer = weights |> Map.tryFind (layer + 1) |> Option.defaultValue 0.0
            let curriculum = exits |> List.map (fun (exit, _) -> exit - 1) |> Curriculum.grouped groups
            tryCreate layers curriculum (ExitScale.own (Array.init layers weightOf)))
