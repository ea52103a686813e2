namespace LayerSkip

open System
open System.Text.Json

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
        ProbeDraft = 4
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

    let private shapeName (shape: DropoutShape) =
        match shape with
        | DropoutShape.Constant -> "constant"
        | DropoutShape.Exponential -> "exponential"

    /// As a JSON object's fields; `ofJson` reads them.
    let internal write (json: Utf8JsonWriter) (options: TrainingOptions) : unit =
        let recipe = options.Recipe
        json.WriteNumber("dropout", recipe.Dropout)
        json.WriteString("dropout_depth", shapeName recipe.Depth)
        json.WriteString("dropout_time", shapeName recipe.Time)
        json.WriteString("exits", ExitRule.format recipe.Exits)
        json.WriteNumber("exit_labels", recipe.Targets.Labels)
        json.WriteNumber("exit_last_layer", recipe.Targets.LastLayer)
        json.WriteNumber("steps", options.Steps)
        json.WriteNumber("batch_size", options.BatchSize)
        json.WriteNumber("accumulate", options.Accumulate)
        json.WriteNumber("sequence_length", options.SequenceLength)
        json.WriteString("layout", (if options.Layout = Layout.Packed then "packed" else "each"))
        json.WriteNumber("learning_rate", options.Rate.Peak)
        json.WriteNumber("warmup", options.Rate.Warmup)
        json.WriteNumber("rate_floor", options.Rate.Floor)
        json.WriteNumber("beta1", options.Adam.Beta1)
        json.WriteNumber("beta2", options.Adam.Beta2)
        json.WriteNumber("epsilon", options.Adam.Epsilon)
        json.WriteNumber("weight_decay", options.Adam.WeightDecay)
        json.WriteNumber("clip_norm", options.ClipNorm)
        json.WriteBoolean("recompute", options.Recompute)
        json.WriteString("precision", Dtype.name options.Precision)
        json.WriteString("on_spike", SpikeRule.name options.OnSpike)
        json.WriteNumber("seed", options.Seed)
        json.WriteNumber("validate_every", options.ValidateEvery)
        json.WriteNumber("validation_tokens", options.ValidationTokens)
        json.WriteNumber("probe_every", options.ProbeEvery)
        json.WriteStartArray "probe_exits"
        List.iter (fun (exit: int) -> json.WriteNumberValue exit) options.ProbeExits
        json.WriteEndArray()
        json.WriteNumber("probe_draft", options.ProbeDraft)
        json.WriteNumber("save_every", options.SaveEvery)
        json.WriteNumber("keep", options.Keep)

    /// Faults go to the reader.
    let internal ofJson (json: JsonReader) : TrainingOptions =
        let text name = json.TryString name |> Option.defaultValue ""

        let oneOf (name: string) known =
            match List.tryFind (fst >> (=) (text name)) known with
            | Some(_, value) -> value
            | None ->
                let allowed = known |> List.map fst |> String.concat ", "
                json.Fault $"\"{name}\" is \"{text name}\", it must be one of {allowed}"
                snd known.Head

        let shapes = [ "constant", DropoutShape.Constant; "exponential", DropoutShape.Exponential ]

        let exits =
            match ExitRule.tryParse (text "exits") with
            | Ok rule -> rule
            | Error faults ->
                json.Fault(LayerSkipError.summary faults)
                ExitRule.LastOnly

        {
            Recipe = {
                Dropout = json.Float("dropout", 0.0)
                Depth = oneOf "dropout_depth" shapes
                Time = oneOf "dropout_time" shapes
                Exits = exits
                Targets = {
                    Labels = json.Float("exit_labels", 1.0)
                    LastLayer = json.Float("exit_last_layer", 0.0)
                }
            }
            Steps = json.Int("steps", 0)
            BatchSize = json.Int("batch_size", 0)
            Accumulate = json.Int("accumulate", 0)
            SequenceLength = json.Int("sequence_length", 0)
            Layout = oneOf "layout" [ "packed", Layout.Packed; "each", Layout.Each ]
            Rate = {
                Peak = json.Float("learning_rate", 0.0)
                Warmup = json.Int("warmup", 0)
                Floor = json.Float("rate_floor", 1.0)
            }
            Adam = {
                Beta1 = json.Float("beta1", -1.0)
                Beta2 = json.Float("beta2", -1.0)
                Epsilon = json.Float("epsilon", 0.0)
                WeightDecay = json.Float("weight_decay", -1.0)
            }
            ClipNorm = json.Float("clip_norm", -1.0)
            Recompute = json.Bool("recompute", false)
            Precision = oneOf "precision" [ "f32", Dtype.F32; "bf16", Dtype.BF16; "f64", Dtype.F64 ]
            OnSpike =
                if (json.TryString "on_spike").IsNone then
                    SpikeRule.Stop
                else
                    oneOf "on_spike" SpikeRule.all
            Seed = json.Long("seed", 0L)
            ValidateEvery = json.Int("validate_every", 0)
            ValidationTokens =
                // Earlier checkpoints count batches.
                json.TryInt "validation_tokens"
                |> Option.defaultWith (fun () ->
                    json.Int("validation_batches", 0)
                    * json.Int("batch_size", 0)
                    * json.Int("sequence_length", 0))
            ProbeEvery = json.Int("probe_every", 0)
            ProbeExits = json.Ids "probe_exits" |> Option.map List.ofArray |> Option.defaultValue []
            ProbeDraft = json.Int("probe_draft", 0)
            SaveEvery = json.Int("save_every", 0)
            Keep = json.Int("keep", 0)
        }
