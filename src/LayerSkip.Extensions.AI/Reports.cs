using LayerSkip.CSharp;
using Microsoft.Extensions.AI;

namespace LayerSkip.Extensions.AI;

/// <summary>What a response says of its generation; numbers alone, so that caches can keep it as JSON.</summary>
internal static class Reports
{
    public static UsageDetails Usage(GenerateResult result) => new()
    {
        InputTokenCount = result.PromptIds.Count,
        OutputTokenCount = result.TokenIds.Count,
        TotalTokenCount = result.PromptIds.Count + result.TokenIds.Count,
        AdditionalCounts = new()
        {
            ["drafted_tokens"] = result.Statistics.DraftTokenCount,
            ["accepted_tokens"] = result.Statistics.AcceptedDraftTokenCount,
        },
    };

    public static AdditionalPropertiesDictionary Statistics(GenerateResult result) => new()
    {
        ["draft_rounds"] = result.Statistics.DraftRoundCount,
        ["draft_acceptance_rate"] = result.Statistics.DraftAcceptanceRate,
        ["mean_acceptance_length"] = result.Statistics.MeanAcceptanceLength,
        ["time_to_first_token_ms"] = result.Timings.TimeToFirstToken.TotalMilliseconds,
        ["tokens_per_second"] = result.Timings.TokensPerSecond,
    };
}
