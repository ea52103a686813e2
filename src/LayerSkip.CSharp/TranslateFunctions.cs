using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

/// <summary>Strategies whose drafter, policy or stop rule is a caller's function.</summary>
internal static class TranslateFunctions
{
    public static bool Has(GenerateOptions options) =>
        options.Drafter?.Custom is not null || options.Policy?.Custom is not null || options.StopRule?.Custom is not null;

    /// <summary>A strategy that drafts; where the options are at fault, one that does not.</summary>
    public static DecidedStrategy Strategy(
        Checkpoint checkpoint,
        Sampling sampling,
        GenerateOptions options,
        DraftingOptions drafting,
        Func<int?, FSharpResult<Adapter, FSharpList<LayerSkipError>>> adapters)
    {
        var acceptance = (options.Acceptance ?? AcceptanceRule.Exact).Rule;
        var (strategy, faults) = options switch
        {
            { Drafter.Custom: { } propose } => OfDrafter(checkpoint, options, propose),
            { Policy.Custom: { } policy } => OfPolicy(checkpoint, options, policy),
            _ => OfRule(checkpoint, sampling, options.StopRule!, drafting, adapters),
        };
        // The library finds what is wrong with a strategy's rule.
        return faults.Any()
            ? new(LayerSkip.Strategy.Autoregressive, faults.Union(acceptance.Faults))
            : new(strategy.Accepting(acceptance), []);
    }

    /// <summary>Functions that draft, by the names of their options; the library knows of none.</summary>
    public static FSharpList<Tuple<string, string>> Given(GenerateOptions options) =>
        ListModule.OfSeq<Tuple<string, string>>(
        [
            .. options.Drafter is { Custom: not null } drafter ? [Tuple.Create("drafter", $"{drafter}")] : Array.Empty<Tuple<string, string>>(),
            .. options.Policy is { Custom: not null } policy ? [Tuple.Create("policy", $"{policy}")] : Array.Empty<Tuple<string, string>>(),
        ]);

    /// <summary>A fault of a stop rule, which names a function where one was given: its place was held by the rule that never ends a draft.</summary>
    public static LayerSkipError Renamed(StopRule? rule, LayerSkipError error) =>
        (rule, error) switch
        {
            ({ Custom: not null }, LayerSkipError.OutOfRange { option: "stop-rule" } fault) =>
                LayerSkipError.NewOutOfRange(fault.option, rule.Text, fault.allowed),
            ({ Custom: not null }, LayerSkipError.Excluded { option: "stop-rule" } fault) =>
                LayerSkipError.NewExcluded(fault.option, rule.Text, fault.other, fault.chosen, fault.why),
            _ => error,
        };

    private static (LayerSkip.Strategy Strategy, IEnumerable<LayerSkipError> Faults) OfDrafter(
        Checkpoint checkpoint, GenerateOptions options, Func<DraftContext, IReadOnlyList<int>> propose)
    {
        const string With = "with a drafter that is a function";
        var length = options.DraftLength ?? CheckpointModule.exitAndDraft(checkpoint).Item2;
        IEnumerable<LayerSkipError> faults =
        [
            .. Unless(options.Policy is null || options.Policy == DraftPolicy.Static, "policy", options.Policy, $"Static {With}"),
            .. LeftOut("stop-rule", options.StopRule, $"{With}, whose drafts end by themselves"),
            .. LeftOut("exit-layer", options.ExitLayer, With),
            .. LeftOut("draft-vocabulary", options.DraftVocabulary, $"{With}, which asks no head"),
            .. LeftOut("layers-kept", options.LayersKept, With),
            .. Check.atLeast(1, "draft-length", length),
        ];
        return (LayerSkip.Strategy.Speculative(CustomDrafting.Drafter(propose), LengthPolicy.NewFixed(length)), faults);
    }

    private static (LayerSkip.Strategy Strategy, IEnumerable<LayerSkipError> Faults) OfPolicy(
        Checkpoint checkpoint, GenerateOptions options, Func<int, LayerSkip.DraftPolicy> policy)
    {
        const string With = "with a policy that is a function";
        var layers = checkpoint.Config.Layers;
        FSharpResult<StopRuleKind, FSharpList<LayerSkipError>>? kind =
            options.StopRule is { Custom: null } named ? StopRuleModule.tryParse(named.Text) : null;
        var vocabulary = ContextVocabularyModule.parse("draft-vocabulary", checkpoint.Config, options.DraftVocabulary?.Text ?? "all");
        FSharpList<LayerSkipError> faults = ListModule.OfSeq<LayerSkipError>(
        [
            .. Unless(options.Drafter is null || options.Drafter == Drafter.Exit, "drafter", options.Drafter, $"Exit {With}"),
            .. LeftOut("exit-layer", options.ExitLayer, $"{With}, which chooses exits itself"),
            .. LeftOut("draft-length", options.DraftLength, $"{With}, which chooses lengths itself"),
            .. LeftOut("layers-kept", options.LayersKept, With),
            .. kind is { } read ? Check.faults(read) : [],
            .. Check.faults(vocabulary),
            .. Check.faults(ExitLayer.TryCreate(layers, 1)),
        ]);
        if (!faults.IsEmpty)
        {
            return (LayerSkip.Strategy.Autoregressive, faults);
        }

        var ids = vocabulary.ResultValue;
        var rule = options.StopRule switch
        {
            null => StopRuleModule.never,
            { Custom: { } isEnough, ReadsEntropy: var readsEntropy } => CustomDrafting.StopRule(isEnough, readsEntropy),
            _ => StopRuleModule.create(FuncConvert.FromFunc(() => Cost(checkpoint, ids)), kind!.Value.ResultValue),
        };
        var drafter = DrafterModule.ofPolicy(FSharpList<ExitLayer>.Empty, 0, rule, policy(layers));
        var strategy = LayerSkip.Strategy.Adaptive(drafter);
        return (ids is { Value: var some } ? strategy.Within(some) : strategy, []);
    }

    private static (LayerSkip.Strategy Strategy, IEnumerable<LayerSkipError> Faults) OfRule(
        Checkpoint checkpoint,
        Sampling sampling,
        StopRule function,
        DraftingOptions drafting,
        Func<int?, FSharpResult<Adapter, FSharpList<LayerSkipError>>> adapters)
    {
        var decided = TranslateOptions.Plan(checkpoint, sampling, drafting, adapters);
        if (decided.IsError)
        {
            return (LayerSkip.Strategy.Autoregressive, decided.ErrorValue.Select(error => Renamed(function, error)));
        }

        var rule = CustomDrafting.StopRule(function.Custom!, function.ReadsEntropy);
        return (LayerSkip.Drafting.strategyUntil(rule, checkpoint, decided.ResultValue), []);
    }

    private static FSharpFunc<int, FSharpFunc<int, double>> Cost(Checkpoint checkpoint, FSharpOption<ContextVocabulary>? vocabulary)
    {
        var costs = PassCostsCache.get(vocabulary, checkpoint);
        return FuncConvert.FromFunc<int, int, double>((exit, drafted) => PassCostsModule.round(costs, exit, drafted));
    }

    private static IEnumerable<LayerSkipError> LeftOut(string option, object? value, string why) =>
        Unless(value is null, option, value, $"left out {why}");

    private static IEnumerable<LayerSkipError> Unless(bool holds, string option, object? value, string allowed) =>
        holds ? [] : [LayerSkipError.NewOutOfRange(option, value is IEnumerable<int> numbers ? string.Join(',', numbers) : $"{value}", allowed)];
}
