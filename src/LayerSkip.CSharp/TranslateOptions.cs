using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

/// <summary>From this assembly's options of generating to the F# library's.</summary>
internal static class TranslateOptions
{
    /// <summary>
    /// The library's options, and the faults of the caller's. What is at fault has a sound value in its place, so that the
    /// library finds the other faults too.
    /// </summary>
    public static (GenerationOptions Given, IEnumerable<LayerSkipError> Faults) Options(
        Checkpoint checkpoint,
        GenerateOptions options,
        Func<int?, FSharpResult<Adapter, FSharpList<LayerSkipError>>> adapters)
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
        var strategy = Decided(checkpoint, options, drafting);
        var (decided, faults) = strategy switch
        {
            Strategy.SelfSpeculative when TranslateFunctions.Has(options) =>
                TranslateFunctions.Strategy(checkpoint, law, options, drafting, adapters),
            Strategy.SelfSpeculative when options.Strategy == strategy =>
                Drafted(checkpoint, law, LayerSkip.Drafting.ofSelfSpeculative(drafting), adapters),
            Strategy.SelfSpeculative => Drafted(checkpoint, law, drafting, adapters),
            Strategy.EarlyExit => Plain(checkpoint, options, LayerSkip.Strategy.EarlyExit),
            _ => Plain(checkpoint, options, _ => LayerSkip.Strategy.Autoregressive),
        };

        var given = new GenerationOptions(
            strategy: decided,
            sampling: law,
            rules: Rules(options),
            maxNewTokens: options.MaxNewTokens,
            stopIds: [.. options.StopTokenIds ?? (options.IgnoreEos ? [] : checkpoint.StopIds)],
            stopTexts: ListModule.OfSeq(options.StopTexts),
            showSpecial: options.ShowSpecial,
            seed: options.Seed,
            logProbs: options.LogProbs is { } count ? Translate.Some(count) : null,
            promptLogProbs: null);
        return (given, [.. Check.faults(sampling), .. rule is { } read ? Check.faults(read) : [], .. faults]);
    }

    private static TokenRules Rules(GenerateOptions options) =>
        new(
            repetitionPenalty: options.RepetitionPenalty,
            presencePenalty: options.PresencePenalty,
            frequencyPenalty: options.FrequencyPenalty,
            logitBias: ListModule.OfSeq(options.LogitBias.Select(bias => Tuple.Create(bias.Key, bias.Value))),
            constraint: null);

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

    private static FSharpOption<T>? Optional<T>(T? value)
        where T : class => value is null ? null : Translate.Some(value);

    private static FSharpOption<int>? Optional(int? value) => value is { } number ? Translate.Some(number) : null;

    /// <summary>A strategy that drafts; where the options are at fault, one that does not.</summary>
    private static (LayerSkip.Strategy Strategy, IEnumerable<LayerSkipError> Faults) Drafted(
        Checkpoint checkpoint,
        Sampling sampling,
        DraftingOptions drafting,
        Func<int?, FSharpResult<Adapter, FSharpList<LayerSkipError>>> adapters)
    {
        var plan = Plan(checkpoint, sampling, drafting, adapters);
        return plan.IsOk
            ? (LayerSkip.Drafting.strategy(checkpoint, plan.ResultValue), [])
            : (LayerSkip.Strategy.Autoregressive, plan.ErrorValue);
    }

    /// <summary>
    /// A strategy that drafts nothing. A wrong exit layer or draft length is an error even where it has no use for one; what says how to draft is
    /// one, whatever it says.
    /// </summary>
    private static (LayerSkip.Strategy Strategy, IEnumerable<LayerSkipError> Faults) Plain(
        Checkpoint checkpoint,
        GenerateOptions options,
        Func<ExitLayer, LayerSkip.Strategy> strategy)
    {
        var exitMatters = options.ExitLayer is not null || options.Strategy == Strategy.EarlyExit;
        var exit = ExitLayer.TryCreate(
            checkpoint.Config.Layers, options.ExitLayer ?? CheckpointModule.exitAndDraft(checkpoint).Item1);
        (string Option, object? Value)[] useless =
        [
            ("drafter", options.Drafter),
            ("policy", options.Policy),
            ("stop-rule", options.StopRule),
            ("draft-vocabulary", options.DraftVocabulary),
            ("layers-kept", options.LayersKept is { } layers ? string.Join(',', layers) : null),
        ];
        IEnumerable<LayerSkipError> faults =
        [
            .. exitMatters ? Check.faults(exit) : [],
            .. Check.atLeast(1, "draft-length", options.DraftLength ?? 1),
            .. from option in useless
               where option.Value is not null
               select LayerSkipError.NewOutOfRange(option.Option, $"{option.Value}", $"left out where {options.Strategy} drafts nothing"),
        ];
        return (exit.IsOk ? strategy(exit.ResultValue) : LayerSkip.Strategy.Autoregressive, faults);
    }

    private static Strategy Decided(Checkpoint checkpoint, GenerateOptions options, DraftingOptions drafting) =>
        options.Strategy switch
        {
            Strategy.Auto when TranslateFunctions.Has(options) => Strategy.SelfSpeculative,
            Strategy.Auto => LayerSkip.Drafting.isMeant(checkpoint, drafting) ? Strategy.SelfSpeculative : Strategy.Autoregressive,
            var chosen when Enum.IsDefined(chosen) => chosen,
            var unknown => throw Translate.Undefined(nameof(GenerateOptions.Strategy), unknown),
        };
}
