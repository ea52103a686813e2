namespace LayerSkip

open System.Text.Json

/// A lens report as JSON: what `layerskip lens --json` prints and its page draws.
[<RequireQualifiedAccess>]
module LensJson =
    let private array (name: string) (items: 'T seq) (write: 'T -> unit) (json: Utf8JsonWriter) =
        json.WriteStartArray name
        Seq.iter write items
        json.WriteEndArray()

    /// Statistics to float32's digits: more of them would say nothing, and there are many.
    let private number (name: string) (value: float) (json: Utf8JsonWriter) =
        json.WriteNumber(name, float32 value)

    let private textOf (report: LensReport) (id: int) (json: Utf8JsonWriter) =
        json.WriteNumber("id", id)

        match report.Texts.TryFind id with
        | Some text -> json.WriteString("text", text)
        | None -> json.WriteNull "text"

    let private position (report: LensReport) (row: ComparedRow) (json: Utf8JsonWriter) =
        json.WriteStartObject()

        json
        |> array "top" row.Row.Top (fun top ->
            json.WriteStartObject()
            json |> textOf report top.Id
            json |> number "probability" top.Probability
            json.WriteEndObject())

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

        json.WriteEndObject()

    let private exit (report: LensReport) (exit: LensExit) (json: Utf8JsonWriter) =
        json.WriteStartObject()
        json.WriteNumber("layer", exit.Layer)
        json |> number "agreement" exit.Agreement
        json |> number "mean_kl" exit.MeanKl
        json |> number "mean_entropy" exit.MeanEntropy

        match exit.CrossEntropy with
        | Some value -> json |> number "cross_entropy" value
        | None -> json.WriteNull "cross_entropy"

        json |> array "positions" exit.Rows (fun row -> json |> position report row)
        json.WriteEndObject()

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

        match report.Compute with
        | Some name -> json.WriteString("compute", name)
        | None -> json.WriteNull "compute"

        json.WriteString("kv", report.Kv)
        json.WriteString("prefill", report.Prefill)
        json.WriteNumber("layers", report.Layers)
        json.WriteNumber("vocabulary", report.Vocabulary)
        json.WriteNumber("top_k", report.TopK)

        json
        |> array "tokens" report.Tokens (fun id ->
            json.WriteStartObject()
            json |> textOf report id
            json.WriteEndObject())

        json
        |> array "final_tokens" (Array.last report.Exits).Rows (fun row ->
            json.WriteStartObject()
            json |> textOf report row.Final.Id
            json.WriteEndObject())

        json |> array "settled_layers" report.Settled json.WriteNumberValue
        json |> array "exits" report.Exits (fun each -> json |> exit report each)

        match report.ExitLogits with
        | None -> ()
        | Some logits ->
            json
            |> array "exit_logits" logits (fun row ->
                json.WriteStartArray()
                Array.iter (logit json) row
                json.WriteEndArray())
