using System.Text;

namespace LayerSkip.CSharp;

/// <summary>What a run of training has come to, as it goes on: a <see cref="TrainStep"/>, <see cref="TrainValidation"/>, <see cref="TrainProbe"/> or <see cref="TrainCheckpoint"/>.</summary>
public abstract record TrainProgress
{
    private protected TrainProgress()
    {
    }

    /// <summary>The step, counted from 1; 0 is the model as it was.</summary>
    public int Step { get; init; }

    /// <summary>The steps of the run.</summary>
    public int StepCount { get; init; }
}

/// <summary>A step is made.</summary>
public sealed record TrainStep : TrainProgress
{
    /// <summary>In nats a token; null where there was nothing to learn.</summary>
    public double? Loss { get; init; }

    /// <summary>Mean cross entropy in nats of the exits that learned, by layer from 1.</summary>
    public IReadOnlyDictionary<int, double> CrossEntropy { get; init; } = new Dictionary<int, double>();

    /// <summary>Each layer's share of the loss, the first layer's first.</summary>
    public IReadOnlyList<double> Shares { get; init; } = [];

    /// <summary>The learning rate.</summary>
    public double LearningRate { get; init; }

    /// <summary>Of all gradients together, before clipping.</summary>
    public double GradientNorm { get; init; }

    /// <summary>Tokens that were read.</summary>
    public long TokenCount { get; init; }

    /// <summary>By layer, the share of samples that went through it; none where nothing is dropped.</summary>
    public IReadOnlyList<double> KeptShares { get; init; } = [];

    /// <summary>Whether the loss jumped.</summary>
    public bool IsSpike { get; init; }

    /// <summary>How long it took.</summary>
    public TimeSpan Elapsed { get; init; }

    /// <summary>Its members, the first of each list.</summary>
    protected override bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>The validation texts were graded.</summary>
public sealed record TrainValidation : TrainProgress
{
    /// <summary>Mean cross entropy in nats of each exit, the first layer's first; the last is the whole model's.</summary>
    public required IReadOnlyList<double> CrossEntropy { get; init; }

    /// <summary>Its members, the first of each list.</summary>
    protected override bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>The decoder drafted with some exits.</summary>
public sealed record TrainProbe : TrainProgress
{
    /// <summary>The share of drafts that were accepted, by exit layer.</summary>
    public required IReadOnlyDictionary<int, double> AcceptanceRates { get; init; }

    /// <summary>Its members, the first of each list.</summary>
    protected override bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>A checkpoint was written.</summary>
public sealed record TrainCheckpoint : TrainProgress
{
    /// <summary>Where it is.</summary>
    public required string Folder { get; init; }
}

/// <summary>A finished run.</summary>
public sealed record TrainResult
{
    /// <summary>The folder of the run, which is that of the finished model too.</summary>
    public required string Folder { get; init; }

    /// <summary>The steps of the run.</summary>
    public int StepCount { get; init; }

    /// <summary>The last step's, in nats a token; null where it had nothing to learn.</summary>
    public double? Loss { get; init; }

    /// <summary>The latest validation of this call, or of the run where it was finished before: mean cross entropy in nats of each exit, the first layer's first; null where there was none.</summary>
    public IReadOnlyList<double>? ValidationCrossEntropy { get; init; }

    /// <summary>What the conversations come to that the run learns from; null where there are none.</summary>
    public TrainConversations? Conversations { get; init; }

    /// <summary>What the user should know: sentences.</summary>
    public IReadOnlyList<string> Remarks { get; init; } = [];

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>Conversations of which the assistant's answers are learned.</summary>
public sealed record TrainConversations
{
    /// <summary>How many there are, without those that are held out.</summary>
    public int Count { get; init; }

    /// <summary>The sequences that they became: more, where the chat template tells earlier turns otherwise later on.</summary>
    public int SampleCount { get; init; }

    /// <summary>Those that are longer than a sample, and cut.</summary>
    public int CutCount { get; init; }

    /// <summary>Tokens of the assistant's answers.</summary>
    public long AnswerTokenCount { get; init; }

    /// <summary>Those of them that are learned: the others were cut off.</summary>
    public long LearnedTokenCount { get; init; }
}
