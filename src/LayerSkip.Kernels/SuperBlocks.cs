using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LayerSkip.Kernels;

/// <summary>
/// A format of blocks of 256 numbers, with a scale for each 16 of them (ggml-common.h, block_q2_K and its like):
/// number i is d scale q + least minimum, scale and minimum those of its 16.
/// </summary>
internal unsafe interface ISuperBlock
{
    /// <summary>Bytes of a block.</summary>
    static abstract int Bytes { get; }

    /// <summary>Whether minima have a factor of their own; else it is d.</summary>
    static abstract bool HasLeast { get; }

    /// <summary>A part of q, dealt: at most 64, but of IQ4_XS places of levels, which have no minima.</summary>
    static abstract (V First, V Second) Numbers<V, L>(byte* block, int part)
        where V : unmanaged
        where L : struct, IByteLanes<V>;

    /// <summary>
    /// d, and the minima's factor beside it; sixteen scales, and sixteen minima where q are not signed, in the order of <see cref="SuperBlock.Order"/>.
    /// </summary>
    static abstract (Vector128<float> Factors, Vector256<short> Scales, Vector256<short> Minima) Scales(byte* block);
}

/// <summary>2-bit numbers, 4-bit scales and minima.</summary>
internal readonly unsafe struct Q2K : ISuperBlock
{
    public static int Bytes => 84;

    public static bool HasLeast => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (V First, V Second) Numbers<V, L>(byte* block, int part)
        where V : unmanaged
        where L : struct, IByteLanes<V> => SuperBlock.Dealt<V, L, Twos>(block, part);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector128<float> Factors, Vector256<short> Scales, Vector256<short> Minima) Scales(byte* block)
    {
        var packed = Vector128.Load(block);
        packed = Vector128.Shuffle(packed, SuperBlock.Order);
        var minima = (packed.AsUInt16() >>> 4).AsByte() & Vector128.Create((byte)15);
        return (
            SuperBlock.Pair(block + 80),
            SuperBlock.Widen((packed & Vector128.Create((byte)15)).AsSByte()),
            SuperBlock.Widen(minima.AsSByte()));
    }

    private readonly struct Twos : IField
    {
        public static byte Mask => 3;

        public static int Offset(int group) => 16 + (32 * (group >> 2));

        public static int Shift(int group) => 2 * (group & 3);
    }
}

/// <summary>3-bit numbers less 4, 6-bit scales less 32.</summary>
internal readonly unsafe struct Q3K : ISuperBlock
{
    public static int Bytes => 110;

    public static bool HasLeast => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (V First, V Second) Numbers<V, L>(byte* block, int part)
        where V : unmanaged
        where L : struct, IByteLanes<V> => SuperBlock.Dealt<V, L, Twos, Third>(block, part, 2);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector128<float> Factors, Vector256<short> Scales, Vector256<short> Minima) Scales(byte* block)
    {
        const uint Nibble = 0x0F0F0F0F, Two = 0x03030303;
        uint a = *(uint*)(block + 96), b = *(uint*)(block + 100), high = *(uint*)(block + 104);
        var six = Vector128.Create(
            (a & Nibble) | ((high & Two) << 4),
            (b & Nibble) | (((high >> 2) & Two) << 4),
            ((a >> 4) & Nibble) | (((high >> 4) & Two) << 4),
            ((b >> 4) & Nibble) | (((high >> 6) & Two) << 4)).AsSByte() - Vector128.Create((sbyte)32);
        var scales = SuperBlock.Widen(Vector128.Shuffle(six, SuperBlock.Order.AsSByte()));
        return (SuperBlock.Single(block + 108), scales, -(scales << 2));
    }

    private readonly struct Twos : IField
    {
        public static byte Mask => 3;

        public static int Offset(int group) => 32 + (32 * (group >> 2));

        public static int Shift(int group) => 2 * (group & 3);
    }

    private readonly struct Third : IField
    {
        public static byte Mask => 1;

        public static int Offset(int group) => 0;

        public static int Shift(int group) => group;
    }
}

/// <summary>4-bit numbers, 6-bit scales and minima of each 32.</summary>
internal readonly unsafe struct Q4K : ISuperBlock
{
    public static int Bytes => 144;

    public static bool HasLeast => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (V First, V Second) Numbers<V, L>(byte* block, int part)
        where V : unmanaged
        where L : struct, IByteLanes<V> => SuperBlock.Dealt<V, L, Fours>(block, part);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector128<float> Factors, Vector256<short> Scales, Vector256<short> Minima) Scales(byte* block) =>
        SuperBlock.ScalesAndMinima(block);

    private readonly struct Fours : IField
    {
        public static byte Mask => 15;

        public static int Offset(int group) => 16 + (32 * (group >> 1));

        public static int Shift(int group) => 4 * (group & 1);
    }
}

/// <summary>5-bit numbers, 6-bit scales and minima of each 32.</summary>
internal readonly unsafe struct Q5K : ISuperBlock
{
    public static int Bytes => 176;

    public static bool HasLeast => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (V First, V Second) Numbers<V, L>(byte* block, int part)
        where V : unmanaged
        where L : struct, IByteLanes<V> => SuperBlock.Dealt<V, L, Fours, Fifth>(block, part, 4);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector128<float> Factors, Vector256<short> Scales, Vector256<short> Minima) Scales(byte* block) =>
        SuperBlock.ScalesAndMinima(block);

    private readonly struct Fours : IField
    {
        public static byte Mask => 15;

        public static int Offset(int group) => 48 + (32 * (group >> 1));

        public static int Shift(int group) => 4 * (group & 1);
    }

    private readonly struct Fifth : IField
    {
        public static byte Mask => 1;

        public static int Offset(int group) => 16;

        public static int Shift(int group) => group;
    }
}

/// <summary>6-bit numbers less 32, 8-bit scales.</summary>
internal readonly unsafe struct Q6K : ISuperBlock
{
    public static int Bytes => 210;

    public static bool HasLeast => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (V First, V Second) Numbers<V, L>(byte* block, int part)
        where V : unmanaged
        where L : struct, IByteLanes<V> => SuperBlock.Dealt<V, L, Low, High>(block, part, 4);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector128<float> Factors, Vector256<short> Scales, Vector256<short> Minima) Scales(byte* block)
    {
        var scales = SuperBlock.Widen(Vector128.Shuffle(Vector128.Load((sbyte*)block + 192), SuperBlock.Order.AsSByte()));
        return (SuperBlock.Single(block + 208), scales, -(scales << 5));
    }

    private readonly struct Low : IField
    {
        public static byte Mask => 15;

        public static int Offset(int group) => (64 * (group >> 2)) + (32 * (group & 1));

        public static int Shift(int group) => 4 * ((group & 3) >> 1);
    }

    private readonly struct High : IField
    {
        public static byte Mask => 3;

        public static int Offset(int group) => 128 + (32 * (group >> 2));

        public static int Shift(int group) => 2 * (group & 3);
    }
}

/// <summary>4-bit numbers of sixteen levels, 6-bit scales less 32 of each 32.</summary>
internal readonly unsafe struct IQ4XS : ISuperBlock
{
    public static int Bytes => 136;

    public static bool HasLeast => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (V First, V Second) Numbers<V, L>(byte* block, int part)
        where V : unmanaged
        where L : struct, IByteLanes<V> => L.DealNibbles(block + 8, part);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (Vector128<float> Factors, Vector256<short> Scales, Vector256<short> Minima) Scales(byte* block)
    {
        ulong low = Spread(*(uint*)(block + 4), 4, 0x0F0F0F0F0F0F0F0F);
        ulong high = Spread(*(ushort*)(block + 2), 2, 0x0303030303030303);
        var six = Vector128.CreateScalarUnsafe(low | (high << 4)).AsSByte() - Vector128.Create((sbyte)32);
        return (SuperBlock.Single(block), SuperBlock.Widen(Vector128.Shuffle(six, SuperBlock.EachTwice)), default);
    }

    /// <summary>Eight fields of so many bits, each in a byte of its own.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong Spread(uint packed, int bits, ulong mask)
    {
        if (Bmi2.X64.IsSupported)
        {
            return Bmi2.X64.ParallelBitDeposit(packed, mask);
        }

        ulong spread = 0;

        for (int i = 0; i < 8; i++)
        {
            spread |= (ulong)((packed >> (bits * i)) & ((1u << bits) - 1)) << (8 * i);
        }

        return spread;
    }
}

/// <summary>What formats of 256 have in common.</summary>
internal static unsafe class SuperBlock
{
    /// <summary>Numbers of a block.</summary>
    internal const int Numbers = 256;

    /// <summary>A part of a field.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static (V First, V Second) Dealt<V, L, F>(byte* block, int part)
        where V : unmanaged
        where L : struct, IByteLanes<V>
        where F : struct, IField => L.Deal(L.Field<F>(block, L.First(part)), L.Field<F>(block, L.Second(part)));

    /// <summary>The same of numbers whose upper bits are another field, above so many lower ones.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static (V First, V Second) Dealt<V, L, F, Upper>(byte* block, int part, int bits)
        where V : unmanaged
        where L : struct, IByteLanes<V>
        where F : struct, IField
        where Upper : struct, IField
    {
        int first = L.First(part), second = L.Second(part);
        return L.Deal(
            L.Or(L.Field<F>(block, first), L.Raise(L.Field<Upper>(block, first), bits)),
            L.Or(L.Field<F>(block, second), L.Raise(L.Field<Upper>(block, second), bits)));
    }

    /// <summary>The order of sixteens: see <see cref="IByteLanes{V}"/>.</summary>
    internal static Vector128<byte> Order
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => Vector128.Create((byte)0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    }

    /// <summary>The same where two neighbours have one scale.</summary>
    internal static Vector128<sbyte> EachTwice
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => Vector128.Create((sbyte)0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector256<short> Widen(Vector128<sbyte> numbers) =>
        Avx2.IsSupported
            ? Avx2.ConvertToVector256Int16(numbers)
            : Vector256.Create(Vector128.WidenLower(numbers), Vector128.WidenUpper(numbers));

    /// <summary>Eight scales and eight minima of 6 bits in 12 bytes: of the last four, the upper two bits lie above the first four.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static (Vector128<float> Factors, Vector256<short> Scales, Vector256<short> Minima) ScalesAndMinima(byte* block)
    {
        var six = Sixes(block).AsSByte();
        var minima = Vector128.Shuffle(six, EachTwice + Vector128.Create((sbyte)8));
        return (Pair(block), Widen(Vector128.Shuffle(six, EachTwice)), Widen(minima));
    }

    /// <summary>Eight scales, then eight minima, a byte each.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector128<byte> Sixes(byte* block)
    {
        // In quarters: scales 0 to 3, then 4 to 7, minima likewise. Low bits, and for the last four two bits above the first four.
        var packed = Vector128.Load((uint*)(block + 4));
        var low = Vector128.Shuffle(packed, Vector128.Create(0u, 2, 1, 2));
        low = (Avx2.IsSupported
            ? Avx2.ShiftRightLogicalVariable(low, Vector128.Create(0u, 0, 0, 4))
            : Vector128.Create(low[0], low[1], low[2], low[3] >> 4)) & Vector128.Create(0x3F3F3F3Fu, 0x0F0F0F0F, 0x3F3F3F3F, 0x0F0F0F0F);
        var high = (Vector128.Shuffle(packed, Vector128.Create(0u, 0, 1, 1)) >>> 2) & Vector128.Create(0u, 0x30303030, 0, 0x30303030);
        return (low | high).AsByte();
    }

    /// <summary>d and `least`, two float16: -least, so that minima are added.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector128<float> Pair(byte* from)
    {
        var halves = Vector128.CreateScalarUnsafe(*(uint*)from).AsInt16();
        return Half16.Exact(Vector128.WidenLower(halves)) ^ Vector128.Create(0f, -0f, 0f, 0f);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector128<float> Single(byte* from) => Half16.Exact(Vector128.Create((int)*(short*)from));
}
