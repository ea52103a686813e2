namespace LayerSkip.Kernels;

/// <summary>The sizes of a decoder.</summary>
public sealed record DecoderShape(
    int Hidden, int Intermediate, int Heads, int KvHeads, int HeadDim, int Vocabulary, float NormEps)
{
    /// <summary>For each layer how many of the latest positions it attends to; 0 is all.</summary>
    public required IReadOnlyList<int> Windows { get; init; }

    public int Layers => Windows.Count;

    /// <summary>Rows of the joined q, k, v product.</summary>
    internal int QkvRows => (Heads + (2 * KvHeads)) * HeadDim;
}

/// <summary>
/// Where one layer's weights lie, row after row. Matrices are in the decoder's format, norms and biases are float32;
/// 0 where the model has none.
/// </summary>
public readonly record struct LayerMemory
{
    public required nint AttentionNorm { get; init; }

    /// <summary>q, then k, then v: [(heads + 2 kvHeads) headDim; hidden].</summary>
    public required nint Qkv { get; init; }

    public nint QkvBias { get; init; }

    public nint QNorm { get; init; }

    public nint KNorm { get; init; }

    /// <summary>[hidden; heads headDim]</summary>
    public required nint Output { get; init; }

    public nint OutputBias { get; init; }

    public required nint MlpNorm { get; init; }

    /// <summary>Gate, then up: [2 intermediate; hidden].</summary>
    public required nint GateUp { get; init; }

    public nint GateUpBias { get; init; }

    /// <summary>[hidden; intermediate]</summary>
    public required nint Down { get; init; }

    public nint DownBias { get; init; }
}

/// <summary>Where a whole model's weights lie; embedding and head [vocabulary; hidden] may be the same.</summary>
public sealed record DecoderMemory(
    WeightFormat Format, nint Embedding, nint Norm, nint Head, IReadOnlyList<LayerMemory> Layers);

/// <summary>Keys and values of one sequence: for each layer [kvHeads; capacity; headDim], and the rotary tables.</summary>
public sealed record SequenceMemory(
    int Capacity, IReadOnlyList<nint> Keys, IReadOnlyList<nint> Values, nint Cos, nint Sin);

/// <summary>
/// Runs a decoder's layers over memory that belongs to the caller. One pass serves one sequence at a time; several
/// may share the weights.
/// </summary>
public abstract class DecoderPass : IDisposable
{
    /// <summary>A pass of one form; those that the processor lacks run in software, slowly.</summary>
    public static DecoderPass Create(KernelForm form, DecoderShape shape, DecoderMemory memory) =>
        KernelForms.Of(form, memory.Format, Half16.SlowSubnormals).CreatePass(shape, memory);

    /// <summary>
    /// Layers `first` to `first` + `count` - 1 over hidden states [rows; hidden], in place. The rows stand at
    /// positions from `start`; their keys and values are written into the sequence's memory.
    /// </summary>
    public abstract void Run(SequenceMemory sequence, int first, int count, nint hidden, int rows, int start);

    /// <summary>The embeddings of ids as hidden states [ids; hidden].</summary>
    public abstract void Embed(ReadOnlySpan<int> ids, nint hidden);

    /// <summary>Final norm and head: [rows; hidden] to logits [rows; vocabulary].</summary>
    public abstract void Head(nint hidden, int rows, nint logits);

    /// <summary>The same, into room of the pass's own: its address, valid until the next such call.</summary>
    public abstract nint Head(nint hidden, int rows);

    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    protected abstract void Dispose(bool disposing);
}
