namespace LayerSkip

open System
open System.Globalization
open System.Text
open System.Text.Json

/// Reports of sweeps for other programs: JSON and CSV (RFC 4180).
[<RequireQualifiedAccess>]
module SweepOutput =
    let private setting (json: Utf8JsonWriter) (setting: SweepSetting) =
        json.WriteString("setting", setting.Name)
        json |> JsonWrite.intOrNull "exit_layer" setting.Exit
        json |> JsonWrite.intOrNull "draft_length" setting.DraftLength

    let private row (json: Utf8JsonWriter) (row: SweepRow) =
        setting json row.Setting
        json |> StatisticsJson.interval "ms_per_token" row.MsPerToken
        json |> StatisticsJson.interval "tokens_per_second" row.TokensPerSecond
        json |> StatisticsJson.number "ttft_ms" row.TtftMs
        json |> StatisticsJson.phases "split_ms" row.Phases
        json |> StatisticsJson.speedUp "speed_up" row.SpeedUp
        json |> StatisticsJson.number "predicted_ms_per_token" row.PredictedMsPerToken
        json |> StatisticsJson.number "predicted_speed_up" row.PredictedSpeedUp
        json |> StatisticsJson.number "break_even_acceptance" row.BreakEven
        json.WriteNumber("different_texts", row.DifferentTexts)

        json
        |> JsonWrite.object "stats" (fun json ->
            json |> StatisticsJson.speculation row.Metrics
            json |> StatisticsJson.number "tokens_per_layer" row.TokensPerLayer)

    /// The fields of the report's object. Times are in milliseconds; values have their 95 % intervals.
    let json (report: SweepReport) (json: Utf8JsonWriter) : unit =
        json.WritePropertyName "config"
        json.WriteRawValue(SweepConfig.json report.Config)
        json.WriteNumber("cells", report.Cells)
        json.WriteNumber("cells_of_run", report.Config.Cells)
        json.WriteNumber("texts", report.Texts)
        json.WriteNumber("different_texts", report.DifferentTexts)

        json
        |> JsonWrite.objects "machines" report.Machines (fun (cpu, threads) ->
            json.WriteString("cpu", cpu)
            json.WriteNumber("threads", threads))

        json
        |> JsonWrite.objectOrNull "best" report.Best (fun best ->
            setting json best.Setting
            json |> StatisticsJson.interval "speed_up" best.SpeedUp.OfTimes)

        json |> JsonWrite.objects "rows" report.Rows (row json)

    let private number (value: float) =
        if Double.IsFinite value then
            Math.Round(value, 6).ToString("R", CultureInfo.InvariantCulture)
        else
            ""

    let private whole (value: int option) = value |> Option.map string |> Option.defaultValue ""

    /// Columns of the CSV, in order, with what they hold. Later versions may add some behind them.
    let private columns: (string * (SweepRow -> string)) list = [
        "setting", _.Setting.Name
        "exit_layer", (fun row -> whole row.Setting.Exit)
        "draft_length", (fun row -> whole row.Setting.DraftLength)
        "ms_per_token", (fun row -> number row.MsPerToken.Value)
        "ms_per_token_low", (fun row -> number row.MsPerToken.Low)
        "ms_per_token_high", (fun row -> number row.MsPerToken.High)
        "tokens_per_second", (fun row -> number row.TokensPerSecond.Value)
        "tokens_per_second_low", (fun row -> number row.TokensPerSecond.Low)
        "tokens_per_second_high", (fun row -> number row.TokensPerSecond.High)
        "speed_up_of_times", (fun row -> number row.SpeedUp.OfTimes.Value)
        "speed_up_of_times_low", (fun row -> number row.SpeedUp.OfTimes.Low)
        "speed_up_of_times_high", (fun row -> number row.SpeedUp.OfTimes.High)
        "speed_up_of_rates", (fun row -> number row.SpeedUp.OfRates.Value)
        "speed_up_of_rates_low", (fun row -> number row.SpeedUp.OfRates.Low)
        "speed_up_of_rates_high", (fun row -> number row.SpeedUp.OfRates.High)
        "predicted_ms_per_token", (fun row -> number row.PredictedMsPerToken)
        "predicted_speed_up", (fun row -> number row.PredictedSpeedUp)
        "break_even_acceptance", (fun row -> number row.BreakEven)
        "draft_acceptance_rate", (fun row -> number row.Metrics.DraftAcceptanceRate)
        "mean_acceptance_length", (fun row -> number row.Metrics.MeanAcceptanceLength)
        "first_position_acceptance_rate",
        (fun row -> row.Metrics.AcceptanceByPosition |> Array.tryHead |> Option.defaultValue nan |> number)
        "num_spec_steps", (fun row -> string row.Metrics.NumSpecSteps)
        "num_draft_tokens", (fun row -> string row.Metrics.NumDraftTokens)
        "num_accepted_draft_tokens", (fun row -> string row.Metrics.NumAcceptedDraftTokens)
        "tokens_per_layer", (fun row -> number row.TokensPerLayer)
        "ttft_ms", (fun row -> number row.TtftMs)
        "draft_ms", (fun row -> number row.Phases.DraftMs)
        "verify_ms", (fun row -> number row.Phases.VerifyMs)
        "head_ms", (fun row -> number row.Phases.HeadMs)
        "overhead_ms", (fun row -> number row.Phases.OverheadMs)
        "different_texts", (fun row -> string row.DifferentTexts)
    ]

    /// A line of names, and a line for each row; absent numbers are empty.
    let csv (report: SweepReport) : string =
        let text = StringBuilder()
        let line (cells: string list) = text.Append(String.concat "," cells).Append('\n') |> ignore
        line (List.map fst columns)

        for row in report.Rows do
            line [ for _, cell in columns -> cell row ]

        text.ToString()
