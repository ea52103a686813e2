using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace LayerSkip.Kernels;

/// <summary>How a sequence's keys and values lie in memory. A row is what one head keeps of one position.</summary>
public enum CacheFormat
{
    /// <summary>Four bytes a number, as they were computed.</summary>
    Float32,

    /// <summary>Two bytes, rounded to nearest; what float16 has no room for, and what is not finite, reads as NaN.</summary>
    Float16,

    /// <summary>
    /// A float32 scale, the largest |x| of the row / 127, then a signed byte a number, the nearest multiple of the scale.
    /// Where one number is not finite, all of the row read as NaN.
    /// </summary>
    Int8,
}

/// <summary>Rows of a cache, of heads of `dim` numbers, which is even.</summary>
public static unsafe class CacheRows
{
    /// <summary>Bytes of a row, a multiple of four.</summary>
    public static int Bytes(CacheFormat format, int dim) =>
        format switch
        {
            CacheFormat.Float16 => sizeof(ushort) * dim,
            CacheFormat.Int8 => sizeof(float) + ((dim + 3) / 4 * 4),
            _ => sizeof(float) * dim,
        };

    /// <summary>Rows one after the other as float32 [rows; dim]. The caller keeps the memory.</summary>
    public static void Widen(CacheFormat format, nint from, int rows, int dim, nint to) =>
        CacheRows<Vector128<float>, Lanes128>.Widen(format, (byte*)from, rows, dim, (float*)to);
}

/// <summary>Rows written once and widened for every reading: of a format, the same bits in every form.</summary>
internal static unsafe class CacheRows<V, L>
    where V : unmanaged
    where L : struct, ILanes<V>
{
    /// <summary>2^112: times the largest number of float16 it is finite, times anything above that infinite.</summary>
    private const float BeyondHalf = Half16.HalfScale * Half16.HalfScale;

    /// <summary>One row, from float32 [dim].</summary>
    internal static void Write(CacheFormat format, float* from, byte* to, int dim)
    {
        switch (format)
        {
            case CacheFormat.Float16:
                WriteHalf(from, (ushort*)to, dim);
                break;
            case CacheFormat.Int8:
                *(float*)to = WriteBytes(from, (sbyte*)to + sizeof(float), dim);
                break;
            default:
                new ReadOnlySpan<float>(from, dim).CopyTo(new Span<float>(to, dim));
                break;
        }
    }

    /// <summary>Rows one after the other, as float32 [rows; dim].</summary>
    internal static void Widen(CacheFormat format, byte* from, int rows, int dim, float* to)
    {
        switch (format)
        {
            case CacheFormat.Float16:
                WidenHalves((ushort*)from, rows, dim, to);
                break;
            case CacheFormat.Int8:
                WidenBytes(from, rows, dim, to);
                break;
            default:
                new ReadOnlySpan<float>(from, rows * dim).CopyTo(new Span<float>(to, rows * dim));
                break;
        }
    }

    private static void WriteHalf(float* from, ushort* to, int dim)
    {
        for (int i = 0; i < dim; i++)
        {
            to[i] = BitConverter.HalfToUInt16Bits((Half)from[i]);
        }
    }

    // Infinity and NaN come as 65536 and more. Infinity would not do: a key of it may have the score that hides it.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void WidenHalves(ushort* from, int rows, int dim, float* to)
    {
        int count = rows * dim, i = 0;
        V beyond = L.Broadcast(BeyondHalf), zero = default;

        for (; i <= count - L.Count; i += L.Count)
        {
            var value = L.LoadF16ByIntegers(from + i);
            L.Store(to + i, L.MultiplyAdd(L.Multiply(value, beyond), zero, value));
        }

        for (; i < count; i++)
        {
            float value = Half16.Widen(from[i]);
            to[i] = (value * BeyondHalf * 0f) + value;
        }
    }

    /// <summary>The row's scale.</summary>
    private static float WriteBytes(float* from, sbyte* to, int dim)
    {
        float most = 0f;

        for (int i = 0; i < dim; i++)
        {
            most = Math.Max(most, Math.Abs(from[i]));
        }

        float scale = float.IsFinite(most) ? most / 127f : float.NaN;

        for (int i = 0; i < dim; i++)
        {
            // A scale of next to nothing may have been rounded, or be none.
            to[i] = scale > 0f ? (sbyte)Math.Clamp(MathF.Round(from[i] / scale), -127f, 127f) : (sbyte)0;
        }

        return scale;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void WidenBytes(byte* from, int rows, int dim, float* to)
    {
        int bytes = CacheRows.Bytes(CacheFormat.Int8, dim);

        for (int row = 0; row < rows; row++, from += bytes, to += dim)
        {
            float scale = *(float*)from;
            var scales = L.Broadcast(scale);
            sbyte* numbers = (sbyte*)from + sizeof(float);
            int i = 0;

            for (; i <= dim - L.Count; i += L.Count)
            {
                L.Store(to + i, L.Multiply(L.LoadInt8(numbers + i), scales));
            }

            for (; i < dim; i++)
            {
                to[i] = numbers[i] * scale;
            }
        }
    }
}
