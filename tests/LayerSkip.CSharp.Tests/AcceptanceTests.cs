using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

/// <summary>Rules of which drafts are kept.</summary>
internal static class AcceptanceTests
{
    private static readonly GenerateOptions Plain = new() { Strategy = Strategy.Autoregressive, MaxNewTokens = 40, IgnoreEos = true };

    private static readonly GenerateOptions Drafts = Plain with { Strategy = Strategy.SelfSpeculative };

    public static Test All(Tiny tiny) => Runner.TestList("acceptance", [
        Case("lossless rules write the whole model's text, and the result says so", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var plain = model.Generate("Once upon", Plain).TokenIds;
            foreach (var rule in (AcceptanceRule[])
                [
                    AcceptanceRule.Exact,
                    AcceptanceRule.Exact.When(draft => draft.Place < 1),
                    AcceptanceRule.Exact.And(AcceptanceRule.LossyTopK(3)),
                    AcceptanceRule.LossyAlways.And(AcceptanceRule.Exact),
                    AcceptanceRule.Exact.Or(AcceptanceRule.Exact.When(_ => false)),
                    AcceptanceRule.Lossy(_ => false).And(AcceptanceRule.Exact),
                ])
            {
                foreach (var drafter in (Drafter?[])[null, Drafter.Lookup, Drafter.From(context => [context.TokenIds.Span[^1], 7])])
                {
                    var made = model.Generate("Once upon", Drafts with { Acceptance = rule, Drafter = drafter });
                    Same(made.TokenIds, plain, $"{rule}, {drafter}");
                    Equal((rule.IsLossless, made.IsLossless), (true, true), $"{rule}");
                    Equal((made.Statistics.AcceptanceRule, made.Statistics.LooseDraftTokenCount), ($"{rule}", 0), "told");
                    True(!$"{rule}".StartsWith("lossy", StringComparison.Ordinal), $"{rule}");
                }
            }

            var first = model.Generate("Once upon", Drafts with { Acceptance = AcceptanceRule.Exact.When(draft => draft.Place < 1) });
            True(first.Statistics.Rounds.All(round => round.Accepted <= 1), "no more than the first");
        }),
        Case("lossy rules keep more, and the name, the result and its statistics say so", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var plain = model.Generate("Once upon", Plain);
            Equal(plain.IsLossless, true, "the whole model's");
            Equal(model.Generate("Once upon", Plain with { Strategy = Strategy.EarlyExit }).IsLossless, false, "early layers alone");
            var always = model.Generate("Once upon", Drafts with { Acceptance = AcceptanceRule.LossyAlways });
            Equal(always.Statistics.DraftAcceptanceRate, 1.0, "all are kept");
            True(always.Statistics.LooseDraftTokenCount > 0, "most would not have been");
            True(!always.TokenIds.SequenceEqual(plain.TokenIds), "another text");
            foreach (var (rule, name) in (IEnumerable<(AcceptanceRule, string)>)
                [
                    (AcceptanceRule.LossyAlways, "lossy always"),
                    (AcceptanceRule.LossyTopK(5), "lossy top-k:5"),
                    (AcceptanceRule.LossyRatio(0.5), "lossy ratio:0.5"),
                    (AcceptanceRule.LossyTypical(), "lossy typical:0.09,0.3"),
                    (AcceptanceRule.Lossy(draft => draft.Probability > 0.1), "lossy a function"),
                    (AcceptanceRule.Exact.Or(AcceptanceRule.LossyTopK(2)), "lossy exact or top-k:2"),
                    (AcceptanceRule.LossyTopK(2).When(draft => draft.Position % 2 == 0), "lossy top-k:2 and a condition"),
                ])
            {
                var made = model.Generate("Once upon", Drafts with { Acceptance = rule });
                Equal(($"{rule}", made.Statistics.AcceptanceRule), (name, name), "its name");
                Equal((rule.IsLossless, made.IsLossless), (false, false), name);
                True(made.Statistics.LooseDraftTokenCount <= made.Statistics.AcceptedDraftTokenCount, "of those that are kept");
            }

            Same(model.Generate("Once upon", Drafts with { Acceptance = AcceptanceRule.LossyTopK(1) }).TokenIds, plain.TokenIds, "one is greedy");
            var byName = model.Generate("Once upon", Plain with { Strategy = Strategy.Auto, Acceptance = AcceptanceRule.LossyAlways });
            True(byName.Statistics.DraftRoundCount > 0 && !byName.IsLossless, "one that is named drafts");
        }),
        Case("a rule sees the draft and what the whole model says there", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var whole = model.Generate("Once upon", Plain with { LogProbs = 3 });
            List<JudgedDraft> seen = [];
            var looking = AcceptanceRule.Exact.When(draft =>
            {
                Equal(draft.Law.Length, 258, "all tokens");
                seen.Add(draft);
                return true;
            });
            var made = model.Generate("Once upon", Drafts with { Acceptance = looking, LogProbs = 3 });
            Same(made.TokenIds, whole.TokenIds, "text");
            Equal(seen.Count, made.Statistics.AcceptedDraftTokenCount, "only what exact acceptance keeps comes to the condition");
            var prompt = made.PromptIds.Count;
            foreach (var draft in seen)
            {
                var told = whole.LogProbs[draft.Position - prompt];
                Equal(draft.Draft.Id, whole.TokenIds[draft.Position - prompt], "the token, where it stands");
                True(draft is { IsExact: true, Place: >= 0, Draft.Probability: null or > 0 }, "kept");
                True(Math.Abs(Math.Log(draft.Probability) - told.LogProb) < 1e-6, "how probable");
                Same(draft.Likeliest(3).Select(top => top.Id), told.Top.Select(top => top.Id), "the likeliest");
                True(Math.Abs(draft.Likeliest(1)[0].LogProb - told.LogProb) < 1e-6, "with their probabilities");
                True(draft.Entropy > 0 && draft.Entropy <= Math.Log(258), "entropy");
            }

            List<JudgedDraft> late = [];
            model.Generate("Once", Drafts with { Acceptance = AcceptanceRule.Lossy(draft => { late.Add(draft); return true; }) });
            Throws<InvalidOperationException>(() => _ = late[0].Law);
            JudgedDraft own = new() { Draft = new() { Id = 1 }, Place = 2, Position = 9, IsExact = true, Law = new double[] { 0.25, 0.75 } };
            Equal((own.Probability, own.Likeliest(9).Count, own.Place), (0.75, 2, 2), "a test makes one");
        }),
        Case("what a rule throws ends the text that asked for it", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var broken = AcceptanceRule.Lossy(_ => throw new NotSupportedException("mine"));
            Equal(Throws<NotSupportedException>(() => model.Generate("Once", Drafts with { Acceptance = broken })).Message, "mine", "it");
            Equal(model.Generate("Once", Plain).TokenIds.Count, 40, "and no other");
        }),
        Case("drawn texts keep their law under lossless rules", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var warm = Plain with { Temperature = 0.7, TopK = 3, MaxNewTokens = 2 };
            Dictionary<int, int> Second(GenerateOptions options) =>
                Enumerable.Range(0, 600)
                    .Select(seed => model.Generate("Once", options with { Seed = seed }).TokenIds)
                    .GroupBy(ids => ids[1])
                    .ToDictionary(group => group.Key, group => group.Count());
            var own = Second(warm);
            var ruled = Second(warm with
            {
                Strategy = Strategy.SelfSpeculative,
                DraftLength = 2,
                Acceptance = AcceptanceRule.Exact.When(draft => draft.Draft.Id % 2 == 0),
            });
            // Five standard deviations of a share of 600.
            foreach (var id in own.Keys.Union(ruled.Keys))
            {
                var (a, b) = (own.GetValueOrDefault(id) / 600.0, ruled.GetValueOrDefault(id) / 600.0);
                True(Math.Abs(a - b) <= 0.005 + (5 * Math.Sqrt(2 * Math.Max(a, b) * (1 - Math.Min(a, b)) / 600)), $"{id}: {a} and {b}");
            }
        }),
        Case("a lossy rule has no certificate", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            CertifyOptions options = new() { Prompts = ["Once"], ExitLayers = [2], DraftLengths = [2], MaxNewTokens = 8 };
            var exact = model.Certify(options with { Acceptance = AcceptanceRule.Exact.When(draft => draft.Place < 1) });
            Equal((exact.IsExact, exact.IsLossless, exact.AcceptanceRule), (true, true, "exact and a condition"), "one that ends rounds sooner has");
            var lossy = model.Certify(options with { Acceptance = AcceptanceRule.LossyAlways });
            Equal((lossy.IsExact, lossy.IsLossless, lossy.AcceptanceRule), (false, false, "lossy always"), "none");
            True(lossy.ViolationCount > 0, "and these texts show it");
            var lucky = model.Certify(options with { Acceptance = AcceptanceRule.LossyTopK(1) });
            Equal(lucky.IsExact, false, "nor where these texts do not");
            Equal(Throws<LayerSkipException>(() => model.Certify(options with { Acceptance = AcceptanceRule.LossyTopK(0) })).OptionName, "Acceptance", "refused");
        }),
        Case("rules that cannot be are refused in the option's name, each fault of them", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var wrong = AcceptanceRule.LossyTopK(0).Or(AcceptanceRule.LossyRatio(2)).And(AcceptanceRule.LossyTypical(0, 1));
            foreach (var options in (GenerateOptions[])[Drafts, Drafts with { Drafter = Drafter.From(_ => []) }, Drafts with { StopRule = StopRule.From(_ => true) }])
            {
                var thrown = Throws<LayerSkipException>(() => model.Generate("a", options with { Acceptance = wrong }));
                Same(thrown.Faults.Select(fault => fault.OptionName), ["Acceptance", "Acceptance", "Acceptance"], thrown.Message);
                Equal(thrown.Code, LayerSkipErrorCode.OptionOutOfRange, "code");
            }

            Throws<ArgumentNullException>(() => AcceptanceRule.Lossy(null!));
            Throws<ArgumentNullException>(() => AcceptanceRule.Exact.When(null!));
            Throws<ArgumentNullException>(() => AcceptanceRule.Exact.And(null!));
            Throws<ArgumentNullException>(() => AcceptanceRule.Exact.Or(null!));
        }),
        Case("what a strategy has no use for is refused, all at once and in the options' names", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var every = Plain with
            {
                Drafter = Drafter.Exit,
                Policy = DraftPolicy.Static,
                StopRule = StopRule.Del,
                ExitLayer = 2,
                DraftLength = 3,
                DraftVocabulary = DraftVocabulary.First(9),
                LayersKept = [1, 3],
                Acceptance = AcceptanceRule.LossyAlways,
            };
            string[] all = ["Drafter", "Policy", "StopRule", "ExitLayer", "DraftLength", "DraftVocabulary", "LayersKept", "Acceptance"];
            void Refused(GenerateOptions options, params string[] names)
            {
                var thrown = Throws<LayerSkipException>(() => model.Generate("a", options));
                Same(thrown.Faults.Select(fault => fault.OptionName), names, thrown.Message);
                True(thrown.Faults.All(fault => fault.Code == LayerSkipErrorCode.OptionOutOfRange), "code");
            }

            Refused(every, all);
            Refused(every with { Strategy = Strategy.EarlyExit }, [.. all.Where(name => name != "ExitLayer")]);
            Refused(Plain with { DraftLength = 3 }, "DraftLength");
            Refused(Plain with { ExitLayer = 2 }, "ExitLayer");
            Refused(Plain with { Strategy = Strategy.EarlyExit, DraftLength = 3 }, "DraftLength");
            Refused(
                Plain with { Drafter = Drafter.From(_ => []), Policy = DraftPolicy.From(_ => default), StopRule = StopRule.From(_ => true) },
                "StopRule", "Drafter", "Policy");
            Equal(
                Throws<LayerSkipException>(() => model.Generate("a", Plain with { DraftLength = 3 })).Message,
                "DraftLength is 3, it must be left out with Strategy Autoregressive: it drafts nothing",
                "why");
            Equal(
                Throws<LayerSkipException>(() => model.Generate("a", Plain with { StopRule = StopRule.From(_ => true) })).Message,
                "StopRule is a function, it must be left out with Strategy Autoregressive: it drafts nothing",
                "of a function");
        }),
    ]);
}
