namespace LayerSkip

open System

/// A run of training, all but its model and its data.
type TrainingOptions = {
    Recipe: Recipe
    /// Updates of the weights, over the whole run.
    Steps: int
    /// Samples of one micro-batch, on each rank.
    BatchSize: int
    /// Micro-batches of a step.
    Accumulate: int
    /// Ids of a sample.
    SequenceLength: int
    Layout: Layout
    Rate: RateOptions
    Adam: AdamWOptions
    /// The longest gradient of a step; 0: any.
    ClipNorm: float
    /// Keep only what enters each layer, and run it once more (activation checkpointing).
    Recompute: bool
    /// What forward and backward passes compute in; the weights that learn are float32, or float64 here. On a CPU bfloat16
    /// is that of the products alone, and float32 where the processor has none of its own.
    Precision: Dtype
    OnSpike: SpikeRule
    /// Of layer dropout, the order of samples, and the texts that are held out.
    Seed: int64
    /// Every so many steps, and after the last; 0: never.
    ValidateEvery: int
    /// Ids that a validation grades, of as many samples as it takes: the same ones whatever the batch size.
    ValidationTokens: int
    /// Every so many steps, and after the last, the decoder drafts with each of `ProbeExits`; 0: never.
    ProbeEvery: int
    ProbeExits: int list
    /// The length of a probe's drafts.
    ProbeDraft: int
    /// Steps from one checkpoint to the next, 0: none but that of the last step, which is always there, as is one where a run is stopped.
    SaveEvery: int
    /// The latest checkpoints that stay.
    Keep: int
}

[<RequireQualifiedAccess>]
module TrainingOptions =
    /// What gradients of a norm are multiplied by, so that it is at most `ClipNorm`; 1 where that is 0.
    let internal clip (norm: float) (options: TrainingOptions) : float =
        if options.ClipNorm > 0.0 then
            min 1.0 (options.ClipNorm / (norm + 1e-6))
        else
            1.0

    /// The highest learning rate of weights that have learned before; that of weights from scratch is `standard`'s.
    let continuedPeak = 3e-4

    /// A recipe's run of 1000 steps of 16 samples of 256 ids: for small models on two cores.
    let standard (recipe: Recipe) : TrainingOptions = {
        Recipe = recipe
        Steps = 1000
        BatchSize = 16
        Accumulate = 1
        SequenceLength = 256
        Layout = Layout.Packed
        Rate = { Peak = 1e-3; Warmup = 50; Floor = 0.1 }
        Adam = AdamW.standard
        ClipNorm = 1.0
        Recompute = false
        Precision = Dtype.F32
        OnSpike = SpikeRule.Stop
        Seed = 0L
        ValidateEvery = 100
        ValidationTokens = 32768
        ProbeEvery = 0
        ProbeExits = []
        ProbeDraft = LlamaConfig.defaultDraft
        SaveEvery = 200
        Keep = 2
    }

    /// Every option outside its range, for a model.
    let faults (config: LlamaConfig) (options: TrainingOptions) : LayerSkipError list =
        let atLeast least name value = Check.inRange (value >= least) name (string value) $"{least} or more"

        let real holds name (value: float) allowed =
            Check.inRange (Double.IsFinite value && holds) name (string value) allowed

        let share name value = real (value >= 0.0 && value < 1.0) name value "0 or more, and below 1"
        let rate, adam, length = options.Rate, options.Adam, options.SequenceLength

        List.concat [
            atLeast 1 "steps" options.Steps
            atLeast 1 "batch-size" options.BatchSize
            atLeast 1 "accumulate" options.Accumulate
            (if config.Context < 2 then
                 atLeast 2 "the model's context" config.Context
             else
                 let fits = length >= 2 && length <= config.Context
                 Check.inRange
                     fits
                     "sequence-length"
                     (string length)
                     $"2 to {config.Context}, the model's context")
            real (rate.Peak > 0.0) "learning-rate" rate.Peak "above 0"
            atLeast 0 "warmup" rate.Warmup
            real (rate.Floor >= 0.0 && rate.Floor <= 1.0) "rate-floor" rate.Floor "0 to 1"
            share "beta1" adam.Beta1
            share "beta2" adam.Beta2
            real (adam.Epsilon > 0.0) "epsilon" adam.Epsilon "above 0"
            real (adam.WeightDecay >= 0.0) "weight-decay" adam.WeightDecay "0 or more"
            real (options.ClipNorm >= 0.0) "clip-norm" options.ClipNorm "0 (off) or more"
            atLeast 0 "validate-every" options.ValidateEvery
            atLeast 1 "validation-tokens" options.ValidationTokens
            atLeast 0 "probe-every" options.ProbeEvery
            atLeast 1 "draft-length" options.ProbeDraft
            atLeast 0 "save-every" options.SaveEvery
            atLeast 1 "keep" options.Keep
            LayerSkipError.Unsupported("training in f16", "f32, bf16 and f64 are")
            |> Check.that (options.Precision <> Dtype.F16)
            options.ProbeExits
            |> List.collect (fun exit ->
                let isEarly = exit >= 1 && exit < config.Layers
                Check.inRange isEarly "probe-exits" (string exit) (ExitShares.allowed config.Layers))
            Recipe.tryBuild config.Layers options.Steps options.Seed options.Recipe |> Check.faults
        ]

    /// What is wrong with going on under other options: steps, rate, what is watched and how often may change, samples and
    /// passes may not.
    let extensionFaults (before: TrainingOptions) (after: TrainingOptions) : LayerSkipError list =
        let unchanged = {
            after with
                Steps = before.Steps
                Rate = before.Rate
                Adam = { after.Adam with WeightDecay = before.Adam.WeightDecay }
                ClipNorm = before.ClipNorm
                OnSpike = before.OnSpike
                ValidateEvery = before.ValidateEvery
                ValidationTokens = before.ValidationTokens
                ProbeEvery = before.ProbeEvery
                ProbeExits = before.ProbeExits
                ProbeDraft = before.ProbeDraft
                SaveEvery = before.SaveEvery
                Keep = before.Keep
        }

        Check.that
            (unchanged = before)
            (LayerSkipError.Unsupported(
                "going on with other samples, passes or lessons",
                "steps, rate, weight decay, clipping, spikes, validation, probes and checkpoints may change; for the rest start a new run from a checkpoint"
            ))
