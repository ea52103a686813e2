using System.Diagnostics;
using System.Numerics.Tensors;
using LLama.Native;

/// <summary>A model in llama.cpp, through its own C interface: each pass is one llama_decode, each row asks for its logits.</summary>
public sealed class LlamaModel : IDisposable
{
    /// <summary>Positions of the cache, and the most rows of a pass: room for a prefill of 512 and a text after it.</summary>
    private const int Context = 1024, Rows = 512;

    private readonly SafeLlamaModelHandle model;
    private readonly SafeLLamaContextHandle context;
    private readonly LLamaBatch batch = new();

    public LlamaModel(string path, int threads)
    {
        LLamaModelParams modelParams = LLamaModelParams.Default();
        model = SafeLlamaModelHandle.LoadFromFile(path, modelParams);
        LLamaContextParams contextParams = LLamaContextParams.Default();
        contextParams.n_ctx = Context;
        contextParams.n_batch = Rows;
        contextParams.n_ubatch = Rows;
        contextParams.n_threads = threads;
        contextParams.n_threads_batch = threads;
        context = SafeLLamaContextHandle.Create(model, contextParams);
    }

    public void Dispose()
    {
        context.Dispose();
        model.Dispose();
    }

    /// <summary>Loads the native library, the one of the processor's kind; warnings go to standard error.</summary>
    public static void LoadLibrary()
    {
        NativeLibraryConfig.All.WithLogCallback((level, text) =>
        {
            if (level is LLamaLogLevel.Error) Console.Error.Write(text);
        });
        // The first call is what loads: LLamaQuantizer alone would look in the wrong folders.
        NativeApi.llama_empty_call();
    }

    /// <summary>Ids that stand for a text of this length.</summary>
    private int[] Ids(int count) => [.. Enumerable.Range(0, count).Select(i => (i * 131 + 1) % model.Vocab.Count)];

    /// <summary>One pass over ids that follow <paramref name="past"/> positions; the argmax of each of the last rows.</summary>
    private int[] Pass(ReadOnlySpan<int> ids, int past, int rows)
    {
        batch.Clear();
        for (int i = 0; i < ids.Length; i++) batch.Add((LLamaToken)ids[i], past + i, LLamaSeqId.Zero, i >= ids.Length - rows);
        DecodeResult result = context.Decode(batch);
        if (result != DecodeResult.Ok) throw new InvalidOperationException($"llama_decode: {result}");

        int[] best = new int[rows];
        for (int i = 0; i < rows; i++) best[i] = TensorPrimitives.IndexOfMax(context.GetLogitsIth(ids.Length - rows + i));
        return best;
    }

    private void Forget(int from) => context.MemorySequenceRemove(LLamaSeqId.Zero, from, -1);

    private static double Since(long start) => Stopwatch.GetElapsedTime(start).TotalMilliseconds;

    public static double Median(IEnumerable<double> samples)
    {
        double[] sorted = [.. samples.Order()];
        return (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2;
    }

    /// <summary>Greedy tokens after a prompt of four: milliseconds to the first, and for each after it.</summary>
    public (double FirstMs, double MsPerToken) Decode(int tokens)
    {
        Forget(0);
        long start = Stopwatch.GetTimestamp();
        int[] prompt = Ids(4);
        int last = Pass(prompt, 0, 1)[0];
        double first = Since(start);
        start = Stopwatch.GetTimestamp();
        for (int i = 0; i < tokens - 1; i++) last = Pass([last], prompt.Length + i, 1)[0];
        return (first, Since(start) / Math.Max(1, tokens - 1));
    }

    /// <summary>Milliseconds of one pass of some rows, all of which give logits, after 64 positions: the median of some.</summary>
    public double PassMs(int rows, int times)
    {
        const int Past = 64;
        Forget(0);
        Pass(Ids(Past), 0, 1);
        int[] ids = Ids(rows);

        double Timed()
        {
            long start = Stopwatch.GetTimestamp();
            Pass(ids, Past, rows);
            double ms = Since(start);
            Forget(Past);
            return ms;
        }

        Timed();
        return Median(Enumerable.Range(0, times).Select(_ => Timed()).ToArray());
    }

    /// <summary>Milliseconds of the pass over a prompt.</summary>
    public double PrefillMs(int tokens)
    {
        Forget(0);
        long start = Stopwatch.GetTimestamp();
        Pass(Ids(tokens), 0, 1);
        return Since(start);
    }

    /// <summary>The logits after ids, [vocabulary], and the argmax after each of them.</summary>
    public (float[] Last, int[] Argmax) Logits(int[] ids)
    {
        Forget(0);
        int[] argmax = Pass(ids, 0, ids.Length);
        return (context.GetLogitsIth(ids.Length - 1).ToArray(), argmax);
    }
}
