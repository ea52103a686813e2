using System.Text;

namespace LayerSkip.CSharp;

/// <summary>What a model is. Layers count from 1, tokens and positions from 0.</summary>
public sealed record ModelInfo
{
    /// <summary>The name of its folder or file, without the ending.</summary>
    public required string Name { get; init; }

    /// <summary>Where it was loaded from; empty where nothing was.</summary>
    public string Path { get; init; } = "";

    /// <summary>Its architecture, as config.json's "model_type" names it: "llama", "mistral", "qwen2", "qwen3", "phi3".</summary>
    public string Family { get; init; } = "llama";

    /// <summary>The number of layers, L.</summary>
    public required int LayerCount { get; init; }

    /// <summary>The width of the states between layers.</summary>
    public int HiddenSize { get; init; }

    /// <summary>Heads of attention.</summary>
    public int HeadCount { get; init; }

    /// <summary>Heads of keys and values.</summary>
    public int KeyValueHeadCount { get; init; }

    /// <summary>The number of token ids, which run from 0.</summary>
    public required int VocabularySize { get; init; }

    /// <summary>The most tokens that prompt and text have together.</summary>
    public required int ContextLength { get; init; }

    /// <summary>The number of weights, of which a head that is the embedding counts once.</summary>
    public long ParameterCount { get; init; }

    /// <summary>The bytes of the weights in memory.</summary>
    public long WeightBytes { get; init; }

    /// <summary>The bytes that a text's cache takes for each token.</summary>
    public long CacheBytesPerToken { get; init; }

    /// <summary>
    /// The number format of the weights in memory, never <see cref="Dtype.Auto"/>; of weights in quantised blocks the one that they are
    /// multiplied to, <see cref="Dtype.F32"/>.
    /// </summary>
    public Dtype Dtype { get; init; } = Dtype.F32;

    /// <summary>
    /// What the weights are held in, as reports name it: "f16", "bf16"; of a GGUF's quantised blocks the type that most bytes have, "q4_k".
    /// </summary>
    public string WeightsFormat { get; init; } = "f32";

    /// <summary>Where the weights are.</summary>
    public Device Device { get; init; }

    /// <summary>Whether the model has a tokenizer; without one, prompts are ids and there is no text.</summary>
    public bool HasTokenizer { get; init; }

    /// <summary>The tokens that end a text where options name none.</summary>
    public IReadOnlyList<int> StopTokenIds { get; init; } = [];

    /// <summary>The tokens that end an answer in a chat: those, and the one that the chat template writes behind an answer.</summary>
    public IReadOnlyList<int> ChatStopTokenIds { get; init; } = [];

    /// <summary>The source of its chat template; null where it has none.</summary>
    public string? ChatTemplate { get; init; }

    /// <summary>Whether the model itself recommends an exit layer and a draft length.</summary>
    public bool RecommendsExit { get; init; }

    /// <summary>The exit layer of options that name none: the model's own recommendation, else a third of its layers.</summary>
    public int RecommendedExitLayer { get; init; }

    /// <summary>The draft length of options that name none: the model's own recommendation, else 4.</summary>
    public int RecommendedDraftLength { get; init; }

    /// <summary>What a user should know of the model's files: sentences.</summary>
    public IReadOnlyList<string> Remarks { get; init; } = [];

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}
