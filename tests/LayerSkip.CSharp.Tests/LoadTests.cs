using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

internal static class LoadTests
{
    public static Test All(Tiny tiny) => Runner.TestList("load", [
        Case("tells what the files say", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            Equal((model.Info.LayerCount, model.Info.VocabularySize, model.Info.ContextLength), (4, 258, 96), "sizes");
            Equal((model.Info.RecommendedExitLayer, model.Info.RecommendedDraftLength), (2, 3), "recommended");
            Equal((model.Info.HasTokenizer, model.Info.Dtype, model.Info.Device), (true, Dtype.F64, Device.Cpu), "kind");
        }),
        Case("converts to the dtype asked for", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path, new() { Dtype = Dtype.BF16, Threads = 1 });
            Equal(model.Info.Dtype, Dtype.BF16, "dtype");
            Equal(model.Generate([1, 2, 3], new() { MaxNewTokens = 4, IgnoreEos = true }).TokenIds.Count, 4, "tokens");
        }),
        Case("holds keys and values as asked, or says why not", () =>
        {
            foreach (var kv in Enum.GetValues<KvFormat>())
            {
                using var model = LayerSkipModel.Load(tiny.Path, new() { Dtype = Dtype.F32, Kv = kv });
                var plain = new GenerateOptions { Strategy = Strategy.Autoregressive, MaxNewTokens = 12, IgnoreEos = true };
                var fast = plain with { Strategy = Strategy.SelfSpeculative };
                Same(model.Generate([1, 2, 3], fast).TokenIds, model.Generate([1, 2, 3], plain).TokenIds, $"{kv}");
            }

            Refused(() => LayerSkipModel.Load(tiny.Path, new() { Kv = KvFormat.Q8 }), "kv q8", "f64", "f16");
        }),
        Case("keeps a GGUF's quantised blocks, and multiplies them as asked", () =>
        {
            foreach (var compute in Enum.GetValues<Compute>())
            {
                using var model = LayerSkipModel.Load(tiny.Quantised, new() { Compute = compute });
                Equal((model.Info.WeightsFormat, model.Info.Dtype), ("q8_0", Dtype.F32), "as the file has them");
                var plain = new GenerateOptions { Strategy = Strategy.Autoregressive, MaxNewTokens = 12 };
                var fast = plain with { Strategy = Strategy.SelfSpeculative, ExitLayer = 2 };
                Same(model.Generate([1, 2, 3], fast).TokenIds, model.Generate([1, 2, 3], plain).TokenIds, $"{compute}");
            }

            using var converted = LayerSkipModel.Load(tiny.Quantised, new() { Dtype = Dtype.F16 });
            Equal((converted.Info.WeightsFormat, converted.Info.Dtype), ("f16", Dtype.F16), "converted");
        }),
        Case("encodes and decodes", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            Equal(model.Decode(model.Encode("Füchse, 狐!")), "Füchse, 狐!", "there and back");
            Equal(model.Decode([256, 104, 105]), "hi", "special tokens are left out");
            Equal(model.Decode([256, 104, 105], showSpecial: true), "<s>hi", "or shown");
        }),
        Case("reads special tokens in a text, or its characters, as asked", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            int id(char character) => model.Encode($"{character}").Single();
            Same(model.Encode("a</s>"), [id('a'), 257], "as in a prompt");
            Same(model.Encode("a</s>", parseSpecial: false), "a</s>".Select(id), "of unknown origin");
        }),
        Case("hands out its tokenizer as one of Microsoft.ML.Tokenizers", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            Microsoft.ML.Tokenizers.Tokenizer tokenizer = model.Tokenizer!;
            Same(tokenizer.EncodeToIds("a狐</s>"), model.Encode("a狐</s>"), "ids");
            Equal(tokenizer.CountTokens("a狐</s>"), 5, "their number");
            Equal(tokenizer.Decode(model.Encode("a狐</s>")), "a狐", "text without special tokens");
            var tokens = tokenizer.EncodeToTokens("a狐</s>", out string? normalized);
            Equal(normalized, null, "the text is not changed");
            Same(tokens.Select(token => "a狐</s>"[token.Offset]), ["a", "", "", "狐", "</s>"], "what each stands for");
            Equal(tokenizer.GetIndexByTokenCount("a狐</s>", 3, out _, out int count), 1, "no part of a character");
            Equal(count, 1, "which is one token");
            using var without = LayerSkipModel.Load(tiny.WithoutTokenizer);
            Equal(without.Tokenizer, null, "none");
        }),
        Case("refuses what is not there or not a model", () =>
        {
            Refused(() => LayerSkipModel.Load("nowhere"), "nowhere", "not found");
            Refused(() => LayerSkipModel.Load(Path.Combine(tiny.Path, "config.json")), "config.json", ".gguf");
            Refused(() => LayerSkipModel.Load(Path.GetDirectoryName(tiny.Path)!), "config.json");
            foreach (int threads in new[] { int.MinValue, -1, 0, 1025, 30_000, int.MaxValue })
            {
                Refused(() => LayerSkipModel.Load(tiny.Path, new() { Threads = threads }), "Threads", "1 to 1024");
            }

            Throws<ArgumentNullException>(() => LayerSkipModel.Load(null!));
        }),
        Case("refuses values that its enumerations do not define", () =>
        {
            Throws<ArgumentOutOfRangeException>(() => LayerSkipModel.Load(tiny.Path, new() { Device = (Device)5 }));
            Throws<ArgumentOutOfRangeException>(() => LayerSkipModel.Load(tiny.Path, new() { Device = (Device)(-1) }));
            Throws<ArgumentOutOfRangeException>(() => LayerSkipModel.Load(tiny.Path, new() { Dtype = (Dtype)5 }));
            using var model = LayerSkipModel.Load(tiny.Path);
            Throws<ArgumentOutOfRangeException>(() => model.Generate([1], new() { Strategy = (Strategy)4 }));
            Throws<ArgumentOutOfRangeException>(() => model.StreamAsync([1], new() { Strategy = (Strategy)(-1) }));
        }),
        Case("lists every fault of the files", () =>
        {
            var fault = Throws<LayerSkipException>(() => LayerSkipModel.Load(Path.GetDirectoryName(tiny.Path)!));
            True(fault.Faults.Count >= 2, $"config.json and weights are missing: {fault.Message}");
        }),
        Case("says so where there is no tokenizer", () =>
        {
            using var model = LayerSkipModel.Load(tiny.WithoutTokenizer);
            True(!model.Info.HasTokenizer, "none");
            Refused(() => model.Encode("text"), "no tokenizer");
            Refused(() => model.Decode([1]), "no tokenizer");
            Refused(() => model.Generate("text"), "no tokenizer");
            Refused(() => model.StreamAsync("text"), "no tokenizer");
            Refused(() => model.Generate([1], new() { StopTexts = ["x"] }), "tokenizer");
            True(model.Generate([1], new() { MaxNewTokens = 2 }).Text is null, "no text");
        }),
        Case("frees all that it loaded, and refuses to run then", async () =>
        {
            await LeavesNoTensor(() =>
            {
                var model = LayerSkipModel.Load(tiny.Path);
                model.Generate("once");
                model.Dispose();
                model.Dispose();
                Throws<ObjectDisposedException>(() => model.Generate("once"));
                Throws<ObjectDisposedException>(() => model.StreamAsync("once"));
                return Task.CompletedTask;
            });
        }),
    ]);
}
