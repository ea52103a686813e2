namespace LayerSkip.Cli

open LayerSkip

/// What a sweep came to: for people, and as JSON.
[<RequireQualifiedAccess>]
module internal SweepTable =
    /// One object.
    let json (report: SweepReport) : string = JsonWrite.line (SweepOutput.json report)

    let private shown (value: int option) = value |> Option.map string |> Option.defaultValue ""

    let private factor (value: float) =
        if System.Double.IsFinite value then
            Shown.fixedPoint 2 value + "x"
        else
            ""

    let private interval (interval: Interval) =
        if System.Double.IsFinite interval.Low then
            $"{Shown.fixedPoint 2 interval.Low} to {Shown.fixedPoint 2 interval.High}"
        else
            ""

    let private share (value: float) =
        if System.Double.IsFinite value then
            Shown.percent value
        else
            ""

    /// A row of the table: columns as `heads` names them.
    let private cells (best: SweepRow option) (row: SweepRow) : string list =
        let stats = row.Metrics
        let drafts = stats.NumSpecSteps > 0

        [
            row.Setting.Name
            shown row.Setting.Exit
            shown row.Setting.DraftLength
            Shown.fixedPoint 3 row.MsPerToken.Value
            interval row.MsPerToken
            Shown.fixedPoint 1 row.TokensPerSecond.Value
            if drafts then share stats.DraftAcceptanceRate else ""
            share row.BreakEven
            if drafts then
                Shown.fixedPoint 2 stats.MeanAcceptanceLength
            else
                ""
            factor row.SpeedUp.OfTimes.Value
            interval row.SpeedUp.OfTimes
            factor row.SpeedUp.OfRates.Value
            factor row.PredictedSpeedUp
            if best |> Option.exists (fun best -> best.Setting = row.Setting) then
                "<- best"
            else
                ""
        ]

    let private heads = [
        ""
        "E"
        "d"
        "ms/token"
        "95 %"
        "tokens/s"
        "accepted"
        "needed"
        "tokens/round"
        "of times"
        "95 %"
        "of rates"
        "predicted"
        ""
    ]

    /// The rows, and how to read them.
    let table (report: SweepReport) : string =
        let config = report.Config
        let machines =
            report.Machines
            |> List.map (fun (cpu, threads) -> $"""{cpu}, {Terminal.count threads "thread"}""")
            |> String.concat "; "

        let rest =
            match config.Cells - report.Cells with
            | 0 -> ""
            | left -> $"; {left} of {config.Cells} prompts and runs are still to come or another shard's"

        let best =
            match report.Best with
            | Some best ->
                let at =
                    match best.Setting.Exit with
                    | Some exit -> $"exit layer {exit}, draft length {shown best.Setting.DraftLength}"
                    | None -> $"prompt lookup, draft length {shown best.Setting.DraftLength}"

                $"fastest: {at}, {Output.interval 2 best.SpeedUp.OfTimes} times plain decoding"
            | None -> "fastest: plain decoding"

        String.concat "\n" [
            $"""{config.Model} in {config.Dtype}: {machines}; {Terminal.count config.Prompts "prompt"}, {config.MaxNewTokens} new tokens, {Terminal.count config.Runs "run"}{rest}"""
            ""
            Output.table [ 1..12 ] (heads :: List.map (cells report.Best) report.Rows)
            ""
            best
            "needed: acceptance at which drafting begins to pay, (E + h) / (L + h) as measured; of times, of rates: speed-up by mean times and by mean rates;"
            + " predicted: by the cost model from the rounds' costs"
            $"{report.Texts - report.DifferentTexts} of {report.Texts} texts are plain decoding's"
        ]
