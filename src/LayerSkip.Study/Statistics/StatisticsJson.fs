namespace LayerSkip

open System
open System.Text.Json

/// How reports write statistics as JSON: one spelling for every command and script. Writers of a field come last, for pipes.
[<RequireQualifiedAccess>]
module StatisticsJson =
    /// "name": the number to six digits after the point (milliseconds to the nanosecond), or null where it is none.
    let number (name: string) (value: float) (json: Utf8JsonWriter) : unit =
        if Double.IsFinite value then
            json.WriteNumber(name, Math.Round(value, 6))
        else
            json.WriteNull name

    /// "name": {"value": .., "low": .., "high": ..}: a value and its 95 % interval; bounds are null where there is none.
    let interval (name: string) (interval: Interval) : Utf8JsonWriter -> unit =
        JsonWrite.object name (fun json ->
            json |> number "value" interval.Value
            json |> number "low" interval.Low
            json |> number "high" interval.High)

    /// "name": the ratio of mean times a token and that of mean rates, with intervals, and the texts that they are over.
    let speedUp (name: string) (speedUp: SpeedUp) : Utf8JsonWriter -> unit =
        JsonWrite.object name (fun json ->
            json |> interval "of_times" speedUp.OfTimes
            json |> interval "of_rates" speedUp.OfRates
            json.WriteNumber("texts", speedUp.Texts))

    /// "name": milliseconds a token.
    let phases (name: string) (phases: Phases) : Utf8JsonWriter -> unit =
        JsonWrite.object name (fun json ->
            json |> number "draft" phases.DraftMs
            json |> number "verify" phases.VerifyMs
            json |> number "head" phases.HeadMs
            json |> number "overhead" phases.OverheadMs)

    /// "sources": by whose drafts they were, the one of most rounds first.
    let sources (sources: SourceStats seq) (json: Utf8JsonWriter) : unit =
        json
        |> JsonWrite.objects "sources" sources (fun source ->
            json.WriteString("source", source.Source)
            json.WriteNumber("rounds", source.Rounds)
            json.WriteNumber("draft_tokens", source.DraftTokens)
            json.WriteNumber("accepted_draft_tokens", source.AcceptedDraftTokens)
            // null of what leaves after no layer.
            json |> number "mean_exit_layer" (defaultArg source.MeanExitLayer nan))

    /// "acceptance_histogram_by_draft_length": at each draft length, in quotes, how many rounds kept exactly 0..d drafts;
    /// "per_position_acceptance_rate".
    let byLength (metrics: SpeculationMetrics) (json: Utf8JsonWriter) : unit =
        json
        |> JsonWrite.object "acceptance_histogram_by_draft_length" (fun json ->
            for drafted, kept in Map.toSeq metrics.AcceptanceHistogramByDraftLength do
                json |> JsonWrite.ints (string drafted) kept)

        json
        |> JsonWrite.array "per_position_acceptance_rate" metrics.AcceptanceByPosition (fun rate ->
            json.WriteNumberValue(Math.Round(rate, 6)))

    /// The fields of vLLM's metrics.speculative_decoding, and after them acceptance by position.
    let speculation (metrics: SpeculationMetrics) (json: Utf8JsonWriter) : unit =
        json.WriteNumber("num_spec_steps", metrics.NumSpecSteps)
        json.WriteNumber("num_draft_tokens", metrics.NumDraftTokens)
        json.WriteNumber("num_accepted_draft_tokens", metrics.NumAcceptedDraftTokens)
        json |> number "draft_acceptance_rate" metrics.DraftAcceptanceRate
        json |> number "mean_acceptance_length" metrics.MeanAcceptanceLength
        json |> JsonWrite.ints "acceptance_histogram" metrics.AcceptanceHistogram
        json |> byLength metrics
        json.WriteNumber("num_spec_tokens", metrics.NumSpecTokens)
        json.WriteNumber("num_plain_steps", metrics.NumPlainSteps)
