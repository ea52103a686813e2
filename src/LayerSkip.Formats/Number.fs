namespace LayerSkip

open System
open System.Globalization

/// Numbers as options spell them, the same on every machine: 1000, -3, 0.5, 1e-4. A comma is no decimal point and parts no
/// thousands; there is no white space and no hexadecimal.
[<RequireQualifiedAccess>]
module Number =
    /// A whole number of 32 bits; None for any other text.
    let tryWhole (text: string) : int option =
        match Int32.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture) with
        | true, number -> Some number
        | _ -> None

    let private real =
        NumberStyles.AllowLeadingSign
        ||| NumberStyles.AllowDecimalPoint
        ||| NumberStyles.AllowExponent

    /// As short as it reads back.
    let show (value: float) : string = value.ToString("R", CultureInfo.InvariantCulture)

    /// A finite number; None for any other text. Infinity and NaN are none, nor is a number too large for 64 bits
    /// (1e999).
    let tryReal (text: string) : float option =
        match Double.TryParse(text, real, CultureInfo.InvariantCulture) with
        | true, number when Double.IsFinite number -> Some number
        | _ -> None
