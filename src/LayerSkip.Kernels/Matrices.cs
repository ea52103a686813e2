namespace LayerSkip.Kernels;

/// <summary>Matrices that read the same rows of x, one after the other: their outputs are those of one product.</summary>
internal sealed unsafe class Matrices<V, L>
    where V : unmanaged
    where L : struct, IByteLanes<V>
{
    private readonly (MatrixMemory Memory, Product Product, int Start)[] parts;
    private readonly ComputeForm compute;

    /// <param name="parts">In the order of their outputs.</param>
    /// <param name="slowSubnormals">Whether float16 is widened by integers; it is too where the parts need inputs of different scales.</param>
    /// <param name="compute">How quantised weights are multiplied.</param>
    internal Matrices(IReadOnlyList<MatrixMemory> parts, bool slowSubnormals, ComputeForm compute)
    {
        bool byIntegers = slowSubnormals || parts.Any(part => part.Format != WeightFormat.Float16);
        this.parts = new (MatrixMemory, Product, int)[parts.Count];
        this.compute = compute;

        for (int i = 0; i < parts.Count; i++)
        {
            this.parts[i] = (parts[i], Products(parts[i], byIntegers, compute), Outs);
            Outs += parts[i].Rows;
            ReadsGroups |= this.parts[i].Product.Input == InputForm.Groups;
            ReadsBlocks |= this.parts[i].Product.Input == InputForm.Blocks;
        }
    }

    internal int Outs { get; }

    /// <summary>Whether a product reads inputs as <see cref="Activations.Group"/> has them.</summary>
    internal bool ReadsGroups { get; }

    /// <summary>Whether one reads them as <see cref="Activations.Block"/> has them.</summary>
    internal bool ReadsBlocks { get; }

    /// <summary>What inputs must be multiplied by before.</summary>
    internal float InputScale => parts[0].Product.InputScale;

    /// <summary>Whether so many rows of k numbers are multiplied faster on the matrix unit.</summary>
    internal bool IsFasterOnUnit(int k, int rows) =>
        MatrixProduct.Fits(k) && Array.TrueForAll(parts, part => MatrixProduct.IsFaster(part.Memory.Format, compute, rows));

    /// <summary>Whether output `index` belongs to a matrix whose heads' rows stand in pairs.</summary>
    internal bool PairsRows(int index)
    {
        // Asked of each head of each row: no closure.
        foreach (var (memory, _, start) in parts)
        {
            if (start <= index && index < start + memory.Rows)
            {
                return memory.PairsRows;
            }
        }

        return false;
    }

    /// <summary>Outputs `first` to `last` - 1 of all, as <see cref="Product.Run"/>.</summary>
    internal void Run(in Inputs x, int k, float* y, int yStride, int rows, int first, int last)
    {
        foreach (var (memory, product, start) in parts)
        {
            int from = Math.Max(first, start), to = Math.Min(last, start + memory.Rows);

            if (from < to)
            {
                product.Run((byte*)memory.Address, k, x, y + start, yStride, rows, from - start, to - start);
            }
        }
    }

    /// <summary>The matrix that output `index` belongs to, its row there, and how many outputs the matrix has from there on.</summary>
    internal (MatrixMemory Memory, Product Product, int Row, int Left) At(int index)
    {
        foreach (var (memory, product, start) in parts)
        {
            if (index < start + memory.Rows)
            {
                return (memory, product, index - start, start + memory.Rows - index);
            }
        }

        throw new ArgumentOutOfRangeException(nameof(index), index, $"{Outs} outputs");
    }

    /// <summary>Bytes of a row of k numbers of the first matrix.</summary>
    internal nint RowBytes(int k) => parts[0].Product.RowBytes(k);

    /// <summary>Row `row` of the first matrix as float32 [k].</summary>
    internal void Read(int k, int row, float* to) => parts[0].Product.Read((byte*)parts[0].Memory.Address, k, row, to);

    private static Product Products(MatrixMemory memory, bool byIntegers, ComputeForm compute)
    {
        BlockDecoder Decode() =>
            memory.Decode ?? throw new ArgumentException($"{memory.Format} without a decoder", nameof(memory));

        Product Small<F>()
            where F : struct, ISmallBlock =>
            compute == ComputeForm.Float
                ? new DecodedProduct<V, L>(SmallBlock.Numbers, F.Bytes, Decode())
                : new QuantProduct<V, L, SmallTiles<V, L, F>>(Decode());

        Product Super<F>()
            where F : struct, ISuperBlock =>
            compute == ComputeForm.Float
                ? new DecodedProduct<V, L>(SuperBlock.Numbers, F.Bytes, Decode())
                : new QuantProduct<V, L, SuperTiles<V, L, F>>(Decode());

        return memory.Format switch
        {
            WeightFormat.Float32 => new DenseProduct<V, L, Float32<V, L>>(),
            WeightFormat.Float16 when byIntegers => new DenseProduct<V, L, Float16ByIntegers<V, L>>(),
            WeightFormat.Float16 => new DenseProduct<V, L, Float16<V, L>>(),
            WeightFormat.BFloat16 => new DenseProduct<V, L, BFloat16<V, L>>(),
            WeightFormat.Q8_0 => Small<Q80>(),
            WeightFormat.Q4_0 => Small<Q40>(),
            WeightFormat.Q4_1 => Small<Q41>(),
            WeightFormat.Q5_0 => Small<Q50>(),
            WeightFormat.Q5_1 => Small<Q51>(),
            WeightFormat.IQ4_NL => Small<IQ4NL>(),
            WeightFormat.Q2_K => Super<Q2K>(),
            WeightFormat.Q3_K => Super<Q3K>(),
            WeightFormat.Q4_K => Super<Q4K>(),
            WeightFormat.Q5_K => Super<Q5K>(),
            WeightFormat.Q6_K => Super<Q6K>(),
            WeightFormat.IQ4_XS => Super<IQ4XS>(),
            _ => throw new ArgumentOutOfRangeException(nameof(memory), memory.Format, "no format of weights"),
        };
    }
}

/// <summary>A layer's products.</summary>
internal sealed record LayerMatrices<V, L>(Matrices<V, L> Qkv, Matrices<V, L> Output, Matrices<V, L> GateUp, Matrices<V, L> Down)
    where V : unmanaged
    where L : struct, IByteLanes<V>
{
    internal static LayerMatrices<V, L> Of(LayerMemory layer, Func<IReadOnlyList<MatrixMemory>, Matrices<V, L>> of) =>
        new(of(layer.Qkv), of([layer.Output]), of(layer.GateUp), of([layer.Down]));

    /// <summary>Whether so many rows go through all of them faster on the matrix unit.</summary>
    internal bool AreFasterOnUnit(DecoderShape shape, int rows) =>
        Qkv.IsFasterOnUnit(shape.Hidden, rows) && Output.IsFasterOnUnit(shape.Heads * shape.HeadDim, rows)
        && GateUp.IsFasterOnUnit(shape.Hidden, rows) && Down.IsFasterOnUnit(shape.Intermediate, rows);
}

/// <summary>Room for rows of inputs in the forms of quantised products.</summary>
internal sealed unsafe class InputRows : IDisposable
{
    private readonly FloatBuffer groups = new(), blocks = new();
    private nint groupsStride, blocksStride;

    /// <summary>Makes room for rows of k numbers, in the forms that the matrices read; says whether there is one.</summary>
    internal bool Make<V, L>(Matrices<V, L> readers, int k, int rows)
        where V : unmanaged
        where L : struct, IByteLanes<V>
    {
        groupsStride = readers.ReadsGroups ? Activations.GroupedRow(k) : 0;
        blocksStride = readers.ReadsBlocks ? Activations.BlockedRow(k) : 0;
        groups.Of(rows * groupsStride / sizeof(float));
        blocks.Of(rows * blocksStride / sizeof(float));
        return readers.ReadsGroups || readers.ReadsBlocks;
    }

    /// <summary>Row `row` from x [k].</summary>
    internal void Fill(int k, float* x, int row)
    {
        if (groupsStride != 0)
        {
            Activations.Group(x, k, (byte*)groups.Pointer + (row * groupsStride));
        }

        if (blocksStride != 0)
        {
            Activations.Block(x, k, (byte*)blocks.Pointer + (row * blocksStride));
        }
    }

    /// <summary>The rows, beside the floats that they were made of.</summary>
    internal Inputs Of(float* x, int stride) => new()
    {
        Floats = x,
        Stride = stride,
        Groups = (byte*)groups.Pointer,
        GroupsStride = groupsStride,
        Blocks = (byte*)blocks.Pointer,
        BlocksStride = blocksStride,
    };

    /// <summary>Gives back what more rows than `rows` of k numbers needed.</summary>
    internal void Trim(int k, int rows)
    {
        groups.Trim((long)rows * Activations.GroupedRow(k) / sizeof(float));
        blocks.Trim((long)rows * Activations.BlockedRow(k) / sizeof(float));
    }

    public void Dispose()
    {
        groups.Dispose();
        blocks.Dispose();
    }
}
