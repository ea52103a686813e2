using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LayerSkip.Kernels;

/// <summary>
/// The processor's products of bfloat16 (AVX512-BF16, AMX), which .NET has no name for, by a library's function that has: C = A B, or
/// C += A B, for one thread, with float32 sums.
/// </summary>
public static unsafe class MatrixUnit
{
    private static delegate* unmanaged<long, long, long, long, long, long, byte, ushort*, uint*, float*, byte, void> multiply;
    private static delegate* unmanaged<byte, void> release;

    /// <summary>Whether <see cref="Use"/> has named a library's.</summary>
    public static bool IsThere => multiply != null;

    /// <summary>Names the functions, once a process; they stay loaded.</summary>
    /// <param name="product">libtorch's at::native::cpublas::brgemm over bfloat16, to float32.</param>
    /// <param name="end">Its brgemm_release: the thread's registers are as they were.</param>
    public static void Use(nint product, nint end)
    {
        release = (delegate* unmanaged<byte, void>)end;
        multiply = (delegate* unmanaged<long, long, long, long, long, long, byte, ushort*, uint*, float*, byte, void>)product;
    }

    /// <summary>C [m; n] = A [m; k] B [k; n], or adds it; A's rows are `lda` numbers apart, B is pairs of its rows: [k / 2; n; 2].</summary>
    internal static void Multiply(int m, int n, int k, int lda, ushort* a, uint* b, float* c, bool adds) =>
        multiply(m, n, k, lda, n, n, adds ? (byte)1 : (byte)0, a, b, c, 1);

    /// <summary>To be called when a thread is done with its products.</summary>
    internal static void Release() => release(1);
}

/// <summary>
/// y = x W^T on the matrix unit: x and W are rounded to bfloat16, sums are float32. W is A as it lies, a few outputs after a few; x is packed
/// for B, a few rows after a few. A number's bits depend neither on the rows beside its own nor on where its outputs are cut.
/// </summary>
internal static unsafe class MatrixProduct
{
    /// <summary>Rows of x in a pack; what lacks is zero.</summary>
    internal const int PackRows = 32;

    /// <summary>Outputs at once: their weights, for <see cref="Depth"/> numbers, stay beside a pack.</summary>
    internal const int Outputs = 48;

    /// <summary>Numbers of a sum that one call adds up.</summary>
    private const int Depth = 1024;

    private const int Square = 8;

    [ThreadStatic]
    private static FloatBuffer? sums;

    [ThreadStatic]
    private static FloatBuffer? rounded;

    /// <summary>
    /// Whether so many rows are faster here than on the kernels: measured, for the rows share what rounding the weights costs. Float32 weights
    /// are never rounded, nor are others that are to be multiplied as floats: who asks for that wants every bit.
    /// </summary>
    internal static bool IsFaster(WeightFormat format, ComputeForm compute, int rows) =>
        format switch
        {
            WeightFormat.Float32 => false,
            WeightFormat.BFloat16 => rows >= 17,
            WeightFormat.Float16 => rows >= 24,
            _ => compute == ComputeForm.Bytes && rows >= 64,
        };

    /// <summary>Whether rows of k numbers can be packed.</summary>
    internal static bool Fits(int k) => MatrixUnit.IsThere && Avx512BW.IsSupported && k % (2 * Square) == 0;

    /// <summary>Packs that so many rows take.</summary>
    internal static int Packs(int rows) => (rows + PackRows - 1) / PackRows;

    /// <summary>Floats that packs of rows of k numbers take.</summary>
    internal static long Room(int k, int rows) => (long)Packs(rows) * PackRows * k / 2;

    /// <summary>This thread's room for <see cref="Outputs"/> rows of k rounded weights.</summary>
    internal static ushort* Weights(int k) => (ushort*)(rounded ??= new()).Of(Outputs * (long)k / 2);

    /// <summary>
    /// Pack `index` of x [rows; k], rows `stride` floats apart, times `scale`: pairs of each row's numbers, rounded, as [k / 2; 32; 2]. All
    /// packs take what <see cref="Room"/> says.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Pack(float* x, int stride, float scale, int k, int rows, int index, float* packs)
    {
        int first = index * PackRows, pairs = k / 2;
        float* to = packs + ((nint)first * pairs);
        float* rows8 = (float*)Weights(k);

        for (int group = 0; group < PackRows; group += Square)
        {
            for (int r = 0; r < Square; r++)
            {
                int row = first + group + r;
                ushort* own = (ushort*)(rows8 + ((nint)r * pairs));

                if (row < rows)
                {
                    Round(x + ((nint)row * stride), scale, k, own);
                }
                else
                {
                    new Span<ushort>(own, k).Clear();
                }
            }

            for (int pair = 0; pair < pairs; pair += Square)
            {
                Turn(rows8 + pair, pairs, to + ((nint)pair * PackRows) + group, PackRows);
            }
        }
    }

    /// <summary>`count` numbers times `scale`, to the nearest bfloat16, to the even one of two.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Round(float* x, float scale, int count, ushort* to)
    {
        var by = Vector512.Create(scale);
        int i = 0;

        for (; i <= count - 32; i += 32)
        {
            Vector512.Narrow(
                Rounded((Vector512.Load(x + i) * by).AsUInt32()), Rounded((Vector512.Load(x + i + 16) * by).AsUInt32())).Store(to + i);
        }

        for (; i < count; i++)
        {
            uint bits = BitConverter.SingleToUInt32Bits(x[i] * scale);
            to[i] = (ushort)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<uint> Rounded(Vector512<uint> bits) =>
        (bits + Vector512.Create(0x7fffu) + ((bits >>> 16) & Vector512<uint>.One)) >>> 16;

    /// <summary>Outputs `first` to `last` - 1 of a matrix in any format, from the packs of every row.</summary>
    internal static void Run(
        Product product, MatrixMemory matrix, int k, float* packs, float* y, int yStride, int rows, int first, int last)
    {
        for (int count; first < last; first += count)
        {
            count = Math.Min(Outputs, last - first);
            Run(Rounded(product, matrix, k, first, count), k, packs, y + first, yStride, rows, count);
        }

        MatrixUnit.Release();
    }

    /// <summary>Rows of a matrix in bfloat16, where they lie or in this thread's room.</summary>
    private static ushort* Rounded(Product product, MatrixMemory matrix, int k, int first, int count)
    {
        if (matrix.Format == WeightFormat.BFloat16)
        {
            return (ushort*)matrix.Address + ((nint)first * k);
        }

        ushort* to = Weights(k);
        float* row = ThreadRoom.Widened.Of(k);

        for (int o = 0; o < count; o++)
        {
            product.Read((byte*)matrix.Address, k, first + o, row);
            Round(row, 1f, k, to + ((nint)o * k));
        }

        return to;
    }

    /// <summary>
    /// Up to <see cref="Outputs"/> outputs of every row, y[r * yStride + o], from weights [outs; k] in bfloat16 and the packs of x [rows; k].
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Run(ushort* weights, int k, float* packs, float* y, int yStride, int rows, int outs)
    {
        int count = Packs(rows);
        float* c = (sums ??= new()).Of((long)count * Outputs * PackRows);

        for (int from = 0; from < k; from += Depth)
        {
            for (int pack = 0; pack < count; pack++)
            {
                uint* b = (uint*)packs + ((nint)pack * PackRows * k / 2) + ((nint)from / 2 * PackRows);
                MatrixUnit.Multiply(
                    outs, PackRows, Math.Min(Depth, k - from), k, weights + from, b, c + ((nint)pack * Outputs * PackRows), from > 0);
            }
        }

        for (int pack = 0; pack < count; pack++)
        {
            int first = pack * PackRows;
            Store(c + ((nint)pack * Outputs * PackRows), y + ((nint)first * yStride), yStride, Math.Min(PackRows, rows - first), outs);
        }
    }

    /// <summary>A pack's sums [outs; 32] to y [rows; outs].</summary>
    private static void Store(float* c, float* y, int yStride, int rows, int outs)
    {
        for (int row = 0; row < rows; row += Square)
        {
            for (int o = 0; o < outs; o += Square)
            {
                float* from = c + (o * PackRows) + row;
                float* to = y + ((nint)row * yStride) + o;

                if (rows - row >= Square && outs - o >= Square)
                {
                    Turn(from, PackRows, to, yStride);
                    continue;
                }

                for (int r = 0; r < Math.Min(Square, rows - row); r++)
                {
                    for (int i = 0; i < Math.Min(Square, outs - o); i++)
                    {
                        to[((nint)r * yStride) + i] = from[(i * PackRows) + r];
                    }
                }
            }
        }
    }

    /// <summary>Rows of a square of 8 x 8 become columns.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Turn(float* from, nint stride, float* to, nint toStride)
    {
        var (a, b, c, d) = Halves(from, stride, 0);
        var (e, f, g, h) = Halves(from, stride, 4);
        Columns(a, b, c, d, to, toStride);
        Columns(e, f, g, h, to + (4 * toStride), toStride);
    }

    /// <summary>Four numbers, from `at` on, of rows 0 to 3 beside those of rows 4 to 7.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static (Vector256<float> Row0, Vector256<float> Row1, Vector256<float> Row2, Vector256<float> Row3) Halves(
        float* from, nint stride, int at)
    {
        from += at;
        return (
            Vector256.Create(Vector128.Load(from), Vector128.Load(from + (4 * stride))),
            Vector256.Create(Vector128.Load(from + stride), Vector128.Load(from + (5 * stride))),
            Vector256.Create(Vector128.Load(from + (2 * stride)), Vector128.Load(from + (6 * stride))),
            Vector256.Create(Vector128.Load(from + (3 * stride)), Vector128.Load(from + (7 * stride))));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Columns(
        Vector256<float> a, Vector256<float> b, Vector256<float> c, Vector256<float> d, float* to, nint stride)
    {
        var low = Avx.UnpackLow(a, b).AsDouble();
        var high = Avx.UnpackHigh(a, b).AsDouble();
        var low2 = Avx.UnpackLow(c, d).AsDouble();
        var high2 = Avx.UnpackHigh(c, d).AsDouble();
        Avx.UnpackLow(low, low2).AsSingle().Store(to);
        Avx.UnpackHigh(low, low2).AsSingle().Store(to + stride);
        Avx.UnpackLow(high, high2).AsSingle().Store(to + (2 * stride));
        Avx.UnpackHigh(high, high2).AsSingle().Store(to + (3 * stride));
    }
}
