namespace LayerSkip

open System

/// torchtune's early-exit configuration, by its own names. One thing differs: there a layer's loss reads what enters
/// it, here what leaves it, as in the paper.
[<RequireQualifiedAccess>]
module Torchtune =
    /// Names may come with their Python module, as in its configuration files.
    let private bare (name: string) = name.Substring(name.LastIndexOf '.' + 1)

    let private find option (known: (string * 'T) list) (name: string) : Result<'T, LayerSkipError list> =
        match List.tryFind (fun (key, _) -> key = name) known with
        | Some(_, value) -> Ok value
        | None ->
            let names = known |> List.map fst |> String.concat ", "
            Error [ LayerSkipError.OutOfRange(option, $"'{name}'", $"one of {names}") ]

    let private shapes: (string * (int -> Schedule)) list = [
        "uniform", (fun _ -> Schedule.constant 1.0)
        "exp", Schedule.exponential
        "linear", Schedule.linear
        "log", Schedule.logarithmic
        "sin", Schedule.sine
        "sigmoid", Schedule.sigmoid
    ]

    /// `layer_dropout.layers_scale`: the shape over a number of layers.
    let dropoutShape (name: string) : Result<int -> Schedule, LayerSkipError list> =
        find "layers_scale" shapes name

    let private scales: (string * (float -> LossScale)) list = [
        "uniform", LossScale.byDepth (fun _ -> 1.0)
        "linear_l", LossScale.byDepth id
        "sum_l", LossScale.runningSum
        "sqrt_l", LossScale.byDepth sqrt
        "inv_l", LossScale.byDepth (fun depth -> 1.0 / depth)
        "inv_sqrt_l", LossScale.byDepth (fun depth -> 1.0 / sqrt depth)
    ]

    /// `early_exit_loss.scale_fn`: a function of `early_exit_loss.scale`.
    let lossScale (name: string) : Result<float -> LossScale, LayerSkipError list> =
        (bare name).Replace("_loss_scale", "") |> find "scale_fn" scales

    /// `early_exit_loss.curriculum`, over the chosen layers and a number of optimiser steps; null and "" leave them on.
    let curriculum (name: string) (steps: int) (chosen: bool[]) : Result<Curriculum, LayerSkipError list> =
        let fixedSet = { Curriculum.all with Enabled = fun _ layer -> chosen[layer] }

        let known = [
            "RotationalEarlyExitCurriculum", Curriculum.torchtuneRotational
            "GradualEarlyExitCurriculum", Curriculum.torchtuneGradual 0.5 steps
            "none", (fun _ -> fixedSet)
        ]

        let name =
            match (if String.IsNullOrEmpty name then "none" else bare name) with
            | "rot" -> "RotationalEarlyExitCurriculum"
            | "gradual" -> "GradualEarlyExitCurriculum"
            | name -> name

        find "curriculum" known name |> Result.map (fun make -> make chosen)

    /// `layers`: "0::4" and ":" as Python slices them, "8,12,16" and "3" as a list.
    let layers (count: int) (text: string) : Result<bool[], LayerSkipError list> =
        let number (part: string) = Number.tryWhole part |> Option.filter (fun value -> value >= 0)

        let among (chosen: int -> bool) = Some(Array.init count chosen)

        let parsed =
            match text.Split ':' with
            | [| list |] ->
                let numbers = list.Split ',' |> Array.map (fun part -> number (part.Trim()))

                if numbers |> Array.forall (Option.exists (fun layer -> layer < count)) then
                    among (fun layer -> numbers |> Array.contains (Some layer))
                else
                    None
            | parts when parts.Length <= 3 ->
                let part index missing =
                    match Array.tryItem index parts with
                    | None
                    | Some "" -> Some missing
                    | Some text -> number (text.Trim())

                match part 0 0, part 1 count, part 2 1 with
                | Some first, Some last, Some by when by > 0 ->
                    among (fun layer -> first <= layer && layer < last && (layer - first) % by = 0)
                | _ -> None
            | _ -> None

        match parsed with
        | Some chosen -> Ok chosen
        | None ->
            let allowed = $"a list (8,12) or slice (0::4) of layers 0 to {count - 1}"
            Error [ LayerSkipError.OutOfRange("layers", $"'{text}'", allowed) ]
