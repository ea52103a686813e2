namespace LayerSkip.Cli

open System
open System.Buffers
open System.Globalization
open System.Text
open System.Text.Encodings.Web
open System.Text.Json
open LayerSkip

/// JSON objects on one line, tables, and numbers as people read them. Writers of a field come last, for pipes.
[<RequireQualifiedAccess>]
module internal Output =
    let private options =
        // Standard output is no web page: quotes and letters of any script stay readable.
        JsonWriterOptions(Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping)

    /// One JSON object.
    let json (write: Utf8JsonWriter -> unit) : string =
        let buffer = ArrayBufferWriter<byte>()
        using (new Utf8JsonWriter(buffer, options)) (fun writer ->
            writer.WriteStartObject()
            write writer
            writer.WriteEndObject())
        Encoding.UTF8.GetString buffer.WrittenSpan

    /// "name": an object, whose fields `write` writes.
    let object (name: string) (write: unit -> unit) (writer: Utf8JsonWriter) : unit =
        writer.WriteStartObject name
        write ()
        writer.WriteEndObject()

    /// "name": an array, an element for each item.
    let array (name: string) (items: 'T seq) (write: 'T -> unit) (writer: Utf8JsonWriter) : unit =
        writer.WriteStartArray name
        Seq.iter write items
        writer.WriteEndArray()

    /// "name": an array of whole numbers.
    let ints (name: string) (items: int seq) (writer: Utf8JsonWriter) : unit =
        array name items (fun item -> writer.WriteNumberValue item) writer

    /// "name": an object with a number for each item.
    let counts (name: string) (items: (string * int) seq) (writer: Utf8JsonWriter) : unit =
        object name (fun () -> items |> Seq.iter (fun (key, count) -> writer.WriteNumber(key, count))) writer

    /// "name": the number, or null.
    let intOrNull (name: string) (value: int option) (writer: Utf8JsonWriter) : unit =
        match value with
        | Some value -> writer.WriteNumber(name, value)
        | None -> writer.WriteNull name

    /// "name": the text, or null.
    let textOrNull (name: string) (value: string option) (writer: Utf8JsonWriter) : unit =
        match value with
        | Some value -> writer.WriteString(name, value)
        | None -> writer.WriteNull name

    /// Milliseconds to the nanosecond: a token of the smallest models takes a few microseconds, and readers divide.
    let milliseconds (name: string) (value: float) (writer: Utf8JsonWriter) : unit =
        writer.WriteNumber(name, Math.Round(value, 6))

    /// "stats": what speculation did, in vLLM's names; `rounds` has [drafted, accepted] of each round.
    let stats (stats: SpeculationStats) (writer: Utf8JsonWriter) : unit =
        writer
        |> object "stats" (fun () ->
            writer.WriteNumber("num_spec_steps", stats.NumSpecSteps)
            writer.WriteNumber("num_draft_tokens", stats.NumDraftTokens)
            writer.WriteNumber("num_accepted_draft_tokens", stats.NumAcceptedDraftTokens)
            writer.WriteNumber("draft_acceptance_rate", stats.DraftAcceptanceRate)
            writer.WriteNumber("mean_acceptance_length", stats.MeanAcceptanceLength)
            writer |> ints "acceptance_histogram" stats.AcceptanceHistogram

            writer
            |> array "rounds" stats.Rounds (fun (drafted, accepted) ->
                writer.WriteStartArray()
                writer.WriteNumberValue drafted
                writer.WriteNumberValue accepted
                writer.WriteEndArray())

            StatisticsJson.byLength (SpeculationMetrics.ofRounds stats.Rounds) writer)

    /// "1,234,567"
    let number (value: int64) = value.ToString("N0", CultureInfo.InvariantCulture)

    /// With so many digits after the point, and a point in every culture.
    let fixedPoint (digits: int) (value: float) =
        value.ToString("F" + string digits, CultureInfo.InvariantCulture)

    /// Names with how often each is there: "8 F32, 13 Q4_K".
    let counted (counts: (string * int) list) : string =
        counts |> Seq.map (fun (name, count) -> $"{count} {name}") |> String.concat ", "

    /// A value and its bounds, where it has some: "1.62 (1.58 to 1.66)".
    let interval (digits: int) (interval: Interval) : string =
        let shown = fixedPoint digits

        if Double.IsNaN interval.Low then
            shown interval.Value
        else
            $"{shown interval.Value} ({shown interval.Low} to {shown interval.High})"

    /// As an option takes it.
    let plainNumber (value: float) = value.ToString("G6", CultureInfo.InvariantCulture)

    /// Of a share, 0 to 1: "62.5 %".
    let percent (value: float) = fixedPoint 1 (100.0 * value) + " %"

    /// A part of a line that is there only sometimes.
    let textIf (holds: bool) (text: string) = if holds then text else ""

    /// Bytes in the largest unit that leaves at least 1.
    let bytes (count: int64) =
        let units = [ 1L <<< 30, "GiB"; 1L <<< 20, "MiB"; 1L <<< 10, "KiB" ]

        match units |> List.tryFind (fun (size, _) -> count >= size) with
        | Some(size, unit) -> $"{fixedPoint 1 (float count / float size)} {unit}"
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
