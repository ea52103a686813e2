using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

internal static class LensTests
{
    public static Test All(Tiny tiny) => Runner.TestList("lens", [
        Case("tells every layer at every position, and the last layer's choices are what is generated", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var lens = model.Lens("abc", new() { TopK = 3, Logits = true });
            Same(lens.Tokens.Select(token => token.Id), model.Encode("abc"), "tokens");
            Same(lens.Tokens.Select(token => token.Text), ["a", "b", "c"], "texts");
            Same(lens.Exits.Select(exit => exit.Layer), [1, 2, 3, 4], "layers");
            True(lens.Exits.All(exit => exit.Positions.Count == 3 && exit.Positions.All(position => position.Top.Count == 3)), "positions and candidates");
            var generated = model.Generate("abc", new() { MaxNewTokens = 1, IgnoreEos = true, Strategy = Strategy.Autoregressive });
            Equal(lens.FinalTokens[^1].Id, generated.TokenIds[0], "the next token");
            foreach (var (exit, layer) in lens.Exits.SkipLast(1).Select((exit, index) => (exit, index + 1)))
            {
                var early = model.Generate("abc", new() { MaxNewTokens = 1, IgnoreEos = true, Strategy = Strategy.EarlyExit, ExitLayer = layer });
                Equal(exit.Positions[^1].Top[0].Token.Id, early.TokenIds[0], $"what early exit after layer {layer} writes");
            }

            Equal(lens.ExitLogits!.Count, 4, "logits of every layer");
            True(lens.ExitLogits.All(logits => logits.Count == model.Info.VocabularySize), "of every token");
        }),
        Case("its numbers agree with each other", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var lens = model.Lens("some text", new() { TopK = model.Info.VocabularySize });
            foreach (var exit in lens.Exits)
            {
                for (var at = 0; at < lens.Tokens.Count; at++)
                {
                    var position = exit.Positions[at];
                    var final = position.Top.Select(top => top.Token.Id).ToList().IndexOf(lens.FinalTokens[at].Id);
                    Equal(position.Final.Rank, final + 1, "rank");
                    True(Math.Abs(Math.Exp(position.Final.LogProbability) - position.Top[final].Probability) < 1e-12, "probability");
                    True(Math.Abs(position.Top.Sum(top => top.Probability) - 1) < 1e-12, "probabilities sum to 1");
                    var entropy = position.Top.Sum(top => top.Probability > 0 ? -top.Probability * Math.Log(top.Probability) : 0);
                    True(Math.Abs(position.Entropy - entropy) < 1e-9, "entropy");
                    Equal(position.Next is null, at == lens.Tokens.Count - 1, "the next token");
                    var settles = lens.Exits.Where(other => other.Layer >= lens.SettledLayers[at])
                        .All(other => other.Positions[at].Top[0].Token.Id == lens.FinalTokens[at].Id);
                    True(settles, "from the settled layer on all agree");
                }

                True(Math.Abs(exit.MeanEntropy - exit.Positions.Average(position => position.Entropy)) < 1e-12, "mean entropy");
                True(Math.Abs(exit.MeanKl - exit.Positions.Average(position => position.Kl)) < 1e-12, "mean KL");
                var surprise = exit.Positions.SkipLast(1).Average(position => -position.Next!.Value.LogProbability);
                True(Math.Abs(exit.CrossEntropy!.Value - surprise) < 1e-12, "cross entropy");
                Equal(exit.Agreement, exit.Positions.Average(position => position.Final.Rank == 1 ? 1.0 : 0.0), "agreement");
            }

            Equal(lens.ExitLogits is null, true, "no logits unasked");
            Equal((lens.Exits[^1].MeanKl, lens.Exits[^1].Agreement), (0.0, 1.0), "the last layer beside itself");
        }),
        Case("a model without a tokenizer has ids and no texts", () =>
        {
            using var model = LayerSkipModel.Load(tiny.WithoutTokenizer);
            var lens = model.Lens([3, 4], new() { Layers = [2] });
            Same(lens.Tokens, [new LensToken { Id = 3 }, new LensToken { Id = 4 }], "tokens");
            Same(lens.Exits.Select(exit => exit.Layer), [2, 4], "the layers that were asked for, and the last");
            Refused(() => model.Lens("text"), "tokenizer");
        }),
        Case("what cannot be looked at is refused in the options' names", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            using var without = LayerSkipModel.Load(tiny.WithoutTokenizer);
            Refused(() => without.Lens([]), "empty");
            Refused(() => model.Lens([.. Enumerable.Repeat(1, 96)]), "96 tokens", "context of 96");
            Refused(() => model.Lens([258]), "token id 258");
            Refused(() => model.Lens("a", new() { TopK = 0 }), "TopK is 0", "1 to 258");
            Refused(() => model.Lens("a", new() { Layers = [1, 5] }), "Layers is 5", "1 to 4");
            Throws<ArgumentNullException>(() => model.Lens((string)null!));
            Throws<OperationCanceledException>(() => model.Lens("a", null, new CancellationToken(canceled: true)));
        }),
        Case("leaves no tensor, and no work on a model that is disposed", async () =>
        {
            var model = LayerSkipModel.Load(tiny.Path);
            await LeavesNoTensor(() => Task.FromResult(model.Lens("abc")));
            model.Dispose();
            Throws<ObjectDisposedException>(() => model.Lens("abc"));
        }),
    ]);
}
