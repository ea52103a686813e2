using System.Reflection;
using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

/// <summary>What a caller gave, refused in the caller's own words.</summary>
internal static class ArgumentTests
{
    private static readonly NullabilityInfoContext Nullability = new();

    public static Test All(Tiny tiny) => Runner.TestList("arguments", [
        Case("a null names the parameter that it was given for, in every method of a model", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var cases =
                from method in typeof(LayerSkipModel).GetMethods(
                    BindingFlags.Public | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly)
                from parameter in method.GetParameters()
                where !parameter.ParameterType.IsValueType
                    && !parameter.IsOut
                    && Nullability.Create(parameter).WriteState == NullabilityState.NotNull
                select (method, parameter);
            Equal(cases.Count(), 24, "load, encode, chat, decode, generate, stream, lens, replay, evaluate and export");

            foreach (var (method, parameter) in cases)
            {
                object?[] arguments = [.. method.GetParameters().Select(other => other == parameter ? null : Any(other))];
                var thrown = Throws<TargetInvocationException>(() => method.Invoke(model, arguments)).InnerException;
                Equal((thrown as ArgumentNullException)?.ParamName, parameter.Name, $"{method}: {thrown?.Message}");
            }
        }),
        Case("a null among the options names the option", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            Equal(Throws<ArgumentNullException>(() => new GenerateOptions { StopTexts = null! }).ParamName, "StopTexts", "no list");
            True(
                Throws<ArgumentException>(() => model.Generate("a", new() { StopTexts = ["x", null!] })).Message.Contains("StopTexts"),
                "a null in it");
        }),
        Case("a value that an enumeration lacks names the option, and the parameter that brought it", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            void Names(string option, Action body)
            {
                var fault = Throws<ArgumentOutOfRangeException>(body);
                Equal(fault.ParamName, "options", "parameter");
                True(fault.Message.Contains(option, StringComparison.Ordinal), $"\"{option}\" is in: {fault.Message}");
            }

            Names("Device", () => LayerSkipModel.Load(tiny.Path, new() { Device = (Device)5 }));
            Names("Dtype", () => LayerSkipModel.Load(tiny.Path, new() { Dtype = (Dtype)5 }));
            Names("Compute", () => LayerSkipModel.Load(tiny.Path, new() { Compute = (Compute)2 }));
            Names("Kv", () => LayerSkipModel.Load(tiny.Path, new() { Kv = (KvFormat)4 }));
            Names("Prefill", () => LayerSkipModel.Load(tiny.Path, new() { Prefill = (Prefill)2 }));
            Names("Strategy", () => model.Generate([1], new() { Strategy = (Strategy)4 }));
            Names("Format", () => model.Export("nowhere", new() { Format = (ExportFormat)3 }));
            TrainOptions training = new() { Model = tiny.Path, Data = TrainData.FromTexts("text") };
            Names("Recipe", () => LayerSkipTrainer.Train("nowhere", training with { Recipe = (TrainRecipe)9 }));
            Names("Layout", () => LayerSkipTrainer.Train("nowhere", training with { Layout = (SampleLayout)3 }));
            Names("OnSpike", () => LayerSkipTrainer.Train("nowhere", training with { OnSpike = (SpikeHandling)3 }));
        }),
        Case("every fault of prompt and options is told at once, in the names of the options", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var wrong = new GenerateOptions
            {
                Temperature = -1,
                TopK = -2,
                TopP = 2,
                ExitLayer = 9,
                DraftLength = 0,
                MaxNewTokens = -3,
                StopTokenIds = [999],
            };
            foreach (var strategy in Enum.GetValues<Strategy>())
            {
                var fault = Throws<LayerSkipException>(() => model.Generate([777], wrong with { Strategy = strategy }));
                Same(
                    fault.Faults.Select(each => each.Message).Order(),
                    new[]
                    {
                        "DraftLength is 0, it must be 1 or more",
                        "ExitLayer is 9, it must be 1 to 3: the model has 4 layers",
                        "MaxNewTokens is -3, it must be 1 or more",
                        "Temperature is -1, it must be 0 (greedy) or more",
                        "TopK is -2, it must be 0 (all) or more",
                        "TopP is 2, it must be above 0 and at most 1",
                        "token id 777 is outside the vocabulary; ids run from 0 to 257",
                        "token id 999 is outside the vocabulary; ids run from 0 to 257",
                    }.Order(),
                    $"{strategy}");
                True(fault.Message.Contains("Temperature is -1", StringComparison.Ordinal), $"summed up: {fault.Message}");
            }

            Refused(() => LayerSkipModel.Load(tiny.Path, new() { Threads = 0 }), "Threads is 0");
        }),
        Case("after a stop text the ids have the tokens that completed it, and the text ends before it", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var options = new GenerateOptions { MaxNewTokens = 40, IgnoreEos = true };
            var whole = model.Generate("Once", options);
            var stop = $"{whole.Text!.First(char.IsAscii)}";
            var cut = model.Generate("Once", options with { StopTexts = [stop] });
            Same(cut.TokenIds, whole.TokenIds.Take(cut.TokenIds.Count), "the ids are the whole text's first ones");
            True(model.Decode(cut.TokenIds).StartsWith(cut.Text + stop, StringComparison.Ordinal), "they spell the stop text");
            True(
                !model.Decode(cut.TokenIds.SkipLast(1)).Contains(stop, StringComparison.Ordinal),
                "and end with the token that completed it");
        }),
    ]);

    /// <summary>Something that a parameter takes.</summary>
    private static object? Any(ParameterInfo parameter) =>
        parameter switch
        {
            { HasDefaultValue: true, ParameterType: { IsValueType: true } type } => parameter.DefaultValue ?? Activator.CreateInstance(type),
            _ when parameter.ParameterType == typeof(string) => "",
            _ when parameter.ParameterType == typeof(IReadOnlyList<string>) => Array.Empty<string>(),
            _ => null,
        };
}
