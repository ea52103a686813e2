namespace LayerSkip

open System

/// A model that learns. Its tensors belong to it and change in place.
[<NoEquality; NoComparison>]
type Trainee = {
    /// float32 (float64 where the passes compute in it), without kernels.
    Weights: Weights
    Optimiser: AdamWState
    Guard: LossGuard
    /// Steps made so far.
    Step: int
} with

    interface IDisposable with
        member this.Dispose() =
            (this.Weights :> IDisposable).Dispose()
            Scope.release (AdamWState.TensorsOf this.Optimiser)

/// What a step came to, over all ranks.
type StepReport = {
    /// From 1.
    Step: int
    Sums: LossSums
    /// e~ of the step: which exits learned.
    Shares: float[]
    LearningRate: float
    /// Of all gradients together (L2), before clipping.
    GradientNorm: float
    /// Ids of texts that were read; those that were learned are `Sums.Tokens`.
    Tokens: int64
    /// Places that only filled batches up.
    Padding: int64
    /// By layer, the share of samples that dropout let through; none where the recipe drops nothing.
    Kept: float[]
    Spike: Spike option
    Seconds: float
}

/// A step that ends the run: it has moved nothing. `Samples` are the numbers of the first and the last it may lie in.
type TrainingFault = { Step: int; Samples: int64 * int64; What: string }
