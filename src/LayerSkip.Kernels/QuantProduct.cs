using System.Runtime.CompilerServices;

namespace LayerSkip.Kernels;

/// <summary>Tiles over one format of blocks.</summary>
internal unsafe interface IQuantTiles
{
    static abstract InputForm Input { get; }

    static abstract int BlockNumbers { get; }

    static abstract int BlockBytes { get; }

    /// <summary>The outputs of rows of blocks that begin at w, `stride` bytes from one to the next, for as many rows of x as the type says.</summary>
    static abstract void Outputs<Rows>(byte* w, byte* end, nint stride, int blocks, byte* x, nint xStride, float* y, nint yStride)
        where Rows : unmanaged;
}

/// <summary>Quantised weights times quantised activations.</summary>
internal sealed unsafe class QuantProduct<V, L, T>(BlockDecoder decode) : DecodedProduct<V, L>(T.BlockNumbers, T.BlockBytes, decode)
    where V : unmanaged
    where L : struct, IByteLanes<V>
    where T : struct, IQuantTiles
{
    /// <summary>Bytes of weights that stay near while several tiles pass over them.</summary>
    private const int NearBytes = 64 * 1024;

    internal override InputForm Input => T.Input;

    internal override void Run(byte* weights, int k, in Inputs x, float* y, int yStride, int rows, int first, int last)
    {
        int blocks = k / T.BlockNumbers;
        int tileRows = QuantTile.MostRows(sizeof(V));
        nint stride = (nint)blocks * T.BlockBytes;
        int near = rows <= tileRows ? last - first : (int)Math.Max(8, NearBytes / stride);
        byte* rowsOfX = T.Input == InputForm.Blocks ? x.Blocks : x.Groups;
        nint xStride = T.Input == InputForm.Blocks ? x.BlocksStride : x.GroupsStride;

        for (int from = first; from < last; from += near)
        {
            byte* w = weights + (from * stride), end = weights + (Math.Min(last, from + near) * stride);

            for (int row = 0; row < rows; row += tileRows)
            {
                byte* input = rowsOfX + (row * xStride);
                float* output = y + ((nint)row * yStride) + from;

                switch (Math.Min(tileRows, rows - row))
                {
                    case 1:
                        T.Outputs<One>(w, end, stride, blocks, input, xStride, output, yStride);
                        break;
                    case 2:
                        T.Outputs<Two>(w, end, stride, blocks, input, xStride, output, yStride);
                        break;
                    case 3:
                        T.Outputs<Three>(w, end, stride, blocks, input, xStride, output, yStride);
                        break;
                    case 4:
                        T.Outputs<Four>(w, end, stride, blocks, input, xStride, output, yStride);
                        break;
                    case 5:
                        T.Outputs<Five>(w, end, stride, blocks, input, xStride, output, yStride);
                        break;
                    case 6:
                        T.Outputs<Six>(w, end, stride, blocks, input, xStride, output, yStride);
                        break;
                    case 7:
                        T.Outputs<Seven>(w, end, stride, blocks, input, xStride, output, yStride);
                        break;
                    default:
                        T.Outputs<Eight>(w, end, stride, blocks, input, xStride, output, yStride);
                        break;
                }
            }
        }
    }
}

/// <summary>Over blocks of 256.</summary>
internal readonly unsafe struct SuperTiles<V, L, F> : IQuantTiles, IQuantTile
    where V : unmanaged
    where L : struct, IByteLanes<V>
    where F : struct, ISuperBlock
{
    public static InputForm Input => InputForm.Blocks;

    public static int BlockNumbers => SuperBlock.Numbers;

    public static int BlockBytes => F.Bytes;

    public static int StepBytes => F.Bytes;

    public static int InputBytes => Activations.BlockBytes;

    public static void Outputs<Rows>(byte* w, byte* end, nint stride, int blocks, byte* x, nint xStride, float* y, nint yStride)
        where Rows : unmanaged =>
        QuantTile.Outputs<V, SuperTiles<V, L, F>, Rows>(w, end, stride, blocks, 0, x, xStride, y, yStride);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<Rows>(byte* w, byte* x, nint xStride, float* y, nint yStride, in Stage stage)
        where Rows : unmanaged => SuperTile<V, L, F, Rows>.Run(w, x, xStride, y, yStride, stage);
}

/// <summary>Over blocks of 32.</summary>
internal readonly unsafe struct SmallTiles<V, L, F> : IQuantTiles, IQuantTile
    where V : unmanaged
    where L : struct, IByteLanes<V>
    where F : struct, ISmallBlock
{
    public static InputForm Input => InputForm.Groups;

    public static int BlockNumbers => SmallBlock.Numbers;

    public static int BlockBytes => F.Bytes;

    public static int StepBytes => 8 * F.Bytes;

    public static int InputBytes => Activations.GroupBytes;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Run<Rows>(byte* w, byte* x, nint xStride, float* y, nint yStride, in Stage stage)
        where Rows : unmanaged => SmallTile<V, L, F, Rows>.Run(w, x, xStride, y, yStride, stage);

    public static void Outputs<Rows>(byte* w, byte* end, nint stride, int blocks, byte* x, nint xStride, float* y, nint yStride)
        where Rows : unmanaged
    {
        int groups = (blocks + 7) / 8;

        if (blocks >= 8)
        {
            QuantTile.Outputs<V, SmallTiles<V, L, F>, Rows>(w, end, stride, groups, (8 * groups) - blocks, x, xStride, y, yStride);
            return;
        }

        // A row shorter than a group of blocks, with zeros behind it.
        byte* padded = stackalloc byte[8 * F.Bytes];
        new Span<byte>(padded, 8 * F.Bytes).Clear();

        for (; w < end; w += stride)
        {
            new ReadOnlySpan<byte>(w, (int)stride).CopyTo(new Span<byte>(padded, (int)stride));
            Run<Rows>(padded, x, xStride, y++, yStride, new(1, null, true, true, 0, Ahead.Distance));
        }
    }
}
