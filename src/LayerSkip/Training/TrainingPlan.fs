namespace LayerSkip

/// What a run has beside the model.
[<NoEquality; NoComparison>]
type TrainingPlan = {
    Options: TrainingOptions
    Parts: RecipeParts
    Ranks: Ranks
    /// Of the positions of a sample.
    Rope: Rope
    /// Samples by their numbers, over all epochs: the first one's, and how many.
    Read: int64 -> int -> Batch
}

/// What each step of a run reads, drops and learns from. Nothing here depends on the weights.
[<RequireQualifiedAccess>]
module internal TrainingPlan =
    let private samplesPerStep (plan: TrainingPlan) : int64 =
        int64 plan.Options.BatchSize * int64 plan.Options.Accumulate * int64 plan.Ranks.Count

    /// The samples of a step, of all ranks: the first one's number and the last one's.
    let samplesOfStep (plan: TrainingPlan) (step: int) : int64 * int64 =
        let count = samplesPerStep plan
        int64 step * count, int64 (step + 1) * count - 1L

    /// The samples of one micro-batch: the first one's number, and where it stands among the step's on this rank. Ranks
    /// read samples of their own and share the numbers of their draws, so that each drops as many (the paper's one seed
    /// for all).
    let samplesOf (plan: TrainingPlan) (step: int) (micro: int) : struct (int64 * BatchPlace) =
        let each, ranks = plan.Options.BatchSize, plan.Ranks
        let first = int64 ((micro * ranks.Count + ranks.Rank) * each)
        struct (int64 step * samplesPerStep plan + first, { Step = step; First = micro * each })

    let lossOptions (plan: TrainingPlan) (weights: Weights) : LossOptions = {
        Targets = plan.Parts.Targets
        RowsAtOnce = LossOptions.rowsAtOnce weights.Device weights.Config.Vocabulary
        Recompute = plan.Options.Recompute
    }

    /// Layer dropout of a micro-batch, or nothing.
    let wrapper (plan: TrainingPlan) (place: BatchPlace) : LayerWrapper =
        match plan.Parts.Dropout with
        | Some dropout -> LayerDropout.wrap dropout place
        | None -> Decoder.plain

    /// The share of samples that dropout lets through in each layer, the same on every rank; none without dropout.
    let kept (plan: TrainingPlan) (layers: int) (step: int) : float[] =
        let samples = plan.Options.BatchSize * plan.Options.Accumulate

        match plan.Parts.Dropout with
        | None -> [||]
        | Some dropout ->
            Array.init layers (fun layer ->
                let rows = LayerDropout.kept dropout { Step = step; First = 0 } layer samples
                float rows.Length / float samples)
