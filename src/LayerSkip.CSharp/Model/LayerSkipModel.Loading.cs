using System.Diagnostics.CodeAnalysis;
using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

public sealed partial class LayerSkipModel
{
    /// <summary>Loads a model, on this thread.</summary>
    /// <param name="path">A Hugging Face folder, a .gguf file, or a model's name on a hub: org/name, org/name@revision.</param>
    /// <param name="options">Device, number formats, threads.</param>
    /// <exception cref="LayerSkipException">The files, the device or the options cannot be used.</exception>
    public static LayerSkipModel Load(string path, LoadOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(path);
        return Load(path, options ?? new(), null, default);
    }

    /// <summary>Loads a model, on a thread of its own.</summary>
    /// <param name="path">A Hugging Face folder, a .gguf file, or a model's name on a hub: org/name, org/name@revision.</param>
    /// <param name="options">Device, number formats, threads.</param>
    /// <param name="progress">Is told how far it is, before each tensor.</param>
    /// <param name="cancellationToken">Ends it at the next tensor.</param>
    /// <exception cref="LayerSkipException">The files, the device or the options cannot be used.</exception>
    public static Task<LayerSkipModel> LoadAsync(
        string path,
        LoadOptions? options = null,
        IProgress<LoadProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(path);
        return OwnThread.Run("LayerSkip load", () => Load(path, options ?? new(), progress, cancellationToken), cancellationToken);
    }

    /// <summary>Loads a model as it comes, on this thread, or says why it cannot.</summary>
    /// <param name="path">A Hugging Face folder, a .gguf file, or a model's name on a hub: org/name, org/name@revision.</param>
    /// <param name="model">The model; null where there is none.</param>
    /// <param name="fault">What is wrong; null where nothing is.</param>
    public static bool TryLoad(
        string path, [NotNullWhen(true)] out LayerSkipModel? model, [NotNullWhen(false)] out LayerSkipException? fault) =>
        TryLoad(path, null, out model, out fault);

    /// <summary>Loads a model, on this thread, or says why it cannot.</summary>
    /// <param name="path">A Hugging Face folder, a .gguf file, or a model's name on a hub: org/name, org/name@revision.</param>
    /// <param name="options">Device, number formats, threads; null is all as it comes.</param>
    /// <param name="model">The model; null where there is none.</param>
    /// <param name="fault">What is wrong; null where nothing is.</param>
    public static bool TryLoad(
        string path,
        LoadOptions? options,
        [NotNullWhen(true)] out LayerSkipModel? model,
        [NotNullWhen(false)] out LayerSkipException? fault)
    {
        ArgumentNullException.ThrowIfNull(path);
        try
        {
            (model, fault) = (Load(path, options ?? new(), null, default), null);
            return true;
        }
        catch (LayerSkipException found)
        {
            (model, fault) = (null, found);
            return false;
        }
    }

    private static LayerSkipModel Load(
        string path, LoadOptions options, IProgress<LoadProgress>? progress, CancellationToken cancellationToken)
    {
        var (dtype, device) = (Translate.Dtype(options.Dtype), Translate.Device(options.Device));
        var compute = Translate.Compute(options.Compute);
        var (kv, prefill) = (Translate.Kv(options.Kv), Translate.Prefill(options.Prefill));
        EngineOptions serving = new(
            slots: options.TextsAtOnce,
            queue: options.TextsWaiting,
            prefixTexts: options.TextsKept,
            kvBytes: Translate.Optional(options.CacheBytes),
            past: null);
        LayerSkipError[] faults =
        [
            .. options.Threads is { } asked ? Backend.threadsFaults(asked) : [],
            .. EngineOptionsModule.faults(serving),
        ];
        if (faults is not [])
        {
            throw Translate.Exception(faults);
        }

        if (options.Threads is { } threads)
        {
            SetThreads(threads);
        }

        Action<long, long> tell = (read, all) =>
        {
            progress?.Report(new() { Stage = LoadStage.Reading, BytesDone = read, BytesTotal = all });
            cancellationToken.ThrowIfCancellationRequested();
        };
        var format = dtype is { Value: var named } ? LayerSkip.WeightsFormat.NewOf(named) : LayerSkip.WeightsFormat.AsStored;
        var place = Locate(path, progress, cancellationToken);
        var loaded = CheckpointModule.loadTelling(FuncConvert.FromAction(tell), format, place, device).OrThrow();
        var read = CheckpointModule.withPrefill(
            prefill, CheckpointModule.withKv(kv, CheckpointModule.withCompute(compute, loaded)).OrThrow());
        LayerSkipModel model = new(options.AdapterFile is { } adapter ? Adapters.withFile(adapter, read) : read, serving);
        progress?.Report(new() { Stage = LoadStage.Done, BytesDone = model.Info.WeightBytes, BytesTotal = model.Info.WeightBytes });
        return model;
    }

    /// <summary>Where a model lies: a path is where it is, a name is brought from its hub into the cache that Python's tools share.</summary>
    private static string Locate(string path, IProgress<LoadProgress>? progress, CancellationToken cancellationToken)
    {
        Action<HubProgress> tell = happened =>
        {
            if (happened is HubProgress.Transfer { Item: var transfer })
            {
                progress?.Report(new()
                {
                    Stage = LoadStage.Downloading,
                    BytesDone = transfer.Bytes,
                    BytesTotal = transfer.Total,
                    FilesDone = transfer.FilesDone,
                    FilesTotal = transfer.Files,
                });
            }
        };
        return LayerSkip.Hub.locate(path, FuncConvert.FromAction(tell), cancellationToken).GetAwaiter().GetResult().OrThrow();
    }

    internal static void SetThreads(int threads)
    {
        Backend.load().OrThrow();
        Translate.Throwing(() =>
        {
            CpuKernels.setThreads(threads);
            return threads;
        });
    }

    private static ModelInfo Describe(Checkpoint checkpoint)
    {
        var (config, weights) = (checkpoint.Config, checkpoint.Weights);
        var (exit, length) = CheckpointModule.exitAndDraft(checkpoint);
        return new()
        {
            Name = LayerSkip.Hub.nameOf(checkpoint.Path)?.Value ?? NameOf(checkpoint.Path),
            Path = checkpoint.Path,
            Family = FamilyModule.name(config.Family),
            LayerCount = config.Layers,
            HiddenSize = config.Hidden,
            HeadCount = config.Heads,
            KeyValueHeadCount = config.KvHeads,
            VocabularySize = config.Vocabulary,
            ContextLength = config.Context,
            ParameterCount = WeightsModule.parameters(config),
            WeightBytes = WeightsModule.bytes(weights),
            CacheBytesPerToken = CacheModule.bytesPerPosition(weights),
            Dtype = Translate.Dtype(weights.Dtype),
            WeightsFormat = WeightsModule.dtypeName(weights),
            Device = Translate.Device(weights.Device),
            HasTokenizer = checkpoint.Tokenizer is not null,
            StopTokenIds = Array.AsReadOnly(checkpoint.StopIds),
            ChatStopTokenIds = Array.AsReadOnly(LayerSkip.Chat.stopIds(checkpoint)),
            ChatTemplate = checkpoint.Tokenizer is { Value: var tokenizer } ? TokenizerModule.chatTemplate(tokenizer)?.Value : null,
            RecommendsExit = checkpoint.Recommended is not null,
            RecommendedExitLayer = exit,
            RecommendedDraftLength = length,
            Remarks = [.. checkpoint.Remarks],
        };
    }

    private static string NameOf(string path)
    {
        var file = Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(path)));
        return file.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) ? Path.GetFileNameWithoutExtension(file) : file;
    }
}
