using System.Runtime.CompilerServices;

namespace LayerSkip.Kernels;

/// <summary>How numbers lie in memory.</summary>
public enum WeightFormat
{
    Float32,
    Float16,
    BFloat16,
}

/// <summary>A format of weights, read as vectors of float32.</summary>
internal unsafe interface IFormat<V>
    where V : struct
{
    static abstract int Bytes { get; }

    /// <summary>The vector that starts at element <paramref name="at"/>.</summary>
    static abstract V Load(byte* weights, int at);

    static abstract float One(byte* weights, int at);
}

internal readonly unsafe struct Float32<V, L> : IFormat<V>
    where V : struct
    where L : struct, ILanes<V>
{
    public static int Bytes => 4;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Load(byte* weights, int at) => L.Load((float*)weights + at);

    public static float One(byte* weights, int at) => ((float*)weights)[at];
}

internal readonly unsafe struct Float16<V, L> : IFormat<V>
    where V : struct
    where L : struct, ILanes<V>
{
    public static int Bytes => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Load(byte* weights, int at) => L.LoadF16((ushort*)weights + at);

    public static float One(byte* weights, int at) => (float)((Half*)weights)[at];
}

internal readonly unsafe struct Float16ByIntegers<V, L> : IFormat<V>
    where V : struct
    where L : struct, ILanes<V>
{
    public static int Bytes => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Load(byte* weights, int at) => L.LoadF16ByIntegers((ushort*)weights + at);

    public static float One(byte* weights, int at) => (float)((Half*)weights)[at];
}

internal readonly unsafe struct BFloat16<V, L> : IFormat<V>
    where V : struct
    where L : struct, ILanes<V>
{
    public static int Bytes => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Load(byte* weights, int at) => L.LoadBF16((ushort*)weights + at);

    public static float One(byte* weights, int at) => BitConverter.UInt32BitsToSingle((uint)((ushort*)weights)[at] << 16);
}
