using System.Text;

namespace LayerSkip.CSharp;

/// <summary>The paper's recipes, and ours: where dropout, curriculum and targets begin (LayerSkip, table 9).</summary>
public enum TrainRecipe
{
    /// <summary><see cref="Continual"/>, and of a new model <see cref="Scratch"/>.</summary>
    Auto,

    /// <summary>Plain training: no dropout, no early exit learns.</summary>
    Plain,

    /// <summary>The paper's for a model that goes on to be trained.</summary>
    Continual,

    /// <summary>The paper's for a new model.</summary>
    Scratch,

    /// <summary>The paper's for code.</summary>
    Code,

    /// <summary>The paper's for a task.</summary>
    FineTune,

    /// <summary>The first third of exits in two groups, and no dropout: beyond the paper.</summary>
    Emphasis,

    /// <summary>The same exits, which learn from the last layer and not from the text.</summary>
    SelfDistillation,
}

/// <summary>How texts become samples of one length.</summary>
public enum SampleLayout
{
    /// <summary>Windows over all texts, but each pair of a prompt and a response, and each conversation, alone.</summary>
    Auto,

    /// <summary>Windows over all texts, one after another: no place is wasted. Not for conversations.</summary>
    Packed,

    /// <summary>Each text alone, cut to the length.</summary>
    Each,
}

/// <summary>What a run does where its loss jumps. A loss that is no number moves nothing, whatever the rule.</summary>
public enum SpikeHandling
{
    /// <summary>Ends after several jumps in a row.</summary>
    Stop,

    /// <summary>Leaves the step's update out; ends after several in a row.</summary>
    Skip,

    /// <summary>Says so and goes on.</summary>
    Warn,
}

/// <summary>A run of training: its model, its data, and how it learns. What is null is as the command line has it.</summary>
public sealed record TrainOptions
{
    /// <summary>The model that goes on to learn, a Hugging Face folder or a .gguf file; or else <see cref="NewModel"/>.</summary>
    public string? Model { get; init; }

    /// <summary>A model from scratch; or else <see cref="Model"/>.</summary>
    public NewModel? NewModel { get; init; }

    /// <summary>What it learns, and what it is validated on.</summary>
    public TrainData Data { get; init; } = new();

    /// <summary>Where dropout, curriculum and targets begin.</summary>
    public TrainRecipe Recipe { get; init; }

    /// <summary>Layer dropout; null: the recipe's.</summary>
    public DropoutSchedule? Dropout { get; init; }

    /// <summary>Which exits learn, when, and how much; null: the recipe's.</summary>
    public ExitLossCurriculum? Curriculum { get; init; }

    /// <summary>How much early exits learn from the text; null: the recipe's.</summary>
    public double? LabelWeight { get; init; }

    /// <summary>How much early exits learn from the last layer (self-distillation); null: the recipe's.</summary>
    public double? LastLayerWeight { get; init; }

    /// <summary>Updates of the weights, over the whole run.</summary>
    public int Steps { get; init; } = Usual.Steps;

    /// <summary>Samples of one batch.</summary>
    public int BatchSize { get; init; } = Usual.BatchSize;

    /// <summary>Batches of a step.</summary>
    public int AccumulatedBatches { get; init; } = Usual.Accumulate;

    /// <summary>Tokens of a sample; null: 256, or the model's context where that is less.</summary>
    public int? SequenceLength { get; init; }

    /// <summary>How texts become samples.</summary>
    public SampleLayout Layout { get; init; }

    /// <summary>The highest learning rate; null: 0.0003, and of a new model 0.001.</summary>
    public double? LearningRate { get; init; }

    /// <summary>Steps until the highest rate; null: 50, or a quarter of the steps where that is less.</summary>
    public int? WarmupSteps { get; init; }

    /// <summary>Where the learning rate ends, as a share of the highest; 1 is a constant rate.</summary>
    public double LearningRateFloor { get; init; } = Usual.Rate.Floor;

    /// <summary>AdamW's decay of matrices.</summary>
    public double WeightDecay { get; init; } = Usual.Adam.WeightDecay;

    /// <summary>AdamW's decay of first moments.</summary>
    public double Beta1 { get; init; } = Usual.Adam.Beta1;

    /// <summary>AdamW's decay of second moments.</summary>
    public double Beta2 { get; init; } = Usual.Adam.Beta2;

    /// <summary>AdamW's epsilon.</summary>
    public double Epsilon { get; init; } = Usual.Adam.Epsilon;

    /// <summary>The longest gradient of a step; 0: any.</summary>
    public double GradientClipNorm { get; init; } = Usual.ClipNorm;

    /// <summary>What a run does where its loss jumps.</summary>
    public SpikeHandling OnSpike { get; init; }

    /// <summary>Runs each layer once more for its gradients, which takes less memory and more time.</summary>
    public bool Recompute { get; init; }

    /// <summary>What the passes compute in; <see cref="Dtype.Auto"/>: float32, on CUDA bfloat16.</summary>
    public Dtype Precision { get; init; }

    /// <summary>Of layer dropout, the order of samples, the texts that are held out, and a new model's weights.</summary>
    public long Seed { get; init; }

    /// <summary>Validates every so many steps, and after the last; 0: never.</summary>
    public int ValidateEvery { get; init; } = Usual.ValidateEvery;

    /// <summary>Tokens that a validation grades.</summary>
    public int ValidationTokenCount { get; init; } = Usual.ValidationTokens;

    /// <summary>Every so many steps the decoder drafts with <see cref="ProbeExitLayers"/>; null: when it validates; 0: never.</summary>
    public int? ProbeEvery { get; init; }

    /// <summary>The exits that probes draft with; null: the one that the model will recommend.</summary>
    public IReadOnlyList<int>? ProbeExitLayers { get; init; }

    /// <summary>Steps from one checkpoint to the next; the last step has one always.</summary>
    public int SaveEvery { get; init; } = Usual.SaveEvery;

    /// <summary>The latest checkpoints that stay.</summary>
    public int CheckpointsKept { get; init; } = Usual.Keep;

    /// <summary>The exit layer that the model will recommend; null: as the model that learns does.</summary>
    public int? ExitLayer { get; init; }

    /// <summary>The draft length that the model will recommend, with <see cref="ExitLayer"/>; null: 4, or as the model does.</summary>
    public int? DraftLength { get; init; }

    /// <summary>What computes.</summary>
    public Device Device { get; init; }

    /// <summary>Threads for the products of the whole process; null leaves them as they are.</summary>
    public int? Threads { get; init; }

    private static TrainingOptions Usual => TranslateTraining.Usual;

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>Texts to learn from, and to validate on.</summary>
public sealed record TrainData
{
    /// <summary>
    /// Files of text, parted by "&lt;|endoftext|&gt;", .jsonl files of "text", of "prompt" and "response", or of "messages", whose assistant's
    /// answers are learned by the model's own chat template, and files of tokens.
    /// </summary>
    public IReadOnlyList<string> Files { get; init; } = [];

    /// <summary>Texts, after those of the files.</summary>
    public IReadOnlyList<string> Texts { get; init; } = [];

    /// <summary>Prompts that are read and responses that are learned, after the texts.</summary>
    public IReadOnlyList<PromptAndResponse> Pairs { get; init; } = [];

    /// <summary>Files to validate on; none: a share of the texts, which are then not learned.</summary>
    public IReadOnlyList<string> ValidationFiles { get; init; } = [];

    /// <summary>The share of the texts that is validated on where no files are, 0 or more and below 1.</summary>
    public double ValidationShare { get; init; } = TrainingDataModule.defaultShare;

    /// <summary>Whether the beginning-of-text token that the tokenizer puts before a prompt goes before each text too.</summary>
    public bool AddsBos { get; init; } = true;

    /// <summary>Whether the end-of-text token goes after each text.</summary>
    public bool AddsEos { get; init; } = true;

    /// <summary>Whether special tokens that stand in the texts are read as such; else they are characters.</summary>
    public bool ParsesSpecial { get; init; } = true;

    /// <summary>Files to learn from.</summary>
    public static TrainData FromFiles(params IEnumerable<string> files)
    {
        ArgumentNullException.ThrowIfNull(files);
        return new() { Files = [.. files] };
    }

    /// <summary>Texts to learn from.</summary>
    public static TrainData FromTexts(params IEnumerable<string> texts)
    {
        ArgumentNullException.ThrowIfNull(texts);
        return new() { Texts = [.. texts] };
    }

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>A prompt that is read, and a response that is learned.</summary>
public readonly record struct PromptAndResponse
{
    /// <summary>What is read only.</summary>
    public required string Prompt { get; init; }

    /// <summary>What is learned.</summary>
    public required string Response { get; init; }
}

/// <summary>A Llama from scratch.</summary>
public sealed record NewModel
{
    /// <summary>The folder of its tokenizer.</summary>
    public required string TokenizerFolder { get; init; }

    /// <summary>The number of layers.</summary>
    public required int LayerCount { get; init; }

    /// <summary>The width of the states between layers: a multiple of twice <see cref="HeadCount"/>.</summary>
    public required int HiddenSize { get; init; }

    /// <summary>Heads of attention.</summary>
    public required int HeadCount { get; init; }

    /// <summary>Heads of keys and values, a divisor of <see cref="HeadCount"/>; null: as many.</summary>
    public int? KeyValueHeadCount { get; init; }

    /// <summary>The width of the MLP; null: four times <see cref="HiddenSize"/>.</summary>
    public int? IntermediateSize { get; init; }

    /// <summary>The most tokens of a text.</summary>
    public int ContextLength { get; init; } = 2048;

    /// <summary>Whether the head is the embedding.</summary>
    public bool TiedHead { get; init; } = true;
}
