namespace LayerSkip

/// What an exit's confidence in its choice is worth: each pair is a probability, and whether the last layer chose the same.
[<RequireQualifiedAccess>]
module CalibrationPlots =
    let private bins = 10

    /// In each tenth of confidence that has pairs: mean confidence, share of matches, pairs.
    let binned (pairs: (float * bool)[]) : (float * float * int) list =
        pairs
        |> Array.groupBy (fun (confidence, _) -> min (bins - 1) (int (confidence * float bins)))
        |> Array.sortBy fst
        |> Array.map (fun (_, inBin) ->
            Array.averageBy fst inBin,
            Array.averageBy (fun (_, matched) -> if matched then 1.0 else 0.0) inBin,
            inBin.Length)
        |> List.ofArray

    /// The expected calibration error (Guo et al. 2017, equation 3), over tenths of confidence: 0 where confidence is the
    /// frequency of being right; NaN of no pairs.
    let error (pairs: (float * bool)[]) : float =
        (binned pairs
         |> List.sumBy (fun (confidence, share, count) -> float count * abs (confidence - share)))
        / float pairs.Length

    /// Acceptance by confidence, of some exits.
    let reliability (subtitle: string) (exits: (int * (float * bool)[]) list) : Picture =
        Picture.marks
            "What an exit's confidence is worth"
            subtitle
            "On the dashed line an exit is right as often as it is sure. Below it, it is too sure of itself: a draft should stop sooner. ECE, the expected calibration error, is the mean distance from it."
            (Axis.share "confidence of the exit")
            (Axis.share "drafts that the last layer confirms")
            [
                for exit, pairs in exits do
                    Mark.Line(
                        $"exit {exit}, ECE {PlotNumber.byStep 0.01 (error pairs)}",
                        binned pairs |> List.map (fun (confidence, share, _) -> confidence, share)
                    )
                Mark.Guide("as sure as right", [ 0.0, 0.0; 1.0, 1.0 ])
            ]

    /// What a threshold on confidence keeps of an exit's drafts, and how many of those are right.
    let thresholds (subtitle: string) (exit: int) (pairs: (float * bool)[]) : Picture =
        let steps = [ for i in 0..20 -> float i / 20.0 ]

        let at (threshold: float) =
            let kept = pairs |> Array.filter (fun (confidence, _) -> confidence >= threshold)
            let right = kept |> Array.filter snd
            let over (a: int) (b: int) = if b = 0 then nan else float a / float b
            over kept.Length pairs.Length, over right.Length kept.Length

        let shares = [ for threshold in steps -> threshold, at threshold ]

        Picture.marks
            $"Drafting only where exit {exit} is sure"
            subtitle
            "A draft ends where confidence falls below the threshold: a higher one drafts less, and more of it is kept."
            (Axis.linear "threshold on confidence" "probability")
            (Axis.share "share")
            [
                Mark.Line("positions that are drafted", [ for x, (drafted, _) in shares -> x, drafted ])
                Mark.Line("of those, confirmed", [ for x, (_, confirmed) in shares -> x, confirmed ])
            ]
