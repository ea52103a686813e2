namespace LayerSkip

/// What each layer knows, by depth.
[<RequireQualifiedAccess>]
module LayerPlots =
    let private line (name, points: (int * float) list) =
        Mark.Line(name, points |> List.map (fun (layer, value) -> float layer, value))

    /// Cross entropy by exit layer, in nats a token, of one or more models or texts: before and after training, say.
    let crossEntropy (subtitle: string) (runs: (string * (int * float) list) list) : Picture =
        Picture.marks
            "How well each layer tells the next token"
            subtitle
            "Every layer's state is read by the model's own norm and head. A model that was trained to exit early is good long before its last layer; an ordinary one only there."
            (Axis.whole "exit layer" "")
            (Axis.linear "cross entropy" "nats a token")
            (List.map line runs)

    /// KL(last layer || exit) by exit layer, in nats.
    let divergence (subtitle: string) (runs: (string * (int * float) list) list) : Picture =
        Picture.marks
            "How far each layer is from the last"
            subtitle
            "What is lost by taking an exit's law for the model's: 0 where both are the same. Drafts of an exit are accepted where this is small."
            (Axis.whole "exit layer" "")
            (Axis.linear "KL(last layer || exit)" "nats")
            (List.map line runs)

    /// The share of positions where an exit's choice is the last layer's, 0 to 1.
    let agreement (subtitle: string) (runs: (string * (int * float) list) list) : Picture =
        Picture.marks
            "How often each layer would choose the same token"
            subtitle
            "Greedy decoding accepts a draft where the exit's choice is the last layer's."
            (Axis.whole "exit layer" "")
            (Axis.share "positions with the last layer's choice")
            (List.map line runs)

    /// Quality against speed of models that leave early and are not verified, and of those that are; higher is better in both.
    /// The line joins those that no other beats in both.
    let pareto (subtitle: string) (quality: Axis) (points: (string * float * float) list) : Picture =
        let beats (_, speed, good) (_, otherSpeed, otherGood) =
            speed >= otherSpeed && good >= otherGood && (speed > otherSpeed || good > otherGood)

        let front =
            points
            |> List.filter (fun point -> not (List.exists (fun other -> beats other point) points))
            |> List.sortBy (fun (_, speed, _) -> speed)

        Picture.marks
            "Speed against quality"
            subtitle
            "To the right is faster, up is better. Whatever lies below the line is beaten in both by a point on it."
            (Axis.linear "speed" "times as fast as every layer for every token")
            quality
            [
                Mark.Guide("none is better in both", front |> List.map (fun (_, speed, good) -> speed, good))
                for name, speed, good in points do
                    Mark.Dots(
                        name,
                        [
                            {
                                X = speed
                                Y = good
                                Note = $"{name}\n{PlotNumber.short speed}x, {PlotNumber.short good}"
                            }
                        ]
                    )
            ]
