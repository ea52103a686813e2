using System.Diagnostics;
using System.Runtime.CompilerServices;

namespace LayerSkip.Kernels;

/// <summary>The parts of one job after the other, each given out once, to whichever thread asks.</summary>
internal struct PartQueue
{
    /// <summary>The most parts of a job.</summary>
    internal const int Most = (1 << Bits) - 1;

    private const int Bits = 16;

    // Which job, its number of parts, and the next part that nobody has: in one word, so that a worker that was
    // held up between two looks cannot take a part of a later job for one of an earlier.
    private long state;

    internal readonly bool HasParts => IsOpen(Volatile.Read(in state));

    /// <summary>Begins the next job; all parts of the one before have been taken.</summary>
    internal void Open(int parts)
    {
        long job = (Volatile.Read(ref state) >> (2 * Bits)) + 1;
        Interlocked.Exchange(ref state, (job << (2 * Bits)) | ((long)parts << Bits));
    }

    internal bool TryTake(out int part)
    {
        while (true)
        {
            long seen = Volatile.Read(ref state);
            part = (int)(seen & Most);

            if (!IsOpen(seen))
            {
                return false;
            }

            if (Interlocked.CompareExchange(ref state, seen + 1, seen) == seen)
            {
                return true;
            }
        }
    }

    private static bool IsOpen(long state) => (state & Most) < ((state >> Bits) & Most);
}

/// <summary>Turns of waiting for another thread without giving the core away, for so many ticks of the clock.</summary>
internal struct Spin(long ticks)
{
    private int turns;
    private long started;

    /// <summary>One turn; whether the time is over.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal bool IsOver()
    {
        Thread.SpinWait(1);

        // The clock costs as much as many turns.
        if ((++turns & 63) != 0)
        {
            return false;
        }

        long now = Stopwatch.GetTimestamp();
        started = started == 0 ? now : started;
        return now - started > ticks;
    }
}
