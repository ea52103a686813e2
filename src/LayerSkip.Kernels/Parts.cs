namespace LayerSkip.Kernels;

/// <summary>How work is cut into parts for threads.</summary>
internal static class Parts
{
    /// <summary>Multiply-adds that are worth a second thread.</summary>
    internal const long WorthSharing = 192 * 1024;

    /// <summary>Multiply-adds of one part of a shared product.</summary>
    private const long Size = 256 * 1024;

    /// <summary>The most multiply-adds of a part, some 20 ms of one thread: what a cancellation waits for.</summary>
    private const long Largest = 1 << 29;

    /// <summary>Outputs per part come in multiples that every tile divides.</summary>
    private const int OutputStep = 24;

    /// <summary>The most queries that share a part's keys, and the most scores of them all: a thread's room for them.</summary>
    private const int GroupedQueries = 48, GroupedScores = 1 << 20;

    /// <summary>Packs of single heads in a part on the matrix unit.</summary>
    private const int GroupedPacks = 16;

    /// <summary>
    /// How many outputs a part of a product takes, so that each thread has as many parts, none of them is too small to be worth
    /// its giving out, and none so large that a cancellation waits for it.
    /// </summary>
    internal static int Outputs(int outs, int inner, int rows)
    {
        int threads = Workers.Shared.Threads;
        long work = (long)outs * inner * rows;
        long smallest = (work + Largest - 1) / Largest;

        if (smallest == 1 && (threads == 1 || work < WorthSharing))
        {
            return outs;
        }

        // As many for each thread, so that none waits for another's last one.
        long parts = Math.Max(smallest, Math.Clamp(work / Size / threads, 1, 16) * threads);
        int share = (int)((outs + parts - 1) / parts);
        return (share + OutputStep - 1) / OutputStep * OutputStep;
    }

    /// <summary>How many rows a part of attention by key heads takes: few enough that each thread has a part.</summary>
    internal static int AttentionRows(int rows, int heads, int kvHeads, int positions)
    {
        int most = Math.Min(GroupedQueries, GroupedScores / positions) * kvHeads / heads;
        return (int)Math.Clamp((long)rows * kvHeads / Workers.Shared.Threads, 1, Math.Max(1, most));
    }

    /// <summary>How many packs of rows a part of attention on the matrix unit takes, which share what is made of its keys and values.</summary>
    internal static int AttentionPacks(int packs, int group, int kvHeads)
    {
        int some = Math.Max(1, Math.Min(packs, GroupedPacks / group));

        while (some > 1 && (packs + some - 1) / some * kvHeads < 2 * Workers.Shared.Threads)
        {
            some /= 2;
        }

        return some;
    }

    /// <summary>How many query heads of a key head a part takes: all, but where threads would be left without a part.</summary>
    internal static int AttentionHeads(int group, int parts)
    {
        int pieces = (Workers.Shared.Threads + parts - 1) / parts;
        return (group + pieces - 1) / pieces;
    }
}
