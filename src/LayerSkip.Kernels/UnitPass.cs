namespace LayerSkip.Kernels;

/// <summary>The parts of a layer's phases on the matrix unit.</summary>
internal sealed record UnitPhases(
    Action<int> PackNormed, Action<int> PackMixed, Action<int> Product, Action<int> Heads, Action<int> Attend, Action<int> Gate,
    Action<int> Residual);

/// <summary>
/// The same step for many rows of a prompt, on the matrix unit. What one product writes is what the next one reads: sums come as [outputs;
/// rows], of which two outputs make a pair of a pack, so that the MLP's middle and what attention mixes are never anything else.
/// </summary>
internal sealed unsafe partial class DecoderPass<V, L>
{
    // Packs of normed or mixed rows, and of the MLP's middle.
    private readonly FloatBuffer packs = new(), gatedPacks = new();
    private int packsPerPart;

    /// <summary>The layer at hand over x [rows; hidden], in place.</summary>
    private void RunOnUnit(float* x, LayerMatrices<V, L> w)
    {
        int width = Shape.Heads * Shape.HeadDim;
        packs.Of(MatrixProduct.Room(Math.Max(Shape.Hidden, width), rows));
        gatedPacks.Of(MatrixProduct.Room(Shape.Intermediate, rows));
        qkv.Of((long)rows * Shape.QkvRows);

        PackNormed(x, layer.AttentionNorm);
        Multiply(w.Qkv, Shape.Hidden, packs.Pointer, layer.QkvBias, unit.Product);
        Share((long)rows * Shape.QkvRows * 4, MatrixProduct.Packs(rows), unit.Heads);
        AttendOnUnit(width);
        residual = x;
        Multiply(w.Output, width, packs.Pointer, layer.OutputBias, unit.Residual);
        PackNormed(x, layer.MlpNorm);
        Multiply(w.GateUp, Shape.Hidden, packs.Pointer, layer.GateUpBias, unit.Gate, Shape.Intermediate);
        Multiply(w.Down, Shape.Intermediate, gatedPacks.Pointer, layer.DownBias, unit.Residual);
    }

    private void PackNormed(float* x, nint weight)
    {
        normInput = x;
        normWeight = (float*)weight;
        Share((long)rows * Shape.Hidden * 4, MatrixProduct.Packs(rows), unit.PackNormed);
    }

    private void PackNormedPart(int pack) =>
        MatrixProduct.Pack(
            new NormedRows(normInput, normWeight, Shape.NormEps, Shape.Hidden), Shape.Hidden, pack * MatrixProduct.PackRows, rows,
            packs.Pointer + ((nint)pack * MatrixProduct.PackFloats(Shape.Hidden)));

    /// <summary>A product of matrices with packs [rows; inner], a few outputs a part.</summary>
    private void Multiply(Matrices<V, L> w, int inner, float* from, nint bias, Action<int> part, int outs = 0)
    {
        (matrices, this.inner, this.outs) = (w, inner, outs == 0 ? w.Outs : outs);
        input = from;
        this.bias = (float*)bias;
        // Fewer at once where threads would be left without a part.
        perPart = this.outs >= 4 * MatrixProduct.Outputs * Workers.Shared.Threads ? MatrixProduct.Outputs : MatrixProduct.Outputs / 2;
        Share(long.MaxValue, (this.outs + perPart - 1) / perPart, part);
    }

    /// <summary>Outputs `first` and on of every row, of one matrix: [packs; 48; 32]. Says how many.</summary>
    private int Sums(int first, int most, float* c)
    {
        var (memory, product, row, left) = matrices.At(first);
        int count = Math.Min(Math.Min(most, MatrixProduct.Outputs), left);
        MatrixProduct.Sums(product, memory, inner, input, rows, row, count, c);
        return count;
    }

    /// <summary>To q, k and v, with their bias.</summary>
    private void UnitProductPart(int part)
    {
        float* c = MatrixProduct.SumsOf(rows, 1);
        int last = Math.Min(outs, (part + 1) * perPart), width = Shape.QkvRows;

        for (int first = part * perPart, count; first < last; first += count)
        {
            count = Sums(first, last - first, c);

            for (int pack = 0; pack < MatrixProduct.Packs(rows); pack++)
            {
                int row = pack * MatrixProduct.PackRows, here = Math.Min(MatrixProduct.PackRows, rows - row);
                float* y = qkv.Pointer + ((nint)row * width) + first;
                MatrixProduct.Store(c + ((nint)pack * MatrixProduct.PackSums), y, width, here, count);

                for (int r = 0; r < here && bias != null; r++)
                {
                    Elementwise<V, L>.AddTo(y + ((nint)r * width), bias + first, null, count);
                }
            }
        }

        MatrixUnit.Release();
    }

    /// <summary>To the residual, with a bias, where the sums come in between.</summary>
    private void UnitResidualPart(int part)
    {
        float* c = MatrixProduct.SumsOf(rows, 1);
        float* y = stackalloc float[MatrixProduct.PackSums];
        int last = Math.Min(outs, (part + 1) * perPart), width = Shape.Hidden;

        for (int first = part * perPart, count; first < last; first += count)
        {
            count = Sums(first, last - first, c);

            for (int row = 0; row < rows; row++)
            {
                int within = row % MatrixProduct.PackRows;

                if (within == 0)
                {
                    MatrixProduct.Store(
                        c + ((nint)row / MatrixProduct.PackRows * MatrixProduct.PackSums), y, MatrixProduct.Outputs,
                        Math.Min(MatrixProduct.PackRows, rows - row), count);
                }

                Elementwise<V, L>.AddTo(
                    residual + ((nint)row * width) + first, y + (within * MatrixProduct.Outputs), bias == null ? null : bias + first, count);
            }
        }

        MatrixUnit.Release();
    }

    /// <summary>silu(gate) * up, as packs of what the next product reads.</summary>
    private void UnitGatePart(int part)
    {
        int last = Math.Min(outs, (part + 1) * perPart), count = MatrixProduct.Packs(rows);
        float* gates = MatrixProduct.SumsOf(rows, 2), ups = gates + ((nint)count * MatrixProduct.PackSums);

        for (int first = part * perPart, some; first < last; first += some)
        {
            some = Sums(first, Math.Min(last - first, matrices.At(outs + first).Left), gates);
            Sums(outs + first, some, ups);

            for (int pack = 0; pack < count; pack++)
            {
                float* to = gatedPacks.Pointer + ((nint)pack * MatrixProduct.PackFloats(outs)) + ((nint)first / 2 * MatrixProduct.PackRows);
                nint at = (nint)pack * MatrixProduct.PackSums;
                MatrixProduct.Gate(
                    gates + at, ups + at, bias == null ? null : bias + first, bias == null ? null : bias + outs + first, some, to);
            }
        }

        MatrixUnit.Release();
    }

    private void UnitHeadsPart(int pack)
    {
        for (int row = pack * MatrixProduct.PackRows; row < Math.Min(rows, (pack + 1) * MatrixProduct.PackRows); row++)
        {
            HeadsOfRow(row);
        }
    }

    /// <summary>Of qkv to packs of what is mixed.</summary>
    private void AttendOnUnit(int width)
    {
        if (!MatrixAttention.Fits(Shape.HeadDim))
        {
            mixed.Of((long)rows * width);
            Attend(1f);
            Share((long)rows * width * 2, MatrixProduct.Packs(rows), unit.PackMixed);
            return;
        }

        int count = MatrixProduct.Packs(rows);
        packsPerPart = Parts.AttentionPacks(count, Shape.Heads / Shape.KvHeads, Shape.KvHeads);
        Share(long.MaxValue, (count + packsPerPart - 1) / packsPerPart * Shape.KvHeads, unit.Attend);
    }

    private void PackMixedPart(int pack)
    {
        int width = Shape.Heads * Shape.HeadDim;
        MatrixProduct.Pack(
            new ScaledRows(mixed.Pointer, width, 1f, width), width, pack * MatrixProduct.PackRows, rows,
            packs.Pointer + ((nint)pack * MatrixProduct.PackFloats(width)));
    }

    /// <summary>The query heads of one key head, of a few packs of rows; those that see most come first.</summary>
    private void UnitAttendPart(int part)
    {
        int group = Shape.Heads / Shape.KvHeads, dim = Shape.HeadDim, all = MatrixProduct.Packs(rows);
        int blocks = (all + packsPerPart - 1) / packsPerPart;
        var (block, head) = Math.DivRem(part, Shape.KvHeads);
        int from = (blocks - 1 - block) * packsPerPart, first = head * group * dim;
        nint kv = (nint)head * sequence.Capacity * CacheRows.Bytes(sequence.Format, dim);
        MatrixAttention.Run<V, L>(
            sequence.Format, keys + kv, values + kv,
            new(
                (nint)(qkv.Pointer + first), Shape.QkvRows, (nint)(packs.Pointer + ((nint)first / 2 * MatrixProduct.PackRows)),
                MatrixProduct.PackFloats(Shape.Heads * dim), group, from, Math.Min(packsPerPart, all - from), rows, start, window, dim));
    }

    private void TrimUnit()
    {
        packs.Trim(0);
        gatedPacks.Trim(0);
    }

    private void DisposeUnit()
    {
        packs.Dispose();
        gatedPacks.Dispose();
    }
}
