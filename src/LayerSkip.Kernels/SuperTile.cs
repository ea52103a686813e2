using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace LayerSkip.Kernels;

/// <summary>
/// One output of a few rows of x, [rows; k] as <see cref="Activations"/> has them, with a row of blocks of 256: each block is
/// unpacked once. Every row's sum is made of the same steps whatever rows are beside it.
/// </summary>
/// <remarks>Conditions are sizes and types, which the compiler knows before it inlines: it gives up on methods of too many calls.</remarks>
internal static unsafe class SuperTile<V, L, F, Rows>
    where V : unmanaged
    where L : struct, IByteLanes<V>
    where F : struct, ISuperBlock
    where Rows : unmanaged
{
    /// <summary>Row r's goes to y[r * yStride].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Run(byte* w, byte* x, nint xStride, float* y, nint yStride, in Stage stage)
    {
        V r0 = default, r1 = default, r2 = default, r3 = default, r4 = default, r5 = default, r6 = default, r7 = default;
        int blocks = stage.Steps;
        nint ahead = stage.Ahead;

        if (!stage.IsFirst)
        {
            QuantTile.Take<V, Rows>((V*)stage.Sums, ref r0, ref r1, ref r2, ref r3, ref r4, ref r5, ref r6, ref r7);
        }

        for (int block = 0; block < blocks; block++)
        {
            Ahead.Line(w, ahead, F.Bytes);

            if (typeof(V) == typeof(Vector512<float>) && (typeof(F) == typeof(Q4K) || typeof(F) == typeof(Q5K)) && WideSuperBlocks.AreSupported)
            {
                QuantTile.Step<V, Part, Rows>(new(w), x, xStride, ref r0, ref r1, ref r2, ref r3, ref r4, ref r5, ref r6, ref r7);
                w += F.Bytes;
                x += Activations.BlockBytes;
                continue;
            }

            var (factors, scales, minima) = F.Scales(w);
            V own = L.Broadcast(factors.ToScalar()), least = F.HasLeast ? L.Broadcast(factors.GetElement(1)) : own;
            if (sizeof(V) == 16)
            {
                for (int part = 0; part < 4; part++)
                {
                    QuantTile.Step<V, Part, Rows>(new(part, w, scales, minima, own, least), x, xStride, ref r0, ref r1, ref r2, ref r3, ref r4, ref r5, ref r6, ref r7);
                }
            }
            else
            {
                QuantTile.Step<V, Part, Rows>(new(0, w, scales, minima, own, least), x, xStride, ref r0, ref r1, ref r2, ref r3, ref r4, ref r5, ref r6, ref r7);

                if (sizeof(V) == 32)
                {
                    QuantTile.Step<V, Part, Rows>(new(1, w, scales, minima, own, least), x, xStride, ref r0, ref r1, ref r2, ref r3, ref r4, ref r5, ref r6, ref r7);
                }
            }

            w += F.Bytes;
            x += Activations.BlockBytes;
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

    /// <summary>Four vectors of weights, a whole block where they have 64 bytes, with all that they are multiplied by.</summary>
    private readonly struct Part : ITilePart<V>
    {
        private readonly int part;
        private readonly V a, b, c, e, aSign, bSign, cSign, eSign, s, t, m, own;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        internal Part(int part, byte* w, Vector256<short> scales, Vector256<short> minima, V own, V least)
        {
            (this.part, this.own) = (part, own);
            // Parts whose sums may be added up as whole numbers: see Activations.BlockBytes.
            int p = sizeof(V) == 16 ? (4 * (part >> 1)) + (part & 1) : 2 * part, q = sizeof(V) == 16 ? p + 2 : p + 1;
            (a, b) = F.Numbers<V, L>(w, p);
            (c, e) = F.Numbers<V, L>(w, q);
            (s, t) = (L.Scales(scales, p), L.Scales(scales, q));

            if (typeof(F) == typeof(IQ4XS))
            {
                (a, aSign) = L.Levels(a);
                (b, bSign) = L.Levels(b);
                (c, cSign) = L.Levels(c);
                (e, eSign) = L.Levels(e);
            }
            else
            {
                m = L.Multiply(L.Floats(minima, part), least);
            }
        }

        /// <summary>A whole block of Q4_K or Q5_K.</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        internal Part(byte* w)
        {
            var factors = SuperBlock.Pair(w);
            var sixes = WideSuperBlocks.Sixes(w);
            own = L.Broadcast(factors.ToScalar());
            s = Unsafe.BitCast<Vector512<float>, V>(WideSuperBlocks.FirstScales(sixes));
            t = Unsafe.BitCast<Vector512<float>, V>(WideSuperBlocks.SecondScales(sixes));
            m = L.Multiply(
                Unsafe.BitCast<Vector512<float>, V>(WideSuperBlocks.Minima(sixes)), L.Broadcast(factors.GetElement(1)));
            Vector512<float> first, second, third, fourth;

            if (typeof(F) == typeof(Q4K))
            {
                (first, second) = WideSuperBlocks.Deal(w + 16);
                (third, fourth) = WideSuperBlocks.Deal(w + 80);
            }
            else
            {
                var bits = Lanes512.Twice(w + 16).AsUInt16();
                (first, second) = WideSuperBlocks.Deal(
                    w + 48, WideSuperBlocks.Up(bits, 4, 2), WideSuperBlocks.Up(bits, 3, 1));
                (third, fourth) = WideSuperBlocks.Deal(
                    w + 112, WideSuperBlocks.Down(bits, 0, 2), WideSuperBlocks.Down(bits, 1, 3));
            }

            a = Unsafe.BitCast<Vector512<float>, V>(first);
            b = Unsafe.BitCast<Vector512<float>, V>(second);
            c = Unsafe.BitCast<Vector512<float>, V>(third);
            e = Unsafe.BitCast<Vector512<float>, V>(fourth);
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public V Row(V sum, byte* x)
        {
            // Each half of a block has its first eights and then its last, 64 bytes each.
            int first = sizeof(V) == 64 ? 0 : sizeof(V) == 32 ? 128 * part : (128 * (part >> 1)) + (16 * (part & 1));
            int second = sizeof(V) == 64 ? 128 : first + 32;
            V whole;

            if (typeof(F) == typeof(IQ4XS))
            {
                whole = L.DotSigned(default, a, aSign, b, bSign, (sbyte*)x, first, s);
                whole = L.DotSigned(whole, c, cSign, e, eSign, (sbyte*)x, second, t);
            }
            else
            {
                whole = L.Dot(L.Dot(default, a, b, (sbyte*)x, first, s), c, e, (sbyte*)x, second, t);
                sum = L.MultiplyAdd(m, L.Load((float*)(x + Activations.BlockSums + (part * sizeof(V)))), sum);
            }

            return L.AddScaled(sum, whole, own, L.Load((float*)(x + Activations.BlockScales + (part * sizeof(V)))));
        }
    }
}
