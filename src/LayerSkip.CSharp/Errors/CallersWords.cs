namespace LayerSkip.CSharp;

/// <summary>The library's faults in a C# caller's words: DraftLength, where the command says draft-length.</summary>
internal static class CallersWords
{
    /// <summary>Options whose property is not called as the command's option is.</summary>
    private static readonly Dictionary<string, string> Renamed = new()
    {
        ["accumulate"] = nameof(TrainOptions.AccumulatedBatches),
        ["clip-norm"] = nameof(TrainOptions.GradientClipNorm),
        ["exits"] = nameof(TrainOptions.Curriculum),
        ["exit emphasis"] = nameof(TrainOptions.Curriculum),
        ["the scale of early exits"] = nameof(TrainOptions.Curriculum),
        ["an exit's weight"] = nameof(TrainOptions.Curriculum),
        ["kv-bytes"] = nameof(LoadOptions.CacheBytes),
        ["prefix-texts"] = nameof(LoadOptions.TextsKept),
        ["queue"] = nameof(LoadOptions.TextsWaiting),
        ["slots"] = nameof(LoadOptions.TextsAtOnce),
        ["logprobs"] = nameof(GenerateOptions.LogProbs),
        ["prompt-logprobs"] = nameof(GenerateOptions.PromptLogProbs),
        ["choices"] = nameof(GenerateOptions.ResponseFormat),
        ["keep"] = nameof(TrainOptions.CheckpointsKept),
        ["probe-exits"] = nameof(TrainOptions.ProbeExitLayers),
        ["rate-floor"] = nameof(TrainOptions.LearningRateFloor),
        ["valid-share"] = nameof(TrainData.ValidationShare),
        ["validation-tokens"] = nameof(TrainOptions.ValidationTokenCount),
        ["warmup"] = nameof(TrainOptions.WarmupSteps),
        ["what early exits learn from"] = nameof(TrainOptions.LabelWeight),
    };

    private static readonly HashSet<string> Names =
    [
        .. from type in typeof(CallersWords).Assembly.GetExportedTypes()
           where type.Name.EndsWith("Options", StringComparison.Ordinal) || type == typeof(TrainData) || type == typeof(NewModel)
           from property in type.GetProperties()
           select property.Name,
    ];

    /// <summary>A fault that names options as properties of this assembly's types are named.</summary>
    public static LayerSkipError Of(LayerSkipError error) =>
        error switch
        {
            LayerSkipError.OutOfRange fault when Option(fault.option) is { } option =>
                LayerSkipError.NewOutOfRange(option, fault.value, fault.allowed),
            LayerSkipError.Excluded fault =>
                LayerSkipError.NewOutOfRange(
                    Option(fault.option) ?? fault.option,
                    // Drafters and policies are named as this assembly names them.
                    fault.option is "drafter" or "policy" ? Pascal(fault.value) : fault.value,
                    $"left out with {Option(fault.other) ?? fault.other} {(fault.other == "strategy" ? Pascal(fault.chosen) : fault.chosen)}: {fault.why}"),
            LayerSkipError.ExitOutsideModel { layers: > 1 } fault =>
                LayerSkipError.NewOutOfRange(
                    nameof(GenerateOptions.ExitLayer),
                    $"{fault.exit}",
                    $"{LayerSkipErrorModule.oneTo(fault.layers - 1)}: the model has {fault.layers} layers"),
            _ => error,
        };

    /// <summary>A fault in the caller's words as this assembly shows it.</summary>
    public static LayerSkipFault Fault(LayerSkipError error) =>
        new()
        {
            Code = Code(error),
            Message = LayerSkipErrorModule.message(error),
            OptionName = error switch
            {
                // A parameter is named as the methods have it.
                LayerSkipError.OutOfRange fault => Names.Contains(fault.option) || fault.option is "task" ? fault.option : null,
                LayerSkipError.ExitOutsideModel => nameof(GenerateOptions.ExitLayer),
                LayerSkipError.NoExitWeight => nameof(TrainOptions.Curriculum),
                LayerSkipError.NoPlaceForTools => nameof(ChatPromptOptions.Tools),
                LayerSkipError.NoDevice => nameof(LoadOptions.Device),
                LayerSkipError.BeyondDtype => nameof(LoadOptions.Dtype),
                LayerSkipError.NothingAllowed or LayerSkipError.BadFile { path: "JSON schema" } => nameof(GenerateOptions.ResponseFormat),
                _ => null,
            },
        };

    public static LayerSkipErrorCode Code(LayerSkipError error) =>
        error.Tag switch
        {
            LayerSkipError.Tags.NotFound => LayerSkipErrorCode.FileNotFound,
            LayerSkipError.Tags.BadFile => LayerSkipErrorCode.BadFile,
            LayerSkipError.Tags.NotWritten => LayerSkipErrorCode.FileNotWritten,
            LayerSkipError.Tags.MissingTensor => LayerSkipErrorCode.BadWeights,
            LayerSkipError.Tags.UnknownTensor => LayerSkipErrorCode.BadWeights,
            LayerSkipError.Tags.WrongShape => LayerSkipErrorCode.BadWeights,
            LayerSkipError.Tags.WrongDtype => LayerSkipErrorCode.BadWeights,
            LayerSkipError.Tags.NotFinite => LayerSkipErrorCode.BadWeights,
            LayerSkipError.Tags.BeyondDtype => LayerSkipErrorCode.BadWeights,
            LayerSkipError.Tags.InWeights => LayerSkipErrorCode.BadWeights,
            LayerSkipError.Tags.InGguf => LayerSkipErrorCode.BadWeights,
            LayerSkipError.Tags.Overflow => LayerSkipErrorCode.NumbersOverflow,
            LayerSkipError.Tags.Unsupported => LayerSkipErrorCode.Unsupported,
            LayerSkipError.Tags.OutOfRange => LayerSkipErrorCode.OptionOutOfRange,
            LayerSkipError.Tags.Excluded => LayerSkipErrorCode.OptionOutOfRange,
            LayerSkipError.Tags.ExitOutsideModel => LayerSkipErrorCode.OptionOutOfRange,
            LayerSkipError.Tags.NoExitWeight => LayerSkipErrorCode.OptionOutOfRange,
            LayerSkipError.Tags.PromptTooLong => LayerSkipErrorCode.ContextFull,
            LayerSkipError.Tags.UnknownToken => LayerSkipErrorCode.UnknownToken,
            LayerSkipError.Tags.EmptyPrompt => LayerSkipErrorCode.EmptyPrompt,
            LayerSkipError.Tags.NotEnoughMemory => LayerSkipErrorCode.OutOfMemory,
            LayerSkipError.Tags.NoText => LayerSkipErrorCode.NoText,
            LayerSkipError.Tags.NoTokenizer => LayerSkipErrorCode.NoTokenizer,
            LayerSkipError.Tags.NoTokenizerInGguf => LayerSkipErrorCode.NoTokenizer,
            LayerSkipError.Tags.NoChatTemplate => LayerSkipErrorCode.NoChatTemplate,
            LayerSkipError.Tags.NoPlaceForTools => LayerSkipErrorCode.ChatRefused,
            LayerSkipError.Tags.ChatRefused => LayerSkipErrorCode.ChatRefused,
            LayerSkipError.Tags.NothingAllowed => LayerSkipErrorCode.NothingAllowed,
            LayerSkipError.Tags.NotOnHub => LayerSkipErrorCode.NotOnHub,
            LayerSkipError.Tags.HubFailed => LayerSkipErrorCode.HubFailed,
            LayerSkipError.Tags.NoDevice => LayerSkipErrorCode.DeviceMissing,
            LayerSkipError.Tags.NoBackend => LayerSkipErrorCode.BackendMissing,
            LayerSkipError.Tags.NoRanks => LayerSkipErrorCode.RanksNotJoined,
            _ => LayerSkipErrorCode.Other,
        };

    private static string Pascal(string name) =>
        string.Concat(name.Split('-').Where(word => word != "").Select(word => char.ToUpperInvariant(word[0]) + word[1..]));

    private static string? Option(string name)
    {
        if (Renamed.TryGetValue(name, out var renamed))
        {
            return renamed;
        }

        var option = Pascal(name);
        return Names.Contains(option) ? option : null;
    }
}
