namespace LayerSkip.Kernels;

/// <summary>What a block of rows asks of one key head: the query heads that share it, of each row.</summary>
/// <param name="Queries">[rows; group; dim]</param>
/// <param name="QueryStride">Floats from a row of them to the next.</param>
/// <param name="To">[rows; group; dim], written.</param>
/// <param name="ToStride">Floats from a row of it to the next.</param>
/// <param name="Group">Query heads of the key head.</param>
/// <param name="Rows">How many rows.</param>
/// <param name="Start">The position of the first row; each sees those before it, and its own.</param>
/// <param name="Window">The most positions that a row sees; 0: all.</param>
/// <param name="Dim">Numbers of a head.</param>
internal readonly unsafe record struct GroupedQueries(
    nint Queries, int QueryStride, nint To, int ToStride, int Group, int Rows, int Start, int Window, int Dim)
{
    /// <summary>One more than the last position that a row sees.</summary>
    internal int Last(int row) => Start + row + 1;

    /// <summary>The first position that a row sees.</summary>
    internal int First(int row) => Window > 0 ? Math.Max(0, Last(row) - Window) : 0;

    internal float* Query(int row) => (float*)Queries + ((nint)row * QueryStride);

    internal float* Out(int row) => (float*)To + ((nint)row * ToStride);
}

/// <summary>
/// Attention over keys and values that are read, and in fewer bits widened, a few positions at a time, near the core, once
/// for all rows and heads that share them. To the bit it is <see cref="Attention{V, L}.One"/> of each query over widened rows.
/// </summary>
internal static unsafe class NarrowAttention<V, L>
    where V : unmanaged
    where L : struct, ILanes<V>
{
    /// <summary>Floats of a tile of widened rows: half of a small first cache.</summary>
    private const int TileFloats = 4096;

    /// <summary>After a query's scores, room for the vector that <see cref="Attention{V, L}"/> writes beyond them.</summary>
    private const int Beyond = 16;

    /// <summary>softmax(scale q K^T) V * size, of each query.</summary>
    /// <param name="format">Of keys and values.</param>
    /// <param name="keys">The key head's rows, from position 0 on.</param>
    /// <param name="values">Likewise.</param>
    /// <param name="asked">What is asked, and where the answers go.</param>
    /// <param name="scale">1 / sqrt(dim) in the models that we know.</param>
    /// <param name="size">A power of two: the input scale of the format that reads the result.</param>
    internal static void Run(CacheFormat format, byte* keys, byte* values, GroupedQueries asked, float scale, float size)
    {
        int first = asked.First(0), room = asked.Last(asked.Rows - 1) - first + Beyond;
        float* scores = ThreadRoom.Scores.Of((long)asked.Rows * asked.Group * room);
        Score(format, keys, asked, scores, room);

        for (int row = 0; row < asked.Rows; row++)
        {
            int count = asked.Last(row) - asked.First(row);

            for (int head = 0; head < asked.Group; head++)
            {
                float* own = scores + ((((nint)row * asked.Group) + head) * room);

                for (int at = 0; at < count; at++)
                {
                    own[at] *= scale;
                }

                // The room after the scores keeps what their mixture is multiplied by.
                own[count] = size / Attention<V, L>.Exponentials(own, count);
            }

            new Span<float>(asked.Out(row), asked.Group * asked.Dim).Clear();
        }

        Mix(format, values, asked, scores, room);
    }

    /// <summary>scores [rows; group; room] = q K^T.</summary>
    private static void Score(CacheFormat format, byte* keys, GroupedQueries asked, float* scores, int room)
    {
        int dim = asked.Dim;

        for (int from = asked.First(0), to, end = asked.Last(asked.Rows - 1); from < end; from = to)
        {
            to = Math.Min(end, from + Math.Max(1, TileFloats / dim));
            float* tile = Widened(format, keys, from, to, dim);

            for (int row = 0; row < asked.Rows; row++)
            {
                int first = Math.Max(from, asked.First(row)), last = Math.Min(to, asked.Last(row));

                if (first < last)
                {
                    Products<V, L, Float32<V, L>>.Run(
                        (byte*)(tile + ((nint)(first - from) * dim)), dim, asked.Query(row), dim,
                        scores + ((nint)row * asked.Group * room) + (first - asked.First(row)), room, asked.Group,
                        0, last - first, null);
                }
            }
        }
    }

    /// <summary>Each answer: its weights times the values, over their sum.</summary>
    private static void Mix(CacheFormat format, byte* values, GroupedQueries asked, float* weights, int room)
    {
        int dim = asked.Dim;

        for (int from = asked.First(0), to, end = asked.Last(asked.Rows - 1); from < end; from = to)
        {
            to = Math.Min(end, from + Math.Max(1, TileFloats / dim));
            float* tile = Widened(format, values, from, to, dim);

            for (int row = 0; row < asked.Rows; row++)
            {
                int start = asked.First(row), own = asked.Last(row) - start;
                int first = Math.Max(from, start) - start, last = Math.Min(to - start, own);

                for (int head = 0; head < asked.Group && first < last; head++)
                {
                    float* shares = weights + ((((nint)row * asked.Group) + head) * room);
                    Attention<V, L>.Mix(
                        shares + first, tile + ((nint)(start + first - from) * dim), last - first, dim,
                        last == own ? shares[own] : 1f, asked.Out(row) + ((nint)head * dim));
                }
            }
        }
    }

    /// <summary>Positions `from` to `to` - 1 as float32: where they lie, or in room of this thread's own.</summary>
    private static float* Widened(CacheFormat format, byte* rows, int from, int to, int dim)
    {
        if (format == CacheFormat.Float32)
        {
            return (float*)rows + ((nint)from * dim);
        }

        float* tile = ThreadRoom.Widened.Of((long)(to - from) * dim);
        CacheRows<V, L>.Widen(format, rows + ((nint)from * CacheRows.Bytes(format, dim)), to - from, dim, tile);
        return tile;
    }
}
