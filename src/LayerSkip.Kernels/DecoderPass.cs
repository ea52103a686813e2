namespace LayerSkip.Kernels;

/// <summary>The sizes of a decoder, each checked: an exception here, in place of an index that wraps later.</summary>
public sealed record DecoderShape(
    int Hidden, int Intermediate, int Heads, int KvHeads, int HeadDim, int Vocabulary, float NormEps)
{
    /// <summary>
    /// The most numbers of a row and rows of a matrix, far beyond every model. A tile reaches over six rows and a
    /// phase has sixteen parts a head: no such index leaves 32 bits, and sums over whole matrices have 64.
    /// </summary>
    internal const int Largest = 1 << 26;

    private readonly IReadOnlyList<int> windows = [];

    /// <summary>Numbers of a hidden state.</summary>
    public int Hidden { get; } = Size(Hidden, nameof(Hidden));

    /// <summary>Numbers between the MLP's products, of gate and of up each.</summary>
    public int Intermediate { get; } = (int)Size(2L * Intermediate, nameof(Intermediate)) / 2;

    /// <summary>Query heads; <see cref="KvHeads"/> divides them.</summary>
    public int Heads { get; } = Size(Heads, nameof(Heads));

    /// <summary>Heads of keys and values, each shared by as many query heads.</summary>
    public int KvHeads { get; } = Size(KvHeads, nameof(KvHeads));

    /// <summary>Numbers of a head, even, since halves turn against each other.</summary>
    public int HeadDim { get; } = Size(HeadDim, nameof(HeadDim));

    /// <summary>Rows of embedding and head; ids run from 0.</summary>
    public int Vocabulary { get; } = Size(Vocabulary, nameof(Vocabulary));

    /// <summary>For each layer how many of the latest positions it attends to; 0 is all.</summary>
    public required IReadOnlyList<int> Windows
    {
        get => windows;
        init => windows = value.All(window => window >= 0)
            ? value
            : throw new ArgumentOutOfRangeException(nameof(Windows), "a window is 0 (all) or more positions");
    }

    public int Layers => Windows.Count;

    /// <summary>Rows of the joined q, k, v product.</summary>
    internal int QkvRows { get; } = Joined(Heads, KvHeads, HeadDim);

    private static int Size(long size, string name)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(size, 1, name);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(size, Largest, name);
        return (int)size;
    }

    private static int Joined(long heads, long kvHeads, long headDim)
    {
        if (heads % kvHeads != 0 || headDim % 2 != 0)
        {
            throw new ArgumentException($"{heads} heads of {headDim} over {kvHeads} key heads: not even, or not shared evenly");
        }

        return Size((heads + (2 * kvHeads)) * headDim, nameof(QkvRows));
    }
}

/// <summary>
/// Where one layer's weights lie, row after row. Norms and biases are float32;
/// 0 where the model has none.
/// </summary>
public sealed record LayerMemory
{
    /// <summary>[hidden], before attention.</summary>
    public required nint AttentionNorm { get; init; }

    /// <summary>q, then k, then v, in one matrix or several: [(heads + 2 kvHeads) headDim; hidden].</summary>
    public required IReadOnlyList<MatrixMemory> Qkv { get; init; }

    /// <summary>[(heads + 2 kvHeads) headDim]</summary>
    public nint QkvBias { get; init; }

    /// <summary>[headDim], of every query head (Qwen3).</summary>
    public nint QNorm { get; init; }

    /// <summary>[headDim], of every key head (Qwen3).</summary>
    public nint KNorm { get; init; }

    /// <summary>[hidden; heads headDim]</summary>
    public required MatrixMemory Output { get; init; }

    /// <summary>[hidden]</summary>
    public nint OutputBias { get; init; }

    /// <summary>[hidden], before the MLP.</summary>
    public required nint MlpNorm { get; init; }

    /// <summary>Gate, then up, in one matrix or two: [2 intermediate; hidden].</summary>
    public required IReadOnlyList<MatrixMemory> GateUp { get; init; }

    /// <summary>[2 intermediate]</summary>
    public nint GateUpBias { get; init; }

    /// <summary>[hidden; intermediate]</summary>
    public required MatrixMemory Down { get; init; }

    /// <summary>[hidden]</summary>
    public nint DownBias { get; init; }
}

/// <summary>Where a whole model's weights lie; embedding and head may be the same.</summary>
/// <param name="Embedding">[vocabulary; hidden]</param>
/// <param name="Norm">[hidden], float32, before the head.</param>
/// <param name="Head">[vocabulary; hidden]</param>
/// <param name="Layers">From the first layer on.</param>
public sealed record DecoderMemory(
    MatrixMemory Embedding, nint Norm, MatrixMemory Head, IReadOnlyList<LayerMemory> Layers);

/// <summary>The memory of one sequence; its keys are turned already.</summary>
/// <param name="Capacity">The most positions.</param>
/// <param name="Format">How keys and values lie there, in rows of <see cref="CacheRows.Bytes"/>.</param>
/// <param name="Keys">For each layer rows [kvHeads; capacity], each of headDim numbers.</param>
/// <param name="Values">For each layer rows [kvHeads; capacity], likewise.</param>
/// <param name="Cos">Float32 [positions; headDim], the rotary angles' cosines.</param>
/// <param name="Sin">[positions; headDim], their sines, negative in each row's first half.</param>
public sealed record SequenceMemory(
    int Capacity, CacheFormat Format, IReadOnlyList<nint> Keys, IReadOnlyList<nint> Values, nint Cos, nint Sin);

/// <summary>
/// Runs a decoder's layers over memory that belongs to the caller. One pass serves one sequence at a time; several
/// may share the weights.
/// </summary>
public abstract class DecoderPass : IDisposable
{
    /// <summary>Rows that go through the layers at once; longer texts do so piece after piece, in the same memory.</summary>
    internal const int PieceRows = 256;

    /// <summary>The same where they may go through the matrix unit, whose weights are decoded once a piece.</summary>
    internal const int RoundedPieceRows = 512;

    /// <summary>Memory for so many rows stays until the next pass; what more of them needed is given back.</summary>
    private protected const int KeptRows = 16;

    private bool disposed;

    private protected DecoderPass(DecoderShape shape, DecoderMemory memory)
    {
        if (memory.Layers.Count != shape.Layers)
        {
            throw new ArgumentException($"{memory.Layers.Count} layers of weights for {shape.Layers}", nameof(memory));
        }

        (Shape, Memory) = (shape, memory);
    }

    private protected DecoderShape Shape { get; }

    private protected DecoderMemory Memory { get; }

    /// <summary>A pass of one form; those that the processor lacks run in software, slowly.</summary>
    public static DecoderPass Create(KernelForm form, DecoderShape shape, DecoderMemory memory, ComputeForm compute) =>
        KernelForms.Of(form, Half16.SlowSubnormals, compute).CreatePass(shape, memory);

    /// <summary>
    /// Layers `first` to `first` + `count` - 1 over hidden states [rows; hidden], in place. The rows stand at
    /// positions from `start`; their keys and values are written into the sequence's memory.
    /// </summary>
    /// <param name="sequence">Read at the positions before `start`, read and written from there on.</param>
    /// <param name="first">The first layer to run; layers count from 0 here.</param>
    /// <param name="count">How many layers.</param>
    /// <param name="hidden">Float32 [rows; hidden].</param>
    /// <param name="rows">Any number: more than <see cref="PieceRows"/> go through piece after piece.</param>
    /// <param name="start">The position of the first row.</param>
    /// <param name="cancellation">Looked at before each layer and each shared part.</param>
    /// <param name="mayRound">
    /// Many rows may go through the matrix unit, which rounds what it multiplies to bfloat16: inputs, weights of fewer than 32 bits, and
    /// queries, keys, values and the weights of their mixture.
    /// </param>
    /// <exception cref="ArgumentOutOfRangeException">Layers that the model, or positions that the sequence, has not.</exception>
    /// <exception cref="OperationCanceledException">
    /// Cancelled, about a part of a product later: the rows and what the sequence holds of them are then of no use.
    /// </exception>
    public void Run(
        SequenceMemory sequence, int first, int count, nint hidden, int rows, int start,
        CancellationToken cancellation = default, bool mayRound = false)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        Within(first, count, Shape.Layers, "layers");
        Within(start, rows, sequence.Capacity, "positions");

        if (sequence.Keys.Count != Shape.Layers || sequence.Values.Count != Shape.Layers)
        {
            throw new ArgumentException($"keys and values of {sequence.Keys.Count} layers for {Shape.Layers}", nameof(sequence));
        }

        int most = mayRound && MatrixUnit.IsThere ? RoundedPieceRows : PieceRows;

        // Of much the same size, so that no piece of a long prompt is too short for the unit.
        for (int done = 0, pieces = (rows + most - 1) / most; pieces > 0; pieces--)
        {
            int piece = (rows - done + pieces - 1) / pieces;
            RunPiece(sequence, first, count, RowAt(hidden, done), piece, start + done, mayRound, cancellation);
            done += piece;
        }

        if (rows > KeptRows)
        {
            Trim();
        }
    }

    /// <summary>The embeddings of ids as hidden states, float32 [ids; hidden].</summary>
    /// <exception cref="ArgumentOutOfRangeException">An id outside the vocabulary.</exception>
    public void Embed(ReadOnlySpan<int> ids, nint hidden)
    {
        ObjectDisposedException.ThrowIf(disposed, this);

        foreach (int id in ids)
        {
            ArgumentOutOfRangeException.ThrowIfNegative(id, nameof(ids));
            ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(id, Shape.Vocabulary, nameof(ids));
        }

        EmbedKnown(ids, hidden);
    }

    /// <summary>Final norm and head: hidden states [rows; hidden] of any layer to logits [rows; vocabulary], both float32.</summary>
    public void Head(nint hidden, int rows, nint logits) => HeadOf(null, Shape.Vocabulary, hidden, rows, logits);

    /// <summary>The same, into room of the pass's own: its address, valid until the next such call.</summary>
    public nint Head(nint hidden, int rows)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        nint logits = OwnLogits((long)rows * Shape.Vocabulary);
        Head(hidden, rows, logits);
        return logits;
    }

    /// <summary>Room for rows of the head, up to `capacity` of them, to be disposed before the weights go.</summary>
    public GatheredRows GatherHead(int capacity)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        return new(Memory.Head, HeadRowBytes, capacity);
    }

    /// <summary>
    /// The logits of the first `count` of such rows alone, [rows; count], to the bits that the whole head has there: as
    /// <see cref="Head(nint, int)"/>, in the same room.
    /// </summary>
    public nint Head(GatheredRows gathered, int count, nint hidden, int rows)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        var first = gathered.First(count);
        nint logits = OwnLogits((long)rows * count);
        HeadOf(first, count, hidden, rows, logits);
        GC.KeepAlive(gathered);
        return logits;
    }

    /// <summary>Gives back what many rows needed, the logits of <see cref="Head(nint, int)"/> too.</summary>
    public void Release()
    {
        Trim();
        TrimLogits();
    }

    public void Dispose()
    {
        disposed = true;
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    private protected abstract void RunPiece(
        SequenceMemory sequence, int first, int count, nint hidden, int rows, int start, bool rounds,
        CancellationToken cancellation);

    private protected abstract void EmbedKnown(ReadOnlySpan<int> ids, nint hidden);

    private protected abstract nint HeadRowBytes { get; }

    /// <summary>Of `some` of the head's rows; null: of all.</summary>
    private protected abstract void HeadOfPiece(MatrixMemory? some, nint hidden, int rows, nint logits);

    private protected abstract nint OwnLogits(long count);

    private protected abstract void Trim();

    private protected abstract void TrimLogits();

    protected abstract void Dispose(bool disposing);

    private static void Within(long first, long count, long limit, string what)
    {
        if (first < 0 || count < 0 || first + count > limit)
        {
            throw new ArgumentOutOfRangeException(what, $"{what} {first} to {first + count} of {limit}");
        }
    }

    private void HeadOf(MatrixMemory? some, int width, nint hidden, int rows, nint logits)
    {
        ObjectDisposedException.ThrowIf(disposed, this);

        for (int done = 0; done < rows;)
        {
            int piece = Math.Min(PieceRows, rows - done);
            HeadOfPiece(some, RowAt(hidden, done), piece, logits + ((nint)done * width * sizeof(float)));
            done += piece;
        }
    }

    private nint RowAt(nint hidden, int row) => hidden + ((nint)row * Shape.Hidden * sizeof(float));
}
