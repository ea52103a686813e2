namespace LayerSkip.Cli

open System
open System.Text.Json
open LayerSkip

/// What generated answers came to, category by category, as JSON and as a table.
[<RequireQualifiedAccess>]
module internal EvalGroupOutput =
    let private rate (rate: DecodingRate) (writer: Utf8JsonWriter) =
        writer.WriteString("strategy", rate.Way)
        writer.WriteNumber("tokens", rate.Tokens)
        writer |> StatisticsJson.number "ttft_ms" rate.TtftMs
        writer |> StatisticsJson.number "ms_per_token" rate.MsPerToken
        writer |> StatisticsJson.number "tokens_per_second" rate.TokensPerSecond

    /// "groups": of each the scores by exit, the rates by strategy, what speculation did in vLLM's names, and its speed-up by both
    /// definitions. `metrics` writes those of an exit.
    let json
        (metrics: EvalMetric list -> Utf8JsonWriter -> unit)
        (groups: EvalGroup list)
        (writer: Utf8JsonWriter)
        : unit =
        writer
        |> JsonWrite.objects "groups" groups (fun group ->
            writer.WriteString("name", group.Name)
            writer.WriteNumber("items", group.Items)
            writer.WriteNumber("scored", group.Scored)

            writer
            |> JsonWrite.objects "exits" group.Exits (fun (exit, found) ->
                writer.WriteNumber("exit_layer", exit)
                writer |> metrics found)

            writer |> JsonWrite.objects "rates" group.Rates (fun found -> rate found writer)

            for speculation in Option.toList group.Speculation do
                writer
                |> JsonWrite.object "speculation" (fun _ -> writer |> StatisticsJson.speculation speculation)

            group.SpeedUp
            |> Option.iter (fun speedUp -> writer |> StatisticsJson.speedUp "speed_up" speedUp)

            writer.WriteNumber("compared", group.Compared)
            writer.WriteNumber("different", group.Different))

    let private ms (value: float) =
        if Double.IsFinite value then
            Shown.fixedPoint 3 value
        else
            ""

    let private times (interval: Interval) =
        let shown = Shown.fixedPoint 2

        if Double.IsFinite interval.Low then
            $"{shown interval.Value} ({shown interval.Low} to {shown interval.High})"
        else
            shown interval.Value

    /// A number of the whole model's, or of the deepest exit that ran: of texts the one that says most, else the first.
    let private score (group: EvalGroup) =
        let metrics = group.Exits |> List.tryLast |> Option.map snd |> Option.defaultValue []

        metrics
        |> List.tryFind (fun metric -> metric.Name = "rougeL")
        |> Option.orElse (List.tryHead metrics)
        |> Option.map (fun metric -> $"{metric.Name} {Shown.fixedPoint 3 metric.Value}")
        |> Option.defaultValue "no reference"

    let private row (ways: string list) (group: EvalGroup) : string list =
        let speculation read = group.Speculation |> Option.map read |> Option.defaultValue ""

        let speedUp read = group.SpeedUp |> Option.map (read >> times) |> Option.defaultValue ""

        [
            group.Name
            string group.Items
            score group

            for way in ways do
                group.Rates
                |> List.tryFind (fun rate -> rate.Way = way)
                |> Option.map (fun rate -> ms rate.MsPerToken)
                |> Option.defaultValue ""

            speculation (fun metrics -> Shown.percent metrics.DraftAcceptanceRate)
            speculation (fun metrics -> Shown.fixedPoint 2 metrics.MeanAcceptanceLength)
            speedUp _.OfTimes
            speedUp _.OfRates
        ]

    /// A row for each group.
    let table (groups: EvalGroup list) : string =
        let ways = groups |> List.collect _.Rates |> List.map _.Way |> List.distinct

        let heads =
            [ "category"; "items"; "score" ]
            @ (ways |> List.map (fun way -> $"{way}, ms a token"))
            @ [ "accepted"; "tokens a round"; "faster by times"; "by rates" ]

        Output.table [ 1; yield! [ 3 .. 4 + ways.Length ] ] (heads :: List.map (row ways) groups)
