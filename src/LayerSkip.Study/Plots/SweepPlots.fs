namespace LayerSkip

/// Sweeps: the measured surface beside the cost model's.
[<RequireQualifiedAccess>]
module SweepPlots =
    let private factor (value: float) = (PlotNumber.byStep 0.01 value) + "x"
    let private shown (value: int option) = value |> Option.map string |> Option.defaultValue ""

    let private bounds (write: float -> string) (interval: Interval) =
        if System.Double.IsNaN interval.Low then
            write interval.Value
        else
            $"{write interval.Value} ({write interval.Low} to {write interval.High})"

    /// What hovering a cell tells.
    let private note (row: SweepRow) : string =
        let place =
            match row.Setting.Exit with
            | Some exit -> $"exit layer {exit}, draft length {shown row.Setting.DraftLength}"
            | None -> $"prompt lookup, draft length {shown row.Setting.DraftLength}"

        String.concat "\n" [
            place
            $"speed-up {bounds factor row.SpeedUp.OfTimes} of mean times, {bounds factor row.SpeedUp.OfRates} of mean rates"
            $"""{bounds (PlotNumber.byStep 0.001) row.MsPerToken} ms a token"""
            $"{PlotNumber.byStep 0.1 (100.0 * row.Metrics.DraftAcceptanceRate)} %% of drafts accepted, {PlotNumber.byStep 0.01 row.Metrics.MeanAcceptanceLength} tokens a round"
            if System.Double.IsFinite row.PredictedSpeedUp then
                $"cost model: {factor row.PredictedSpeedUp}; pays from {PlotNumber.byStep 0.1 (100.0 * row.BreakEven)} %% acceptance"
        ]

    /// The rows of the table, from the bottom: prompt lookup, then the exits.
    let private lines (report: SweepReport) : (string * SweepRow list) list =
        let drafting = report.Rows |> List.filter (fun row -> row.Setting <> Autoregressive)
        let of' exit = drafting |> List.filter (fun row -> row.Setting.Exit = exit)

        ("prompt lookup", of' None)
        :: [ for exit in report.Config.ExitLayers -> $"E = {exit}", of' (Some exit) ]

    /// The edge above the last row of a column, from the bottom, whose value is above 1; below them all where none is.
    let private edge (column: float list) : float =
        match column |> List.tryFindIndexBack (fun value -> value > 1.0) with
        | Some last -> float last + 0.5
        | None -> 0.5

    /// Speed-ups over exit layers and draft lengths: measured, by the cost model, and the one over the other, on one scale of colours
    /// around 1; the dashed line is where the cost model says that drafting stops to pay.
    let surface (subtitle: string) (report: SweepReport) : Picture =
        let lines = lines report
        let lengths = report.Config.DraftLengths
        let count = lengths.Length

        // Three tables with a gap between them, in one.
        let blocks (pick: (SweepRow -> 'T) list) (gap: 'T) =
            lines
            |> List.map (fun (_, rows) ->
                pick
                |> List.mapi (fun block pick -> (if block > 0 then [ gap ] else []) @ List.map pick rows)
                |> List.concat
                |> Array.ofList)
            |> Array.ofList

        let measured (row: SweepRow) = row.SpeedUp.OfTimes.Value
        let predicted (row: SweepRow) = row.PredictedSpeedUp
        let ratio (row: SweepRow) = measured row / predicted row
        let text pick (row: SweepRow) =
            if System.Double.IsFinite(pick row) then
                PlotNumber.byStep 0.01 (pick row)
            else
                ""

        let best (row: SweepRow) =
            if report.Best |> Option.exists (fun best -> best.Setting = row.Setting) then
                "\u2605 " + text measured row
            else
                text measured row

        let values = blocks [ measured; predicted; ratio ] nan

        // Beyond twice as fast, and as slow as nothing, colours say no more.
        let reach =
            values
            |> Seq.concat
            |> Seq.filter System.Double.IsFinite
            |> Seq.fold (fun most value -> max most (abs (value - 1.0))) 0.05
            |> min 1.0

        let columns =
            [ "timed"; "model"; "ratio" ]
            |> List.mapi (fun block title ->
                (if block > 0 then [ "" ] else [])
                @ (lengths
                   |> List.mapi (fun i length ->
                       if i = count / 2 then
                           $"{length}\n{title}"
                       else
                           string length)))
            |> List.concat

        let guide block =
            Mark.Guide(
                "break-even by the cost model",
                [
                    for i in 0 .. count - 1 do
                        let column = lines |> List.map (fun (_, rows) -> predicted rows[i])
                        let x, y = float (block * (count + 1) + i), edge column
                        x - 0.5, y
                        x + 0.5, y
                ]
            )

        {
            Picture.heat
                "Speed-up over plain decoding, by exit layer and draft length"
                subtitle
                "Blue is faster than plain decoding, red slower, and the star the fastest; on hovering, intervals and acceptance. Left, as it was timed. Middle, what the cost model makes of the same rounds. Right, the one over the other: grey where they agree. Above the dashed line drafting does not pay by the cost model: drafts of so many layers cost more than they save."
                ("draft length d (tokens)", columns)
                ("drafts by", List.map fst lines)
                {
                    Values = values
                    Texts = blocks [ best; text predicted; text ratio ] ""
                    Notes = blocks [ note; note; note ] ""
                    Measure = "times plain decoding's speed"
                    Colours = HeatColours.Around 1.0
                    Range = Some(1.0 - reach, 1.0 + reach)
                } with
                // As wide as a page, whatever its columns.
                Width = 900
                Height = 200 + 34 * lines.Length
        }
        |> Picture.over [ guide 0; guide 1 ]

    /// How often each exit's first draft is right, beside how often it must be: (E + h) / (L + h), measured as what a draft takes over
    /// what a token of plain decoding takes.
    let acceptance (subtitle: string) (report: SweepReport) : Picture =
        let byExit (pick: SweepRow list -> float) = [
            for exit in report.Config.ExitLayers do
                float exit, report.Rows |> List.filter (fun row -> row.Setting.Exit = Some exit) |> pick
        ]

        let first (rows: SweepRow list) =
            (rows |> List.map _.Metrics |> SpeculationMetrics.sum).AcceptanceByPosition
            |> Array.tryHead
            |> Option.defaultValue nan

        Picture.marks
            "Which exits are worth drafting with"
            subtitle
            "Where a round's first draft is right more often than the dashed line says, some draft length pays; the further above it, the more. The line rises with the layers that draft."
            (Axis.whole "exit layer E" "")
            (Axis.share "first drafts accepted")
            [
                Mark.Line("accepted", byExit first)
                Mark.Guide("needed: (E + h) / (L + h), measured", byExit (fun rows -> rows.Head.BreakEven))
            ]

    /// Speed-ups by draft length, each exit a line, with 95 % intervals.
    let byLength (subtitle: string) (report: SweepReport) : Picture =
        let places (rows: SweepRow list) pick =
            rows |> List.map (fun row -> float row.Setting.DraftLength.Value, pick row)

        let shown =
            let best =
                lines report
                |> List.sortByDescending (fun (_, rows) ->
                    rows |> List.map _.SpeedUp.OfTimes.Value |> List.max)
                |> List.truncate 3
                |> List.map fst

            lines report |> List.filter (fun (name, _) -> List.contains name best)

        let lengths = report.Config.DraftLengths

        Picture.marks
            "Speed-up by draft length"
            subtitle
            "Of the ways that come furthest, with their 95 % intervals over the prompts. Each line has a length beyond which drafts are mostly refused."
            (Axis.whole "draft length d" "tokens")
            (Axis.linear "speed-up" "times plain decoding")
            [
                for name, rows in shown do
                    Mark.Band(
                        name,
                        rows
                        |> List.map (fun row ->
                            float row.Setting.DraftLength.Value,
                            row.SpeedUp.OfTimes.Low,
                            row.SpeedUp.OfTimes.High)
                    )

                    Mark.Line(name, places rows _.SpeedUp.OfTimes.Value)
                Mark.Guide(
                    "plain decoding",
                    [ for length in [ List.min lengths; List.max lengths ] -> float length, 1.0 ]
                )
            ]

    /// A sweep's page.
    let ofReport (report: SweepReport) : PagePart list =
        let config = report.Config

        let count number thing = if number = 1 then $"1 {thing}" else $"{number} {thing}s"

        let machines =
            report.Machines
            |> List.map (fun (cpu, threads) -> $"""{cpu}, {count threads "thread"}""")
            |> String.concat "; "

        let subtitle =
            $"""{config.Model} in {config.Dtype}, {config.Layers} layers; {count config.Prompts "prompt"}, {config.MaxNewTokens} new tokens, {count config.Runs "run"}; {machines}"""

        [
            PagePart.Drawn(surface subtitle report)
            PagePart.Drawn(acceptance subtitle report)
            PagePart.Drawn(byLength subtitle report)
        ]

    /// The page, whole.
    let html (report: SweepReport) : string = Plots.html $"Sweep of {report.Config.Model}" (ofReport report)
