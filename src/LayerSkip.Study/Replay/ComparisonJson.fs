namespace LayerSkip

open System.Text.Json

/// How a comparison is written as JSON. Writers of a field come last, for pipes.
[<RequireQualifiedAccess>]
module ComparisonJson =
    let private summary (summary: ComparedSummary) (json: Utf8JsonWriter) =
        let text, lowest = summary.Worst
        json.WriteString("way", summary.Way)
        json.WriteBoolean("static", summary.IsStatic)
        json |> StatisticsJson.interval "to_plain" summary.ToPlain
        json |> StatisticsJson.speedUp "speed_up" summary.SpeedUp
        json.WriteString("worst_text", text.Name)
        json |> StatisticsJson.interval "worst" lowest
        json |> StatisticsJson.number "policy_share" summary.PolicyShare
        json |> StatisticsJson.sources summary.Sources
        json.WriteBoolean("same_text", summary.SameText)

    let private cell (cell: ComparedCell) (json: Utf8JsonWriter) =
        json.WriteString("way", cell.Way)
        json.WriteString("set", cell.Text.Set)
        json.WriteString("text", cell.Text.Name)
        json.WriteNumber("prompt_tokens", cell.Text.Prompt.Length)
        json |> StatisticsJson.number "ms_per_token" cell.MsPerToken

        json
        |> JsonWrite.array "runs_ms_per_token" cell.Times (fun time ->
            if TextTime.isTimed time then
                json.WriteNumberValue(System.Math.Round(time.MsPerToken, 6))
            else
                json.WriteNullValue())

        json |> StatisticsJson.sources cell.Stats.Sources
        json.WriteBoolean("same_text", cell.SameText)

    /// One line: what every way came to, by set of texts too, each way over each other one that is named, and every text.
    /// `oracle`: of a text by its name, how many times as fast as plain decoding the replay's oracle is.
    let line (model: string) (oracle: Map<string, float>) (cells: ComparedCell list) : string =
        JsonWrite.line (fun json ->
            json.WriteString("model", model)
            let summaries = Comparison.summaries cells
            json |> JsonWrite.objects "ways" summaries (fun each -> summary each json)

            json
            |> JsonWrite.objects "sets" (cells |> List.groupBy _.Text.Set) (fun (set, cells) ->
                json.WriteString("set", set)
                json
                |> JsonWrite.objects "ways" (Comparison.summaries cells) (fun each -> summary each json))

            match Comparison.bestStatic summaries with
            | None -> ()
            | Some best ->
                json.WriteString("best_static", best.Way)

                json
                |> JsonWrite.objects "to_best_static" summaries (fun each ->
                    json.WriteString("way", each.Way)
                    json |> StatisticsJson.interval "ratio" (Comparison.ratio best.Way each.Way cells))

            json
            |> JsonWrite.objects "oracle" (Map.toSeq oracle) (fun (text, ratio) ->
                json.WriteString("text", text)
                json |> StatisticsJson.number "to_plain" ratio)

            json |> JsonWrite.objects "texts" cells (fun each -> cell each json))
