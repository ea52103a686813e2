namespace LayerSkip.Kernels;

/// <summary>What happens between a layer's first product and its second, on lanes.</summary>
internal sealed unsafe partial class DecoderPass<V, L>
{
    /// <summary>Norms and turns a row's q and k heads, and writes k and v where the sequence keeps them.</summary>
    private void HeadsOfRow(int row)
    {
        int dim = Shape.HeadDim, position = start + row;
        float* q = qkv.Pointer + ((nint)row * Shape.QkvRows);
        float* cos = (float*)sequence.Cos + ((nint)position * dim);
        float* sin = (float*)sequence.Sin + ((nint)position * dim);

        for (int head = 0; head < Shape.Heads + Shape.KvHeads; head++)
        {
            float* own = q + ((nint)head * dim);

            if (layers[layerIndex].Qkv.PairsRows(head * dim))
            {
                Elementwise<V, L>.Halve(own, dim);
            }

            nint weight = head < Shape.Heads ? layer.QNorm : layer.KNorm;

            if (weight != 0)
            {
                Elementwise<V, L>.RmsNorm(own, (float*)weight, own, dim, Shape.NormEps, 1f);
            }

            Elementwise<V, L>.Rotate(own, cos, sin, dim);
        }

        for (int head = 0; head < Shape.KvHeads; head++)
        {
            nint to = (((nint)head * sequence.Capacity) + position) * CacheRows.Bytes(sequence.Format, dim);
            float* k = q + ((nint)(Shape.Heads + head) * dim);
            float* v = k + ((nint)Shape.KvHeads * dim);
            CacheRows<V, L>.Write(sequence.Format, k, keys + to, dim);
            CacheRows<V, L>.Write(sequence.Format, v, values + to, dim);
        }
    }

    /// <summary>Of qkv to mixed: each query head over the positions that its row may see.</summary>
    private void Attend(float size)
    {
        attendedSize = size;
        rowsPerPart = Parts.AttentionRows(rows, Shape.Heads, Shape.KvHeads, start + rows);
        int blocks = (rows + rowsPerPart - 1) / rowsPerPart, group = Shape.Heads / Shape.KvHeads;
        headsPerPart = Parts.AttentionHeads(group, blocks * Shape.KvHeads);
        int pieces = (group + headsPerPart - 1) / headsPerPart;
        long seen = (long)(start + rows) * Shape.HeadDim * 2 * rows * Shape.Heads;
        Share(seen, blocks * pieces * Shape.KvHeads, attend);
    }

    /// <summary>Query heads of one key head, of a block of rows.</summary>
    private void AttendPart(int part)
    {
        int group = Shape.Heads / Shape.KvHeads, pieces = (group + headsPerPart - 1) / headsPerPart, dim = Shape.HeadDim;
        var (block, head) = Math.DivRem(part / pieces, Shape.KvHeads);
        int from = block * rowsPerPart, skipped = part % pieces * headsPerPart;
        int first = ((head * group) + skipped) * dim;
        nint kv = (nint)head * sequence.Capacity * CacheRows.Bytes(sequence.Format, dim);
        var asked = new GroupedQueries(
            (nint)(qkv.Pointer + ((nint)from * Shape.QkvRows) + first), Shape.QkvRows,
            (nint)(mixed.Pointer + ((nint)from * Shape.Heads * dim) + first), Shape.Heads * dim,
            Math.Min(headsPerPart, group - skipped), Math.Min(rowsPerPart, rows - from), start + from, window, dim);
        NarrowAttention<V, L>.Run(sequence.Format, keys + kv, values + kv, asked, 1f / MathF.Sqrt(dim), attendedSize);
    }
}
