using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

/// <summary>
/// Which drafted tokens are kept. A round keeps those before the first that its rule refuses, in whose place the whole model has the word.
/// What <see cref="Exact"/> and rules that keep less write is the whole model's text (<see cref="IsLossless"/>); rules whose names begin with
/// Lossy keep more, and write another text: <see cref="GenerateResult.IsLossless"/> says so of each.
/// Rules are values: <see cref="And"/>, <see cref="Or"/> and <see cref="When"/> make others of them.
/// </summary>
public sealed record AcceptanceRule
{
    private AcceptanceRule(LayerSkip.AcceptanceRule rule) => Rule = rule;

    /// <summary>What the whole model would have written itself; sampled texts keep its law (speculative sampling, arXiv 2211.17192).</summary>
    public static AcceptanceRule Exact { get; } = new(AcceptanceRuleModule.exact);

    /// <summary>Lossy: keeps every draft. The text is the drafter's, but for a token of the whole model's after each round.</summary>
    public static AcceptanceRule LossyAlways { get; } = new(AcceptanceRuleModule.lossyAlways);

    /// <summary>Whether the text stays the whole model's.</summary>
    public bool IsLossless => Rule.IsLossless;

    internal LayerSkip.AcceptanceRule Rule { get; }

    /// <summary>Lossy: keeps the whole model's <paramref name="count"/> most probable tokens, 1 or more.</summary>
    public static AcceptanceRule LossyTopK(int count) => new(AcceptanceRuleModule.lossyTopK(count));

    /// <summary>
    /// Lossy: keeps what is at least <paramref name="share"/> times as probable as the whole model's most probable token, above 0 and at most 1.
    /// </summary>
    public static AcceptanceRule LossyRatio(double share) => new(AcceptanceRuleModule.lossyRatio(share));

    /// <summary>
    /// Lossy: typical acceptance (Medusa, arXiv 2401.10774), which keeps what is more probable than the lesser of <paramref name="most"/> and
    /// <paramref name="share"/> exp(-H), where H is the entropy of the whole model's law in nats.
    /// </summary>
    /// <param name="most">Above 0 and below 1.</param>
    /// <param name="share">Above 0.</param>
    public static AcceptanceRule LossyTypical(double most = 0.09, double share = 0.3) =>
        new(AcceptanceRuleModule.lossyTypical(most, share));

    /// <summary>
    /// Lossy: keeps what a function says. It runs on the model's thread, after each verification; what it throws ends the text that asked
    /// for it. One that only refuses more than another rule does belongs to <see cref="When"/>, which loses nothing.
    /// </summary>
    public static AcceptanceRule Lossy(Func<JudgedDraft, bool> keeps)
    {
        ArgumentNullException.ThrowIfNull(keeps);
        return new(AcceptanceRuleModule.lossy("a function", Shown(keeps)));
    }

    /// <summary>Keeps what both keep: lossless if one of them is. The other is asked of what this one keeps.</summary>
    public AcceptanceRule And(AcceptanceRule other)
    {
        ArgumentNullException.ThrowIfNull(other);
        return new(AcceptanceRuleModule.both(Rule, other.Rule));
    }

    /// <summary>Keeps what either keeps: lossless if both are. The other is asked of what this one refuses.</summary>
    public AcceptanceRule Or(AcceptanceRule other)
    {
        ArgumentNullException.ThrowIfNull(other);
        return new(AcceptanceRuleModule.either(Rule, other.Rule));
    }

    /// <summary>Keeps what this rule keeps and a function agrees to: as lossless as this one, with rounds that end sooner.</summary>
    public AcceptanceRule When(Func<JudgedDraft, bool> condition)
    {
        ArgumentNullException.ThrowIfNull(condition);
        return new(AcceptanceRuleModule.onlyIf(Shown(condition), Rule));
    }

    /// <summary>Its name, which says where it is lossy: "exact", "lossy top-k:2", "exact and a condition".</summary>
    public override string ToString() => Rule.Name;

    private static FSharpFunc<LayerSkip.JudgedDraft, bool> Shown(Func<JudgedDraft, bool> answer) =>
        FuncConvert.FromFunc<LayerSkip.JudgedDraft, bool>(draft => answer(new(draft)));
}

/// <summary>A drafted token and what the whole model says in its place.</summary>
public sealed record JudgedDraft
{
    private readonly Lazy<double[]> law;

    /// <summary>One of a test's own.</summary>
    public JudgedDraft() => law = new([]);

    internal JudgedDraft(LayerSkip.JudgedDraft judged)
    {
        Draft = CustomDrafting.Shown(judged.Draft);
        Place = judged.Place;
        Position = judged.Position;
        IsExact = judged.IsExact;
        law = judged.Law;
    }

    /// <summary>The token, and what its drafter says of it.</summary>
    public DraftedToken Draft { get; init; }

    /// <summary>Its place among the drafts of its round, from 0.</summary>
    public int Place { get; init; }

    /// <summary>Where it would stand in the text, from 0; the prompt counts.</summary>
    public int Position { get; init; }

    /// <summary>Whether <see cref="AcceptanceRule.Exact"/> keeps it.</summary>
    public bool IsExact { get; init; }

    /// <summary>
    /// The whole model's probabilities of all tokens there, by id: with rules, temperature and filters; at temperature 0 those of temperature 1.
    /// They are worked out when a rule first asks, which has to be while it runs.
    /// </summary>
    public ReadOnlyMemory<double> Law
    {
        get => law.Value;
        init => law = new(value.ToArray());
    }

    /// <summary>The whole model's probability of the token.</summary>
    public double Probability => law.Value[Draft.Id];

    /// <summary>The entropy of <see cref="Law"/> in nats.</summary>
    public double Entropy => SamplingModule.entropy(law.Value);

    /// <summary>The whole model's so many most probable tokens, the most probable first; of equal ones the lower ids.</summary>
    public IReadOnlyList<TokenLogProb> Likeliest(int count) =>
        [
            .. law.Value.Index()
                .OrderByDescending(token => token.Item)
                .ThenBy(token => token.Index)
                .Take(count)
                .Select(token => new TokenLogProb { Id = token.Index, LogProb = Math.Log(token.Item) }),
        ];
}
