namespace LayerSkip.Cli

open System
open System.Text.Json
open LayerSkip

/// What a replay tells: the contract's object, the trace, and a table for readers.
[<RequireQualifiedAccess>]
module internal ReplayOutput =
    let private counts (stats: SpeculationStats) (writer: Utf8JsonWriter) =
        writer.WriteNumber("num_spec_steps", stats.NumSpecSteps)
        writer.WriteNumber("num_draft_tokens", stats.NumDraftTokens)
        writer.WriteNumber("num_accepted_draft_tokens", stats.NumAcceptedDraftTokens)

    let private rates (stats: SpeculationStats) (writer: Utf8JsonWriter) =
        writer |> StatisticsJson.number "draft_acceptance_rate" stats.DraftAcceptanceRate
        writer |> StatisticsJson.number "mean_acceptance_length" stats.MeanAcceptanceLength
        writer |> JsonWrite.ints "acceptance_histogram" stats.AcceptanceHistogram
        writer |> StatisticsJson.byLength (SpeculationMetrics.ofRounds stats.Rounds)

    let private pointFields (point: ReplayPoint) (writer: Utf8JsonWriter) =
        writer.WriteNumber("exit_layer", point.Exit)
        writer.WriteNumber("draft_length", point.DraftLength)
        writer |> counts point.Stats
        writer |> StatisticsJson.number "predicted_ms_per_token" point.MsPerToken
        writer |> StatisticsJson.number "predicted_ratio" point.Ratio
        writer |> rates point.Stats

    let private timesFields (times: RoundTimes) (writer: Utf8JsonWriter) =
        writer |> StatisticsJson.number "plain_ms_per_token" times.PlainMs
        writer.WriteNumber("context", times.Context)
        writer.WriteNumber("samples", times.Samples)

        writer
        |> JsonWrite.objects "rounds" times.Rounds (fun time ->
            writer.WriteNumber("exit_layer", time.Exit)
            writer.WriteNumber("draft_length", time.Drafted)
            writer |> StatisticsJson.number "round_ms" time.RoundMs
            writer |> StatisticsJson.number "draft_ms" time.DraftMs
            writer |> StatisticsJson.number "verify_ms" time.VerifyMs)

    let private policyFields (policy: PolicyPoint) (writer: Utf8JsonWriter) =
        writer.WriteString("name", policy.Name)
        writer |> counts policy.Stats
        writer.WriteNumber("num_draft_tokens_at_least", policy.DraftedAtLeast)
        writer |> StatisticsJson.number "predicted_ms_per_token" policy.MsPerToken
        writer |> StatisticsJson.number "predicted_ratio" policy.Ratio
        writer |> StatisticsJson.number "oracle_regret" policy.OracleRegret
        writer |> StatisticsJson.number "static_regret" policy.StaticRegret
        writer |> StatisticsJson.number "mean_exit_layer" policy.MeanExit
        writer |> StatisticsJson.number "mean_draft_length" policy.MeanLength
        writer |> rates policy.Stats

        // Exit layer, drafted, accepted.
        writer
        |> JsonWrite.array "rounds" policy.Rounds (fun round ->
            writer.WriteStartArray()
            writer.WriteNumberValue round.Plan.Exit.Layers
            writer.WriteNumberValue round.Drafted
            writer.WriteNumberValue round.Accepted
            writer.WriteEndArray())

    /// As `generate` writes it.
    let private text (checkpoint: Checkpoint) (trace: Trace) : string option =
        checkpoint.Tokenizer
        |> Option.map (fun tokenizer -> Tokenizer.decodeContinuing false tokenizer trace.TokenIds)

    let private finish (trace: Trace) = if trace.Stopped then "stop" else "length"

    /// The contract's object; times in milliseconds.
    let json (checkpoint: Checkpoint) (report: ReplayReport) =
        JsonWrite.line (fun writer ->
            writer |> JsonWrite.ints "prompt_ids" report.Trace.Prompt
            writer |> JsonWrite.ints "token_ids" report.Trace.TokenIds
            writer |> JsonWrite.objects "grid" report.Grid (fun point -> pointFields point writer)
            writer
            |> JsonWrite.objects "policies" report.Policies (fun policy -> policyFields policy writer)

            writer |> JsonWrite.objectOrNull "best" report.Best (fun best -> pointFields best writer)

            writer
            |> JsonWrite.objectOrNull "times" report.Times (fun times -> timesFields times writer)

            writer |> JsonWrite.textOrNull "text" (text checkpoint report.Trace)
            writer.WriteString("finish_reason", finish report.Trace)
            writer.WriteString("model", checkpoint.Path)
            writer.WriteString("dtype", Weights.dtypeName checkpoint.Weights)
            writer.WriteNumber("threads", CpuKernels.threads ())
            writer.WriteString("cpu", Benchmark.cpu ()))

    /// The trace: "rows" are positions after each new token, [token, choices of layers 1..L, confidences of layers 1..L].
    let traceJson (trace: Trace) =
        JsonWrite.line (fun writer ->
            let rows name (rows: JudgedRow[]) =
                writer
                |> JsonWrite.objects name rows (fun row ->
                    writer.WriteNumber("token", row.Token)
                    writer |> JsonWrite.ints "choices" row.Choices

                    writer
                    |> JsonWrite.array "confidences" row.Confidences (fun confidence ->
                        writer.WriteNumberValue(Math.Round(confidence, 6))))

            writer |> JsonWrite.ints "prompt_ids" trace.Prompt
            writer |> JsonWrite.ints "token_ids" trace.TokenIds
            writer.WriteString("finish_reason", finish trace)
            writer |> JsonWrite.ints "stop_ids" trace.StopIds
            writer.WriteNumber("layers", trace.Layers)
            rows "rows" trace.Rows
            rows "prompt_rows" trace.PromptRows)

    /// How many times as fast as plain decoding each exit and length is; the accepted share where nothing was timed.
    let private surface (report: ReplayReport) =
        let lengths = report.Grid |> List.map _.DraftLength |> List.distinct

        let cell (point: ReplayPoint) =
            if report.Best.IsSome then
                Shown.fixedPoint 2 point.Ratio
            else
                Shown.percent point.Stats.DraftAcceptanceRate

        Output.table [ 0 .. lengths.Length ] [
            "exit layer" :: (lengths |> List.map (fun length -> $"d = {length}"))
            for exit, points in report.Grid |> List.groupBy _.Exit do
                string exit :: List.map cell points
        ]

    let private policies (report: ReplayReport) =
        Output.table [ 1..6 ] [
            [
                "policy"
                "ms a token"
                "ratio"
                "over oracle"
                "over best fixed"
                "accepted"
                "drafts a round"
            ]
            for policy in report.Policies do
                [
                    policy.Name
                    Shown.fixedPoint 3 policy.MsPerToken
                    Shown.fixedPoint 2 policy.Ratio
                    Shown.percent policy.OracleRegret
                    Shown.percent policy.StaticRegret
                    Shown.percent policy.Stats.DraftAcceptanceRate
                    (if Double.IsFinite policy.MeanLength then
                         Shown.fixedPoint 1 policy.MeanLength
                     else
                         "-")
                ]
        ]

    let table (report: ReplayReport) =
        let trace = report.Trace

        String.concat "\n" [
            $"""{Terminal.count trace.TokenIds.Length "new token"} after {trace.Prompt.Length}, every layer read once"""

            match report.Times, report.Best with
            | Some times, Some best ->
                $"plain decoding {Shown.fixedPoint 3 times.PlainMs} ms a token; how many times as fast speculation is, by exit layer and draft length:"
                ""
                surface report
                ""
                $"best: exit layer {best.Exit}, draft length {best.DraftLength}: {Shown.fixedPoint 2 best.Ratio}x, "
                + $"{Shown.percent best.Stats.DraftAcceptanceRate} of drafts accepted"
                ""
                policies report
            | _ ->
                "nothing could be timed; the share of drafts that are accepted, by exit layer and draft length:"
                ""
                surface report
        ]
