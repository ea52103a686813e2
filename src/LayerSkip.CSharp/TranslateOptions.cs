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
        Func<ResponseFormat, int[], FSharpResult<GrammarState, FSharpList<LayerSkipError>>> formats)
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
        var decided = Decided(checkpoint, options, drafting) switch
        {
            Strategy.SelfSpeculative when TranslateFunctions.Has(options) =>
                TranslateFunctions.Strategy(checkpoint, law, options, drafting, adapters),
            Strategy.SelfSpeculative when options.Strategy == Strategy.SelfSpeculative =>
                Drafted(checkpoint, law, LayerSkip.Drafting.ofSelfSpeculative(drafting), adapters),
            Strategy.SelfSpeculative => Drafted(checkpoint, law, drafting, adapters),
            Strategy.EarlyExit => Plain(checkpoint, options, LayerSkip.Strategy.EarlyExit),
            _ => Plain(checkpoint, options, _ => LayerSkip.Strategy.Autoregressive),
        };

        int[] stopIds = [.. options.StopTokenIds ?? (options.IgnoreEos ? [] : checkpoint.StopIds)];
        FSharpResult<GrammarState, FSharpList<LayerSkipError>>? form =
            options.ResponseFormat is { } format ? formats(format, stopIds) : null;
        TokenRules rules = new(
            repetitionPenalty: options.RepetitionPenalty,
            presencePenalty: options.PresencePenalty,
            frequencyPenalty: options.FrequencyPenalty,
            logitBias: ListModule.OfSeq(options.LogitBias.Select(bias => Tuple.Create(bias.Key, bias.Value))),
            constraint: form is { IsOk: true } ? Some(GrammarConstraint.ofState(form.Value.ResultValue)) : null);
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
        LayerSkip.Drafting.decideWith(
            FuncConvert.FromFunc<FSharpOption<int>?, FSharpResult<Adapter, FSharpList<LayerSkipError>>>(
                exit => adapters(exit?.Value)),
            sampling,
            checkpoint,
            drafting);

    private static DraftingOptions Drafting(GenerateOptions options, StopRuleKind? rule) =>
        new(
            drafter: Optional(options.Drafter?.Kind),
            policy: Optional(options.Policy?.Kind),
            stopRule: Optional(rule),
            exitLayer: Optional(options.ExitLayer),
            draftLength: Optional(options.DraftLength),
            draftVocabulary: Optional(options.DraftVocabulary?.Text),
            layersKept: Optional(options.LayersKept is { } layers ? string.Join(',', layers) : null),
            past: null);

    /// <summary>A strategy that drafts; where the options are at fault, one that does not.</summary>
    private static DecidedStrategy Drafted(
        Checkpoint checkpoint,
        Sampling sampling,
        DraftingOptions drafting,
        Func<int?, FSharpResult<Adapter, FSharpList<LayerSkipError>>> adapters)
    {
        var decided = Plan(checkpoint, sampling, drafting, adapters);
        if (decided.IsError)
        {
            return new(LayerSkip.Strategy.Autoregressive, decided.ErrorValue);
        }

        var plan = decided.ResultValue;
        if (!plan.Policy.IsAuto && !plan.StopRule.IsMarginal)
        {
            return new(LayerSkip.Drafting.strategy(checkpoint, plan), []);
        }

        // Passes are timed where no text is in the way, and options are checked before.
        var guessed = FuncConvert.FromFunc(() => PassCostsModule.ofShares(checkpoint.Config.Layers, 1, 1));
        return new(LayerSkip.Drafting.strategyWith(guessed, checkpoint, plan), [])
        {
            Measured = () => LayerSkip.Drafting.strategy(checkpoint, plan),
        };
    }

    /// <summary>
    /// A strategy that drafts nothing. A wrong exit layer or draft length is an error even where it has no use for one; what says how to draft is
    /// one, whatever it says.
    /// </summary>
    private static DecidedStrategy Plain(
        Checkpoint checkpoint,
        GenerateOptions options,
        Func<ExitLayer, LayerSkip.Strategy> strategy)
    {
        var exitMatters = options.ExitLayer is not null || options.Strategy == Strategy.EarlyExit;
        var exit = ExitLayer.TryCreate(
            checkpoint.Config.Layers, options.ExitLayer ?? CheckpointModule.exitAndDraft(checkpoint).Item1);
        var nothing = $"where {options.Strategy} drafts nothing";
        IEnumerable<LayerSkipError> faults =
        [
            .. exitMatters ? Check.faults(exit) : [],
            .. Check.atLeast(1, "draft-length", options.DraftLength ?? 1),
            .. TranslateFunctions.LeftOut("drafter", options.Drafter, nothing),
            .. TranslateFunctions.LeftOut("policy", options.Policy, nothing),
            .. TranslateFunctions.LeftOut("stop-rule", options.StopRule, nothing),
            .. TranslateFunctions.LeftOut("draft-vocabulary", options.DraftVocabulary, nothing),
            .. TranslateFunctions.LeftOut("layers-kept", options.LayersKept, nothing),
        ];
        return new(exit.IsOk ? strategy(exit.ResultValue) : LayerSkip.Strategy.Autoregressive, faults);
    }

    private static Strategy Decided(Checkpoint checkpoint, GenerateOptions options, DraftingOptions drafting) =>
        options.Strategy switch
        {
            Strategy.Auto when TranslateFunctions.Has(options) => Strategy.SelfSpeculative,
            Strategy.Auto => LayerSkip.Drafting.isMeant(checkpoint, drafting) ? Strategy.SelfSpeculative : Strategy.Autoregressive,
            var chosen when Enum.IsDefined(chosen) => chosen,
            var unknown => throw Undefined(nameof(GenerateOptions.Strategy), unknown),
        };
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
