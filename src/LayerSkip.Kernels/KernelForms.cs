using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LayerSkip.Kernels;

/// <summary>A width of vectors that the kernels are compiled for.</summary>
public enum KernelForm
{
    /// <summary>128 bits, of any processor.</summary>
    Portable,

    /// <summary>256 bits.</summary>
    Avx2,

    /// <summary>512 bits.</summary>
    Avx512,
}

/// <summary>The forms, and which of them run here.</summary>
public static class KernelForms
{
    /// <summary>The widest that the processor runs in hardware.</summary>
    public static KernelForm Best { get; } =
        Avx512F.IsSupported && Avx512BW.IsSupported && Vector512.IsHardwareAccelerated ? KernelForm.Avx512
        : Avx2.IsSupported && Fma.IsSupported ? KernelForm.Avx2
        : KernelForm.Portable;

    /// <summary>Those that run in hardware, narrowest first.</summary>
    public static IReadOnlyList<KernelForm> Supported { get; } =
        [.. Enum.GetValues<KernelForm>().Where(form => form <= Best)];

    /// <summary>The kernels of one form, one that the processor lacks too.</summary>
    /// <param name="form">The width of vectors.</param>
    /// <param name="slowSubnormals">Whether float16 is widened by integers, as <see cref="Half16"/> explains.</param>
    /// <param name="compute">How quantised weights are multiplied.</param>
    internal static IKernels Of(KernelForm form, bool slowSubnormals, ComputeForm compute = ComputeForm.Bytes) =>
        form switch
        {
            KernelForm.Avx512 => new Kernels<Vector512<float>, Lanes512>(slowSubnormals, compute),
            KernelForm.Avx2 => new Kernels<Vector256<float>, Lanes256>(slowSubnormals, compute),
            _ => new Kernels<Vector128<float>, Lanes128>(slowSubnormals, compute),
        };

    private sealed unsafe class Kernels<V, L>(bool slowSubnormals, ComputeForm compute) : IKernels
        where V : unmanaged
        where L : struct, IByteLanes<V>
    {
        public DecoderPass CreatePass(DecoderShape shape, DecoderMemory memory) =>
            new DecoderPass<V, L>(shape, memory, slowSubnormals, compute);

        public void Product(MatrixMemory weights, int inner, nint x, nint y, int rows)
        {
            using var inputs = new InputRows();
            var matrices = new Matrices<V, L>([weights], slowSubnormals, compute);
            float* input = ThreadRoom.Scores.Of((long)rows * inner);

            for (nint i = 0; i < (nint)rows * inner; i++)
            {
                input[i] = ((float*)x)[i] * matrices.InputScale;
            }

            inputs.Make(matrices, inner, rows);

            for (int row = 0; row < rows; row++)
            {
                inputs.Fill(inner, input + ((nint)row * inner), row);
            }

            matrices.Run(inputs.Of(input, inner), inner, (float*)y, weights.Rows, rows, 0, weights.Rows);
        }

        public void Attention(nint query, nint keys, nint values, int first, int last, int dim, float scale, nint to) =>
            Attention<V, L>.One(
                (float*)query, (float*)keys, (float*)values, first, last, dim, scale, 1f, ThreadRoom.Scores.Of(last - first), (float*)to);

        public void WriteRow(CacheFormat format, nint from, nint to, int dim) =>
            CacheRows<V, L>.Write(format, (float*)from, (byte*)to, dim);

        public void WidenRows(CacheFormat format, nint from, int rows, int dim, nint to) =>
            CacheRows<V, L>.Widen(format, (byte*)from, rows, dim, (float*)to);

        public void NarrowAttention(CacheFormat format, GroupedQueries asked, nint keys, nint values, float scale) =>
            NarrowAttention<V, L>.Run(format, (byte*)keys, (byte*)values, asked, scale, 1f);
    }
}

/// <summary>One form; products, attention and a cache's rows alone are for tests and micro-benchmarks.</summary>
internal interface IKernels
{
    /// <summary>A pass over weights that stay where they are, and stay the caller's.</summary>
    DecoderPass CreatePass(DecoderShape shape, DecoderMemory memory);

    /// <summary>y = x W^T, on this thread.</summary>
    /// <param name="weights">W [outs; inner].</param>
    /// <param name="inner">Numbers of a row of x and of W.</param>
    /// <param name="x">Float32 [rows; inner].</param>
    /// <param name="y">Float32 [rows; outs], written.</param>
    /// <param name="rows">Rows of x and y.</param>
    void Product(MatrixMemory weights, int inner, nint x, nint y, int rows);

    /// <summary>One head's attention over positions `first` to `last` - 1, on this thread; all float32.</summary>
    /// <param name="query">[dim]</param>
    /// <param name="keys">[positions; dim], from position 0 on.</param>
    /// <param name="values">[positions; dim], from position 0 on.</param>
    /// <param name="first">The first position that is seen.</param>
    /// <param name="last">One more than the last; beyond `first`.</param>
    /// <param name="dim">Numbers of a head.</param>
    /// <param name="scale">What scores are multiplied by before softmax.</param>
    /// <param name="to">[dim], written.</param>
    void Attention(nint query, nint keys, nint values, int first, int last, int dim, float scale, nint to);

    /// <summary>A row of a cache from float32 [dim].</summary>
    void WriteRow(CacheFormat format, nint from, nint to, int dim);

    /// <summary>Rows of a cache as float32 [rows; dim].</summary>
    void WidenRows(CacheFormat format, nint from, int rows, int dim, nint to);

    /// <summary>Attention of several queries over rows of a cache, from position 0 on, on this thread.</summary>
    void NarrowAttention(CacheFormat format, GroupedQueries asked, nint keys, nint values, float scale);
}
