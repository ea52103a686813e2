namespace LayerSkip

/// A value of some samples, and the bounds between which 95 of a hundred such samplings have it. The bounds of fewer than two
/// samples, which say nothing of how they vary, are NaN.
type Interval = { Value: float; Low: float; High: float }

/// Confidence intervals by resampling: percentile bootstrap (Efron and Tibshirani 1993, chapter 13).
[<RequireQualifiedAccess>]
module Bootstrap =
    /// The share of resamples that lie within an interval.
    let level = 0.95

    /// How often the samples are drawn anew.
    let resamples = 2000

    /// Every resample's statistic, sorted; `statistic` gets as many samples as there are, drawn with replacement, in an array
    /// that is used again.
    let private distribution (key: Key) (statistic: 'T[] -> float) (samples: 'T[]) : float[] =
        let drawn = Array.copy samples
        let mutable key = key

        Array.init resamples (fun _ ->
            for i in 0 .. drawn.Length - 1 do
                let struct (u, next) = Key.uniform key
                key <- next
                drawn[i] <- samples[int (u * float samples.Length)]

            statistic drawn)
        |> Array.sort

    /// A statistic of the samples, and its interval. Samples are what varies independently: where a prompt is decoded several
    /// times or in several ways, all of its numbers are one sample. The same key draws the same places, whatever the samples are.
    /// `statistic` must not keep the array it gets.
    let interval (key: Key) (statistic: 'T[] -> float) (samples: 'T[]) : Interval =
        let value = if samples.Length = 0 then nan else statistic samples

        if samples.Length < 2 then
            { Value = value; Low = nan; High = nan }
        else
            let sorted = distribution key statistic samples
            // Whole places, so that an interval of an inverse is the inverse of the interval.
            let tail = int (float resamples * (1.0 - level) / 2.0)
            { Value = value; Low = sorted[tail]; High = sorted[resamples - 1 - tail] }

    /// The mean, and its interval.
    let mean (key: Key) (samples: float[]) : Interval = interval key Array.average samples

    /// The median, and its interval.
    let median (key: Key) (samples: float[]) : Interval =
        interval key (fun drawn -> Spread.at 0.5 (Array.sort drawn)) samples
