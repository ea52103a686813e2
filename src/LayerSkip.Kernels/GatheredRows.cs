namespace LayerSkip.Kernels;

/// <summary>
/// Rows of a matrix, copied as it has them into memory of their own, one after the other: products over the first of them have the
/// bits that the whole matrix gives. What was added stays where it is, so that who reads the first rows may go on while more are added.
/// </summary>
public sealed unsafe class GatheredRows : IDisposable
{
    private readonly FloatBuffer buffer = new();
    private readonly MatrixMemory matrix;
    private readonly nint rowBytes;
    private bool disposed;

    /// <param name="matrix">Read when rows are added; it stays the caller's.</param>
    /// <param name="rowBytes">Bytes of one of its rows.</param>
    /// <param name="capacity">The most rows.</param>
    internal GatheredRows(MatrixMemory matrix, nint rowBytes, int capacity)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(capacity, 1);
        (this.matrix, this.rowBytes, Capacity) = (matrix, rowBytes, capacity);
        buffer.Of((((long)capacity * rowBytes) + sizeof(float) - 1) / sizeof(float));
    }

    /// <summary>The most rows.</summary>
    public int Capacity { get; }

    /// <summary>Rows so far.</summary>
    public int Count { get; private set; }

    /// <summary>Copies of these rows, behind those that are there.</summary>
    /// <exception cref="ArgumentOutOfRangeException">A row that the matrix has not, or more than there is room for.</exception>
    public void Add(ReadOnlySpan<int> rows)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(rows.Length, Capacity - Count, nameof(rows));

        foreach (int row in rows)
        {
            ArgumentOutOfRangeException.ThrowIfNegative(row, nameof(rows));
            ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(row, matrix.Rows, nameof(rows));
        }

        byte* to = (byte*)buffer.Pointer + (Count * rowBytes);

        foreach (int row in rows)
        {
            Buffer.MemoryCopy((byte*)matrix.Address + (row * rowBytes), to, rowBytes, rowBytes);
            to += rowBytes;
        }

        Count += rows.Length;
    }

    /// <summary>Forgets all rows: the next are written over them.</summary>
    public void Clear()
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        Count = 0;
    }

    public void Dispose()
    {
        disposed = true;
        buffer.Dispose();
    }

    /// <summary>The first `count` rows, a matrix as long as this lives.</summary>
    internal MatrixMemory First(int count)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(count, Count);
        return matrix with { Address = (nint)buffer.Pointer, Rows = count };
    }
}
