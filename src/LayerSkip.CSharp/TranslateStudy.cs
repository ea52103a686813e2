using Microsoft.FSharp.Collections;
using static LayerSkip.CSharp.Translate;

namespace LayerSkip.CSharp;

/// <summary>Between the study library's reports and this assembly's.</summary>
internal static class TranslateStudy
{
    public static SweepResult Sweep(SweepReport report)
    {
        Dictionary<LayerSkip.SweepRow, SweepRow> rows = new(ReferenceEqualityComparer.Instance);
        SweepRow Shown(LayerSkip.SweepRow row) => rows.TryGetValue(row, out var known) ? known : rows[row] = Row(row);
        return new()
        {
            Rows = [.. report.Rows.Select(Shown)],
            Best = report.Best is { Value: var best } ? Shown(best) : null,
            TextCount = report.Texts,
            DifferentTextCount = report.DifferentTexts,
        };
    }

    public static CertifyResult Certificate(CertifyReport report) =>
        new()
        {
            Tests =
            [
                .. report.Tests.Select(test => new CertifyTest
                {
                    Name = test.Name,
                    CheckCount = test.Checks,
                    ExactCount = test.Exact,
                    TieCount = test.Tie,
                    ViolationCount = test.Violation,
                }),
            ],
            ExactCount = report.Exact,
            TieCount = report.Tie,
            ViolationCount = report.Violation,
            AcceptanceRule = report.Acceptance,
            IsLossless = report.IsLossless,
            Gap = report.Gap,
            WorstGap = report.WorstGap,
        };

    public static EvalOptions Options(IReadOnlyList<string> files, EvaluateOptions options)
    {
        var usual = EvalOptionsModule.ofData(ListModule.OfSeq(files));
        var generation = usual.Generation;
        return new(
            usual.Data,
            ListModule.OfSeq(options.ExitLayers),
            Optional(options.Limit),
            options.Seed,
            Optional(options.Shots),
            Optional(options.ShotsFrom),
            options.NoBos,
            new(options.Documents, Optional(options.Window), Optional(options.MaxChars)),
            new(
                generation.Strategies,
                generation.Exit,
                generation.DraftLength,
                Optional(options.MaxNewTokens),
                generation.Sampling,
                generation.Samples,
                generation.StopIds,
                generation.RunCode,
                generation.Limits));
    }

    /// <summary>What a task has no use for would be ignored in silence.</summary>
    public static IReadOnlyList<LayerSkipError> Unheeded(EvalTask task, EvaluateOptions options)
    {
        (string Name, object? Value)[] given =
        [
            ("shots", options.Shots),
            ("shots-from", options.ShotsFrom),
            ("no-bos", options.NoBos ? true : null),
            ("documents", options.Documents ? true : null),
            ("window", options.Window),
            ("max-chars", options.MaxChars),
            ("max-new-tokens", options.MaxNewTokens),
        ];
        return
        [
            .. from option in given
               where option.Value is not null && !task.Takes.Contains(option.Name)
               select LayerSkipError.NewExcluded(option.Name, $"{option.Value}", "task", task.Name, "it takes no notice of it"),
        ];
    }

    public static EvaluateResult Evaluation(EvalReport report) =>
        new()
        {
            Task = report.Task,
            ItemCount = report.Done,
            Exits = [.. report.Summary.Exits.Select(exit => new EvaluateExit { Layer = exit.Item1, Metrics = Metrics(exit.Item2) })],
            Chance = report.Summary.Chance?.Value,
            Remarks = [.. report.Summary.Remarks],
        };

    public static LayerSkip.ExportFormat Format(ExportFormat format, string output) =>
        format switch
        {
            ExportFormat.HuggingFace => LayerSkip.ExportFormat.HuggingFace,
            ExportFormat.Gguf => LayerSkip.ExportFormat.Gguf,
            ExportFormat.Auto => output.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase)
                ? LayerSkip.ExportFormat.Gguf
                : LayerSkip.ExportFormat.HuggingFace,
            _ => throw Undefined(nameof(ExportOptions.Format), format),
        };

    /// <summary>A mix by its name, where a format holds it and no number format is named beside it.</summary>
    public static GgufMix Mix(string name, Dtype dtype, LayerSkip.ExportFormat format)
    {
        if (dtype != Dtype.Auto)
        {
            throw Translate.Exception(LayerSkipError.NewOutOfRange("mix", name, $"left out with a number format, {dtype}"));
        }

        var mix = GgufMixModule.tryFind(name)?.Value
            ?? throw Translate.Exception(LayerSkipError.NewOutOfRange(
                "mix", name, $"one of {string.Join(", ", GgufMixModule.all.Select(known => known.Name))}"));
        LayerSkip.Export.checkMix(format, mix).OrThrow();
        return mix;
    }

    public static ExportResult Export(ExportReport report) =>
        new()
        {
            Output = report.Output,
            WeightsFormat = report.Dtype,
            LayerCount = report.Layers,
            TensorCount = report.Tensors,
            ByteCount = report.Bytes,
            Remarks = [.. report.Remarks],
        };

    private static SweepRow Row(LayerSkip.SweepRow row) =>
        new()
        {
            Strategy = row.Setting.Name,
            ExitLayer = row.Setting.Exit?.Value,
            DraftLength = row.Setting.DraftLength?.Value,
            MillisecondsPerToken = Estimate(row.MsPerToken),
            TokensPerSecond = Estimate(row.TokensPerSecond),
            SpeedUp = Estimate(row.SpeedUp.OfTimes),
            TimeToFirstToken = TimeSpan.FromMilliseconds(row.TtftMs),
            Statistics = new()
            {
                DraftRoundCount = row.Metrics.NumSpecSteps,
                DraftTokenCount = row.Metrics.NumDraftTokens,
                AcceptedDraftTokenCount = row.Metrics.NumAcceptedDraftTokens,
                DraftAcceptanceRate = row.Metrics.DraftAcceptanceRate,
                MeanAcceptanceLength = row.Metrics.MeanAcceptanceLength,
                AcceptanceHistogram = Array.AsReadOnly(row.Metrics.AcceptanceHistogram),
            },
            PredictedSpeedUp = Translate.Number(row.PredictedSpeedUp),
            BreakEvenAcceptance = Translate.Number(row.BreakEven),
            DifferentTextCount = row.DifferentTexts,
        };

    private static Estimate Estimate(Interval interval) =>
        new() { Value = interval.Value, Low = Translate.Number(interval.Low), High = Translate.Number(interval.High) };

    private static Dictionary<string, Estimate> Metrics(FSharpList<EvalMetric> metrics) =>
        metrics.ToDictionary(
            metric => metric.Name,
            metric => new Estimate
            {
                Value = metric.Value,
                Low = metric.Interval?.Value.Item1,
                High = metric.Interval?.Value.Item2,
            });
}
