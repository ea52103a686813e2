using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

/// <summary>What changes the law of tokens, and what is told of it.</summary>
internal static class RulesTests
{
    private static readonly GenerateOptions Plain = new() { Strategy = Strategy.Autoregressive, MaxNewTokens = 40, IgnoreEos = true };

    public static Test All(Tiny tiny) => Runner.TestList("rules", [
        Case("they change the text, and speculation writes the same", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var own = model.Generate("Once upon", Plain).TokenIds;
            foreach (var ruled in (GenerateOptions[])[
                Plain with { RepetitionPenalty = 1.8 },
                Plain with { PresencePenalty = 2 },
                Plain with { FrequencyPenalty = 2 },
                Plain with { LogitBias = new Dictionary<int, double> { [own[0]] = -100 } }])
            {
                var text = model.Generate("Once upon", ruled).TokenIds;
                True(!text.SequenceEqual(own), $"another text by {ruled}");
                Same(model.Generate("Once upon", ruled with { Strategy = Strategy.SelfSpeculative }).TokenIds, text, $"by drafts, {ruled}");
            }

            var forced = model.Generate("a", Plain with { LogitBias = new Dictionary<int, double> { [65] = 100 } });
            Equal(forced.Text, new string('A', 40), "a bias that nothing stands against");
        }),
        Case("min-p leaves the likeliest alone where it is 1", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var warm = Plain with { Temperature = 2, Seed = 3 };
            Same(model.Generate("Once", warm with { MinP = 1 }).TokenIds, model.Generate("Once", Plain).TokenIds, "the greedy text");
            True(!model.Generate("Once", warm).TokenIds.SequenceEqual(model.Generate("Once", Plain).TokenIds), "and another without it");
        }),
        Case("log-probabilities are those that the lens sees", async () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var asked = Plain with { LogProbs = 3, PromptLogProbs = 2, MaxNewTokens = 5 };
            var result = model.Generate("Once", asked);
            var lens = model.Lens([.. result.PromptIds, .. result.TokenIds], new() { TopK = 3 });
            var last = lens.Exits[^1].Positions;
            bool Near(double a, double b) => Math.Abs(a - b) < 1e-9;
            Equal((result.LogProbs.Count, result.PromptLogProbs.Count), (5, 4), "one of each token");
            Equal(result.PromptLogProbs[0], null, "nothing before the first");
            for (var at = 0; at < 5; at++)
            {
                var position = last[3 + at];
                var told = result.LogProbs[at];
                Same(told.Top.Select(top => top.Id), position.Top.Select(top => top.Token.Id), "the likeliest");
                True(told.Top.Zip(position.Top).All(pair => Near(Math.Exp(pair.First.LogProb), pair.Second.Probability)), "and how likely");
                Equal(told.LogProb, told.Top[0].LogProb, "the greedy token is the likeliest");
            }

            for (var at = 1; at < 4; at++)
            {
                True(Near(result.PromptLogProbs[at]!.LogProb, last[at - 1].Next!.Value.LogProbability), "the prompt's");
                Equal(result.PromptLogProbs[at]!.Top.Count, 2, "with two");
            }

            var steps = await model.StreamAsync("Once", asked with { Strategy = Strategy.SelfSpeculative }).ToList();
            True(steps.SkipLast(1).Zip(result.LogProbs).All(pair => Near(pair.First.LogProbs!.LogProb, pair.Second.LogProb)), "as they come");
            Equal(steps[^1].LogProbs, null, "none at the end");
            True(model.Generate("Once", Plain).LogProbs.Count == 0, "none unasked");
        }),
        Case("numbers out of range are refused in the options' names", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            void Refused(string option, GenerateOptions bad) =>
                Equal(Throws<LayerSkipException>(() => model.Generate("a", bad)).OptionName, option, $"{bad}");
            Refused("MinP", new() { MinP = -0.1, Temperature = 1 });
            Refused("RepetitionPenalty", new() { RepetitionPenalty = 0 });
            Refused("PresencePenalty", new() { PresencePenalty = 3 });
            Refused("FrequencyPenalty", new() { FrequencyPenalty = double.NaN });
            Refused("LogitBias", new() { LogitBias = new Dictionary<int, double> { [1] = 101 } });
            Refused("LogProbs", new() { LogProbs = 21 });
            Refused("PromptLogProbs", new() { PromptLogProbs = -1 });
            var unknown = new GenerateOptions { LogitBias = new Dictionary<int, double> { [999] = 1 } };
            Equal(Throws<LayerSkipException>(() => model.Generate("a", unknown)).Code, LayerSkipErrorCode.UnknownToken, "no such id");
            Throws<ArgumentNullException>(() => new GenerateOptions { LogitBias = null! });
        }),
    ]);
}
