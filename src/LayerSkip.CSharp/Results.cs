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
/// <param name="Id">The token; null at the last step, which brings text held back until then, and the result.</param>
/// <param name="Text">The text that is certain now; empty without a tokenizer.</param>
/// <param name="Origin">Where the token comes from; null at the last step.</param>
/// <param name="Result">The whole result at the last step; null before.</param>
public sealed record GeneratedToken(int? Id, string Text, TokenOrigin? Origin, GenerateResult? Result);

/// <summary>A finished text.</summary>
/// <param name="PromptIds">The tokens of the prompt.</param>
/// <param name="TokenIds">
/// The new tokens, without a stop token. After a stop text they are the tokens up to the one that completed it, so they decode to
/// more than <paramref name="Text"/>: to the stop text too, and to what else its last token holds.
/// </param>
/// <param name="Text">The text of the new tokens, up to a stop text; null without a tokenizer.</param>
/// <param name="FinishReason">Why the text ended.</param>
/// <param name="Statistics">What speculation did.</param>
/// <param name="Timings">How long it took.</param>
public sealed record GenerateResult(
    IReadOnlyList<int> PromptIds,
    IReadOnlyList<int> TokenIds,
    string? Text,
    FinishReason FinishReason,
    SpeculationStatistics Statistics,
    GenerateTimings Timings);

/// <summary>What speculation did, in vLLM's names.</summary>
/// <param name="NumSpecSteps">Rounds that drafted.</param>
/// <param name="NumDraftTokens">Tokens drafted.</param>
/// <param name="NumAcceptedDraftTokens">Drafted tokens that the whole model kept.</param>
/// <param name="DraftAcceptanceRate">Accepted over drafted; 0 where nothing was drafted.</param>
/// <param name="MeanAcceptanceLength">The tokens that a drafting round yields: 1 + accepted over rounds; 0 where there was none.</param>
/// <param name="AcceptanceHistogram">At j, how many drafting rounds kept exactly j drafts.</param>
/// <param name="Rounds">Every round in order.</param>
/// <param name="Sources">By whose drafts they were, the one of most rounds first.</param>
public sealed record SpeculationStatistics(
    int NumSpecSteps,
    int NumDraftTokens,
    int NumAcceptedDraftTokens,
    double DraftAcceptanceRate,
    double MeanAcceptanceLength,
    IReadOnlyList<int> AcceptanceHistogram,
    IReadOnlyList<SpeculationRound> Rounds,
    IReadOnlyList<DraftSourceStatistics> Sources);

/// <summary>What one source's drafts came to.</summary>
/// <param name="Source">"exit", "lookup", "adapter", "layers".</param>
/// <param name="Rounds">Rounds with a draft of its.</param>
/// <param name="DraftTokens">Tokens that it drafted.</param>
/// <param name="AcceptedDraftTokens">Those that the whole model kept.</param>
/// <param name="MeanExitLayer">The mean exit layer of its drafts; 0 where they have none.</param>
public sealed record DraftSourceStatistics(
    string Source, int Rounds, int DraftTokens, int AcceptedDraftTokens, double MeanExitLayer);

/// <summary>One round: what it drafted and what was kept; 0 and 0 is a plain step.</summary>
/// <param name="Drafted">Tokens drafted.</param>
/// <param name="Accepted">Drafted tokens that were kept.</param>
public readonly record struct SpeculationRound(int Drafted, int Accepted);

/// <summary>Times of computing; what a caller does between the steps of a stream does not count.</summary>
/// <param name="TimeToFirstToken">From the loaded model to the first token.</param>
/// <param name="Decode">From the first token to the last.</param>
/// <param name="Draft">Of <paramref name="Decode"/>, in drafting.</param>
/// <param name="Verify">Of <paramref name="Decode"/>, in the whole model's passes.</param>
/// <param name="Policy">Of <paramref name="Decode"/>, in deciding what to draft and learning from what came of it.</param>
/// <param name="TokensPerSecond">New tokens after the first over <paramref name="Decode"/>; 0 where there are none.</param>
public sealed record GenerateTimings(
    TimeSpan TimeToFirstToken,
    TimeSpan Decode,
    TimeSpan Draft,
    TimeSpan Verify,
    TimeSpan Policy,
    double TokensPerSecond);
