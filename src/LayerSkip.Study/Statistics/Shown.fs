namespace LayerSkip

open System.Globalization

/// Numbers as people read them, in every culture alike.
[<RequireQualifiedAccess>]
module internal Shown =
    /// With so many digits after the point.
    let fixedPoint (digits: int) (value: float) : string =
        value.ToString("F" + string digits, CultureInfo.InvariantCulture)

    /// Of a share, 0 to 1: "62.5 %".
    let percent (share: float) : string = fixedPoint 1 (100.0 * share) + " %"
