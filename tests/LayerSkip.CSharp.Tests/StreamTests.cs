using System.Diagnostics;
using Expecto;
using Expecto.CSharp;
using TorchSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

internal static class StreamTests
{
    private static readonly GenerateOptions Options = new() { MaxNewTokens = 40, IgnoreEos = true, Policy = DraftPolicy.Static };

    private static readonly LoadOptions KeepsNothing = new() { TextsKept = 0 };

    public static Test All(Tiny tiny) => Runner.TestList("stream", [
        Case("its steps are the result: texts, tokens and last step", async () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            foreach (var prompt in (string[])["Once upon", "x", "狐"])
            {
                var options = Options with { LogProbs = 1 };
                var whole = model.Generate(prompt, options);
                var steps = await model.StreamAsync(prompt, options).ToList();
                Equal(string.Concat(steps.Select(step => step.Text)), whole.Text, "text");
                Same(steps.SkipLast(1).Select(step => step.LogProbs!.LogProb), whole.LogProbs.Select(told => told.LogProb), "what was said");
                Equal(steps[^1].LogProbs, null, "and nothing of the last step");
                Same(steps.SkipLast(1).Select(step => step.Id!.Value), whole.TokenIds, "tokens");
                Equal(steps[0].Origin, TokenOrigin.Prefill, "the first token is the prompt's");
                Equal(steps[^1].Id, null, "the last step brings no token");
                Equal(steps[^1].Result!.Text, whole.Text, "but the result");
                Equal(
                    steps.Count(step => step.Origin == TokenOrigin.Drafted),
                    whole.Statistics.AcceptedDraftTokenCount,
                    "drafted tokens");
            }
        }),
        Case("holds back what may become a stop text, also across tokens", async () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var whole = model.Generate("Once", Options).Text!;
            var options = Options with { StopTexts = [whole[4..6]] };
            var steps = await model.StreamAsync("Once", options).ToList();
            Equal(string.Concat(steps.Select(step => step.Text)), model.Generate("Once", options).Text, "text");
        }),
        Case("decodes without the caller's context, even where that is stuck", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var mine = SynchronizationContext.Current;
            SynchronizationContext.SetSynchronizationContext(new Stuck());
            try
            {
                var steps = model.StreamAsync("Once", Options).GetAsyncEnumerator();
                var count = 0;
                while (steps.MoveNextAsync().AsTask().GetAwaiter().GetResult())
                {
                    count++;
                }

                Equal(count, 41, "steps");
                steps.DisposeAsync().AsTask().GetAwaiter().GetResult();
            }
            finally
            {
                SynchronizationContext.SetSynchronizationContext(mine);
            }
        }),
        Case("computes no further than it is asked", async () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var before = LiveTensors();
            var stream = model.StreamAsync("Once", Options);
            Equal(torch.Tensor.TotalCount, before, "nothing before the first step");
            var first = await stream.ToList();
            Same((await stream.ToList()).Select(step => step.Id), first.Select(step => step.Id), "it can be read again");
        }),
        Case("leaving it early frees the cache", async () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path, KeepsNothing);
            await LeavesNoTensor(async () =>
            {
                await foreach (var step in model.StreamAsync("Once", Options))
                {
                    if (step.Origin != TokenOrigin.Prefill)
                    {
                        break;
                    }
                }
            });
        }),
        Case("cancelling it frees the cache", async () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path, KeepsNothing);
            await LeavesNoTensor(async () =>
            {
                using var source = new CancellationTokenSource();
                var seen = 0;
                try
                {
                    await foreach (var _ in model.StreamAsync("Once", Options, source.Token))
                    {
                        if (++seen == 5)
                        {
                            source.Cancel();
                        }
                    }

                    throw new UnreachableException("it was not cancelled");
                }
                catch (OperationCanceledException)
                {
                    Equal(seen, 5, "no step after cancelling");
                }
            });
        }),
        Case("WithCancellation cancels it too, and a token cancelled before starts nothing", async () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            var cancelled = new CancellationToken(canceled: true);
            foreach (var stream in (IAsyncEnumerable<GeneratedToken>[])[
                model.StreamAsync("Once", Options, cancelled), model.StreamAsync("Once", Options)])
            {
                try
                {
                    await foreach (var _ in stream.WithCancellation(cancelled))
                    {
                        throw new UnreachableException("a step came");
                    }
                }
                catch (OperationCanceledException)
                {
                    continue;
                }

                throw new UnreachableException("it was not cancelled");
            }
        }),
        Case("a token cancelled before the prompt is read, or while it is, lets no step out", async () =>
        {
            using var model = LayerSkipModel.Load(tiny.WithoutTokenizer);
            int[] prompt = [.. Enumerable.Range(0, 90)];
            var cancelled = new CancellationToken(canceled: true);
            Throws<OperationCanceledException>(() => model.Generate(prompt, Options, cancelled));
            using var soon = new CancellationTokenSource();
            var ended = Task.Run(() =>
            {
                while (!soon.IsCancellationRequested)
                {
                    model.Generate(prompt, Options, soon.Token);
                }
            });
            await Task.Delay(50);
            soon.Cancel();
            try
            {
                await ended;
            }
            catch (OperationCanceledException e)
            {
                Equal(e.CancellationToken, soon.Token, "whose it is");
            }

            Equal(model.Generate(prompt, Options).TokenIds.Count > 0, true, "the model serves on");
        }),
        Case("several at once on one model write what each writes alone", async () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path, KeepsNothing);
            (string Prompt, GenerateOptions Options)[] wishes =
            [
                ("Once upon", Options with { Strategy = Strategy.SelfSpeculative, ExitLayer = 1 }),
                ("xyz", Options with { Strategy = Strategy.Autoregressive, Policy = null }),
                ("狐", Options with { Temperature = 1, Seed = 5 }),
            ];
            var alone = wishes.Select(wish => model.Generate(wish.Prompt, wish.Options).TokenIds).ToList();
            await LeavesNoTensor(async () =>
            {
                var together = await Task.WhenAll(
                    wishes.Select(wish => model.StreamAsync(wish.Prompt, wish.Options).ToList()));
                foreach (var (steps, expected) in together.Zip(alone))
                {
                    Same(steps[^1].Result!.TokenIds, expected, "tokens");
                }
            });
        }),
        Case("a model disposed meanwhile lives until its streams end", async () =>
        {
            await LeavesNoTensor(async () =>
            {
                var model = LayerSkipModel.Load(tiny.Path, KeepsNothing);
                var expected = model.Generate("Once", Options).TokenIds;
                GenerateResult? result = null;
                await foreach (var step in model.StreamAsync("Once", Options))
                {
                    model.Dispose();
                    result = step.Result;
                }

                Same(result!.TokenIds, expected, "tokens");
            });
        }),
        Case("refuses bad options at the call, not at the first step", () =>
        {
            using var model = LayerSkipModel.Load(tiny.Path);
            Refused(() => model.StreamAsync("a", new() { ExitLayer = 7 }), "ExitLayer is 7");
            using var without = LayerSkipModel.Load(tiny.WithoutTokenizer);
            Refused(() => without.StreamAsync([]), "empty");
        }),
    ]);

    /// <summary>A user interface that never gets round to anything.</summary>
    private sealed class Stuck : SynchronizationContext
    {
        public override void Post(SendOrPostCallback d, object? state)
        {
        }

        public override void Send(SendOrPostCallback d, object? state) =>
            throw new InvalidOperationException("nobody may wait for the caller");
    }
}
