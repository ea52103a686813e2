using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LayerSkip.Kernels;

/// <summary>Its bytes and whole numbers.</summary>
internal readonly unsafe partial struct Lanes128
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Field<F>(byte* block, int chunk)
        where F : struct, IField
    {
        var bytes = Vector128.Load(block + F.Offset(chunk >> 1) + (16 * (chunk & 1)));
        return (Vector128.ShiftRightLogical(bytes.AsUInt16(), F.Shift(chunk >> 1)).AsByte() & Vector128.Create(F.Mask)).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector128<float> First, Vector128<float> Second) DealNibbles(byte* bytes, int part) =>
        Deal(Nibbles(bytes, First(part)), Nibbles(bytes, Second(part)));

    /// <summary>Sixteen of the nibbles of 16 bytes: the low ones, or the high ones.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Nibbles(byte* bytes, int sixteen)
    {
        var both = Vector128.Load(bytes + (16 * (sixteen >> 1))).AsSingle();
        return (sixteen & 1) == 0 ? Low(both) : High(both);
    }

    public static int First(int part) => (4 * (part >> 1)) + (part & 1);

    public static int Second(int part) => (4 * (part >> 1)) + (part & 1) + 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector128<float> First, Vector128<float> Second) Deal(Vector128<float> first, Vector128<float> second)
    {
        var (a, b) = (first.AsUInt64(), second.AsUInt64());
        return Sse2.IsSupported
            ? (Sse2.UnpackLow(a, b).AsSingle(), Sse2.UnpackHigh(a, b).AsSingle())
            : (Vector128.Create(a[0], b[0]).AsSingle(), Vector128.Create(a[1], b[1]).AsSingle());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector128<float> First, Vector128<float> Second) Gather(byte* first, nint stride) =>
        Deal(Vector128.Load(first).AsSingle(), Vector128.Load(first + (2 * stride)).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> GatherHalves(byte* first, nint stride)
    {
        int a = *(short*)first, b = *(short*)(first + (2 * stride));
        return Half16.Exact(Vector128.Create(a, a, b, b));
    }

    public static Vector128<float> GatherEights(byte* first, nint stride) =>
        Vector128.Create(*(ulong*)first, *(ulong*)(first + (2 * stride))).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector128<float> First, Vector128<float> Last) Halves(Vector128<float> eights)
    {
        var twice = Vector128.Shuffle(eights.AsInt32(), Vector128.Create(0, 0, 2, 2));
        return (Half16.Exact((twice << 16) >> 16), Half16.Exact(twice >> 16));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Fifth(Vector128<float> bits, int at)
    {
        var own = Vector128.Create(0x8040201008040201UL).AsByte();
        var spread = Vector128.Shuffle(bits.AsByte(), Vector128.Create(Times8(at), Times8(at + 8)).AsByte());
        return (Vector128.Equals(spread & own, own) & Vector128.Create((byte)16)).AsSingle();
    }

    public static Vector128<float> Raise(Vector128<float> bytes, int bits) => (bytes.AsUInt16() << bits).AsSingle();

    public static Vector128<float> Or(Vector128<float> a, Vector128<float> b) => a | b;

    public static Vector128<float> Low(Vector128<float> bytes) => (bytes.AsByte() & Vector128.Create((byte)15)).AsSingle();

    public static Vector128<float> High(Vector128<float> bytes) => Low((bytes.AsUInt16() >>> 4).AsSingle());

    /// <summary>For each byte, 0 to 15, the byte that stands there in sixteen, of which eight each are given.</summary>
    internal static Vector128<float> Lookup(ulong first, ulong last, Vector128<float> numbers) =>
        Vector128.Shuffle(Vector128.Create(first, last).AsByte(), numbers.AsByte()).AsSingle();

    public static Vector128<float> Magnitude(Vector128<float> numbers) => Vector128.Abs(numbers.AsSByte()).AsSingle();

    public static Vector128<float> Sign(Vector128<float> numbers) => numbers;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector128<float> Magnitude, Vector128<float> Sign) Levels(Vector128<float> places)
    {
        var levels = Lookup(SmallBlock.FirstLevels, SmallBlock.LastLevels, places);
        return (Magnitude(levels), Sign(levels));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Scales(Vector256<short> scales, int part)
    {
        const ulong Each = 0x0001000100010001;
        return Vector128.Create((ushort)scales[2 * part] * Each, (ushort)scales[(2 * part) + 1] * Each).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Floats(Vector256<short> numbers, int part) =>
        Vector128.ConvertToSingle(Vector128.WidenLower(Vector128.CreateScalarUnsafe(numbers.AsInt64()[part]).AsInt16()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> AddScaled(Vector128<float> sum, Vector128<float> integers, Vector128<float> a, Vector128<float> b) =>
        Vector128.MultiplyAddEstimate(Vector128.ConvertToSingle(integers.AsInt32()), a * b, sum);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Dot(
        Vector128<float> sums, Vector128<float> a, Vector128<float> b, sbyte* x, int at, Vector128<float> scales) =>
        Add(sums, Pairs(a, Vector128.Load(x + at)) + Pairs(b, Vector128.Load(x + at + 64)), scales);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> DotSigned(
        Vector128<float> sums, Vector128<float> a, Vector128<float> aSign, Vector128<float> b, Vector128<float> bSign,
        sbyte* x, int at, Vector128<float> scales) =>
        Add(Add(sums, Pairs(a, Signed(aSign, x + at)), scales), Pairs(b, Signed(bSign, x + at + 64)), scales);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Four(
        Vector128<float> a, Vector128<float> b, Vector128<float> c, Vector128<float> d, sbyte* x)
    {
        var pairs = Pairs(a, Vector128.Load(x)) + Pairs(b, Vector128.Load(x + 64))
            + (Pairs(c, Vector128.Load(x + 128)) + Pairs(d, Vector128.Load(x + 192)));
        return Add(default, pairs, Vector128.Create((short)1).AsSingle());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> TwoSigned(
        Vector128<float> sums, Vector128<float> a, Vector128<float> aSign, Vector128<float> b, Vector128<float> bSign, sbyte* x, int at) =>
        DotSigned(sums, a, aSign, b, bSign, x, at, Vector128.Create((short)1).AsSingle());

    internal static ulong Times8(int value) => (ulong)value * 0x0101010101010101;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<sbyte> Signed(Vector128<float> sign, sbyte* x)
    {
        var loaded = Vector128.Load(x);

        if (Ssse3.IsSupported)
        {
            return Ssse3.Sign(loaded, sign.AsSByte());
        }

        var negative = Vector128.LessThan(sign.AsSByte(), default);
        return (loaded ^ negative) - negative;
    }

    /// <summary>Sums of neighbours' products.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<short> Pairs(Vector128<float> numbers, Vector128<sbyte> x)
    {
        if (Ssse3.IsSupported)
        {
            return Ssse3.MultiplyAddAdjacent(numbers.AsByte(), x);
        }

        // Even bytes and odd ones, as words.
        var (words, own) = (numbers.AsInt16(), x.AsInt16());
        return ((words & Vector128.Create((short)255)) * ((own << 8) >> 8)) + ((words >>> 8) * (own >> 8));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Add(Vector128<float> sums, Vector128<short> pairs, Vector128<float> scales)
    {
        if (AvxVnni.IsSupported)
        {
            return AvxVnni.MultiplyWideningAndAdd(sums.AsInt32(), pairs, scales.AsInt16()).AsSingle();
        }

        if (Sse2.IsSupported)
        {
            return (sums.AsInt32() + Sse2.MultiplyAddAdjacent(pairs, scales.AsInt16())).AsSingle();
        }

        var (words, own) = (pairs.AsInt32(), scales.AsInt32());
        return (sums.AsInt32() + (((words << 16) >> 16) * ((own << 16) >> 16)) + ((words >> 16) * (own >> 16))).AsSingle();
    }
}
