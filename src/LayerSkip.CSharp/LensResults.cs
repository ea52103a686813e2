namespace LayerSkip.CSharp;

/// <summary>What every layer would say at every position of a text. Layers and ranks count from 1, positions from 0.</summary>
/// <param name="Tokens">The text, a token for each position.</param>
/// <param name="FinalTokens">What the last layer says after each position: greedy decoding's next token.</param>
/// <param name="SettledLayers">
/// By position, the first layer from which on every layer's choice is the last one's; the model's last where it changes the answer.
/// </param>
/// <param name="Exits">The layers that were asked for, in order of depth.</param>
/// <param name="ExitLogits">By layer and id, at the last position; null where they were not asked for.</param>
public sealed record LensResult(
    IReadOnlyList<LensToken> Tokens,
    IReadOnlyList<LensToken> FinalTokens,
    IReadOnlyList<int> SettledLayers,
    IReadOnlyList<LensExit> Exits,
    IReadOnlyList<IReadOnlyList<double>>? ExitLogits);

/// <summary>A token.</summary>
/// <param name="Id">Its id.</param>
/// <param name="Text">Its text with its spaces, or as the vocabulary spells it where it is a part of a character; null without a tokenizer.</param>
public readonly record struct LensToken(int Id, string? Text);

/// <summary>What one exit says along a text. Means are over positions, in nats.</summary>
/// <param name="Layer">The layer after which it is.</param>
/// <param name="Positions">What it says at each position.</param>
/// <param name="Agreement">The share of positions where its choice is the last layer's: of what it would draft, what would be accepted.</param>
/// <param name="MeanKl">Mean of KL(last layer || exit).</param>
/// <param name="MeanEntropy">Mean entropy.</param>
/// <param name="CrossEntropy">Mean of -ln p of the text's next tokens; null for a text of one token.</param>
public sealed record LensExit(
    int Layer,
    IReadOnlyList<LensPosition> Positions,
    double Agreement,
    double MeanKl,
    double MeanEntropy,
    double? CrossEntropy);

/// <summary>What an exit says at a position.</summary>
/// <param name="Top">The most probable tokens, the most probable first.</param>
/// <param name="Entropy">Of its law, in nats.</param>
/// <param name="Kl">KL(last layer || exit), in nats: what is lost by taking the exit's law for the model's.</param>
/// <param name="Final">What it makes of the token that the last layer chooses.</param>
/// <param name="Next">What it makes of the text's next token; null at the last position.</param>
public sealed record LensPosition(
    IReadOnlyList<LensCandidate> Top,
    double Entropy,
    double Kl,
    LensReading Final,
    LensReading? Next);

/// <summary>A token that an exit proposes.</summary>
/// <param name="Token">The token.</param>
/// <param name="Probability">Its probability.</param>
public readonly record struct LensCandidate(LensToken Token, double Probability);

/// <summary>What an exit makes of a token.</summary>
/// <param name="LogProbability">ln of its probability.</param>
/// <param name="Rank">1 for the exit's own choice, and one more for each token that it would take before this one.</param>
public readonly record struct LensReading(double LogProbability, int Rank);
