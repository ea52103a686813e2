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

/// <summary>Rows of numbers on their way to bfloat16.</summary>
internal unsafe interface IRoundedRows
{
    /// <summary>Row `row`, [k], rounded.</summary>
    void Round(int row, ushort* to);
}

/// <summary>Rows of x as they are, `stride` floats apart, times `scale`.</summary>
internal readonly unsafe struct ScaledRows(float* x, int stride, float scale, int k) : IRoundedRows
{
    public void Round(int row, ushort* to) => MatrixProduct.Round(x + ((nint)row * stride), scale, k, to);
}

/// <summary>Rows of x, [k] one after the other, after a norm.</summary>
internal readonly unsafe struct NormedRows(float* x, float* weight, float eps, int k) : IRoundedRows
{
    public void Round(int row, ushort* to)
    {
        float* normed = ThreadRoom.Widened.Of(k);
        Elementwise<Vector512<float>, Lanes512>.RmsNorm(x + ((nint)row * k), weight, normed, k, eps, 1f);
        MatrixProduct.Round(normed, 1f, k, to);
    }
}

/// <summary>
/// y = x W^T on the matrix unit: x and W are rounded to bfloat16, sums are float32. W is A as it lies, a few outputs after a few; x is packed
/// for B, a few rows after a few; sums are [outputs; rows]. A number's bits depend neither on the rows beside its own nor on where its outputs
/// are cut.
/// </summary>
internal static unsafe class MatrixProduct
{
    /// <summary>Rows of x in a pack; what lacks is zero.</summary>
    internal const int PackRows = 32;

    /// <summary>The most outputs at once: their weights, for <see cref="Depth"/> numbers, stay beside a pack.</summary>
    internal const int Outputs = 48;

    /// <summary>Floats from a pack's sums to the next pack's.</summary>
    internal const int PackSums = Outputs * PackRows;

    /// <summary>Numbers of a sum that one call adds up: a multiple of every format's blocks.</summary>
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

    /// <summary>Floats that a pack of rows of k numbers takes.</summary>
    internal static int PackFloats(int k) => PackRows * k / 2;

    /// <summary>Floats that packs of rows of k numbers take.</summary>
    internal static long Room(int k, int rows) => (long)Packs(rows) * PackFloats(k);

    /// <summary>This thread's room for `count` times the sums of so many rows.</summary>
    internal static float* SumsOf(int rows, int count) => (sums ??= new()).Of((long)count * Packs(rows) * PackSums);

    /// <summary>This thread's room for so many numbers in bfloat16.</summary>
    private static ushort* RoundedRoom(long count) => (ushort*)(rounded ??= new()).Of(count / 2);

    /// <summary>A pack of the rows of x [rows; k] from `first` on: pairs of each row's numbers, rounded, as [k / 2; 32; 2].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Pack<X>(X x, int k, int first, int rows, float* to)
        where X : struct, IRoundedRows
    {
        int pairs = k / 2;
        float* rows8 = (float*)RoundedRoom((long)Square * k);

        for (int group = 0; group < PackRows; group += Square)
        {
            for (int r = 0; r < Square; r++)
            {
                int row = first + group + r;
                ushort* own = (ushort*)(rows8 + ((nint)r * pairs));

                if (row < rows)
                {
                    x.Round(row, own);
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

    /// <summary>A pair of numbers of each of sixteen rows, rounded, as a pack has them.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector512<float> Pair(Vector512<float> first, Vector512<float> second) =>
        (Rounded(first.AsUInt32()) | (Rounded(second.AsUInt32()) << 16)).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<uint> Rounded(Vector512<uint> bits) =>
        (bits + Vector512.Create(0x7fffu) + ((bits >>> 16) & Vector512<uint>.One)) >>> 16;

    /// <summary>
    /// c [packs; 48; 32], of which `outs` are written: outputs `first` to `first` + `outs` - 1 of a matrix in any format, of the packs of
    /// every row. The thread's <see cref="MatrixUnit.Release"/> is to follow.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Sums(
        Product product, MatrixMemory matrix, int k, float* packs, int rows, int first, int outs, float* c)
    {
        int count = Packs(rows);

        for (int from = 0; from < k; from += Depth)
        {
            int depth = Math.Min(Depth, k - from);
            bool lies = matrix.Format == WeightFormat.BFloat16;
            ushort* weights = lies
                ? (ushort*)matrix.Address + ((nint)first * k) + from
                : Decoded(product, (byte*)matrix.Address + (first * product.RowBytes(k)) + product.RowBytes(from), k, outs, depth);

            for (int pack = 0; pack < count; pack++)
            {
                uint* b = (uint*)packs + ((nint)pack * PackFloats(k)) + ((nint)from / 2 * PackRows);
                MatrixUnit.Multiply(outs, PackRows, depth, lies ? k : depth, weights, b, c + ((nint)pack * PackSums), from > 0);
            }
        }
    }

    /// <summary>`depth` numbers each of a few rows of k, in bfloat16, in this thread's room.</summary>
    private static ushort* Decoded(Product product, byte* rows, int k, int outs, int depth)
    {
        ushort* to = RoundedRoom((long)Outputs * depth);
        float* row = ThreadRoom.Widened.Of(depth);

        for (int o = 0; o < outs; o++)
        {
            product.Read(rows + (o * product.RowBytes(k)), depth, 0, row);
            Round(row, 1f, depth, to + ((nint)o * depth));
        }

        return to;
    }

    /// <summary>A pack's sums [outs; 32] to y [rows; outs], rows `yStride` floats apart.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Store(float* c, float* y, int yStride, int rows, int outs)
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

    /// <summary>silu(gate) * up of two packs' sums [outs; 32], an even number of them, as pairs of a pack; each may have a bias.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Gate(float* gates, float* ups, float* gateBias, float* upBias, int outs, float* to)
    {
        for (int o = 0; o < outs; o += 2)
        {
            for (int lanes = 0; lanes < PackRows; lanes += Vector512<float>.Count)
            {
                Pair(Gated(gates, ups, gateBias, upBias, o, lanes), Gated(gates, ups, gateBias, upBias, o + 1, lanes))
                    .Store(to + (o / 2 * PackRows) + lanes);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Gated(float* gates, float* ups, float* gateBias, float* upBias, int o, int lanes)
    {
        var gate = Vector512.Load(gates + (o * PackRows) + lanes);
        var up = Vector512.Load(ups + (o * PackRows) + lanes);

        if (gateBias != null)
        {
            gate += Vector512.Create(gateBias[o]);
            up += Vector512.Create(upBias[o]);
        }

        return Elementwise<Vector512<float>, Lanes512>.SwiGlu(gate, up, 1f);
    }

    /// <summary>Rows of a square of 8 x 8 become columns.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Turn(float* from, nint stride, float* to, nint toStride)
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
