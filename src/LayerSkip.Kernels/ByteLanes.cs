using System.Runtime.Intrinsics;

namespace LayerSkip.Kernels;

/// <summary>Where the bits of each group of 32 numbers lie in a block: 32 bytes from an offset on, some bits of each.</summary>
internal interface IField
{
    static abstract int Offset(int group);

    static abstract int Shift(int group);

    static abstract byte Mask { get; }
}

/// <summary>
/// A vector of floats as bytes and whole numbers. Products of bytes are added in pairs to 16 bits, and these, times a scale, in
/// pairs to 32: so each eight bytes have a scale of their own. Eights come in the order 0 2 1 3 4 6 5 7 and so on, which a vector of any
/// width is dealt into within its 16-byte lanes.
/// </summary>
internal unsafe interface IByteLanes<V> : ILanes<V>
    where V : unmanaged
{
    /// <summary>Of a block of 256, as many numbers as a vector has bytes, in their order, from a field.</summary>
    static abstract V Field<F>(byte* block, int chunk)
        where F : struct, IField;

    /// <summary>The chunk that part `part` is dealt from: it has of each sixteen of their numbers the first eight in one vector, and the last in another.</summary>
    static abstract int First(int part);

    /// <summary>The chunk that it is dealt from too.</summary>
    static abstract int Second(int part);

    /// <summary>Deals such chunks.</summary>
    static abstract (V First, V Second) Deal(V first, V second);

    /// <summary>A part, dealt, of nibbles: of each 16 bytes the low ones, then the high ones.</summary>
    static abstract (V First, V Second) DealNibbles(byte* bytes, int part);

    /// <summary>Of as many blocks as a vector has eights the first eight bytes from there on, and the next.</summary>
    static abstract (V First, V Second) Gather(byte* first, nint stride);

    /// <summary>Of as many blocks the float16 there, for each int32 sum of a block's.</summary>
    static abstract V GatherHalves(byte* first, nint stride);

    /// <summary>Of as many blocks the first eight bytes there.</summary>
    static abstract V GatherEights(byte* first, nint stride);

    /// <summary>Two float16 in front of each eight, each for both of its int32 sums.</summary>
    static abstract (V First, V Last) Halves(V eights);

    /// <summary>Byte `at` of each eight as bits: 16 in byte i where bit i is set.</summary>
    static abstract V Fifth(V bits, int at);

    /// <summary>Bits of bytes, moved up; none may cross into the next byte.</summary>
    static abstract V Raise(V bytes, int bits);

    static abstract V Or(V a, V b);

    /// <summary>Low nibbles of bytes.</summary>
    static abstract V Low(V bytes);

    /// <summary>High nibbles of bytes.</summary>
    static abstract V High(V bytes);

    /// <summary>|numbers| of signed bytes, unsigned.</summary>
    static abstract V Magnitude(V numbers);

    /// <summary>What products of signed bytes need beside their magnitude.</summary>
    static abstract V Sign(V numbers);

    /// <summary>Both of the levels of IQ4 that stand at places 0 to 15: the first eight are negative, no other is.</summary>
    static abstract (V Magnitude, V Sign) Levels(V places);

    /// <summary>The scales of part `part` of 16, each for all of its eight products.</summary>
    static abstract V Scales(Vector256<short> scales, int part);

    /// <summary>Whole numbers `part` vectors of floats on, as floats.</summary>
    static abstract V Floats(Vector256<short> numbers, int part);

    /// <summary>sum + integers a b: the integers are int32, the others floats.</summary>
    static abstract V AddScaled(V sum, V integers, V a, V b);

    /// <summary>
    /// int32 sums + scales (a x + b x2), x from `at` on and x2 64 bytes further: a and b unsigned, at most 64, x signed, above -128, so that no sum of four products leaves 16 bits.
    /// </summary>
    static abstract V Dot(V sums, V a, V b, sbyte* x, int at, V scales);

    /// <summary>The same of signed numbers, as their <see cref="Magnitude"/> and <see cref="Sign"/>.</summary>
    static abstract V DotSigned(V sums, V a, V aSign, V b, V bSign, sbyte* x, int at, V scales);

    /// <summary>int32 sums a x + b x2 + c x3 + d x4, all unsigned, at most 32; 64 bytes from one x to the next.</summary>
    static abstract V Four(V a, V b, V c, V d, sbyte* x);

    /// <summary>int32 sums + a x + b x2 of signed numbers, x and x2 as in <see cref="Dot"/>.</summary>
    static abstract V TwoSigned(V sums, V a, V aSign, V b, V bSign, sbyte* x, int at);
}
