using System.Numerics;
using System.Runtime.InteropServices;

namespace LayerSkip.Kernels;

public static class Search
{
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
