using System.Runtime.InteropServices;

namespace LayerSkip.Kernels;

/// <summary>Native floats that grow when they must; what they held is then lost.</summary>
internal sealed unsafe class FloatBuffer : IDisposable
{
    private const int Alignment = 64;

    /// <summary>The widest vector.</summary>
    private const int Beyond = 16;
    private static long held;
    private nuint capacity;

    ~FloatBuffer() => Free();

    /// <summary>Bytes of all buffers of the process.</summary>
    internal static long Held => Interlocked.Read(ref held);

    internal float* Pointer { get; private set; }

    /// <summary>At least `count` floats, and a vector more, all of them zero after they grew.</summary>
    internal float* Of(long count)
    {
        nuint needed = (nuint)count + Beyond;

        if (needed > capacity)
        {
            Free();
            Pointer = (float*)NativeMemory.AlignedAlloc(needed * sizeof(float), Alignment);
            NativeMemory.Clear(Pointer, needed * sizeof(float));
            capacity = needed;
            Interlocked.Add(ref held, (long)(needed * sizeof(float)));
        }

        return Pointer;
    }

    /// <summary>Gives everything back where it is more than `count` floats.</summary>
    internal void Trim(long count)
    {
        if (capacity > (nuint)count + Beyond)
        {
            Free();
        }
    }

    public void Dispose()
    {
        Free();
        GC.SuppressFinalize(this);
    }

    private void Free()
    {
        NativeMemory.AlignedFree(Pointer);
        Interlocked.Add(ref held, -(long)(capacity * sizeof(float)));
        Pointer = null;
        capacity = 0;
    }
}

/// <summary>Room that each thread keeps for itself.</summary>
internal static class ThreadRoom
{
    [ThreadStatic]
    private static FloatBuffer? scores;

    [ThreadStatic]
    private static FloatBuffer? widened;

    internal static FloatBuffer Scores => scores ??= new();

    internal static FloatBuffer Widened => widened ??= new();
}
