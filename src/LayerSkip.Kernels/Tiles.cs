using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LayerSkip.Kernels;

// Numbers that are part of a type, as its size in bytes: `sizeof` is known to the compiler before it reads a branch, so that
// a tile's code has only what its own size needs. (Properties, as static abstract ones, are known too late: what a size lacks is
// then read and inlined first, up to the most locals that a method may have, and the rest stays calls.)

internal readonly struct One;

[StructLayout(LayoutKind.Sequential, Size = 2)]
internal readonly struct Two;

[StructLayout(LayoutKind.Sequential, Size = 3)]
internal readonly struct Three;

[StructLayout(LayoutKind.Sequential, Size = 4)]
internal readonly struct Four;

[StructLayout(LayoutKind.Sequential, Size = 5)]
internal readonly struct Five;

[StructLayout(LayoutKind.Sequential, Size = 6)]
internal readonly struct Six;

[StructLayout(LayoutKind.Sequential, Size = 7)]
internal readonly struct Seven;

[StructLayout(LayoutKind.Sequential, Size = 8)]
internal readonly struct Eight;

/// <summary>A tile's rows of x stay in registers while weights pass.</summary>
internal readonly struct HoldRows;

/// <summary>A tile's weights stay in registers while rows of x pass.</summary>
internal readonly struct HoldWeights;

/// <summary>
/// The inner products of a few rows of x with a few rows of weights, all held in registers. Every sum is one chain
/// of multiply-adds over k, lane by lane, added up at the end in one order: so neither the tile that a sum falls in
/// nor the rows beside it change its bits.
/// </summary>
/// <remarks>
/// At most 4 are held, and 6 pass, or 8 where 1 is held. The sizes in use: rows held, 1 by 1 or 8 outputs, 2 and 3 by 4;
/// weights held, 3 or 4 by 4 rows, 2 or 4 by 5 and 6.
/// </remarks>
internal static unsafe class Tile<V, L, W, Order, Held, Passing>
    where V : unmanaged
    where L : struct, ILanes<V>
    where W : struct, IFormat<V>
    where Order : unmanaged
    where Held : unmanaged
    where Passing : unmanaged
{
    /// <summary>
    /// Element (r, o) goes to y[r * yStride + o]; `steps` counts elements and is a multiple of the lanes. x is multiplied by
    /// the format's input scale already.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Run(byte* w, nint wStride, float* x, int xStride, float* y, int yStride, int steps)
    {
        // A letter for each that passes, a digit for each that is held. Those that a size lacks cost nothing.
        V a0 = default, a1 = default, a2 = default, a3 = default;
        V b0 = default, b1 = default, b2 = default, b3 = default;
        V c0 = default, c1 = default, c2 = default, c3 = default;
        V d0 = default, d1 = default, d2 = default, d3 = default;
        V e0 = default, e1 = default, e2 = default, e3 = default;
        V f0 = default, f1 = default, f2 = default, f3 = default;
        V g0 = default, h0 = default, none = default;
        nint rowStride = (nint)xStride * sizeof(float);
        byte* held = typeof(Order) == typeof(HoldRows) ? (byte*)x : w;
        byte* p0 = typeof(Order) == typeof(HoldRows) ? w : (byte*)x;
        nint heldStride = typeof(Order) == typeof(HoldRows) ? rowStride : wStride;
        nint stride = typeof(Order) == typeof(HoldRows) ? wStride : rowStride;
        int outs = typeof(Order) == typeof(HoldRows) ? sizeof(Passing) : sizeof(Held);
        byte* p1 = p0 + stride, p2 = p1 + stride, p3 = p2 + stride, p4 = p3 + stride, p5 = p4 + stride, p6 = p5 + stride, p7 = p6 + stride;
        byte* held1 = held + heldStride;
        byte* next = Ahead.Of(w, wStride);

        for (nint k = 0; k < steps; k += L.Count)
        {
            next = Ahead.Fetch(next, outs * L.Count * W.Bytes);
            V u0 = Hold(held, k);
            V u1 = sizeof(Held) > 1 ? Hold(held1, k) : default;
            V u2 = sizeof(Held) > 2 ? Hold(held1 + heldStride, k) : default;
            V u3 = sizeof(Held) > 3 ? Hold(held1 + (2 * heldStride), k) : default;
            Add(Pass(p0, k), u0, u1, u2, u3, ref a0, ref a1, ref a2, ref a3);

            if (sizeof(Passing) > 1)
            {
                Add(Pass(p1, k), u0, u1, u2, u3, ref b0, ref b1, ref b2, ref b3);
            }

            if (sizeof(Passing) > 2)
            {
                Add(Pass(p2, k), u0, u1, u2, u3, ref c0, ref c1, ref c2, ref c3);
                Add(Pass(p3, k), u0, u1, u2, u3, ref d0, ref d1, ref d2, ref d3);
            }

            if (sizeof(Passing) > 4)
            {
                Add(Pass(p4, k), u0, u1, u2, u3, ref e0, ref e1, ref e2, ref e3);
            }

            if (sizeof(Passing) > 5)
            {
                Add(Pass(p5, k), u0, u1, u2, u3, ref f0, ref f1, ref f2, ref f3);
            }

            if (sizeof(Passing) > 6)
            {
                Add(Pass(p6, k), u0, u1, u2, u3, ref g0, ref none, ref none, ref none);
                Add(Pass(p7, k), u0, u1, u2, u3, ref h0, ref none, ref none, ref none);
            }
        }

        if (sizeof(Passing) == 1)
        {
            *y = Sum(a0, a0, a0, a0).ToScalar();
        }
        else if (typeof(Order) == typeof(HoldRows))
        {
            Sum(a0, b0, c0, d0).Store(y);

            if (sizeof(Passing) > 4)
            {
                Sum(e0, f0, g0, h0).Store(y + 4);
            }

            if (sizeof(Held) > 1)
            {
                Sum(a1, b1, c1, d1).Store(y + yStride);
            }

            if (sizeof(Held) > 2)
            {
                Sum(a2, b2, c2, d2).Store(y + (2 * yStride));
            }
        }
        else if (sizeof(Held) == 4)
        {
            Sum(a0, a1, a2, a3).Store(y);
            Sum(b0, b1, b2, b3).Store(y + yStride);
            Sum(c0, c1, c2, c3).Store(y + (2 * yStride));
            Sum(d0, d1, d2, d3).Store(y + (3 * yStride));

            if (sizeof(Passing) > 4)
            {
                Sum(e0, e1, e2, e3).Store(y + (4 * yStride));
            }

            if (sizeof(Passing) > 5)
            {
                Sum(f0, f1, f2, f3).Store(y + (5 * yStride));
            }
        }
        else
        {
            Down4(Sum(a0, b0, c0, d0), y, yStride);
            Down4(Sum(a1, b1, c1, d1), y + 1, yStride);

            if (sizeof(Held) > 2)
            {
                Down4(Sum(a2, b2, c2, d2), y + 2, yStride);
            }

            if (sizeof(Passing) > 4)
            {
                var last = Sum(e0, e1, f0, f1);
                last.GetLower().Store(y + (4 * yStride));

                if (sizeof(Passing) > 5)
                {
                    last.GetUpper().Store(y + (5 * yStride));
                }
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static V Hold(byte* from, nint at) => typeof(Order) == typeof(HoldRows) ? L.Load((float*)from + at) : W.Load(from, at);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static V Pass(byte* from, nint at) => typeof(Order) == typeof(HoldRows) ? W.Load(from, at) : L.Load((float*)from + at);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Add(V v, V u0, V u1, V u2, V u3, ref V a0, ref V a1, ref V a2, ref V a3)
    {
        a0 = L.MultiplyAdd(u0, v, a0);

        if (sizeof(Held) > 1)
        {
            a1 = L.MultiplyAdd(u1, v, a1);
        }

        if (sizeof(Held) > 2)
        {
            a2 = L.MultiplyAdd(u2, v, a2);
        }

        if (sizeof(Held) > 3)
        {
            a3 = L.MultiplyAdd(u3, v, a3);
        }
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

    /// <summary>How far before their use quantised blocks are asked for: a page and a half, since the processor's own asking ends with a page.</summary>
    internal const int Distance = 6144;

    /// <summary>Asks for the lines of so many bytes, which lie so far from where the processor is.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Line(byte* block, nint distance, int bytes)
    {
        if (Sse.IsSupported)
        {
            block += distance;
            Sse.Prefetch0(block);

            if (bytes > 64)
            {
                Sse.Prefetch0(block + 64);
            }

            if (bytes > 128)
            {
                Sse.Prefetch0(block + 128);
            }

            if (bytes > 192)
            {
                Sse.Prefetch0(block + 192);
                Sse.Prefetch0(block + 256);
            }
        }
    }

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
