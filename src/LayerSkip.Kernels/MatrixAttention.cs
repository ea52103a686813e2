using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace LayerSkip.Kernels;

/// <summary>What some packs of rows ask of one key head: the query heads that share it, of each row.</summary>
/// <param name="Queries">[rows; group; dim], of all rows.</param>
/// <param name="QueryStride">Floats from a row of them to the next.</param>
/// <param name="To">Of each pack [group; dim / 2; 32; 2] in bfloat16, written.</param>
/// <param name="ToStride">Floats from a pack of it to the next.</param>
/// <param name="Group">Query heads of the key head.</param>
/// <param name="FirstPack">The first pack of rows.</param>
/// <param name="Packs">How many.</param>
/// <param name="Rows">Rows of all packs.</param>
/// <param name="Start">The position of row 0; each sees those before it, and its own.</param>
/// <param name="Window">The most positions that a row sees; 0: all.</param>
/// <param name="Dim">Numbers of a head.</param>
internal readonly unsafe record struct PackedQueries(
    nint Queries, int QueryStride, nint To, int ToStride, int Group, int FirstPack, int Packs, int Rows, int Start, int Window, int Dim)
{
    /// <summary>The position of a pack's first row.</summary>
    internal int First(int pack) => Start + ((FirstPack + pack) * MatrixProduct.PackRows);

    /// <summary>One more than the last position that a pack's rows see.</summary>
    internal int Last(int pack) => Math.Min(First(pack) + MatrixProduct.PackRows, Start + Rows);

    /// <summary>The first position that the row at `position` sees.</summary>
    internal int Begins(int position) => Window > 0 ? Math.Max(0, position + 1 - Window) : 0;
}

/// <summary>
/// Attention of many rows on the matrix unit: queries, keys, values and the weights of their mixture are rounded to bfloat16, sums and
/// exponentials are float32. A chunk of positions after another, with the largest score so far (Milakov and Gimelshein, arXiv 1805.02867;
/// FlashAttention, arXiv 2205.14135). Scores are K q, [positions; rows], and mixtures V^T p: rows stand side by side in vectors, and two
/// positions' weights, as two numbers of a mixture, make a pair of a pack. Chunks begin at the same positions whatever is asked, so a
/// row's bits depend on that row alone.
/// </summary>
internal static unsafe class MatrixAttention
{
    /// <summary>Positions of a chunk.</summary>
    private const int Chunk = 128;

    /// <summary>Products come in multiples of so many positions, each of which libtorch compiles once.</summary>
    private const int Step = 32;

    private const int Rows = MatrixProduct.PackRows;

    /// <summary>Below every score, and yet a number.</summary>
    private const float Lowest = -1e30f;

    /// <summary>From there on numbers are not finite in bfloat16.</summary>
    private const int LargestBits = 0x7f7f8000;

    /// <summary>Whether heads of so many numbers can be packed.</summary>
    internal static bool Fits(int dim) => MatrixProduct.Fits(dim);

    /// <summary>softmax(q K^T / sqrt(dim)) V, of each query.</summary>
    /// <param name="format">Of keys and values.</param>
    /// <param name="keys">The key head's rows, from position 0 on.</param>
    /// <param name="values">Likewise.</param>
    /// <param name="asked">What is asked, and where the answers go.</param>
    internal static void Run<V, L>(CacheFormat format, byte* keys, byte* values, in PackedQueries asked)
        where V : unmanaged
        where L : struct, ILanes<V>
    {
        int dim = asked.Dim, items = asked.Packs * asked.Group;
        long item = Item.Floats(dim);
        float* memory = ThreadRoom.Scores.Of((items * item) + Room.Floats(dim));
        var room = new Room(memory + (items * item), dim);

        for (int i = 0; i < items; i++)
        {
            var own = new Item(memory + (i * item), dim);
            var (pack, head) = Math.DivRem(i, asked.Group);
            MatrixProduct.Pack(
                new ScaledRows((float*)asked.Queries + (head * dim), asked.QueryStride, 1f / MathF.Sqrt(dim), dim), dim,
                (asked.FirstPack + pack) * Rows, asked.Rows, own.Query);
            new Span<float>(own.Mixture, dim * Rows).Clear();
            new Span<float>(own.Largest, Rows).Fill(Lowest);
            new Span<float>(own.Total, Rows).Clear();
        }

        int end = asked.Last(asked.Packs - 1);

        for (int from = asked.Begins(asked.First(0)) / Chunk * Chunk; from < end; from += Chunk)
        {
            bool isFinite = Fill<V, L>(format, keys, values, from, Math.Min(Chunk, end - from), dim, room);

            for (int pack = 0; pack < asked.Packs; pack++)
            {
                int count = (Math.Min(Chunk, asked.Last(pack) - from) + Step - 1) / Step * Step;

                if (count <= 0 || from + Chunk <= asked.Begins(asked.First(pack)))
                {
                    continue;
                }

                for (int head = 0; head < asked.Group; head++)
                {
                    var own = new Item(memory + (((pack * asked.Group) + head) * item), dim);
                    MatrixUnit.Multiply(count, Rows, dim, dim, room.Keys, (uint*)own.Query, room.Scores, false);
                    Weigh(own, room, dim, from, count, asked.First(pack), asked.Window);

                    if (isFinite)
                    {
                        MatrixUnit.Multiply(dim, Rows, count, Chunk, room.Values, (uint*)room.Weights, own.Mixture, true);
                    }
                    else
                    {
                        MixSeen(own, room, dim, from, count, asked, pack);
                    }
                }
            }
        }

        for (int i = 0; i < items; i++)
        {
            var (pack, head) = Math.DivRem(i, asked.Group);
            Leave(
                new Item(memory + (i * item), dim), dim,
                (float*)asked.To + ((nint)(asked.FirstPack + pack) * asked.ToStride) + (head * MatrixProduct.PackFloats(dim)));
        }

        MatrixUnit.Release();
    }

    /// <summary>
    /// A chunk's keys [positions; dim] and values [dim; positions], rounded, and zeros up to a whole step. Says whether all values are finite.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static bool Fill<V, L>(CacheFormat format, byte* keys, byte* values, int from, int count, int dim, Room room)
        where V : unmanaged
        where L : struct, ILanes<V>
    {
        int bytes = CacheRows.Bytes(format, dim), padded = (count + Step - 1) / Step * Step;
        float* wide = room.Wide;
        CacheRows<V, L>.Widen(format, keys + ((nint)from * bytes), count, dim, wide);
        MatrixProduct.Round(wide, 1f, count * dim, room.Keys);
        new Span<ushort>(room.Keys + (count * dim), (padded - count) * dim).Clear();

        CacheRows<V, L>.Widen(format, values + ((nint)from * bytes), count, dim, wide);
        new Span<float>(wide + (count * dim), (padded - count) * dim).Clear();
        var largest = Vector512<int>.Zero;

        for (int i = 0; i < count * dim; i += Vector512<int>.Count)
        {
            largest = Vector512.Max(largest, Vector512.Load((int*)wide + i) & Vector512.Create(int.MaxValue));
        }

        for (int d = 0; d < dim; d += 8)
        {
            // Eight numbers of every position, turned.
            for (int at = 0; at < padded; at += 8)
            {
                MatrixProduct.Turn(wide + (at * dim) + d, dim, room.Turned + at, Chunk);
            }

            for (int own = 0; own < 8; own++)
            {
                MatrixProduct.Round(room.Turned + (own * Chunk), 1f, padded, room.Values + ((d + own) * Chunk));
            }
        }

        return !Vector512.GreaterThanOrEqualAny(largest, Vector512.Create(LargestBits));
    }

    /// <summary>Scores of a chunk to weights, as pairs of positions; what was mixed before shrinks as the largest score grows.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Weigh(Item own, Room room, int dim, int from, int count, int position, int window)
    {
        for (int lanes = 0; lanes < Rows; lanes += Vector512<float>.Count)
        {
            float* scores = room.Scores + lanes;
            int first = position + lanes;

            if (from + count > first + 1 || (window > 0 && from + window <= first + Vector512<float>.Count - 1))
            {
                Hide(scores, from, count, first, window);
            }

            var before = Vector512.Load(own.Largest + lanes);
            var largest = before;

            for (int at = 0; at < count; at++)
            {
                largest = Vector512.Max(largest, Vector512.Load(scores + (at * Rows)));
            }

            var total = Vector512<float>.Zero;

            for (int at = 0; at < count; at += 2)
            {
                var one = Vector512.Exp(Vector512.Load(scores + (at * Rows)) - largest);
                var two = Vector512.Exp(Vector512.Load(scores + ((at + 1) * Rows)) - largest);
                total += one + two;
                MatrixProduct.Pair(one, two).Store(room.Weights + (at / 2 * Rows) + lanes);
            }

            largest.Store(own.Largest + lanes);
            // .NET's e^0 is 1.0000001, and what did not grow must leave every bit.
            var shrinks = Vector512.ConditionalSelect(
                Vector512.Equals(before, largest), Vector512<float>.One, Vector512.Exp(before - largest));
            (total + (Vector512.Load(own.Total + lanes) * shrinks)).Store(own.Total + lanes);

            if (shrinks == Vector512<float>.One)
            {
                continue;
            }

            for (int d = 0; d < dim; d++)
            {
                float* at = own.Mixture + (d * Rows) + lanes;
                (Vector512.Load(at) * shrinks).Store(at);
            }
        }
    }

    /// <summary>No score where a row does not see a position.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Hide(float* scores, int from, int count, int first, int window)
    {
        var last = Vector512.Create(first) + Vector512<int>.Indices;
        var begins = window > 0 ? last - Vector512.Create(window) : Vector512.Create(int.MinValue);

        for (int at = 0; at < count; at++)
        {
            var here = Vector512.Create(from + at);
            var seen = Vector512.LessThanOrEqual(here, last) & Vector512.GreaterThan(here, begins);
            Vector512.ConditionalSelect(seen.AsSingle(), Vector512.Load(scores + (at * Rows)), Vector512.Create(float.NegativeInfinity))
                .Store(scores + (at * Rows));
        }
    }

    /// <summary>The mixture where a value is no number: those that see its position get none, and no others.</summary>
    private static void MixSeen(Item own, Room room, int dim, int from, int count, in PackedQueries asked, int pack)
    {
        for (int row = 0; row < Rows; row++)
        {
            int position = asked.First(pack) + row, begins = asked.Begins(position);

            for (int at = Math.Max(0, begins - from); at < Math.Min(count, position + 1 - from); at++)
            {
                float weight = Wide(((ushort*)room.Weights)[(((at / 2 * Rows) + row) * 2) + (at % 2)]);

                for (int d = 0; d < dim; d++)
                {
                    own.Mixture[(d * Rows) + row] += weight * Wide(room.Values[(d * Chunk) + at]);
                }
            }
        }
    }

    private static float Wide(ushort rounded) => BitConverter.UInt32BitsToSingle((uint)rounded << 16);

    /// <summary>A mixture over its total, as a pack [dim / 2; 32; 2].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Leave(Item own, int dim, float* to)
    {
        for (int lanes = 0; lanes < Rows; lanes += Vector512<float>.Count)
        {
            var share = Vector512<float>.One / Vector512.Load(own.Total + lanes);

            for (int d = 0; d < dim; d += 2)
            {
                float* at = own.Mixture + (d * Rows) + lanes;
                MatrixProduct.Pair(Vector512.Load(at) * share, Vector512.Load(at + Rows) * share).Store(to + (d / 2 * Rows) + lanes);
            }
        }
    }

    /// <summary>A head's queries of a pack, and how far they are.</summary>
    private readonly struct Item
    {
        /// <summary>[dim / 2; 32; 2], scaled.</summary>
        internal readonly float* Query;

        /// <summary>[dim; 32]</summary>
        internal readonly float* Mixture;

        /// <summary>[32]: the largest score.</summary>
        internal readonly float* Largest;

        /// <summary>[32]: the sum of weights.</summary>
        internal readonly float* Total;

        internal Item(float* memory, int dim)
        {
            Query = memory;
            Mixture = Query + MatrixProduct.PackFloats(dim);
            Largest = Mixture + (dim * Rows);
            Total = Largest + Rows;
        }

        internal static long Floats(int dim) => MatrixProduct.PackFloats(dim) + (dim * Rows) + (2 * Rows);
    }

    /// <summary>What the items of a thread share.</summary>
    private readonly struct Room
    {
        /// <summary>[positions; 32]</summary>
        internal readonly float* Scores;

        /// <summary>[positions / 2; 32; 2]</summary>
        internal readonly float* Weights;

        /// <summary>[8; positions]</summary>
        internal readonly float* Turned;

        /// <summary>[positions; dim]</summary>
        internal readonly float* Wide;

        /// <summary>[positions; dim]</summary>
        internal readonly ushort* Keys;

        /// <summary>[dim; positions]</summary>
        internal readonly ushort* Values;

        internal Room(float* memory, int dim)
        {
            Scores = memory;
            Weights = Scores + (Chunk * Rows);
            Turned = Weights + (Chunk * Rows / 2);
            Wide = Turned + (Chunk * 8);
            Keys = (ushort*)(Wide + (Chunk * dim));
            Values = Keys + (Chunk * dim);
        }

        internal static long Floats(int dim) => (Chunk * Rows * 3 / 2) + (Chunk * 8) + (Chunk * dim * 2);
    }
}
