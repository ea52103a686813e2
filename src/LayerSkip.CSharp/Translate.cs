using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

/// <summary>Between the F# library's types and this assembly's: with <see cref="TranslateLens"/> the only one that knows both shapes.</summary>
internal static class Translate
{
    /// <summary>A success's value; throws the faults of a failure.</summary>
    public static T OrThrow<T>(this FSharpResult<T, FSharpList<LayerSkipError>> result) =>
        result.IsOk ? result.ResultValue : throw Exception([.. result.ErrorValue]);

    public static LayerSkipException Exception(params IEnumerable<LayerSkipError> errors) =>
        new(new LayerSkip.LayerSkipException(ListModule.OfSeq(errors)));

    /// <summary>What the library throws where it has no result to give, as this assembly's own.</summary>
    public static T Throwing<T>(Func<T> body)
    {
        try
        {
            return body();
        }
        catch (LayerSkip.LayerSkipException fault)
        {
            throw new LayerSkipException(fault);
        }
    }

    /// <summary>Events as they are pulled, with what the library throws meanwhile as this assembly's own.</summary>
    public static IEnumerable<GenerationEvent> Pulled(IEnumerable<GenerationEvent> events)
    {
        using var pulled = events.GetEnumerator();

        while (Throwing(pulled.MoveNext))
        {
            yield return pulled.Current;
        }
    }

    /// <summary>A fault in the words of this assembly's options: DraftLength, where the command says --draft-length.</summary>
    public static LayerSkipError InCallersWords(LayerSkipError error) =>
        error switch
        {
            LayerSkipError.OutOfRange fault when OptionNamed(fault.option) is { } option =>
                LayerSkipError.NewOutOfRange(option, fault.value, fault.allowed),
            LayerSkipError.ExitOutsideModel { layers: > 1 } fault =>
                LayerSkipError.NewOutOfRange(
                    nameof(GenerateOptions.ExitLayer),
                    $"{fault.exit}",
                    $"{LayerSkipErrorModule.oneTo(fault.layers - 1)}: the model has {fault.layers} layers"),
            _ => error,
        };

    private static string? OptionNamed(string name)
    {
        var option = string.Concat(name.Split('-').Where(word => word != "").Select(word => char.ToUpperInvariant(word[0]) + word[1..]));
        Type[] options = [typeof(GenerateOptions), typeof(LoadOptions), typeof(LensOptions)];
        return options.Any(type => type.GetProperty(option) is not null) ? option : null;
    }

    public static LayerSkip.Device Device(Device device) =>
        device switch
        {
            CSharp.Device.Cpu => LayerSkip.Device.Cpu,
            CSharp.Device.Cuda => LayerSkip.Device.Cuda,
            _ => throw Undefined(nameof(LoadOptions.Device), device),
        };

    public static Device Device(LayerSkip.Device device) =>
        device.IsCuda ? CSharp.Device.Cuda : CSharp.Device.Cpu;

    /// <summary>Auto is None.</summary>
    public static FSharpOption<LayerSkip.Dtype>? Dtype(Dtype dtype) =>
        dtype switch
        {
            CSharp.Dtype.Auto => FSharpOption<LayerSkip.Dtype>.None,
            CSharp.Dtype.F64 => Some(LayerSkip.Dtype.F64),
            CSharp.Dtype.F32 => Some(LayerSkip.Dtype.F32),
            CSharp.Dtype.F16 => Some(LayerSkip.Dtype.F16),
            CSharp.Dtype.BF16 => Some(LayerSkip.Dtype.BF16),
            _ => throw Undefined(nameof(LoadOptions.Dtype), dtype),
        };

    public static LayerSkip.Compute Compute(Compute compute) =>
        compute switch
        {
            CSharp.Compute.Auto => LayerSkip.Compute.Auto,
            CSharp.Compute.Float => LayerSkip.Compute.Float,
            _ => throw Undefined(nameof(LoadOptions.Compute), compute),
        };

    /// <summary>Auto is None.</summary>
    public static FSharpOption<LayerSkip.KvFormat>? Kv(KvFormat kv) =>
        kv switch
        {
            KvFormat.Auto => FSharpOption<LayerSkip.KvFormat>.None,
            KvFormat.F32 => Some(LayerSkip.KvFormat.F32),
            KvFormat.F16 => Some(LayerSkip.KvFormat.F16),
            KvFormat.Q8 => Some(LayerSkip.KvFormat.Q8),
            _ => throw Undefined(nameof(LoadOptions.Kv), kv),
        };

    public static LayerSkip.Prefill Prefill(Prefill prefill) =>
        prefill switch
        {
            LayerSkip.CSharp.Prefill.Auto => LayerSkip.Prefill.Auto,
            LayerSkip.CSharp.Prefill.Exact => LayerSkip.Prefill.Exact,
            _ => throw Undefined(nameof(LoadOptions.Prefill), prefill),
        };

    private static ArgumentOutOfRangeException Undefined(string option, Enum value) =>
        new("options", value, $"{option} is {value}, which is none of {string.Join(", ", Enum.GetNames(value.GetType()))}");

    private static FSharpOption<T> Some<T>(T value) => FSharpOption<T>.Some(value);

    public static Dtype Dtype(LayerSkip.Dtype dtype) =>
        dtype.Tag switch
        {
            LayerSkip.Dtype.Tags.F64 => CSharp.Dtype.F64,
            LayerSkip.Dtype.Tags.F32 => CSharp.Dtype.F32,
            LayerSkip.Dtype.Tags.F16 => CSharp.Dtype.F16,
            _ => CSharp.Dtype.BF16,
        };

    /// <summary>
    /// The library's options, and the faults of the caller's. What is at fault has a sound value in its place, so that the
    /// library finds the other faults too.
    /// </summary>
    public static (GenerationOptions Given, IEnumerable<LayerSkipError> Faults) Options(
        Checkpoint checkpoint,
        GenerateOptions options,
        Func<int?, FSharpResult<Adapter, FSharpList<LayerSkipError>>> adapters)
    {
        if (options.Stop.Any(text => text is null))
        {
            throw new ArgumentException($"{nameof(GenerateOptions.Stop)} has a null among its texts", nameof(options));
        }

        var sampling = SamplingModule.create(options.Temperature, options.TopK, options.TopP);
        var law = sampling.IsOk ? sampling.ResultValue : Sampling.Greedy;
        FSharpResult<StopRuleKind, FSharpList<LayerSkipError>>? rule =
            options.StopRule is { } named ? StopRuleModule.tryParse(named.Text) : null;
        var drafting = Drafting(options, rule is { IsOk: true } ? rule.Value.ResultValue : null);
        var strategy = Decided(checkpoint, options, drafting);
        var (decided, faults) = strategy switch
        {
            CSharp.Strategy.SelfSpeculative when options.Strategy == strategy =>
                Drafted(checkpoint, law, LayerSkip.Drafting.ofSelfSpeculative(drafting), adapters),
            CSharp.Strategy.SelfSpeculative => Drafted(checkpoint, law, drafting, adapters),
            CSharp.Strategy.EarlyExit => Plain(checkpoint, options, LayerSkip.Strategy.EarlyExit),
            _ => Plain(checkpoint, options, _ => LayerSkip.Strategy.Autoregressive),
        };

        var given = new GenerationOptions(
            strategy: decided,
            sampling: law,
            maxNewTokens: options.MaxNewTokens,
            stopIds: [.. options.StopIds ?? (options.IgnoreEos ? [] : checkpoint.StopIds)],
            stopTexts: ListModule.OfSeq(options.Stop),
            showSpecial: options.ShowSpecial,
            seed: options.Seed);
        return (given, [.. Check.faults(sampling), .. rule is { } read ? Check.faults(read) : [], .. faults]);
    }

    private static DraftingOptions Drafting(GenerateOptions options, StopRuleKind? rule) =>
        new(
            drafter: options.Drafter switch
            {
                null => null,
                CSharp.Drafter.Exit => Some(DrafterKind.Exit),
                CSharp.Drafter.Lookup => Some(DrafterKind.Lookup),
                CSharp.Drafter.Adapter => Some(DrafterKind.Adapter),
                CSharp.Drafter.Cascade => Some(DrafterKind.Cascade),
                CSharp.Drafter.Layers => Some(DrafterKind.Layers),
                { } unknown => throw Undefined(nameof(GenerateOptions.Drafter), unknown),
            },
            policy: options.Policy switch
            {
                null => null,
                DraftPolicy.Static => Some(DraftPolicyKind.Static),
                DraftPolicy.Auto => Some(DraftPolicyKind.Auto),
                DraftPolicy.Del => Some(DraftPolicyKind.Del),
                { } unknown => throw Undefined(nameof(GenerateOptions.Policy), unknown),
            },
            stopRule: rule is null ? null : Some(rule),
            exitLayer: Optional(options.ExitLayer),
            draftLength: Optional(options.DraftLength),
            draftVocabulary: options.DraftVocabulary is { } ids ? Some(ids.Text) : null,
            layersKept: options.LayersKept is { } layers ? Some(string.Join(',', layers)) : null,
            past: null);

    private static FSharpOption<int>? Optional(int? value) => value is { } number ? Some(number) : null;

    /// <summary>A strategy that drafts; where the options are at fault, one that does not.</summary>
    private static (LayerSkip.Strategy Strategy, IEnumerable<LayerSkipError> Faults) Drafted(
        Checkpoint checkpoint,
        Sampling sampling,
        DraftingOptions drafting,
        Func<int?, FSharpResult<Adapter, FSharpList<LayerSkipError>>> adapters)
    {
        var behind = FuncConvert.FromFunc<FSharpOption<int>?, FSharpResult<Adapter, FSharpList<LayerSkipError>>>(
            exit => adapters(exit?.Value));
        var plan = LayerSkip.Drafting.decideWith(behind, sampling, checkpoint, drafting);
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
        var exitMatters = options.ExitLayer is not null || options.Strategy == CSharp.Strategy.EarlyExit;
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
            CSharp.Strategy.Auto =>
                LayerSkip.Drafting.isMeant(checkpoint, drafting) ? CSharp.Strategy.SelfSpeculative : CSharp.Strategy.Autoregressive,
            var chosen when Enum.IsDefined(chosen) => chosen,
            var unknown => throw Undefined(nameof(GenerateOptions.Strategy), unknown),
        };

    /// <summary>What a stream shows of an event: nothing of a round, which its tokens have told already.</summary>
    public static GeneratedToken? Event(GenerationEvent happened) =>
        happened switch
        {
            GenerationEvent.Token token => new(token.id, token.text, Origin(token.origin), null),
            GenerationEvent.End end => new(null, end.rest, null, Result(end.Item2)),
            _ => null,
        };

    private static TokenOrigin Origin(Origin origin) =>
        origin.Tag switch
        {
            LayerSkip.Origin.Tags.Prefill => TokenOrigin.Prefill,
            LayerSkip.Origin.Tags.Plain => TokenOrigin.Plain,
            LayerSkip.Origin.Tags.Drafted => TokenOrigin.Drafted,
            LayerSkip.Origin.Tags.LookedUp => TokenOrigin.LookedUp,
            LayerSkip.Origin.Tags.Corrected => TokenOrigin.Corrected,
            _ => TokenOrigin.Bonus,
        };

    private static GenerateResult Result(Completion completion) =>
        new(
            Array.AsReadOnly(completion.PromptIds),
            Array.AsReadOnly(completion.TokenIds),
            completion.Text?.Value,
            completion.Finish.IsStop ? FinishReason.Stop : FinishReason.Length,
            Statistics(completion.Stats),
            new(
                TimeSpan.FromMilliseconds(completion.Timings.TtftMs),
                TimeSpan.FromMilliseconds(completion.Timings.DecodeMs),
                TimeSpan.FromMilliseconds(completion.Timings.DraftMs),
                TimeSpan.FromMilliseconds(completion.Timings.VerifyMs),
                TimeSpan.FromMilliseconds(completion.Timings.PolicyMs),
                completion.TokensPerSecond));

    private static SpeculationStatistics Statistics(SpeculationStats stats) =>
        new(
            stats.NumSpecSteps,
            stats.NumDraftTokens,
            stats.NumAcceptedDraftTokens,
            stats.DraftAcceptanceRate,
            stats.MeanAcceptanceLength,
            Array.AsReadOnly(stats.AcceptanceHistogram),
            [.. stats.Rounds.Select(round => new SpeculationRound(round.Item1, round.Item2))],
            [.. stats.Sources.Select(source => new DraftSourceStatistics(
                source.Source, source.Rounds, source.DraftTokens, source.AcceptedDraftTokens, source.MeanExitLayer))]);
}
