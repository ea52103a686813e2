using System.Collections.Immutable;
using System.Globalization;

namespace LayerSkip.CSharp;

/// <summary>Who proposes the tokens of <see cref="Strategy.SelfSpeculative"/>. Whoever does, the greedy text is the whole model's.</summary>
public sealed record Drafter
{
    private readonly string name;

    private Drafter(string name, DrafterKind? kind, Func<DraftContext, IReadOnlyList<int>>? custom)
    {
        this.name = name;
        Kind = kind;
        Custom = custom;
    }

    /// <summary>The layers up to an exit.</summary>
    public static Drafter Exit { get; } = new(nameof(Exit), DrafterKind.Exit, null);

    /// <summary>The text itself: what followed where it said the same before.</summary>
    public static Drafter Lookup { get; } = new(nameof(Lookup), DrafterKind.Lookup, null);

    /// <summary>The layers up to an exit and the adapter that was trained for it.</summary>
    public static Drafter Adapter { get; } = new(nameof(Adapter), DrafterKind.Adapter, null);

    /// <summary>Lookup where it promises more, else an exit.</summary>
    public static Drafter Cascade { get; } = new(nameof(Cascade), DrafterKind.Cascade, null);

    /// <summary>Some of the layers, while the others are left out: for a model that was not trained for exits.</summary>
    public static Drafter Layers { get; } = new(nameof(Layers), DrafterKind.Layers, null);

    internal DrafterKind? Kind { get; }

    internal Func<DraftContext, IReadOnlyList<int>>? Custom { get; }

    /// <summary>
    /// A function of the text so far: the tokens that it proposes to follow, perhaps none. It runs on the model's thread, between passes;
    /// what it throws ends the text that asked for it.
    /// </summary>
    public static Drafter From(Func<DraftContext, IReadOnlyList<int>> propose)
    {
        ArgumentNullException.ThrowIfNull(propose);
        return new(nameof(From), null, propose);
    }

    /// <summary>Its name.</summary>
    public override string ToString() => name;
}

/// <summary>What a drafter of a caller's own is asked.</summary>
public readonly record struct DraftContext
{
    /// <summary>The prompt and the new tokens; good until the drafter returns.</summary>
    public ReadOnlyMemory<int> TokenIds { get; init; }

    /// <summary>The most tokens to propose; what is more is left out.</summary>
    public int MaxTokens { get; init; }
}

/// <summary>What decides how each round drafts. Whatever it decides, the greedy text is the whole model's.</summary>
public sealed record DraftPolicy
{
    private readonly string name;

    private DraftPolicy(string name, DraftPolicyKind? kind, Func<int, LayerSkip.DraftPolicy>? custom)
    {
        this.name = name;
        Kind = kind;
        Custom = custom;
    }

    /// <summary>The same exit layer and draft length each time; a stop rule may end a draft sooner.</summary>
    public static DraftPolicy Static { get; } = new(nameof(Static), DraftPolicyKind.Static, null);

    /// <summary>
    /// What pays: exits and lookup, token by token, or nothing. What a model's passes take is measured before its first text, in about
    /// 0.3 s, and remembered. What it drafts depends on time: with a temperature, one seed may draw another text.
    /// </summary>
    public static DraftPolicy Auto { get; } = new(nameof(Auto), DraftPolicyKind.Auto, null);

    /// <summary>DEL's choice of exit layer and length (arXiv 2504.05598), for comparison.</summary>
    public static DraftPolicy Del { get; } = new(nameof(Del), DraftPolicyKind.Del, null);

    internal DraftPolicyKind? Kind { get; }

    /// <summary>The policy for a model of so many layers.</summary>
    internal Func<int, LayerSkip.DraftPolicy>? Custom { get; }

    /// <summary>A function of the rounds so far, the first one first: how the next one drafts.</summary>
    public static DraftPolicy From(Func<IReadOnlyList<DraftRound>, DraftPlan> plan)
    {
        ArgumentNullException.ThrowIfNull(plan);
        return From(ImmutableList<DraftRound>.Empty, rounds => plan(rounds), (rounds, round) => rounds.Add(round));
    }

    /// <summary>
    /// A state, what it plans for the next round, and what it becomes after one. Each text begins with <paramref name="start"/>; states
    /// are values, and are not to be changed. The functions run on the model's thread, between passes; what they throw ends the text
    /// that asked for it.
    /// </summary>
    public static DraftPolicy From<TState>(
        TState start, Func<TState, DraftPlan> plan, Func<TState, DraftRound, TState> learn)
    {
        ArgumentNullException.ThrowIfNull(plan);
        ArgumentNullException.ThrowIfNull(learn);
        return new(nameof(From), null, layers => CustomDrafting.Policy(layers, start, plan, learn));
    }

    /// <summary>Its name.</summary>
    public override string ToString() => name;
}

/// <summary>How a round drafts.</summary>
public readonly record struct DraftPlan
{
    /// <summary>The layer after which drafts leave, 1 to the model's layers - 1.</summary>
    public required int ExitLayer { get; init; }

    /// <summary>The most tokens to draft; 0 is a plain step.</summary>
    public required int DraftLength { get; init; }

    /// <summary>A draft of less probability than this is the round's last; 0: none is.</summary>
    public double StopBelow { get; init; }
}

/// <summary>A round, as a policy of a caller's own sees it.</summary>
public readonly record struct DraftRound
{
    /// <summary>Tokens drafted; 0 is a plain step.</summary>
    public int Drafted { get; init; }

    /// <summary>Drafted tokens that the whole model kept.</summary>
    public int Accepted { get; init; }

    /// <summary>How long it took.</summary>
    public TimeSpan Elapsed { get; init; }
}

/// <summary>A token of a draft that is being made.</summary>
public readonly record struct DraftedToken
{
    /// <summary>The token.</summary>
    public int Id { get; init; }

    /// <summary>The probability that its drafter gives it; null where it has none.</summary>
    public double? Probability { get; init; }

    /// <summary>The entropy of its law in nats; null where it was not looked at.</summary>
    public double? Entropy { get; init; }
}

/// <summary>What ends a draft before its length does. Whatever it ends, the greedy text is the whole model's.</summary>
public sealed record StopRule
{
    private StopRule(string text, Func<IReadOnlyList<DraftedToken>, bool>? custom = null, bool readsEntropy = false)
    {
        Text = text;
        Custom = custom;
        ReadsEntropy = readsEntropy;
    }

    /// <summary>Nothing does.</summary>
    public static StopRule Never { get; } = new("never");

    /// <summary>A threshold of confidence that follows how much is kept (Draft &amp; Verify, arXiv 2309.08168).</summary>
    public static StopRule DraftVerify { get; } = new("draft-verify");

    /// <summary>A bound from the entropy of drafts (AdaEDL, arXiv 2410.18351).</summary>
    public static StopRule AdaEdl { get; } = new("adaedl");

    /// <summary>DEL's threshold of confidence (arXiv 2504.05598).</summary>
    public static StopRule Del { get; } = new("del");

    /// <summary>What one more token is expected to bring against its time.</summary>
    public static StopRule Marginal { get; } = new("marginal");

    internal string Text { get; }

    internal Func<IReadOnlyList<DraftedToken>, bool>? Custom { get; }

    internal bool ReadsEntropy { get; }

    /// <summary>A draft of less probability than this is the last; above 0, at most 1.</summary>
    public static StopRule Confidence(double least) =>
        new(string.Create(CultureInfo.InvariantCulture, $"confidence:{least:R}"));

    /// <summary>
    /// A function of the drafts that a round has made, the first one first: whether the latest is the last. It runs on the model's thread,
    /// after each draft; what it throws ends the text that asked for it.
    /// </summary>
    /// <param name="isEnough">The function.</param>
    /// <param name="readsEntropy">Whether it looks at entropies, which takes time for each draft.</param>
    public static StopRule From(Func<IReadOnlyList<DraftedToken>, bool> isEnough, bool readsEntropy = false)
    {
        ArgumentNullException.ThrowIfNull(isEnough);
        return new("a function", isEnough, readsEntropy);
    }

    /// <summary>As the command spells it.</summary>
    public override string ToString() => Text;
}

/// <summary>The ids that drafts are chosen from, whose rows of the head alone are read.</summary>
public sealed record DraftVocabulary
{
    private DraftVocabulary(string text) => Text = text;

    /// <summary>All of them.</summary>
    public static DraftVocabulary All { get; } = new("all");

    /// <summary>A twelfth of them with those of the text and the likeliest ones, where the head costs enough.</summary>
    public static DraftVocabulary Auto { get; } = new("auto");

    internal string Text { get; }

    /// <summary>So many first ids, with those of the text and the likeliest ones; 1 or more.</summary>
    public static DraftVocabulary First(int count) => new(count.ToString(CultureInfo.InvariantCulture));

    /// <summary>The ids of a list in a text file, with those of the text and the likeliest ones.</summary>
    public static DraftVocabulary OfFile(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        return new(Path.GetFullPath(path));
    }

    /// <summary>As the command spells it.</summary>
    public override string ToString() => Text;
}
