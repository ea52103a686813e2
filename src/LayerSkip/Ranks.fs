namespace LayerSkip

/// The processes of a data-parallel run.
[<NoEquality; NoComparison>]
type Ranks = {
    Rank: int
    Count: int
    Sum: float[] -> float[]
    SumInPlace: Tensor list -> unit
}

[<RequireQualifiedAccess>]
module Ranks =
    let alone: Ranks = { Rank = 0; Count = 1; Sum = id; SumInPlace = ignore }
