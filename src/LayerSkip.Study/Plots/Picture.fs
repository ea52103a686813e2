namespace LayerSkip

open System

/// How an axis places its values.
[<RequireQualifiedAccess>]
type AxisScale =
    | Linear
    /// By powers; values above 0.
    | Log
    /// Counted or numbered: layers, tokens, drafts.
    | Whole
    /// 0 to 1, shown in percent.
    | Share
    /// The values 0, 1, 2 ... have names.
    | Names of string list

/// What an axis measures: a title, and a unit where there is one.
type Axis = { Title: string; Unit: string; Scale: AxisScale }

/// Axes. A title without a letter is a bug, and throws: a picture must be readable without the text beside it.
[<RequireQualifiedAccess>]
module Axis =
    let private create (scale: AxisScale) (title: string) (unit: string) : Axis =
        if String.IsNullOrWhiteSpace title then
            invalidArg (nameof title) "an axis says what it measures"

        { Title = title; Unit = unit; Scale = scale }

    /// A measure in a unit: `Axis.linear "time" "ms a token"`.
    let linear (title: string) (unit: string) : Axis = create AxisScale.Linear title unit
    /// The same, by powers of ten; values above 0.
    let log (title: string) (unit: string) : Axis = create AxisScale.Log title unit
    /// Whole numbers, which count in the unit or only number ("").
    let whole (title: string) (unit: string) : Axis = create AxisScale.Whole title unit
    /// A share of something, 0 to 1, shown in percent: `Axis.share "drafts accepted"`.
    let share (title: string) : Axis = create AxisScale.Share title "%"
    /// Places 0, 1, 2 ... with names.
    let names (title: string) (names: string list) : Axis = create (AxisScale.Names names) title ""

    /// "time (ms a token)".
    let label (axis: Axis) : string =
        if axis.Unit = "" then
            axis.Title
        else
            $"{axis.Title} ({axis.Unit})"

/// A point, and what is told of it on hovering, in lines ("": only its numbers).
type PlotPoint = { X: float; Y: float; Note: string }

/// What is drawn over the axes, with its name in the legend; an empty name has no entry there. Points that are not finite are
/// left out.
[<RequireQualifiedAccess>]
type Mark =
    /// Joined points; dots stand at them where there are few.
    | Line of name: string * points: (float * float) list
    /// A value that holds from its point to the next.
    | Steps of name: string * points: (float * float) list
    | Dots of name: string * points: PlotPoint list
    /// A bar at each place; those of several marks stand side by side.
    | Bars of name: string * values: (float * float) list
    /// A bar at each place; those of several marks stand on one another.
    | Parts of name: string * values: (float * float) list
    /// From a low to a high value at each place: an interval of confidence.
    | Band of name: string * ranges: (float * float * float) list
    /// What others are compared with, dashed and grey: a break-even line, a limit.
    | Guide of name: string * points: (float * float) list

/// What marks are made of.
[<RequireQualifiedAccess>]
module internal Mark =
    let name (mark: Mark) : string =
        match mark with
        | Mark.Line(name, _)
        | Mark.Steps(name, _)
        | Mark.Dots(name, _)
        | Mark.Bars(name, _)
        | Mark.Parts(name, _)
        | Mark.Band(name, _)
        | Mark.Guide(name, _) -> name

    let points (mark: Mark) : (float * float) list =
        match mark with
        | Mark.Line(_, points)
        | Mark.Steps(_, points)
        | Mark.Guide(_, points)
        | Mark.Bars(_, points)
        | Mark.Parts(_, points) -> points
        | Mark.Dots(_, points) -> points |> List.map (fun point -> point.X, point.Y)
        | Mark.Band(_, ranges) -> ranges |> List.collect (fun (x, low, high) -> [ x, low; x, high ])

    /// Without the points that the axes have no place for.
    let within (x: Axis) (y: Axis) (mark: Mark) : Mark =
        let has axis value = Double.IsFinite value && (value > 0.0 || axis.Scale <> AxisScale.Log)
        let isPlace (across, up) = has x across && has y up
        let kept = List.filter isPlace

        match mark with
        | Mark.Line(name, points) -> Mark.Line(name, kept points)
        | Mark.Steps(name, points) -> Mark.Steps(name, kept points)
        | Mark.Guide(name, points) -> Mark.Guide(name, kept points)
        | Mark.Bars(name, points) -> Mark.Bars(name, kept points)
        | Mark.Parts(name, points) -> Mark.Parts(name, kept points)
        | Mark.Dots(name, points) ->
            Mark.Dots(name, points |> List.filter (fun point -> isPlace (point.X, point.Y)))
        | Mark.Band(name, ranges) ->
            Mark.Band(
                name,
                ranges |> List.filter (fun (x, low, high) -> isPlace (x, low) && isPlace (x, high))
            )

    /// Each with the number of its colour: marks of one name share it, guides have none of their own.
    let coloured (marks: Mark list) : (int * Mark) list =
        let names = marks |> List.filter (fun mark -> not mark.IsGuide) |> List.map name |> List.distinct
        marks
        |> List.map (fun mark -> defaultArg (List.tryFindIndex ((=) (name mark)) names) 0, mark)

    /// What stands beneath a part of the mark at `index`: the parts of those before it at the same place.
    let beneath (marks: Mark list) (index: int) (x: float) : float =
        let at (place, height) = if place = x then height else 0.0
        marks |> List.take index |> List.filter _.IsParts |> List.sumBy (points >> List.sumBy at)

/// The colours of cells.
[<RequireQualifiedAccess>]
type HeatColours =
    /// From the lowest value, dark, to the highest, bright.
    | Rising
    /// From the lowest value, bright, to the highest, dark: where little is good.
    | Falling
    /// Red below the middle, grey in it, blue above.
    | Around of middle: float

/// A table drawn as coloured cells. Each table is [row][column], row 0 at the bottom; the axes are `Names`.
type Heat = {
    /// NaN: no cell.
    Values: float[][]
    /// Written in the cells; none: [||].
    Texts: string[][]
    /// Told on hovering, in lines; none: [||].
    Notes: string[][]
    /// What the colour measures, with its unit.
    Measure: string
    Colours: HeatColours
    /// Between which values colours run; None: the lowest and the highest.
    Range: (float * float) option
}

/// A picture as data: `Plots` draws it, to move in (HTML) or to stand still (SVG).
type Picture = {
    Title: string
    /// The model, the machine and whatever else was fixed.
    Subtitle: string
    /// What one sees, in a sentence or two.
    Caption: string
    X: Axis
    Y: Axis
    Heat: Heat option
    Marks: Mark list
    /// Pixels; a page makes it as wide as it is itself, unless this is wider.
    Width: int
    Height: int
}

/// Pictures of numbers.
[<RequireQualifiedAccess>]
module Picture =
    /// Marks over common axes.
    let marks
        (title: string)
        (subtitle: string)
        (caption: string)
        (x: Axis)
        (y: Axis)
        (marks: Mark list)
        : Picture =
        if String.IsNullOrWhiteSpace title then
            invalidArg (nameof title) "a picture has a title"

        {
            Title = title
            Subtitle = subtitle
            Caption = caption
            X = x
            Y = y
            Heat = None
            Marks = marks
            Width = 760
            Height = 440
        }

    let private longest (texts: string seq) = texts |> Seq.fold (fun most text -> max most text.Length) 0

    /// Coloured cells, named along both axes, as large as their texts need. A table of another form than the axes' names is a
    /// bug, and throws.
    let heat
        title
        subtitle
        caption
        (x: string * string list)
        (y: string * string list)
        (heat: Heat)
        : Picture =
        let (across, columns), (up, rows) = x, y

        for table in
            [
                Array.map Array.length heat.Values
                Array.map Array.length heat.Texts
                Array.map Array.length heat.Notes
            ] do
            let isForm = table.Length = rows.Length && Array.forall ((=) columns.Length) table

            if not isForm && table.Length > 0 then
                invalidArg (nameof heat) $"a table is not of {rows.Length} rows of {columns.Length} cells"

        let wide = Seq.append (Seq.concat heat.Texts) columns |> longest
        let cell = if heat.Texts.Length = 0 then 14 else min 96 (14 + 7 * wide)

        {
            marks title subtitle caption (Axis.names across columns) (Axis.names up rows) [] with
                Heat = Some heat
                Width = max 760 (180 + cell * columns.Length)
                Height = min 1200 (max 320 (170 + 20 * rows.Length))
        }

    /// The same with more drawn over it.
    let over (more: Mark list) (picture: Picture) : Picture = { picture with Marks = picture.Marks @ more }
