using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

/// <summary>
/// A model in memory. Any number of callers, on any threads, may ask it for texts at once, which are written on one thread of its own, a round
/// each in turn; what else it does, it does on the caller's.
/// </summary>
public sealed partial class LayerSkipModel : ILayerSkipModel
{
    private const int FormatsKept = 32;

    private readonly Checkpoint checkpoint;
    private readonly Lock gate = new();
    // By exit layer; 0 is the model's first. They share its head, and go before it.
    private readonly Dictionary<int, FSharpResult<Adapter, FSharpList<LayerSkipError>>> adapters = [];
    // What a form has learned of a vocabulary is worth keeping.
    private readonly GrammarConstraints formats;

    private LayerSkipModel(Checkpoint checkpoint, EngineOptions serving)
    {
        this.checkpoint = checkpoint;
        this.serving = serving;
        formats = new(checkpoint, FormatsKept);
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

    private int[] EncodePrompt(string prompt)
    {
        ArgumentNullException.ThrowIfNull(prompt);
        return Encode(prompt);
    }

    /// <summary>An empty prompt is the beginning-of-text token, as everywhere.</summary>
    private int[] OrBeginning(int[] ids) => CheckpointModule.orBos(checkpoint, ids);

    private Tokenizer RequiredTokenizer() =>
        CheckpointModule.tokenizer(checkpoint).OrThrow();

    private FSharpResult<Adapter, FSharpList<LayerSkipError>> AdapterBehind(int? exit)
    {
        lock (gate)
        {
            if (!adapters.TryGetValue(exit ?? 0, out var adapter))
            {
                adapter = Adapters.load(Translate.Optional(exit), checkpoint);
                adapters.Add(exit ?? 0, adapter);
            }

            return adapter;
        }
    }
}
