using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LayerSkip.Kernels;

/// <summary>
/// Q4_K and Q5_K by vectors of 512 bits, which hold two of their 32-byte rows of nibbles: low and high ones lie just as they are to be
/// dealt, and scales come from bytes to their places at once. Values are those of the general way, to the bit.
/// </summary>
internal static unsafe class WideSuperBlocks
{
    internal static bool AreSupported => Avx512BW.IsSupported && Avx2.IsSupported;

    /// <summary>The numbers of nibble rows `first` and `first` + 1 of a block, dealt.</summary>
    /// <param name="nibbles">Both rows, 64 bytes.</param>
    /// <param name="lowFifth">Fifth bits of low nibbles, at bit 4; none of Q4_K.</param>
    /// <param name="highFifth">Those of high ones.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static (Vector512<float> First, Vector512<float> Second) Deal(
        byte* nibbles, Vector512<ushort> lowFifth = default, Vector512<ushort> highFifth = default)
    {
        var both = Vector512.Load(nibbles);
        var mask = Vector512.Create((byte)15);
        var low = (both & mask) | lowFifth.AsByte();
        var high = ((both.AsUInt16() >>> 4).AsByte() & mask) | highFifth.AsByte();
        return (
            Avx512F.UnpackLow(low.AsUInt64(), high.AsUInt64()).AsSingle(),
            Avx512F.UnpackHigh(low.AsUInt64(), high.AsUInt64()).AsSingle());
    }

    /// <summary>Scales and minima, 16 bytes: eight 6-bit scales, then eight minima; in each quarter of a vector.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector512<byte> Sixes(byte* block) =>
        Avx512F.PermuteVar16x32(
            SuperBlock.Sixes(block).AsInt32().ToVector256Unsafe().ToVector512Unsafe(),
            Vector512.Create(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3)).AsByte();

    /// <summary>Scales of the first half of a block, each for all of its eight products.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector512<float> FirstScales(Vector512<byte> sixes)
    {
        const ulong S0 = 0x8000800080008000, S1 = 0x8001800180018001, S2 = 0x8002800280028002, S3 = 0x8003800380038003;
        return Avx512BW.Shuffle(sixes, Vector512.Create(S0, S1, S0, S1, S2, S3, S2, S3).AsByte()).AsSingle();
    }

    /// <summary>Those of the second half.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector512<float> SecondScales(Vector512<byte> sixes)
    {
        const ulong S4 = 0x8004800480048004, S5 = 0x8005800580058005, S6 = 0x8006800680068006, S7 = 0x8007800780078007;
        return Avx512BW.Shuffle(sixes, Vector512.Create(S4, S5, S4, S5, S6, S7, S6, S7).AsByte()).AsSingle();
    }

    /// <summary>Minima of all sixteens, in their order, as floats.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector512<float> Minima(Vector512<byte> sixes)
    {
        const ulong M01 = 0x8080800980808008, M23 = 0x8080800B8080800A, M45 = 0x8080800D8080800C, M67 = 0x8080800F8080800E;
        return Vector512.ConvertToSingle(
            Avx512BW.Shuffle(sixes, Vector512.Create(M01, M01, M23, M23, M45, M45, M67, M67).AsByte()).AsInt32());
    }

    /// <summary>Bits moved up, so many in the first half and so many in the second, of which bit 4 stays.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector512<ushort> Up(Vector512<ushort> bits, ulong first, ulong second) =>
        Avx512BW.ShiftLeftLogicalVariable(bits, Lanes512.Halves(first, second)) & Vector512.Create((ushort)0x1010);

    /// <summary>Bits moved down.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector512<ushort> Down(Vector512<ushort> bits, ulong first, ulong second) =>
        Avx512BW.ShiftRightLogicalVariable(bits, Lanes512.Halves(first, second)) & Vector512.Create((ushort)0x1010);
}
