using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;
using static LayerSkip.CSharp.Translate;

namespace LayerSkip.CSharp;

/// <summary>From this assembly's options of generating to the F# library's.</summary>
internal static class TranslateOptions
{
    /// <summary>
    /// The library's options, and the faults of the caller's. What is at fault has a sound value in its place, so that the
    /// library finds the other faults too.
    /// </summary>
    public static GivenOptions Options(
        Checkpoint checkpoint,
        GenerateOptions options,
        Func<int?, FSharpResult<Adapter, FSharpList<LayerSkipError>>> adapters,
        GrammarConstraints formats)
    {
        if (options.StopTexts.Any(text => text is null))
        {
            throw new ArgumentException($"{nameof(GenerateOptions.StopTexts)} has a null among its texts", nameof(options));
        }

        var sampling = SamplingModule.createWith(options.MinP, options.Temperature, options.TopK, options.TopP);
        var law = sampling.IsOk ? sampling.ResultValue : Sampling.Greedy;
        FSharpResult<StopRuleKind, FSharpList<LayerSkipError>>? rule = options.StopRule switch
        {
            null => null,
            { Custom: not null } => FSharpResult<StopRuleKind, FSharpList<LayerSkipError>>.NewOk(StopRuleKind.Never),
            { Text: var name } => StopRuleModule.tryParse(name),
        };
        var drafting = Drafting(options, rule is { IsOk: true } ? rule.Value.ResultValue : null);
        var decided = Decided(checkpoint, law, options, drafting, adapters);

        int[] stopIds = [.. options.StopTokenIds ?? (options.IgnoreEos ? [] : checkpoint.StopIds)];
        var form = options.ResponseFormat?.Constraint(formats, stopIds);
        TokenRules rules = new(
            repetitionPenalty: options.RepetitionPenalty,
            presencePenalty: options.PresencePenalty,
            frequencyPenalty: options.FrequencyPenalty,
            logitBias: ListModule.OfSeq(options.LogitBias.Select(bias => Tuple.Create(bias.Key, bias.Value))),
            constraint: form is { IsOk: true } ? Some(form.Value.ResultValue) : null);
        return new()
        {
            Strategy = decided.Strategy,
            Measured = decided.Measured,
            Faults =
            [
                .. Check.faults(sampling),
                .. rule is { } read ? Check.faults(read) : [],
                .. form is { } started ? Check.faults(started) : [],
                .. decided.Faults,
            ],
            With = strategy => new(
                strategy: strategy,
                sampling: law,
                rules: rules,
                maxNewTokens: options.MaxNewTokens,
                stopIds: stopIds,
                stopTexts: ListModule.OfSeq(options.StopTexts),
                showSpecial: options.ShowSpecial,
                seed: options.Seed,
                logProbs: Optional(options.LogProbs),
                promptLogProbs: Optional(options.PromptLogProbs)),
        };
    }

    /// <summary>What the library decides of a drafting; with every fault of it.</summary>
    public static FSharpResult<DraftingPlan, FSharpList<LayerSkipError>> Plan(
        Checkpoint checkpoint,
        Sampling sampling,
        DraftingOptions drafting,
        Func<int?, FSharpResult<Adapter, FSharpList<LayerSkipError>>> adapters) =>
        LayerSkip.Drafting.decideWith(Loaded(adapters), sampling, checkpoint, drafting);

    /// <summary>What the options say of drafting; a rule that is a function is named by <paramref name="rule"/>.</summary>
    public static DraftingOptions Drafting(GenerateOptions options, StopRuleKind? rule) =>
        new(
            drafter: Optional(options.Drafter?.Kind),
            policy: Optional(options.Policy?.Kind),
            stopRule: Optional(rule),
            exitLayer: Optional(options.ExitLayer),
            draftLength: Optional(options.DraftLength),
            draftVocabulary: Optional(options.DraftVocabulary?.Text),
            layersKept: Optional(options.LayersKept is { } layers ? string.Join(',', layers) : null),
            past: null,
            acceptance: Optional(options.Acceptance?.Rule));

    private static DecidedStrategy Decided(
        Checkpoint checkpoint,
        Sampling sampling,
        GenerateOptions options,
        DraftingOptions drafting,
        Func<int?, FSharpResult<Adapter, FSharpList<LayerSkipError>>> adapters)
    {
        var kind = Kind(options.Strategy);
        if (TranslateFunctions.Has(options) && kind is null or { Value.IsSelfSpeculative: true })
        {
            return TranslateFunctions.Strategy(checkpoint, sampling, options, drafting, adapters);
        }

        var planned = StrategyChoiceModule.planWith(Loaded(adapters), sampling, checkpoint, new(kind, drafting));
        IReadOnlyList<LayerSkipError> faults =
        [
            .. Check.faults(planned).Select(error => TranslateFunctions.Renamed(options.StopRule, error)),
            .. kind is { Value: var named } ? StrategyKindModule.exclusions(named, TranslateFunctions.Given(options)) : [],
        ];
        return faults is [] ? Planned(checkpoint, planned.ResultValue) : new(LayerSkip.Strategy.Autoregressive, faults);
    }

    /// <summary>Auto is None.</summary>
    private static FSharpOption<StrategyKind>? Kind(Strategy strategy) =>
        strategy switch
        {
            Strategy.Auto => null,
            Strategy.Autoregressive => Some(StrategyKind.Autoregressive),
            Strategy.EarlyExit => Some(StrategyKind.EarlyExit),
            Strategy.SelfSpeculative => Some(StrategyKind.SelfSpeculative),
            _ => throw Undefined(nameof(GenerateOptions.Strategy), strategy),
        };

    private static DecidedStrategy Planned(Checkpoint checkpoint, StrategyPlan planned)
    {
        if (planned is not StrategyPlan.SelfSpeculative { Item: var plan } || !LayerSkip.Drafting.asksCosts(plan))
        {
            return new(StrategyPlanModule.strategy(checkpoint, planned), []);
        }

        // Passes are timed where no text is in the way, and options are checked before.
        var guessed = FuncConvert.FromFunc(() => PassCostsModule.ofShares(checkpoint.Config.Layers, 1, 1));
        return new(LayerSkip.Drafting.strategyWith(guessed, checkpoint, plan), [])
        {
            Measured = () => LayerSkip.Drafting.strategy(checkpoint, plan),
        };
    }

    private static FSharpFunc<FSharpOption<int>?, FSharpResult<Adapter, FSharpList<LayerSkipError>>> Loaded(
        Func<int?, FSharpResult<Adapter, FSharpList<LayerSkipError>>> adapters) =>
        FuncConvert.FromFunc<FSharpOption<int>?, FSharpResult<Adapter, FSharpList<LayerSkipError>>>(exit => adapters(exit?.Value));
}

/// <summary>How a text is written, and what is at fault in what was asked for.</summary>
internal sealed record DecidedStrategy(LayerSkip.Strategy Strategy, IEnumerable<LayerSkipError> Faults)
{
    /// <summary>The strategy by what the model's passes take, which is measured when it is first asked; null where it measures nothing.</summary>
    public Func<LayerSkip.Strategy>? Measured { get; init; }
}

/// <summary>The library's options but for their strategy, and what is at fault in the caller's.</summary>
internal sealed record GivenOptions
{
    /// <summary>A strategy to check the options with, and the one to take where <see cref="Measured"/> is null.</summary>
    public required LayerSkip.Strategy Strategy { get; init; }

    public Func<LayerSkip.Strategy>? Measured { get; init; }

    public required Func<LayerSkip.Strategy, GenerationOptions> With { get; init; }

    public required IReadOnlyList<LayerSkipError> Faults { get; init; }
}
