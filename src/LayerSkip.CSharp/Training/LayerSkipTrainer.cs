using System.Text.Json;
using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

/// <summary>Trains models to exit early (LayerSkip, section 4.1): runs in a folder, which stop and go on.</summary>
public static class LayerSkipTrainer
{
    /// <summary>Trains, on this thread; the finished model is in the run's folder.</summary>
    /// <param name="folder">A new folder for the run: its checkpoints, its log, and the finished model.</param>
    /// <param name="options">The model, the data, and how it learns.</param>
    /// <param name="progress">Is told of each step, validation, probe and checkpoint, on this thread.</param>
    /// <param name="cancellationToken">Ends the run after the step under way, whose checkpoint <see cref="Resume"/> goes on from.</param>
    /// <exception cref="LayerSkipException">The options, the model or the data cannot be used, or a step went wrong.</exception>
    public static TrainResult Train(
        string folder,
        TrainOptions options,
        IProgress<TrainProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(folder);
        ArgumentNullException.ThrowIfNull(options);
        return Translate.Throwing(() =>
        {
            cancellationToken.ThrowIfCancellationRequested();
            SetThreads(options.Threads);
            var session = Start(folder, options);
            using (session)
            {
                var mine = TrainFunctions.Apply(options.Dropout, options.Curriculum, session);
                TrainFunctions.Remember(folder, options.Dropout, options.Curriculum);
                return Run(mine, progress, cancellationToken);
            }
        });
    }

    /// <summary>As <see cref="Train"/>, on a thread of its own.</summary>
    /// <exception cref="LayerSkipException">The options, the model or the data cannot be used, or a step went wrong.</exception>
    public static Task<TrainResult> TrainAsync(
        string folder,
        TrainOptions options,
        IProgress<TrainProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(folder);
        ArgumentNullException.ThrowIfNull(options);
        return OwnThread.Run("LayerSkip train", () => Train(folder, options, progress, cancellationToken), cancellationToken);
    }

    /// <summary>Goes on from a run's latest checkpoint, on this thread: to the same bits as a run that nothing has stopped.</summary>
    /// <param name="folder">The run's folder.</param>
    /// <param name="options">What changes.</param>
    /// <param name="progress">Is told of each step, validation, probe and checkpoint, on this thread.</param>
    /// <param name="cancellationToken">Ends the run after the step under way.</param>
    /// <exception cref="LayerSkipException">The folder or the options cannot be used, or a step went wrong.</exception>
    public static TrainResult Resume(
        string folder,
        ResumeOptions? options = null,
        IProgress<TrainProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(folder);
        options ??= new();
        return Translate.Throwing(() =>
        {
            cancellationToken.ThrowIfCancellationRequested();
            SetThreads(options.Threads);
            TrainFunctions.Require(folder, options.Dropout, options.Curriculum);
            var change = FuncConvert.FromFunc<TrainingOptions, TrainingOptions>(before => Changed(before, options));
            using var session = TrainingSessionModule
                .extend(change, folder, RanksModule.alone, Translate.Device(options.Device)).OrThrow();
            return Run(TrainFunctions.Apply(options.Dropout, options.Curriculum, session), progress, cancellationToken);
        });
    }

    /// <summary>As <see cref="Resume"/>, on a thread of its own.</summary>
    /// <exception cref="LayerSkipException">The folder or the options cannot be used, or a step went wrong.</exception>
    public static Task<TrainResult> ResumeAsync(
        string folder,
        ResumeOptions? options = null,
        IProgress<TrainProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(folder);
        return OwnThread.Run("LayerSkip train", () => Resume(folder, options, progress, cancellationToken), cancellationToken);
    }

    private static TrainingSession Start(string folder, TrainOptions options)
    {
        var precision = Translate.Dtype(options.Precision)?.Value;
        var master = precision is { IsF64: true } ? LayerSkip.Dtype.F64 : LayerSkip.Dtype.F32;
        var model = (options.Model, options.NewModel) switch
        {
            ({ } path, null) =>
                CheckpointModule.load(path, Translate.Some(master), Translate.Device(options.Device)).OrThrow(),
            (null, { } sizes) => FreshModel.create(
                options.Seed, master, Translate.Device(options.Device), sizes.TokenizerFolder, Sizes(sizes)).OrThrow(),
            _ => throw Translate.Exception(LayerSkipError.NewOutOfRange(
                "model",
                options.Model ?? "missing",
                $"given where {nameof(TrainOptions.NewModel)} is not, and left out where it is")),
        };

        try
        {
            var recommended = TranslateTraining.Recommended(options, model.Recommended);
            var given = TranslateTraining.Options(options, model.Config, recommended);
            using var texts = TextFile(options.Data);
            // What goes wrong from here on disposes of the model.
            return TrainingSessionModule.start(
                folder,
                given,
                RanksModule.alone,
                Recommending(model, recommended),
                TranslateTraining.Data(options.Data, texts is null ? [] : [texts.Path])).OrThrow();
        }
        catch
        {
            ((IDisposable)model).Dispose();
            throw;
        }
    }

    private static TrainResult Run(
        TrainingSession session, IProgress<TrainProgress>? progress, CancellationToken cancellationToken)
    {
        var steps = session.Plan.Options.Steps;
        // Of a run that has no step left, what its steps came to.
        var (lastLoss, lastValidation) = session.Trainee.Step >= steps ? TrainingSessionModule.latestNumbers(session) : default;
        TrainResult result = new()
        {
            Folder = session.Output,
            StepCount = steps,
            Loss = lastLoss?.Value,
            ValidationCrossEntropy = lastValidation?.Value,
            Conversations = session.Conversations is { Value: var count }
                ? new()
                {
                    Count = count.Conversations,
                    SampleCount = count.Samples,
                    CutCount = count.Cut,
                    AnswerTokenCount = count.Wanted,
                    LearnedTokenCount = count.Learned,
                }
                : null,
            Remarks = [.. TrainingSessionModule.remarks(session)],
        };

        foreach (var happened in TrainingSessionModule.run(
            FuncConvert.FromFunc<Unit, bool>(_ => cancellationToken.IsCancellationRequested), session))
        {
            if (happened is TrainingEvent.Ended ended)
            {
                return Ended(ended, result, cancellationToken);
            }

            var told = TranslateTraining.Progress(happened, steps)!;
            result = told switch
            {
                TrainStep step => result with { Loss = step.Loss },
                TrainValidation validation => result with { ValidationCrossEntropy = validation.CrossEntropy },
                _ => result,
            };
            progress?.Report(told);
        }

        throw new InvalidOperationException("the run ended without saying why");
    }

    private static TrainResult Ended(TrainingEvent.Ended ended, TrainResult result, CancellationToken cancellationToken)
    {
        switch (ended.Item2)
        {
            case TrainingEnd.Failed { Item: var fault }:
                throw new LayerSkipException(
                    LayerSkipErrorCode.TrainingFailed,
                    $"step {fault.Step}, samples {fault.Samples.Item1} to {fault.Samples.Item2}: {fault.What}; lower the learning rate, "
                    + $"or look at the data; {result.Folder} goes on from its latest checkpoint");
            case TrainingEnd.Unwritable { Item: var faults }:
                throw Translate.Exception(faults);
            case var end when end.IsFinished:
                TrainFunctions.Forget(result.Folder);
                return result;
            default:
                throw new OperationCanceledException(cancellationToken);
        }
    }

    private static TrainingOptions Changed(TrainingOptions before, ResumeOptions options) =>
        new(
            before.Recipe,
            options.Steps ?? before.Steps,
            before.BatchSize,
            before.Accumulate,
            before.SequenceLength,
            before.Layout,
            new(options.LearningRate ?? before.Rate.Peak, before.Rate.Warmup, before.Rate.Floor),
            before.Adam,
            before.ClipNorm,
            before.Recompute,
            before.Precision,
            before.OnSpike,
            before.Seed,
            options.ValidateEvery ?? before.ValidateEvery,
            before.ValidationTokens,
            before.ProbeEvery,
            before.ProbeExits,
            before.ProbeDraft,
            options.SaveEvery ?? before.SaveEvery,
            before.Keep);

    private static FreshSizes Sizes(NewModel sizes) =>
        new(
            layers: sizes.LayerCount,
            hidden: sizes.HiddenSize,
            intermediate: sizes.IntermediateSize ?? 4 * sizes.HiddenSize,
            heads: sizes.HeadCount,
            kvHeads: sizes.KeyValueHeadCount ?? sizes.HeadCount,
            context: sizes.ContextLength,
            tiedHead: sizes.TiedHead);

    private static Checkpoint Recommending(Checkpoint model, FSharpOption<Tuple<int, int>>? recommended) =>
        new(model.Path, model.Weights, model.Tokenizer, model.Chat, model.StopIds, recommended, model.Adapters, model.Kept, model.Remarks);

    private static void SetThreads(int? threads)
    {
        if (threads is { } count)
        {
            LayerSkipModel.SetThreads(count);
        }
    }

    /// <summary>Texts and pairs as a file of JSON lines, which goes once they are tokens; null where there are none.</summary>
    private static Temporary? TextFile(TrainData data)
    {
        if (data.Texts.Count == 0 && data.Pairs.Count == 0)
        {
            return null;
        }

        Temporary file = new();
        File.WriteAllLines(file.Path,
        [
            .. data.Texts.Select(text => JsonSerializer.Serialize(new { text })),
            .. data.Pairs.Select(pair => JsonSerializer.Serialize(new { prompt = pair.Prompt, response = pair.Response })),
        ]);
        return file;
    }

    private sealed class Temporary : IDisposable
    {
        private readonly DirectoryInfo folder = Directory.CreateTempSubdirectory("layerskip-");

        public string Path => System.IO.Path.Combine(folder.FullName, "texts.jsonl");

        public void Dispose() => folder.Delete(recursive: true);
    }
}
