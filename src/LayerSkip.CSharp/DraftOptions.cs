using System.Globalization;

namespace LayerSkip.CSharp;

/// <summary>Who proposes the tokens of <see cref="Strategy.SelfSpeculative"/>.</summary>
public enum Drafter
{
    /// <summary>The layers up to an exit.</summary>
    Exit,

    /// <summary>The text itself: what followed where it said the same before.</summary>
    Lookup,

    /// <summary>The layers up to an exit and the adapter that was trained for it.</summary>
    Adapter,

    /// <summary>Lookup where it promises more, else an exit.</summary>
    Cascade,

    /// <summary>Some of the layers, while the others are left out: for a model that was not trained for exits.</summary>
    Layers,
}

/// <summary>What decides how each round drafts.</summary>
public enum DraftPolicy
{
    /// <summary>The same exit layer and draft length each time; a stop rule may end a draft sooner.</summary>
    Static,

    /// <summary>
    /// What pays: exits and lookup, token by token, or nothing. What a model's passes take is measured before its first text, in about
    /// 0.3 s, and remembered. What it drafts depends on time: with a temperature, one seed may draw another text.
    /// </summary>
    Auto,

    /// <summary>DEL's choice of exit layer and length (arXiv 2504.05598), for comparison.</summary>
    Del,
}

/// <summary>What ends a draft before its length does.</summary>
public sealed record StopRule
{
    private StopRule(string text) => Text = text;

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

    /// <summary>A draft of less probability than this is the last; above 0, at most 1.</summary>
    public static StopRule Confidence(double least) =>
        new(string.Create(CultureInfo.InvariantCulture, $"confidence:{least:R}"));

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
