namespace LayerSkip

open System
open System.Numerics

/// The law that softmax makes of a row of logits, in float64: p(id) = Weights[id] / Total.
[<NoEquality; NoComparison>]
type internal RowLaw = {
    /// How many of the arrays' numbers are the row's; the next ones, to a whole vector, have no weight.
    Size: int
    Logits: float[]
    /// exp(logit - the largest logit)
    Weights: float[]
    Total: float
    /// The largest logit's; of equal ones the lowest id.
    Argmax: int
    /// ln of the sum of exp(logit); not finite where a logit is not.
    LogSumExp: float
    /// -sum of p ln p, in nats.
    Entropy: float
}

/// Questions about rows of logits, answered by vectors.
[<RequireQualifiedAccess>]
module internal RowLaw =
    let private lanes = Vector<float>.Count

    // Finite, so that no product with it is NaN, and so little that its weight is 0.
    let private nothing = -1e300

    /// Numbers that an array must have room for, for a row of `size`: whole vectors.
    let room (size: int) : int = (size + lanes - 1) / lanes * lanes

    /// The law of the first `size` of the logits; `weights` is memory for it, and both have `room`.
    let ofLogits (logits: float[]) (weights: float[]) (size: int) : RowLaw =
        let room = room size
        Array.Fill(logits, nothing, size, room - size)
        let mutable largests = Vector<float> nothing

        for at in 0..lanes .. room - 1 do
            largests <- Vector.Max(largests, Vector<float>(logits, at))

        let mutable largest = largests[0]

        for lane in 1 .. lanes - 1 do
            largest <- max largest largests[lane]

        let shift = Vector<float> largest
        let mutable totals, moments = Vector<float>.Zero, Vector<float>.Zero

        for at in 0..lanes .. room - 1 do
            let below = Vector<float>(logits, at) - shift
            let weight = Vector.Exp below
            totals <- totals + weight
            moments <- moments + weight * below
            weight.CopyTo(weights, at)

        let total = Vector.Sum totals

        {
            Size = size
            Logits = logits
            Weights = weights
            Total = total
            Argmax = Array.IndexOf(logits, largest, 0, size)
            LogSumExp = largest + log total
            Entropy = max 0.0 (log total - Vector.Sum moments / total)
        }

    /// Whether every logit is a finite number.
    let isFinite (law: RowLaw) : bool = Double.IsFinite law.LogSumExp && Double.IsFinite law.Entropy

    let probability (id: int) (law: RowLaw) : float = law.Weights[id] / law.Total

    /// ln p, which is finite where p underflows to 0.
    let logProbability (id: int) (law: RowLaw) : float = law.Logits[id] - law.LogSumExp

    /// 1 and the number of tokens that greedy decoding prefers: those with larger logits, and of equal ones those with lower ids.
    let rank (id: int) (law: RowLaw) : int =
        let logit = Vector<float> law.Logits[id]
        let mutable larger, equal = Vector<int64>.Zero, Vector<int64>.Zero

        for at in 0..lanes .. room law.Size - 1 do
            let logits = Vector<float>(law.Logits, at)
            // What holds is -1.
            larger <- larger - Vector.GreaterThan(logits, logit)

            if at + lanes <= id then
                equal <- equal - Vector.Equals(logits, logit)

        let mutable before = int (Vector.Sum larger + Vector.Sum equal)

        for other in id / lanes * lanes .. id - 1 do
            if law.Logits[other] = law.Logits[id] then
                before <- before + 1

        1 + before

    /// KL(p || q) = sum of p ln(p / q), in nats, of rows of one size; 0 of a law and itself, to the bit.
    let divergence (p: RowLaw) (q: RowLaw) : float =
        let mutable sums = Vector<float>.Zero

        for at in 0..lanes .. room p.Size - 1 do
            let apart = Vector<float>(p.Logits, at) - Vector<float>(q.Logits, at)
            sums <- sums + Vector<float>(p.Weights, at) * apart

        max 0.0 (Vector.Sum sums / p.Total - p.LogSumExp + q.LogSumExp)
