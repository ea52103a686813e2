namespace LayerSkip

/// Pictures of a replay. `about` is what was fixed: the model, the machine, the prompt.
[<RequireQualifiedAccess>]
module ReplayPlots =
    let private note (point: ReplayPoint) =
        String.concat "\n" [
            $"exit layer {point.Exit}, draft length {point.DraftLength}"
            $"{Shown.fixedPoint 2 point.Ratio} times as fast as plain decoding"
            $"{Shown.fixedPoint 3 point.MsPerToken} ms a token"
            $"{point.Stats.NumAcceptedDraftTokens} of {point.Stats.NumDraftTokens} drafts accepted ({Shown.percent point.Stats.DraftAcceptanceRate})"
            $"{point.Stats.NumSpecSteps} rounds of {Shown.fixedPoint 2 point.Stats.MeanAcceptanceLength} tokens"
        ]

    /// How many times as fast as plain decoding each exit layer and draft length is.
    let surface (about: string) (report: ReplayReport) : Picture =
        let exits = report.Grid |> List.map _.Exit |> List.distinct
        let lengths = report.Grid |> List.map _.DraftLength |> List.distinct
        let points =
            report.Grid
            |> List.map (fun point -> (point.Exit, point.DraftLength), point)
            |> Map.ofList

        let table cell =
            exits
            |> List.map (fun exit ->
                lengths |> List.map (fun length -> cell points[exit, length]) |> Array.ofList)
            |> Array.ofList

        let best =
            match report.Best with
            | Some best ->
                $" The best is exit layer {best.Exit} with {best.DraftLength} drafts, {Shown.fixedPoint 2 best.Ratio} times."
            | None -> ""

        Picture.heat
            "Speed of self-speculation by exit layer and draft length"
            about
            $"Predicted from one greedy run of {report.Trace.TokenIds.Length} tokens and from the times of rounds. Blue is faster than plain decoding, red slower.{best}"
            ("draft length (tokens a round)", List.map string lengths)
            ("exit layer", List.map string exits)
            {
                Values = table _.Ratio
                Texts = table (fun point -> Shown.fixedPoint 2 point.Ratio)
                Notes = table note
                Measure = "plain decoding's time over it (times)"
                Colours = HeatColours.Around 1.0
                Range = None
            }

    /// The share of first drafts that each exit gets right, and what share pays.
    let acceptance (about: string) (report: ReplayReport) : Picture =
        let rows = report.Trace.Rows
        let exits = report.Grid |> List.map _.Exit |> List.distinct |> List.sort

        let right exit =
            let matches = rows |> Array.filter _.Matches(exit) |> Array.length
            float matches / float (max 1 rows.Length)

        let breakEven =
            match report.Times with
            | Some times ->
                let cost = RoundTimes.cost times

                [
                    Mark.Guide(
                        "pays with one draft a round",
                        [
                            for exit in exits do
                                let share = cost exit 1 / times.PlainMs - 1.0

                                if share >= 0.0 && share <= 1.0 then
                                    float exit, share
                        ]
                    )
                ]
            | None -> []

        Picture.marks
            "Where the exits agree with the whole model"
            about
            "The share of the text's tokens that an exit would have drafted right. Above the dashed line, which the times of rounds give, one draft a round is faster than plain decoding."
            (Axis.whole "exit layer" "")
            (Axis.share "tokens drafted right")
            (Mark.Line("exit", [ for exit in exits -> float exit, right exit ]) :: breakEven)

    /// How much longer each policy takes than the oracle, which knows the text.
    let regret (about: string) (report: ReplayReport) : Picture =
        let bars =
            match report.Best, report.Policies with
            | Some best, oracle :: others ->
                ($"best fixed {best.Exit},{best.DraftLength}", best.MsPerToken / oracle.MsPerToken - 1.0)
                :: [ for policy in others -> policy.Name, policy.OracleRegret ]
            | _ -> []

        Picture.marks
            "What policies lose to the oracle"
            about
            "How much longer a policy takes than the oracle, which knows the text and drafts at each round as is best for all that follows. The best fixed exit layer and length are known afterwards only."
            (Axis.names "policy" (List.map fst bars))
            (Axis.share "time beyond the oracle's")
            [
                Mark.Bars("", bars |> List.mapi (fun place (_, regret) -> float place, regret))
            ]

    /// What policies decided as the text went on: the exit layer of each round.
    let decisions (about: string) (report: ReplayReport) : Picture =
        let shown =
            report.Policies
            |> List.filter (fun policy ->
                policy.Name = "oracle"
                || policy.Rounds |> Array.distinctBy _.Plan.Exit |> Array.length > 1)

        Picture.marks
            "The exit layers that policies chose"
            about
            "At each new token the exit layer of the round that it came in; policies that never change it are left out. The oracle takes the earliest exit that is right long enough, so it changes often."
            (Axis.whole "new token" "")
            (Axis.whole "exit layer" "")
            [
                for policy in shown ->
                    Mark.Steps(
                        policy.Name,
                        [
                            for round in policy.Rounds do
                                if round.Drafted > 0 then
                                    float (round.Row + 2), float round.Plan.Exit.Layers
                        ]
                    )
            ]

    /// Predicted beside measured, in milliseconds a token: each point is an exit layer and a draft length.
    let predicted (about: string) (points: (string * float * float) list) : Picture =
        let values = points |> List.collect (fun (_, predicted, measured) -> [ predicted; measured ])
        let low, high = List.min values, List.max values

        let errors =
            points
            |> List.map (fun (_, predicted, measured) -> abs (predicted / measured - 1.0))
            |> List.sort

        Picture.marks
            "Predicted and measured speed"
            about
            $"Each dot is an exit layer and a draft length: predicted from one run by replay, and measured live. On the dashed line both are one; the median error is {Shown.percent errors[errors.Length / 2]}."
            (Axis.linear "measured" "ms a token")
            (Axis.linear "predicted" "ms a token")
            [
                Mark.Guide("predicted = measured", [ low, low; high, high ])
                Mark.Dots(
                    "exit layer and draft length",
                    [
                        for name, predicted, measured in points ->
                            { X = measured; Y = predicted; Note = name }
                    ]
                )
            ]

    /// How sure an exit was of its choice at each new token, and whether the whole model chose the same.
    let confidences (exit: int) (trace: Trace) : (float * bool)[] =
        trace.Rows |> Array.map (fun row -> row.Confidences[exit - 1], row.Matches exit)

    /// Exit, drafts and what was kept of them, round by round.
    let timeline (about: string) (policy: PolicyPoint) : Picture =
        let at (pick: ReplayedRound -> int) = [
            for index, round in Seq.indexed policy.Rounds -> float (index + 1), float (pick round)
        ]

        Picture.marks
            $"What {policy.Name} chooses, round by round"
            about
            "A good policy drafts far where drafts are kept, and little or not at all where they are refused: the dots, drafts kept, then lie on the line of drafts."
            (Axis.whole "round" "")
            (Axis.whole "layer, and tokens" "")
            [
                Mark.Steps("exit layer E", at _.Plan.Exit.Layers)
                Mark.Steps("drafts d", at _.Drafted)
                Mark.Dots("drafts kept", [ for x, y in at _.Accepted -> { X = x; Y = y; Note = "" } ])
            ]

    /// A few exits of all depths, the first ones among them: of all, what one sees is what a few show.
    let private someExits (layers: int) =
        [ 1; 2; 4; layers / 2; layers - 1 ]
        |> List.filter (fun exit -> exit >= 1 && exit < layers)
        |> List.distinct

    /// All that a replay shows, as a page's parts.
    let page (about: string) (report: ReplayReport) : PagePart list =
        [
            if report.Best.IsSome then
                surface about report

            acceptance about report

            if not report.Policies.IsEmpty then
                regret about report
                decisions about report

                // The one policy that has all the information that there is.
                match report.Policies |> List.tryFind _.Name.StartsWith("follow-the-leader") with
                | Some leader -> timeline about leader
                | None -> ()

            if report.Trace.Rows.Length > 0 then
                let exits = someExits report.Trace.Layers
                let best = report.Best |> Option.map _.Exit |> Option.defaultValue exits.Head

                CalibrationPlots.reliability about [
                    for exit in exits -> exit, confidences exit report.Trace
                ]

                CalibrationPlots.thresholds about best (confidences best report.Trace)
        ]
        |> List.map PagePart.Drawn
