namespace LayerSkip.Cli

open System
open System.Globalization
open System.Text.Json
open LayerSkip

/// Fields that several commands write, tables, and numbers as people read them.
[<RequireQualifiedAccess>]
module internal Output =
    /// Milliseconds to the nanosecond: a token of the smallest models takes a few microseconds, and readers divide.
    let milliseconds (name: string) (value: float) (writer: Utf8JsonWriter) : unit =
        writer.WriteNumber(name, Math.Round(value, 6))

    /// "stats": what speculation did, in vLLM's names; `rounds` has [drafted, accepted] of each round.
    let stats (stats: SpeculationStats) (writer: Utf8JsonWriter) : unit =
        writer
        |> JsonWrite.object "stats" (fun _ ->
            writer.WriteNumber("num_spec_steps", stats.NumSpecSteps)
            writer.WriteNumber("num_draft_tokens", stats.NumDraftTokens)
            writer.WriteNumber("num_accepted_draft_tokens", stats.NumAcceptedDraftTokens)
            writer.WriteNumber("draft_acceptance_rate", stats.DraftAcceptanceRate)
            writer.WriteNumber("mean_acceptance_length", stats.MeanAcceptanceLength)
            writer |> JsonWrite.ints "acceptance_histogram" stats.AcceptanceHistogram

            writer
            |> JsonWrite.array "rounds" stats.Rounds (fun (drafted, accepted) ->
                writer.WriteStartArray()
                writer.WriteNumberValue drafted
                writer.WriteNumberValue accepted
                writer.WriteEndArray())

            writer |> StatisticsJson.sources stats.Sources

            StatisticsJson.byLength (SpeculationMetrics.ofRounds stats.Rounds) writer)

    /// "1,234,567"
    let number (value: int64) = value.ToString("N0", CultureInfo.InvariantCulture)

    /// Names with how often each is there: "8 F32, 13 Q4_K".
    let counted (counts: (string * int) list) : string =
        counts |> Seq.map (fun (name, count) -> $"{count} {name}") |> String.concat ", "

    /// A value and its bounds, where it has some: "1.62 (1.58 to 1.66)".
    let interval (digits: int) (interval: Interval) : string =
        let shown = Shown.fixedPoint digits

        if Double.IsNaN interval.Low then
            shown interval.Value
        else
            $"{shown interval.Value} ({shown interval.Low} to {shown interval.High})"

    /// As an option takes it.
    let plainNumber (value: float) = value.ToString("G6", CultureInfo.InvariantCulture)

    /// A part of a line that is there only sometimes.
    let textIf (holds: bool) (text: string) = if holds then text else ""

    /// Bytes in the largest unit that leaves at least 1.
    let bytes (count: int64) =
        let units = [ 1L <<< 30, "GiB"; 1L <<< 20, "MiB"; 1L <<< 10, "KiB" ]

        match units |> List.tryFind (fun (size, _) -> count >= size) with
        | Some(size, unit) -> $"{Shown.fixedPoint 1 (float count / float size)} {unit}"
        | None -> $"{count} bytes"

    /// Rows of cells in columns as wide as their widest cell; columns in `right` are numbers.
    let table (right: int list) (rows: string list list) : string =
        let widths =
            List.init rows.Head.Length (fun column ->
                rows |> List.map (fun row -> row[column].Length) |> List.max)

        let cell column (text: string) =
            if List.contains column right then
                text.PadLeft widths[column]
            else
                text.PadRight widths[column]

        rows
        |> List.map (fun row -> (row |> List.mapi cell |> String.concat "  ").TrimEnd())
        |> String.concat "\n"
