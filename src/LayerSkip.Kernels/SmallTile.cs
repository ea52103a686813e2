using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace LayerSkip.Kernels;

/// <summary>As <see cref="SuperTile{V, L, F, Rows}"/>, of blocks of 32: eight of them, a group of activations, at a time.</summary>
internal static unsafe class SmallTile<V, L, F, Rows>
    where V : unmanaged
    where L : struct, IByteLanes<V>
    where F : struct, ISmallBlock
    where Rows : unmanaged
{
    /// <summary>Row r's goes to y[r * yStride].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Run(byte* w, byte* x, nint xStride, float* y, nint yStride, in Stage stage)
    {
        V r0 = default, r1 = default, r2 = default, r3 = default, r4 = default, r5 = default, r6 = default, r7 = default;
        int groups = stage.Steps;
        nint ahead = stage.Ahead;

        if (!stage.IsFirst)
        {
            QuantTile.Take<V, Rows>((V*)stage.Sums, ref r0, ref r1, ref r2, ref r3, ref r4, ref r5, ref r6, ref r7);
        }

        for (int group = 1; group <= groups; group++)
        {
            if (group == groups)
            {
                w -= stage.Shared * F.Bytes;
            }

            Ahead.Line(w, ahead, 8 * F.Bytes);
            if (sizeof(V) == 16)
            {
                // Blocks 0 and 2, then 1 and 3, and so on.
                for (int part = 0; part < 4; part++)
                {
                    QuantTile.Step<V, Part, Rows>(new(w + (((4 * (part >> 1)) + (part & 1)) * F.Bytes)), x + (part * sizeof(V)), xStride, ref r0, ref r1, ref r2, ref r3, ref r4, ref r5, ref r6, ref r7);
                }
            }
            else
            {
                QuantTile.Step<V, Part, Rows>(new(w), x, xStride, ref r0, ref r1, ref r2, ref r3, ref r4, ref r5, ref r6, ref r7);

                if (sizeof(V) == 32)
                {
                    QuantTile.Step<V, Part, Rows>(new(w + (4 * F.Bytes)), x + sizeof(V), xStride, ref r0, ref r1, ref r2, ref r3, ref r4, ref r5, ref r6, ref r7);
                }
            }

            w += 8 * F.Bytes;
            x += Activations.GroupBytes;
        }

        if (stage.IsLast)
        {
            QuantTile.Store<V, L, Rows>(y, yStride, r0, r1, r2, r3, r4, r5, r6, r7);
        }
        else
        {
            QuantTile.Leave<V, Rows>((V*)stage.Sums, r0, r1, r2, r3, r4, r5, r6, r7);
        }
    }

    /// <summary>As many blocks as a vector has eights.</summary>
    private readonly struct Part : ITilePart<V>
    {
        private readonly V a, b, c, d, aSign, bSign, cSign, dSign, own, least;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        internal Part(byte* w)
        {
            (a, b, c, d) = F.Numbers<V, L>(w);

            if (F.HasLeast)
            {
                (own, least) = L.Halves(L.GatherEights(w, F.Bytes));
                return;
            }

            own = L.GatherHalves(w, F.Bytes);

            if (typeof(F) == typeof(IQ4NL))
            {
                (a, aSign) = L.Levels(a);
                (b, bSign) = L.Levels(b);
                (c, cSign) = L.Levels(c);
                (d, dSign) = L.Levels(d);
            }
            else if (typeof(F) == typeof(Q80))
            {
                (aSign, bSign, cSign, dSign) = (L.Sign(a), L.Sign(b), L.Sign(c), L.Sign(d));
                (a, b, c, d) = (L.Magnitude(a), L.Magnitude(b), L.Magnitude(c), L.Magnitude(d));
            }
            else
            {
                least = L.Multiply(own, L.Broadcast(-F.Offset));
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public V Row(V sum, byte* x)
        {
            V whole;

            if (typeof(F) == typeof(Q80) || typeof(F) == typeof(IQ4NL))
            {
                whole = L.TwoSigned(default, a, aSign, b, bSign, (sbyte*)x, 0);
                whole = L.TwoSigned(whole, c, cSign, d, dSign, (sbyte*)x, 128);
            }
            else
            {
                whole = L.Four(a, b, c, d, (sbyte*)x);
                sum = L.MultiplyAdd(least, L.Load((float*)(x + Activations.GroupSums)), sum);
            }

            return L.AddScaled(sum, whole, own, L.Load((float*)(x + Activations.GroupScales)));
        }
    }
}
