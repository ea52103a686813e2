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
    public static Vector512<float> Nibbles(byte* bytes, int chunk)
    {
        if (!Avx512BW.IsSupported)
        {
            return Vector512.Create(Lanes256.Nibbles(bytes, 2 * chunk), Lanes256.Nibbles(bytes, (2 * chunk) + 1));
        }

        const ulong Four = 0x0004000400040004;
        var both = Avx512F.PermuteVar8x64(Twice(bytes + (32 * chunk)).AsUInt64(), Vector512.Create(0UL, 1, 0, 1, 2, 3, 2, 3));
        var shifts = Vector512.Create(0UL, 0, Four, Four, 0, 0, Four, Four);
        return Low(Avx512BW.ShiftRightLogicalVariable(both.AsUInt16(), shifts.AsUInt16()).AsSingle());
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

        var a = Vector512.Create(
            Vector256.Create(Vector128.Load(first), Vector128.Load(first + stride)),
            Vector256.Create(Vector128.Load(first + (4 * stride)), Vector128.Load(first + (5 * stride)))).AsUInt64();
        byte* third = first + (2 * stride);
        var b = Vector512.Create(
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

        var halves = Vector128.CreateScalarUnsafe(*(short*)first)
            .WithElement(1, *(short*)(first + (2 * stride)))
            .WithElement(2, *(short*)(first + stride))
            .WithElement(3, *(short*)(first + (3 * stride)))
            .WithElement(4, *(short*)(first + (4 * stride)))
            .WithElement(5, *(short*)(first + (6 * stride)))
            .WithElement(6, *(short*)(first + (5 * stride)))
            .WithElement(7, *(short*)(first + (7 * stride)));
        var exact = Half16.Exact(Avx2.ConvertToVector256Int32(halves));
        return Avx512F.PermuteVar16x32(
            exact.ToVector512Unsafe(), Vector512.Create(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7));
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

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Lookup(ulong first, ulong last, Vector512<float> numbers) =>
        Avx512BW.IsSupported
            ? Avx512BW.Shuffle(Vector512.Create(first, last, first, last, first, last, first, last).AsByte(), numbers.AsByte()).AsSingle()
            : Vector512.Create(Lanes256.Lookup(first, last, numbers.GetLower()), Lanes256.Lookup(first, last, numbers.GetUpper()));

    public static Vector512<float> Magnitude(Vector512<float> numbers) => Vector512.Abs(numbers.AsSByte()).AsSingle();

    public static Vector512<float> Sign(Vector512<float> numbers) =>
        Avx512BW.IsSupported ? Vector512.LessThan(numbers.AsSByte(), default).AsSingle() : numbers;

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
        return Vector512.Create(half, half);
    }
}
