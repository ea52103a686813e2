namespace LayerSkip

open System.Text.Json

/// A lens report as JSON: what `layerskip lens --json` prints and its page draws.
[<RequireQualifiedAccess>]
module LensJson =
    /// Statistics to float32's digits: more of them would say nothing, and there are many.
    let private number (name: string) (value: float) (json: Utf8JsonWriter) =
        json.WriteNumber(name, float32 value)

    let private textOf (report: LensReport) (id: int) (json: Utf8JsonWriter) =
        json.WriteNumber("id", id)
        json |> JsonWrite.textOrNull "text" (report.Texts.TryFind id)

    let private position (report: LensReport) (row: ComparedRow) (json: Utf8JsonWriter) =
        json
        |> JsonWrite.objects "top" row.Row.Top (fun top ->
            json |> textOf report top.Id
            json |> number "probability" top.Probability)

        json |> number "entropy" row.Row.Entropy
        json |> number "kl" row.Kl
        json.WriteNumber("final_rank", row.Final.Rank)
        json |> number "final_probability" (exp row.Final.LogProbability)

        match Array.tryHead row.Row.Targets with
        | Some next ->
            json.WriteNumber("next_rank", next.Rank)
            json |> number "next_log_probability" next.LogProbability
        | None ->
            json.WriteNull "next_rank"
            json.WriteNull "next_log_probability"

    let private exit (report: LensReport) (exit: LensExit) (json: Utf8JsonWriter) =
        json.WriteNumber("layer", exit.Layer)
        json |> number "agreement" exit.Agreement
        json |> number "mean_kl" exit.MeanKl
        json |> number "mean_entropy" exit.MeanEntropy

        match exit.CrossEntropy with
        | Some value -> json |> number "cross_entropy" value
        | None -> json.WriteNull "cross_entropy"

        json |> JsonWrite.objects "positions" exit.Rows (fun row -> json |> position report row)

    /// A logit as it was computed: the shortest digits that float32 tells apart, or float64's.
    let private logit (json: Utf8JsonWriter) (value: float) =
        if float (float32 value) = value then
            json.WriteNumberValue(float32 value)
        else
            json.WriteNumberValue value

    /// The fields of a report. Layers and ranks count from 1, positions from 0; entropy, KL and cross entropy are in nats;
    /// "text" is null where the model has no tokenizer.
    let write (report: LensReport) (json: Utf8JsonWriter) : unit =
        json.WriteString("model", report.Model)
        json.WriteString("dtype", report.Dtype)
        json |> JsonWrite.textOrNull "compute" report.Compute
        json.WriteString("kv", report.Kv)
        json.WriteString("prefill", report.Prefill)
        json.WriteNumber("layers", report.Layers)
        json.WriteNumber("vocabulary", report.Vocabulary)
        json.WriteNumber("top_k", report.TopK)

        json |> JsonWrite.objects "tokens" report.Tokens (fun id -> json |> textOf report id)

        json
        |> JsonWrite.objects "final_tokens" (Array.last report.Exits).Rows (fun row ->
            json |> textOf report row.Final.Id)

        json |> JsonWrite.ints "settled_layers" report.Settled
        json |> JsonWrite.objects "exits" report.Exits (fun each -> json |> exit report each)

        match report.ExitLogits with
        | None -> ()
        | Some logits ->
            json
            |> JsonWrite.array "exit_logits" logits (fun row ->
                json.WriteStartArray()
                Array.iter (logit json) row
                json.WriteEndArray())
