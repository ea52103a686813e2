using System.Text;

namespace LayerSkip.CSharp;

/// <summary>What a certificate of exactness decodes.</summary>
public sealed record CertifyOptions
{
    /// <summary>Texts to continue; none: the certificate's own.</summary>
    public IReadOnlyList<string> Prompts { get; init; } = [];

    /// <summary>The exit layers; none: all of a small model, some of a deep one.</summary>
    public IReadOnlyList<int> ExitLayers { get; init; } = [];

    /// <summary>The draft lengths; none: 1, 2, 4 and 8 on a model of up to 6 layers, else 1 and 4.</summary>
    public IReadOnlyList<int> DraftLengths { get; init; } = [];

    /// <summary>Which drafts are kept; null is <see cref="AcceptanceRule.Exact"/>. One that is not lossless has no certificate.</summary>
    public AcceptanceRule? Acceptance { get; init; }

    /// <summary>New tokens of each text, 1 or more.</summary>
    public int MaxNewTokens { get; init; } = Certify.options.MaxNewTokens;

    /// <summary>Of the sampled texts.</summary>
    public long Seed { get; init; } = Certify.options.Seed;

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>Whether what is decoded early is what the whole model decodes.</summary>
public sealed record CertifyResult
{
    /// <summary>Whether no check found another token than the whole model's, and the rule of acceptance sees to that in every text.</summary>
    public bool IsExact => ViolationCount == 0 && IsLossless;

    /// <summary>The rule of acceptance, as <see cref="AcceptanceRule"/> names it: "exact", "lossy top-k:2".</summary>
    public string AcceptanceRule { get; init; } = CSharp.AcceptanceRule.Exact.ToString();

    /// <summary>Whether that rule is lossless.</summary>
    public bool IsLossless { get; init; } = true;

    /// <summary>
    /// T1: texts are equal; T2: each token is the whole model's choice; T3: it is decided by logits of the same bits; T4: sampling keeps its
    /// law; T5: the cache is that of a fresh reading.
    /// </summary>
    public required IReadOnlyList<CertifyTest> Tests { get; init; }

    /// <summary>Findings that are exact.</summary>
    public int ExactCount { get; init; }

    /// <summary>Not the largest logit, but within the gap of it.</summary>
    public int TieCount { get; init; }

    /// <summary>Neither.</summary>
    public int ViolationCount { get; init; }

    /// <summary>The share of a row's largest logit within which a token is a tie.</summary>
    public double Gap { get; init; }

    /// <summary>The largest gap seen, as such a share.</summary>
    public double WorstGap { get; init; }

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>The findings of one test, counted.</summary>
public sealed record CertifyTest
{
    /// <summary>"T1" to "T5".</summary>
    public required string Name { get; init; }

    /// <summary>How many findings there are.</summary>
    public int CheckCount { get; init; }

    /// <summary>Findings that are exact.</summary>
    public int ExactCount { get; init; }

    /// <summary>Not the largest logit, but within the gap of it.</summary>
    public int TieCount { get; init; }

    /// <summary>Neither.</summary>
    public int ViolationCount { get; init; }
}
