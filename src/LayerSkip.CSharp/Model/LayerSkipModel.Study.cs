using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

public sealed partial class LayerSkipModel
{
    /// <summary>What every layer would say at every position of a text, on this thread: the logit lens.</summary>
    /// <exception cref="LayerSkipException">The text or the options cannot be used.</exception>
    public LensResult Lens(string prompt, LensOptions? options = null, CancellationToken cancellationToken = default) =>
        Lens(EncodePrompt(prompt), options, cancellationToken);

    /// <summary>As the other <c>Lens</c>, for a text of ids.</summary>
    /// <exception cref="LayerSkipException">The text or the options cannot be used.</exception>
    public LensResult Lens(
        IReadOnlyList<int> promptIds, LensOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(promptIds);
        ObjectDisposedException.ThrowIf(disposed, this);
        options ??= new();
        var given = new LayerSkip.LensOptions(options.TopK, ListModule.OfSeq(options.Layers ?? []), options.Logits);
        var start = LayerSkip.Lens.prepare(checkpoint, given, OrBeginning([.. promptIds])).OrThrow();
        using var use = new Use(this);
        return TranslateLens.Result(Translate.Throwing(() => start.Invoke(cancellationToken)));
    }

    /// <summary>Times every exit layer with every draft length, plain decoding and lookup, in turn over the same texts, on this thread.</summary>
    /// <param name="options">What is decoded, and how often.</param>
    /// <param name="progress">Is told how far it is, before each prompt.</param>
    /// <param name="cancellationToken">Ends it within a pass; what it has written to its file stays.</param>
    /// <exception cref="LayerSkipException">The options cannot be used.</exception>
    public SweepResult Sweep(
        SweepOptions? options = null, IProgress<StudyProgress>? progress = null, CancellationToken cancellationToken = default)
    {
        options ??= new();
        LayerSkip.SweepOptions given = new(
            Prompts(options.Prompts),
            ListModule.OfSeq(options.ExitLayers),
            ListModule.OfSeq(options.DraftLengths),
            options.MaxNewTokens,
            options.Runs,
            options.StopsAtEos ? checkpoint.StopIds : [],
            options.Seed);
        using var use = new Use(this);
        return Translate.Throwing(() =>
        {
            var plan = LayerSkip.Sweep.plan(checkpoint, given, ShardModule.whole).OrThrow();
            var cells = LayerSkip.Sweep.runUntil(
                cancellationToken, Told(progress, cancellationToken), Translate.Optional(options.RunFile), plan).OrThrow();
            return TranslateStudy.Sweep(SweepReportModule.ofRun(options.RunFile ?? "the run", plan.Header, cells).OrThrow());
        });
    }

    /// <summary>As <see cref="Sweep"/>, on a thread of its own.</summary>
    /// <exception cref="LayerSkipException">The options cannot be used.</exception>
    public Task<SweepResult> SweepAsync(
        SweepOptions? options = null, IProgress<StudyProgress>? progress = null, CancellationToken cancellationToken = default) =>
        OwnThread.Run("LayerSkip sweep", () => Sweep(options, progress, cancellationToken), cancellationToken);

    /// <summary>
    /// Decodes a text once with every layer, on this thread, and reads from that what every exit layer, draft length and policy would have done.
    /// </summary>
    /// <exception cref="LayerSkipException">The prompt or the options cannot be used.</exception>
    public ReplayResult Replay(string prompt, ReplayOptions? options = null, CancellationToken cancellationToken = default) =>
        Replay(EncodePrompt(prompt), options, cancellationToken);

    /// <summary>As the other <c>Replay</c>, for a prompt of ids.</summary>
    /// <exception cref="LayerSkipException">The prompt or the options cannot be used.</exception>
    public ReplayResult Replay(
        IReadOnlyList<int> promptIds, ReplayOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(promptIds);
        ObjectDisposedException.ThrowIf(disposed, this);
        var given = TranslateReplay.Options(checkpoint, options ?? new());
        int[] prompt = OrBeginning([.. promptIds]);
        using var use = new Use(this);
        return TranslateReplay.Result(
            checkpoint, Translate.Throwing(() => ReplayReportModule.runUntil(cancellationToken, checkpoint.Weights, given, prompt).OrThrow()));
    }

    /// <summary>As <see cref="Replay(string, ReplayOptions?, CancellationToken)"/>, on a thread of its own.</summary>
    /// <exception cref="LayerSkipException">The prompt or the options cannot be used.</exception>
    public Task<ReplayResult> ReplayAsync(
        string prompt, ReplayOptions? options = null, CancellationToken cancellationToken = default) =>
        ReplayAsync(EncodePrompt(prompt), options, cancellationToken);

    /// <summary>As the other <c>ReplayAsync</c>, for a prompt of ids. Cancelled, it ends within a pass.</summary>
    /// <exception cref="LayerSkipException">The prompt or the options cannot be used.</exception>
    public Task<ReplayResult> ReplayAsync(
        IReadOnlyList<int> promptIds, ReplayOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(promptIds);
        return OwnThread.Run("LayerSkip replay", () => Replay(promptIds, options, cancellationToken), cancellationToken);
    }

    /// <summary>Checks on the spot that what is decoded early is what the whole model decodes, on this thread.</summary>
    /// <param name="options">What is decoded.</param>
    /// <param name="cancellationToken">Ends it within a pass.</param>
    /// <exception cref="LayerSkipException">The options cannot be used.</exception>
    public CertifyResult Certify(CertifyOptions? options = null, CancellationToken cancellationToken = default)
    {
        options ??= new();
        var own = LayerSkip.Certify.options;
        LayerSkip.CertifyOptions given = new(
            Prompts(options.Prompts),
            ListModule.OfSeq(options.ExitLayers),
            ListModule.OfSeq(options.DraftLengths),
            TranslateOptions.Drafting(new() { Acceptance = options.Acceptance }, null),
            own.Drafters,
            own.Vocabulary,
            options.MaxNewTokens,
            options.Seed);
        using var use = new Use(this);
        LayerSkipError[] numbers =
        [
            .. Check.atLeast(1, "max-new-tokens", options.MaxNewTokens),
            .. options.DraftLengths.SelectMany(length => Check.atLeast(1, "draft-lengths", length)),
        ];
        // The library would call them by the one number that it takes.
        LayerSkipError[] faults = numbers is [] ? [.. LayerSkip.Certify.faults(checkpoint, given)] : numbers;
        return faults is []
            ? TranslateStudy.Certificate(Translate.Throwing(() => LayerSkip.Certify.runUntil(cancellationToken, checkpoint, given)))
            : throw Translate.Exception(faults);
    }

    /// <summary>As <see cref="Certify"/>, on a thread of its own.</summary>
    /// <exception cref="LayerSkipException">The options cannot be used.</exception>
    public Task<CertifyResult> CertifyAsync(CertifyOptions? options = null, CancellationToken cancellationToken = default) =>
        OwnThread.Run("LayerSkip certify", () => Certify(options, cancellationToken), cancellationToken);

    /// <summary>Scores a task's items at every exit layer, on this thread: perplexity of texts, questions with choices, generated answers.</summary>
    /// <param name="task">The task: "perplexity", "multiple-choice", ...; another name's fault lists them.</param>
    /// <param name="files">The files of items, in their order.</param>
    /// <param name="options">What of them.</param>
    /// <param name="progress">Is told how far it is, before each item.</param>
    /// <param name="cancellationToken">Ends it before the next item.</param>
    /// <exception cref="LayerSkipException">The task, the files or the options cannot be used.</exception>
    public EvaluateResult Evaluate(
        string task,
        IReadOnlyList<string> files,
        EvaluateOptions? options = null,
        IProgress<StudyProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(task);
        ArgumentNullException.ThrowIfNull(files);
        options ??= new();
        using var use = new Use(this);
        return Translate.Throwing(() =>
        {
            var found = EvalTasks.find(task).OrThrow();
            if (TranslateStudy.Unheeded(found, options) is [_, ..] unheeded)
            {
                throw Translate.Exception(unheeded);
            }

            var plan = Eval.plan(checkpoint, found, TranslateStudy.Options(files, options), ShardModule.whole).OrThrow();
            var cells = Eval.run(Told(progress, cancellationToken), Translate.Optional(options.RunFile), plan).OrThrow();
            return TranslateStudy.Evaluation(
                Eval.report(EvalTasks.all, options.RunFile ?? "the run", plan.Header, cells).OrThrow());
        });
    }

    /// <summary>As <see cref="Evaluate"/>, on a thread of its own.</summary>
    /// <exception cref="LayerSkipException">The task, the files or the options cannot be used.</exception>
    public Task<EvaluateResult> EvaluateAsync(
        string task,
        IReadOnlyList<string> files,
        EvaluateOptions? options = null,
        IProgress<StudyProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(task);
        ArgumentNullException.ThrowIfNull(files);
        return OwnThread.Run(
            "LayerSkip evaluate", () => Evaluate(task, files, options, progress, cancellationToken), cancellationToken);
    }

    /// <summary>Writes the model, or its first layers, for other engines, on this thread.</summary>
    /// <param name="output">A folder, or a .gguf file: nothing is there yet.</param>
    /// <param name="options">What is written.</param>
    /// <exception cref="LayerSkipException">The options cannot be used, or the output cannot be written.</exception>
    public ExportResult Export(string output, ExportOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(output);
        options ??= new();
        var format = TranslateStudy.Format(options.Format, output);
        var layers = options.Layers ?? Info.LayerCount;
        var dtype = Translate.Dtype(options.Dtype);
        using var use = new Use(this);
        return Translate.Throwing(() => TranslateStudy.Export((options.Mix, dtype) switch
        {
            ({ } mix, _) => LayerSkip.Export.quantise(TranslateStudy.Mix(mix, options.Dtype, format), layers, output, checkpoint).OrThrow(),
            (_, { Value: var named }) => LayerSkip.Export.writeIn(named, format, layers, output, checkpoint).OrThrow(),
            _ => LayerSkip.Export.write(format, layers, output, checkpoint).OrThrow(),
        }));
    }

    private static FSharpFunc<int, FSharpFunc<int, Unit>> Told(IProgress<StudyProgress>? progress, CancellationToken cancellationToken) =>
        FuncConvert.FromAction<int, int>((done, total) =>
        {
            progress?.Report(new() { Done = done, Total = total });
            cancellationToken.ThrowIfCancellationRequested();
        });

    private int[][] Prompts(IReadOnlyList<string> texts) => [.. texts.Select(text => OrBeginning(EncodePrompt(text)))];
}
