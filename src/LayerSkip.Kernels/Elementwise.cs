using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LayerSkip.Kernels;

/// <summary>What is done to single rows between the products.</summary>
internal static unsafe class Elementwise<V, L>
    where V : unmanaged
    where L : struct, ILanes<V>
{
    /// <summary>to = x / rms(x) * weight * size, where rms(x) = sqrt(mean of x^2 + eps); NaN where the sum of squares is infinite.</summary>
    /// <param name="x">[count]</param>
    /// <param name="weight">[count]</param>
    /// <param name="to">[count]; may be x.</param>
    /// <param name="count">Numbers of a row or a head.</param>
    /// <param name="eps">What is added to the mean square.</param>
    /// <param name="size">A power of two, so that it rounds nothing: the input scale of the format that reads the result.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void RmsNorm(float* x, float* weight, float* to, int count, float eps, float size)
    {
        V a = default, b = default;
        int i = 0;

        for (; i <= count - (2 * L.Count); i += 2 * L.Count)
        {
            V u = L.Load(x + i), v = L.Load(x + i + L.Count);
            a = L.MultiplyAdd(u, u, a);
            b = L.MultiplyAdd(v, v, b);
        }

        a = L.Add(a, b);
        float sum = L.Sum4(a, a, a, a).ToScalar();

        for (; i < count; i++)
        {
            sum += x[i] * x[i];
        }

        // Over an infinite sum the scale would be 0, and the row zeros that look like any other.
        float scale = float.IsInfinity(sum) ? float.NaN : 1f / MathF.Sqrt((sum / count) + eps) * size;
        var scales = L.Broadcast(scale);

        for (i = 0; i <= count - L.Count; i += L.Count)
        {
            L.Store(to + i, L.Multiply(L.Multiply(L.Load(x + i), scales), L.Load(weight + i)));
        }

        for (; i < count; i++)
        {
            to[i] = x[i] * scale * weight[i];
        }
    }

    /// <summary>Turns a head's halves against each other, in place: number i with number i + dim / 2, as Hugging Face's Llama does.</summary>
    /// <param name="head">[dim], q or k.</param>
    /// <param name="cos">[dim], of the head's position.</param>
    /// <param name="sin">[dim], likewise; negative in its first half.</param>
    /// <param name="dim">Numbers of a head, even.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Rotate(float* head, float* cos, float* sin, int dim)
    {
        int half = dim / 2, i = 0;
        float* upper = head + half;

        for (; i <= half - L.Count; i += L.Count)
        {
            V u = L.Load(head + i), v = L.Load(upper + i);
            L.Store(head + i, L.MultiplyAdd(v, L.Load(sin + i), L.Multiply(u, L.Load(cos + i))));
            L.Store(upper + i, L.MultiplyAdd(u, L.Load(sin + half + i), L.Multiply(v, L.Load(cos + half + i))));
        }

        for (; i < half; i++)
        {
            float u = head[i], v = upper[i];
            head[i] = (u * cos[i]) + (v * sin[i]);
            upper[i] = (v * cos[half + i]) + (u * sin[half + i]);
        }
    }

    /// <summary>A head whose numbers stand in pairs that turn against each other, in place to two halves.</summary>
    /// <param name="head">[dim]</param>
    /// <param name="dim">Numbers of a head, even.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    [SkipLocalsInit]
    internal static void Halve(float* head, int dim)
    {
        float* pairs = stackalloc float[dim];
        new ReadOnlySpan<float>(head, dim).CopyTo(new Span<float>(pairs, dim));
        int i = 0;

        for (; Sse.IsSupported && i <= (dim / 2) - 4; i += 4)
        {
            Vector128<float> a = Vector128.Load(pairs + (2 * i)), b = Vector128.Load(pairs + (2 * i) + 4);
            Sse.Shuffle(a, b, 0b10_00_10_00).Store(head + i);
            Sse.Shuffle(a, b, 0b11_01_11_01).Store(head + i + (dim / 2));
        }

        for (; i < dim / 2; i++)
        {
            head[i] = pairs[2 * i];
            head[i + (dim / 2)] = pairs[(2 * i) + 1];
        }
    }

    /// <summary>gate = silu(gate) * up * size, where silu(g) = g / (1 + e^-g).</summary>
    /// <param name="gate">[count], read and written.</param>
    /// <param name="up">[count]</param>
    /// <param name="count">Numbers; bits do not depend on where a thread's part of a row ends.</param>
    /// <param name="size">A power of two, as in <see cref="RmsNorm"/>.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void SwiGlu(float* gate, float* up, int count, float size)
    {
        int i = 0;

        for (; i <= count - L.Count; i += L.Count)
        {
            L.Store(gate + i, SwiGlu(L.Load(gate + i), L.Load(up + i), size));
        }

        if (i < count)
        {
            // The rest by a vector as well: another exponential would round otherwise, and a number's bits would
            // depend on where the threads' parts end.
            float* rest = stackalloc float[32];
            int length = count - i;
            new ReadOnlySpan<float>(gate + i, length).CopyTo(new Span<float>(rest, 16));
            new ReadOnlySpan<float>(up + i, length).CopyTo(new Span<float>(rest + 16, 16));
            L.Store(rest, SwiGlu(L.Load(rest), L.Load(rest + 16), size));
            new ReadOnlySpan<float>(rest, length).CopyTo(new Span<float>(gate + i, length));
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static V SwiGlu(V gate, V up, float size)
    {
        V zero = default;
        var silu = L.Divide(gate, L.Add(L.Broadcast(1f), L.Exp(L.Subtract(zero, gate))));
        return L.Multiply(silu, L.Multiply(up, L.Broadcast(size)));
    }

    /// <summary>to += from + bias.</summary>
    /// <param name="to">[count]</param>
    /// <param name="from">[count]</param>
    /// <param name="bias">[count], or null.</param>
    /// <param name="count">Numbers.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void AddTo(float* to, float* from, float* bias, int count)
    {
        int i = 0;

        for (; i <= count - L.Count; i += L.Count)
        {
            var value = L.Load(from + i);

            if (bias != null)
            {
                value = L.Add(value, L.Load(bias + i));
            }

            L.Store(to + i, L.Add(L.Load(to + i), value));
        }

        for (; i < count; i++)
        {
            to[i] += bias == null ? from[i] : from[i] + bias[i];
        }
    }
}
