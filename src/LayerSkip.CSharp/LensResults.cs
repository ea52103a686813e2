using System.Text;

namespace LayerSkip.CSharp;

/// <summary>What every layer would say at every position of a text. Layers and ranks count from 1, positions from 0.</summary>
public sealed record LensResult
{
    /// <summary>The text, a token for each position.</summary>
    public required IReadOnlyList<LensToken> Tokens { get; init; }

    /// <summary>What the last layer says after each position: greedy decoding's next token.</summary>
    public required IReadOnlyList<LensToken> FinalTokens { get; init; }

    /// <summary>
    /// By position, the first layer from which on every layer's choice is the last one's; the model's last where it changes the answer.
    /// </summary>
    public IReadOnlyList<int> SettledLayers { get; init; } = [];

    /// <summary>The layers that were asked for, in order of depth.</summary>
    public required IReadOnlyList<LensExit> Exits { get; init; }

    /// <summary>By layer and id, at the last position; null where they were not asked for.</summary>
    public IReadOnlyList<IReadOnlyList<double>>? ExitLogits { get; init; }

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>A token.</summary>
public readonly record struct LensToken
{
    /// <summary>Its id.</summary>
    public int Id { get; init; }

    /// <summary>Its text with its spaces, or as the vocabulary spells it where it is a part of a character; null without a tokenizer.</summary>
    public string? Text { get; init; }
}

/// <summary>What one exit says along a text. Means are over positions, in nats.</summary>
public sealed record LensExit
{
    /// <summary>The layer after which it is.</summary>
    public int Layer { get; init; }

    /// <summary>What it says at each position.</summary>
    public required IReadOnlyList<LensPosition> Positions { get; init; }

    /// <summary>The share of positions where its choice is the last layer's: of what it would draft, what would be accepted.</summary>
    public double Agreement { get; init; }

    /// <summary>Mean of KL(last layer || exit).</summary>
    public double MeanKl { get; init; }

    /// <summary>Mean entropy.</summary>
    public double MeanEntropy { get; init; }

    /// <summary>Mean of -ln p of the text's next tokens; null for a text of one token.</summary>
    public double? CrossEntropy { get; init; }

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>What an exit says at a position.</summary>
public sealed record LensPosition
{
    /// <summary>The most probable tokens, the most probable first.</summary>
    public required IReadOnlyList<LensCandidate> Top { get; init; }

    /// <summary>Of its law, in nats.</summary>
    public double Entropy { get; init; }

    /// <summary>KL(last layer || exit), in nats: what is lost by taking the exit's law for the model's.</summary>
    public double Kl { get; init; }

    /// <summary>What it makes of the token that the last layer chooses.</summary>
    public LensReading Final { get; init; }

    /// <summary>What it makes of the text's next token; null at the last position.</summary>
    public LensReading? Next { get; init; }

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>A token that an exit proposes.</summary>
public readonly record struct LensCandidate
{
    /// <summary>The token.</summary>
    public LensToken Token { get; init; }

    /// <summary>Its probability.</summary>
    public double Probability { get; init; }
}

/// <summary>What an exit makes of a token.</summary>
public readonly record struct LensReading
{
    /// <summary>ln of its probability.</summary>
    public double LogProbability { get; init; }

    /// <summary>1 for the exit's own choice, and one more for each token that it would take before this one.</summary>
    public int Rank { get; init; }
}
