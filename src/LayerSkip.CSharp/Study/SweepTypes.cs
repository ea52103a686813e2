using System.Text;

namespace LayerSkip.CSharp;

/// <summary>What a sweep decodes, and how often. The defaults are those of the command line.</summary>
public sealed record SweepOptions
{
    /// <summary>Texts to continue; none: the sweep's own.</summary>
    public IReadOnlyList<string> Prompts { get; init; } = [];

    /// <summary>The exit layers; none: 1, 2, 3, 4, 6, 8, 12.. of the model's, and the one that it recommends.</summary>
    public IReadOnlyList<int> ExitLayers { get; init; } = [];

    /// <summary>The draft lengths; none: 1, 2, 3, 4, 6 and 8.</summary>
    public IReadOnlyList<int> DraftLengths { get; init; } = [];

    /// <summary>New tokens of each text, 2 or more; the context may end it sooner.</summary>
    public int MaxNewTokens { get; init; } = SweepOptionsModule.defaults.MaxNewTokens;

    /// <summary>How often each prompt is decoded in every way.</summary>
    public int Runs { get; init; } = SweepOptionsModule.defaults.Runs;

    /// <summary>Whether texts end at the model's stop tokens; otherwise every text is as long as it may be, so that no way gains by short ones.</summary>
    public bool StopsAtEos { get; init; }

    /// <summary>Of the sweep's own prompts, where there is no tokenizer.</summary>
    public long Seed { get; init; } = SweepOptionsModule.defaults.Seed;

    /// <summary>The file of the run, in JSON lines, with which a sweep that was ended goes on; null: none.</summary>
    public string? RunFile { get; init; }

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>How far a sweep or an evaluation is.</summary>
public sealed record StudyProgress
{
    /// <summary>The parts that are done: a prompt in every way, an item.</summary>
    public int Done { get; init; }

    /// <summary>All parts.</summary>
    public int Total { get; init; }
}

/// <summary>What a sweep came to.</summary>
public sealed record SweepResult
{
    /// <summary>Autoregressive decoding first, then lookup, then exits, each over the draft lengths.</summary>
    public required IReadOnlyList<SweepRow> Rows { get; init; }

    /// <summary>The row of the largest speed-up, if any that drafts is faster than plain decoding; else null.</summary>
    public SweepRow? Best { get; init; }

    /// <summary>Texts that were written.</summary>
    public int TextCount { get; init; }

    /// <summary>Texts that were not plain decoding's. None may be.</summary>
    public int DifferentTextCount { get; init; }

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>What one way of decoding came to.</summary>
public sealed record SweepRow
{
    /// <summary>"autoregressive", "prompt-lookup", "self-speculative".</summary>
    public required string Strategy { get; init; }

    /// <summary>The layer that drafts leave after; null where no layers draft.</summary>
    public int? ExitLayer { get; init; }

    /// <summary>The most drafts of a round; null where nothing drafts.</summary>
    public int? DraftLength { get; init; }

    /// <summary>The median over the texts.</summary>
    public Estimate MillisecondsPerToken { get; init; }

    /// <summary>The mean of the texts' rates.</summary>
    public Estimate TokensPerSecond { get; init; }

    /// <summary>The mean time of plain decoding of the same texts over this one's; above 1 is faster.</summary>
    public Estimate SpeedUp { get; init; }

    /// <summary>The median.</summary>
    public TimeSpan TimeToFirstToken { get; init; }

    /// <summary>What speculation did over all texts; rounds one by one are not kept.</summary>
    public SpeculationStatistics Statistics { get; init; } = SpeculationStatistics.None;

    /// <summary>What the cost model says of the same rounds; null where it knows no costs.</summary>
    public double? PredictedSpeedUp { get; init; }

    /// <summary>The share of drafts that must be right for the exit to be worth it at some draft length; null where no layers draft.</summary>
    public double? BreakEvenAcceptance { get; init; }

    /// <summary>Texts that were not plain decoding's. None may be.</summary>
    public int DifferentTextCount { get; init; }
}

/// <summary>A measured number, and the bounds between which 95 of a hundred such measurements have it.</summary>
public readonly record struct Estimate
{
    /// <summary>The number; NaN where there is none.</summary>
    public double Value { get; init; }

    /// <summary>The lower bound; null where one sample says nothing of it.</summary>
    public double? Low { get; init; }

    /// <summary>The upper bound; null where one sample says nothing of it.</summary>
    public double? High { get; init; }
}
