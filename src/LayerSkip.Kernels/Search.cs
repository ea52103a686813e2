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
}
