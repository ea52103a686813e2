using System.Collections.ObjectModel;
using System.Text;

namespace LayerSkip.CSharp;

/// <summary>What computes.</summary>
public enum Device
{
    /// <summary>The processor.</summary>
    Cpu,

    /// <summary>An NVIDIA GPU; an error where there is none.</summary>
    Cuda,
}

/// <summary>The number format of the weights in memory.</summary>
public enum Dtype
{
    /// <summary>
    /// What suits the file and the device: on a processor as the file has them, quantised blocks of a GGUF where they lie.
    /// </summary>
    Auto,

    /// <summary>float64.</summary>
    F64,

    /// <summary>float32.</summary>
    F32,

    /// <summary>float16.</summary>
    F16,

    /// <summary>bfloat16.</summary>
    BF16,
}

/// <summary>How weights that stay in a GGUF file's quantised blocks are multiplied; others are in float32 either way.</summary>
public enum Compute
{
    /// <summary>Bytes: activations are rounded to 8 bits, each row by itself.</summary>
    Auto,

    /// <summary>In float32, which defines what <see cref="Auto"/> must agree with.</summary>
    Float,
}

/// <summary>How keys and values of a text are held while it is decoded.</summary>
public enum KvFormat
{
    /// <summary>As they are computed: on a processor float32, but float64 where the weights are; on CUDA as the weights are.</summary>
    Auto,

    /// <summary>float32.</summary>
    F32,

    /// <summary>float16: half the memory.</summary>
    F16,

    /// <summary>8 bits, in little more than a quarter of the memory; on a processor, with weights of 16 or 32 bits.</summary>
    Q8,
}

/// <summary>How the products of a prompt are computed.</summary>
public enum Prefill
{
    /// <summary>
    /// On the processor's matrix unit (AVX512-BF16, AMX) where that is faster, as it is for many tokens: inputs and weights of fewer than 32 bits are
    /// rounded to bfloat16 for it, sums are float32. Few tokens after what a kept cache holds are read exactly: at a close call a text may then be
    /// another than over an empty cache.
    /// </summary>
    Auto,

    /// <summary>As those of every other token.</summary>
    Exact,
}

/// <summary>How tokens are decoded.</summary>
public enum Strategy
{
    /// <summary>
    /// <see cref="SelfSpeculative"/> where the model recommends an exit layer, or the options say how to draft; otherwise <see cref="Autoregressive"/>.
    /// </summary>
    Auto,

    /// <summary>Every layer, one token at a time.</summary>
    Autoregressive,

    /// <summary>Layers 1 to the exit only: faster, another text.</summary>
    EarlyExit,

    /// <summary>Layers or the text draft, all layers verify: the autoregressive text, faster.</summary>
    SelfSpeculative,
}

/// <summary>How a model is loaded.</summary>
public sealed record LoadOptions
{
    /// <summary>What computes; the processor by default.</summary>
    public Device Device { get; init; }

    /// <summary>The number format of the weights in memory.</summary>
    public Dtype Dtype { get; init; }

    /// <summary>How weights in quantised blocks are multiplied.</summary>
    public Compute Compute { get; init; }

    /// <summary>How keys and values of a text are held while it is decoded.</summary>
    public KvFormat Kv { get; init; }

    /// <summary>How the products of a prompt are computed.</summary>
    public Prefill Prefill { get; init; }

    /// <summary>
    /// A file with an adapter for <see cref="Drafter.Adapter"/>; null are those that the model's folder names, or that lie beside a GGUF file.
    /// </summary>
    public string? AdapterFile { get; init; }

    /// <summary>Threads for the products of the whole process, 1 to 1024; null leaves them as they are.</summary>
    public int? Threads { get; init; }

    /// <summary>The most texts that are written at once, a round each in turn; 1 or more. Others wait.</summary>
    public int TextsAtOnce { get; init; } = EngineOptionsModule.defaults.Slots;

    /// <summary>The most texts that wait; one more is refused (<see cref="LayerSkipErrorCode.Busy"/>). 0 or more.</summary>
    public int TextsWaiting { get; init; } = EngineOptionsModule.defaults.Queue;

    /// <summary>The most texts whose caches stay for prompts that begin as they do, as a conversation's next turn; 0 or more.</summary>
    public int TextsKept { get; init; } = 8;

    /// <summary>The most bytes of all caches, above 0; null: half of the memory that is free when the first text is asked for.</summary>
    public long? CacheBytes { get; init; }
}

/// <summary>How a text is generated. The defaults are those of the command line.</summary>
public sealed record GenerateOptions
{
    /// <summary>How tokens are decoded.</summary>
    public Strategy Strategy { get; init; }

    /// <summary>
    /// Who proposes tokens; null is <see cref="CSharp.Drafter.Exit"/>, and of <see cref="DraftPolicy.Auto"/>
    /// <see cref="CSharp.Drafter.Cascade"/>. Whoever does, the greedy text is the same.
    /// </summary>
    public Drafter? Drafter { get; init; }

    /// <summary>
    /// What decides how each round drafts; null is <see cref="DraftPolicy.Auto"/>, but <see cref="DraftPolicy.Static"/> with
    /// <see cref="Strategy.SelfSpeculative"/> and nothing else that says how to draft, with options of a fixed drafting, and with a temperature.
    /// </summary>
    public DraftPolicy? Policy { get; init; }

    /// <summary>What ends a draft before its length does; null is <see cref="CSharp.StopRule.Never"/>.</summary>
    public StopRule? StopRule { get; init; }

    /// <summary>The ids that drafts are chosen from; null is <see cref="CSharp.DraftVocabulary.All"/>.</summary>
    public DraftVocabulary? DraftVocabulary { get; init; }

    /// <summary>
    /// The layers of <see cref="CSharp.Drafter.Layers"/>, from 1, the first among them; null are those that the model recommends.
    /// </summary>
    public IReadOnlyList<int>? LayersKept { get; init; }

    /// <summary>
    /// The layer E after which drafts leave, 1 to L - 1 of the model's L; null is <see cref="ModelInfo.RecommendedExitLayer"/>.
    /// </summary>
    public int? ExitLayer { get; init; }

    /// <summary>
    /// The most tokens that a round drafts, 1 or more; null is <see cref="ModelInfo.RecommendedDraftLength"/>.
    /// </summary>
    public int? DraftLength { get; init; }

    /// <summary>
    /// Which drafts are kept; null is <see cref="AcceptanceRule.Exact"/>. One that is not lossless writes another text than the whole model's.
    /// </summary>
    public AcceptanceRule? Acceptance { get; init; }

    /// <summary>The most new tokens, 1 or more; the context may end the text sooner.</summary>
    public int MaxNewTokens { get; init; } = GenerationOptionsModule.defaults.MaxNewTokens;

    /// <summary>0 is greedy.</summary>
    public double Temperature { get; init; } = SamplingModule.defaultTemperature;

    /// <summary>Samples from the k most probable tokens; 0 is all.</summary>
    public int TopK { get; init; } = SamplingModule.defaultTopK;

    /// <summary>Samples from the fewest tokens whose probabilities reach p, above 0 and at most 1.</summary>
    public double TopP { get; init; } = SamplingModule.defaultTopP;

    /// <summary>Samples from tokens at least so many times as probable as the most probable one, 0 (all) to 1; after the other filters.</summary>
    public double MinP { get; init; } = SamplingModule.defaultMinP;

    /// <summary>
    /// What the logits of tokens that prompt or text have are divided by where they are positive, and multiplied by where they are not,
    /// 0.01 to 100; 1 is none. Rules such as this one hold for drafts too: speculation writes what the whole model would under them.
    /// </summary>
    public double RepetitionPenalty { get; init; } = TokenRulesModule.none.RepetitionPenalty;

    /// <summary>What is taken from the logit of a token that the new text has, -2 to 2.</summary>
    public double PresencePenalty { get; init; } = TokenRulesModule.none.PresencePenalty;

    /// <summary>What is taken from the logit of a token each time that the new text has it, -2 to 2.</summary>
    public double FrequencyPenalty { get; init; } = TokenRulesModule.none.FrequencyPenalty;

    /// <summary>What is added to the logits of tokens, by id, -100 to 100.</summary>
    public IReadOnlyDictionary<int, double> LogitBias
    {
        get;
        init
        {
            ArgumentNullException.ThrowIfNull(value, nameof(LogitBias));
            field = value;
        }
    } = ReadOnlyDictionary<int, double>.Empty;

    /// <summary>A form that the text has; null: any text.</summary>
    public ResponseFormat? ResponseFormat { get; init; }

    /// <summary>
    /// Tells the log-probability of each new token in the model's own law, before rules, temperature and filters, and so many of the likeliest
    /// there, 0 to 20; null: neither.
    /// </summary>
    public int? LogProbs { get; init; }

    /// <summary>The same of the prompt's tokens.</summary>
    public int? PromptLogProbs { get; init; }

    /// <summary>
    /// Whether the text may begin on a cache that another left, where their prompts begin alike, and leave its own: a conversation's next turn
    /// then costs what is new in it. How long a text takes tells whether its beginning was asked before.
    /// </summary>
    public bool SharesPrefix { get; init; } = true;

    /// <summary>
    /// Tokens that end the text; null is the model's own. One that does is neither in <see cref="GenerateResult.TokenIds"/>
    /// nor in <see cref="GenerateResult.Text"/>.
    /// </summary>
    public IReadOnlyList<int>? StopTokenIds { get; init; }

    /// <summary>
    /// Texts that end the text, wherever tokens part them. <see cref="GenerateResult.Text"/> ends before the first of them;
    /// <see cref="GenerateResult.TokenIds"/> has the tokens that spell it, up to the one that completed it.
    /// </summary>
    public IReadOnlyList<string> StopTexts
    {
        get;
        init
        {
            ArgumentNullException.ThrowIfNull(value, nameof(StopTexts));
            field = value;
        }
    } = [];

    /// <summary>The same seed draws the same text.</summary>
    public long Seed { get; init; } = GenerationOptionsModule.defaults.Seed;

    /// <summary>Writes on past the model's own stop tokens; those of <see cref="StopTokenIds"/> still end the text.</summary>
    public bool IgnoreEos { get; init; }

    /// <summary>Whether special tokens appear in the text.</summary>
    public bool ShowSpecial { get; init; } = GenerationOptionsModule.defaults.ShowSpecial;

    /// <summary>The same for an answer of a chat, which ends where the model ends its own, unless these options say what ends a text.</summary>
    public GenerateOptions EndingAnswers(ModelInfo model)
    {
        ArgumentNullException.ThrowIfNull(model);
        return StopTokenIds is null && !IgnoreEos && model.ChatStopTokenIds is { Count: > 0 } stops ? this with { StopTokenIds = stops } : this;
    }

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>What a lens looks at. The defaults are those of the command line.</summary>
public sealed record LensOptions
{
    /// <summary>How many of the most probable tokens are told of each layer and position, 1 to the vocabulary.</summary>
    public int TopK { get; init; } = LayerSkip.Lens.options.TopK;

    /// <summary>The layers to tell of, from 1; null is all. The last one always is told of.</summary>
    public IReadOnlyList<int>? Layers { get; init; }

    /// <summary>Whether the logits after every layer at the last position are told too.</summary>
    public bool Logits { get; init; } = LayerSkip.Lens.options.Logits;

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}
