using System.Diagnostics;
using System.Numerics;
using System.Runtime.InteropServices;

namespace LayerSkip.Kernels;

/// <summary>How fast memory is read: what decoding one token at a time is bound by.</summary>
public static unsafe class Bandwidth
{
    private const long Bytes = 1L << 30;
    private const int Parts = 64;

    /// <summary>Gigabytes a second that the workers read from memory: the best of ten sums over 1 GiB.</summary>
    public static double Read()
    {
        long* memory = (long*)NativeMemory.AlignedAlloc((nuint)Bytes, 64);

        try
        {
            // Written first: pages that nobody wrote are all one page of zeros.
            new Span<byte>(memory, 1 << 30).Fill(1);
            long total = 0;
            double best = 0;

            for (int time = 0; time < 10; time++)
            {
                long started = Stopwatch.GetTimestamp();
                Workers.Shared.Run(Parts, part => Interlocked.Add(ref total, Sum(memory, part)));
                best = Math.Max(best, Bytes / Stopwatch.GetElapsedTime(started).TotalSeconds / 1e9);
            }

            return best;
        }
        finally
        {
            NativeMemory.AlignedFree(memory);
        }
    }

    /// <summary>The sum of one part's longs, by four chains, so that memory is what it waits for.</summary>
    private static long Sum(long* memory, int part)
    {
        int count = (int)(Bytes / Parts / sizeof(long));
        var vectors = MemoryMarshal.Cast<long, Vector<long>>(new ReadOnlySpan<long>(memory + ((nint)part * count), count));
        Vector<long> a = default, b = default, c = default, d = default;

        for (int i = 0; i <= vectors.Length - 4; i += 4)
        {
            a += vectors[i];
            b += vectors[i + 1];
            c += vectors[i + 2];
            d += vectors[i + 3];
        }

        return Vector.Sum(a + b + c + d);
    }
}
