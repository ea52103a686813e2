using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

internal static class GenerateTests
{
    private static readonly GenerateOptions Plain = new()
    {
        Strategy = Strategy.Autoregressive,
        MaxNewTokens = 40,
        IgnoreEos = true,
    };

    public static Test All(Tiny tiny) => Runner.TestList("generate", [
        Case("greedy self-speculation writes what autoregressive decoding writes", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            foreach (var exit in (int[])[1, 2, 3])
            {
                foreach (var length in (int[])[1, 2, 5])
                {
                    var options = Plain with
                    {
                        Strategy = Strategy.SelfSpeculative,
                        ExitLayer = exit,
                        DraftLength = length,
                    };
                    var speculative = model.Generate("Once upon", options);
                    Same(speculative.TokenIds, model.Generate("Once upon", Plain).TokenIds, $"E = {exit}, d = {length}");
                    Equal(
                        1 + speculative.Statistics.Rounds.Sum(round => round.Accepted + 1),
                        speculative.TokenIds.Count,
                        "rounds tell where the tokens come from");
                }
            }
        }),
        Case("an empty prompt is the beginning-of-text token, where there is one", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Chat);
            int[] beginning = model.Encode("<s>");
            Equal(beginning.Length, 1, "one token");
            var expected = model.Generate(beginning, Plain).TokenIds;
            Same(model.Generate("", Plain).TokenIds, expected, "of a text");
            Same(model.Generate((int[])[], Plain).TokenIds, expected, "of ids");
            Equal(model.Lens("").Tokens.Count, 1, "a lens");
        }),
        Case("an adapter drafts, from a file or the model's folder: the same text, and its own statistics", () =>
        {
            var folder = Directory.CreateTempSubdirectory("layerskip-");
            try
            {
                var file = Path.Combine(folder.FullName, "adapter.safetensors");
                using (var loaded = CheckpointModule.load(tiny.Path, null, LayerSkip.Device.Cpu).ResultValue)
                {
                    var exit = ExitLayer.TryCreate(4, 2).ResultValue;
                    using var adapter = AdapterModule.initial(1, 3, AdapterForm.Block, exit, loaded.Weights);
                    True(AdapterFile.write(file, loaded.Weights, adapter).IsOk, "written");
                }

                using var model = LayerSkipModel.Load(tiny.Path, new() { AdapterFile = file });
                foreach (var drafter in (Drafter[])[Drafter.Adapter, Drafter.Lookup])
                {
                    var drafted = model.Generate("Once upon", Plain with { Strategy = Strategy.Auto, Drafter = drafter });
                    Same(drafted.TokenIds, model.Generate("Once upon", Plain).TokenIds, $"{drafter}");
                }

                var own = model.Generate("Once upon", Plain with { Strategy = Strategy.Auto, Drafter = Drafter.Adapter });
                Same(own.Statistics.Sources.Select(source => source.Source), ["adapter"], "sources");
                var byAdapter = Plain with { Strategy = Strategy.Auto, Drafter = Drafter.Adapter };
                var elsewhere = Throws<LayerSkipException>(() => model.Generate("a", byAdapter with { ExitLayer = 1 }));
                True(elsewhere.Message.Contains("it must be 2", StringComparison.Ordinal), elsewhere.Message);
                using var without = LayerSkipModel.Load(tiny.Path);
                var none = Throws<LayerSkipException>(() => without.Generate("a", byAdapter));
                True(none.Message.Contains("has no adapter", StringComparison.Ordinal), none.Message);
            }
            finally
            {
                folder.Delete(recursive: true);
            }
        }),
        Case("every drafter, policy and stop rule writes what autoregressive decoding writes", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var drafts = Plain with { Strategy = Strategy.Auto };
            GenerateOptions[] ways =
            [
                drafts with { Drafter = Drafter.Exit },
                drafts with { Drafter = Drafter.Lookup },
                drafts with { Drafter = Drafter.Cascade },
                drafts with { Drafter = Drafter.Layers, LayersKept = [1, 3] },
                drafts with { LayersKept = [1, 2, 4], StopRule = StopRule.AdaEdl },
                drafts with { Policy = DraftPolicy.Static },
                drafts with { Policy = DraftPolicy.Auto },
                drafts with { Policy = DraftPolicy.Auto, Drafter = Drafter.Lookup },
                drafts with { Policy = DraftPolicy.Auto, ExitLayer = 1, DraftLength = 2 },
                drafts with { Policy = DraftPolicy.Del },
                drafts with { StopRule = StopRule.Never },
                drafts with { StopRule = StopRule.Confidence(0.1) },
                drafts with { StopRule = StopRule.DraftVerify },
                drafts with { StopRule = StopRule.Del },
                drafts with { StopRule = StopRule.Marginal, DraftVocabulary = DraftVocabulary.First(20) },
                drafts with { DraftVocabulary = DraftVocabulary.All },
                drafts with { DraftVocabulary = DraftVocabulary.Auto },
            ];
            var plain = model.Generate("Once upon", Plain).TokenIds;
            foreach (var way in ways)
            {
                Same(model.Generate("Once upon", way).TokenIds, plain, $"{way}");
            }

            var looked = model.Generate("Once upon", drafts with { Drafter = Drafter.Lookup }).Statistics.Sources;
            True(looked.All(source => source.Source == "lookup"), "sources");
        }),
        Case("what drafts in vain is refused in the names of the options", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            void Refused(GenerateOptions options, params string[] words)
            {
                var message = Throws<LayerSkipException>(() => model.Generate("a", options)).Message;
                foreach (var word in words)
                {
                    True(message.Contains(word, StringComparison.Ordinal), $"\"{word}\" is in: {message}");
                }
            }

            Refused(Plain with { Policy = DraftPolicy.Auto }, "Policy is Auto", "drafts nothing");
            Refused(Plain with { Strategy = Strategy.EarlyExit, StopRule = StopRule.Del }, "StopRule is del", "EarlyExit");
            Refused(new() { Policy = DraftPolicy.Auto, StopRule = StopRule.Del }, "StopRule is del", "policy auto");
            Refused(new() { Policy = DraftPolicy.Del, ExitLayer = 2 }, "ExitLayer is 2", "policy del");
            Refused(new() { Drafter = Drafter.Layers, LayersKept = [2, 3] }, "LayersKept", "layer 1");
            Refused(new() { Drafter = Drafter.Layers }, "recommends no layers");
            Refused(new() { Drafter = Drafter.Lookup, DraftVocabulary = DraftVocabulary.First(9) }, "DraftVocabulary is 9", "lookup");
            Refused(new() { DraftVocabulary = DraftVocabulary.First(0) }, "DraftVocabulary is 0");
            Refused(new() { DraftVocabulary = DraftVocabulary.OfFile("nowhere.txt") }, "nowhere.txt", "not found");
            Refused(new() { StopRule = StopRule.Confidence(1.5), MaxNewTokens = 0 }, "StopRule is confidence:1.5", "MaxNewTokens is 0");
        }),
        Case("auto follows the model's recommendation", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var auto = model.Generate("a", Plain with { Strategy = Strategy.Auto, Policy = DraftPolicy.Static });
            var named = model.Generate(
                "a", Plain with { Strategy = Strategy.SelfSpeculative, ExitLayer = 2, DraftLength = 3 });
            True(auto.Statistics.DraftRoundCount > 0, "it speculates");
            Same(auto.Statistics.Rounds, named.Statistics.Rounds, "with the recommended exit and length");
            var alone = model.Generate("a", Plain with { Strategy = Strategy.SelfSpeculative });
            Same(alone.Statistics.Rounds, named.Statistics.Rounds, "as where nothing but the strategy is named");
        }),
        Case("early exit is another text, of the early layers alone", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var early = model.Generate("Once", Plain with { Strategy = Strategy.EarlyExit, ExitLayer = 1 });
            True(!early.TokenIds.SequenceEqual(model.Generate("Once", Plain).TokenIds), "differs");
            Equal(early.Statistics.Rounds.Count, 0, "no rounds");
        }),
        Case("statistics and times agree with each other", async () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var result = await model.GenerateAsync("Once upon", Plain with { Strategy = Strategy.SelfSpeculative });
            Same(result.TokenIds, (await model.GenerateAsync(model.Encode("Once upon"), Plain)).TokenIds, "text");
            var (statistics, timings) = (result.Statistics, result.Timings);
            var drafting = statistics.Rounds.Where(round => round.Drafted > 0).ToList();
            Equal(statistics.DraftRoundCount, drafting.Count, "rounds that drafted");
            Equal(statistics.MeanAcceptanceLength, 1.0 + drafting.Average(round => round.Accepted), "mean acceptance length");
            Same(
                statistics.AcceptanceHistogram,
                Enumerable.Range(0, statistics.AcceptanceHistogram.Count).Select(kept => drafting.Count(round => round.Accepted == kept)),
                "histogram");
            True(timings is { TimeToFirstToken.Ticks: > 0, Draft.Ticks: > 0, Verify.Ticks: > 0, Policy.Ticks: >= 0 }, "times");
            True(timings.Draft + timings.Verify + timings.Policy <= timings.Decode, "parts of the whole");
            True(Math.Abs(timings.TokensPerSecond - (39 / timings.Decode.TotalSeconds)) < 1, "rate");
        }),
        Case("the text is that of the tokens", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var result = model.Generate("Once", Plain);
            Equal(result.Text, model.Decode(result.TokenIds), "text");
            Same(result.PromptIds, model.Encode("Once"), "prompt");
            Equal(result.FinishReason, FinishReason.Length, "reason");
        }),
        Case("stop tokens end the text and are no part of it", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var whole = model.Generate("Once", Plain).TokenIds;
            var stop = whole[7];
            var cut = model.Generate("Once", Plain with { StopTokenIds = [stop] });
            Same(cut.TokenIds, whole.TakeWhile(id => id != stop), "up to the stop token");
            Equal(cut.FinishReason, FinishReason.Stop, "reason");
        }),
        Case("stop texts end the text and are no part of it", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var whole = model.Generate("Once", Plain).Text!;
            var stop = $"{whole.First(char.IsAscii)}";
            var cut = model.Generate("Once", Plain with { StopTexts = [stop] });
            Equal(cut.Text, whole[..whole.IndexOf(stop, StringComparison.Ordinal)], "text");
            Equal(cut.FinishReason, FinishReason.Stop, "reason");
        }),
        Case("a seed draws the same text again, another seed another", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            IReadOnlyList<int> Drawn(long seed) =>
                model.Generate("Once", Plain with { Temperature = 1.5, TopK = 50, TopP = 0.95, Seed = seed }).TokenIds;
            Same(Drawn(1), Drawn(1), "seed 1");
            True(!Drawn(1).SequenceEqual(Drawn(2)), "seed 2");
        }),
        Case("penalties and biases hold in every strategy, and min-p leaves the most probable", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var plain = model.Generate("Once upon", Plain).TokenIds;
            foreach (var options in (GenerateOptions[])
                [
                    Plain with { RepetitionPenalty = 1.8 },
                    Plain with { PresencePenalty = 1.5, FrequencyPenalty = 0.5 },
                    Plain with { LogitBias = new Dictionary<int, double> { [plain[0]] = -100, [plain[1]] = -100 } },
                ])
            {
                var made = model.Generate("Once upon", options).TokenIds;
                True(!made.SequenceEqual(plain), $"{options}");
                Same(model.Generate("Once upon", options with { Strategy = Strategy.SelfSpeculative }).TokenIds, made, $"{options}");
            }

            Same(model.Generate("Once upon", Plain with { Temperature = 1, MinP = 1 }).TokenIds, plain, "only the most probable");
        }),
        Case("log-probabilities come with each token, and with the result", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var plain = model.Generate("Once upon", Plain with { LogProbs = 3 });
            Equal(plain.LogProbs.Count, plain.TokenIds.Count, "of each token");
            Equal(model.Generate("Once upon", Plain).LogProbs.Count, 0, "only where they are asked for");
            foreach (var (id, told) in plain.TokenIds.Zip(plain.LogProbs))
            {
                Equal((told.Top.Count, told.Top[0].Id, told.Top[0].LogProb), (3, id, told.LogProb), "greedy text is of the likeliest");
                True(told.LogProb < 0 && told.Top[1].LogProb <= told.LogProb, "in order");
            }

            var drafted = model.Generate("Once upon", Plain with { Strategy = Strategy.SelfSpeculative, LogProbs = 3 });
            // In float64, which libtorch multiplies, a row's last bits depend on the rows beside it.
            True(
                drafted.LogProbs.Zip(plain.LogProbs).All(pair => Math.Abs(pair.First.LogProb - pair.Second.LogProb) < 1e-9),
                "the same whatever drafts");
        }),
        Case("ends where the context does", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            Equal(model.Generate(new int[90], Plain).TokenIds.Count, 6, "tokens");
        }),
        Case("refuses what it cannot do, in one line", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            Refused(() => model.Generate("a", new() { Temperature = -1 }), "Temperature is -1");
            Refused(() => model.Generate("a", new() { TopP = 0 }), "TopP is 0");
            Refused(() => model.Generate("a", new() { TopK = -1 }), "TopK is -1");
            Refused(() => model.Generate("a", new() { MinP = double.NaN }), "MinP is NaN");
            Refused(() => model.Generate("a", new() { RepetitionPenalty = 0 }), "RepetitionPenalty is 0");
            Refused(() => model.Generate("a", new() { PresencePenalty = 3, FrequencyPenalty = -3 }), "PresencePenalty is 3", "FrequencyPenalty is -3");
            Refused(() => model.Generate("a", new() { LogitBias = new Dictionary<int, double> { [3] = 101 } }), "LogitBias is 101");
            Refused(() => model.Generate("a", new() { LogitBias = new Dictionary<int, double> { [999] = 1 } }), "999");
            Refused(() => model.Generate("a", new() { LogProbs = 21 }), "LogProbs is 21");
            Throws<ArgumentNullException>(() => new GenerateOptions { LogitBias = null! });
            Refused(() => model.Generate("a", new() { ExitLayer = 4 }), "ExitLayer is 4", "1 to 3");
            Refused(() => model.Generate("a", Plain with { ExitLayer = 0 }), "ExitLayer is 0");
            Refused(() => model.Generate("a", new() { DraftLength = 0 }), "DraftLength is 0");
            Refused(() => model.Generate("a", new() { MaxNewTokens = 0 }), "MaxNewTokens is 0");
            using var without = LayerSkipModel.Load(tiny.WithoutTokenizer);
            Refused(() => without.Generate([]), "prompt is empty");
            Refused(() => model.Generate([258]), "258");
            Refused(() => model.Generate(new int[96]), "96");
            Refused(() => model.Generate("a", new() { StopTokenIds = [-1] }), "-1");
            Refused(() => model.Generate("a", new() { Temperature = -1, TopP = 2, ExitLayer = 9 }), "Temperature", "TopP", "ExitLayer");
            Throws<ArgumentNullException>(() => model.Generate((string)null!));
            Throws<ArgumentOutOfRangeException>(() => model.Generate("a", new() { Strategy = (Strategy)9 }));
        }),
        Case("a cancelled one stops and leaves no tensor", async () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path, new() { TextsKept = 0 });
            await LeavesNoTensor(() =>
            {
                Throws<OperationCanceledException>(() => model.Generate("Once", Plain, new(canceled: true)));
                return Task.CompletedTask;
            });
        }),
        Case("leaves no tensor", async () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path, new() { TextsKept = 0 });
            await LeavesNoTensor(() =>
            {
                model.Generate("Once", new() { MaxNewTokens = 20 });
                model.Generate("Once", Plain);
                model.Generate("Once", Plain with { Strategy = Strategy.EarlyExit, Temperature = 1 });
                return Task.CompletedTask;
            });
        }),
    ]);
}
