namespace LayerSkip

open System

/// The learning rate over a run: up in a line, then down half a cosine to a share of the peak, or not at all.
type RateOptions = {
    /// The highest rate, above 0.
    Peak: float
    /// Steps until the peak.
    Warmup: int
    /// Where the cosine ends, as a share of the peak; 1 is a constant rate.
    Floor: float
}

[<RequireQualifiedAccess>]
module RateOptions =
    /// Of a step from 0, in a run of `steps`: Peak (Floor + (1 - Floor) (1 + cos(pi x)) / 2) at x of the way from the end of
    /// the warm-up to the last step (arXiv 1608.03983, equation 5, without restarts).
    let at (steps: int) (rate: RateOptions) (step: int) : float =
        if step < rate.Warmup then
            rate.Peak * float (step + 1) / float rate.Warmup
        else
            let way = float (step - rate.Warmup) / float (max 1 (steps - 1 - rate.Warmup)) |> min 1.0
            rate.Peak * (rate.Floor + (1.0 - rate.Floor) * 0.5 * (1.0 + cos (Math.PI * way)))
