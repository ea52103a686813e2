using System.Reflection;
using Expecto;
using Expecto.CSharp;
using Microsoft.FSharp.Reflection;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

internal static class ErrorTests
{
    public static Test All(Tiny tiny) => Runner.TestList("errors", [
        Case("every fault of the library has a code of its own kind", () =>
        {
            var codes = AllErrors().ToDictionary(error => CaseOf(error), error => Code(error));
            foreach (var (name, code) in codes)
            {
                True(code != LayerSkipErrorCode.Other, $"{name} has a code");
            }

            // What the library's other faults and this assembly's own come to.
            LayerSkipErrorCode[] own =
            [
                LayerSkipErrorCode.Other, LayerSkipErrorCode.TrainingFailed, LayerSkipErrorCode.Busy,
            ];
            Same(
                Enum.GetValues<LayerSkipErrorCode>().Except(codes.Values).Except(own),
                [],
                "no code stands for nothing");
        }),
        Case("a fault has a code, a message and the option, as the exception of it has", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            void Is(LayerSkipErrorCode code, string? option, Action body)
            {
                var thrown = Throws<LayerSkipException>(body);
                Equal((thrown.Code, thrown.OptionName), (code, option), thrown.Message);
                Equal((thrown.Faults[0].Code, thrown.Faults[0].OptionName), (code, option), "its fault");
                Equal($"{thrown.Faults[0]}", thrown.Faults[0].Message, "told");
                Equal(thrown.InnerException, null, "it says all");
                True(!thrown.Message.StartsWith(':'), thrown.Message);
            }

            Is(LayerSkipErrorCode.FileNotFound, null, () => LayerSkipModel.Load("nowhere"));
            Is(LayerSkipErrorCode.FileNotFound, null, () => LayerSkipModel.Load(""));
            Is(LayerSkipErrorCode.Unsupported, null, () => LayerSkipModel.Load(Path.Combine(tiny.Path, "config.json")));
            Is(LayerSkipErrorCode.Unsupported, null, () => LayerSkipModel.Load(tiny.Path, new() { Kv = KvFormat.Q8 }));
            Is(LayerSkipErrorCode.OptionOutOfRange, "Threads", () => LayerSkipModel.Load(tiny.Path, new() { Threads = 0 }));
            Is(LayerSkipErrorCode.OptionOutOfRange, "ExitLayer", () => model.Generate("a", new() { ExitLayer = 4 }));
            Is(LayerSkipErrorCode.OptionOutOfRange, "TopP", () => model.Generate("a", new() { TopP = 2 }));
            Is(LayerSkipErrorCode.OptionOutOfRange, "Layers", () => model.Lens("a", new() { Layers = [9] }));
            Is(LayerSkipErrorCode.OptionOutOfRange, "StopTexts", () => model.Generate("a", new() { StopTexts = ["b", ""] }));
            Is(LayerSkipErrorCode.OptionOutOfRange, "LayersKept", () => model.Generate("a", new() { Drafter = Drafter.Layers }));
            Is(LayerSkipErrorCode.OptionOutOfRange, "ExitLayer", () => model.Generate("a", new() { Strategy = Strategy.Autoregressive, ExitLayer = 2 }));
            Is(LayerSkipErrorCode.OptionOutOfRange, "task", () => model.Evaluate("guessing", []));
            Is(LayerSkipErrorCode.ContextFull, null, () => model.Generate(new int[96]));
            Is(LayerSkipErrorCode.UnknownToken, null, () => model.Decode([258]));
            using var without = LayerSkipModel.Load(tiny.WithoutTokenizer);
            Is(LayerSkipErrorCode.NoTokenizer, null, () => without.Encode("text"));
            Is(LayerSkipErrorCode.EmptyPrompt, null, () => without.Generate([]));
        }),
        Case("of several faults the first has the word, and the first option the name", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var thrown = Throws<LayerSkipException>(() => model.Generate([777], new() { Temperature = -1, TopK = -1 }));
            Equal((thrown.Code, thrown.OptionName), (LayerSkipErrorCode.OptionOutOfRange, "Temperature"), thrown.Message);
            Same(
                thrown.Faults.Select(fault => fault.OptionName),
                ["Temperature", "TopK", null],
                "each of them");
        }),
        Case("of what a model is loaded with every fault is told", () =>
        {
            LoadOptions bad = new() { Threads = -1, TextsAtOnce = 0, TextsWaiting = -1, TextsKept = -2, CacheBytes = -5 };
            var thrown = Throws<LayerSkipException>(() => LayerSkipModel.Load(tiny.Path, bad));
            Same(
                thrown.Faults.Select(fault => fault.OptionName).Order(),
                ["CacheBytes", "TextsAtOnce", "TextsKept", "TextsWaiting", "Threads"],
                thrown.Message);
        }),
        Case("tests can make one", () =>
        {
            InvalidOperationException cause = new("cause");
            LayerSkipException made = new(LayerSkipErrorCode.Busy, "wait", "Slots", cause);
            Equal((made.Code, made.Message, made.OptionName, made.InnerException), (LayerSkipErrorCode.Busy, "wait", "Slots", cause), "as made");
            LayerSkipFault fault = new() { Code = LayerSkipErrorCode.Busy, Message = "wait", OptionName = "Slots" };
            Same(made.Faults, [fault], "of one fault");
        }),
        Case("a model that cannot be loaded is told of without an exception", () =>
        {
            Equal(LayerSkipModel.TryLoad("nowhere", out var none, out var fault), false, "nothing there");
            Equal((none, fault!.Code), (null, LayerSkipErrorCode.FileNotFound), "why");
            Equal(LayerSkipModel.TryLoad(tiny.Path, new() { Dtype = Dtype.F32 }, out var model, out var nothing), true, "a model");
            using (model)
            {
                Equal((model!.Info.Dtype, nothing), (Dtype.F32, null), "as asked");
            }
        }),
    ]);

    /// <summary>The code of the exception that the library's becomes.</summary>
    private static LayerSkipErrorCode Code(LayerSkipError error)
    {
        var made = typeof(LayerSkipException).GetConstructor(
            BindingFlags.NonPublic | BindingFlags.Instance, [typeof(LayerSkip.LayerSkipException)])!;
        LayerSkip.LayerSkipException inner = new(Microsoft.FSharp.Collections.ListModule.OfSeq([error]));
        return ((LayerSkipException)made.Invoke([inner])).Code;
    }

    private static string CaseOf(LayerSkipError error) => FSharpValue.GetUnionFields(error, typeof(LayerSkipError), null).Item1.Name;

    /// <summary>One of each case, with fields that are empty.</summary>
    private static IEnumerable<LayerSkipError> AllErrors() =>
        from each in FSharpType.GetUnionCases(typeof(LayerSkipError), null)
        let fields = each.GetFields().Select(field => Empty(field.PropertyType)).ToArray()
        select (LayerSkipError)FSharpValue.MakeUnion(each, fields, null);

    private static object Empty(Type type) =>
        type == typeof(string) ? ""
        : type.IsValueType ? Activator.CreateInstance(type)!
        : type.GetProperty("Empty", BindingFlags.Public | BindingFlags.Static)!.GetValue(null)!;
}
