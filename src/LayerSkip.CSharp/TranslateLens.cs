using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

/// <summary>Between the F# library's lens report and this assembly's.</summary>
internal static class TranslateLens
{
    public static LensResult Result(LensReport report) =>
        new(
            [.. report.Tokens.Select(id => Token(report, id))],
            [.. report.Exits[^1].Rows.Select(row => Token(report, row.Final.Id))],
            Array.AsReadOnly(report.Settled),
            [.. report.Exits.Select(exit => Exit(report, exit))],
            report.ExitLogits is { Value: var logits } ? [.. logits.Select(row => (IReadOnlyList<double>)Array.AsReadOnly(row))] : null);

    private static LensToken Token(LensReport report, int id) => new(id, report.Texts.TryFind(id)?.Value);

    private static LensExit Exit(LensReport report, LayerSkip.LensExit exit) =>
        new(
            exit.Layer,
            [.. exit.Rows.Select(row => Position(report, row))],
            exit.Agreement,
            exit.MeanKl,
            exit.MeanEntropy,
            exit.CrossEntropy?.Value);

    private static LensPosition Position(LensReport report, ComparedRow row) =>
        new(
            [.. row.Row.Top.Select(top => new LensCandidate(Token(report, top.Id), top.Probability))],
            row.Row.Entropy,
            row.Kl,
            Reading(row.Final),
            row.Row.Targets is [var next] ? Reading(next) : null);

    private static LensReading Reading(TokenReading reading) => new(reading.LogProbability, reading.Rank);
}
