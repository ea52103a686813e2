namespace LayerSkip

open System

/// The processes that train together, one of them this one. Every rank makes the same calls in the same order, with as
/// many numbers each, and makes them from the thread that joined.
[<NoEquality; NoComparison>]
type Ranks = {
    /// From 0.
    Rank: int
    Count: int
    /// Those on this machine, this one among them, in order.
    Local: int list
    /// The sums over all ranks, the same bits on each.
    Sum: float[] -> float[]
    /// Puts the sums over all ranks into the tensors, the same bits on each; those of 16-bit floats are taken in float32.
    SumInPlace: Tensor list -> unit
    /// Returns when every rank has come so far.
    Barrier: unit -> unit
    /// Ends the common work, once and on every rank. Without it mpirun takes the end of a rank for a failure.
    Leave: unit -> unit
    /// Ends every rank at once with this exit code: for a rank that cannot go on while the others wait for it.
    Abort: int -> unit
    /// Those of `Local` whose process is no more. This alone may be asked on any thread.
    Gone: unit -> int list
}

[<RequireQualifiedAccess>]
module Ranks =
    /// One rank, which waits for nobody.
    let alone: Ranks = {
        Rank = 0
        Count = 1
        Local = [ 0 ]
        Sum = Array.copy
        SumInPlace = ignore
        Barrier = ignore
        Leave = ignore
        Abort = exit
        Gone = fun () -> []
    }

    /// Whether it holds on some rank: the same answer on all.
    let anyOf (holds: bool) (ranks: Ranks) : bool = (ranks.Sum [| (if holds then 1.0 else 0.0) |])[0] > 0.0

    /// Every rank's numbers, in the order of ranks: the same on all.
    let gather (values: float[]) (ranks: Ranks) : float[][] =
        let width = values.Length
        let all = Array.zeroCreate (ranks.Count * width)
        Array.blit values 0 all (ranks.Rank * width) width
        let summed = ranks.Sum all
        Array.init ranks.Count (fun rank -> Array.sub summed (rank * width) width)

    /// How long a rank that ends on a signal stays after its last line: mpirun may lose it otherwise.
    let lastWords = TimeSpan.FromSeconds 0.5

    /// Whether this rank is the first on this machine that still runs: the one whose last line counts.
    let isFirstLeft (ranks: Ranks) : bool =
        let gone = ranks.Gone()
        ranks.Local |> List.tryFind (fun rank -> not (List.contains rank gone)) = Some ranks.Rank
