using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace LayerSkip.Kernels;

/// <summary>One query head over the keys and values of one key head.</summary>
internal static unsafe class Attention<V, L>
    where V : unmanaged
    where L : struct, ILanes<V>
{
    /// <summary>to = softmax(scale q K^T) V * size, over positions `first` to `last` - 1; all of them float32.</summary>
    /// <param name="query">[dim]</param>
    /// <param name="keys">[positions; dim], from position 0 on.</param>
    /// <param name="values">[positions; dim], from position 0 on.</param>
    /// <param name="first">The first position that is seen.</param>
    /// <param name="last">One more than the last that is seen.</param>
    /// <param name="dim">Numbers of a head.</param>
    /// <param name="scale">1 / sqrt(dim) in the models that we know.</param>
    /// <param name="size">A power of two: the input scale of the format that reads the result.</param>
    /// <param name="scores">Room for `last` - `first` numbers and a vector more.</param>
    /// <param name="to">[dim], written.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void One(
        float* query, float* keys, float* values, int first, int last, int dim, float scale, float size, float* scores,
        float* to)
    {
        int count = last - first;
        Scores(query, keys + ((nint)first * dim), count, dim, scale, scores);
        float total = Exponentials(scores, count);
        new Span<float>(to, dim).Clear();
        Mix(scores, values + ((nint)first * dim), count, dim, size / total, to);
    }

    /// <summary>scores [count] = scale q K^T: query [dim], keys [count; dim].</summary>
    private static void Scores(float* query, float* keys, int count, int dim, float scale, float* scores)
    {
        Products<V, L, Float32<V, L>>.Few((byte*)keys, dim, query, dim, scores, count, 1, 0, count);

        for (int at = 0; at < count; at++)
        {
            scores[at] *= scale;
        }
    }

    /// <summary>
    /// Scores [count] become e^(score - largest), which no score overflows; returns their sum. A vector's room after them
    /// is written too.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static float Exponentials(float* scores, int count)
    {
        for (int i = 0; i < L.Count; i++)
        {
            scores[count + i] = float.NegativeInfinity;
        }

        var largest = L.Load(scores);

        for (int i = L.Count; i < count; i += L.Count)
        {
            largest = L.Max(largest, L.Load(scores + i));
        }

        float* lanes = stackalloc float[16];
        L.Store(lanes, largest);
        float most = lanes[0];

        for (int i = 1; i < L.Count; i++)
        {
            most = Math.Max(most, lanes[i]);
        }

        largest = L.Broadcast(most);
        V sum = default;

        for (int i = 0; i < count; i += L.Count)
        {
            var power = L.Exp(L.Subtract(L.Load(scores + i), largest));
            L.Store(scores + i, power);
            sum = L.Add(sum, power);
        }

        return L.Sum4(sum, sum, sum, sum).ToScalar();
    }

    /// <summary>to [dim] = scale * (to + weights V): weights [count], values [count; dim]. Each number is one chain over the positions.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Mix(float* weights, float* values, int count, int dim, float scale, float* to)
    {
        int d = 0;
        var scales = L.Broadcast(scale);

        for (; d <= dim - (8 * L.Count); d += 8 * L.Count)
        {
            V a0 = L.Load(to + d), a1 = L.Load(to + d + L.Count);
            V a2 = L.Load(to + d + (2 * L.Count)), a3 = L.Load(to + d + (3 * L.Count));
            V a4 = L.Load(to + d + (4 * L.Count)), a5 = L.Load(to + d + (5 * L.Count));
            V a6 = L.Load(to + d + (6 * L.Count)), a7 = L.Load(to + d + (7 * L.Count));
            float* v = values + d;

            for (int at = 0; at < count; at++, v += dim)
            {
                var w = L.Broadcast(weights[at]);
                a0 = L.MultiplyAdd(w, L.Load(v), a0);
                a1 = L.MultiplyAdd(w, L.Load(v + L.Count), a1);
                a2 = L.MultiplyAdd(w, L.Load(v + (2 * L.Count)), a2);
                a3 = L.MultiplyAdd(w, L.Load(v + (3 * L.Count)), a3);
                a4 = L.MultiplyAdd(w, L.Load(v + (4 * L.Count)), a4);
                a5 = L.MultiplyAdd(w, L.Load(v + (5 * L.Count)), a5);
                a6 = L.MultiplyAdd(w, L.Load(v + (6 * L.Count)), a6);
                a7 = L.MultiplyAdd(w, L.Load(v + (7 * L.Count)), a7);
            }

            L.Store(to + d, L.Multiply(a0, scales));
            L.Store(to + d + L.Count, L.Multiply(a1, scales));
            L.Store(to + d + (2 * L.Count), L.Multiply(a2, scales));
            L.Store(to + d + (3 * L.Count), L.Multiply(a3, scales));
            L.Store(to + d + (4 * L.Count), L.Multiply(a4, scales));
            L.Store(to + d + (5 * L.Count), L.Multiply(a5, scales));
            L.Store(to + d + (6 * L.Count), L.Multiply(a6, scales));
            L.Store(to + d + (7 * L.Count), L.Multiply(a7, scales));
        }

        for (; d <= dim - L.Count; d += L.Count)
        {
            V a = L.Load(to + d);
            float* v = values + d;

            for (int at = 0; at < count; at++, v += dim)
            {
                a = L.MultiplyAdd(L.Broadcast(weights[at]), L.Load(v), a);
            }

            L.Store(to + d, L.Multiply(a, scales));
        }

        for (; d < dim; d++)
        {
            float a = to[d];

            for (int at = 0; at < count; at++)
            {
                a += weights[at] * values[((nint)at * dim) + d];
            }

            to[d] = a * scale;
        }
    }
}
