using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LayerSkip.Kernels;

/// <summary>Float32 arithmetic on one width of vector. Kernels are written once over it, and compiled for each.</summary>
internal unsafe interface ILanes<V>
    where V : unmanaged
{
    /// <summary>Floats of a vector: 4, 8 or 16.</summary>
    static abstract int Count { get; }

    /// <summary>`Count` floats, wherever they begin.</summary>
    static abstract V Load(float* from);

    static abstract void Store(float* to, V value);

    static abstract V Broadcast(float value);

    /// <summary>Widens bfloat16, whose bits are the upper half of a float32. (The sign-extended upper half is shifted out.)</summary>
    static abstract V LoadBF16(ushort* from);

    /// <summary>Widens float16, too small by 2^112; infinity and NaN as <see cref="Half16.Widen"/> has them.</summary>
    static abstract V LoadF16(ushort* from);

    /// <summary>Widens float16 by more integer operations, to its own size.</summary>
    static abstract V LoadF16ByIntegers(ushort* from);

    /// <summary>`Count` signed bytes as floats.</summary>
    static abstract V LoadInt8(sbyte* from);

    static abstract V Add(V a, V b);

    static abstract V Subtract(V a, V b);

    static abstract V Multiply(V a, V b);

    static abstract V Divide(V a, V b);

    static abstract V Max(V a, V b);

    /// <summary>e^x, as .NET's vectors have it.</summary>
    static abstract V Exp(V x);

    /// <summary>a * b + c in one rounding where the processor has it.</summary>
    static abstract V MultiplyAdd(V a, V b, V c);

    /// <summary>The sums of four vectors. Each is added up in the same order, whatever its place.</summary>
    static abstract Vector128<float> Sum4(V a, V b, V c, V d);
}

/// <summary>
/// How float16 becomes float32 without the processor's own instruction, which .NET gives no access to. The bits are
/// moved into place, which leaves the exponent 112 too small, for subnormal numbers too: whoever reads mends that by
/// exact products. Intel's processors take some 150 cycles for a subnormal factor, so there integers do the work.
/// The largest exponent is one like the others here: infinity reads as 65536, and NaN as up to 131008. No weight that
/// was loaded holds either.
/// </summary>
internal static class Half16
{
    internal const int InPlace = unchecked((int)0x8FFFE000);

    /// <summary>2^56: twice as a factor, it makes up for the 112.</summary>
    internal const float HalfScale = 72057594037927936f;

    internal const int Magnitude = 0x0FFFE000;
    internal const int Bias = 112 << 23;
    internal const int Sign = unchecked((int)0x80000000);
    internal const int SmallestNormal = 1 << 23;

    /// <summary>2^112.</summary>
    private const float Scale = HalfScale * HalfScale;

    /// <summary>One number, as vectors of them read it.</summary>
    internal static float Widen(ushort bits) => BitConverter.Int32BitsToSingle(((short)bits << 13) & InPlace) * Scale;

    /// <summary>Four numbers, whose bits are sign-extended, at their own size by integers: scales of blocks are often subnormal.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector128<float> Exact(Vector128<int> bits)
    {
        var magnitude = (bits << 13) & Vector128.Create(Magnitude);
        var value = (magnitude + Vector128.Create(Bias)).AsSingle();
        var small = Vector128.LessThan(magnitude, Vector128.Create(SmallestNormal)).AsSingle();
        value += (value & small) - (Vector128.Create(Subnormal) & small);
        return (value.AsInt32() | (bits & Vector128.Create(Sign))).AsSingle();
    }

    /// <summary>The same of eight.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector256<float> Exact(Vector256<int> bits)
    {
        var magnitude = (bits << 13) & Vector256.Create(Magnitude);
        var value = (magnitude + Vector256.Create(Bias)).AsSingle();
        var small = Vector256.LessThan(magnitude, Vector256.Create(SmallestNormal)).AsSingle();
        value += (value & small) - (Vector256.Create(Subnormal) & small);
        return (value.AsInt32() | (bits & Vector256.Create(Sign))).AsSingle();
    }

    /// <summary>The same of sixteen.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector512<float> Exact(Vector512<int> bits)
    {
        var magnitude = (bits << 13) & Vector512.Create(Magnitude);
        var value = (magnitude + Vector512.Create(Bias)).AsSingle();
        var small = Vector512.LessThan(magnitude, Vector512.Create(SmallestNormal)).AsSingle();
        value += (value & small) - (Vector512.Create(Subnormal) & small);
        return (value.AsInt32() | (bits & Vector512.Create(Sign))).AsSingle();
    }

    /// <summary>2^-14: with the bias a subnormal m reads 2^-15 (1 + m / 1024), and twice that less this is its value.</summary>
    internal const float Subnormal = 6.103515625e-05f;

    /// <summary>Whether a product with a subnormal number takes far longer than others: on Intel's processors.</summary>
    internal static bool SlowSubnormals { get; } = X86Base.IsSupported && X86Base.CpuId(0, 0).Ebx == 0x756E6547;
}

/// <summary>Four floats, on any processor.</summary>
internal readonly partial struct Lanes128 : IByteLanes<Vector128<float>>
{
    public static int Count => Vector128<float>.Count;

    public static unsafe Vector128<float> Load(float* from) => Vector128.Load(from);

    public static unsafe void Store(float* to, Vector128<float> value) => value.Store(to);

    public static Vector128<float> Broadcast(float value) => Vector128.Create(value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe Vector128<int> Widen(ushort* from) =>
        Vector128.WidenLower(Vector64.Load((short*)from).ToVector128());

    public static unsafe Vector128<float> LoadBF16(ushort* from) => (Widen(from) << 16).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static unsafe Vector128<float> LoadF16(ushort* from) =>
        ((Widen(from) << 13) & Vector128.Create(Half16.InPlace)).AsSingle();

    public static unsafe Vector128<float> LoadF16ByIntegers(ushort* from) => Half16.Exact(Widen(from));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static unsafe Vector128<float> LoadInt8(sbyte* from)
    {
        var bytes = Vector128.CreateScalarUnsafe(*(int*)from).AsSByte();
        return Vector128.ConvertToSingle(Vector128.WidenLower(Vector128.WidenLower(bytes)));
    }

    public static Vector128<float> Add(Vector128<float> a, Vector128<float> b) => a + b;

    public static Vector128<float> Subtract(Vector128<float> a, Vector128<float> b) => a - b;

    public static Vector128<float> Multiply(Vector128<float> a, Vector128<float> b) => a * b;

    public static Vector128<float> Divide(Vector128<float> a, Vector128<float> b) => a / b;

    public static Vector128<float> Max(Vector128<float> a, Vector128<float> b) => Vector128.Max(a, b);

    public static Vector128<float> Exp(Vector128<float> x) => Vector128.Exp(x);

    public static Vector128<float> MultiplyAdd(Vector128<float> a, Vector128<float> b, Vector128<float> c) =>
        Vector128.MultiplyAddEstimate(a, b, c);

    // (a0 + a1) + (a2 + a3), for each of the four.
    public static Vector128<float> Sum4(Vector128<float> a, Vector128<float> b, Vector128<float> c, Vector128<float> d)
    {
        if (Sse3.IsSupported)
        {
            return Sse3.HorizontalAdd(Sse3.HorizontalAdd(a, b), Sse3.HorizontalAdd(c, d));
        }

        return Vector128.Create(Sum(a), Sum(b), Sum(c), Sum(d));
    }

    private static float Sum(Vector128<float> a) => (a[0] + a[1]) + (a[2] + a[3]);
}

/// <summary>Eight floats: AVX2 in hardware, elsewhere in software.</summary>
internal readonly partial struct Lanes256 : IByteLanes<Vector256<float>>
{
    public static int Count => Vector256<float>.Count;

    public static unsafe Vector256<float> Load(float* from) => Vector256.Load(from);

    public static unsafe void Store(float* to, Vector256<float> value) => value.Store(to);

    public static Vector256<float> Broadcast(float value) => Vector256.Create(value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static unsafe Vector256<int> Widen(ushort* from) =>
        Avx2.IsSupported
            ? Avx2.ConvertToVector256Int32((short*)from)
            : Vector256.WidenLower(Vector128.Load((short*)from).ToVector256());

    public static unsafe Vector256<float> LoadBF16(ushort* from) => (Widen(from) << 16).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static unsafe Vector256<float> LoadF16(ushort* from) =>
        ((Widen(from) << 13) & Vector256.Create(Half16.InPlace)).AsSingle();

    public static unsafe Vector256<float> LoadF16ByIntegers(ushort* from) => Half16.Exact(Widen(from));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static unsafe Vector256<float> LoadInt8(sbyte* from) =>
        Avx2.IsSupported
            ? Vector256.ConvertToSingle(Avx2.ConvertToVector256Int32(from))
            : Vector256.Create(Lanes128.LoadInt8(from), Lanes128.LoadInt8(from + 4));

    public static Vector256<float> Add(Vector256<float> a, Vector256<float> b) => a + b;

    public static Vector256<float> Subtract(Vector256<float> a, Vector256<float> b) => a - b;

    public static Vector256<float> Multiply(Vector256<float> a, Vector256<float> b) => a * b;

    public static Vector256<float> Divide(Vector256<float> a, Vector256<float> b) => a / b;

    public static Vector256<float> Max(Vector256<float> a, Vector256<float> b) => Vector256.Max(a, b);

    public static Vector256<float> Exp(Vector256<float> x) => Vector256.Exp(x);

    public static Vector256<float> MultiplyAdd(Vector256<float> a, Vector256<float> b, Vector256<float> c) =>
        Vector256.MultiplyAddEstimate(a, b, c);

    // Pairs, then pairs of pairs, then the two halves.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Sum4(Vector256<float> a, Vector256<float> b, Vector256<float> c, Vector256<float> d)
    {
        if (Avx.IsSupported)
        {
            var pairs = Avx.HorizontalAdd(Avx.HorizontalAdd(a, b), Avx.HorizontalAdd(c, d));
            return pairs.GetLower() + pairs.GetUpper();
        }

        return Lanes128.Sum4(a.GetLower(), b.GetLower(), c.GetLower(), d.GetLower())
            + Lanes128.Sum4(a.GetUpper(), b.GetUpper(), c.GetUpper(), d.GetUpper());
    }
}

/// <summary>Sixteen floats: AVX-512 in hardware, elsewhere in software.</summary>
internal readonly partial struct Lanes512 : IByteLanes<Vector512<float>>
{
    public static int Count => Vector512<float>.Count;

    public static unsafe Vector512<float> Load(float* from) => Vector512.Load(from);

    public static unsafe void Store(float* to, Vector512<float> value) => value.Store(to);

    public static Vector512<float> Broadcast(float value) => Vector512.Create(value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe Vector512<int> Widen(ushort* from) =>
        Avx512F.IsSupported
            ? Avx512F.ConvertToVector512Int32(Vector256.Load((short*)from))
            : Vector512.Create(Lanes256.Widen(from), Lanes256.Widen(from + 8));

    public static unsafe Vector512<float> LoadBF16(ushort* from) => (Widen(from) << 16).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static unsafe Vector512<float> LoadF16(ushort* from) =>
        ((Widen(from) << 13) & Vector512.Create(Half16.InPlace)).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static unsafe Vector512<float> LoadF16ByIntegers(ushort* from) => Half16.Exact(Widen(from));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static unsafe Vector512<float> LoadInt8(sbyte* from) =>
        Avx512F.IsSupported
            ? Vector512.ConvertToSingle(Avx512F.ConvertToVector512Int32(Vector128.Load(from)))
            : Vector512.Create(Lanes256.LoadInt8(from), Lanes256.LoadInt8(from + 8));

    public static Vector512<float> Add(Vector512<float> a, Vector512<float> b) => a + b;

    public static Vector512<float> Subtract(Vector512<float> a, Vector512<float> b) => a - b;

    public static Vector512<float> Multiply(Vector512<float> a, Vector512<float> b) => a * b;

    public static Vector512<float> Divide(Vector512<float> a, Vector512<float> b) => a / b;

    public static Vector512<float> Max(Vector512<float> a, Vector512<float> b) => Vector512.Max(a, b);

    public static Vector512<float> Exp(Vector512<float> x) => Vector512.Exp(x);

    public static Vector512<float> MultiplyAdd(Vector512<float> a, Vector512<float> b, Vector512<float> c) =>
        Vector512.MultiplyAddEstimate(a, b, c);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Sum4(Vector512<float> a, Vector512<float> b, Vector512<float> c, Vector512<float> d) =>
        Lanes256.Sum4(
            a.GetLower() + a.GetUpper(),
            b.GetLower() + b.GetUpper(),
            c.GetLower() + c.GetUpper(),
            d.GetLower() + d.GetUpper());
}
