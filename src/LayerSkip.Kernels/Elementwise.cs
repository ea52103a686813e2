using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace LayerSkip.Kernels;

/// <summary>What is done to single rows between the products.</summary>
internal static unsafe class Elementwise<V, L>
    where V : struct
    where L : struct, ILanes<V>
{
    /// <summary>x / rms(x) * weight, times a power of two.</summary>
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

        float scale = 1f / MathF.Sqrt((sum / count) + eps) * size;
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

    /// <summary>Turns a head's halves against each other, in place; the sine of the first half is negative.</summary>
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

    /// <summary>gate = silu(gate) * up, times a power of two.</summary>
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
    private static V SwiGlu(V gate, V up, float size)
    {
        V zero = default;
        var silu = L.Divide(gate, L.Add(L.Broadcast(1f), L.Exp(L.Subtract(zero, gate))));
        return L.Multiply(silu, L.Multiply(up, L.Broadcast(size)));
    }

    /// <summary>to += from, and bias where there is one.</summary>
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
