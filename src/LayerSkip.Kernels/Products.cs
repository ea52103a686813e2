using System.Runtime.CompilerServices;

namespace LayerSkip.Kernels;

/// <summary>y = x W^T for a range of W's rows, by tiles.</summary>
internal static unsafe class Products<V, L, W>
    where V : unmanaged
    where L : struct, ILanes<V>
    where W : struct, IFormat<V>
{
    /// <summary>The most rows of a tile that reads each weight once.</summary>
    private const int FewRows = 6;

    /// <summary>From so many rows on, 16-bit weights are widened once for all of them.</summary>
    private const int ManyRows = 17;

    /// <summary>AVX-512 has 32 registers, room for tiles of four outputs whose sums are added up and stored together.</summary>
    private static bool IsWide => L.Count == 16;

    /// <summary>Bytes of weights that stay near while several tiles pass over them.</summary>
    private const int NearBytes = 32 * 1024;

    /// <summary>Floats of widened weights that stay near the core while every row passes over them.</summary>
    internal const int WidenedFloats = 24 * 1024;

    /// <summary>This thread's room for widened weights: <see cref="WidenedFloats"/> numbers or three rows of k, whichever is more.</summary>
    internal static float* Room(int k) => ThreadRoom.Widened.Of(Math.Max(3L * k, WidenedFloats));

    /// <summary>Outputs `first` to `last` - 1 of y = x W^T. A number's bits depend neither on them nor on the rows beside its own.</summary>
    /// <param name="weights">W [outs; k], rows without gaps.</param>
    /// <param name="k">Numbers of a row of x and of W: the length of every sum.</param>
    /// <param name="x">[rows; k], multiplied by the format's input scale already.</param>
    /// <param name="xStride">Floats from a row of x to the next.</param>
    /// <param name="y">[rows; outs], written at [r * yStride + o].</param>
    /// <param name="yStride">Floats from a row of y to the next.</param>
    /// <param name="rows">How many rows; what runs depends on it: tiles, tiles near the core, or weights widened once.</param>
    /// <param name="first">The first output.</param>
    /// <param name="last">One more than the last.</param>
    /// <param name="widened">As <see cref="Room"/> gives; null will do for one row.</param>
    internal static void Run(
        byte* weights, int k, float* x, int xStride, float* y, int yStride, int rows, int first, int last, float* widened)
    {
        if (rows <= FewRows)
        {
            Few(weights, k, x, xStride, y, yStride, rows, first, last);
            return;
        }

        if (rows < ManyRows)
        {
            Several(weights, k, x, xStride, y, yStride, rows, first, last);
            return;
        }

        int block = Math.Max(3, WidenedFloats / k / 12 * 12);

        for (int from = first; from < last; from += block)
        {
            int count = Math.Min(block, last - from);
            byte* source = weights + ((nint)from * k * W.Bytes);

            if (W.Bytes == 4)
            {
                Block((float*)source, k, x, xStride, y + from, yStride, rows, count);
            }
            else
            {
                Widen(source, widened, count * k);
                Block(widened, k, x, xStride, y + from, yStride, rows, count);
            }
        }
    }

    /// <summary>`count` weights at their own size, as float32.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Widen(byte* source, float* to, int count)
    {
        int i = 0;

        for (; i <= count - L.Count; i += L.Count)
        {
            L.Store(to + i, L.Multiply(W.Load(source, i), L.Broadcast(W.SumScale)));
        }

        for (; i < count; i++)
        {
            to[i] = W.One(source, i) / W.InputScale;
        }
    }

    /// <summary>Four rows after four, and the last few, over as many outputs as stay near.</summary>
    private static void Several(
        byte* weights, int k, float* x, int xStride, float* y, int yStride, int rows, int first, int last)
    {
        int near = Math.Max(12, NearBytes / (k * W.Bytes) / 12 * 12);

        for (int from = first; from < last; from += near)
        {
            int to = Math.Min(last, from + near), row = 0;

            while (row < rows)
            {
                int group = rows - row > FewRows ? 4 : rows - row;
                Few(weights, k, x + (row * (nint)xStride), xStride, y + (row * (nint)yStride), yStride, group, from, to);
                row += group;
            }
        }
    }

    /// <summary>As <see cref="Run"/>, for at most <see cref="FewRows"/> rows: each weight is read once.</summary>
    internal static void Few(
        byte* weights, int k, float* x, int xStride, float* y, int yStride, int rows, int first, int last)
    {
        int steps = k / L.Count * L.Count;

        switch (rows)
        {
            case 1:
                Tiled<One, Eight>(weights, k, x, xStride, y, yStride, first, last, steps);
                break;
            case 2:
                Tiled<Two, Four>(weights, k, x, xStride, y, yStride, first, last, steps);
                break;
            case 3:
                Tiled<Three, Four>(weights, k, x, xStride, y, yStride, first, last, steps);
                break;
            case 4 when IsWide && last - first >= 4:
                Tiled<Four, Four>(weights, k, x, xStride, y, yStride, first, last, steps);
                break;
            case 4:
                Tiled<Four, Three>(weights, k, x, xStride, y, yStride, first, last, steps);
                break;
            case 5 when IsWide:
                Tiled<Five, Four>(weights, k, x, xStride, y, yStride, first, last, steps);
                break;
            case 5:
                Tiled<Five, Two>(weights, k, x, xStride, y, yStride, first, last, steps);
                break;
            case 6 when IsWide:
                Tiled<Six, Four>(weights, k, x, xStride, y, yStride, first, last, steps);
                break;
            default:
                Tiled<Six, Two>(weights, k, x, xStride, y, yStride, first, last, steps);
                break;
        }

        Tail(weights, k, x, xStride, y, yStride, rows, first, last, steps);
    }

    /// <summary>By tiles of one size, and what fills none of them number by number.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Tiled<Rows, Outs>(
        byte* weights, int k, float* x, int xStride, float* y, int yStride, int first, int last, int steps)
        where Rows : unmanaged
        where Outs : unmanaged
    {
        nint stride = (nint)k * W.Bytes;
        byte* w = weights + (first * stride);
        int o = first;

        for (; o <= last - sizeof(Outs); o += sizeof(Outs), w += sizeof(Outs) * stride)
        {
            if (sizeof(Rows) < 4)
            {
                Tile<V, L, W, HoldRows, Rows, Outs>.Run(w, stride, x, xStride, y + o, yStride, steps);
            }
            else
            {
                Tile<V, L, W, HoldWeights, Outs, Rows>.Run(w, stride, x, xStride, y + o, yStride, steps);
            }
        }

        for (; o < last; o++, w += stride)
        {
            for (int r = 0; r < sizeof(Rows); r++)
            {
                nint row = r;
                Tile<V, L, W, HoldRows, One, One>.Run(w, stride, x + (row * xStride), xStride, y + (row * yStride) + o, yStride, steps);
            }
        }
    }

    /// <summary>What a whole vector does not cover, added to each sum: the same additions whatever the tile was.</summary>
    private static void Tail(
        byte* weights, int k, float* x, int xStride, float* y, int yStride, int rows, int first, int last, int steps)
    {
        if (steps == k)
        {
            return;
        }

        for (int o = first; o < last; o++)
        {
            byte* w = weights + ((nint)o * k * W.Bytes);

            for (int r = 0; r < rows; r++)
            {
                float* row = x + (r * (nint)xStride);
                float sum = y[(r * (nint)yStride) + o];

                for (int i = steps; i < k; i++)
                {
                    sum += W.One(w, i) / W.InputScale * row[i];
                }

                y[(r * (nint)yStride) + o] = sum;
            }
        }
    }

    /// <summary>Many rows over a block of float32 weights [outs; k] that lies near: four rows by three outputs at a time.</summary>
    private static void Block(float* weights, int k, float* x, int xStride, float* y, int yStride, int rows, int outs)
    {
        for (int r = 0; r < rows; r += 4)
        {
            Products<V, L, Float32<V, L>>.Few(
                (byte*)weights, k, x + (r * (nint)xStride), xStride, y + (r * (nint)yStride), yStride, Math.Min(4, rows - r), 0, outs);
        }
    }
}
