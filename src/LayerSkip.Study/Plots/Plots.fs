namespace LayerSkip

open OxyPlot
open OxyPlot.Axes
open OxyPlot.Legends
open OxyPlot.Series

/// A line of a plot: its name, and its points.
type PlotLine = { Name: string; Points: (float * float) list }

/// Pictures of what was measured, as SVG: they need no screen and no font of their own.
[<RequireQualifiedAccess>]
module Plots =
    // Okabe and Ito's, told apart by most eyes and in print.
    let private colours = [ 0x0072B2u; 0xD55E00u; 0x009E73u; 0xCC79A7u; 0xE69F00u; 0x56B4E9u; 0x000000u ]

    let private axis position title =
        LinearAxis(
            Position = position,
            Title = title,
            MajorGridlineStyle = LineStyle.Dot,
            AxisTitleDistance = 14.0
        )

    /// Lines over common axes, with a legend; marks stand at the points where there are few.
    let lines (title: string) (x: string) (y: string) (series: PlotLine list) : PlotModel =
        let plot =
            PlotModel(
                Title = title,
                Background = OxyColors.White,
                TitleFontSize = 14.0,
                DefaultFont = "Helvetica, Arial, sans-serif"
            )

        plot.Axes.Add(axis AxisPosition.Bottom x)
        plot.Axes.Add(axis AxisPosition.Left y)
        plot.Legends.Add(
            Legend(
                LegendPlacement = LegendPlacement.Outside,
                LegendPosition = LegendPosition.RightTop,
                LegendMargin = 12.0
            )
        )

        series
        |> List.iteri (fun i line ->
            // The legend is cut off at a width that was measured with a narrower font than most readers have.
            let room = System.String('\u00A0', 2 + line.Name.Length / 2)
            let drawn = LineSeries(Title = line.Name + room, StrokeThickness = 1.8)
            drawn.Color <- OxyColor.FromUInt32(0xFF000000u ||| colours[i % colours.Length])

            if line.Points.Length <= 32 then
                drawn.MarkerType <- MarkerType.Circle
                drawn.MarkerSize <- 3.0

            drawn.Points.AddRange(line.Points |> List.map (fun (x, y) -> DataPoint(x, y)))
            plot.Series.Add drawn)

        plot

    /// Writes a plot as an SVG file, in pixels.
    let save (path: string) (width: int) (height: int) (plot: PlotModel) : Result<unit, LayerSkipError list> =
        AtomicFile.write path (fun file ->
            let exporter = SvgExporter(Width = float width, Height = float height)
            exporter.Export(plot, file))
