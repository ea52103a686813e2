using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace LayerSkip.Kernels;

/// <summary>
/// Rows of activations as signed bytes for the products with quantised weights. A block's numbers are x / d to the nearest, d its
/// largest magnitude / 127. Each lane of int32 sums may have a d of its own, so blocks are smaller than ggml's (32 and 256): of 32 numbers the first
/// four of each eight are one, and the last. It costs nothing and loses less.
/// A row's bytes depend on that row alone.
/// </summary>
/// <remarks>NaN or infinity in a block leaves d NaN or infinite: whatever is made of the block is no number.</remarks>
internal static unsafe class Activations
{
    /// <summary>Numbers of a block of 256 and of a group of eight blocks of 32.</summary>
    internal const int Numbers = 256;

    /// <summary>
    /// A group: 64 bytes, the first eight of each block, blocks in the order 0 2 1 3 4 6 5 7; three times as many, of the next eights; both d of each
    /// block, as floats; d sum / 2 twice.
    /// </summary>
    internal const int GroupBytes = 384;

    /// <summary>Where d of a group stand.</summary>
    internal const int GroupScales = 256;

    /// <summary>Where d sum / 2 stand.</summary>
    internal const int GroupSums = 320;

    /// <summary>
    /// A block of 256: for each half of it 64 bytes, the first eight of each sixteen in the order 0 2 1 3 4 6 5 7, and 64 of the last; then d
    /// sum of each sixteen, in the same order, as floats; then d for each int32 sum of products. Of sixteens i, i + 4, i + 8 and i + 12 the first
    /// four of each eight have one d, and the last: whatever the width of vectors, products of no others are added up as whole numbers.
    /// </summary>
    internal const int BlockBytes = 384;

    /// <summary>Where d sum stand.</summary>
    internal const int BlockSums = 256;

    /// <summary>Where d stand.</summary>
    internal const int BlockScales = 320;

    /// <summary>Bytes of a row of k numbers in groups.</summary>
    internal static int GroupedRow(int k) => (k + Numbers - 1) / Numbers * GroupBytes;

    /// <summary>Bytes of a row of k numbers in blocks of 256.</summary>
    internal static int BlockedRow(int k) => k / Numbers * BlockBytes;

    /// <summary>The place of sixteen `i` of eight, or of block `i`, in their order.</summary>
    private static int Place(int i) => (i & ~3) | ((i & 1) << 1) | ((i >> 1) & 1);

    /// <summary>
    /// A row in groups. The last group ends where the row does, so that a tile may read whole groups of weights: blocks that the
    /// group before it has too are zero in it. (A row of fewer than eight blocks begins where its only group does.)
    /// </summary>
    /// <param name="x">[k], k a multiple of 32.</param>
    /// <param name="k">Numbers of the row.</param>
    /// <param name="to"><see cref="GroupedRow"/> bytes.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Group(float* x, int k, byte* to)
    {
        int blocks = k / SmallBlock.Numbers, groups = (blocks + 7) / 8;

        for (int group = 0; group < groups; group++, to += GroupBytes)
        {
            int from = group < groups - 1 ? 8 * group : Math.Max(0, blocks - 8);

            for (int i = 0; i < 8; i++)
            {
                int block = from + i, place = Place(i);
                var scales = (float*)(to + GroupScales) + (2 * place);
                Vector128<sbyte> first = default, second = default;
                Vector128<float> scale = default;

                if (block >= 8 * group && block < blocks)
                {
                    float* at = x + (block * SmallBlock.Numbers);
                    scale = Scales(Largest32(at));
                    var inverses = Inverses(scale);
                    first = Bytes16(at, inverses);
                    second = Bytes16(at + 16, inverses);
                }

                Deal(first, to + (8 * place), to + 64 + (8 * place));
                Deal(second, to + 128 + (8 * place), to + 192 + (8 * place));
                (scales[0], scales[1]) = (scale[0], scale[1]);
                scales[16] = scales[17] = 0.5f * (Sum(first, scale) + Sum(second, scale));
            }
        }
    }

    /// <summary>A row in blocks of 256.</summary>
    /// <param name="x">[k], k a multiple of 256.</param>
    /// <param name="k">Numbers of the row.</param>
    /// <param name="to"><see cref="BlockedRow"/> bytes.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Block(float* x, int k, byte* to)
    {
        for (int block = 0; block < k / Numbers; block++, x += Numbers, to += BlockBytes)
        {
            var scales = (float*)(to + BlockScales);

            for (int i = 0; i < 4; i++)
            {
                var largest = Vector256.Max(
                    Vector256.Max(Largest16(x + (16 * i)), Largest16(x + 64 + (16 * i))),
                    Vector256.Max(Largest16(x + 128 + (16 * i)), Largest16(x + 192 + (16 * i))));
                var scale = Scales(largest);
                var inverses = Inverses(scale);

                for (int sixteen = i; sixteen < 16; sixteen += 4)
                {
                    var bytes = Bytes16(x + (16 * sixteen), inverses);
                    byte* half = to + (128 * (sixteen / 8)) + (8 * Place(sixteen % 8));
                    Deal(bytes, half, half + 64);
                    ((float*)(to + BlockSums))[Place(sixteen)] = Sum(bytes, scale);
                }

                float* own = scales + (2 * Place(i));
                (own[0], own[1], own[8], own[9]) = (scale[0], scale[1], scale[0], scale[1]);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Deal(Vector128<sbyte> bytes, byte* first, byte* second)
    {
        *(ulong*)first = bytes.AsUInt64()[0];
        *(ulong*)second = bytes.AsUInt64()[1];
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Largest32(float* x) => Vector256.Max(Largest16(x), Largest16(x + 16));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Largest16(float* x) =>
        Vector256.Max(Vector256.Abs(Vector256.Load(x)), Vector256.Abs(Vector256.Load(x + 8)));

    /// <summary>Of the first four of each eight, and of the last, their largest magnitude / 127.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Scales(Vector256<float> magnitudes)
    {
        var (first, last) = (magnitudes.GetLower(), magnitudes.GetUpper());
        return Vector128.Create(Largest(first), Largest(last), 0f, 0f) / 127f;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Largest(Vector128<float> four)
    {
        var two = Vector128.Max(four, Vector128.Shuffle(four, Vector128.Create(2, 3, 0, 1)));
        return MathF.Max(two[0], two[1]);
    }

    /// <summary>1 / d for each of eight. Not of a subnormal d, whose inverse may be no float: its numbers are then 0.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Inverses(Vector128<float> scales) =>
        Vector256.Create(Vector128.Create(Inverse(scales[0])), Vector128.Create(Inverse(scales[1])));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Inverse(float scale) => scale > 1e-37f ? 1f / scale : 0f;

    /// <summary>16 numbers, each eight times the factors, to the nearest, ties to even.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<sbyte> Bytes16(float* x, Vector256<float> factors)
    {
        // In a float this large the last bit is 1, so that the addition rounds.
        var magic = Vector256.Create(12582912f);
        var a = ((Vector256.Load(x) * factors) + magic).AsInt32() - magic.AsInt32();
        var b = ((Vector256.Load(x + 8) * factors) + magic).AsInt32() - magic.AsInt32();
        var words = Vector256.Narrow(a, b);
        return Vector128.Narrow(words.GetLower(), words.GetUpper());
    }

    /// <summary>d sum of 16 bytes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Sum(Vector128<sbyte> bytes, Vector128<float> scales)
    {
        var words = Vector128.WidenLower(bytes) + Vector128.WidenUpper(bytes);
        return (scales[0] * Vector128.Sum(Vector128.WidenLower(words))) + (scales[1] * Vector128.Sum(Vector128.WidenUpper(words)));
    }
}
