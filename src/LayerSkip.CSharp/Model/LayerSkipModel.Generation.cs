using System.Runtime.CompilerServices;
using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

public sealed partial class LayerSkipModel
{
    // Times are remembered: the next strategy that asks for them has them at once.
    private bool hasMeasured;

    /// <summary>Continues a text, and waits for it on this thread.</summary>
    /// <exception cref="LayerSkipException">The prompt or the options cannot be used.</exception>
    public GenerateResult Generate(
        string prompt, GenerateOptions? options = null, CancellationToken cancellationToken = default) =>
        Generate(EncodePrompt(prompt), options, cancellationToken);

    /// <summary>Continues tokens, and waits for them on this thread.</summary>
    /// <exception cref="LayerSkipException">The prompt or the options cannot be used.</exception>
    public GenerateResult Generate(
        IReadOnlyList<int> promptIds, GenerateOptions? options = null, CancellationToken cancellationToken = default)
    {
        var prepared = Prepare(promptIds, options);
        cancellationToken.ThrowIfCancellationRequested();

        // Without a step on the pool, whose threads may all wait here.
        return Ending(cancellationToken, () =>
        {
            EngineTicket ticket;
            using (Entry entry = new(this))
            {
                var strategy = Measure(entry.Engine, prepared, cancellationToken)?.GetAwaiter().GetResult();
                ticket = Submit(entry.Engine, prepared, strategy, cancellationToken);
            }

            return Translate.Result(ticket.Completed.GetAwaiter().GetResult());
        });
    }

    /// <summary>Continues a text, on the model's thread.</summary>
    /// <exception cref="LayerSkipException">The prompt or the options cannot be used.</exception>
    public Task<GenerateResult> GenerateAsync(
        string prompt, GenerateOptions? options = null, CancellationToken cancellationToken = default) =>
        GenerateAsync(EncodePrompt(prompt), options, cancellationToken);

    /// <summary>Continues tokens, on the model's thread.</summary>
    /// <exception cref="LayerSkipException">The prompt or the options cannot be used.</exception>
    public Task<GenerateResult> GenerateAsync(
        IReadOnlyList<int> promptIds, GenerateOptions? options = null, CancellationToken cancellationToken = default) =>
        Ending(cancellationToken, new ValueTask<GenerateResult>(Complete(Prepare(promptIds, options), cancellationToken)));

    /// <summary>
    /// Continues a text, token by token, on the model's thread, from the first step on that is asked for and then at its own speed.
    /// Leaving the loop, or cancelling, ends the generation within a round and gives its place to another.
    /// </summary>
    /// <exception cref="LayerSkipException">The prompt or the options cannot be used.</exception>
    public IAsyncEnumerable<GeneratedToken> StreamAsync(
        string prompt, GenerateOptions? options = null, CancellationToken cancellationToken = default) =>
        StreamAsync(EncodePrompt(prompt), options, cancellationToken);

    /// <summary>As the other <c>StreamAsync</c>, for a prompt of ids.</summary>
    /// <exception cref="LayerSkipException">The prompt or the options cannot be used.</exception>
    public IAsyncEnumerable<GeneratedToken> StreamAsync(
        IReadOnlyList<int> promptIds, GenerateOptions? options = null, CancellationToken cancellationToken = default) =>
        Pull(Prepare(promptIds, options), cancellationToken);

    /// <summary>Checks prompt and options; nothing is computed.</summary>
    private Prepared Prepare(IReadOnlyList<int> promptIds, GenerateOptions? options)
    {
        ArgumentNullException.ThrowIfNull(promptIds);
        ObjectDisposedException.ThrowIf(disposed, this);
        var given = TranslateOptions.Options(checkpoint, options ?? new(), AdapterBehind, formats);
        int[] prompt = OrBeginning([.. promptIds]);
        var checkedOptions = given.With(given.Strategy);
        LayerSkipError[] faults =
        [
            .. given.Faults,
            .. Check.faults(LayerSkip.Generation.prepare(checkpoint.Weights, checkpoint.Tokenizer, checkedOptions, prompt)),
        ];
        return faults is [] ? new(prompt, given, options?.SharesPrefix ?? true) : throw Translate.Exception(faults);
    }

    private async Task<GenerateResult> Complete(Prepared prepared, CancellationToken cancellationToken)
    {
        cancellationToken.ThrowIfCancellationRequested();
        var ticket = await SubmitAsync(prepared, cancellationToken).ConfigureAwait(false);
        return Translate.Result(await ticket.Completed.ConfigureAwait(false));
    }

    private async IAsyncEnumerable<GeneratedToken> Pull(
        Prepared prepared, [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        cancellationToken.ThrowIfCancellationRequested();
        using var leaving = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        var ticket = await Ending(cancellationToken, new ValueTask<EngineTicket>(SubmitAsync(prepared, leaving.Token)))
            .ConfigureAwait(false);
        try
        {
            while (await Ending(cancellationToken, ticket.Events.WaitToReadAsync(cancellationToken)).ConfigureAwait(false))
            {
                while (ticket.Events.TryRead(out var happened))
                {
                    cancellationToken.ThrowIfCancellationRequested();
                    if (Translate.Event(happened) is { } step)
                    {
                        yield return step;
                    }
                }
            }
        }
        finally
        {
            // Its place and its memory are given back when this ends.
            await leaving.CancelAsync().ConfigureAwait(false);
            await ((Task)ticket.Completed).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            await LeaveAsync().ConfigureAwait(false);
        }
    }

    private async Task<EngineTicket> SubmitAsync(Prepared prepared, CancellationToken cancellationToken)
    {
        using Entry entry = new(this);
        var strategy = Measure(entry.Engine, prepared, cancellationToken) is { } measured ? await measured.ConfigureAwait(false) : null;
        return Submit(entry.Engine, prepared, strategy, cancellationToken);
    }

    /// <summary>What a strategy has to measure of the model first, on the model's thread; null where it measures nothing.</summary>
    private Task<LayerSkip.Strategy>? Measure(Engine engine, Prepared prepared, CancellationToken cancellationToken) =>
        prepared.Given.Measured is { } measure && !Volatile.Read(ref hasMeasured)
            ? Taken(engine.Run(
                FuncConvert.FromFunc<CancellationToken, LayerSkip.Strategy>(_ =>
                {
                    var strategy = measure();
                    Volatile.Write(ref hasMeasured, true);
                    return strategy;
                }),
                cancellationToken))
            : null;

    private EngineTicket Submit(Engine engine, Prepared prepared, LayerSkip.Strategy? strategy, CancellationToken cancellationToken) =>
        Taken(engine.Submit(new(
            prompt: prepared.Prompt,
            options: prepared.Given.With(strategy ?? prepared.Given.Measured?.Invoke() ?? prepared.Given.Strategy),
            sharesPrefix: prepared.SharesPrefix,
            cancelled: cancellationToken)));

    private T Taken<T>(FSharpResult<T, EngineRefusal> answer) =>
        answer.IsOk
            ? answer.ResultValue
            : answer.ErrorValue switch
            {
                EngineRefusal.Invalid { Item: var faults } => throw Translate.Exception(faults),
                EngineRefusal.Full full => throw new LayerSkipException(
                    LayerSkipErrorCode.Busy,
                    $"{full.running} texts are being written and {full.waiting} wait, as many as may; ask again later, or raise "
                    + nameof(LoadOptions.TextsWaiting),
                    nameof(LoadOptions.TextsWaiting)),
                _ => throw new ObjectDisposedException(typeof(LayerSkipModel).FullName),
            };

    /// <summary>What the library throws as this assembly's own; null where it goes out as it is.</summary>
    private Exception? Known(Exception fault, CancellationToken cancellationToken) =>
        fault switch
        {
            LayerSkip.LayerSkipException known => new LayerSkipException(known),
            OperationCanceledException when cancellationToken.IsCancellationRequested =>
                ((OperationCanceledException)fault).CancellationToken == cancellationToken
                    ? null
                    : new OperationCanceledException(cancellationToken),
            OperationCanceledException when disposed => new ObjectDisposedException(typeof(LayerSkipModel).FullName),
            _ => null,
        };

    private T Ending<T>(CancellationToken cancellationToken, Func<T> body)
    {
        try
        {
            return body();
        }
        catch (Exception fault) when (Known(fault, cancellationToken) is { } known)
        {
            throw known;
        }
    }

    private async Task<T> Ending<T>(CancellationToken cancellationToken, ValueTask<T> work)
    {
        try
        {
            return await work.ConfigureAwait(false);
        }
        catch (Exception fault) when (Known(fault, cancellationToken) is { } known)
        {
            throw known;
        }
    }

    /// <summary>A text that may be asked for.</summary>
    private sealed record Prepared(int[] Prompt, GivenOptions Given, bool SharesPrefix);
}
