using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

/// <summary>Drafters, policies and stop rules that are functions of the caller's.</summary>
internal static class DraftFunctionTests
{
    private static readonly GenerateOptions Plain = new() { Strategy = Strategy.Autoregressive, MaxNewTokens = 40, IgnoreEos = true };

    private static readonly GenerateOptions Drafts = Plain with { Strategy = Strategy.Auto };

    public static Test All(Tiny tiny) => Runner.TestList("functions that draft", [
        Case("a drafter proposes what it likes, and the text is the whole model's", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var plain = model.Generate("Once upon", Plain).TokenIds;
            int[] prompt = model.Encode("Once upon");
            List<int> lengths = [];
            var knowing = Drafter.From(context =>
            {
                lengths.Add(context.TokenIds.Length);
                True(context.MaxTokens is >= 1 and <= 3, "no more than the draft length is asked for");
                return [.. plain.Skip(context.TokenIds.Length - prompt.Length).Take(context.MaxTokens)];
            });
            var known = model.Generate("Once upon", Drafts with { Drafter = knowing, DraftLength = 3 });
            Same(known.TokenIds, plain, "of who knows the text");
            Equal(known.Statistics.DraftAcceptanceRate, 1.0, "all of it is kept");
            Equal(known.Statistics.Sources.Single().Source, "drafter", "its source");
            Equal(known.Statistics.Sources.Single().MeanExitLayer, null, "which has no layer");
            True(known.Statistics.Sources.Single() is { RoundCount: > 5, DraftTokenCount: > 20, AcceptedDraftTokenCount: > 20 }, "counted");
            Same(lengths, lengths.Order(), "the text only grows");

            var guessing = Drafter.From(context => [context.TokenIds.Span[^1], 7, 7, 7, 7]);
            Same(model.Generate("Once upon", Drafts with { Drafter = guessing }).TokenIds, plain, "of who guesses");
            var silent = model.Generate("Once upon", Drafts with { Drafter = Drafter.From(_ => []) });
            Same(silent.TokenIds, plain, "of who says nothing");
            Equal(silent.Statistics.DraftRoundCount, 0, "nothing drafted");
        }),
        Case("a policy plans each round from the ones before", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var plain = model.Generate("Once upon", Plain).TokenIds;
            List<DraftRound> seen = [];
            var growing = DraftPolicy.From(rounds =>
            {
                seen = [.. rounds];
                return new DraftPlan { ExitLayer = 2, DraftLength = rounds.Count % 4 };
            });
            var grown = model.Generate("Once upon", Drafts with { Policy = growing });
            Same(grown.TokenIds, plain, "text");
            Same(
                grown.Statistics.Rounds.Select(round => round.Drafted).SkipLast(1),
                Enumerable.Range(0, grown.Statistics.Rounds.Count).Select(index => index % 4).SkipLast(1),
                "what was planned");
            var firsts = grown.Statistics.Rounds.Take(seen.Count).ToArray();
            Same(seen.Select(round => (round.Drafted, round.Accepted)), firsts.Select(round => (round.Drafted, round.Accepted)), "what it saw");
            True(seen.All(round => round.Elapsed > TimeSpan.Zero), "with times");

            var alternating = DraftPolicy.From(1, exit => new DraftPlan { ExitLayer = exit, DraftLength = 2, StopBelow = 0.01 }, (exit, _) => 4 - exit);
            foreach (var rule in (StopRule?[])[null, StopRule.Confidence(0.1), StopRule.Marginal, StopRule.From(_ => true)])
            {
                var way = Drafts with { Policy = alternating, StopRule = rule, DraftVocabulary = DraftVocabulary.First(40) };
                Same(model.Generate("Once upon", way).TokenIds, plain, $"exits in turn, {rule}");
            }
        }),
        Case("a stop rule ends drafts", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var plain = model.Generate("Once upon", Plain).TokenIds;
            List<DraftedToken> drafted = [];
            var second = StopRule.From(made =>
            {
                drafted.Add(made[^1]);
                return made.Count == 2;
            });
            Drafter?[] drafters = [null, Drafter.Exit, Drafter.Cascade, Drafter.Layers];
            foreach (var drafter in drafters)
            {
                var way = Drafts with { StopRule = second, Drafter = drafter, DraftLength = 5, LayersKept = drafter == Drafter.Layers ? [1, 3] : null };
                var result = model.Generate("Once upon", way);
                Same(result.TokenIds, plain, $"text of {drafter}");
                True(drafter == Drafter.Cascade || result.Statistics.Rounds.All(round => round.Drafted <= 2), $"two at most of {drafter}");
            }

            True(drafted.All(token => token is { Id: >= 0, Probability: > 0 and <= 1, Entropy: null }), "each with its probability");
            var uncertain = StopRule.From(made => made[^1].Entropy!.Value > 3, readsEntropy: true);
            Same(model.Generate("Once upon", Drafts with { StopRule = uncertain }).TokenIds, plain, "by entropy");
        }),
        Case("what goes with no function is refused in the options' names", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var drafter = Drafter.From(_ => []);
            var policy = DraftPolicy.From(_ => new DraftPlan { ExitLayer = 1, DraftLength = 1 });
            var rule = StopRule.From(_ => true);
            void Refused(string option, GenerateOptions options)
            {
                var thrown = Throws<LayerSkipException>(() => model.Generate("a", options));
                Equal((thrown.Code, thrown.OptionName), (LayerSkipErrorCode.OptionOutOfRange, option), thrown.Message);
            }

            Refused("Policy", new() { Drafter = drafter, Policy = DraftPolicy.Auto });
            Refused("Policy", new() { Drafter = drafter, Policy = policy });
            Refused("StopRule", new() { Drafter = drafter, StopRule = rule });
            Refused("ExitLayer", new() { Drafter = drafter, ExitLayer = 1 });
            Refused("DraftLength", new() { Drafter = drafter, DraftLength = 0 });
            Refused("Drafter", new() { Policy = policy, Drafter = Drafter.Lookup });
            Refused("ExitLayer", new() { Policy = policy, ExitLayer = 1 });
            Refused("DraftLength", new() { Policy = policy, DraftLength = 1 });
            Refused("LayersKept", new() { Policy = policy, LayersKept = [1, 2] });
            Refused("StopRule", new() { StopRule = rule, Drafter = Drafter.Lookup });
            Refused("StopRule", new() { StopRule = rule, Policy = DraftPolicy.Auto });
            Refused("Drafter", Plain with { Drafter = drafter });
            Throws<ArgumentNullException>(() => Drafter.From(null!));
            Throws<ArgumentNullException>(() => DraftPolicy.From(null!));
            Throws<ArgumentNullException>(() => StopRule.From(null!));
        }),
        Case("what a function throws ends its own text alone", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var plain = model.Generate("Once upon", Plain).TokenIds;
            foreach (var way in (GenerateOptions[])[
                Drafts with { Drafter = Drafter.From(_ => throw new TimeoutException("mine")) },
                Drafts with { Policy = DraftPolicy.From(_ => throw new TimeoutException("mine")) },
                Drafts with { StopRule = StopRule.From(_ => throw new TimeoutException("mine")) }])
            {
                Equal(Throws<TimeoutException>(() => model.Generate("Once upon", way)).Message, "mine", "as it was thrown");
            }

            var outside = Drafts with { Policy = DraftPolicy.From(_ => new DraftPlan { ExitLayer = 4, DraftLength = 1 }) };
            Equal(Throws<LayerSkipException>(() => model.Generate("Once upon", outside)).OptionName, "ExitLayer", "a plan that no model has");
            Same(model.Generate("Once upon", Plain).TokenIds, plain, "the model serves on");
        }),
        Case("each has the name that it is shown by", () =>
        {
            Same(
                new object[] { Drafter.Exit, Drafter.From(_ => []), DraftPolicy.Del, StopRule.Confidence(0.5), DraftVocabulary.First(3) }.Select(x => $"{x}"),
                ["Exit", "From", "Del", "confidence:0.5", "3"],
                "names");
        }),
    ]);
}
