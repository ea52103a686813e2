using Microsoft.FSharp.Collections;

namespace LayerSkip.CSharp;

/// <summary>Between the study library's replays and this assembly's.</summary>
internal static class TranslateReplay
{
    public static LayerSkip.ReplayOptions Options(Checkpoint checkpoint, ReplayOptions options)
    {
        var usual = ReplayReportModule.options(checkpoint).OrThrow();
        TraceOptions trace = new(
            options.MaxNewTokens,
            [.. options.StopTokenIds ?? (options.IgnoreEos ? [] : checkpoint.StopIds)],
            usual.Trace.PromptRows);
        return new(
            trace,
            options.ExitLayers is { } exits ? ListModule.OfSeq(exits.Distinct()) : usual.Exits,
            options.DraftLengths is { } lengths ? ListModule.OfSeq(lengths.Distinct()) : usual.Lengths,
            usual.Start,
            options.TimingBudget.TotalMilliseconds);
    }

    public static ReplayResult Result(Checkpoint checkpoint, ReplayReport report) =>
        new()
        {
            PromptIds = Array.AsReadOnly(report.Trace.Prompt),
            TokenIds = Array.AsReadOnly(report.Trace.TokenIds),
            Text = checkpoint.Tokenizer is { Value: var tokenizer }
                ? TokenizerModule.decodeContinuing(false, tokenizer, report.Trace.TokenIds)
                : null,
            FinishReason = report.Trace.Stopped ? FinishReason.Stop : FinishReason.Length,
            IsExact = ReplayReportModule.isExact(checkpoint.Weights),
            Grid = [.. report.Grid.Select(Point)],
            Best = report.Best is { Value: var best } ? Point(best) : null,
            Policies = [.. report.Policies.Select(Policy)],
            Times = report.Times is { Value: var times } ? Times(times) : null,
            Positions = [.. report.Trace.Rows.Select(Position)],
            PromptPositions = [.. report.Trace.PromptRows.Select(Position)],
        };

    private static ReplayPoint Point(LayerSkip.ReplayPoint point) =>
        new()
        {
            ExitLayer = point.Exit,
            DraftLength = point.DraftLength,
            Statistics = Translate.Statistics(point.Stats),
            MillisecondsPerToken = Translate.Number(point.MsPerToken),
            SpeedUp = Translate.Number(point.Ratio),
        };

    private static ReplayPolicy Policy(PolicyPoint policy) =>
        new()
        {
            Name = policy.Name,
            Statistics = Translate.Statistics(policy.Stats),
            DraftTokenCountAtLeast = policy.DraftedAtLeast,
            MeanExitLayer = Translate.Number(policy.MeanExit),
            MeanDraftLength = Translate.Number(policy.MeanLength),
            MillisecondsPerToken = Translate.Number(policy.MsPerToken),
            SpeedUp = Translate.Number(policy.Ratio),
            OracleRegret = Translate.Number(policy.OracleRegret),
            StaticRegret = Translate.Number(policy.StaticRegret),
            Rounds =
            [
                .. policy.Rounds.Select(round => new ReplayRound
                {
                    ExitLayer = round.Plan.Exit.Layers,
                    Drafted = round.Drafted,
                    DraftedAtLeast = round.DraftedAtLeast,
                    Accepted = round.Accepted,
                }),
            ],
        };

    private static ReplayTimes Times(LayerSkip.RoundTimes times) =>
        new()
        {
            Plain = TimeSpan.FromMilliseconds(times.PlainMs),
            ContextLength = times.Context,
            SampleCount = times.Samples,
            Rounds =
            [
                .. times.Rounds.Select(round => new ReplayRoundTime
                {
                    ExitLayer = round.Exit,
                    Drafted = round.Drafted,
                    Round = TimeSpan.FromMilliseconds(round.RoundMs),
                    Draft = TimeSpan.FromMilliseconds(round.DraftMs),
                    Verify = TimeSpan.FromMilliseconds(round.VerifyMs),
                }),
            ],
        };

    private static ReplayPosition Position(JudgedRow row) =>
        new() { Token = row.Token, Choices = Array.AsReadOnly(row.Choices), Probabilities = Array.AsReadOnly(row.Confidences) };
}
