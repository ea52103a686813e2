using LayerSkip.CSharp;

namespace LayerSkip.Extensions.AI;

/// <summary>How a <see cref="LayerSkipChatClient"/> answers where a request says nothing else.</summary>
public sealed record LayerSkipChatClientOptions
{
    /// <summary>How a text is generated; a request's options go before it.</summary>
    public GenerateOptions Generate { get; init; } = new();

    /// <summary>The most tokens of an answer whose request names no number, 1 or more; the context may end it sooner.</summary>
    public int MaxOutputTokens { get; init; } = 1024;

    /// <summary>What the client calls the model; null is the model's own name.</summary>
    public string? ModelId { get; init; }

    /// <summary>Whether the model is disposed with the client.</summary>
    public bool OwnsModel { get; init; }
}
