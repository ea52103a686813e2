using System.Text;

namespace LayerSkip.CSharp;

/// <summary>Where a token comes from.</summary>
public enum TokenOrigin
{
    /// <summary>The first one, from the pass over the prompt.</summary>
    Prefill,

    /// <summary>A step without a draft.</summary>
    Plain,

    /// <summary>Drafted by layers, and kept.</summary>
    Drafted,

    /// <summary>The whole model's, in place of a draft that it refused.</summary>
    Corrected,

    /// <summary>The whole model's, after a draft that it kept entirely.</summary>
    Bonus,

    /// <summary>Drafted by lookup in the text, and kept.</summary>
    LookedUp,
}

/// <summary>Why a text ended.</summary>
public enum FinishReason
{
    /// <summary>A stop token or a stop text.</summary>
    Stop,

    /// <summary>The limit of new tokens, or the end of the context.</summary>
    Length,
}

/// <summary>
/// One step of a stream: a token and the text that it makes certain, which may be empty or that of earlier tokens.
/// The texts of all steps together are the text of the result, the tokens are its tokens: those that spell a stop text are steps,
/// with the text before it.
/// </summary>
public sealed record GeneratedToken
{
    /// <summary>The token; null at the last step, which brings text held back until then, and the result.</summary>
    public int? Id { get; init; }

    /// <summary>The text that is certain now; empty without a tokenizer.</summary>
    public string Text { get; init; } = "";

    /// <summary>Where the token comes from; null at the last step.</summary>
    public TokenOrigin? Origin { get; init; }

    /// <summary>What the model's own law says of the token; null where it was not asked for, and at the last step.</summary>
    public TokenLogProbs? LogProbs { get; init; }

    /// <summary>The whole result at the last step; null before.</summary>
    public GenerateResult? Result { get; init; }
}

/// <summary>What the model's own law says of a token and of the likeliest in its place, before rules, temperature and filters.</summary>
public sealed record TokenLogProbs
{
    /// <summary>ln of the token's probability.</summary>
    public double LogProb { get; init; }

    /// <summary>The likeliest tokens, as many as were asked for, the likeliest first.</summary>
    public IReadOnlyList<TokenLogProb> Top { get; init; } = [];

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>A token and its probability.</summary>
public readonly record struct TokenLogProb
{
    /// <summary>The token.</summary>
    public int Id { get; init; }

    /// <summary>ln of its probability.</summary>
    public double LogProb { get; init; }
}

/// <summary>A finished text.</summary>
public sealed record GenerateResult
{
    /// <summary>The tokens of the prompt.</summary>
    public required IReadOnlyList<int> PromptIds { get; init; }

    /// <summary>
    /// The new tokens, without a stop token. After a stop text they are the tokens up to the one that completed it, so they decode to
    /// more than <see cref="Text"/>: to the stop text too, and to what else its last token holds.
    /// </summary>
    public required IReadOnlyList<int> TokenIds { get; init; }

    /// <summary>The text of the new tokens, up to a stop text; null without a tokenizer.</summary>
    public string? Text { get; init; }

    /// <summary>Of each new token, where they were asked for; else none.</summary>
    public IReadOnlyList<TokenLogProbs> LogProbs { get; init; } = [];

    /// <summary>Of each token of the prompt, null of the first, where they were asked for; else none.</summary>
    public IReadOnlyList<TokenLogProbs?> PromptLogProbs { get; init; } = [];

    /// <summary>Tokens of the prompt that need not be read, as a cache that another text left had them.</summary>
    public int ReusedTokenCount { get; init; }

    /// <summary>Why the text ended.</summary>
    public FinishReason FinishReason { get; init; }

    /// <summary>
    /// Whether the text is the whole model's (of a sampled text its law): it is not of <see cref="Strategy.EarlyExit"/>, nor under an
    /// <see cref="AcceptanceRule"/> that is not lossless.
    /// </summary>
    public bool IsLossless { get; init; } = true;

    /// <summary>What speculation did.</summary>
    public SpeculationStatistics Statistics { get; init; } = SpeculationStatistics.None;

    /// <summary>How long it took.</summary>
    public GenerateTimings Timings { get; init; } = new();

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>What speculation did.</summary>
public sealed record SpeculationStatistics
{
    /// <summary>Rounds that drafted.</summary>
    public int DraftRoundCount { get; init; }

    /// <summary>Tokens drafted.</summary>
    public int DraftTokenCount { get; init; }

    /// <summary>Drafted tokens that the whole model kept.</summary>
    public int AcceptedDraftTokenCount { get; init; }

    /// <summary>The rule of acceptance, as <see cref="AcceptanceRule"/> names it: "exact", "lossy top-k:2".</summary>
    public string AcceptanceRule { get; init; } = CSharp.AcceptanceRule.Exact.ToString();

    /// <summary>Of the kept ones, those that <see cref="AcceptanceRule.Exact"/> would have refused; 0 under a rule that is lossless.</summary>
    public int LooseDraftTokenCount { get; init; }

    /// <summary>Accepted over drafted; 0 where nothing was drafted.</summary>
    public double DraftAcceptanceRate { get; init; }

    /// <summary>The tokens that a drafting round yields: 1 + accepted over rounds; 0 where there was none.</summary>
    public double MeanAcceptanceLength { get; init; }

    /// <summary>At j, how many drafting rounds kept exactly j drafts.</summary>
    public IReadOnlyList<int> AcceptanceHistogram { get; init; } = [];

    /// <summary>Every round in order.</summary>
    public IReadOnlyList<SpeculationRound> Rounds { get; init; } = [];

    /// <summary>By whose drafts they were, the one of most rounds first.</summary>
    public IReadOnlyList<DraftSourceStatistics> Sources { get; init; } = [];

    /// <summary>Where nothing was drafted.</summary>
    internal static SpeculationStatistics None { get; } = new();

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>What one source's drafts came to.</summary>
public sealed record DraftSourceStatistics
{
    /// <summary>"exit", "lookup", "past" (looked up in an earlier text), "adapter", "layers"; "drafter" of <see cref="Drafter.From"/>.</summary>
    public required string Source { get; init; }

    /// <summary>Rounds with a draft of its.</summary>
    public int RoundCount { get; init; }

    /// <summary>Tokens that it drafted.</summary>
    public int DraftTokenCount { get; init; }

    /// <summary>Those that the whole model kept.</summary>
    public int AcceptedDraftTokenCount { get; init; }

    /// <summary>The mean exit layer of its drafts; null where they have none.</summary>
    public double? MeanExitLayer { get; init; }
}

/// <summary>One round: what it drafted and what was kept; 0 and 0 is a plain step.</summary>
public readonly record struct SpeculationRound
{
    /// <summary>Tokens drafted.</summary>
    public int Drafted { get; init; }

    /// <summary>Drafted tokens that were kept.</summary>
    public int Accepted { get; init; }
}

/// <summary>Times of computing; what a caller does between the steps of a stream does not count.</summary>
public sealed record GenerateTimings
{
    /// <summary>From the loaded model to the first token.</summary>
    public TimeSpan TimeToFirstToken { get; init; }

    /// <summary>From the first token to the last.</summary>
    public TimeSpan Decode { get; init; }

    /// <summary>Of <see cref="Decode"/>, in drafting.</summary>
    public TimeSpan Draft { get; init; }

    /// <summary>Of <see cref="Decode"/>, in the whole model's passes.</summary>
    public TimeSpan Verify { get; init; }

    /// <summary>Of <see cref="Decode"/>, in deciding what to draft and learning from what came of it.</summary>
    public TimeSpan Policy { get; init; }

    /// <summary>New tokens after the first over <see cref="Decode"/>; 0 where there are none.</summary>
    public double TokensPerSecond { get; init; }
}
