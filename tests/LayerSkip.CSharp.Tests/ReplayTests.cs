using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

/// <summary>What every exit layer, draft length and policy would have done with a text.</summary>
internal static class ReplayTests
{
    private static readonly ReplayOptions Small = new()
    {
        ExitLayers = [1, 2, 2],
        DraftLengths = [1, 3],
        MaxNewTokens = 24,
        IgnoreEos = true,
        TimingBudget = TimeSpan.FromMilliseconds(1),
    };

    public static Test All(Tiny tiny) => Runner.TestList("replay", [
        Case("its rounds are those of live decoding, for every exit layer and draft length", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path, new() { Dtype = Dtype.F32 });
            var replay = model.Replay("Once upon", Small);
            Equal(replay.IsExact, true, "where the kernels compute");
            Same(
                replay.Grid.Select(point => (point.ExitLayer, point.DraftLength)),
                [(1, 1), (1, 3), (2, 1), (2, 3)],
                "the grid");
            foreach (var point in replay.Grid)
            {
                var live = model.Generate("Once upon", new()
                {
                    Strategy = Strategy.SelfSpeculative,
                    ExitLayer = point.ExitLayer,
                    DraftLength = point.DraftLength,
                    MaxNewTokens = 24,
                    IgnoreEos = true,
                });
                Same(replay.TokenIds, live.TokenIds, "text");
                Equal((replay.Text, replay.FinishReason), (live.Text, live.FinishReason), "its end");
                Same(replay.PromptIds, live.PromptIds, "prompt");
                Same(point.Statistics.Rounds, live.Statistics.Rounds, $"E = {point.ExitLayer}, d = {point.DraftLength}");
                Equal(point.Statistics.AcceptedDraftTokenCount, live.Statistics.AcceptedDraftTokenCount, "accepted");
                True(point is { MillisecondsPerToken: > 0, SpeedUp: > 0 }, "predictions");
            }

            True(replay.Grid.Any(point => point.SpeedUp == replay.Best!.SpeedUp), "the best is one of them");
            Equal(replay.Best!.SpeedUp, replay.Grid.Max(point => point.SpeedUp), "the fastest");
        }),
        Case("it has policies, times and what every layer said", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var replay = model.Replay(model.Encode("Once upon"), Small);
            Equal(replay.IsExact, false, "libtorch computes in float64");
            Equal((replay.Policies[0].Name, replay.Policies[0].OracleRegret), ("oracle", 0.0), "the oracle first");
            True(replay.Policies.Any(policy => policy.Name == "fixed 2,3"), "what the model recommends");
            foreach (var policy in replay.Policies)
            {
                Equal(policy.Rounds.Sum(round => round.Accepted + 1), 23, $"rounds bring the text: {policy.Name}");
                Equal(policy.Statistics.DraftTokenCount, policy.Rounds.Sum(round => round.Drafted), "drafted");
                Equal(policy.DraftTokenCountAtLeast, policy.Rounds.Sum(round => round.DraftedAtLeast), "at least");
                True(policy.Rounds.All(round => round.ExitLayer is >= 1 and <= 3), "exits");
                var drafts = policy.Statistics.DraftTokenCount > 0;
                Equal(drafts, policy.MeanExitLayer is not null && policy.MeanDraftLength is not null, "means");
                True(policy is { MillisecondsPerToken: > 0, SpeedUp: > 0, OracleRegret: >= -1e-9, StaticRegret: not null }, "predictions");
            }

            True(replay.Times is { Plain.Ticks: > 0, ContextLength: > 0, SampleCount: > 0, Rounds.Count: > 0 }, "times");
            True(replay.Times!.Rounds.All(round => round is { ExitLayer: >= 1, Drafted: >= 1 } && round.Round >= round.Verify && round.Draft > TimeSpan.Zero), "of rounds");
            Equal((replay.Positions.Count, replay.PromptPositions.Count), (23, replay.PromptIds.Count), "positions");
            foreach (var (position, id) in replay.Positions.Zip(replay.TokenIds.Skip(1)))
            {
                Equal((position.Token, position.Choices.Count, position.Choices[^1]), (id, 4, id), "the last layer has the word");
                True(position.Probabilities.All(probability => probability is > 0 and <= 1), "probabilities");
            }
        }),
        Case("stop tokens end it, and it runs on a thread of its own", async () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var whole = await model.ReplayAsync("Once upon", Small);
            var stop = whole.TokenIds[9];
            var cut = await model.ReplayAsync(model.Encode("Once upon"), Small with { StopTokenIds = [stop] });
            Same(cut.TokenIds, whole.TokenIds.TakeWhile(id => id != stop), "up to the stop token");
            Equal(cut.FinishReason, FinishReason.Stop, "reason");
            await Cancelled(() => model.ReplayAsync("Once upon", Small, new(canceled: true)));
            Equal(model.Replay("a", new() { MaxNewTokens = 3 }).Grid.Count, 24, "all exits and eight lengths by themselves");
        }),
        Case("what it cannot do is refused in the options' names", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            Refused(() => model.Replay("a", Small with { ExitLayers = [4], DraftLengths = [0] }), "ExitLayers is 4", "DraftLengths is 0");
            Refused(() => model.Replay("a", Small with { ExitLayers = [] }), "ExitLayers is empty");
            Refused(() => model.Replay("a", Small with { MaxNewTokens = 0 }), "MaxNewTokens is 0");
            using var without = LayerSkipModel.Load(tiny.WithoutTokenizer);
            Refused(() => without.Replay([], Small), "prompt is empty");
            model.Dispose();
            Throws<ObjectDisposedException>(() => model.Replay([1], Small));
        }),
    ]);
}
