using System.Runtime.CompilerServices;

namespace LayerSkip.Kernels;

/// <summary>Unpacked weights of one output.</summary>
internal unsafe interface ITilePart<V>
    where V : unmanaged
{
    /// <summary>The sum and their product with a row of x.</summary>
    V Row(V sum, byte* x);
}

/// <summary>What tiles over quantised weights have in common.</summary>
internal static unsafe class QuantTile
{
    /// <summary>The most rows of a tile.</summary>
    internal const int Rows = 8;

    /// <summary>The most rows of a tile whose vectors have so many bytes: fewer registers hold fewer sums.</summary>
    internal static int MostRows(int vectorBytes) => vectorBytes switch { 64 => Rows, 32 => 6, _ => 4 };

    /// <summary>A part of every row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Step<V, P, Rows>(
        P p, byte* x, nint xStride,
        ref V r0, ref V r1, ref V r2, ref V r3, ref V r4, ref V r5, ref V r6, ref V r7)
        where V : unmanaged
        where P : struct, ITilePart<V>
        where Rows : unmanaged
    {
        r0 = p.Row(r0, x);

        if (sizeof(Rows) > 1)
        {
            x += xStride;
            r1 = p.Row(r1, x);
        }

        if (sizeof(Rows) > 2)
        {
            x += xStride;
            r2 = p.Row(r2, x);
        }

        if (sizeof(Rows) > 3)
        {
            x += xStride;
            r3 = p.Row(r3, x);
        }

        if (sizeof(Rows) > 4)
        {
            x += xStride;
            r4 = p.Row(r4, x);
        }

        if (sizeof(Rows) > 5)
        {
            x += xStride;
            r5 = p.Row(r5, x);
        }

        if (sizeof(Rows) > 6)
        {
            x += xStride;
            r6 = p.Row(r6, x);
        }

        if (sizeof(Rows) > 7)
        {
            x += xStride;
            r7 = p.Row(r7, x);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Store<V, L, Rows>(float* y, nint yStride, V r0, V r1, V r2, V r3, V r4, V r5, V r6, V r7)
        where V : unmanaged
        where L : struct, IByteLanes<V>
        where Rows : unmanaged
    {
        var first = L.Sum4(r0, r1, r2, r3);
        y[0] = first[0];

        if (sizeof(Rows) > 1)
        {
            y[yStride] = first[1];
        }

        if (sizeof(Rows) > 2)
        {
            y[2 * yStride] = first[2];
        }

        if (sizeof(Rows) > 3)
        {
            y[3 * yStride] = first[3];
        }

        if (sizeof(Rows) > 4)
        {
            var second = L.Sum4(r4, r5, r6, r7);
            y[4 * yStride] = second[0];

            if (sizeof(Rows) > 5)
            {
                y[5 * yStride] = second[1];
            }

            if (sizeof(Rows) > 6)
            {
                y[6 * yStride] = second[2];
            }

            if (sizeof(Rows) > 7)
            {
                y[7 * yStride] = second[3];
            }
        }
    }
}
