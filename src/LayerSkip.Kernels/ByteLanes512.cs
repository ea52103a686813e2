using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LayerSkip.Kernels;

/// <summary>Its bytes and whole numbers.</summary>
internal readonly unsafe partial struct Lanes512
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Field<F>(byte* block, int chunk)
        where F : struct, IField
    {
        if (!Avx512BW.IsSupported)
        {
            return Vector512.Create(Lanes256.Field<F>(block, 2 * chunk), Lanes256.Field<F>(block, (2 * chunk) + 1));
        }

        int offset = F.Offset(2 * chunk);
        int shift = F.Shift(2 * chunk), shift2 = F.Shift((2 * chunk) + 1);
        var bytes = (F.Offset((2 * chunk) + 1) == offset ? Twice(block + offset) : Vector512.Load(block + offset)).AsUInt16();

        if (shift != shift2)
        {
            bytes = Avx512BW.ShiftRightLogicalVariable(bytes, Halves((ulong)shift, (ulong)shift2));
        }
        else if (shift != 0)
        {
            bytes >>>= shift;
        }

        return (bytes.AsByte() & Vector512.Create(F.Mask)).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector512<float> First, Vector512<float> Second) DealNibbles(byte* bytes, int part)
    {
        if (!Avx512BW.IsSupported)
        {
            var (first, second) = Lanes256.DealNibbles(bytes, 2 * part);
            var (first2, second2) = Lanes256.DealNibbles(bytes, (2 * part) + 1);
            return (Vector512.Create(first, first2), Vector512.Create(second, second2));
        }

        // Four rows of 16 bytes: sixteens 0 2 4 6 below, 1 3 5 7 above.
        var both = Vector512.Load(bytes + (64 * part)).AsSingle();
        var (low, high) = (Low(both).AsUInt64(), High(both).AsUInt64());
        return (
            Avx512F.PermuteVar8x64x2(low, Vector512.Create(0UL, 2, 8, 10, 4, 6, 12, 14), high).AsSingle(),
            Avx512F.PermuteVar8x64x2(low, Vector512.Create(1UL, 3, 9, 11, 5, 7, 13, 15), high).AsSingle());
    }

    public static int First(int part) => 2 * part;

    public static int Second(int part) => (2 * part) + 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector512<float> First, Vector512<float> Second) Deal(Vector512<float> first, Vector512<float> second)
    {
        if (Avx512BW.IsSupported)
        {
            var (a, b) = (first.AsUInt64(), second.AsUInt64());
            return (
                Avx512F.PermuteVar8x64x2(a, Vector512.Create(0UL, 4, 2, 6, 8, 12, 10, 14), b).AsSingle(),
                Avx512F.PermuteVar8x64x2(a, Vector512.Create(1UL, 5, 3, 7, 9, 13, 11, 15), b).AsSingle());
        }

        var low = Lanes256.Deal(first.GetLower(), first.GetUpper());
        var high = Lanes256.Deal(second.GetLower(), second.GetUpper());
        return (Vector512.Create(low.First, high.First), Vector512.Create(low.Second, high.Second));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector512<float> First, Vector512<float> Second) Gather(byte* first, nint stride)
    {
        if (!Avx512BW.IsSupported)
        {
            var low = Lanes256.Gather(first, stride);
            var high = Lanes256.Gather(first + (4 * stride), stride);
            return (Vector512.Create(low.First, high.First), Vector512.Create(low.Second, high.Second));
        }

        var a = Join(
            Vector256.Create(Vector128.Load(first), Vector128.Load(first + stride)),
            Vector256.Create(Vector128.Load(first + (4 * stride)), Vector128.Load(first + (5 * stride)))).AsUInt64();
        byte* third = first + (2 * stride);
        var b = Join(
            Vector256.Create(Vector128.Load(third), Vector128.Load(third + stride)),
            Vector256.Create(Vector128.Load(third + (4 * stride)), Vector128.Load(third + (5 * stride)))).AsUInt64();
        return (Avx512F.UnpackLow(a, b).AsSingle(), Avx512F.UnpackHigh(a, b).AsSingle());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> GatherHalves(byte* first, nint stride)
    {
        if (!Avx512BW.IsSupported)
        {
            return Vector512.Create(Lanes256.GatherHalves(first, stride), Lanes256.GatherHalves(first + (4 * stride), stride));
        }

        if (stride == 18)
        {
            var words = Avx512BW.PermuteVar32x16x2(
                Vector512.Load((short*)first),
                Vector256.Create((short)0, 0, 18, 18, 9, 9, 27, 27, 36, 36, 54, 54, 45, 45, 63, 63).ToVector512Unsafe(),
                Vector512.Load((short*)(first + 64)));
            return Half16.Exact(Avx512F.ConvertToVector512Int32(words.GetLower()));
        }

        return Half16.Exact((Avx512F.Shuffle(GatherEights(first, stride).AsInt32(), 0b10_10_00_00) << 16) >> 16);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> GatherEights(byte* first, nint stride)
    {
        if (!Avx512BW.IsSupported)
        {
            return Vector512.Create(Lanes256.GatherEights(first, stride), Lanes256.GatherEights(first + (4 * stride), stride));
        }

        // The first four blocks' lie in 128 bytes, and the others' in as many that end with the last.
        byte* second = first + (7 * stride) - 120;
        var low = Avx512BW.PermuteVar32x16x2(Vector512.Load((short*)first), Eights(0, stride), Vector512.Load((short*)(first + 64)));
        var high = Avx512BW.PermuteVar32x16x2(
            Vector512.Load((short*)second), Eights(120 - (3 * stride), stride), Vector512.Load((short*)(second + 64)));
        return Join(low.GetLower(), high.GetLower()).AsSingle();
    }

    /// <summary>The places of four words each of four blocks, in the order of eights; any in the upper half.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<short> Eights(nint at, nint stride)
    {
        const ulong Each = 0x0001000100010001, Words = 0x0003000200010000;
        ulong first = (ulong)(at / 2), step = (ulong)(stride / 2);
        return Vector256.Create(
            (first * Each) + Words, ((first + (2 * step)) * Each) + Words, ((first + step) * Each) + Words, ((first + (3 * step)) * Each) + Words)
            .ToVector512Unsafe().AsInt16();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector512<float> First, Vector512<float> Last) Halves(Vector512<float> eights)
    {
        if (!Avx512F.IsSupported)
        {
            var (first, last) = Lanes256.Halves(eights.GetLower());
            var (first2, last2) = Lanes256.Halves(eights.GetUpper());
            return (Vector512.Create(first, first2), Vector512.Create(last, last2));
        }

        // All of them at once, one of each in turn.
        var twice = Avx512F.Shuffle(eights.AsInt32(), 0b10_10_00_00);
        var up = Avx512F.ShiftLeftLogicalVariable(twice, Vector512.Create(16UL).AsUInt32());
        var exact = Half16.Exact(up >> 16);
        return (Avx512F.DuplicateEvenIndexed(exact), Avx512F.DuplicateOddIndexed(exact));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Fifth(Vector512<float> bits, int at)
    {
        if (!Avx512BW.IsSupported)
        {
            return Vector512.Create(Lanes256.Fifth(bits.GetLower(), at), Lanes256.Fifth(bits.GetUpper(), at));
        }

        var own = Vector512.Create(0x8040201008040201UL).AsByte();
        ulong first = Lanes128.Times8(at), second = Lanes128.Times8(at + 8);
        var places = Vector512.Create(first, second, first, second, first, second, first, second).AsByte();
        return (Vector512.Equals(Avx512BW.Shuffle(bits.AsByte(), places) & own, own) & Vector512.Create((byte)16)).AsSingle();
    }

    public static Vector512<float> Raise(Vector512<float> bytes, int bits) => (bytes.AsUInt16() << bits).AsSingle();

    public static Vector512<float> Or(Vector512<float> a, Vector512<float> b) => (a.AsInt32() | b.AsInt32()).AsSingle();

    public static Vector512<float> Low(Vector512<float> bytes) => (bytes.AsByte() & Vector512.Create((byte)15)).AsSingle();

    public static Vector512<float> High(Vector512<float> bytes) => Low((bytes.AsUInt16() >>> 4).AsSingle());

    /// <summary>For each byte, 0 to 15, the byte that stands there in sixteen, of which eight each are given.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector512<float> Lookup(ulong first, ulong last, Vector512<float> numbers) =>
        Avx512BW.IsSupported
            ? Avx512BW.Shuffle(Vector512.Create(first, last, first, last, first, last, first, last).AsByte(), numbers.AsByte()).AsSingle()
            : Vector512.Create(Lanes256.Lookup(first, last, numbers.GetLower()), Lanes256.Lookup(first, last, numbers.GetUpper()));

    public static Vector512<float> Magnitude(Vector512<float> numbers) => Vector512.Abs(numbers.AsSByte()).AsSingle();

    public static Vector512<float> Sign(Vector512<float> numbers) =>
        Avx512BW.IsSupported ? Vector512.LessThan(numbers.AsSByte(), default).AsSingle() : numbers;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector512<float> Magnitude, Vector512<float> Sign) Levels(Vector512<float> places)
    {
        if (Avx512BW.IsSupported)
        {
            return (
                Lookup(SmallBlock.FirstMagnitudes, SmallBlock.LastLevels, places),
                Lookup(ulong.MaxValue, 0, places));
        }

        var (magnitude, sign) = Lanes256.Levels(places.GetLower());
        var (magnitude2, sign2) = Lanes256.Levels(places.GetUpper());
        return (Vector512.Create(magnitude, magnitude2), Vector512.Create(sign, sign2));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Scales(Vector256<short> scales, int part)
    {
        if (!Avx512BW.IsSupported)
        {
            return Vector512.Create(Lanes256.Scales(scales, 2 * part), Lanes256.Scales(scales, (2 * part) + 1));
        }

        const ulong First = 0x0100010001000100, Second = 0x0908090809080908;
        var each = Avx512F.ConvertToVector512Int64(part == 0 ? scales.GetLower() : scales.GetUpper()).AsByte();
        return Avx512BW.Shuffle(
            each, Vector512.Create(First, Second, First, Second, First, Second, First, Second).AsByte()).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Floats(Vector256<short> numbers, int part) =>
        Avx512BW.IsSupported
            ? Vector512.ConvertToSingle(Avx512F.ConvertToVector512Int32(numbers))
            : Vector512.Create(Lanes256.Floats(numbers, 2 * part), Lanes256.Floats(numbers, (2 * part) + 1));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> AddScaled(Vector512<float> sum, Vector512<float> integers, Vector512<float> a, Vector512<float> b) =>
        Vector512.MultiplyAddEstimate(Vector512.ConvertToSingle(integers.AsInt32()), a * b, sum);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Dot(
        Vector512<float> sums, Vector512<float> a, Vector512<float> b, sbyte* x, int at, Vector512<float> scales) =>
        Avx512BW.IsSupported
            ? (Avx512BW.MultiplyAddAdjacent(
                Avx512BW.MultiplyAddAdjacent(a.AsByte(), Vector512.Load(x + at))
                    + Avx512BW.MultiplyAddAdjacent(b.AsByte(), Vector512.Load(x + at + 64)),
                scales.AsInt16()) + sums.AsInt32()).AsSingle()
            : Vector512.Create(
                Lanes256.Dot(sums.GetLower(), a.GetLower(), b.GetLower(), x, at, scales.GetLower()),
                Lanes256.Dot(sums.GetUpper(), a.GetUpper(), b.GetUpper(), x + 32, at, scales.GetUpper()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> DotSigned(
        Vector512<float> sums, Vector512<float> a, Vector512<float> aSign, Vector512<float> b, Vector512<float> bSign,
        sbyte* x, int at, Vector512<float> scales) =>
        Avx512BW.IsSupported
            ? (Avx512BW.MultiplyAddAdjacent(
                Avx512BW.MultiplyAddAdjacent(a.AsByte(), (Vector512.Load(x + at) ^ aSign.AsSByte()) - aSign.AsSByte()), scales.AsInt16())
                + Avx512BW.MultiplyAddAdjacent(
                    Avx512BW.MultiplyAddAdjacent(b.AsByte(), (Vector512.Load(x + at + 64) ^ bSign.AsSByte()) - bSign.AsSByte()),
                    scales.AsInt16())
                + sums.AsInt32()).AsSingle()
            : Vector512.Create(
                Lanes256.DotSigned(
                    sums.GetLower(), a.GetLower(), aSign.GetLower(), b.GetLower(), bSign.GetLower(), x, at, scales.GetLower()),
                Lanes256.DotSigned(
                    sums.GetUpper(), a.GetUpper(), aSign.GetUpper(), b.GetUpper(), bSign.GetUpper(), x + 32, at, scales.GetUpper()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Four(
        Vector512<float> a, Vector512<float> b, Vector512<float> c, Vector512<float> d, sbyte* x)
    {
        if (!Avx512BW.IsSupported)
        {
            return Vector512.Create(
                Lanes256.Four(a.GetLower(), b.GetLower(), c.GetLower(), d.GetLower(), x),
                Lanes256.Four(a.GetUpper(), b.GetUpper(), c.GetUpper(), d.GetUpper(), x + 32));
        }

        var pairs = Avx512BW.MultiplyAddAdjacent(a.AsByte(), Vector512.Load(x))
            + Avx512BW.MultiplyAddAdjacent(b.AsByte(), Vector512.Load(x + 64))
            + (Avx512BW.MultiplyAddAdjacent(c.AsByte(), Vector512.Load(x + 128))
                + Avx512BW.MultiplyAddAdjacent(d.AsByte(), Vector512.Load(x + 192)));
        return Avx512BW.MultiplyAddAdjacent(pairs, Vector512.Create((short)1)).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> TwoSigned(
        Vector512<float> sums, Vector512<float> a, Vector512<float> aSign, Vector512<float> b, Vector512<float> bSign, sbyte* x, int at) =>
        DotSigned(sums, a, aSign, b, bSign, x, at, Vector512.Create((short)1).AsSingle());

    /// <summary>A word in each place of the first half, and another in each of the second.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector512<ushort> Halves(ulong first, ulong second)
    {
        const ulong Each = 0x0001000100010001;
        ulong a = first * Each, b = second * Each;
        return Vector512.Create(a, a, a, a, b, b, b, b).AsUInt16();
    }

    /// <summary>
    /// 32 bytes, twice. .NET 10.0's compiler encodes the displacement of the one instruction for it (vbroadcasti64x4) as if it read 16 bytes, and reads
    /// elsewhere: so a load and an insertion.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector512<byte> Twice(byte* from)
    {
        var half = Vector256.Load(from);
        return Join(half, half);
    }

    /// <summary>Two halves, by one instruction: Vector512.Create inserts both, the first into what its register held before, and waits for that.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<T> Join<T>(Vector256<T> lower, Vector256<T> upper) => lower.ToVector512Unsafe().WithUpper(upper);
}
