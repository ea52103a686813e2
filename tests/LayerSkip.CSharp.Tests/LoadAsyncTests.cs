using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

internal static class LoadAsyncTests
{
    public static Test All(Tiny tiny) => Runner.TestList("load async", [
        Case("tells how far it is, tensor by tensor", async () =>
        {
            foreach (var path in (string[])[tiny.Path, tiny.Quantised])
            {
                List<LoadProgress> told = [];
                await using var model = await LayerSkipModel.LoadAsync(path, null, new Told<LoadProgress>(told.Add));
                var read = told.Where(at => at.Stage == LoadStage.Reading).ToList();
                True(read.Count > 10, "tensors");
                Equal(read[0].BytesDone, 0, "from nothing");
                Same(read.Select(at => at.BytesDone), read.Select(at => at.BytesDone).Order(), "on and on");
                True(read.All(at => at.BytesDone <= at.BytesTotal && at.BytesTotal == read[0].BytesTotal), "to all of it");
                Equal((told[^1].Stage, told[^1].BytesDone), (LoadStage.Done, model.Info.WeightBytes), "done");
            }
        }),
        Case("is ended between tensors, and leaves none", async () =>
        {
            await LeavesNoTensor(async () =>
            {
                using CancellationTokenSource source = new();
                var fifth = 0;
                var progress = new Told<LoadProgress>(_ =>
                {
                    if (++fifth == 5)
                    {
                        source.Cancel();
                    }
                });
                await Cancelled(() => LayerSkipModel.LoadAsync(tiny.Path, null, progress, source.Token));
                Equal(fifth, 5, "no tensor more");
            });
            await Cancelled(() => LayerSkipModel.LoadAsync(tiny.Path, cancellationToken: new(canceled: true)));
        }),
        Case("what is wrong comes out of the task", async () =>
        {
            var loading = LayerSkipModel.LoadAsync("nowhere");
            Equal((await ThrowsAsync<LayerSkipException>(() => loading)).Code, LayerSkipErrorCode.FileNotFound, "why");
        }),
        Case("tells what the model is", async () =>
        {
            await using var model = await LayerSkipModel.LoadAsync(tiny.Path);
            var info = model.Info;
            Equal((info.Name, info.Path, info.Family), ("whole", tiny.Path, "llama"), "names");
            Equal((info.LayerCount, info.HiddenSize, info.HeadCount, info.KeyValueHeadCount), (4, 16, 4, 2), "sizes");
            // Embedding and head, and a layer's q, k, v, o, gate, up, down and norms, and the last norm.
            long parameters = (2 * 258 * 16) + (4 * ((16 * 16) + (2 * 8 * 16) + (16 * 16) + (3 * 24 * 16) + 32)) + 16;
            Equal((info.ParameterCount, info.WeightBytes), (parameters, 8 * parameters), "weights");
            Equal(info.CacheBytesPerToken, 8 * ((4 * 2 * 8) + (2 * 16)), "keys and values of two heads of four, and two states");
            Same(info.StopTokenIds, [257], "stop ids");
            Equal((info.ChatTemplate, info.RecommendsExit, info.Remarks.Count), (null, true, 0), "and the rest");
            using var other = LayerSkipModel.Load(tiny.Quantised);
            Equal((other.Info.Name, other.Info.RecommendsExit), ("q8_0", false), "a file's");
        }),
    ]);
}
