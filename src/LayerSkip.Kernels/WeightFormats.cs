using System.Runtime.CompilerServices;

namespace LayerSkip.Kernels;

/// <summary>How numbers lie in memory.</summary>
public enum WeightFormat
{
    /// <summary>Four bytes a number, read as they are.</summary>
    Float32,

    /// <summary>Two bytes: 5 bits of exponent, 10 of fraction.</summary>
    Float16,

    /// <summary>Two bytes: the upper half of a float32.</summary>
    BFloat16,

    // ggml's blocks, by ggml's names.
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
}

/// <summary>A format of weights, read as vectors of float32.</summary>
internal unsafe interface IFormat<V>
    where V : unmanaged
{
    /// <summary>Bytes of a number.</summary>
    static abstract int Bytes { get; }

    /// <summary>
    /// What the weights of a vector are too small by, as two powers of two: inputs of a product are multiplied by the
    /// first, its sums by the second. Both are exact, and cheaper than a product for each weight.
    /// </summary>
    static abstract float InputScale { get; }

    /// <summary>The second of the two.</summary>
    static abstract float SumScale { get; }

    /// <summary>The vector that starts at element <paramref name="at"/>, over both scales.</summary>
    static abstract V Load(byte* weights, nint at);

    /// <summary>One element, as it is: of every pattern of bits the number that <see cref="Load"/> reads.</summary>
    static abstract float One(byte* weights, int at);
}

/// <summary>Float32, as it is.</summary>
internal readonly unsafe struct Float32<V, L> : IFormat<V>
    where V : unmanaged
    where L : struct, ILanes<V>
{
    public static int Bytes => 4;

    public static float InputScale => 1f;

    public static float SumScale => 1f;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Load(byte* weights, nint at) => L.Load((float*)weights + at);

    public static float One(byte* weights, int at) => ((float*)weights)[at];
}

/// <summary>Float16 moved into place, too small by 2^112: the fastest reading, where subnormal factors are not slow.</summary>
internal readonly unsafe struct Float16<V, L> : IFormat<V>
    where V : unmanaged
    where L : struct, ILanes<V>
{
    public static int Bytes => 2;

    public static float InputScale => Half16.HalfScale;

    public static float SumScale => Half16.HalfScale;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Load(byte* weights, nint at) => L.LoadF16((ushort*)weights + at);

    public static float One(byte* weights, int at) => Half16.Widen(((ushort*)weights)[at]);
}

/// <summary>Float16 mended by integers, for processors on which subnormal factors are slow.</summary>
internal readonly unsafe struct Float16ByIntegers<V, L> : IFormat<V>
    where V : unmanaged
    where L : struct, ILanes<V>
{
    public static int Bytes => 2;

    public static float InputScale => 1f;

    public static float SumScale => 1f;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Load(byte* weights, nint at) => L.LoadF16ByIntegers((ushort*)weights + at);

    public static float One(byte* weights, int at) => Half16.Widen(((ushort*)weights)[at]);
}

/// <summary>BFloat16, the upper half of a float32.</summary>
internal readonly unsafe struct BFloat16<V, L> : IFormat<V>
    where V : unmanaged
    where L : struct, ILanes<V>
{
    public static int Bytes => 2;

    public static float InputScale => 1f;

    public static float SumScale => 1f;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Load(byte* weights, nint at) => L.LoadBF16((ushort*)weights + at);

    public static float One(byte* weights, int at) => BitConverter.UInt32BitsToSingle((uint)((ushort*)weights)[at] << 16);
}
