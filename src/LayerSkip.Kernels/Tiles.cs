using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LayerSkip.Kernels;

/// <summary>
/// The inner products of a few rows of x with a few rows of weights, all held in registers. Every sum is one chain
/// of multiply-adds over k, lane by lane, added up at the end in one order: so neither the tile that a sum falls in
/// nor the rows beside it change its bits.
/// </summary>
/// <remarks>
/// Element (r, o) goes to y[r * yStride + o]; `steps` counts elements and is a multiple of the lanes. x is multiplied by
/// the format's input scale already.
/// </remarks>
internal static unsafe class Tiles<V, L, W>
    where V : struct
    where L : struct, ILanes<V>
    where W : struct, IFormat<V>
{
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Rows1Outs8(byte* w, nint wStride, float* x, float* y, int steps)
    {
        V a0 = default, a1 = default, a2 = default, a3 = default, a4 = default, a5 = default, a6 = default, a7 = default;
        byte* w4 = w + (4 * wStride);
        byte* next = Ahead.Of(w, wStride);

        for (nint k = 0; k < steps; k += L.Count)
        {
            next = Ahead.Fetch(next, 8 * L.Count * W.Bytes);
            var v = L.Load(x + k);
            a0 = L.MultiplyAdd(W.Load(w, k), v, a0);
            a1 = L.MultiplyAdd(W.Load(w + wStride, k), v, a1);
            a2 = L.MultiplyAdd(W.Load(w + (2 * wStride), k), v, a2);
            a3 = L.MultiplyAdd(W.Load(w + (3 * wStride), k), v, a3);
            a4 = L.MultiplyAdd(W.Load(w4, k), v, a4);
            a5 = L.MultiplyAdd(W.Load(w4 + wStride, k), v, a5);
            a6 = L.MultiplyAdd(W.Load(w4 + (2 * wStride), k), v, a6);
            a7 = L.MultiplyAdd(W.Load(w4 + (3 * wStride), k), v, a7);
        }

        Sum(a0, a1, a2, a3).Store(y);
        Sum(a4, a5, a6, a7).Store(y + 4);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Rows2Outs4(byte* w, nint wStride, float* x, int xStride, float* y, int yStride, int steps)
    {
        V a0 = default, a1 = default, a2 = default, a3 = default, b0 = default, b1 = default, b2 = default, b3 = default;
        float* x1 = x + xStride;
        byte* next = Ahead.Of(w, wStride);

        for (nint k = 0; k < steps; k += L.Count)
        {
            next = Ahead.Fetch(next, 4 * L.Count * W.Bytes);
            V v0 = L.Load(x + k), v1 = L.Load(x1 + k);
            var u = W.Load(w, k);
            a0 = L.MultiplyAdd(u, v0, a0);
            b0 = L.MultiplyAdd(u, v1, b0);
            u = W.Load(w + wStride, k);
            a1 = L.MultiplyAdd(u, v0, a1);
            b1 = L.MultiplyAdd(u, v1, b1);
            u = W.Load(w + (2 * wStride), k);
            a2 = L.MultiplyAdd(u, v0, a2);
            b2 = L.MultiplyAdd(u, v1, b2);
            u = W.Load(w + (3 * wStride), k);
            a3 = L.MultiplyAdd(u, v0, a3);
            b3 = L.MultiplyAdd(u, v1, b3);
        }

        Sum(a0, a1, a2, a3).Store(y);
        Sum(b0, b1, b2, b3).Store(y + yStride);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Rows3Outs4(byte* w, nint wStride, float* x, int xStride, float* y, int yStride, int steps)
    {
        V a0 = default, a1 = default, a2 = default, a3 = default, b0 = default, b1 = default, b2 = default, b3 = default;
        V c0 = default, c1 = default, c2 = default, c3 = default;
        float* x1 = x + xStride;
        float* x2 = x1 + xStride;
        byte* next = Ahead.Of(w, wStride);

        for (nint k = 0; k < steps; k += L.Count)
        {
            next = Ahead.Fetch(next, 4 * L.Count * W.Bytes);
            V v0 = L.Load(x + k), v1 = L.Load(x1 + k), v2 = L.Load(x2 + k);
            var u = W.Load(w, k);
            a0 = L.MultiplyAdd(u, v0, a0);
            b0 = L.MultiplyAdd(u, v1, b0);
            c0 = L.MultiplyAdd(u, v2, c0);
            u = W.Load(w + wStride, k);
            a1 = L.MultiplyAdd(u, v0, a1);
            b1 = L.MultiplyAdd(u, v1, b1);
            c1 = L.MultiplyAdd(u, v2, c1);
            u = W.Load(w + (2 * wStride), k);
            a2 = L.MultiplyAdd(u, v0, a2);
            b2 = L.MultiplyAdd(u, v1, b2);
            c2 = L.MultiplyAdd(u, v2, c2);
            u = W.Load(w + (3 * wStride), k);
            a3 = L.MultiplyAdd(u, v0, a3);
            b3 = L.MultiplyAdd(u, v1, b3);
            c3 = L.MultiplyAdd(u, v2, c3);
        }

        Sum(a0, a1, a2, a3).Store(y);
        Sum(b0, b1, b2, b3).Store(y + yStride);
        Sum(c0, c1, c2, c3).Store(y + (2 * yStride));
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Rows4Outs3(byte* w, nint wStride, float* x, int xStride, float* y, int yStride, int steps)
    {
        V a0 = default, a1 = default, a2 = default, b0 = default, b1 = default, b2 = default;
        V c0 = default, c1 = default, c2 = default, d0 = default, d1 = default, d2 = default;
        float* x1 = x + xStride;
        float* x2 = x1 + xStride;
        float* x3 = x2 + xStride;
        byte* next = Ahead.Of(w, wStride);

        for (nint k = 0; k < steps; k += L.Count)
        {
            next = Ahead.Fetch(next, 3 * L.Count * W.Bytes);
            V u0 = W.Load(w, k), u1 = W.Load(w + wStride, k), u2 = W.Load(w + (2 * wStride), k);
            var v = L.Load(x + k);
            a0 = L.MultiplyAdd(u0, v, a0);
            a1 = L.MultiplyAdd(u1, v, a1);
            a2 = L.MultiplyAdd(u2, v, a2);
            v = L.Load(x1 + k);
            b0 = L.MultiplyAdd(u0, v, b0);
            b1 = L.MultiplyAdd(u1, v, b1);
            b2 = L.MultiplyAdd(u2, v, b2);
            v = L.Load(x2 + k);
            c0 = L.MultiplyAdd(u0, v, c0);
            c1 = L.MultiplyAdd(u1, v, c1);
            c2 = L.MultiplyAdd(u2, v, c2);
            v = L.Load(x3 + k);
            d0 = L.MultiplyAdd(u0, v, d0);
            d1 = L.MultiplyAdd(u1, v, d1);
            d2 = L.MultiplyAdd(u2, v, d2);
        }

        Down4(Sum(a0, b0, c0, d0), y, yStride);
        Down4(Sum(a1, b1, c1, d1), y + 1, yStride);
        Down4(Sum(a2, b2, c2, d2), y + 2, yStride);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Rows5Outs2(byte* w, nint wStride, float* x, int xStride, float* y, int yStride, int steps)
    {
        V a0 = default, a1 = default, b0 = default, b1 = default, c0 = default, c1 = default, d0 = default, d1 = default;
        V e0 = default, e1 = default;
        float* x1 = x + xStride;
        float* x2 = x1 + xStride;
        float* x3 = x2 + xStride;
        float* x4 = x3 + xStride;
        byte* next = Ahead.Of(w, wStride);

        for (nint k = 0; k < steps; k += L.Count)
        {
            next = Ahead.Fetch(next, 2 * L.Count * W.Bytes);
            V u0 = W.Load(w, k), u1 = W.Load(w + wStride, k);
            var v = L.Load(x + k);
            a0 = L.MultiplyAdd(u0, v, a0);
            a1 = L.MultiplyAdd(u1, v, a1);
            v = L.Load(x1 + k);
            b0 = L.MultiplyAdd(u0, v, b0);
            b1 = L.MultiplyAdd(u1, v, b1);
            v = L.Load(x2 + k);
            c0 = L.MultiplyAdd(u0, v, c0);
            c1 = L.MultiplyAdd(u1, v, c1);
            v = L.Load(x3 + k);
            d0 = L.MultiplyAdd(u0, v, d0);
            d1 = L.MultiplyAdd(u1, v, d1);
            v = L.Load(x4 + k);
            e0 = L.MultiplyAdd(u0, v, e0);
            e1 = L.MultiplyAdd(u1, v, e1);
        }

        Down4(Sum(a0, b0, c0, d0), y, yStride);
        Down4(Sum(a1, b1, c1, d1), y + 1, yStride);
        Sum(e0, e1, e0, e1).GetLower().Store(y + (4 * yStride));
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Rows6Outs2(byte* w, nint wStride, float* x, int xStride, float* y, int yStride, int steps)
    {
        V a0 = default, a1 = default, b0 = default, b1 = default, c0 = default, c1 = default, d0 = default, d1 = default;
        V e0 = default, e1 = default, f0 = default, f1 = default;
        float* x1 = x + xStride;
        float* x2 = x1 + xStride;
        float* x3 = x2 + xStride;
        float* x4 = x3 + xStride;
        float* x5 = x4 + xStride;
        byte* next = Ahead.Of(w, wStride);

        for (nint k = 0; k < steps; k += L.Count)
        {
            next = Ahead.Fetch(next, 2 * L.Count * W.Bytes);
            V u0 = W.Load(w, k), u1 = W.Load(w + wStride, k);
            var v = L.Load(x + k);
            a0 = L.MultiplyAdd(u0, v, a0);
            a1 = L.MultiplyAdd(u1, v, a1);
            v = L.Load(x1 + k);
            b0 = L.MultiplyAdd(u0, v, b0);
            b1 = L.MultiplyAdd(u1, v, b1);
            v = L.Load(x2 + k);
            c0 = L.MultiplyAdd(u0, v, c0);
            c1 = L.MultiplyAdd(u1, v, c1);
            v = L.Load(x3 + k);
            d0 = L.MultiplyAdd(u0, v, d0);
            d1 = L.MultiplyAdd(u1, v, d1);
            v = L.Load(x4 + k);
            e0 = L.MultiplyAdd(u0, v, e0);
            e1 = L.MultiplyAdd(u1, v, e1);
            v = L.Load(x5 + k);
            f0 = L.MultiplyAdd(u0, v, f0);
            f1 = L.MultiplyAdd(u1, v, f1);
        }

        Down4(Sum(a0, b0, c0, d0), y, yStride);
        Down4(Sum(a1, b1, c1, d1), y + 1, yStride);
        var last = Sum(e0, e1, f0, f1);
        last.GetLower().Store(y + (4 * yStride));
        last.GetUpper().Store(y + (5 * yStride));
    }

    // The next three need more than 16 registers.

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Rows4Outs4(byte* w, nint wStride, float* x, int xStride, float* y, int yStride, int steps)
    {
        V a0 = default, a1 = default, a2 = default, a3 = default;
        V b0 = default, b1 = default, b2 = default, b3 = default;
        V c0 = default, c1 = default, c2 = default, c3 = default;
        V d0 = default, d1 = default, d2 = default, d3 = default;
        float* x1 = x + xStride;
        float* x2 = x1 + xStride;
        float* x3 = x2 + xStride;
        byte* next = Ahead.Of(w, wStride);

        for (nint k = 0; k < steps; k += L.Count)
        {
            next = Ahead.Fetch(next, 4 * L.Count * W.Bytes);
            V u0 = W.Load(w, k), u1 = W.Load(w + wStride, k);
            V u2 = W.Load(w + (2 * wStride), k), u3 = W.Load(w + (3 * wStride), k);
            var v = L.Load(x + k);
            a0 = L.MultiplyAdd(u0, v, a0);
            a1 = L.MultiplyAdd(u1, v, a1);
            a2 = L.MultiplyAdd(u2, v, a2);
            a3 = L.MultiplyAdd(u3, v, a3);
            v = L.Load(x1 + k);
            b0 = L.MultiplyAdd(u0, v, b0);
            b1 = L.MultiplyAdd(u1, v, b1);
            b2 = L.MultiplyAdd(u2, v, b2);
            b3 = L.MultiplyAdd(u3, v, b3);
            v = L.Load(x2 + k);
            c0 = L.MultiplyAdd(u0, v, c0);
            c1 = L.MultiplyAdd(u1, v, c1);
            c2 = L.MultiplyAdd(u2, v, c2);
            c3 = L.MultiplyAdd(u3, v, c3);
            v = L.Load(x3 + k);
            d0 = L.MultiplyAdd(u0, v, d0);
            d1 = L.MultiplyAdd(u1, v, d1);
            d2 = L.MultiplyAdd(u2, v, d2);
            d3 = L.MultiplyAdd(u3, v, d3);
        }

        Sum(a0, a1, a2, a3).Store(y);
        Sum(b0, b1, b2, b3).Store(y + yStride);
        Sum(c0, c1, c2, c3).Store(y + (2 * yStride));
        Sum(d0, d1, d2, d3).Store(y + (3 * yStride));
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Rows5Outs4(byte* w, nint wStride, float* x, int xStride, float* y, int yStride, int steps)
    {
        V a0 = default, a1 = default, a2 = default, a3 = default;
        V b0 = default, b1 = default, b2 = default, b3 = default;
        V c0 = default, c1 = default, c2 = default, c3 = default;
        V d0 = default, d1 = default, d2 = default, d3 = default;
        V e0 = default, e1 = default, e2 = default, e3 = default;
        float* x1 = x + xStride;
        float* x2 = x1 + xStride;
        float* x3 = x2 + xStride;
        float* x4 = x3 + xStride;
        byte* next = Ahead.Of(w, wStride);

        for (nint k = 0; k < steps; k += L.Count)
        {
            next = Ahead.Fetch(next, 4 * L.Count * W.Bytes);
            V u0 = W.Load(w, k), u1 = W.Load(w + wStride, k);
            V u2 = W.Load(w + (2 * wStride), k), u3 = W.Load(w + (3 * wStride), k);
            var v = L.Load(x + k);
            a0 = L.MultiplyAdd(u0, v, a0);
            a1 = L.MultiplyAdd(u1, v, a1);
            a2 = L.MultiplyAdd(u2, v, a2);
            a3 = L.MultiplyAdd(u3, v, a3);
            v = L.Load(x1 + k);
            b0 = L.MultiplyAdd(u0, v, b0);
            b1 = L.MultiplyAdd(u1, v, b1);
            b2 = L.MultiplyAdd(u2, v, b2);
            b3 = L.MultiplyAdd(u3, v, b3);
            v = L.Load(x2 + k);
            c0 = L.MultiplyAdd(u0, v, c0);
            c1 = L.MultiplyAdd(u1, v, c1);
            c2 = L.MultiplyAdd(u2, v, c2);
            c3 = L.MultiplyAdd(u3, v, c3);
            v = L.Load(x3 + k);
            d0 = L.MultiplyAdd(u0, v, d0);
            d1 = L.MultiplyAdd(u1, v, d1);
            d2 = L.MultiplyAdd(u2, v, d2);
            d3 = L.MultiplyAdd(u3, v, d3);
            v = L.Load(x4 + k);
            e0 = L.MultiplyAdd(u0, v, e0);
            e1 = L.MultiplyAdd(u1, v, e1);
            e2 = L.MultiplyAdd(u2, v, e2);
            e3 = L.MultiplyAdd(u3, v, e3);
        }

        Sum(a0, a1, a2, a3).Store(y);
        Sum(b0, b1, b2, b3).Store(y + yStride);
        Sum(c0, c1, c2, c3).Store(y + (2 * yStride));
        Sum(d0, d1, d2, d3).Store(y + (3 * yStride));
        Sum(e0, e1, e2, e3).Store(y + (4 * yStride));
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Rows6Outs4(byte* w, nint wStride, float* x, int xStride, float* y, int yStride, int steps)
    {
        V a0 = default, a1 = default, a2 = default, a3 = default;
        V b0 = default, b1 = default, b2 = default, b3 = default;
        V c0 = default, c1 = default, c2 = default, c3 = default;
        V d0 = default, d1 = default, d2 = default, d3 = default;
        V e0 = default, e1 = default, e2 = default, e3 = default;
        V f0 = default, f1 = default, f2 = default, f3 = default;
        float* x1 = x + xStride;
        float* x2 = x1 + xStride;
        float* x3 = x2 + xStride;
        float* x4 = x3 + xStride;
        float* x5 = x4 + xStride;
        byte* next = Ahead.Of(w, wStride);

        for (nint k = 0; k < steps; k += L.Count)
        {
            next = Ahead.Fetch(next, 4 * L.Count * W.Bytes);
            V u0 = W.Load(w, k), u1 = W.Load(w + wStride, k);
            V u2 = W.Load(w + (2 * wStride), k), u3 = W.Load(w + (3 * wStride), k);
            var v = L.Load(x + k);
            a0 = L.MultiplyAdd(u0, v, a0);
            a1 = L.MultiplyAdd(u1, v, a1);
            a2 = L.MultiplyAdd(u2, v, a2);
            a3 = L.MultiplyAdd(u3, v, a3);
            v = L.Load(x1 + k);
            b0 = L.MultiplyAdd(u0, v, b0);
            b1 = L.MultiplyAdd(u1, v, b1);
            b2 = L.MultiplyAdd(u2, v, b2);
            b3 = L.MultiplyAdd(u3, v, b3);
            v = L.Load(x2 + k);
            c0 = L.MultiplyAdd(u0, v, c0);
            c1 = L.MultiplyAdd(u1, v, c1);
            c2 = L.MultiplyAdd(u2, v, c2);
            c3 = L.MultiplyAdd(u3, v, c3);
            v = L.Load(x3 + k);
            d0 = L.MultiplyAdd(u0, v, d0);
            d1 = L.MultiplyAdd(u1, v, d1);
            d2 = L.MultiplyAdd(u2, v, d2);
            d3 = L.MultiplyAdd(u3, v, d3);
            v = L.Load(x4 + k);
            e0 = L.MultiplyAdd(u0, v, e0);
            e1 = L.MultiplyAdd(u1, v, e1);
            e2 = L.MultiplyAdd(u2, v, e2);
            e3 = L.MultiplyAdd(u3, v, e3);
            v = L.Load(x5 + k);
            f0 = L.MultiplyAdd(u0, v, f0);
            f1 = L.MultiplyAdd(u1, v, f1);
            f2 = L.MultiplyAdd(u2, v, f2);
            f3 = L.MultiplyAdd(u3, v, f3);
        }

        Sum(a0, a1, a2, a3).Store(y);
        Sum(b0, b1, b2, b3).Store(y + yStride);
        Sum(c0, c1, c2, c3).Store(y + (2 * yStride));
        Sum(d0, d1, d2, d3).Store(y + (3 * yStride));
        Sum(e0, e1, e2, e3).Store(y + (4 * yStride));
        Sum(f0, f1, f2, f3).Store(y + (5 * yStride));
    }

    /// <summary>One weight row and one x row: what no larger tile covers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static float One(byte* w, float* x, int steps)
    {
        V a = default;

        for (nint k = 0; k < steps; k += L.Count)
        {
            a = L.MultiplyAdd(W.Load(w, k), L.Load(x + k), a);
        }

        return Sum(a, a, a, a).ToScalar();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Sum(V a, V b, V c, V d) => L.Sum4(a, b, c, d) * W.SumScale;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Down4(Vector128<float> values, float* y, int yStride)
    {
        y[0] = values[0];
        y[yStride] = values[1];
        y[2 * yStride] = values[2];
        y[3 * yStride] = values[3];
    }
}

/// <summary>
/// Asks for weights before they are needed. The processor does so by itself for long rows; where they are short, its
/// guess ends with each.
/// </summary>
internal static unsafe class Ahead
{
    private const int Rows = 16;
    private const int LongestRow = 4096;

    /// <summary>Where to begin, or null where rows are long.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static byte* Of(byte* weights, nint stride) =>
        stride <= LongestRow && Sse.IsSupported ? weights + (Rows * stride) : null;

    /// <summary>Asks for so many bytes more, and returns where they end.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static byte* Fetch(byte* from, int bytes)
    {
        if (from == null)
        {
            return null;
        }

        // Written out, since `bytes` is a constant of the tile and the compiler unrolls no loop over it.
        Sse.Prefetch0(from);

        if (bytes > 64)
        {
            Sse.Prefetch0(from + 64);
        }

        if (bytes > 128)
        {
            Sse.Prefetch0(from + 128);
            Sse.Prefetch0(from + 192);
        }

        if (bytes > 256)
        {
            Sse.Prefetch0(from + 256);
            Sse.Prefetch0(from + 320);
            Sse.Prefetch0(from + 384);
            Sse.Prefetch0(from + 448);
        }

        return from + bytes;
    }
}
