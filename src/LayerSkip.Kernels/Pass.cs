namespace LayerSkip.Kernels;

/// <summary>The decode step itself. Its phases are cut into parts by outputs, heads or rows, never within a sum.</summary>
internal sealed unsafe partial class DecoderPass<V, L> : DecoderPass
    where V : unmanaged
    where L : struct, IByteLanes<V>
{
    // [rows; hidden], [rows; (heads + 2 kvHeads) headDim], [rows; heads headDim], [rows; 2 intermediate], [rows; hidden].
    private readonly FloatBuffer normed = new(), qkv = new(), mixed = new(), gateUp = new(), added = new();
    private readonly FloatBuffer ownLogits = new();
    private readonly InputRows quantised = new();
    private readonly LayerMatrices<V, L>[] layers;
    private readonly Matrices<V, L> embedding, lmHead;
    private readonly Func<IReadOnlyList<MatrixMemory>, Matrices<V, L>> matricesOf;

    /// <summary>The buffers of a piece, each with its floats a row.</summary>
    private readonly (FloatBuffer Buffer, long Width)[] rooms;
    private readonly Action<int> product, heads, attend, gate, norm, quantise, unlessCancelled;
    private readonly UnitPhases unit;

    // What the phase at hand reads and writes.
    private Matrices<V, L> matrices = null!;
    private float* input, output, bias, residual;
    private float* normInput, normWeight;
    private int inner, inputStride, outputStride, outs, perPart, rows, start, rowsPerPart, headsPerPart;
    private LayerMemory layer = null!;
    private SequenceMemory sequence = null!;
    private byte* keys, values;
    private int window, layerIndex;
    private float attendedSize, gatedSize;
    private CancellationToken cancellation;
    private Action<int> shared = null!;

    internal DecoderPass(DecoderShape shape, DecoderMemory memory, bool slowSubnormals, ComputeForm compute)
        : base(shape, memory)
    {
        matricesOf = parts => new(parts, slowSubnormals, compute);
        (product, heads, attend, gate, norm) = (ProductPart, HeadsOfRow, AttendPart, GatePart, NormRow);
        quantise = row => quantised.Fill(inner, input + ((nint)row * inputStride), row);
        unit = new(PackNormedPart, PackMixedPart, UnitProductPart, UnitHeadsPart, UnitAttendPart, UnitGatePart, UnitResidualPart);
        unlessCancelled = UnlessCancelled;
        rooms =
        [
            (normed, shape.Hidden), (qkv, shape.QkvRows), (mixed, shape.Heads * shape.HeadDim),
            (gateUp, 2L * shape.Intermediate), (added, shape.Hidden),
        ];
        (embedding, lmHead) = (matricesOf([memory.Embedding]), matricesOf([memory.Head]));
        layers = [.. memory.Layers.Select(layer => LayerMatrices<V, L>.Of(layer, matricesOf))];
    }

    private protected override void RunPiece(
        SequenceMemory sequence, int first, int count, nint hidden, int rows, int start, bool rounds, CancellationToken cancellation)
    {
        (this.sequence, this.rows, this.start, this.cancellation) = (sequence, rows, start, cancellation);
        bool hasRooms = false;

        for (int index = first; index < first + count; index++)
        {
            cancellation.ThrowIfCancellationRequested();
            layerIndex = index;
            layer = Memory.Layers[index];
            keys = (byte*)sequence.Keys[index];
            values = (byte*)sequence.Values[index];
            window = Shape.Windows[index];

            if (rounds && layers[index].AreFasterOnUnit(Shape, rows))
            {
                RunOnUnit((float*)hidden, layers[index]);
            }
            else
            {
                if (!hasRooms)
                {
                    MakeRooms();
                    hasRooms = true;
                }

                RunOnLanes((float*)hidden, layers[index]);
            }
        }

        // Parts of the last layer may have been left out too.
        cancellation.ThrowIfCancellationRequested();
    }

    private void MakeRooms()
    {
        foreach (var (buffer, floats) in rooms)
        {
            buffer.Of(rows * floats);
        }
    }

    /// <summary>The layer at hand over x [rows; hidden], in place.</summary>
    private void RunOnLanes(float* x, LayerMatrices<V, L> w)
    {
        int width = Shape.Heads * Shape.HeadDim;
        Norm(x, layer.AttentionNorm, w.Qkv);
        Multiply(w.Qkv, Shape.Hidden, normed.Pointer, qkv.Pointer, layer.QkvBias, null);
        Share((long)rows * Shape.QkvRows * 4, rows, heads);
        Attend(w.Output.InputScale);
        Quantise(w.Output, width, mixed.Pointer, width);
        Multiply(w.Output, width, mixed.Pointer, added.Pointer, layer.OutputBias, x);
        Norm(x, layer.MlpNorm, w.GateUp);
        GateAndUp(w.GateUp, w.Down.InputScale);
        Quantise(w.Down, Shape.Intermediate, gateUp.Pointer, 2 * Shape.Intermediate);
        Multiply(w.Down, Shape.Intermediate, gateUp.Pointer, added.Pointer, layer.DownBias, x, 2 * Shape.Intermediate);
    }

    private protected override void EmbedKnown(ReadOnlySpan<int> ids, nint hidden)
    {
        float* to = (float*)hidden;

        foreach (int id in ids)
        {
            embedding.Read(Shape.Hidden, id, to);
            to += Shape.Hidden;
        }
    }

    private protected override nint HeadRowBytes => lmHead.RowBytes(Shape.Hidden);

    private protected override void HeadOfPiece(MatrixMemory? some, nint hidden, int rows, nint logits)
    {
        var head = some == null ? lmHead : matricesOf([some]);
        (this.rows, cancellation) = (rows, CancellationToken.None);
        normed.Of((long)rows * Shape.Hidden);
        Norm((float*)hidden, Memory.Norm, head);
        Multiply(head, Shape.Hidden, normed.Pointer, (float*)logits, 0, null);
    }

    private protected override nint OwnLogits(long count) => (nint)ownLogits.Of(count);

    private protected override void Trim()
    {
        foreach (var (buffer, floats) in rooms)
        {
            buffer.Trim(KeptRows * floats);
        }

        TrimUnit();
        quantised.Trim(Math.Max(Shape.Heads * Shape.HeadDim, Math.Max(Shape.Hidden, Shape.Intermediate)), KeptRows);
    }

    private protected override void TrimLogits() => ownLogits.Trim((long)KeptRows * Shape.Vocabulary);

    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            foreach (var (buffer, _) in rooms)
            {
                buffer.Dispose();
            }

            ownLogits.Dispose();
            DisposeUnit();
            quantised.Dispose();
        }
    }

    /// <summary>Parts on all threads where the work is worth it, else one after the other here.</summary>
    private void Share(long multiplyAdds, int parts, Action<int> body)
    {
        if (cancellation.CanBeCanceled)
        {
            (shared, body) = (body, unlessCancelled);
        }

        if (multiplyAdds < Parts.WorthSharing)
        {
            for (int part = 0; part < parts; part++)
            {
                body(part);
            }
        }
        else
        {
            Workers.Shared.Run(parts, body);
        }
    }

    /// <summary>A part as <see cref="Share"/> was given it: of a cancelled pass the rest goes by unworked.</summary>
    private void UnlessCancelled(int part)
    {
        if (!cancellation.IsCancellationRequested)
        {
            shared(part);
        }
    }

    /// <summary>normed = x / rms(x) * weight, as the matrices read it: x [rows; hidden], weight [hidden].</summary>
    private void Norm(float* x, nint weight, Matrices<V, L> readers)
    {
        normInput = x;
        normWeight = (float*)weight;
        matrices = readers;
        Share((long)rows * Shape.Hidden * 2, rows, norm);
        Quantise(readers, Shape.Hidden, normed.Pointer, Shape.Hidden);
    }

    private void NormRow(int row)
    {
        nint at = (nint)row * Shape.Hidden;
        Elementwise<V, L>.RmsNorm(
            normInput + at, normWeight, normed.Pointer + at, Shape.Hidden, Shape.NormEps, matrices.InputScale);
    }

    /// <summary>Makes rows of x [rows; k] what the matrices read beside floats, if anything.</summary>
    private void Quantise(Matrices<V, L> readers, int k, float* x, int stride)
    {
        input = x;
        (matrices, inner, inputStride) = (readers, k, stride);

        if (quantised.Make(readers, k, rows))
        {
            Share((long)rows * k * 2, rows, quantise);
        }
    }

    /// <summary>y = x W^T + bias, or with a residual: residual += that, and y is only room.</summary>
    /// <param name="w">Matrices [outs; inner], which read x as it was quantised last.</param>
    /// <param name="inner">Numbers of a row of x and of W.</param>
    /// <param name="x">[rows; inner]</param>
    /// <param name="y">[rows; outs], written.</param>
    /// <param name="bias">[outs], or 0.</param>
    /// <param name="residual">[rows; outs], or null.</param>
    /// <param name="stride">Floats from a row of x to the next; 0: `inner`.</param>
    private void Multiply(
        Matrices<V, L> w, int inner, float* x, float* y, nint bias, float* residual, int stride = 0)
    {
        matrices = w;
        input = x;
        output = y;
        this.bias = (float*)bias;
        this.residual = residual;
        (this.inner, outs, inputStride, outputStride) = (inner, w.Outs, stride == 0 ? inner : stride, w.Outs);
        perPart = Parts.Outputs(outs, inner, rows);
        Share(long.MaxValue, (outs + perPart - 1) / perPart, product);
    }

    /// <summary>Outputs of one part, with bias and residual, of every row.</summary>
    private void ProductPart(int part)
    {
        int from = part * perPart, to = Math.Min(outs, from + perPart);
        matrices.Run(quantised.Of(input, inputStride), inner, output, outputStride, rows, from, to);

        if (residual == null && bias == null)
        {
            return;
        }

        float* ownBias = bias == null ? null : bias + from;

        for (int r = 0; r < rows; r++)
        {
            nint at = ((nint)r * outputStride) + from;

            if (residual != null)
            {
                Elementwise<V, L>.AddTo(residual + at, output + at, ownBias, to - from);
            }
            else
            {
                Elementwise<V, L>.AddTo(output + at, ownBias, null, to - from);
            }
        }
    }

    /// <summary>silu(gate) * up, each part both halves of the same outputs, left where gate was.</summary>
    private void GateAndUp(Matrices<V, L> w, float size)
    {
        (matrices, gatedSize) = (w, size);
        input = normed.Pointer;
        output = gateUp.Pointer;
        bias = (float*)layer.GateUpBias;
        (inner, inputStride, outs, outputStride) = (Shape.Hidden, Shape.Hidden, Shape.Intermediate, 2 * Shape.Intermediate);
        perPart = Parts.Outputs(Shape.Intermediate, 2 * Shape.Hidden, rows);
        Share(long.MaxValue, (outs + perPart - 1) / perPart, gate);
    }

    private void GatePart(int part)
    {
        int from = part * perPart, to = Math.Min(outs, from + perPart);
        var x = quantised.Of(input, inputStride);
        matrices.Run(x, inner, output, outputStride, rows, from, to);
        matrices.Run(x, inner, output, outputStride, rows, outs + from, outs + to);

        for (int r = 0; r < rows; r++)
        {
            float* g = output + ((nint)r * outputStride) + from;
            float* up = g + outs;

            if (bias != null)
            {
                Elementwise<V, L>.AddTo(g, bias + from, null, to - from);
                Elementwise<V, L>.AddTo(up, bias + outs + from, null, to - from);
            }

            Elementwise<V, L>.SwiGlu(g, up, to - from, gatedSize);
        }
    }
}
