using LayerSkip.CSharp;

namespace LayerSkip.Extensions.AI;

/// <summary>A model among a program's services.</summary>
public sealed record LayerSkipServiceOptions
{
    /// <summary>A Hugging Face folder, a .gguf file, or a model on the hub as "org/name".</summary>
    public required string Model { get; init; }

    /// <summary>How it is loaded.</summary>
    public LoadOptions Load { get; init; } = new();

    /// <summary>How it answers.</summary>
    public LayerSkipChatClientOptions Chat { get; init; } = new();
}
