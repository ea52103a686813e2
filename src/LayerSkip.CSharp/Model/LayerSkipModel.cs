using System.Runtime.CompilerServices;
using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

/// <summary>
/// A model in memory. Any number of generations and lenses may run on it at once, on any threads: each has a cache of its own.
/// </summary>
public sealed partial class LayerSkipModel : ILayerSkipModel
{
    private readonly Checkpoint checkpoint;
    private readonly Lock gate = new();
    // By exit layer; 0 is the model's first. They share its head, and go before it.
    private readonly Dictionary<int, FSharpResult<Adapter, FSharpList<LayerSkipError>>> adapters = [];

    private LayerSkipModel(Checkpoint checkpoint)
    {
        this.checkpoint = checkpoint;
        Info = Describe(checkpoint);
    }

    /// <summary>What the model is.</summary>
    public ModelInfo Info { get; }

    /// <summary>
    /// The tokenizer, for whatever takes one of Microsoft.ML.Tokenizers: it encodes as <see cref="Encode"/> does, special tokens read
    /// as such, and gives offsets; null where the model has none.
    /// </summary>
    public Microsoft.ML.Tokenizers.Tokenizer? Tokenizer => checkpoint.Tokenizer?.Value;

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
        var unknown = all.Where(id => id < 0 || id >= Info.VocabularySize).ToArray();
        return unknown is [var first, ..]
            ? throw Translate.Exception(LayerSkipError.NewUnknownToken(first, Info.VocabularySize))
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

    /// <summary>Continues a text, on another thread.</summary>
    /// <exception cref="LayerSkipException">The prompt or the options cannot be used.</exception>
    public Task<GenerateResult> GenerateAsync(
        string prompt, GenerateOptions? options = null, CancellationToken cancellationToken = default) =>
        GenerateAsync(EncodePrompt(prompt), options, cancellationToken);

    /// <summary>Continues tokens, on another thread.</summary>
    /// <exception cref="LayerSkipException">The prompt or the options cannot be used.</exception>
    public Task<GenerateResult> GenerateAsync(
        IReadOnlyList<int> promptIds, GenerateOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(promptIds);
        return OwnThread.Run("LayerSkip generate", () => Generate(promptIds, options, cancellationToken), cancellationToken);
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
        var (given, faults) = TranslateOptions.Options(checkpoint, options ?? new(), AdapterBehind);
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
}
