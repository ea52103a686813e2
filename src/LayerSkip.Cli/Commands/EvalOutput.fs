namespace LayerSkip.Cli

open System
open System.Globalization
open System.Text.Json
open LayerSkip

/// An evaluation's report, as an object and as a table.
[<RequireQualifiedAccess>]
module internal EvalOutput =
    // JSON has no infinity: the perplexity of an exit that says nothing may be one.
    let private number (name: string) (value: float) (writer: Utf8JsonWriter) =
        if Double.IsFinite value then
            writer.WriteNumber(name, value)
        else
            writer.WriteNull name

    let private metric (writer: Utf8JsonWriter) (metric: EvalMetric) =
        writer |> number metric.Name metric.Value
        metric.StandardError
        |> Option.iter (fun error -> writer |> number $"{metric.Name}_stderr" error)

        for low, high in Option.toList metric.Interval do
            writer
            |> JsonWrite.array $"{metric.Name}_ci95" [ low; high ] (fun bound ->
                writer.WriteNumberValue bound)

    /// Whether a metric can be told from guessing: its interval is clear of chance.
    let private againstChance (report: EvalReport) (metrics: EvalMetric list) : string option =
        match report.Summary.Chance, List.tryHead metrics |> Option.bind _.Interval with
        | Some chance, Some(low, _) when low > chance -> Some "above"
        | Some chance, Some(_, high) when high < chance -> Some "below"
        | Some _, Some _ -> Some "chance"
        | _ -> None

    /// The run's configuration, what was counted, and the metrics of each exit.
    let json (report: EvalReport) : string =
        JsonWrite.line (fun writer ->
            use config = JsonDocument.Parse report.Header.Config

            for setting in config.RootElement.EnumerateObject() do
                if setting.Name <> "remarks" then
                    setting.WriteTo writer

            writer.WriteString("shard", string report.Header.Shard)
            writer.WriteNumber("items", report.Header.Cells)
            writer.WriteNumber("done", report.Done)
            writer |> JsonWrite.counts "counts" report.Summary.Counts
            report.Summary.Chance |> Option.iter (fun chance -> writer.WriteNumber("chance", chance))

            writer
            |> JsonWrite.objects "exits" report.Summary.Exits (fun (exit, metrics) ->
                writer.WriteNumber("exit_layer", exit)
                List.iter (metric writer) metrics

                againstChance report metrics
                |> Option.iter (fun verdict -> writer.WriteString("against_chance", verdict)))

            if not report.Summary.Groups.IsEmpty then
                writer
                |> EvalGroupOutput.json
                    (fun metrics writer -> List.iter (metric writer) metrics)
                    report.Summary.Groups

            writer |> JsonWrite.array "remarks" report.Summary.Remarks writer.WriteStringValue)

    /// About four digits, whatever the size.
    let private shown (value: float) =
        if not (Double.IsFinite value) then
            "infinite"
        elif abs value >= 1e6 then
            value.ToString("0.00e+0", CultureInfo.InvariantCulture)
        elif abs value >= 1000.0 then
            Output.number (int64 (round value))
        elif abs value >= 100.0 then
            Shown.fixedPoint 1 value
        else
            Shown.fixedPoint 4 value

    let private cell (metric: EvalMetric) =
        match metric.StandardError with
        | Some error -> $"{shown metric.Value} ± {shown error}"
        | None -> shown metric.Value

    /// A row for each exit; then what was run, and what to know of it.
    let table (report: EvalReport) : string =
        let names =
            report.Summary.Exits
            |> List.collect (fun (_, metrics) ->
                metrics |> List.map (fun (metric: EvalMetric) -> metric.Name))
            |> List.distinct

        let verdicts = report.Summary.Exits |> List.map (snd >> againstChance report)
        let judged = List.exists Option.isSome verdicts

        let rows = [
            "exit" :: names @ (if judged then [ $"{names.Head} against chance" ] else [])

            for (exit, metrics), verdict in List.zip report.Summary.Exits verdicts do
                [
                    string exit

                    for name in names do
                        metrics
                        |> List.tryFind (fun metric -> metric.Name = name)
                        |> Option.map cell
                        |> Option.defaultValue ""

                    if judged then
                        defaultArg verdict ""
                ]
        ]

        use config = JsonDocument.Parse report.Header.Config
        let text (name: string) = config.RootElement.GetProperty(name).GetString()

        let tryText (name: string) =
            match config.RootElement.TryGetProperty name with
            | true, value -> Some(value.GetString())
            | _ -> None

        // Whatever else decides the numbers, as far as the run's file says it.
        let how =
            [ "compute"; "kv"; "prefill" ]
            |> List.choose (fun name -> tryText name |> Option.map (fun value -> $", {name} {value}"))
            |> String.concat ""

        let heldIn = tryText "held_in" |> Option.defaultWith (fun () -> text "dtype")

        let part =
            if report.Header.Shard = Shard.whole then
                ""
            else
                $" of shard {report.Header.Shard} of {Output.number report.Header.Cells}"

        let counts =
            report.Summary.Counts
            |> List.map (fun (name, count) -> $"{Output.number count} {name}")
            |> String.concat ", "

        let chance =
            report.Summary.Chance
            |> Option.map (fun chance -> $"; chance is {shown chance}")
            |> Option.defaultValue ""

        let errors =
            Output.textIf
                (report.Summary.Exits |> List.exists (snd >> List.exists _.StandardError.IsSome))
                "; ± is the standard error"

        [
            Output.table [ 0 .. names.Length ] rows
            ""
            if not report.Summary.Groups.IsEmpty then
                EvalGroupOutput.table report.Summary.Groups
                ""
            $"""{report.Task} of {text "model"} in {heldIn}{how}: {Terminal.count report.Done "item"}{part}, {counts}{chance}{errors}"""
            yield! report.Summary.Remarks
        ]
        |> String.concat "\n"
