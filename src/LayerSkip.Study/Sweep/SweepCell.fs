namespace LayerSkip

open System.Text.Json

/// What one way of decoding a prompt came to.
type SweepDecoding = {
    /// New tokens, the first one included.
    Tokens: int
    Timings: Timings
    Metrics: SpeculationMetrics
    /// Whether it wrote the autoregressive text, as it must.
    SameText: bool
}

/// A prompt, once in every way, one after another, so that all ways met the machine in the same mood.
type SweepCell = {
    /// Which of the prompts, counted from 0, and which of its runs.
    Prompt: int
    Run: int
    PromptTokens: int
    Cpu: string
    Threads: int
    /// In the order of `SweepConfig.Settings`.
    Decodings: SweepDecoding[]
    /// What rounds take on the machine; in the first cell that a process computes.
    Costs: RoundTimes option
}

/// Cells as a run's file has them.
[<RequireQualifiedAccess>]
module SweepCell =
    let private writeDecoding (json: Utf8JsonWriter) (decoding: SweepDecoding) =
        let timings = decoding.Timings
        json.WriteNumber("tokens", decoding.Tokens)
        json |> StatisticsJson.number "ttft_ms" timings.TtftMs
        json |> StatisticsJson.number "decode_ms" timings.DecodeMs
        json |> StatisticsJson.number "draft_ms" timings.DraftMs
        json |> StatisticsJson.number "verify_ms" timings.VerifyMs
        json |> StatisticsJson.number "head_ms" timings.HeadMs
        json |> StatisticsJson.number "policy_ms" timings.PolicyMs
        json.WriteBoolean("same_text", decoding.SameText)
        // [drafted, and how many rounds kept 0, 1, .. drafted]
        json
        |> JsonWrite.array "rounds" (SpeculationMetrics.counts decoding.Metrics) (fun (drafted, kept) ->
            json.WriteStartArray()
            json.WriteNumberValue drafted
            kept |> Array.iter json.WriteNumberValue
            json.WriteEndArray())

    let private writeCosts (json: Utf8JsonWriter) (costs: RoundTimes) =
        json |> StatisticsJson.number "plain_ms" costs.PlainMs
        json.WriteNumber("context", costs.Context)
        json.WriteNumber("samples", costs.Samples)

        json
        |> JsonWrite.objects "rounds" costs.Rounds (fun round ->
            json.WriteNumber("exit_layer", round.Exit)
            json.WriteNumber("drafted", round.Drafted)
            json |> StatisticsJson.number "round_ms" round.RoundMs
            json |> StatisticsJson.number "draft_ms" round.DraftMs
            json |> StatisticsJson.number "verify_ms" round.VerifyMs)

    /// The fields of a cell's line, beside its number.
    let write (cell: SweepCell) (json: Utf8JsonWriter) : unit =
        json.WriteNumber("prompt", cell.Prompt)
        json.WriteNumber("run", cell.Run)
        json.WriteNumber("prompt_tokens", cell.PromptTokens)
        json.WriteString("cpu", cell.Cpu)
        json.WriteNumber("threads", cell.Threads)
        json |> JsonWrite.objects "decodings" cell.Decodings (writeDecoding json)

        cell.Costs
        |> Option.iter (fun costs -> json |> JsonWrite.object "costs" (fun json -> writeCosts json costs))

    let private readMetrics (part: JsonPart) : SpeculationMetrics =
        let counts (round: JsonPart) =
            match [| for item in round.Items -> item.Int |] with
            | [||] -> round.Fault "is empty"
            | numbers -> numbers[0], numbers[1..]

        match SpeculationMetrics.tryOfCounts [ for round in part.Items -> counts round ] with
        | Some metrics -> metrics
        | None -> part.Fault "counts no rounds"

    let private readDecoding (part: JsonPart) : SweepDecoding =
        let ms name = (part.Field name).Number

        {
            Tokens = (part.Field "tokens").Int
            Timings = {
                TtftMs = ms "ttft_ms"
                DecodeMs = ms "decode_ms"
                DraftMs = ms "draft_ms"
                VerifyMs = ms "verify_ms"
                HeadMs = ms "head_ms"
                PolicyMs = ms "policy_ms"
            }
            Metrics = readMetrics (part.Field "rounds")
            SameText = (part.Field "same_text").Bool
        }

    let private readCosts (part: JsonPart) : RoundTimes = {
        PlainMs = (part.Field "plain_ms").Number
        Context = (part.Field "context").Int
        Samples = (part.Field "samples").Int
        Rounds = [
            for round in (part.Field "rounds").Items ->
                {
                    Exit = (round.Field "exit_layer").Int
                    Drafted = (round.Field "drafted").Int
                    RoundMs = (round.Field "round_ms").Number
                    DraftMs = (round.Field "draft_ms").Number
                    VerifyMs = (round.Field "verify_ms").Number
                }
        ]
    }

    /// Throws `JsonFault` where a line has another form.
    let internal read (config: SweepConfig) (part: JsonPart) : SweepCell =
        let decodings = part.Field "decodings"

        let cell = {
            Prompt = (part.Field "prompt").Int
            Run = (part.Field "run").Int
            PromptTokens = (part.Field "prompt_tokens").Int
            Cpu = (part.Field "cpu").Text
            Threads = (part.Field "threads").Int
            Decodings = [| for item in decodings.Items -> readDecoding item |]
            Costs = part.TryField "costs" |> Option.map readCosts
        }

        if cell.Decodings.Length <> config.Settings.Length then
            decodings.Fault "has another number of settings than the first line"
        else
            cell
