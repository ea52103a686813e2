using System.Runtime.CompilerServices;

namespace LayerSkip.Kernels;

/// <summary>y = x W^T for a range of W's rows, by tiles.</summary>
internal static unsafe class Products<V, L, W>
    where V : struct
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

    /// <summary>
    /// Rows of x [rows; k] times outputs `first` to `last` of weights [outs; k]: y[r * yStride + o].
    /// x is multiplied by the format's input scale already. `widened` has room for <see cref="WidenedFloats"/> numbers or three weight rows, whichever is more.
    /// </summary>
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

    private static void Few(
        byte* weights, int k, float* x, int xStride, float* y, int yStride, int rows, int first, int last)
    {
        nint stride = (nint)k * W.Bytes;
        int steps = k / L.Count * L.Count;
        int o = first;
        byte* w = weights + (first * stride);

        switch (rows)
        {
            case 1:
                for (; o <= last - 8; o += 8, w += 8 * stride)
                {
                    Tiles<V, L, W>.Rows1Outs8(w, stride, x, y + o, steps);
                }

                break;
            case 2:
                for (; o <= last - 4; o += 4, w += 4 * stride)
                {
                    Tiles<V, L, W>.Rows2Outs4(w, stride, x, xStride, y + o, yStride, steps);
                }

                break;
            case 3:
                for (; o <= last - 4; o += 4, w += 4 * stride)
                {
                    Tiles<V, L, W>.Rows3Outs4(w, stride, x, xStride, y + o, yStride, steps);
                }

                break;
            case 4 when IsWide:
                for (; o <= last - 4; o += 4, w += 4 * stride)
                {
                    Tiles<V, L, W>.Rows4Outs4(w, stride, x, xStride, y + o, yStride, steps);
                }

                break;
            case 4:
                for (; o <= last - 3; o += 3, w += 3 * stride)
                {
                    Tiles<V, L, W>.Rows4Outs3(w, stride, x, xStride, y + o, yStride, steps);
                }

                break;
            case 5 when IsWide:
                for (; o <= last - 4; o += 4, w += 4 * stride)
                {
                    Tiles<V, L, W>.Rows5Outs4(w, stride, x, xStride, y + o, yStride, steps);
                }

                break;
            case 5:
                for (; o <= last - 2; o += 2, w += 2 * stride)
                {
                    Tiles<V, L, W>.Rows5Outs2(w, stride, x, xStride, y + o, yStride, steps);
                }

                break;
            case 6 when IsWide:
                for (; o <= last - 4; o += 4, w += 4 * stride)
                {
                    Tiles<V, L, W>.Rows6Outs4(w, stride, x, xStride, y + o, yStride, steps);
                }

                break;
            default:
                for (; o <= last - 2; o += 2, w += 2 * stride)
                {
                    Tiles<V, L, W>.Rows6Outs2(w, stride, x, xStride, y + o, yStride, steps);
                }

                break;
        }

        Rest(w, stride, x, xStride, y, yStride, rows, o, last, steps);
        Tail(weights, k, x, xStride, y, yStride, rows, first, last, steps);
    }

    /// <summary>Outputs that fill no tile.</summary>
    private static void Rest(
        byte* w, nint stride, float* x, int xStride, float* y, int yStride, int rows, int o, int last, int steps)
    {
        for (; o < last; o++, w += stride)
        {
            for (int r = 0; r < rows; r++)
            {
                y[(r * (nint)yStride) + o] = Tiles<V, L, W>.One(w, x + (r * (nint)xStride), steps);
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

    /// <summary>Many rows over a block of float32 weights that lies near: four rows by three outputs at a time.</summary>
    private static void Block(float* weights, int k, float* x, int xStride, float* y, int yStride, int rows, int outs)
    {
        nint stride = (nint)k * sizeof(float);
        int steps = k / L.Count * L.Count;
        int r = 0;

        for (; r <= rows - 4; r += 4)
        {
            float* xs = x + (r * (nint)xStride);
            float* ys = y + (r * (nint)yStride);
            byte* w = (byte*)weights;
            int o = 0;

            for (; IsWide && o <= outs - 4; o += 4, w += 4 * stride)
            {
                Tiles<V, L, Float32<V, L>>.Rows4Outs4(w, stride, xs, xStride, ys + o, yStride, steps);
            }

            for (; o <= outs - 3; o += 3, w += 3 * stride)
            {
                Tiles<V, L, Float32<V, L>>.Rows4Outs3(w, stride, xs, xStride, ys + o, yStride, steps);
            }

            Products<V, L, Float32<V, L>>.Rest(w, stride, xs, xStride, ys, yStride, 4, o, outs, steps);
        }

        Products<V, L, Float32<V, L>>.Tail((byte*)weights, k, x, xStride, y, yStride, r, 0, outs, steps);

        if (r < rows)
        {
            Products<V, L, Float32<V, L>>.Few(
                (byte*)weights, k, x + (r * (nint)xStride), xStride, y + (r * (nint)yStride), yStride, rows - r, 0, outs);
        }
    }
}
