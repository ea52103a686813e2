using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LayerSkip.Kernels;

/// <summary>Its bytes and whole numbers.</summary>
internal readonly unsafe partial struct Lanes256
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Field<F>(byte* block, int chunk)
        where F : struct, IField
    {
        var bytes = Vector256.Load(block + F.Offset(chunk));
        return (Vector256.ShiftRightLogical(bytes.AsUInt16(), F.Shift(chunk)).AsByte() & Vector256.Create(F.Mask)).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector256<float> First, Vector256<float> Second) DealNibbles(byte* bytes, int part)
    {
        var (first, second) = (Nibbles(bytes + (32 * part)), Nibbles(bytes + (32 * part) + 16));
        return Deal(first, second);
    }

    /// <summary>Low nibbles of 16 bytes, then the high ones.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Nibbles(byte* bytes)
    {
        var both = Vector128.Load(bytes);
        return Low(Vector256.Create(both, (both.AsUInt16() >>> 4).AsByte()).AsSingle());
    }

    public static int First(int part) => 2 * part;

    public static int Second(int part) => (2 * part) + 1;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector256<float> First, Vector256<float> Second) Deal(Vector256<float> first, Vector256<float> second)
    {
        if (Avx2.IsSupported)
        {
            var (a, b) = (first.AsUInt64(), second.AsUInt64());
            return (Avx2.UnpackLow(a, b).AsSingle(), Avx2.UnpackHigh(a, b).AsSingle());
        }

        var low = Lanes128.Deal(first.GetLower(), second.GetLower());
        var high = Lanes128.Deal(first.GetUpper(), second.GetUpper());
        return (Vector256.Create(low.First, high.First), Vector256.Create(low.Second, high.Second));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector256<float> First, Vector256<float> Second) Gather(byte* first, nint stride) =>
        Deal(
            Vector256.Create(Vector128.Load(first), Vector128.Load(first + stride)).AsSingle(),
            Vector256.Create(Vector128.Load(first + (2 * stride)), Vector128.Load(first + (3 * stride))).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> GatherHalves(byte* first, nint stride) =>
        Vector256.Create(Lanes128.GatherHalves(first, stride), Lanes128.GatherHalves(first + stride, stride));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> GatherEights(byte* first, nint stride) =>
        Vector256.Create(Lanes128.GatherEights(first, stride), Lanes128.GatherEights(first + stride, stride));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector256<float> First, Vector256<float> Last) Halves(Vector256<float> eights)
    {
        if (!Avx2.IsSupported)
        {
            var (first, last) = Lanes128.Halves(eights.GetLower());
            var (first2, last2) = Lanes128.Halves(eights.GetUpper());
            return (Vector256.Create(first, first2), Vector256.Create(last, last2));
        }

        var twice = Avx2.Shuffle(eights.AsInt32(), 0b10_10_00_00);
        var exact = Half16.Exact(Avx2.ShiftLeftLogicalVariable(twice, Vector256.Create(16UL).AsUInt32()) >> 16);
        return (Avx.DuplicateEvenIndexed(exact), Avx.DuplicateOddIndexed(exact));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Fifth(Vector256<float> bits, int at)
    {
        if (!Avx2.IsSupported)
        {
            return Vector256.Create(Lanes128.Fifth(bits.GetLower(), at), Lanes128.Fifth(bits.GetUpper(), at));
        }

        var own = Vector256.Create(0x8040201008040201UL).AsByte();
        ulong first = Lanes128.Times8(at), second = Lanes128.Times8(at + 8);
        var spread = Avx2.Shuffle(bits.AsByte(), Vector256.Create(first, second, first, second).AsByte());
        return (Vector256.Equals(spread & own, own) & Vector256.Create((byte)16)).AsSingle();
    }

    public static Vector256<float> Raise(Vector256<float> bytes, int bits) => (bytes.AsUInt16() << bits).AsSingle();

    public static Vector256<float> Or(Vector256<float> a, Vector256<float> b) => a | b;

    public static Vector256<float> Low(Vector256<float> bytes) => (bytes.AsByte() & Vector256.Create((byte)15)).AsSingle();

    public static Vector256<float> High(Vector256<float> bytes) => Low((bytes.AsUInt16() >>> 4).AsSingle());

    /// <summary>For each byte, 0 to 15, the byte that stands there in sixteen, of which eight each are given.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector256<float> Lookup(ulong first, ulong last, Vector256<float> numbers) =>
        Avx2.IsSupported
            ? Avx2.Shuffle(Vector256.Create(first, last, first, last).AsByte(), numbers.AsByte()).AsSingle()
            : Vector256.Create(Lanes128.Lookup(first, last, numbers.GetLower()), Lanes128.Lookup(first, last, numbers.GetUpper()));

    public static Vector256<float> Magnitude(Vector256<float> numbers) => Vector256.Abs(numbers.AsSByte()).AsSingle();

    public static Vector256<float> Sign(Vector256<float> numbers) => numbers;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector256<float> Magnitude, Vector256<float> Sign) Levels(Vector256<float> places)
    {
        var levels = Lookup(SmallBlock.FirstLevels, SmallBlock.LastLevels, places);
        return (Magnitude(levels), Sign(levels));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Scales(Vector256<short> scales, int part)
    {
        if (!Avx2.IsSupported)
        {
            return Vector256.Create(Lanes128.Scales(scales, 2 * part), Lanes128.Scales(scales, (2 * part) + 1));
        }

        // The four that the part has, everywhere; then one of them in each eight.
        var four = Avx2.PermuteVar8x32(scales.AsInt32(), Vector256.Create(2 * part, (2 * part) + 1, 2 * part, (2 * part) + 1, 2 * part, (2 * part) + 1, 2 * part, (2 * part) + 1)).AsByte();
        return Avx2.Shuffle(
            four, Vector256.Create(0x0100010001000100UL, 0x0302030203020302, 0x0504050405040504, 0x0706070607060706).AsByte()).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Floats(Vector256<short> numbers, int part) =>
        Avx2.IsSupported
            ? Vector256.ConvertToSingle(Avx2.ConvertToVector256Int32(part == 0 ? numbers.GetLower() : numbers.GetUpper()))
            : Vector256.Create(Lanes128.Floats(numbers, 2 * part), Lanes128.Floats(numbers, (2 * part) + 1));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> AddScaled(Vector256<float> sum, Vector256<float> integers, Vector256<float> a, Vector256<float> b) =>
        Vector256.MultiplyAddEstimate(Vector256.ConvertToSingle(integers.AsInt32()), a * b, sum);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Dot(
        Vector256<float> sums, Vector256<float> a, Vector256<float> b, sbyte* x, int at, Vector256<float> scales) =>
        Avx2.IsSupported
            ? Add(sums, Pairs(a, Vector256.Load(x + at)) + Pairs(b, Vector256.Load(x + at + 64)), scales)
            : Vector256.Create(
                Lanes128.Dot(sums.GetLower(), a.GetLower(), b.GetLower(), x, at, scales.GetLower()),
                Lanes128.Dot(sums.GetUpper(), a.GetUpper(), b.GetUpper(), x + 16, at, scales.GetUpper()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> DotSigned(
        Vector256<float> sums, Vector256<float> a, Vector256<float> aSign, Vector256<float> b, Vector256<float> bSign,
        sbyte* x, int at, Vector256<float> scales) =>
        Avx2.IsSupported
            ? Add(Add(sums, Pairs(a, Signed(aSign, x + at)), scales), Pairs(b, Signed(bSign, x + at + 64)), scales)
            : Vector256.Create(
                Lanes128.DotSigned(
                    sums.GetLower(), a.GetLower(), aSign.GetLower(), b.GetLower(), bSign.GetLower(), x, at, scales.GetLower()),
                Lanes128.DotSigned(
                    sums.GetUpper(), a.GetUpper(), aSign.GetUpper(), b.GetUpper(), bSign.GetUpper(), x + 16, at, scales.GetUpper()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Four(
        Vector256<float> a, Vector256<float> b, Vector256<float> c, Vector256<float> d, sbyte* x)
    {
        if (!Avx2.IsSupported)
        {
            return Vector256.Create(
                Lanes128.Four(a.GetLower(), b.GetLower(), c.GetLower(), d.GetLower(), x),
                Lanes128.Four(a.GetUpper(), b.GetUpper(), c.GetUpper(), d.GetUpper(), x + 16));
        }

        if (AvxVnni.IsSupported)
        {
            var two = AvxVnni.MultiplyWideningAndAdd(Vector256<int>.Zero, a.AsByte(), Vector256.Load(x));
            two = AvxVnni.MultiplyWideningAndAdd(two, b.AsByte(), Vector256.Load(x + 64));
            two = AvxVnni.MultiplyWideningAndAdd(two, c.AsByte(), Vector256.Load(x + 128));
            return AvxVnni.MultiplyWideningAndAdd(two, d.AsByte(), Vector256.Load(x + 192)).AsSingle();
        }

        var pairs = Pairs(a, Vector256.Load(x)) + Pairs(b, Vector256.Load(x + 64))
            + (Pairs(c, Vector256.Load(x + 128)) + Pairs(d, Vector256.Load(x + 192)));
        return Avx2.MultiplyAddAdjacent(pairs, Vector256.Create((short)1)).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> TwoSigned(
        Vector256<float> sums, Vector256<float> a, Vector256<float> aSign, Vector256<float> b, Vector256<float> bSign, sbyte* x, int at)
    {
        if (!AvxVnni.IsSupported)
        {
            return DotSigned(sums, a, aSign, b, bSign, x, at, Vector256.Create((short)1).AsSingle());
        }

        var first = AvxVnni.MultiplyWideningAndAdd(sums.AsInt32(), a.AsByte(), Signed(aSign, x + at));
        return AvxVnni.MultiplyWideningAndAdd(first, b.AsByte(), Signed(bSign, x + at + 64)).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<sbyte> Signed(Vector256<float> sign, sbyte* x) => Avx2.Sign(Vector256.Load(x), sign.AsSByte());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<short> Pairs(Vector256<float> numbers, Vector256<sbyte> x) =>
        Avx2.MultiplyAddAdjacent(numbers.AsByte(), x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Add(Vector256<float> sums, Vector256<short> pairs, Vector256<float> scales) =>
        AvxVnni.IsSupported
            ? AvxVnni.MultiplyWideningAndAdd(sums.AsInt32(), pairs, scales.AsInt16()).AsSingle()
            : (sums.AsInt32() + Avx2.MultiplyAddAdjacent(pairs, scales.AsInt16())).AsSingle();
}
