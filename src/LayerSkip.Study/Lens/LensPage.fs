namespace LayerSkip

open System.Buffers
open System.Text
open System.Text.Json

/// A lens report as a page to look at: layers by tokens, coloured by probability, KL, rank or entropy (LayerSkip, figure 2). One
/// file, which loads nothing from elsewhere; its data are the report's JSON, in which no text ends the element that it stands in.
[<RequireQualifiedAccess>]
module LensPage =
    let private template = lazy (Embedded.text "lens.html")

    /// The page, as HTML.
    let html (report: LensReport) : string =
        let buffer = ArrayBufferWriter<byte>()

        // The writer's own encoder leaves no <, > or & in a text.
        using (new Utf8JsonWriter(buffer)) (fun json ->
            json.WriteStartObject()
            LensJson.write { report with ExitLogits = None } json
            json.WriteEndObject())

        template.Value.Replace("{{report}}", Encoding.UTF8.GetString buffer.WrittenSpan)
