using System.Diagnostics;
using Expecto;
using Expecto.CSharp;
using TorchSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

/// <summary>One model that serves many callers from a thread of its own.</summary>
internal static class CallersTests
{
    private static readonly GenerateOptions Options =
        new() { MaxNewTokens = 60, IgnoreEos = true, Strategy = Strategy.SelfSpeculative, SharesPrefix = false };

    public static Test All(Tiny tiny) => Runner.TestList("many callers", [
        Case("32 streams at once write what each writes alone, and leave the pool's two threads free", async () =>
        {
            await using var model = LayerSkipModel.Load(tiny.Path);
            string[] prompts = [.. Enumerable.Range(0, 32).Select(number => $"prompt {number}")];
            var alone = prompts.Select(prompt => model.Generate(prompt, Options).Text).ToList();
            ThreadPool.GetMinThreads(out var workers, out var ports);
            ThreadPool.SetMinThreads(2, ports);
            try
            {
                var longest = TimeSpan.Zero;
                using CancellationTokenSource over = new();
                var pings = Task.Run(async () =>
                {
                    while (!over.IsCancellationRequested)
                    {
                        var watch = Stopwatch.StartNew();
                        await Task.Run(() => { });
                        longest = watch.Elapsed > longest ? watch.Elapsed : longest;
                        await Task.Delay(5);
                    }
                });
                var streams = prompts.Select(async prompt =>
                    string.Concat((await model.StreamAsync(prompt, Options).ToList()).Select(step => step.Text)));
                Same(await Task.WhenAll(streams), alone, "texts");
                await over.CancelAsync();
                await pings;
                True(longest < TimeSpan.FromSeconds(1), $"a ping took {longest.TotalMilliseconds} ms");
            }
            finally
            {
                ThreadPool.SetMinThreads(workers, ports);
            }
        }),
        Case("when DisposeAsync ends, what ran has ended and its memory is free", async () =>
        {
            var before = LiveTensors();
            var model = await LayerSkipModel.LoadAsync(tiny.Path);
            await using var stream = model.StreamAsync("once", Options).GetAsyncEnumerator();
            await stream.MoveNextAsync();
            var whole = model.GenerateAsync("once", Options with { Drafter = Slow(), Strategy = Strategy.Auto });
            await model.DisposeAsync();
            Equal(torch.Tensor.TotalCount, before, "live tensors");
            await IsDisposed(async () => await whole);
            await IsDisposed(async () =>
            {
                while (await stream.MoveNextAsync())
                {
                }
            });
            await IsDisposed(() => model.GenerateAsync("once"));
            await model.DisposeAsync();
            Throws<ObjectDisposedException>(() => model.Sweep());
        }),
        Case("what was asked for before Dispose is written, also while the model is yet measured for it", async () =>
        {
            var model = LayerSkipModel.Load(tiny.Path);
            var asked = Enumerable.Range(0, 3).Select(number => model.GenerateAsync($"once {number}", new() { MaxNewTokens = 40, IgnoreEos = true })).ToList();
            model.Dispose();
            foreach (var text in asked)
            {
                Equal((await text).TokenIds.Count, 40, "all of it");
            }

            await IsDisposed(() => model.GenerateAsync("twice"));
            await model.DisposeAsync();
        }),
        Case("one that is never read is no hindrance to others, and none to the end", async () =>
        {
            await using var model = LayerSkipModel.Load(tiny.Path, new() { TextsAtOnce = 1 });
            var unread = model.StreamAsync("once", Options).GetAsyncEnumerator();
            await unread.MoveNextAsync();
            Equal((await model.GenerateAsync("twice", Options)).TokenIds.Count, 60, "another's text");
        }),
        Case("as many wait as may, and one more is told so", async () =>
        {
            await using var model = LayerSkipModel.Load(tiny.Path, new() { TextsAtOnce = 1, TextsWaiting = 1 });
            using ManualResetEventSlim go = new();
            var waiting = Drafter.From(_ =>
            {
                go.Wait();
                return [];
            });
            var first = model.GenerateAsync("once", Options with { Drafter = waiting, Strategy = Strategy.Auto });
            var second = model.GenerateAsync("twice", Options);
            LayerSkipException? busy = null;
            try
            {
                await model.GenerateAsync("thrice", Options);
            }
            catch (LayerSkipException fault)
            {
                busy = fault;
            }
            finally
            {
                go.Set();
            }

            Equal((busy?.Code, busy?.OptionName), (LayerSkipErrorCode.Busy, "TextsWaiting"), $"{busy?.Message}");
            Equal(((await first).TokenIds.Count, (await second).TokenIds.Count), (60, 60), "those that were taken are written");
        }),
        Case("one that is cancelled gives its place to another", async () =>
        {
            await using var model = LayerSkipModel.Load(tiny.Path, new() { TextsAtOnce = 1 });
            using CancellationTokenSource source = new();
            var slow = model.GenerateAsync("once", Options with { Drafter = Slow(), Strategy = Strategy.Auto }, source.Token);
            var next = model.GenerateAsync("twice", Options);
            await source.CancelAsync();
            await Cancelled(() => slow);
            Equal((await next).TokenIds.Count, 60, "the next one's");
        }),
        Case("a conversation's next turn begins on the cache that the last one left, and the text is the same", async () =>
        {
            await using var model = LayerSkipModel.Load(tiny.Path, new() { TextsKept = 2, CacheBytes = 1 << 20 });
            var shares = Options with { SharesPrefix = true, MaxNewTokens = 12 };
            List<int> text = [.. Enumerable.Range(40, 24)];
            foreach (var turn in (int[])[1, 2, 3])
            {
                text.Add(turn);
                var kept = await model.GenerateAsync(text, shares);
                Same(kept.TokenIds, (await model.GenerateAsync(text, shares with { SharesPrefix = false })).TokenIds, $"turn {turn}");
                Equal(kept.ReusedTokenCount > 0, turn > 1, "what was read before");
                text.AddRange(kept.TokenIds);
            }
        }),
        Case("numbers that no model serves by are refused", () =>
        {
            foreach (var (option, bad) in (ReadOnlySpan<(string, LoadOptions)>)[
                ("TextsAtOnce", new() { TextsAtOnce = 0 }),
                ("TextsWaiting", new() { TextsWaiting = -1 }),
                ("TextsKept", new() { TextsKept = -1 }),
                ("CacheBytes", new() { CacheBytes = 0 })])
            {
                Equal(Throws<LayerSkipException>(() => LayerSkipModel.Load(tiny.Path, bad)).OptionName, option, "refused");
            }
        }),
    ]);

    /// <summary>Drafts nothing, in a while.</summary>
    private static Drafter Slow() => Drafter.From(_ =>
    {
        Thread.Sleep(20);
        return [];
    });

    private static Task IsDisposed(Func<Task> body) => ThrowsAsync<ObjectDisposedException>(body);
}
