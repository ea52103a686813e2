namespace LayerSkip.Cli

open System
open System.Text.Json
open LayerSkip

/// What a benchmark comes to, as JSON and as a table.
[<RequireQualifiedAccess>]
module internal BenchOutput =
    /// "name": median, 5th and 95th percentile of the runs, in milliseconds.
    let private spread (name: string) (spread: Spread) (writer: Utf8JsonWriter) =
        writer
        |> JsonWrite.object name (fun _ ->
            writer |> Output.milliseconds "median" spread.Median
            writer |> Output.milliseconds "p5" spread.P5
            writer |> Output.milliseconds "p95" spread.P95)

    /// One strategy's times in milliseconds: a token's, the first one's, and between events that bring some; the rate is in tokens a
    /// second.
    /// `split_ms` says where a token's time went, each part by its own median.
    let private times (times: DecodingTimes) (writer: Utf8JsonWriter) =
        writer |> spread "ms_per_token" times.MsPerToken
        writer |> spread "ttft_ms" times.TtftMs
        writer |> spread "latency_ms" times.LatencyMs
        writer.WriteNumber("tokens_per_second", Math.Round(1000.0 / times.MsPerToken.Median, 2))

        writer
        |> JsonWrite.object "split_ms" (fun _ ->
            writer |> Output.milliseconds "draft" times.DraftMs
            writer |> Output.milliseconds "verify" times.VerifyMs
            writer |> Output.milliseconds "head" times.HeadMs
            writer |> Output.milliseconds "overhead" times.OverheadMs
            writer |> Output.milliseconds "policy" times.PolicyMs)

    /// The exit layer and draft length of every round, where these are fixed; else rounds have means.
    let fixedNumbers (plan: DraftingPlan) : (int * int) option =
        match plan.Policy, plan.Drafter, plan.Exit, plan.Length with
        | DraftPolicyKind.Static, DrafterKind.Exit, Some exit, Some length -> Some(exit.Layers, length)
        | _ -> None

    /// Of the pairs of runs.
    let private speedUp (options: BenchmarkOptions) (report: BenchmarkReport) : SpeedUp =
        [|
            for plain, fast in report.Decoded -> TextTime.ofCompletion plain, TextTime.ofCompletion fast
        |]
        |> SpeedUp.paired (Key.ofSeed options.Seed)

    /// The contract's object: times in milliseconds, rates in tokens or gigabytes (10^9 bytes) a second.
    let json
        (checkpoint: Checkpoint)
        (plan: DraftingPlan)
        (options: BenchmarkOptions)
        (report: BenchmarkReport)
        : string =
        JsonWrite.line (fun writer ->
            let rounded (name: string) (value: float) = writer.WriteNumber(name, Math.Round(value, 3))

            writer.WriteString("model", checkpoint.Path)
            writer.WriteString("dtype", Weights.dtypeName checkpoint.Weights)
            writer |> JsonWrite.textOrNull "compute" (Weights.compute checkpoint.Weights)
            writer.WriteString("kv", Weights.kv checkpoint.Weights)
            writer.WriteNumber("threads", report.Threads)
            writer.WriteNumber("runs", options.Runs)
            writer.WriteString("cpu", report.Cpu)
            writer.WriteString("simd", CpuKernels.form ())
            rounded "read_bandwidth_gb_s" report.ReadBandwidth

            writer
            |> JsonWrite.object "pass_ms" (fun _ ->
                for rows, ms in report.PassMs do
                    writer |> Output.milliseconds (string rows) ms)

            match report.VerifyRowsRatio with
            | Some ratio -> rounded "verify_rows_ratio" ratio
            | None -> writer.WriteNull "verify_rows_ratio"

            writer
            |> JsonWrite.object "prefill" (fun _ ->
                writer.WriteNumber("tokens", report.PrefillTokens)
                rounded "tokens_per_second" (1000.0 * float report.PrefillTokens / report.PrefillMs)
                writer.WriteString("as", Prefill.name checkpoint.Weights.Prefill))

            writer
            |> JsonWrite.object "autoregressive" (fun _ ->
                times report.Autoregressive writer
                rounded "gb_s" report.AutoregressiveRate)

            writer
            |> JsonWrite.object "self_speculative" (fun _ ->
                match fixedNumbers plan with
                | Some(exit, length) ->
                    writer.WriteNumber("exit_layer", exit)
                    writer.WriteNumber("draft_length", length)
                | None ->
                    writer |> StatisticsJson.number "exit_layer" report.MeanExitLayer
                    writer |> StatisticsJson.number "draft_length" report.MeanDraftLength

                DraftingOutput.json (Some plan) writer
                writer |> StatisticsJson.number "policy_share" report.PolicyShare
                rounded "draft_acceptance_rate" report.SelfSpeculative.Acceptance
                writer |> Output.milliseconds "predicted_ms_per_token" report.PredictedMsPerToken
                times report.SelfSpeculative writer
                let metrics = report.Decoded |> Seq.map snd |> SpeculationMetrics.ofCompletions

                writer
                |> JsonWrite.object "stats" (fun _ ->
                    StatisticsJson.speculation metrics writer
                    writer |> StatisticsJson.sources report.Sources

                    match fixedNumbers plan with
                    | Some(exit, _) -> metrics.TokensPerLayer(checkpoint.Config.Layers, exit)
                    | None -> nan
                    |> fun tokens -> writer |> StatisticsJson.number "tokens_per_layer" tokens))

            writer |> StatisticsJson.speedUp "speed_up" (speedUp options report)

            writer.WriteBoolean("same_text", report.SameText)
            rounded "ratio" report.Ratio
            writer |> JsonWrite.textOrNull "stored_dtype" checkpoint.Config.StoredDtype)

    /// By medians, and by means with their intervals over the runs.
    let private ratio (options: BenchmarkOptions) (report: BenchmarkReport) =
        let speedUp = speedUp options report
        $"ratio {Shown.fixedPoint 2 report.Ratio}x; of mean times {Output.interval 2 speedUp.OfTimes}, of mean rates {Output.interval 2 speedUp.OfRates}"

    /// What drafted: "exit layer 2, draft length 4"; of what varies the means.
    let drafting (plan: DraftingPlan) (report: BenchmarkReport) : string =
        match fixedNumbers plan with
        | Some(exit, length) ->
            let rule =
                match plan.StopRule with
                | StopRuleKind.Never -> ""
                | rule -> $", stop rule {StopRule.spell rule}"

            $"exit layer {exit}, draft length {length}{rule}"
        | None ->
            let exit =
                Output.textIf
                    (Double.IsFinite report.MeanExitLayer)
                    $", mean exit layer {Shown.fixedPoint 1 report.MeanExitLayer}"

            $"policy {DraftPolicyKind.name plan.Policy}, drafter {DrafterKind.name plan.Drafter}{exit}, "
            + $"mean draft length {Shown.fixedPoint 1 report.MeanDraftLength}, policy {Shown.percent report.PolicyShare} of the time"

    /// The same for readers: a row for each strategy, times in milliseconds.
    let table
        (checkpoint: Checkpoint)
        (plan: DraftingPlan)
        (options: BenchmarkOptions)
        (report: BenchmarkReport)
        : string =
        let ms = Shown.fixedPoint 2

        // A column's head, and its times in milliseconds.
        let columns: (string * (DecodingTimes -> float)) list = [
            "median", _.MsPerToken.Median
            "p5", _.MsPerToken.P5
            "p95", _.MsPerToken.P95
            "latency p50", _.LatencyMs.Median
            "p95", _.LatencyMs.P95
            "first token", _.TtftMs.Median
            "draft", _.DraftMs
            "verify", _.VerifyMs
            "(head)", _.HeadMs
            "overhead", _.OverheadMs
        ]

        let row name times = name :: (columns |> List.map (fun (_, time) -> ms (time times)))

        let decoding =
            Output.table [ 1 .. columns.Length ] [
                "ms a token" :: List.map fst columns
                row "autoregressive" report.Autoregressive
                row "self-speculative" report.SelfSpeculative
            ]

        let passes =
            report.PassMs |> List.map (fun (rows, time) -> $"{rows}: {ms time}") |> String.concat ", "

        let rowsRatio =
            match report.VerifyRowsRatio with
            | Some ratio -> $"five rows cost {Shown.fixedPoint 2 ratio} of one"
            | None -> "the context has no room to measure more"

        String.concat "\n" [
            $"{checkpoint.Path}: {Inputs.machine checkpoint}, {CpuKernels.form ()}, {report.Cpu}"
            $"reads at most {Shown.fixedPoint 1 report.ReadBandwidth} GB/s; decoding reads {Shown.fixedPoint 1 report.AutoregressiveRate} GB/s of weights"
            $"a pass by rows, ms: {passes}; {rowsRatio}"
            $"prefill of {report.PrefillTokens} tokens: {Shown.fixedPoint 1 (1000.0 * float report.PrefillTokens / report.PrefillMs)} tokens/s"
            ""
            decoding
            ""
            $"{drafting plan report}: {Shown.percent report.SelfSpeculative.Acceptance} of drafts accepted; "
            + $"the passes alone would take {ms report.PredictedMsPerToken} ms a token"
            ratio options report
        ]
