using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

/// <summary>Between the F# library's types and this assembly's: with its neighbours the only one that knows both shapes.</summary>
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

    public static ArgumentOutOfRangeException Undefined(string option, Enum value) =>
        new("options", value, $"{option} is {value}, which is none of {string.Join(", ", Enum.GetNames(value.GetType()))}");

    public static FSharpOption<T> Some<T>(T value) => FSharpOption<T>.Some(value);

    /// <summary>Null is None.</summary>
    public static FSharpOption<T>? Optional<T>(T? value)
        where T : class => value is null ? null : Some(value);

    /// <summary>Null is None.</summary>
    public static FSharpOption<T>? Optional<T>(T? value)
        where T : struct => value is { } given ? Some(given) : null;

    /// <summary>NaN is null.</summary>
    public static double? Number(double value) => double.IsNaN(value) ? null : value;

    public static Dtype Dtype(LayerSkip.Dtype dtype) =>
        dtype.Tag switch
        {
            LayerSkip.Dtype.Tags.F64 => CSharp.Dtype.F64,
            LayerSkip.Dtype.Tags.F32 => CSharp.Dtype.F32,
            LayerSkip.Dtype.Tags.F16 => CSharp.Dtype.F16,
            _ => CSharp.Dtype.BF16,
        };

    /// <summary>What a stream shows of an event: nothing of a round, which its tokens have told already.</summary>
    public static GeneratedToken? Event(GenerationEvent happened) =>
        happened switch
        {
            GenerationEvent.Token token => new() { Id = token.Item.Id, Text = token.Item.Text, Origin = Origin(token.Item.Origin), LogProbs = LogProbs(token.Item.LogProbs) },
            GenerationEvent.End end => new() { Text = end.rest, Result = Result(end.Item2) },
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

    public static GenerateResult Result(Completion completion) =>
        new()
        {
            PromptIds = Array.AsReadOnly(completion.PromptIds),
            TokenIds = Array.AsReadOnly(completion.TokenIds),
            Text = completion.Text?.Value,
            ReusedTokenCount = completion.ReusedIds,
            LogProbs = [.. completion.LogProbs.Select(LogProbs)],
            PromptLogProbs = [.. completion.PromptLogProbs.Select(LogProbs)],
            FinishReason = completion.Finish.IsStop ? FinishReason.Stop : FinishReason.Length,
            IsLossless = completion.IsLossless,
            Statistics = Statistics(completion.Stats) with
            {
                AcceptanceRule = completion.Acceptance,
                LooseDraftTokenCount = completion.LooseTokens,
            },
            Timings = new()
            {
                TimeToFirstToken = TimeSpan.FromMilliseconds(completion.Timings.TtftMs),
                Decode = TimeSpan.FromMilliseconds(completion.Timings.DecodeMs),
                Draft = TimeSpan.FromMilliseconds(completion.Timings.DraftMs),
                Verify = TimeSpan.FromMilliseconds(completion.Timings.VerifyMs),
                Policy = TimeSpan.FromMilliseconds(completion.Timings.PolicyMs),
                TokensPerSecond = completion.TokensPerSecond,
            },
        };

    private static TokenLogProbs? LogProbs(FSharpOption<LayerSkip.TokenLogProbs>? told) =>
        told is { Value: var known } ? LogProbs(known) : null;

    private static TokenLogProbs LogProbs(LayerSkip.TokenLogProbs told) =>
        new() { LogProb = told.LogProb, Top = [.. told.Top.Select(top => new TokenLogProb { Id = top.Id, LogProb = top.LogProb })] };

    public static SpeculationStatistics Statistics(SpeculationStats stats) =>
        new()
        {
            DraftRoundCount = stats.NumSpecSteps,
            DraftTokenCount = stats.NumDraftTokens,
            AcceptedDraftTokenCount = stats.NumAcceptedDraftTokens,
            DraftAcceptanceRate = stats.DraftAcceptanceRate,
            MeanAcceptanceLength = stats.MeanAcceptanceLength,
            AcceptanceHistogram = Array.AsReadOnly(stats.AcceptanceHistogram),
            Rounds = [.. stats.Rounds.Select(round => new SpeculationRound { Drafted = round.Item1, Accepted = round.Item2 })],
            Sources = [.. stats.Sources.Select(Source)],
        };

    private static DraftSourceStatistics Source(SourceStats source) =>
        new()
        {
            Source = source.Source,
            RoundCount = source.Rounds,
            DraftTokenCount = source.DraftTokens,
            AcceptedDraftTokenCount = source.AcceptedDraftTokens,
            MeanExitLayer = source.MeanExitLayer?.Value,
        };
}
