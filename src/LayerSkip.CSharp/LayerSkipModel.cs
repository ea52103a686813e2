using System.Runtime.CompilerServices;
using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

/// <summary>
/// A model in memory. Any number of generations and lenses may run on it at once, on any threads: each has a cache of its own.
/// </summary>
public sealed class LayerSkipModel : IDisposable
{
    private readonly Checkpoint checkpoint;
    private readonly Lock gate = new();
    // By exit layer; 0 is the model's first. They share its head, and go before it.
    private readonly Dictionary<int, FSharpResult<Adapter, FSharpList<LayerSkipError>>> adapters = [];
    private int running;
    private bool disposed;

    private LayerSkipModel(Checkpoint checkpoint) => this.checkpoint = checkpoint;

    /// <summary>The number of layers, L. They count from 1.</summary>
    public int Layers => checkpoint.Config.Layers;

    /// <summary>The number of token ids, which run from 0.</summary>
    public int VocabularySize => checkpoint.Config.Vocabulary;

    /// <summary>The most tokens that prompt and text have together.</summary>
    public int ContextLength => checkpoint.Config.Context;

    /// <summary>The exit layer of options that name none: the model's own recommendation, else a third of its layers.</summary>
    public int RecommendedExitLayer => CheckpointModule.exitAndDraft(checkpoint).Item1;

    /// <summary>The draft length of options that name none: the model's own recommendation, else 4.</summary>
    public int RecommendedDraftLength => CheckpointModule.exitAndDraft(checkpoint).Item2;

    /// <summary>Whether the model has a tokenizer; without one, prompts are ids and there is no text.</summary>
    public bool HasTokenizer => checkpoint.Tokenizer is not null;

    /// <summary>
    /// The tokenizer, for whatever takes one of Microsoft.ML.Tokenizers: it encodes as <see cref="Encode"/> does, special tokens read
    /// as such, and gives offsets; null where the model has none.
    /// </summary>
    public Microsoft.ML.Tokenizers.Tokenizer? Tokenizer => checkpoint.Tokenizer?.Value;

    /// <summary>
    /// The number format of the weights in memory, never <see cref="Dtype.Auto"/>; of weights in quantised blocks the one that they are
    /// multiplied to, <see cref="Dtype.F32"/>.
    /// </summary>
    public Dtype Dtype => Translate.Dtype(checkpoint.Weights.Dtype);

    /// <summary>
    /// What the weights are held in, as reports name it: "f16", "bf16"; of a GGUF's quantised blocks the type that most bytes have, "q4_k".
    /// </summary>
    public string WeightsFormat => WeightsModule.dtypeName(checkpoint.Weights);

    /// <summary>Where the weights are.</summary>
    public Device Device => Translate.Device(checkpoint.Weights.Device);

    /// <summary>Loads a model.</summary>
    /// <param name="path">A Hugging Face folder or a .gguf file.</param>
    /// <param name="options">Device, number formats, threads.</param>
    /// <exception cref="LayerSkipException">The files, the device or the options cannot be used.</exception>
    public static LayerSkipModel Load(string path, LoadOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(path);
        options ??= new();
        var (dtype, device) = (Translate.Dtype(options.Dtype), Translate.Device(options.Device));
        var compute = Translate.Compute(options.Compute);
        var (kv, prefill) = (Translate.Kv(options.Kv), Translate.Prefill(options.Prefill));
        if (options.Threads is { } threads)
        {
            SetThreads(threads);
        }

        var loaded = CheckpointModule.withCompute(compute, CheckpointModule.load(path, dtype, device).OrThrow());
        var whole = CheckpointModule.withPrefill(prefill, CheckpointModule.withKv(kv, loaded).OrThrow());
        return new(options.AdapterFile is { } file ? Adapters.withFile(file, whole) : whole);
    }

    /// <summary>The tokens of a text, with the beginning-of-text token where the model wants one.</summary>
    /// <param name="text">The text.</param>
    /// <param name="parseSpecial">
    /// Whether special tokens such as <c>&lt;|im_end|&gt;</c> in the text are the tokens that they name, as in a prompt;
    /// false for text of unknown origin, in which they are characters.
    /// </param>
    /// <exception cref="LayerSkipException">The model has no tokenizer.</exception>
    public int[] Encode(string text, bool parseSpecial = true)
    {
        ArgumentNullException.ThrowIfNull(text);
        var tokenizer = RequiredTokenizer();
        return TokenizerModule.encodeWith(TokenizerModule.addsBos(tokenizer), parseSpecial, tokenizer, text);
    }

    /// <summary>The text of tokens.</summary>
    /// <exception cref="LayerSkipException">The model has no tokenizer, or an id is outside the vocabulary.</exception>
    public string Decode(IEnumerable<int> ids, bool showSpecial = false)
    {
        ArgumentNullException.ThrowIfNull(ids);
        int[] all = [.. ids];
        var unknown = all.Where(id => id < 0 || id >= VocabularySize).ToArray();
        return unknown is [var first, ..]
            ? throw Translate.Exception(LayerSkipError.NewUnknownToken(first, VocabularySize))
            : TokenizerModule.decode(showSpecial, RequiredTokenizer(), all);
    }

    /// <summary>Continues a text, on this thread.</summary>
    /// <exception cref="LayerSkipException">The prompt or the options cannot be used.</exception>
    public GenerateResult Generate(
        string prompt,
        GenerateOptions? options = null,
        CancellationToken cancellationToken = default) =>
        Generate(EncodePrompt(prompt), options, cancellationToken);

    /// <summary>Continues tokens, on this thread.</summary>
    /// <exception cref="LayerSkipException">The prompt or the options cannot be used.</exception>
    public GenerateResult Generate(
        IReadOnlyList<int> promptIds,
        GenerateOptions? options = null,
        CancellationToken cancellationToken = default)
    {
        var start = Prepare(promptIds, options);
        using var use = new Use(this);
        GenerateResult? result = null;
        foreach (var happened in Translate.Pulled(start.Invoke(cancellationToken)))
        {
            cancellationToken.ThrowIfCancellationRequested();
            result = Translate.Event(happened)?.Result;
        }

        return result!;
    }

    /// <summary>
    /// Continues a text, token by token, off the caller's thread; the next round is computed when a step asks for it.
    /// Leaving the loop, or cancelling, ends the generation and frees what it held.
    /// </summary>
    /// <exception cref="LayerSkipException">The prompt or the options cannot be used.</exception>
    public IAsyncEnumerable<GeneratedToken> StreamAsync(
        string prompt,
        GenerateOptions? options = null,
        CancellationToken cancellationToken = default) =>
        StreamAsync(EncodePrompt(prompt), options, cancellationToken);

    /// <summary>As the other <c>StreamAsync</c>, for a prompt of ids.</summary>
    /// <exception cref="LayerSkipException">The prompt or the options cannot be used.</exception>
    public IAsyncEnumerable<GeneratedToken> StreamAsync(
        IReadOnlyList<int> promptIds,
        GenerateOptions? options = null,
        CancellationToken cancellationToken = default) =>
        Pull(Prepare(promptIds, options), cancellationToken);

    /// <summary>What every layer would say at every position of a text, on this thread: the logit lens.</summary>
    /// <exception cref="LayerSkipException">The text or the options cannot be used.</exception>
    public LensResult Lens(
        string prompt,
        LensOptions? options = null,
        CancellationToken cancellationToken = default) =>
        Lens(EncodePrompt(prompt), options, cancellationToken);

    /// <summary>As the other <c>Lens</c>, for a text of ids.</summary>
    /// <exception cref="LayerSkipException">The text or the options cannot be used.</exception>
    public LensResult Lens(
        IReadOnlyList<int> promptIds,
        LensOptions? options = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(promptIds);
        ObjectDisposedException.ThrowIf(disposed, this);
        options ??= new();
        var given = new LayerSkip.LensOptions(options.TopK, ListModule.OfSeq(options.Layers ?? []), options.Logits);
        var start = LayerSkip.Lens.prepare(checkpoint, given, [.. promptIds]).OrThrow();
        using var use = new Use(this);
        return TranslateLens.Result(Translate.Throwing(() => start.Invoke(cancellationToken)));
    }

    /// <summary>Frees the weights, once the generations and lenses that still run have ended; no new one can start.</summary>
    public void Dispose()
    {
        lock (gate)
        {
            if (disposed)
            {
                return;
            }

            disposed = true;
            FreeIfUnused();
        }
    }

    private static void SetThreads(int threads)
    {
        Backend.load().OrThrow();
        Translate.Throwing(() =>
        {
            CpuKernels.setThreads(threads);
            return threads;
        });
    }

    private int[] EncodePrompt(string prompt)
    {
        ArgumentNullException.ThrowIfNull(prompt);
        return Encode(prompt);
    }

    private Tokenizer RequiredTokenizer() =>
        CheckpointModule.tokenizer(checkpoint).OrThrow();

    /// <summary>Checks prompt and options; nothing is computed before the events are pulled.</summary>
    private FSharpFunc<CancellationToken, IEnumerable<GenerationEvent>> Prepare(IReadOnlyList<int> promptIds, GenerateOptions? options)
    {
        ArgumentNullException.ThrowIfNull(promptIds);
        ObjectDisposedException.ThrowIf(disposed, this);
        var (given, faults) = Translate.Options(checkpoint, options ?? new(), AdapterBehind);
        var prepared = Generation.prepare(checkpoint.Weights, checkpoint.Tokenizer, given, [.. promptIds]);
        LayerSkipError[] all = [.. faults, .. Check.faults(prepared)];
        return all is [] ? prepared.ResultValue : throw Translate.Exception(all);
    }

    private FSharpResult<Adapter, FSharpList<LayerSkipError>> AdapterBehind(int? exit)
    {
        lock (gate)
        {
            if (!adapters.TryGetValue(exit ?? 0, out var adapter))
            {
                adapter = Adapters.load(exit is { } layer ? FSharpOption<int>.Some(layer) : null, checkpoint);
                adapters.Add(exit ?? 0, adapter);
            }

            return adapter;
        }
    }

    private async IAsyncEnumerable<GeneratedToken> Pull(
        FSharpFunc<CancellationToken, IEnumerable<GenerationEvent>> start,
        [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        using var use = new Use(this);
        using var pulled = Translate.Pulled(start.Invoke(cancellationToken)).GetEnumerator();

        // A round under way ends itself when cancelled, and is awaited: its tensors must not be freed under it.
        while (await Task.Run(pulled.MoveNext, cancellationToken).ConfigureAwait(false))
        {
            cancellationToken.ThrowIfCancellationRequested();
            if (Translate.Event(pulled.Current) is { } step)
            {
                yield return step;
            }
        }
    }

    private void FreeIfUnused()
    {
        if (disposed && running == 0)
        {
            foreach (var adapter in adapters.Values.Where(loaded => loaded.IsOk))
            {
                ((IDisposable)adapter.ResultValue).Dispose();
            }

            ((IDisposable)checkpoint).Dispose();
        }
    }

    /// <summary>Keeps the weights while a generation or a lens runs.</summary>
    private readonly struct Use : IDisposable
    {
        private readonly LayerSkipModel model;

        public Use(LayerSkipModel model)
        {
            this.model = model;
            lock (model.gate)
            {
                ObjectDisposedException.ThrowIf(model.disposed, model);
                model.running++;
            }
        }

        public void Dispose()
        {
            lock (model.gate)
            {
                model.running--;
                model.FreeIfUnused();
            }
        }
    }
}
