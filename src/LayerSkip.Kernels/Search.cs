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
