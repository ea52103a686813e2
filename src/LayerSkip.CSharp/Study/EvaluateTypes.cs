using System.Text;

namespace LayerSkip.CSharp;

/// <summary>What an evaluation takes; what its task has no use for is refused. The defaults are those of the command line.</summary>
public sealed record EvaluateOptions
{
    /// <summary>The exit layers, 1 to L, where L is the whole model; none: what the task takes by itself.</summary>
    public IReadOnlyList<int> ExitLayers { get; init; } = [];

    /// <summary>The most items; null: all.</summary>
    public int? Limit { get; init; }

    /// <summary>Of examples and samples.</summary>
    public long Seed { get; init; }

    /// <summary>Examples with their answers before each question; null: as many as the task takes by itself.</summary>
    public int? Shots { get; init; }

    /// <summary>The file that examples are drawn from; null: the other items.</summary>
    public string? ShotsFrom { get; init; }

    /// <summary>Leaves the beginning-of-text token out, though the tokenizer puts one before each text.</summary>
    public bool NoBos { get; init; }

    /// <summary>Of perplexity: whether the texts between separators are items, each on its own; otherwise windows of a file's whole text are.</summary>
    public bool Documents { get; init; }

    /// <summary>Of perplexity: the most tokens that an item reads; null: 512 for windows, the context for documents.</summary>
    public int? Window { get; init; }

    /// <summary>Of perplexity: of each file the first so many characters; null: all.</summary>
    public int? MaxChars { get; init; }

    /// <summary>Of generated answers: the most new tokens; null: what those who published the task took.</summary>
    public int? MaxNewTokens { get; init; }

    /// <summary>The file of the run, in JSON lines, with which an evaluation that was ended goes on; null: none.</summary>
    public string? RunFile { get; init; }

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>What an evaluation came to.</summary>
public sealed record EvaluateResult
{
    /// <summary>The task: "perplexity".</summary>
    public required string Task { get; init; }

    /// <summary>Items that are scored.</summary>
    public int ItemCount { get; init; }

    /// <summary>The exit layers in ascending order; the last layer is the whole model.</summary>
    public required IReadOnlyList<EvaluateExit> Exits { get; init; }

    /// <summary>What guessing is worth, in the unit of the first metric; null where that is not known.</summary>
    public double? Chance { get; init; }

    /// <summary>What a reader of the numbers should know: sentences.</summary>
    public IReadOnlyList<string> Remarks { get; init; } = [];

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>The numbers of an exit layer.</summary>
public sealed record EvaluateExit
{
    /// <summary>The layer.</summary>
    public int Layer { get; init; }

    /// <summary>Its metrics by name: "cross_entropy", "acc_norm".</summary>
    public required IReadOnlyDictionary<string, Estimate> Metrics { get; init; }

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}
