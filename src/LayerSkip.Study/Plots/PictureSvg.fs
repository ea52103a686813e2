namespace LayerSkip

open System

/// Pictures that stand still: SVG of the same bits for the same numbers, which needs no screen, no script and no font of its own.
[<RequireQualifiedAccess>]
module internal PictureSvg =
    let private px = SvgMarks.px

    /// The rectangle that the axes span, in pixels.
    type private Frame = { Left: float; Top: float; Right: float; Bottom: float }

    /// Between which values the axes run.
    let private extents (picture: Picture) : Extent * Extent =
        let points = picture.Marks |> List.collect Mark.points
        let hasBars = picture.Marks |> List.exists (fun mark -> mark.IsBars || mark.IsParts)
        let whole = List.length picture.Marks

        // Parts reach as high as they stand on one another.
        let tops = [
            for x, _ in points do
                Mark.beneath picture.Marks whole x
        ]

        Extent.ofValues picture.X false (List.map fst points),
        Extent.ofValues
            picture.Y
            hasBars
            (List.map snd points @ (if picture.Marks |> List.exists _.IsParts then tops else []))

    /// Those names of many that have room, evenly.
    let private thinned (room: float) (ticks: (float * string) list) =
        let every = max 1 (int (Math.Ceiling(float ticks.Length / max 1.0 room)))
        ticks |> List.indexed |> List.filter (fun (i, _) -> i % every = 0) |> List.map snd

    let private axes (picture: Picture) (frame: Frame) (across: Extent) (up: Extent) slanted = [
        let wide, tall = frame.Right - frame.Left, frame.Bottom - frame.Top
        let hasLines = picture.Heat.IsNone
        let slot = if slanted then 14.0 else 44.0

        for value, name in thinned (wide / slot) across.Ticks do
            let x = frame.Left + wide * (value - across.Low) / (across.High - across.Low)

            if hasLines && not (picture.X.Scale.IsNames) then
                SvgMarks.straight "grid" (x, frame.Top) (x, frame.Bottom)

            if slanted then
                let name = SvgMarks.cut 90.0 11.0 (Printable.line name)
                $"<g transform=\"translate({px x} {px (frame.Bottom + 12.0)}) rotate(-45)\">"
                + SvgMarks.text "ink" "end" 11.0 0.0 0.0 name
                + "</g>"
            else
                SvgMarks.text "ink" "middle" 11.0 x (frame.Bottom + 17.0) name

        for value, name in thinned (tall / 13.0) up.Ticks do
            let y = frame.Bottom - tall * (value - up.Low) / (up.High - up.Low)

            if hasLines && not (picture.Y.Scale.IsNames) then
                SvgMarks.straight "grid" (frame.Left, y) (frame.Right, y)

            SvgMarks.text
                "ink"
                "end"
                11.0
                (frame.Left - 7.0)
                (y + 4.0)
                (SvgMarks.cut 150.0 11.0 (Printable.line name))

        if hasLines then
            SvgMarks.straight "axis" (frame.Left, frame.Bottom) (frame.Right, frame.Bottom)
    ]

    let private bars (picture: Picture) (frame: Frame) (across: Extent) =
        let bars = picture.Marks |> List.filter _.IsBars |> List.length
        let places =
            picture.Marks
            |> List.filter (fun mark -> mark.IsBars || mark.IsParts)
            |> List.collect Mark.points
            |> List.map fst

        // Bars are as wide as the nearest two places allow.
        let apart =
            match places |> List.distinct |> List.sort |> List.pairwise with
            | [] -> 1.0
            | pairs -> pairs |> List.map (fun (a, b) -> b - a) |> List.min

        let slot = 0.76 * apart * (frame.Right - frame.Left) / (across.High - across.Low)
        let slot = min slot 90.0

        // Of the mark at a place among all: bars of several marks stand side by side.
        fun (index: int) (mark: Mark) ->
            let number = picture.Marks |> List.take index |> List.filter _.IsBars |> List.length

            fun (x: float) ->
                let middle = frame.Left + (frame.Right - frame.Left) * Extent.place picture.X across x

                if mark.IsBars && bars > 1 then
                    let wide = slot / float bars
                    middle - slot / 2.0 + wide * float number, wide
                else
                    middle - slot / 2.0, slot

    /// The whole picture.
    let draw (picture: Picture) : string =
        let picture = { picture with Marks = picture.Marks |> List.map (Mark.within picture.X picture.Y) }

        let wide = float picture.Width
        let across, up = extents picture
        let title = SvgMarks.wrap (wide - 40.0) 17.0 picture.Title
        let subtitle =
            if picture.Subtitle = "" then
                []
            else
                SvgMarks.wrap (wide - 40.0) 12.0 picture.Subtitle
        let coloured = Mark.coloured picture.Marks
        let entries = coloured |> List.distinctBy (fun (_, mark) -> Mark.name mark)
        let under = 26.0 + 21.0 * float (title.Length - 1) + 17.0 * float subtitle.Length
        let legend, rows = SvgMarks.legend 20.0 (under + 22.0) (wide - 40.0) entries
        let widest (ticks: (float * string) list) =
            ticks |> List.map (fun (_, name) -> SvgMarks.widthOf 11.0 name) |> List.fold max 0.0

        let slanted =
            picture.X.Scale.IsNames
            && widest across.Ticks > (wide - 170.0) / float (max 1 across.Ticks.Length) - 6.0

        let frame = {
            Left = 46.0 + min 150.0 (widest up.Ticks)
            Top = under + 18.0 + 18.0 * float rows
            Right = wide - (if picture.Heat.IsSome then 110.0 else 24.0)
            Bottom =
                float picture.Height
                - (if slanted then
                       44.0 + min 66.0 (0.75 * widest across.Ticks)
                   else
                       46.0)
        }

        let at (x, y) =
            frame.Left + (frame.Right - frame.Left) * Extent.place picture.X across x,
            frame.Bottom - (frame.Bottom - frame.Top) * Extent.place picture.Y up y

        let bar = bars picture frame across
        let middle = (frame.Top + frame.Bottom) / 2.0
        let upright = SvgMarks.text "soft" "middle" 12.0 0.0 0.0 (Axis.label picture.Y)

        [
            $"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {picture.Width} {picture.Height}\" width=\"{picture.Width}\" height=\"{picture.Height}\" font-family=\"Helvetica, Arial, sans-serif\" role=\"img\" style=\"max-width:100%%;height:auto\">"
            $"<title>{SvgMarks.escape picture.Title}</title><desc>{SvgMarks.escape picture.Caption}</desc>"
            SvgMarks.style
            "<rect class=\"ls-back\" fill=\"#ffffff\" width=\"100%\" height=\"100%\"/>"
            for i, line in List.indexed title do
                SvgMarks.text "ink" "start" 17.0 20.0 (30.0 + 21.0 * float i) line
            for i, line in List.indexed subtitle do
                SvgMarks.text
                    "soft"
                    "start"
                    12.0
                    20.0
                    (under - 17.0 * float (subtitle.Length - 1 - i) + 5.0)
                    line
            yield! legend
            match picture.Heat with
            | Some heat ->
                yield! SvgMarks.cells at heat
                yield!
                    SvgMarks.colourBar
                        (frame.Right + 16.0)
                        (frame.Top + 18.0)
                        (min 180.0 (frame.Bottom - frame.Top - 30.0))
                        heat
                let measure = SvgMarks.wrap 92.0 11.0 heat.Measure
                for i, line in List.indexed measure do
                    SvgMarks.text
                        "soft"
                        "start"
                        11.0
                        (frame.Right + 14.0)
                        (frame.Top + 10.0 - 13.0 * float (measure.Length - 1 - i))
                        line
            | None -> ()
            yield! axes picture frame across up slanted
            for place, (index, mark) in List.indexed coloured do
                SvgMarks.draw
                    picture.Heat.IsSome
                    at
                    (bar place mark)
                    (Mark.beneath picture.Marks place)
                    index
                    mark
            SvgMarks.text
                "soft"
                "middle"
                12.0
                ((frame.Left + frame.Right) / 2.0)
                (float picture.Height - 10.0)
                (Axis.label picture.X)
            $"<g transform=\"translate(17 {px middle}) rotate(-90)\">{upright}</g>"
            "</svg>"
        ]
        |> List.filter ((<>) "")
        |> String.concat "\n"
