namespace LayerSkip

open System

/// A run of training, all but its model and its data.
type TrainingOptions = {
    Recipe: Recipe
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
    /// What forward and backward passes compute in; the weights that learn are float32, or float64 here.
    Precision: Dtype
    OnSpike: SpikeRule
    Seed: int64
    /// Every so many steps, and after the last; 0: never.
    ValidateEvery: int
    /// Ids that a validation grades, of as many samples as it takes: the same ones whatever the batch size.
    ValidationTokens: int
    /// Every so many steps, and after the last, the decoder drafts with each of `ProbeExits`; 0: never.
    ProbeEvery: int
    ProbeExits: int list
    ProbeDraft: int
    SaveEvery: int
    /// The latest checkpoints that stay.
    Keep: int
}

[<RequireQualifiedAccess>]
module TrainingOptions =
    /// The highest learning rate of weights that have learned before; that of weights from scratch is `standard`'s.
    let continuedPeak = 3e-4

    /// For small models on two cores.
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
        let atLeast least (name: string) value =
            Check.that (value >= least) (LayerSkipError.OutOfRange(name, string value, $"{least} or more"))

        let real holds (name: string) (value: float) allowed =
            Check.that
                (Double.IsFinite value && holds)
                (LayerSkipError.OutOfRange(name, string value, allowed))

        let share (name: string) value =
            real (value >= 0.0 && value < 1.0) name value "0 or more, and below 1"

        List.concat [
            atLeast 1 "steps" options.Steps
            atLeast 1 "batch-size" options.BatchSize
            atLeast 1 "accumulate" options.Accumulate
            (if config.Context < 2 then
                 [
                     LayerSkipError.OutOfRange("the model's context", string config.Context, "2 or more")
                 ]
             else
                 Check.that
                     (options.SequenceLength >= 2 && options.SequenceLength <= config.Context)
                     (LayerSkipError.OutOfRange(
                         "sequence-length",
                         string options.SequenceLength,
                         $"2 to {config.Context}, the model's context"
                     )))
            real (options.Rate.Peak > 0.0) "learning-rate" options.Rate.Peak "above 0"
            atLeast 0 "warmup" options.Rate.Warmup
            real
                (options.Rate.Floor >= 0.0 && options.Rate.Floor <= 1.0)
                "rate-floor"
                options.Rate.Floor
                "0 to 1"
            share "beta1" options.Adam.Beta1
            share "beta2" options.Adam.Beta2
            real (options.Adam.Epsilon > 0.0) "epsilon" options.Adam.Epsilon "above 0"
            real (options.Adam.WeightDecay >= 0.0) "weight-decay" options.Adam.WeightDecay "0 or more"
            real (options.ClipNorm >= 0.0) "clip-norm" options.ClipNorm "0 (off) or more"
            atLeast 0 "validate-every" options.ValidateEvery
            atLeast 1 "validation-tokens" options.ValidationTokens
            atLeast 0 "probe-every" options.ProbeEvery
            atLeast 1 "draft-length" options.ProbeDraft
            atLeast 1 "save-every" options.SaveEvery
            atLeast 1 "keep" options.Keep
            Check.that
                (options.Precision <> Dtype.F16)
                (LayerSkipError.Unsupported("training in f16", "f32 and bf16 are"))
            options.ProbeExits
            |> List.collect (fun exit ->
                Check.that
                    (exit >= 1 && exit < config.Layers)
                    (LayerSkipError.OutOfRange("probe-exits", string exit, ExitShares.allowed config.Layers)))
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
