using System.Runtime.CompilerServices;

namespace LayerSkip.Kernels;

/// <summary>
/// A format of blocks of 32 numbers with one scale, a float16 in front (ggml-common.h, block_q4_0 and its like): number i is
/// d q, or d (q - offset), or d q + m. Read are as many blocks at once as a vector has eights of bytes.
/// </summary>
internal unsafe interface ISmallBlock
{
    /// <summary>Bytes of a block.</summary>
    static abstract int Bytes { get; }

    /// <summary>What q is less; 0 where it is signed or <see cref="HasLeast"/>.</summary>
    static abstract int Offset { get; }

    /// <summary>Whether m follows d.</summary>
    static abstract bool HasLeast { get; }

    /// <summary>Of each block the first eight q, the next eight, and so on: at most 32, but of Q8_0 signed bytes, and of IQ4_NL places of levels.</summary>
    static abstract (V A, V B, V C, V D) Numbers<V, L>(byte* block)
        where V : unmanaged
        where L : struct, IByteLanes<V>;
}

/// <summary>What formats of 32 have in common.</summary>
internal static unsafe class SmallBlock
{
    /// <summary>Numbers of a block.</summary>
    internal const int Numbers = 32;

    /// <summary>Of the sixteen levels of IQ4_NL and IQ4_XS, bytes, the first eight: -127 -104 -83 -65 -49 -35 -22 -10.</summary>
    internal const ulong FirstLevels = 0xF6EADDCFBFAD9881;

    /// <summary>Their magnitudes.</summary>
    internal const ulong FirstMagnitudes = 0x0A1623314153687F;

    /// <summary>The last: 1 13 25 38 53 69 89 113.</summary>
    internal const ulong LastLevels = 0x7159453526190D01;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static (V A, V B, V C, V D) Nibbles<V, L>(byte* bytes, nint stride)
        where V : unmanaged
        where L : struct, IByteLanes<V>
    {
        var (first, second) = L.Gather(bytes, stride);
        return (L.Low(first), L.Low(second), L.High(first), L.High(second));
    }

    /// <summary>Nibbles with a fifth bit each, in the last 4 of so many bytes in front of them: bit i of number i.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static (V A, V B, V C, V D) Fives<V, L>(byte* block, int front, nint stride)
        where V : unmanaged
        where L : struct, IByteLanes<V>
    {
        var (a, b, c, d) = Nibbles<V, L>(block + front, stride);
        var bits = L.GatherEights(block, stride);
        return (
            L.Or(a, L.Fifth(bits, front - 4)), L.Or(b, L.Fifth(bits, front - 3)), L.Or(c, L.Fifth(bits, front - 2)), L.Or(d, L.Fifth(bits, front - 1)));
    }
}

/// <summary>Signed bytes.</summary>
internal readonly unsafe struct Q80 : ISmallBlock
{
    public static int Bytes => 34;

    public static int Offset => 0;

    public static bool HasLeast => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (V A, V B, V C, V D) Numbers<V, L>(byte* block)
        where V : unmanaged
        where L : struct, IByteLanes<V>
    {
        var (a, b) = L.Gather(block + 2, Bytes);
        var (c, d) = L.Gather(block + 18, Bytes);
        return (a, b, c, d);
    }
}

/// <summary>Nibbles less 8.</summary>
internal readonly unsafe struct Q40 : ISmallBlock
{
    public static int Bytes => 18;

    public static int Offset => 8;

    public static bool HasLeast => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (V A, V B, V C, V D) Numbers<V, L>(byte* block)
        where V : unmanaged
        where L : struct, IByteLanes<V> => SmallBlock.Nibbles<V, L>(block + 2, Bytes);
}

/// <summary>Nibbles and a minimum.</summary>
internal readonly unsafe struct Q41 : ISmallBlock
{
    public static int Bytes => 20;

    public static int Offset => 0;

    public static bool HasLeast => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (V A, V B, V C, V D) Numbers<V, L>(byte* block)
        where V : unmanaged
        where L : struct, IByteLanes<V> => SmallBlock.Nibbles<V, L>(block + 4, Bytes);
}

/// <summary>Five bits less 16.</summary>
internal readonly unsafe struct Q50 : ISmallBlock
{
    public static int Bytes => 22;

    public static int Offset => 16;

    public static bool HasLeast => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (V A, V B, V C, V D) Numbers<V, L>(byte* block)
        where V : unmanaged
        where L : struct, IByteLanes<V> => SmallBlock.Fives<V, L>(block, 6, Bytes);
}

/// <summary>Five bits and a minimum.</summary>
internal readonly unsafe struct Q51 : ISmallBlock
{
    public static int Bytes => 24;

    public static int Offset => 0;

    public static bool HasLeast => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (V A, V B, V C, V D) Numbers<V, L>(byte* block)
        where V : unmanaged
        where L : struct, IByteLanes<V> => SmallBlock.Fives<V, L>(block, 8, Bytes);
}

/// <summary>Nibbles, places among sixteen levels.</summary>
internal readonly unsafe struct IQ4NL : ISmallBlock
{
    public static int Bytes => 18;

    public static int Offset => 0;

    public static bool HasLeast => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (V A, V B, V C, V D) Numbers<V, L>(byte* block)
        where V : unmanaged
        where L : struct, IByteLanes<V> => SmallBlock.Nibbles<V, L>(block + 2, Bytes);
}
