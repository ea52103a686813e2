namespace LayerSkip

open System
open System.IO
open System.Text
open System.Text.Json

/// Pictures to move in: what plotly.js draws. A colour is a name that the page's script looks up in the theme that the reader has.
[<RequireQualifiedAccess>]
module internal PlotlyFigure =
    // plotly.js reads some tags and entities in every text.
    let private plain (text: string) : string =
        (Printable.line text).Replace("&", "&amp;").Replace("<", "&lt;").Replace(">", "&gt;")

    // The lines of a note.
    let private lines (text: string) : string = text.Split '\n' |> Array.map plain |> String.concat "<br>"

    let private number (writer: Utf8JsonWriter) (value: float) =
        if Double.IsFinite value then
            writer.WriteNumberValue value
        else
            writer.WriteNullValue()

    let private object (writer: Utf8JsonWriter) (name: string) (fields: unit -> unit) =
        writer |> JsonWrite.object name (fun _ -> fields ())

    let private array (writer: Utf8JsonWriter) (name: string) (write: 'T -> unit) (items: 'T seq) =
        writer |> JsonWrite.array name items write

    let private numbers (writer: Utf8JsonWriter) name (values: float seq) =
        array writer name (number writer) values
    let private words (writer: Utf8JsonWriter) name (values: string seq) =
        array writer name (fun (value: string) -> writer.WriteStringValue(lines value)) values

    let private series (index: int) = $"series{index % PlotColour.series.Length}"

    /// A trace of points, and what is its own.
    let private trace
        (writer: Utf8JsonWriter)
        (kind: string)
        (name: string)
        isFirst
        points
        (own: unit -> unit)
        =
        writer.WriteStartObject()
        writer.WriteString("type", kind)
        writer.WriteString("name", plain name)
        writer.WriteString("legendgroup", plain name)
        writer.WriteBoolean("showlegend", isFirst && name <> "")
        numbers writer "x" (List.map fst points)
        numbers writer "y" (List.map snd points)
        own ()
        writer.WriteEndObject()

    let private line (writer: Utf8JsonWriter) (colour: string) (width: float) (more: unit -> unit) =
        object writer "line" (fun () ->
            writer.WriteString("color", colour)
            writer.WriteNumber("width", width)
            more ())

    let private mark (writer: Utf8JsonWriter) isHeat isFirst (index: int) (mark: Mark) =
        let colour = series index
        let name, points = Mark.name mark, Mark.points mark
        let mode (value: string) = writer.WriteString("mode", value)

        let marker () =
            object writer "marker" (fun () ->
                writer.WriteString("color", colour)
                writer.WriteNumber("size", 8))

        match mark with
        | Mark.Line _ ->
            trace writer "scatter" name isFirst points (fun () ->
                mode (if points.Length > 40 then "lines" else "lines+markers")
                line writer colour 2.5 ignore
                marker ())
        | Mark.Steps _ ->
            trace writer "scatter" name isFirst points (fun () ->
                mode "lines"
                line writer colour 2.5 (fun () -> writer.WriteString("shape", "hv")))
        | Mark.Dots(_, dots) ->
            trace writer "scatter" name isFirst points (fun () ->
                mode "markers"
                marker ()

                if dots |> List.exists (fun dot -> dot.Note <> "") then
                    words writer "hovertext" (dots |> List.map _.Note))
        | Mark.Bars _
        | Mark.Parts _ -> trace writer "bar" name isFirst points marker
        | Mark.Guide _ ->
            // Over cells of any colour: black in a white edge.
            if isHeat then
                trace writer "scatter" "" false points (fun () ->
                    mode "lines"
                    writer.WriteString("hoverinfo", "skip")
                    line writer "#ffffff" 5.0 ignore)

            trace writer "scatter" name isFirst points (fun () ->
                mode "lines"
                let colour, width = if isHeat then "#111111", 2.5 else "soft", 1.5
                line writer colour width (fun () -> writer.WriteString("dash", "dash")))
        | Mark.Band(_, ranges) ->
            let outline =
                (ranges |> List.map (fun (x, _, high) -> x, high))
                @ (ranges |> List.rev |> List.map (fun (x, low, _) -> x, low))

            trace writer "scatter" name isFirst outline (fun () ->
                mode "lines"
                writer.WriteString("fill", "toself")
                writer.WriteString("fillcolor", colour + "soft")
                writer.WriteString("hoverinfo", "skip")
                line writer colour 0.0 ignore)

    let private heat (writer: Utf8JsonWriter) (heat: Heat) =
        let low, high = PlotColour.range heat
        let steps = 32

        let table name (write: 'T -> unit) (rows: 'T[][]) =
            writer.WriteStartArray(name: string)

            for row in rows do
                writer.WriteStartArray()
                Array.iter write row
                writer.WriteEndArray()

            writer.WriteEndArray()

        let texts name = table name (fun (text: string) -> writer.WriteStringValue(lines text))

        writer.WriteStartObject()
        writer.WriteString("type", "heatmap")
        table "z" (number writer) heat.Values
        writer.WriteNumber("zmin", low)
        writer.WriteNumber("zmax", high)
        writer.WriteNumber("xgap", 1)
        writer.WriteNumber("ygap", 1)

        let colour = PlotColour.of' heat
        writer.WriteStartArray "colorscale"

        for i in 0..steps do
            let place = float i / float steps
            writer.WriteStartArray()
            writer.WriteNumberValue place
            writer.WriteStringValue(PlotColour.hex (colour (low + place * (high - low))))
            writer.WriteEndArray()

        writer.WriteEndArray()

        if heat.Texts.Length > 0 then
            texts "text" heat.Texts
            writer.WriteString("texttemplate", "%{text}")

        if heat.Notes.Length > 0 then
            texts "hovertext" heat.Notes
            writer.WriteString("hoverinfo", "text")
        else
            writer.WriteString("hoverinfo", "z")

        object writer "colorbar" (fun () ->
            writer.WriteNumber("thickness", 14)
            writer.WriteNumber("outlinewidth", 0)

            object writer "title" (fun () ->
                writer.WriteString("side", "right")
                writer.WriteString("text", plain heat.Measure)))

        writer.WriteEndObject()

    let private axis (writer: Utf8JsonWriter) (isHeat: bool) (axis: Axis) (values: float list) =
        object writer "title" (fun () ->
            writer.WriteString("text", plain (Axis.label axis))
            writer.WriteNumber("standoff", 12))

        writer.WriteBoolean("automargin", true)
        writer.WriteBoolean("zeroline", false)
        writer.WriteBoolean("showgrid", not isHeat)
        writer.WriteString("gridcolor", "grid")
        writer.WriteString("linecolor", "soft")

        match axis.Scale with
        | AxisScale.Linear -> ()
        | AxisScale.Log -> writer.WriteString("type", "log")
        | AxisScale.Share ->
            writer.WriteString("tickformat", ".0%")

            if values |> List.exists (fun value -> value > 0.5) then
                numbers writer "range" [ min 0.0 (List.min values); max 1.02 (List.max values) ]
            else
                writer.WriteString("rangemode", "tozero")
        | AxisScale.Whole ->
            writer.WriteString("tickformat", "d")
            let extent = Extent.ofValues axis false values

            match extent.Ticks with
            | (first, _) :: (second, _) :: _ -> writer.WriteNumber("dtick", second - first)
            | _ -> writer.WriteNumber("dtick", 1)
        | AxisScale.Names names ->
            numbers writer "range" [ -0.5; float names.Length - 0.5 ]
            numbers writer "tickvals" (List.mapi (fun i _ -> float i) names)
            words writer "ticktext" names

    /// The JSON of one picture, data and layout; safe inside an HTML script element.
    let json (picture: Picture) : string =
        let picture = { picture with Marks = picture.Marks |> List.map (Mark.within picture.X picture.Y) }

        use stream = new MemoryStream()
        use writer = new Utf8JsonWriter(stream)
        let isHeat = picture.Heat.IsSome
        let points = picture.Marks |> List.collect Mark.points
        writer.WriteStartObject()
        writer.WriteStartArray "data"
        Option.iter (heat writer) picture.Heat

        for place, (index, drawn) in List.indexed (Mark.coloured picture.Marks) do
            let isFirst =
                picture.Marks
                |> List.take place
                |> List.forall (fun other -> Mark.name other <> Mark.name drawn)
            mark writer isHeat isFirst index drawn

        writer.WriteEndArray()

        object writer "layout" (fun () ->
            writer.WriteNumber("height", picture.Height)
            writer.WriteString("hovermode", (if isHeat then "closest" else "x unified"))

            writer.WriteString(
                "barmode",
                if picture.Marks |> List.exists _.IsParts then
                    "stack"
                else
                    "group"
            )

            object writer "xaxis" (fun () -> axis writer isHeat picture.X (List.map fst points))
            object writer "yaxis" (fun () -> axis writer isHeat picture.Y (List.map snd points)))

        writer.WriteEndObject()
        writer.Flush()
        Encoding.UTF8.GetString(stream.ToArray())
