using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

internal static class StudyTests
{
    private static readonly SweepOptions Small =
        new() { Prompts = ["Once", "xyz"], ExitLayers = [1, 2], DraftLengths = [1, 2], MaxNewTokens = 6, Runs = 2, Seed = 3 };

    public static Test All(Tiny tiny) => Runner.TestList("study", [
        Case("a sweep has a row for each way, and every text is plain decoding's", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            List<StudyProgress> told = [];
            var sweep = model.Sweep(Small, new Told<StudyProgress>(told.Add));
            Same(
                sweep.Rows.Select(row => (row.Strategy, row.ExitLayer, row.DraftLength)),
                [
                    ("autoregressive", null, null),
                    ("prompt-lookup", null, 1),
                    ("prompt-lookup", null, 2),
                    ("self-speculative", 1, 1),
                    ("self-speculative", 1, 2),
                    ("self-speculative", 2, 1),
                    ("self-speculative", 2, 2),
                ],
                "rows");
            Equal((sweep.TextCount, sweep.DifferentTextCount), (28, 0), "texts");
            Same(told.Select(at => (at.Done, at.Total)), [(0, 4), (1, 4), (2, 4), (3, 4)], "progress");
            foreach (var row in sweep.Rows)
            {
                True(row.MillisecondsPerToken is { Value: > 0, Low: > 0, High: > 0 }, "time");
                True(row.TokensPerSecond.Value > 0 && row.TimeToFirstToken > TimeSpan.Zero && row.SpeedUp.Value > 0, "rates");
                Equal(row.ExitLayer is null, row.BreakEvenAcceptance is null, "what exits must come to");
                Equal(row.Strategy == "prompt-lookup", row.PredictedSpeedUp is null, "the cost model knows no lookup");
                Equal(row.DifferentTextCount, 0, "its texts");
                True(row.ExitLayer is null || row.Statistics.DraftTokenCount > 0, "what was drafted");
            }

            True(sweep.Best is null || sweep.Rows.Any(row => ReferenceEquals(row, sweep.Best)), "the best is one of them");
        }),
        Case("a sweep is ended between prompts, goes on from its file, and refuses what it cannot do", async () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var folder = Directory.CreateTempSubdirectory("layerskip-");
            try
            {
                var options = Small with { RunFile = Path.Combine(folder.FullName, "sweep.jsonl"), StopsAtEos = true };
                using CancellationTokenSource source = new();
                var second = new Told<StudyProgress>(at =>
                {
                    if (at.Done == 1)
                    {
                        source.Cancel();
                    }
                });
                await Cancelled(() => model.SweepAsync(options, second, source.Token));
                List<StudyProgress> told = [];
                var sweep = await model.SweepAsync(options, new Told<StudyProgress>(told.Add));
                Equal(told[0].Done, 1, "the first was done");
                Equal(sweep.TextCount, 28, "all of it");
            }
            finally
            {
                folder.Delete(recursive: true);
            }

            Equal(Throws<LayerSkipException>(() => model.Sweep(Small with { ExitLayers = [4] })).OptionName, "ExitLayers", "no such layer");
            Equal(Throws<LayerSkipException>(() => model.Sweep(Small with { Runs = 0 })).OptionName, "Runs", "no run");
        }),
        Case("a certificate and a replay end when they are cancelled", async () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            using CancellationTokenSource first = new();
            var judged = 0;
            var stopping = AcceptanceRule.Exact.When(_ =>
            {
                judged++;
                first.Cancel();
                return true;
            });
            await Cancelled(() => model.CertifyAsync(new() { Acceptance = stopping, ExitLayers = [1, 3], DraftLengths = [2] }, first.Token));
            True(judged is > 0 and < 8, $"in the round under way: {judged} drafts");
            await Cancelled(() => Task.Run(() => model.Certify(cancellationToken: new(canceled: true))));

            // Rounds are timed for seconds.
            using CancellationTokenSource soon = new(TimeSpan.FromMilliseconds(50));
            await Cancelled(() => model.ReplayAsync("Once", cancellationToken: soon.Token));
            Throws<OperationCanceledException>(() => model.Replay("Once", cancellationToken: new(canceled: true)));
        }),
        Case("a certificate holds, test by test", async () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            CertifyOptions options = new() { Prompts = ["Once"], ExitLayers = [1, 3], DraftLengths = [2], MaxNewTokens = 8, Seed = 5 };
            var certificate = model.Certify(options);
            Equal(certificate.IsExact, true, "it holds");
            Same(certificate.Tests.Select(test => test.Name), ["T1", "T2", "T3", "T4", "T5"], "tests");
            Equal(certificate.ExactCount + certificate.TieCount + certificate.ViolationCount, certificate.Tests.Sum(test => test.CheckCount), "findings");
            Equal(certificate.ExactCount, certificate.Tests.Sum(test => test.ExactCount), "exact ones");
            Equal(certificate.Tests.Sum(test => test.TieCount + test.ViolationCount), certificate.TieCount, "and no other");
            True(certificate.WorstGap <= certificate.Gap, "gaps");
            Equal((await model.CertifyAsync(options)).ExactCount, certificate.ExactCount, "on a thread of its own");
            Equal(Throws<LayerSkipException>(() => model.Certify(options with { MaxNewTokens = 0 })).OptionName, "MaxNewTokens", "refused");
            Equal(Throws<LayerSkipException>(() => model.Certify(options with { DraftLengths = [0] })).OptionName, "DraftLengths", "refused");
        }),
        Case("perplexity is measured at every exit", async () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var file = Path.GetTempFileName();
            try
            {
                File.WriteAllText(file, string.Concat(Enumerable.Repeat("The fox and the hen. ", 12)));
                List<StudyProgress> told = [];
                EvaluateOptions options = new() { ExitLayers = [2, 4], Window = 32, Limit = 3, Seed = 2 };
                var result = model.Evaluate("perplexity", [file], options, new Told<StudyProgress>(told.Add));
                Equal((result.Task, result.ItemCount), ("perplexity", 3), "what");
                Same(result.Exits.Select(exit => exit.Layer), [2, 4], "where");
                True(result.Exits.All(exit => exit.Metrics["cross_entropy"] is { Value: > 0, Low: not null, High: not null }), "how much");
                True(result.Remarks.Count > 0, "and what to know of it");
                Equal(result.Chance is null or > 0, true, "guessing");
                Equal(told.Count, 3, "progress");
                var more = await model.EvaluateAsync("perplexity", [file], new() { MaxChars = 100, NoBos = true });
                Same(more.Exits.Select(exit => exit.Layer), [1, 2, 3, 4], "all exits by itself");
                await Cancelled(() => model.EvaluateAsync("perplexity", [file], null, null, new(canceled: true)));
                Refused(() => model.Evaluate("perplexity", [file], options with { Shots = -1 }), "Shots");
                Refused(() => model.Evaluate("perplexity", [file], options with { Documents = true, MaxChars = 3 }), "documents");
                var unheeded = Throws<LayerSkipException>(
                    () => model.Evaluate("perplexity", [file], new() { Shots = 2, ShotsFrom = file, MaxNewTokens = 3, Window = 32 }));
                Same(unheeded.Faults.Select(fault => fault.OptionName), ["Shots", "ShotsFrom", "MaxNewTokens"], unheeded.Message);
                True(unheeded.Message.Contains("with task perplexity", StringComparison.Ordinal), unheeded.Message);
                Refused(() => model.Evaluate("guessing", [file], new() { ShotsFrom = file, MaxNewTokens = 3, RunFile = file }), "perplexity", "gsm8k");
            }
            finally
            {
                File.Delete(file);
            }
        }),
        Case("a model is written for other engines, and read again", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var folder = Directory.CreateTempSubdirectory("layerskip-");
            string At(string name) => Path.Combine(folder.FullName, name);
            try
            {
                var whole = model.Export(At("whole"), new() { Dtype = Dtype.F32 });
                Equal((whole.Output, whole.WeightsFormat, whole.LayerCount), (At("whole"), "f32", 4), "what");
                True(whole is { TensorCount: > 30, ByteCount: > 1000 } && whole.Remarks.Count == 0, "how much");
                using (var again = LayerSkipModel.Load(At("whole")))
                {
                    Equal((again.Info.LayerCount, again.Info.RecommendedExitLayer), (4, 2), "the same model");
                }

                var early = model.Export(At("early.gguf"), new() { Layers = 2, Dtype = Dtype.F16 });
                using (var again = LayerSkipModel.Load(At("early.gguf")))
                {
                    Equal((again.Info.LayerCount, early.LayerCount), (2, 2), "its first layers");
                }

                using var wide = LayerSkipModel.Load(tiny.Quantised);
                var mixed = wide.Export(At("mixed"), new() { Format = ExportFormat.Gguf, Mix = "q8_0" });
                Equal(mixed.WeightsFormat, "q8_0", "quantised");
                Refused(() => model.Export(At("a.gguf"), new() { Mix = "q9" }), "Mix is q9", "q4_k_m");
                Refused(() => model.Export(At("a"), new() { Mix = "q8_0", Format = ExportFormat.HuggingFace }), "q8_0");
                Refused(() => model.Export(At("a.gguf"), new() { Mix = "q8_0", Dtype = Dtype.F16 }), "Mix", "F16");
                Refused(() => model.Export(At("a"), new() { Layers = 5 }), "Layers is 5");
                Refused(() => model.Export(At("whole")), "not empty");
            }
            finally
            {
                folder.Delete(recursive: true);
            }
        }),
    ]);
}
