namespace LayerSkip

open System

/// A value for each layer, or for each training step, both counted from 0.
type Schedule = int -> float

/// How layer dropout grows: D(l) over the layers and S(t) over the steps (LayerSkip, equations 2 to 4).
[<RequireQualifiedAccess>]
module Schedule =
    /// The same everywhere.
    let constant (value: float) : Schedule = fun _ -> value
    /// `peak` times another.
    let scale (peak: float) (inner: Schedule) : Schedule = fun i -> peak * inner i

    /// 0 before `first`.
    let startingAt (first: int) (inner: Schedule) : Schedule = fun i -> if i < first then 0.0 else inner i

    /// `shape` of the way from the first of `count` to the last, and 1 from the last on; a single one has no way to
    /// go, and 0.
    let private rising (shape: float -> float) (count: int) : Schedule =
        fun i ->
            if count < 2 then 0.0
            elif i >= count - 1 then 1.0
            else shape (float (max 0 i) / float (count - 1))

    /// 2^x - 1, from 0 to 1: the paper's D(l) = exp(l ln 2 / (L - 1)) - 1 over layers (equation 3), and its S(t) over the
    /// steps of a training from scratch (equation 4). Of 4 it is 0, 0.2599, 0.5874, 1.
    let exponential (count: int) : Schedule = rising (fun x -> 2.0 ** x - 1.0) count

    /// x, from 0 to 1: beyond the paper, as torchtune has it.
    let linear (count: int) : Schedule = rising id count
