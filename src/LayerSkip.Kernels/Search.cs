using System.Numerics;
using System.Runtime.InteropServices;

namespace LayerSkip.Kernels;

/// <summary>Questions about a row of logits or weights, float32, answered by vectors.</summary>
public static class Search
{
    /// <summary>Whether no value is NaN or infinite.</summary>
    public static bool AreFinite(ReadOnlySpan<float> values)
    {
        // A finite number times zero is zero, and any other is NaN, which no addition takes away.
        var vectors = MemoryMarshal.Cast<float, Vector<float>>(values);
        var sum = Vector<float>.Zero;

        foreach (var vector in vectors)
        {
            sum += vector * Vector<float>.Zero;
        }

        float rest = Vector.Sum(sum);

        foreach (float value in values[(vectors.Length * Vector<float>.Count)..])
        {
            rest += value * 0f;
        }

        return !float.IsNaN(rest);
    }

    /// <summary>Where the largest value stands; of equal ones the first. NaN is not expected.</summary>
    public static int IndexOfMax(ReadOnlySpan<float> values)
    {
        var vectors = MemoryMarshal.Cast<float, Vector<float>>(values);
        var largest = new Vector<float>(float.NegativeInfinity);

        foreach (var vector in vectors)
        {
            largest = Vector.Max(largest, vector);
        }

        float most = float.NegativeInfinity;

        for (int i = 0; i < Vector<float>.Count; i++)
        {
            most = Math.Max(most, largest[i]);
        }

        foreach (float value in values[(vectors.Length * Vector<float>.Count)..])
        {
            most = Math.Max(most, value);
        }

        return Math.Max(0, values.IndexOf(most));
    }

    /// <summary>Where the largest value stands; of equal ones that of the lowest id, of which there is one for each value.</summary>
    public static int IndexOfMax(ReadOnlySpan<float> values, ReadOnlySpan<int> ids)
    {
        int best = IndexOfMax(values);

        for (int at = best; ;)
        {
            int step = values[(at + 1)..].IndexOf(values[best]);

            if (step < 0)
            {
                return best;
            }

            at += 1 + step;
            best = ids[at] < ids[best] ? at : best;
        }
    }

    /// <summary>
    /// Where the largest values stand, as many as `places` has room for: the largest first, and of equal ones the first. NaN is not expected.
    /// </summary>
    /// <returns>How many were written: all values, where there is room for more.</returns>
    public static int Largest(ReadOnlySpan<float> values, Span<int> places)
    {
        var vectors = MemoryMarshal.Cast<float, Vector<float>>(values);
        int count = 0;

        if (places.IsEmpty)
        {
            return 0;
        }

        for (int vector = 0; vector < vectors.Length; vector++)
        {
            // Few vectors of a long row have a value for which there is still a place.
            if (count < places.Length || Vector.GreaterThanAny(vectors[vector], new Vector<float>(values[places[^1]])))
            {
                Insert(values, vector * Vector<float>.Count, (vector + 1) * Vector<float>.Count, places, ref count);
            }
        }

        Insert(values, vectors.Length * Vector<float>.Count, values.Length, places, ref count);
        return count;
    }

    private static void Insert(ReadOnlySpan<float> values, int first, int last, Span<int> places, ref int count)
    {
        for (int i = first; i < last; i++)
        {
            if (count == places.Length && values[i] <= values[places[^1]])
            {
                continue;
            }

            int at = Math.Min(count, places.Length - 1);

            for (; at > 0 && values[i] > values[places[at - 1]]; at--)
            {
                places[at] = places[at - 1];
            }

            places[at] = i;
            count = Math.Min(count + 1, places.Length);
        }
    }

    /// <summary>
    /// The sum of e to the power of each value less `largest`, the largest of them: its inverse is that one's probability under
    /// softmax. Each term is good to about 1e-7 of itself, the sum to 1e-6. NaN where a value is NaN or infinite.
    /// </summary>
    public static float SumOfExp(ReadOnlySpan<float> values, float largest)
    {
        var vectors = MemoryMarshal.Cast<float, Vector<float>>(values);
        var shift = new Vector<float>(largest);
        var sum = Vector<float>.Zero;
        var faults = Vector<float>.Zero;

        foreach (var vector in vectors)
        {
            sum += Exp(vector - shift);
            // As in AreFinite.
            faults = Vector.FusedMultiplyAdd(vector, Vector<float>.Zero, faults);
        }

        float total = Vector.Sum(sum) + Vector.Sum(faults);

        foreach (float value in values[(vectors.Length * Vector<float>.Count)..])
        {
            total += MathF.Exp(value - largest) + (value * 0f);
        }

        return total;
    }

    /// <summary>e to the power of x, where no x is above 0; what is below e^-87 is as good as nothing.</summary>
    private static Vector<float> Exp(Vector<float> x)
    {
        // e^x = 2^n e^r with |r| <= ln 2 / 2; ln 2 in two parts, so that r is exact. Then e^r = 1 + r + r^2 q(r), the Taylor series.
        x = Vector.Max(x, new Vector<float>(-87f));
        var n = Vector.Round(x * new Vector<float>(1.44269504f));
        var r = Vector.FusedMultiplyAdd(n, new Vector<float>(-0.693145752f), x);
        r = Vector.FusedMultiplyAdd(n, new Vector<float>(-1.42860677e-6f), r);
        var q = new Vector<float>(1f / 5040f);
        q = Vector.FusedMultiplyAdd(q, r, new Vector<float>(1f / 720f));
        q = Vector.FusedMultiplyAdd(q, r, new Vector<float>(1f / 120f));
        q = Vector.FusedMultiplyAdd(q, r, new Vector<float>(1f / 24f));
        q = Vector.FusedMultiplyAdd(q, r, new Vector<float>(1f / 6f));
        q = Vector.FusedMultiplyAdd(q, r, new Vector<float>(0.5f));
        var power = Vector.FusedMultiplyAdd(q, r * r, r + Vector<float>.One);
        var exponent = Vector.ConvertToInt32Native(n) + new Vector<int>(127);
        return power * Vector.AsVectorSingle(exponent << 23);
    }
}
