namespace LayerSkip.Kernels;

/// <summary>Writes the float32 values of `count` whole blocks, one block after the other.</summary>
public delegate void BlockDecoder(nint blocks, nint values, int count);

/// <summary>A matrix, or some of its rows: where it lies, row after row.</summary>
/// <param name="Format">How it is stored.</param>
/// <param name="Address">Where it begins; it stays the caller's.</param>
/// <param name="Rows">Outputs.</param>
public sealed record MatrixMemory(WeightFormat Format, nint Address, int Rows)
{
    /// <summary>Of a quantised format, what its blocks hold.</summary>
    public BlockDecoder? Decode { get; init; }

    /// <summary>
    /// Whether rows of heads stand as llama.cpp has them: those that rotate together side by side. Else they stand half a head apart.
    /// </summary>
    public bool PairsRows { get; init; }
}

/// <summary>How quantised weights are multiplied.</summary>
public enum ComputeForm
{
    /// <summary>Activations are quantised too, and bytes multiplied.</summary>
    Bytes,

    /// <summary>Weights become float32, whose products define what the bytes' must agree with.</summary>
    Float,
}

/// <summary>Rows of x in each form that the matrices at hand read.</summary>
internal unsafe struct Inputs
{
    /// <summary>[rows; k], `Stride` floats from row to row, multiplied by the matrices' input scale.</summary>
    internal float* Floats;

    internal int Stride;

    /// <summary>As <see cref="Activations.Group"/> has them, so many bytes from row to row.</summary>
    internal byte* Groups;

    internal nint GroupsStride;

    /// <summary>As <see cref="Activations.Block"/> has them.</summary>
    internal byte* Blocks;

    internal nint BlocksStride;
}

/// <summary>What a product reads.</summary>
internal enum InputForm
{
    Floats,
    Groups,
    Blocks,
}

/// <summary>y = x W^T for weights of one format, in one form of vectors.</summary>
internal abstract unsafe class Product
{
    internal virtual InputForm Input => InputForm.Floats;

    /// <summary>What floats must be multiplied by before.</summary>
    internal virtual float InputScale => 1f;

    /// <summary>Outputs `first` to `last` - 1. A number's bits depend neither on them nor on the rows beside its own.</summary>
    /// <param name="weights">W [outs; k].</param>
    /// <param name="k">Numbers of a row of x and of W: the length of every sum.</param>
    /// <param name="x">[rows; k] in the form of <see cref="Input"/>.</param>
    /// <param name="y">[rows; outs], written at [r * yStride + o].</param>
    /// <param name="yStride">Floats from a row of y to the next.</param>
    /// <param name="rows">How many rows.</param>
    /// <param name="first">The first output.</param>
    /// <param name="last">One more than the last.</param>
    internal abstract void Run(byte* weights, int k, in Inputs x, float* y, int yStride, int rows, int first, int last);

    /// <summary>Bytes of a row of k weights.</summary>
    internal abstract nint RowBytes(int k);

    /// <summary>Row `row` of W as float32 [k], each number as it is.</summary>
    internal abstract void Read(byte* weights, int k, int row, float* to);
}

/// <summary>Float32 and 16-bit weights.</summary>
internal sealed unsafe class DenseProduct<V, L, W> : Product
    where V : unmanaged
    where L : struct, ILanes<V>
    where W : struct, IFormat<V>
{
    internal override float InputScale => W.InputScale;

    internal override nint RowBytes(int k) => (nint)k * W.Bytes;

    internal override void Run(byte* weights, int k, in Inputs x, float* y, int yStride, int rows, int first, int last) =>
        Products<V, L, W>.Run(
            weights, k, x.Floats, x.Stride, y, yStride, rows, first, last, rows == 1 ? null : Products<V, L, W>.Room(k));

    internal override void Read(byte* weights, int k, int row, float* to)
    {
        byte* from = weights + (row * RowBytes(k));
        V input = L.Broadcast(W.InputScale), sum = L.Broadcast(W.SumScale);
        int i = 0;

        for (; i <= k - L.Count; i += L.Count)
        {
            L.Store(to + i, L.Multiply(L.Multiply(W.Load(from, i), input), sum));
        }

        for (; i < k; i++)
        {
            to[i] = W.One(from, i);
        }
    }
}

/// <summary>Quantised weights through float32: each row of W is decoded for all rows of x at once.</summary>
internal unsafe class DecodedProduct<V, L>(int blockNumbers, int blockBytes, BlockDecoder decode) : Product
    where V : unmanaged
    where L : struct, ILanes<V>
{
    internal override nint RowBytes(int k) => (nint)(k / blockNumbers) * blockBytes;

    internal override void Run(byte* weights, int k, in Inputs x, float* y, int yStride, int rows, int first, int last)
    {
        float* room = Products<V, L, Float32<V, L>>.Room(k);
        int near = Math.Max(3, Products<V, L, Float32<V, L>>.WidenedFloats / k / 12 * 12);
        int blocks = k / blockNumbers;

        for (int from = first; from < last; from += near)
        {
            int count = Math.Min(near, last - from);
            decode((nint)(weights + (from * RowBytes(k))), (nint)room, count * blocks);
            Products<V, L, Float32<V, L>>.Run((byte*)room, k, x.Floats, x.Stride, y + from, yStride, rows, 0, count, null);
        }
    }

    internal override void Read(byte* weights, int k, int row, float* to) =>
        decode((nint)(weights + (row * RowBytes(k))), (nint)to, k / blockNumbers);
}
