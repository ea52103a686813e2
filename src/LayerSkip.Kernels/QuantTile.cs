using System.Runtime.CompilerServices;

namespace LayerSkip.Kernels;

/// <summary>A tile of one format.</summary>
internal unsafe interface IQuantTile
{
    /// <summary>Bytes of weights that a step reads.</summary>
    static abstract int StepBytes { get; }

    /// <summary>Bytes of a row of x that a step reads.</summary>
    static abstract int InputBytes { get; }

    /// <summary>A stage of one output; row r's goes to y[r * yStride] at its last.</summary>
    static abstract void Run<Rows>(byte* w, byte* x, nint xStride, float* y, nint yStride, in Stage stage)
        where Rows : unmanaged;
}

/// <summary>Unpacked weights of one output.</summary>
internal unsafe interface ITilePart<V>
    where V : unmanaged
{
    /// <summary>The sum and their product with a row of x.</summary>
    V Row(V sum, byte* x);
}

/// <summary>
/// Which steps of an output a tile makes. The rows of x that many steps read may outgrow the first cache, and are then fetched anew for every output: so a
/// few outputs go through some steps at a time, and their sums wait in memory, as they were in registers.
/// </summary>
internal unsafe readonly struct Stage(int steps, byte* sums, bool isFirst, bool isLast, int shared, nint ahead)
{
    /// <summary>How many there are: blocks of 256, or groups of eight blocks of 32.</summary>
    internal readonly int Steps = steps;

    /// <summary>Of each row a vector; not used where the stage is all of an output.</summary>
    internal readonly byte* Sums = sums;

    internal readonly bool IsFirst = isFirst, IsLast = isLast;

    /// <summary>Blocks by which the last step begins early: see <see cref="Activations.Group"/>.</summary>
    internal readonly int Shared = shared;

    /// <summary>From where weights are read to those that are asked for meanwhile.</summary>
    internal readonly nint Ahead = ahead;
}

/// <summary>What tiles over quantised weights have in common.</summary>
internal static unsafe class QuantTile
{
    /// <summary>Bytes of x that stay in the first cache while weights pass.</summary>
    private const int NearInputs = 24 * 1024;

    /// <summary>Outputs that go through a stage before the next.</summary>
    private const int Together = 32;

    /// <summary>The most rows of a tile.</summary>
    internal const int Rows = 8;

    /// <summary>The most rows of a tile whose vectors have so many bytes: fewer registers hold fewer sums.</summary>
    internal static int MostRows(int vectorBytes) => vectorBytes switch { 64 => Rows, 32 => 6, _ => 4 };

    /// <summary>The outputs of rows of weights that begin at w, each of so many steps.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    [SkipLocalsInit]
    internal static void Outputs<V, T, Rows>(
        byte* w, byte* end, nint stride, int steps, int shared, byte* x, nint xStride, float* y, nint yStride)
        where V : unmanaged
        where T : struct, IQuantTile
        where Rows : unmanaged
    {
        int most = Math.Max(1, NearInputs / (sizeof(Rows) * T.InputBytes));

        if (sizeof(Rows) == 1 || steps <= most)
        {
            var whole = new Stage(steps, null, true, true, shared, Ahead.Distance);

            for (; w < end; w += stride)
            {
                T.Run<Rows>(w, x, xStride, y++, yStride, whole);
            }

            return;
        }

        int stages = (steps + most - 1) / most, each = (steps + stages - 1) / stages, rowBytes = sizeof(Rows) * sizeof(V);
        byte* room = stackalloc byte[(Together * rowBytes) + 64];
        byte* sums = (byte*)(((nint)room + 63) & ~63);

        for (; w < end; w += Together * stride, y += Together)
        {
            int outputs = (int)Math.Min(Together, (end - w) / stride);

            for (int from = 0; from < steps; from += each)
            {
                int count = Math.Min(each, steps - from), bytes = count * T.StepBytes;
                int distance = Math.Min(outputs, 1 + (Ahead.Distance / bytes));
                bool isLast = from + count == steps;
                // What follows the last outputs of a stage is the next stage of the first, or the first stage of those after them.
                nint turn = isLast ? -((nint)from * T.StepBytes) : bytes - (outputs * stride);

                for (int output = 0; output < outputs; output++)
                {
                    nint ahead = (distance * stride) + (output + distance < outputs ? 0 : turn);
                    var stage = new Stage(count, sums + (output * rowBytes), from == 0, isLast, isLast ? shared : 0, ahead);
                    T.Run<Rows>(w + (output * stride) + (from * T.StepBytes), x + (from * T.InputBytes), xStride, y + output, yStride, stage);
                }
            }
        }
    }

    /// <summary>Sums as the stage before left them.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Take<V, Rows>(
        V* sums, ref V r0, ref V r1, ref V r2, ref V r3, ref V r4, ref V r5, ref V r6, ref V r7)
        where V : unmanaged
        where Rows : unmanaged
    {
        r0 = sums[0];

        if (sizeof(Rows) > 1)
        {
            r1 = sums[1];
        }

        if (sizeof(Rows) > 2)
        {
            r2 = sums[2];
        }

        if (sizeof(Rows) > 3)
        {
            r3 = sums[3];
        }

        if (sizeof(Rows) > 4)
        {
            r4 = sums[4];
        }

        if (sizeof(Rows) > 5)
        {
            r5 = sums[5];
        }

        if (sizeof(Rows) > 6)
        {
            r6 = sums[6];
        }

        if (sizeof(Rows) > 7)
        {
            r7 = sums[7];
        }
    }

    /// <summary>Leaves sums for the next stage.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Leave<V, Rows>(V* sums, V r0, V r1, V r2, V r3, V r4, V r5, V r6, V r7)
        where V : unmanaged
        where Rows : unmanaged
    {
        sums[0] = r0;

        if (sizeof(Rows) > 1)
        {
            sums[1] = r1;
        }

        if (sizeof(Rows) > 2)
        {
            sums[2] = r2;
        }

        if (sizeof(Rows) > 3)
        {
            sums[3] = r3;
        }

        if (sizeof(Rows) > 4)
        {
            sums[4] = r4;
        }

        if (sizeof(Rows) > 5)
        {
            sums[5] = r5;
        }

        if (sizeof(Rows) > 6)
        {
            sums[6] = r6;
        }

        if (sizeof(Rows) > 7)
        {
            sums[7] = r7;
        }
    }

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
