namespace LayerSkip

/// Texts of one length: position t of a text learns label t + 1, unless that is `Batch.ignored`.
type Batch = {
    /// [text][position], texts of one length.
    Ids: int[][]
    /// As many, each the id at its own position; the first of a text is never learned.
    Labels: int[][]
    /// Places of `Ids` that are no text's, and only fill the rectangle up.
    Padding: int
}

[<RequireQualifiedAccess>]
module Batch =
    /// The label that nothing learns, as in PyTorch and Hugging Face.
    let ignored = -100

    /// Texts that learn all of themselves.
    let ofIds (ids: int[][]) : Batch = { Ids = ids; Labels = ids; Padding = 0 }

    /// The positions that learn, as rows of [batch * rows; hidden], each with its label.
    let internal lessons (batch: Batch) : (int * int)[] =
        batch.Labels
        |> Array.mapi (fun text labels -> [|
            for t in 0 .. labels.Length - 2 do
                if labels[t + 1] <> ignored then
                    text * labels.Length + t, labels[t + 1]
        |])
        |> Array.concat

    /// How many positions learn.
    let tokens (batch: Batch) : int =
        let learn (labels: int[]) = labels[1..] |> Seq.filter ((<>) ignored) |> Seq.length
        batch.Labels |> Array.sumBy learn

/// What a loss comes to, as sums over the positions that learn: those of micro-batches and ranks add up.
type LossSums = {
    Tokens: int
    /// What is minimised: each layer's share of what it learns from, in nats.
    Objective: float
    /// By layer, in nats; 0 where a layer was off.
    CrossEntropy: float[]
    /// By layer, from the last layer's law to this one's, in nats; 0 where it was not asked for.
    Divergence: float[]
}

[<RequireQualifiedAccess>]
module LossSums =
    /// In nats a token; None where there was nothing to learn.
    let perToken (sums: LossSums) : float option =
        if sums.Tokens = 0 then
            None
        else
            Some(sums.Objective / float sums.Tokens)

    /// Mean cross entropy of the layers that have one, by layer from 1; none where there was nothing to learn.
    let entropies (sums: LossSums) : (int * float) list = [
        if sums.Tokens > 0 then
            for layer, sum in Seq.indexed sums.CrossEntropy do
                if sum > 0.0 then
                    layer + 1, sum / float sums.Tokens
    ]

    /// Of nothing, for a model of so many layers.
    let zero (layers: int) : LossSums = {
        Tokens = 0
        Objective = 0.0
        CrossEntropy = Array.zeroCreate layers
        Divergence = Array.zeroCreate layers
    }

    /// Of two batches together.
    let plus (a: LossSums) (b: LossSums) : LossSums = {
        Tokens = a.Tokens + b.Tokens
        Objective = a.Objective + b.Objective
        CrossEntropy = Array.map2 (+) a.CrossEntropy b.CrossEntropy
        Divergence = Array.map2 (+) a.Divergence b.Divergence
    }
