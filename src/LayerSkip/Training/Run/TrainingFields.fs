namespace LayerSkip

open System.Text.Json

/// The options of a run as fields of a JSON object: in its checkpoints and its log.
[<RequireQualifiedAccess>]
module internal TrainingFields =
    let private shapes = [ "constant", DropoutShape.Constant; "exponential", DropoutShape.Exponential ]
    let private layouts = [ "packed", Layout.Packed; "each", Layout.Each ]
    let private precisions = [ for dtype in [ Dtype.F32; Dtype.BF16; Dtype.F64 ] -> Dtype.name dtype, dtype ]
    let private tryRule text = ExitRule.tryParse text |> Result.mapError LayerSkipError.summary

    let private recipe: JsonField<Recipe> list = [
        JsonField.real "dropout" _.Dropout (fun value it -> { it with Dropout = value })
        JsonField.oneOf "dropout_depth" shapes _.Depth (fun value it -> { it with Depth = value })
        JsonField.oneOf "dropout_time" shapes _.Time (fun value it -> { it with Time = value })
        JsonField.parsed "exits" ExitRule.format tryRule _.Exits (fun value it -> { it with Exits = value })
        JsonField.real "exit_labels" _.Targets.Labels (fun value it -> { it with Targets.Labels = value })
        JsonField.real "exit_last_layer" _.Targets.LastLayer (fun value it -> {
            it with
                Targets.LastLayer = value
        })
    ]

    let private fields: JsonField<TrainingOptions> list = [
        yield! recipe |> List.map (JsonField.ofPart _.Recipe (fun part it -> { it with Recipe = part }))
        JsonField.whole "steps" _.Steps (fun value it -> { it with Steps = value })
        JsonField.whole "batch_size" _.BatchSize (fun value it -> { it with BatchSize = value })
        JsonField.whole "accumulate" _.Accumulate (fun value it -> { it with Accumulate = value })
        JsonField.whole "sequence_length" _.SequenceLength (fun value it -> {
            it with
                SequenceLength = value
        })
        JsonField.oneOf "layout" layouts _.Layout (fun value it -> { it with Layout = value })
        JsonField.real "learning_rate" _.Rate.Peak (fun value it -> { it with Rate.Peak = value })
        JsonField.whole "warmup" _.Rate.Warmup (fun value it -> { it with Rate.Warmup = value })
        JsonField.real "rate_floor" _.Rate.Floor (fun value it -> { it with Rate.Floor = value })
        JsonField.real "beta1" _.Adam.Beta1 (fun value it -> { it with Adam.Beta1 = value })
        JsonField.real "beta2" _.Adam.Beta2 (fun value it -> { it with Adam.Beta2 = value })
        JsonField.real "epsilon" _.Adam.Epsilon (fun value it -> { it with Adam.Epsilon = value })
        JsonField.real "weight_decay" _.Adam.WeightDecay (fun value it -> {
            it with
                Adam.WeightDecay = value
        })
        JsonField.real "clip_norm" _.ClipNorm (fun value it -> { it with ClipNorm = value })
        JsonField.bool "recompute" _.Recompute (fun value it -> { it with Recompute = value })
        JsonField.oneOf "precision" precisions _.Precision (fun value it -> { it with Precision = value })
        JsonField.oneOf "on_spike" SpikeRule.all _.OnSpike (fun value it -> { it with OnSpike = value })
        |> JsonField.optional
        JsonField.long "seed" _.Seed (fun value it -> { it with Seed = value })
        JsonField.whole "validate_every" _.ValidateEvery (fun value it -> { it with ValidateEvery = value })
        JsonField.whole "validation_tokens" _.ValidationTokens (fun value it -> {
            it with
                ValidationTokens = value
        })
        |> JsonField.optional
        JsonField.whole "probe_every" _.ProbeEvery (fun value it -> { it with ProbeEvery = value })
        JsonField.wholes "probe_exits" _.ProbeExits (fun value it -> { it with ProbeExits = value })
        JsonField.whole "probe_draft" _.ProbeDraft (fun value it -> { it with ProbeDraft = value })
        JsonField.whole "save_every" _.SaveEvery (fun value it -> { it with SaveEvery = value })
        JsonField.whole "keep" _.Keep (fun value it -> { it with Keep = value })
    ]

    let write (json: Utf8JsonWriter) (options: TrainingOptions) : unit = JsonField.write fields json options

    /// What is read into: of these stays what a file of an earlier version lacks.
    let nothing: TrainingOptions =
        TrainingOptions.standard {
            Dropout = 0.0
            Depth = DropoutShape.Constant
            Time = DropoutShape.Constant
            Exits = ExitRule.LastOnly
            Targets = LossOptions.standard.Targets
        }

    /// Faults go to the reader.
    let read (json: JsonReader) (options: TrainingOptions) : TrainingOptions =
        let options = JsonField.read fields json options

        // The first version counted batches.
        match json.TryInt "validation_batches" with
        | Some batches -> {
            options with
                ValidationTokens = batches * options.BatchSize * options.SequenceLength
          }
        | None -> options

    /// As an object inside.
    let inside name get set = JsonField.insideBy name write read get set
