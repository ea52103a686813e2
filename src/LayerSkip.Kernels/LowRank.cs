using System.Buffers;
using System.Numerics;
using System.Runtime.InteropServices;

namespace LayerSkip.Kernels;

/// <summary>A residual map of low rank behind an exit: x to n + Up Down n, where n = x / rms(x) * norm.</summary>
public static unsafe class LowRank
{
    /// <summary>Rows of float32, in place; what a row becomes does not depend on the others.</summary>
    /// <param name="hidden">[rows; size]</param>
    /// <param name="rows">Any number.</param>
    /// <param name="size">Numbers of a hidden state.</param>
    /// <param name="rank">Numbers between the two products.</param>
    /// <param name="norm">Float32 [size].</param>
    /// <param name="down">Float32 [rank; size].</param>
    /// <param name="up">Float32 [size; rank].</param>
    /// <param name="eps">Added to the mean square.</param>
    public static void Run(nint hidden, int rows, int size, int rank, nint norm, nint down, nint up, float eps)
    {
        float[] room = ArrayPool<float>.Shared.Rent(size + rank);

        fixed (float* n = room)
        {
            float* inner = n + size;

            for (int row = 0; row < rows; row++)
            {
                float* x = (float*)hidden + ((nint)row * size);
                float scale = 1f / MathF.Sqrt((Dot(x, x, size) / size) + eps);

                for (int i = 0; i < size; i++)
                {
                    n[i] = x[i] * scale * ((float*)norm)[i];
                }

                Multiply((nint)n, (nint)inner, down, rank, size);
                Multiply((nint)inner, (nint)x, up, size, rank);

                for (int i = 0; i < size; i++)
                {
                    x[i] += n[i];
                }
            }
        }

        ArrayPool<float>.Shared.Return(room);
    }

    /// <summary>y [outs] = w [outs; inner] x [inner], on all threads where that is worth it.</summary>
    private static void Multiply(nint x, nint y, nint w, int outs, int inner)
    {
        int perPart = Math.Max(1, 8192 / inner);

        void Part(int part)
        {
            for (int i = part * perPart; i < Math.Min(outs, (part + 1) * perPart); i++)
            {
                ((float*)y)[i] = Dot((float*)x, (float*)w + ((nint)i * inner), inner);
            }
        }

        int parts = (outs + perPart - 1) / perPart;

        if ((long)outs * inner < Parts.WorthSharing)
        {
            for (int part = 0; part < parts; part++)
            {
                Part(part);
            }
        }
        else
        {
            Workers.Shared.Run(parts, Part);
        }
    }

    private static float Dot(float* a, float* b, int count)
    {
        var x = MemoryMarshal.Cast<float, Vector<float>>(new ReadOnlySpan<float>(a, count));
        var y = MemoryMarshal.Cast<float, Vector<float>>(new ReadOnlySpan<float>(b, count));
        Vector<float> even = default, odd = default;
        int i = 0;

        for (; i + 1 < x.Length; i += 2)
        {
            even += x[i] * y[i];
            odd += x[i + 1] * y[i + 1];
        }

        float sum = Vector.Sum(even + odd);

        for (int at = i * Vector<float>.Count; at < count; at++)
        {
            sum += a[at] * b[at];
        }

        return sum;
    }
}
