namespace LayerSkip

open System
open System.Globalization

/// Numbers as pictures write them.
[<RequireQualifiedAccess>]
module internal PlotNumber =
    let private culture = CultureInfo.InvariantCulture

    /// As many digits as a difference of `step` needs.
    let byStep (step: float) (value: float) : string =
        let digits =
            if step >= 1.0 then
                0
            else
                min 6 (int (Math.Ceiling(-(Math.Log10 step) - 1e-9)))
        // Not "-0".
        let value = if abs value < step / 1e6 then 0.0 else value
        value.ToString("N" + string digits, culture)

    /// Three digits that count.
    let short (value: float) : string =
        if Math.Abs value >= 1000.0 then
            value.ToString("N0", culture)
        else
            value.ToString("G3", culture)

    /// A coordinate, in tenths of a pixel.
    let pixel (value: float) : string = Math.Round(value, 1).ToString("0.#", culture)

/// What an axis runs between, and where it has lines.
type internal Extent = { Low: float; High: float; Ticks: (float * string) list }

/// Where the values of axes lie.
[<RequireQualifiedAccess>]
module internal Extent =
    /// 1, 2 or 5 times a power of ten: about `count` steps over a span.
    let step (count: int) (span: float) : float =
        let rough = span / float count
        let power = 10.0 ** Math.Floor(Math.Log10 rough)

        [ 1.0; 2.0; 5.0; 10.0 ]
        |> List.find (fun part -> part * power >= rough * (1.0 - 1e-9))
        |> (*) power

    let private every (step: float) low high = [
        for i in int64 (Math.Ceiling(low / step - 1e-6)) .. int64 (Math.Floor(high / step + 1e-6)) do
            float i * step
    ]

    let private linear (write: float -> float -> string) (smallest: float) low high : Extent =
        // Where all values are one, or too near for steps to count: room on both sides.
        let room = max 0.5 (1e-6 * abs low)
        let isSpan = high - low > 1e-9 * max (abs low) (abs high)
        let low, high = if isSpan then low, high else low - room, high + room
        let step =
            if smallest >= 1.0 && high - low <= 13.0 then
                smallest
            else
                max smallest (step 6 (high - low))
        {
            Low = low
            High = high
            Ticks = every step low high |> List.map (fun value -> value, write step value)
        }

    let private percent step value = PlotNumber.byStep (step * 100.0) (value * 100.0) + "%"

    let private powers low high : Extent =
        let low, high = Math.Log10 low, Math.Log10 high
        let low, high = if high > low then low, high else low - 0.5, high + 0.5

        {
            Low = low
            High = high
            Ticks = [
                for power in int (Math.Floor low) .. int (Math.Ceiling high) do
                    for part in (if high - low > 2.0 then [ 1.0 ] else [ 1.0; 2.0; 5.0 ]) do
                        let value = part * 10.0 ** float power
                        let at = Math.Log10 value

                        if at >= low - 1e-9 && at <= high + 1e-9 then
                            at, PlotNumber.short value
            ]
        }

    /// Of an axis over such values; `fromZero`: bars stand on it. On a `Log` axis all numbers are exponents of ten.
    let ofValues (axis: Axis) (fromZero: bool) (values: float list) : Extent =
        let isLog = axis.Scale = AxisScale.Log
        let values = values |> List.filter (fun value -> Double.IsFinite value && (value > 0.0 || not isLog))
        let values =
            if values.IsEmpty then
                [ (if isLog then 0.1 else 0.0); 1.0 ]
            else
                values
        let low, high = List.min values, List.max values
        let low = if fromZero then min 0.0 low else low
        let room = 0.05 * (high - low)
        let below = if fromZero && low = 0.0 then low else low - room

        match axis.Scale with
        | AxisScale.Names names -> {
            Low = -0.5
            High = float names.Length - 0.5
            Ticks = names |> List.mapi (fun i name -> float i, name)
          }
        | AxisScale.Whole ->
            linear (fun _ value -> value.ToString("0")) 1.0 (if fromZero then low else low - 0.5) (high + 0.5)
        | AxisScale.Linear -> linear PlotNumber.byStep 1e-9 below (high + room)
        | AxisScale.Share ->
            linear percent 1e-9 (min 0.0 below) (if high > 0.5 then max 1.0 high else high + room)
        | AxisScale.Log -> powers (low / 1.1) (high * 1.1)

    /// A value's place, 0 to 1 from the low end.
    let place (axis: Axis) (extent: Extent) (value: float) : float =
        let value =
            if axis.Scale = AxisScale.Log then
                Math.Log10 value
            else
                value
        (value - extent.Low) / (extent.High - extent.Low)

/// Colours that most eyes tell apart, on paper and in the dark (Okabe and Ito), and those of cells (viridis).
[<RequireQualifiedAccess>]
module internal PlotColour =
    /// Light, dark.
    let series: (string * string) list = [
        "#0072B2", "#4AA8E0"
        "#D55E00", "#F0803C"
        "#009E73", "#2CC79A"
        "#CC79A7", "#DE98BE"
        "#E69F00", "#F2B93B"
        "#56B4E9", "#8CD0F5"
        "#7A5C99", "#B096CF"
    ]

    let private rising = [
        0x440154
        0x472D7B
        0x3B528B
        0x2C728E
        0x21918C
        0x28AE80
        0x5EC962
        0xADDC30
        0xFDE725
    ]
    let private around = [ 0xB5460F; 0xE58A55; 0xE6E6E6; 0x5B9CCB; 0x005A8F ]

    let stops (colours: HeatColours) : int list =
        match colours with
        | HeatColours.Rising -> rising
        | HeatColours.Falling -> List.rev rising
        | HeatColours.Around _ -> around

    /// What the values run between.
    let range (heat: Heat) : float * float =
        let values = heat.Values |> Seq.concat |> Seq.filter Double.IsFinite |> List.ofSeq
        let low, high =
            if values.IsEmpty then
                0.0, 1.0
            else
                List.min values, List.max values
        let low, high = defaultArg heat.Range (low, high)
        low, (if high > low then high else low + 1.0)

    /// The colour at a place of 0 to 1, as red, green and blue.
    let at (colours: HeatColours) (place: float) : int * int * int =
        let stops = stops colours
        let along = Math.Clamp(place, 0.0, 1.0) * float (stops.Length - 1)
        let below = min (stops.Length - 2) (int along)
        let share = along - float below

        let part shift =
            let part (stop: int) = float ((stop >>> shift) &&& 0xFF)
            int (Math.Round(part stops[below] * (1.0 - share) + part stops[below + 1] * share))

        part 16, part 8, part 0

    /// A value's colour. Around a middle, colours are as far apart on one side as on the other, also where values are not.
    /// Given a table, what it runs between is found once, for all of its values.
    let of' (heat: Heat) : float -> int * int * int =
        let low, high = range heat

        match heat.Colours with
        | HeatColours.Around middle ->
            let reach = max 1e-9 (max (high - middle) (middle - low))
            fun value -> at heat.Colours (0.5 + 0.5 * (value - middle) / reach)
        | HeatColours.Rising
        | HeatColours.Falling -> fun value -> at heat.Colours ((value - low) / (high - low))

    let hex (red: int, green: int, blue: int) : string = $"#{red:X2}{green:X2}{blue:X2}"

    /// Whether dark letters are read on it.
    let isBright (red: int, green: int, blue: int) : bool =
        0.299 * float red + 0.587 * float green + 0.114 * float blue > 140.0
