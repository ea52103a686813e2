using System.Text;

namespace LayerSkip.CSharp;

/// <summary>What is replayed. The defaults are those of the command line.</summary>
public sealed record ReplayOptions
{
    /// <summary>The exit layers, 1 to L - 1 of the model's L; null: all.</summary>
    public IReadOnlyList<int>? ExitLayers { get; init; }

    /// <summary>The draft lengths, each 1 or more; null: 1 to 8.</summary>
    public IReadOnlyList<int>? DraftLengths { get; init; }

    /// <summary>The most new tokens, 1 or more; the context may end the text sooner.</summary>
    public int MaxNewTokens { get; init; } = TraceModule.options.MaxNewTokens;

    /// <summary>Tokens that end the text; null is the model's own.</summary>
    public IReadOnlyList<int>? StopTokenIds { get; init; }

    /// <summary>Writes on past the model's own stop tokens; those of <see cref="StopTokenIds"/> still end the text.</summary>
    public bool IgnoreEos { get; init; }

    /// <summary>For the timing of rounds; every kind has four turns whatever they take.</summary>
    public TimeSpan TimingBudget { get; init; } = TimeSpan.FromMilliseconds(RoundTimesModule.budgetMs);

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>
/// What every exit layer, draft length and policy would have done with a text, read from one greedy decoding by every layer. Accepted drafts
/// are exact, milliseconds are predicted.
/// </summary>
public sealed record ReplayResult
{
    /// <summary>The tokens of the prompt.</summary>
    public required IReadOnlyList<int> PromptIds { get; init; }

    /// <summary>The new tokens, without a stop token.</summary>
    public required IReadOnlyList<int> TokenIds { get; init; }

    /// <summary>Their text; null without a tokenizer.</summary>
    public string? Text { get; init; }

    /// <summary>Why the text ended.</summary>
    public FinishReason FinishReason { get; init; }

    /// <summary>
    /// Whether accepted drafts are those of live decoding to the bit. Where libtorch computes, a row may depend on the rows beside it, and near
    /// ties may be decided otherwise than live.
    /// </summary>
    public bool IsExact { get; init; }

    /// <summary>Every exit layer over the draft lengths.</summary>
    public IReadOnlyList<ReplayPoint> Grid { get; init; } = [];

    /// <summary>Of the grid the fastest; null where nothing could be timed.</summary>
    public ReplayPoint? Best { get; init; }

    /// <summary>The oracle, which knows the text, first; then the policies. None where nothing could be timed.</summary>
    public IReadOnlyList<ReplayPolicy> Policies { get; init; } = [];

    /// <summary>The times that predictions rest on; null where the context leaves no room for timing.</summary>
    public ReplayTimes? Times { get; init; }

    /// <summary>What every layer would have said after each new token but the last.</summary>
    public IReadOnlyList<ReplayPosition> Positions { get; init; } = [];

    /// <summary>The same of the prompt's last positions.</summary>
    public IReadOnlyList<ReplayPosition> PromptPositions { get; init; } = [];

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>What a fixed exit layer and draft length come to.</summary>
public sealed record ReplayPoint
{
    /// <summary>The layer that drafts leave after.</summary>
    public int ExitLayer { get; init; }

    /// <summary>The most drafts of a round.</summary>
    public int DraftLength { get; init; }

    /// <summary>What speculation would have done. Where a stop token may have ended a wrong draft unseen, drafted tokens are the most.</summary>
    public SpeculationStatistics Statistics { get; init; } = SpeculationStatistics.None;

    /// <summary>Predicted; null where nothing was timed.</summary>
    public double? MillisecondsPerToken { get; init; }

    /// <summary>How many times as fast as plain decoding, predicted; null where nothing was timed.</summary>
    public double? SpeedUp { get; init; }
}

/// <summary>What a policy comes to.</summary>
public sealed record ReplayPolicy
{
    /// <summary>"oracle", "fixed 2,3", "del", ...</summary>
    public required string Name { get; init; }

    /// <summary>What speculation would have done; drafted tokens are the most.</summary>
    public SpeculationStatistics Statistics { get; init; } = SpeculationStatistics.None;

    /// <summary>The fewest tokens that were drafted, where drafts after a wrong one cannot be known.</summary>
    public int DraftTokenCountAtLeast { get; init; }

    /// <summary>Over the rounds that draft; null without one.</summary>
    public double? MeanExitLayer { get; init; }

    /// <summary>Over the rounds that draft; null without one.</summary>
    public double? MeanDraftLength { get; init; }

    /// <summary>Predicted.</summary>
    public double? MillisecondsPerToken { get; init; }

    /// <summary>How many times as fast as plain decoding, predicted.</summary>
    public double? SpeedUp { get; init; }

    /// <summary>How much longer it takes than the oracle, as a share of its time: 0.1 is a tenth more.</summary>
    public double? OracleRegret { get; init; }

    /// <summary>How much longer it takes than the best of the grid, as a share of its time.</summary>
    public double? StaticRegret { get; init; }

    /// <summary>Every round in order.</summary>
    public IReadOnlyList<ReplayRound> Rounds { get; init; } = [];

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>A round of a policy.</summary>
public readonly record struct ReplayRound
{
    /// <summary>The layer that its drafts leave after.</summary>
    public int ExitLayer { get; init; }

    /// <summary>Tokens drafted, at most; 0 is a plain step.</summary>
    public int Drafted { get; init; }

    /// <summary>Tokens drafted, at least.</summary>
    public int DraftedAtLeast { get; init; }

    /// <summary>Drafted tokens that are kept.</summary>
    public int Accepted { get; init; }
}

/// <summary>A model's rounds on this machine, timed as decoding runs them.</summary>
public sealed record ReplayTimes
{
    /// <summary>A token of plain decoding.</summary>
    public TimeSpan Plain { get; init; }

    /// <summary>Positions before the first timed round.</summary>
    public int ContextLength { get; init; }

    /// <summary>Rounds of each kind that were timed, at least.</summary>
    public int SampleCount { get; init; }

    /// <summary>The kinds.</summary>
    public IReadOnlyList<ReplayRoundTime> Rounds { get; init; } = [];

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>What rounds of an exit layer and so many drafts take: medians.</summary>
public readonly record struct ReplayRoundTime
{
    /// <summary>The layer that drafts leave after.</summary>
    public int ExitLayer { get; init; }

    /// <summary>Tokens drafted.</summary>
    public int Drafted { get; init; }

    /// <summary>The whole round.</summary>
    public TimeSpan Round { get; init; }

    /// <summary>Of that, in drafting.</summary>
    public TimeSpan Draft { get; init; }

    /// <summary>Of that, in the whole model's pass.</summary>
    public TimeSpan Verify { get; init; }
}

/// <summary>What every layer says at a position.</summary>
public sealed record ReplayPosition
{
    /// <summary>The whole model's token.</summary>
    public int Token { get; init; }

    /// <summary>After each layer, the first one first, the token that the shared head prefers.</summary>
    public IReadOnlyList<int> Choices { get; init; } = [];

    /// <summary>Their probabilities.</summary>
    public IReadOnlyList<double> Probabilities { get; init; } = [];

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}
