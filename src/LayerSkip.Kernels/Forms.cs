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
        Avx512F.IsSupported && Vector512.IsHardwareAccelerated ? KernelForm.Avx512
        : Avx2.IsSupported && Fma.IsSupported ? KernelForm.Avx2
        : KernelForm.Portable;

    /// <summary>Those that run in hardware, narrowest first.</summary>
    public static IReadOnlyList<KernelForm> Supported { get; } =
        [.. Enum.GetValues<KernelForm>().Where(form => form <= Best)];

    internal static IKernels Of(KernelForm form, WeightFormat format, bool slowSubnormals) =>
        form switch
        {
            KernelForm.Avx512 => Of<Vector512<float>, Lanes512>(format, slowSubnormals),
            KernelForm.Avx2 => Of<Vector256<float>, Lanes256>(format, slowSubnormals),
            _ => Of<Vector128<float>, Lanes128>(format, slowSubnormals),
        };

    private static IKernels Of<V, L>(WeightFormat format, bool slowSubnormals)
        where V : struct
        where L : struct, ILanes<V> =>
        format switch
        {
            WeightFormat.Float16 when slowSubnormals => new Kernels<V, L, Float16ByIntegers<V, L>>(),
            WeightFormat.Float16 => new Kernels<V, L, Float16<V, L>>(),
            WeightFormat.BFloat16 => new Kernels<V, L, BFloat16<V, L>>(),
            _ => new Kernels<V, L, Float32<V, L>>(),
        };

    private sealed unsafe class Kernels<V, L, W> : IKernels
        where V : struct
        where L : struct, ILanes<V>
        where W : struct, IFormat<V>
    {
        public DecoderPass CreatePass(DecoderShape shape, DecoderMemory memory) => new DecoderPass<V, L, W>(shape, memory);

        public void Product(nint weights, int inner, nint x, nint y, int rows, int outs)
        {
            float* input = (float*)x;

            if (W.InputScale != 1f)
            {
                input = ThreadRoom.Scores.Of((long)rows * inner);

                for (nint i = 0; i < (nint)rows * inner; i++)
                {
                    input[i] = ((float*)x)[i] * W.InputScale;
                }
            }

            Products<V, L, W>.Run(
                (byte*)weights,
                inner,
                input,
                inner,
                (float*)y,
                outs,
                rows,
                0,
                outs,
                ThreadRoom.Widened.Of(Math.Max(3L * inner, Products<V, L, W>.WidenedFloats)));
        }

        public void Attention(nint query, nint keys, nint values, int first, int last, int dim, float scale, nint to) =>
            Attention<V, L>.One(
                (float*)query,
                (float*)keys,
                (float*)values,
                first,
                last,
                dim,
                scale,
                1f,
                ThreadRoom.Scores.Of(last - first),
                (float*)to);
    }
}

/// <summary>One form over one format of weights; the products and the attention alone are for tests and micro-benchmarks.</summary>
internal interface IKernels
{
    DecoderPass CreatePass(DecoderShape shape, DecoderMemory memory);

    /// <summary>x [rows; inner] times weights [outs; inner]: y [rows; outs], on this thread.</summary>
    void Product(nint weights, int inner, nint x, nint y, int rows, int outs);

    void Attention(nint query, nint keys, nint values, int first, int last, int dim, float scale, nint to);
}
