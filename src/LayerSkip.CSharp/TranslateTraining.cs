using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

/// <summary>From this assembly's options of training to the F# library's, and back from its events.</summary>
internal static class TranslateTraining
{
    /// <summary>What options are where nothing is said.</summary>
    public static TrainingOptions Usual { get; } =
        TrainingOptionsModule.standard(RecipeModule.tryPreset("plain", 2).ResultValue);

    public static TrainingData Data(TrainData data, IEnumerable<string> files) =>
        new(
            ListModule.OfSeq(data.Files.Concat(files)),
            ListModule.OfSeq(data.ValidationFiles),
            data.ValidationFiles.Count > 0 ? 0 : data.ValidationShare,
            data.AddsBos,
            data.AddsEos,
            data.ParsesSpecial);

    /// <summary>The exit layer and draft length that the model will recommend.</summary>
    public static FSharpOption<Tuple<int, int>>? Recommended(TrainOptions options, FSharpOption<Tuple<int, int>>? own) =>
        (options.ExitLayer, options.DraftLength, own) switch
        {
            ({ } exit, var length, _) => Translate.Some(Tuple.Create(exit, length ?? LlamaConfigModule.defaultDraft)),
            (null, { } length, { Value: var (exit, _) }) => Translate.Some(Tuple.Create(exit, length)),
            (null, { } length, null) => throw Translate.Exception(LayerSkipError.NewOutOfRange(
                "draft-length", $"{length}", $"given with {nameof(TrainOptions.ExitLayer)}: the model recommends none")),
            _ => own,
        };

    /// <summary>A run's options for a model, with what the caller left open.</summary>
    public static TrainingOptions Options(TrainOptions options, LlamaConfig config, FSharpOption<Tuple<int, int>>? recommended)
    {
        if (options.ExitLayer is { } exit)
        {
            ExitLayer.TryCreate(config.Layers, exit).OrThrow();
        }

        var probes = options.ProbeExitLayers ?? (recommended is { Value.Item1: var own } ? [own] : []);
        if (probes.Count == 0 && options.ProbeEvery > 0)
        {
            throw Translate.Exception(LayerSkipError.NewOutOfRange(
                "probe-every", $"{options.ProbeEvery}", $"0 without exits that draft; give {nameof(TrainOptions.ProbeExitLayers)}"));
        }

        return new(
            recipe: Recipe(options, config.Layers),
            steps: options.Steps,
            batchSize: options.BatchSize,
            accumulate: options.AccumulatedBatches,
            sequenceLength: options.SequenceLength ?? Math.Min(Usual.SequenceLength, config.Context),
            layout: Layout(options),
            rate: new(
                options.LearningRate ?? (options.NewModel is null ? TrainingOptionsModule.continuedPeak : Usual.Rate.Peak),
                // A short run reaches its highest rate too.
                options.WarmupSteps ?? Math.Min(Usual.Rate.Warmup, Math.Max(0, options.Steps / 4)),
                options.LearningRateFloor),
            adam: new(options.Beta1, options.Beta2, options.Epsilon, options.WeightDecay),
            clipNorm: options.GradientClipNorm,
            recompute: options.Recompute,
            precision: Translate.Dtype(options.Precision)?.Value
                ?? (options.Device == Device.Cuda ? LayerSkip.Dtype.BF16 : LayerSkip.Dtype.F32),
            onSpike: options.OnSpike switch
            {
                SpikeHandling.Stop => SpikeRule.Stop,
                SpikeHandling.Skip => SpikeRule.Skip,
                SpikeHandling.Warn => SpikeRule.Warn,
                var unknown => throw Translate.Undefined(nameof(TrainOptions.OnSpike), unknown),
            },
            seed: options.Seed,
            validateEvery: options.ValidateEvery,
            validationTokens: options.ValidationTokenCount,
            probeEvery: options.ProbeEvery ?? (probes.Count == 0 ? 0 : options.ValidateEvery),
            probeExits: ListModule.OfSeq(probes),
            probeDraft: recommended is { Value.Item2: var length } ? length : Usual.ProbeDraft,
            saveEvery: options.SaveEvery,
            keep: options.CheckpointsKept);
    }

    public static TrainProgress? Progress(TrainingEvent happened, int steps) =>
        happened switch
        {
            TrainingEvent.Stepped { Item: var report } => new TrainStep
            {
                Step = report.Step,
                StepCount = steps,
                Loss = LossSumsModule.perToken(report.Sums)?.Value,
                CrossEntropy = LossSumsModule.entropies(report.Sums).ToDictionary(exit => exit.Item1, exit => exit.Item2),
                Shares = Array.AsReadOnly(report.Shares),
                LearningRate = report.LearningRate,
                GradientNorm = report.GradientNorm,
                TokenCount = report.Tokens,
                KeptShares = Array.AsReadOnly(report.Kept),
                IsSpike = report.Spike is not null,
                Elapsed = TimeSpan.FromSeconds(report.Seconds),
            },
            TrainingEvent.Validated validated => new TrainValidation
            {
                Step = validated.step,
                StepCount = steps,
                CrossEntropy = Array.AsReadOnly(validated.entropies),
            },
            TrainingEvent.Probed probed => new TrainProbe
            {
                Step = probed.step,
                StepCount = steps,
                AcceptanceRates = probed.accepted.ToDictionary(exit => exit.Item1, exit => exit.Item2),
            },
            TrainingEvent.Saved saved => new TrainCheckpoint { Step = saved.step, StepCount = steps, Folder = saved.folder },
            _ => null,
        };

    private static Recipe Recipe(TrainOptions options, int layers)
    {
        var preset = RecipeModule.tryPreset(Name(options), layers).ResultValue;
        return new(
            dropout: options.Dropout?.Peak ?? preset.Dropout,
            // A function's place is held by what is checked as it is.
            depth: options.Dropout is null ? preset.Depth : options.Dropout.Shape ?? DropoutShape.Constant,
            time: options.Dropout is null ? preset.Time : options.Dropout.Time.Shape ?? DropoutShape.Constant,
            exits: options.Curriculum is null ? preset.Exits : options.Curriculum.Rule ?? ExitRule.LastOnly,
            targets: new(options.LabelWeight ?? preset.Targets.Labels, options.LastLayerWeight ?? preset.Targets.LastLayer));
    }

    private static string Name(TrainOptions options) =>
        options.Recipe switch
        {
            TrainRecipe.Auto => options.NewModel is null ? "continual" : "scratch",
            TrainRecipe.Plain => "plain",
            TrainRecipe.Continual => "continual",
            TrainRecipe.Scratch => "scratch",
            TrainRecipe.Code => "code",
            TrainRecipe.FineTune => "fine-tune",
            TrainRecipe.Emphasis => "emphasis",
            TrainRecipe.SelfDistillation => "self-distillation",
            var unknown => throw Translate.Undefined(nameof(TrainOptions.Recipe), unknown),
        };

    private static Layout Layout(TrainOptions options) =>
        options.Layout switch
        {
            SampleLayout.Packed => LayerSkip.Layout.Packed,
            SampleLayout.Each => LayerSkip.Layout.Each,
            SampleLayout.Auto => options.Data.Pairs.Count > 0 || options.Data.Files.Any(Texts.isJson)
                ? LayerSkip.Layout.Each
                : LayerSkip.Layout.Packed,
            var unknown => throw Translate.Undefined(nameof(TrainOptions.Layout), unknown),
        };
}
