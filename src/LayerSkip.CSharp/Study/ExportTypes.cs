using System.Text;

namespace LayerSkip.CSharp;

/// <summary>What other engines load.</summary>
public enum ExportFormat
{
    /// <summary>What the name of the output says: a .gguf file, else a folder.</summary>
    Auto,

    /// <summary>A folder with config.json, model.safetensors and the tokenizer's files.</summary>
    HuggingFace,

    /// <summary>One file, as llama.cpp loads it.</summary>
    Gguf,
}

/// <summary>How a model is written.</summary>
public sealed record ExportOptions
{
    /// <summary>What is written.</summary>
    public ExportFormat Format { get; init; }

    /// <summary>The number format; <see cref="Dtype.Auto"/>: as the model has its weights.</summary>
    public Dtype Dtype { get; init; }

    /// <summary>A mix of quantised formats for a GGUF file, as "q4_k_m"; null: none.</summary>
    public string? Mix { get; init; }

    /// <summary>The first so many layers, with norm and head; null: all.</summary>
    public int? Layers { get; init; }
}

/// <summary>What was written.</summary>
public sealed record ExportResult
{
    /// <summary>Where it is.</summary>
    public required string Output { get; init; }

    /// <summary>The number format, or the mix of formats.</summary>
    public required string WeightsFormat { get; init; }

    /// <summary>Layers that were written.</summary>
    public int LayerCount { get; init; }

    /// <summary>Tensors that were written.</summary>
    public int TensorCount { get; init; }

    /// <summary>Of all files.</summary>
    public long ByteCount { get; init; }

    /// <summary>What the user should know: sentences.</summary>
    public IReadOnlyList<string> Remarks { get; init; } = [];

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}
