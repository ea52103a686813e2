namespace LayerSkip.CSharp;

/// <summary>Between the F# library's lens report and this assembly's.</summary>
internal static class TranslateLens
{
    public static LensResult Result(LensReport report) =>
        new()
        {
            Tokens = [.. report.Tokens.Select(id => Token(report, id))],
            FinalTokens = [.. report.Exits[^1].Rows.Select(row => Token(report, row.Final.Id))],
            SettledLayers = Array.AsReadOnly(report.Settled),
            Exits = [.. report.Exits.Select(exit => Exit(report, exit))],
            ExitLogits = report.ExitLogits is { Value: var logits }
                ? [.. logits.Select(row => (IReadOnlyList<double>)Array.AsReadOnly(row))]
                : null,
        };

    private static LensToken Token(LensReport report, int id) => new() { Id = id, Text = report.Texts.TryFind(id)?.Value };

    private static LensExit Exit(LensReport report, LayerSkip.LensExit exit) =>
        new()
        {
            Layer = exit.Layer,
            Positions = [.. exit.Rows.Select(row => Position(report, row))],
            Agreement = exit.Agreement,
            MeanKl = exit.MeanKl,
            MeanEntropy = exit.MeanEntropy,
            CrossEntropy = exit.CrossEntropy?.Value,
        };

    private static LensPosition Position(LensReport report, ComparedRow row) =>
        new()
        {
            Top = [.. row.Row.Top.Select(top => new LensCandidate { Token = Token(report, top.Id), Probability = top.Probability })],
            Entropy = row.Row.Entropy,
            Kl = row.Kl,
            Final = Reading(row.Final),
            Next = row.Row.Targets is [var next] ? Reading(next) : null,
        };

    private static LensReading Reading(TokenReading reading) => new() { LogProbability = reading.LogProbability, Rank = reading.Rank };
}
