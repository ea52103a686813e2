namespace LayerSkip

open System.Text.Json

/// The options of a run as fields of a JSON object: in its checkpoints and its log.
[<RequireQualifiedAccess>]
module internal TrainingFields =
    let private shapes = [
        "constant", DropoutShape.Constant
        "exponential", DropoutShape.Exponential
        "linear", DropoutShape.Linear
    ]
    let private layouts = [ "packed", Layout.Packed; "each", Layout.Each ]
    let private precisions = [ for dtype in [ Dtype.F32; Dtype.BF16; Dtype.F64 ] -> Dtype.name dtype, dtype ]
    let private tryRule text = ExitRule.tryParse text |> Result.mapError LayerSkipError.summary

    let private recipe: JsonField<Recipe> list = [
        JsonField.real "dropout" _.Dropout (fun x it -> { it with Dropout = x })
        JsonField.oneOf "dropout_depth" shapes _.Depth (fun x it -> { it with Depth = x })
        JsonField.oneOf "dropout_time" shapes _.Time (fun x it -> { it with Time = x })
        JsonField.parsed "exits" ExitRule.format tryRule _.Exits (fun x it -> { it with Exits = x })
        JsonField.real "exit_labels" _.Targets.Labels (fun x it -> { it with Targets.Labels = x })
        JsonField.real "exit_last_layer" _.Targets.LastLayer (fun x it -> { it with Targets.LastLayer = x })
    ]

    let private fields: JsonField<TrainingOptions> list = [
        yield! recipe |> List.map (JsonField.ofPart _.Recipe (fun part it -> { it with Recipe = part }))
        JsonField.whole "steps" _.Steps (fun x it -> { it with Steps = x })
        JsonField.whole "batch_size" _.BatchSize (fun x it -> { it with BatchSize = x })
        JsonField.whole "accumulate" _.Accumulate (fun x it -> { it with Accumulate = x })
        JsonField.whole "sequence_length" _.SequenceLength (fun x it -> { it with SequenceLength = x })
        JsonField.oneOf "layout" layouts _.Layout (fun x it -> { it with Layout = x })
        JsonField.real "learning_rate" _.Rate.Peak (fun x it -> { it with Rate.Peak = x })
        JsonField.whole "warmup" _.Rate.Warmup (fun x it -> { it with Rate.Warmup = x })
        JsonField.real "rate_floor" _.Rate.Floor (fun x it -> { it with Rate.Floor = x })
        JsonField.real "beta1" _.Adam.Beta1 (fun x it -> { it with Adam.Beta1 = x })
        JsonField.real "beta2" _.Adam.Beta2 (fun x it -> { it with Adam.Beta2 = x })
        JsonField.real "epsilon" _.Adam.Epsilon (fun x it -> { it with Adam.Epsilon = x })
        JsonField.real "weight_decay" _.Adam.WeightDecay (fun x it -> { it with Adam.WeightDecay = x })
        JsonField.real "clip_norm" _.ClipNorm (fun x it -> { it with ClipNorm = x })
        JsonField.bool "recompute" _.Recompute (fun x it -> { it with Recompute = x })
        JsonField.oneOf "precision" precisions _.Precision (fun x it -> { it with Precision = x })
        JsonField.oneOf "on_spike" SpikeRule.all _.OnSpike (fun x it -> { it with OnSpike = x })
        |> JsonField.optional
        JsonField.long "seed" _.Seed (fun x it -> { it with Seed = x })
        JsonField.whole "validate_every" _.ValidateEvery (fun x it -> { it with ValidateEvery = x })
        JsonField.whole "validation_tokens" _.ValidationTokens (fun x it -> { it with ValidationTokens = x })
        |> JsonField.optional
        JsonField.whole "probe_every" _.ProbeEvery (fun x it -> { it with ProbeEvery = x })
        JsonField.wholes "probe_exits" _.ProbeExits (fun x it -> { it with ProbeExits = x })
        JsonField.whole "probe_draft" _.ProbeDraft (fun x it -> { it with ProbeDraft = x })
        JsonField.whole "save_every" _.SaveEvery (fun x it -> { it with SaveEvery = x })
        JsonField.whole "keep" _.Keep (fun x it -> { it with Keep = x })
    ]

    /// Fields of an object that has begun.
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
