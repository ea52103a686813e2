namespace LayerSkip

/// How much of what exits draft is accepted, and what that is worth.
[<RequireQualifiedAccess>]
module AcceptancePlots =
    /// The acceptance above which some draft length pays where reading weights is all that takes time: (E + h) / (L + h), with a
    /// head that costs as much as `head` layers (Leviathan et al. 2023, corollary 3.9: a > c).
    let breakEven (layers: int) (head: float) (exit: int) : float =
        (float exit + head) / (float layers + head)

    /// What the head costs beside a layer, by the weights that both read: h of the formulas.
    let headLayers (config: LlamaConfig) : float =
        let parametersOf layers = float (Weights.parameters { config with Layers = layers })
        float config.Vocabulary * float config.Hidden / (parametersOf 2 - parametersOf 1)

    /// Acceptance by exit layer, of one or more tasks, 0 to 1, beside the break-even line. `head`: the head's cost in layers.
    let byExit
        (subtitle: string)
        (layers: int)
        (head: float)
        (tasks: (string * (int * float) list) list)
        : Picture =
        let exits = tasks |> List.collect snd |> List.map fst |> List.distinct |> List.sort

        Picture.marks
            "How often each exit drafts what the whole model says"
            subtitle
            $"Above the dashed line a draft costs less than it saves: (E + h) / (L + h) with L = {layers} layers and a head that costs as much as {PlotNumber.short head} of them. The exit furthest above it, to the left, is the one to draft with."
            (Axis.whole "exit layer E" "")
            (Axis.share "drafts accepted")
            [
                for name, points in tasks do
                    Mark.Line(name, points |> List.map (fun (exit, rate) -> float exit, rate))
                Mark.Guide(
                    "break-even",
                    exits |> List.map (fun exit -> float exit, breakEven layers head exit)
                )
            ]

    /// How many rounds kept how many drafts.
    let lengths (subtitle: string) (runs: (string * SpeculationMetrics) list) : Picture =
        Picture.marks
            "Drafts that a round keeps"
            subtitle
            "Where the last bar is the longest, longer drafts would be kept too; where the first is, drafting is wasted."
            (Axis.whole "drafts accepted in a round" "tokens")
            (Axis.whole "rounds" "")
            [
                for name, metrics in runs do
                    Mark.Bars(
                        name,
                        metrics.AcceptanceHistogram
                        |> Seq.mapi (fun j rounds -> float j, float rounds)
                        |> List.ofSeq
                    )
            ]

    /// Of the rounds that drafted so far, how many kept the draft at each place.
    let byPosition (subtitle: string) (runs: (string * SpeculationMetrics) list) : Picture =
        Picture.marks
            "Acceptance by place in the draft"
            subtitle
            "A draft is kept only if all before it are, so the line falls. Where it falls slowly, long drafts pay."
            (Axis.whole "place in the draft" "")
            (Axis.share "rounds that keep it")
            [
                for name, metrics in runs do
                    Mark.Line(
                        name,
                        metrics.AcceptanceByPosition
                        |> Seq.mapi (fun j rate -> float (j + 1), rate)
                        |> List.ofSeq
                    )
            ]
