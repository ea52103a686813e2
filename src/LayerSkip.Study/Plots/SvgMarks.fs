namespace LayerSkip

open System
open System.Net
open System.Text

/// Marks, cells and words as elements of SVG.
[<RequireQualifiedAccess>]
module internal SvgMarks =
    /// Whatever a model or a path may hold, as XML; controls are shown as escapes.
    let escape (text: string) : string = WebUtility.HtmlEncode(Printable.line text)

    let px = PlotNumber.pixel

    // Wide enough for most fonts that a reader may have.
    let widthOf (size: float) (text: string) = 0.58 * size * float text.Length

    let cut (most: float) (size: float) (text: string) =
        let letters = int (most / (0.58 * size))

        if text.Length <= letters then text
        elif letters < 2 then ""
        else text[.. letters - 2] + "…"

    /// Lines of words, each at most so wide.
    let wrap (most: float) (size: float) (text: string) : string list =
        let add (lines: string list) (word: string) =
            match lines with
            | line :: rest when widthOf size (line + word) < most -> $"{line} {word}" :: rest
            | _ -> word :: lines

        text.Split ' ' |> Array.fold add [] |> List.rev

    // Colours stand in the elements too, for viewers that drop a style.
    let style =
        let dark =
            PlotColour.series
            |> List.mapi (fun i (_, dark) -> $".ls-s{i}{{stroke:{dark}}}.ls-f{i}{{fill:{dark}}}")

        "<style>@media(prefers-color-scheme:dark){.ls-back{fill:#16181c}.ls-ink{fill:#e6e6e6}.ls-soft{fill:#a8adb5}.ls-grid{stroke:#33373e}"
        + ".ls-axis,.ls-guide{stroke:#a8adb5}"
        + String.Concat dark
        + "}</style>"

    let text (kind: string) anchor (size: float) (x: float) (y: float) (words: string) =
        let fill = if kind = "ink" then "#1c1e21" else "#5c626b"
        $"<text class=\"ls-{kind}\" fill=\"{fill}\" font-size=\"{px size}\" text-anchor=\"{anchor}\" x=\"{px x}\" y=\"{px y}\">{escape words}</text>"

    let straight (kind: string) (x1, y1) (x2, y2) =
        let stroke = if kind = "grid" then "#dfe2e6" else "#5c626b"
        $"<line class=\"ls-{kind}\" stroke=\"{stroke}\" x1=\"{px x1}\" y1=\"{px y1}\" x2=\"{px x2}\" y2=\"{px y2}\"/>"

    let private colour (index: int) = fst PlotColour.series[index % PlotColour.series.Length]
    let private number (index: int) = index % PlotColour.series.Length

    /// An entry of the legend, 12 pixels wide.
    let private key (mark: Mark) (index: int) (x: float) (y: float) =
        let c, n = colour index, number index

        match mark with
        | Mark.Guide _ ->
            $"<path class=\"ls-guide\" stroke=\"#5c626b\" stroke-width=\"1.5\" stroke-dasharray=\"4 3\" d=\"M{px x} {px y}h14\"/>"
        | Mark.Dots _ ->
            $"<circle class=\"ls-f{n}\" fill=\"{c}\" cx=\"{px (x + 6.0)}\" cy=\"{px y}\" r=\"4\"/>"
        | Mark.Line _
        | Mark.Steps _ ->
            $"<path class=\"ls-s{n}\" stroke=\"{c}\" stroke-width=\"2.5\" d=\"M{px x} {px y}h14\"/>"
        | Mark.Bars _
        | Mark.Parts _ ->
            $"<rect class=\"ls-f{n}\" fill=\"{c}\" x=\"{px x}\" y=\"{px (y - 5.0)}\" width=\"12\" height=\"10\"/>"
        | Mark.Band _ ->
            $"<rect class=\"ls-f{n}\" fill=\"{c}\" fill-opacity=\"0.22\" x=\"{px x}\" y=\"{px (y - 5.0)}\" width=\"12\" height=\"10\"/>"

    /// The legend in rows of at most `most` pixels: its elements, and how many rows it has.
    let legend (left: float) (top: float) (most: float) (marks: (int * Mark) list) =
        let place (made, x, row) (index, mark) =
            let name = Mark.name mark
            let wide = 32.0 + widthOf 12.0 name
            let x, row = if x > 0.0 && x + wide > most then 0.0, row + 1 else x, row
            let y = top + 18.0 * float row
            let entry = key mark index (left + x) (y - 4.0) + text "ink" "start" 12.0 (left + x + 18.0) y name
            entry :: made, x + wide, row

        let named = marks |> List.filter (fun (_, mark) -> Mark.name mark <> "")

        match named with
        | [] -> [], 0
        | named ->
            let made, _, row = List.fold place ([], 0.0, 0) named
            List.rev made, row + 1

    let private corner (points: (float * float) list) =
        points |> List.map (fun (x, y) -> $"{px x} {px y}") |> String.concat "L"

    /// One mark. `at`: pixels of a point; `bar`: left end and width of a bar at a place; `below`: what stands beneath a part.
    let draw
        isHeat
        (at: float * float -> float * float)
        (bar: float -> float * float)
        below
        (index: int)
        (mark: Mark)
        =
        let c, n = colour index, number index
        let line (points: (float * float) list) =
            $"<path class=\"ls-s{n}\" fill=\"none\" stroke=\"{c}\" stroke-width=\"2\" stroke-linejoin=\"round\" d=\"M{corner points}\"/>"

        let dot (note: string) (x, y) =
            let told =
                if note = "" then
                    ""
                else
                    $"<title>{WebUtility.HtmlEncode(Printable.text note)}</title>"
            $"<circle class=\"ls-f{n}\" fill=\"{c}\" cx=\"{px x}\" cy=\"{px y}\" r=\"3.5\">{told}</circle>"

        let column (x: float) (low: float) (high: float) =
            let left, wide = bar x
            let _, y1 = at (x, low)
            let _, y2 = at (x, high)
            $"<rect class=\"ls-f{n}\" fill=\"{c}\" x=\"{px left}\" y=\"{px (min y1 y2)}\" width=\"{px wide}\" height=\"{px (abs (y1 - y2))}\"/>"

        match mark with
        | Mark.Line(_, points) when points.IsEmpty -> ""
        | Mark.Line(_, points) ->
            let points = List.map at points
            line points
            + (if points.Length > 40 then
                   ""
               else
                   points |> List.map (dot "") |> String.Concat)
        | Mark.Steps(_, points) ->
            points
            |> List.pairwise
            |> List.collect (fun (from, (x, y)) -> [ from; (x, snd from); (x, y) ])
            |> List.map at
            |> fun points -> if points.IsEmpty then "" else line points
        | Mark.Dots(_, points) ->
            points |> List.map (fun point -> dot point.Note (at (point.X, point.Y))) |> String.Concat
        | Mark.Bars(_, values) -> values |> List.map (fun (x, y) -> column x 0.0 y) |> String.Concat
        | Mark.Parts(_, values) ->
            values
            |> List.map (fun (x, y) -> let low = below x in column x low (low + y))
            |> String.Concat
        | Mark.Band(_, ranges) ->
            let upper = ranges |> List.map (fun (x, _, high) -> at (x, high))
            let lower = ranges |> List.map (fun (x, low, _) -> at (x, low)) |> List.rev
            $"<path class=\"ls-f{n}\" fill=\"{c}\" fill-opacity=\"0.22\" d=\"M{corner (upper @ lower)}Z\"/>"
        | Mark.Guide(_, points) ->
            let along = points |> List.map at |> corner

            // Over cells of any colour: black in a white edge.
            if isHeat then
                $"<path fill=\"none\" stroke=\"#ffffff\" stroke-width=\"5\" d=\"M{along}\"/>"
                + $"<path fill=\"none\" stroke=\"#111111\" stroke-width=\"2.5\" stroke-dasharray=\"8 5\" d=\"M{along}\"/>"
            else
                $"<path class=\"ls-guide\" fill=\"none\" stroke=\"#5c626b\" stroke-width=\"1.5\" stroke-dasharray=\"6 4\" d=\"M{along}\"/>"

    let cells (at: float * float -> float * float) (heat: Heat) =
        let rows, columns = heat.Values.Length, (Array.head heat.Values).Length
        let x0, y0 = at (-0.5, -0.5)
        let x1, y1 = at (float columns - 0.5, float rows - 0.5)
        let wide, tall = (x1 - x0) / float columns, (y0 - y1) / float rows
        let size = min 11.0 (tall * 0.7)
        let colour = PlotColour.of' heat

        [
            for row in 0 .. rows - 1 do
                for column in 0 .. columns - 1 do
                    let value = heat.Values[row][column]

                    if Double.IsFinite value then
                        let fill = colour value
                        let left, top = x0 + wide * float column, y0 - tall * float (row + 1)
                        let told =
                            if heat.Notes.Length = 0 then
                                PlotNumber.short value
                            else
                                heat.Notes[row][column]

                        $"<rect fill=\"{PlotColour.hex fill}\" x=\"{px left}\" y=\"{px top}\" width=\"{px (wide + 0.3)}\" height=\"{px (tall + 0.3)}\"><title>{WebUtility.HtmlEncode(Printable.text told)}</title></rect>"

                        if heat.Texts.Length > 0 then
                            let ink = if PlotColour.isBright fill then "#111111" else "#ffffff"
                            let words = heat.Texts[row][column] |> Printable.line |> cut (wide - 2.0) size
                            $"<text fill=\"{ink}\" font-size=\"{px size}\" text-anchor=\"middle\" pointer-events=\"none\" x=\"{px (left + wide / 2.0)}\" y=\"{px (top + tall / 2.0 + size * 0.36)}\">{escape words}</text>"
        ]

    /// The bar that says what colours mean.
    let colourBar (left: float) (top: float) (tall: float) (heat: Heat) =
        let low, high = PlotColour.range heat
        let colour = PlotColour.of' heat
        let steps = 32
        let part = tall / float steps

        [
            for i in 0 .. steps - 1 do
                let fill = colour (low + (high - low) * (float i + 0.5) / float steps) |> PlotColour.hex
                $"<rect fill=\"{fill}\" x=\"{px left}\" y=\"{px (top + tall - part * float (i + 1))}\" width=\"14\" height=\"{px (part + 0.3)}\"/>"

            for value in [ low; (low + high) / 2.0; high ] do
                let y = top + tall * (1.0 - (value - low) / (high - low))
                text "ink" "start" 11.0 (left + 19.0) (y + 4.0) (PlotNumber.short value)
        ]
