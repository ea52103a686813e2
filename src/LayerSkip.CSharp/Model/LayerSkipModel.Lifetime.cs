namespace LayerSkip.CSharp;

public sealed partial class LayerSkipModel
{
    private readonly TaskCompletionSource freed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly EngineOptions serving;
    private Engine? engine;
    // Ends with the engine's thread and its use of the weights, once the model is disposed of.
    private Task? drained;
    private int running;
    // Callers that have the engine and whose text it has not yet.
    private int entering;
    private bool disposed;

    /// <summary>Frees the weights, once the generations and lenses that still run have ended; no new one can start.</summary>
    public void Dispose()
    {
        bool isIdle;
        lock (gate)
        {
            if (disposed)
            {
                return;
            }

            disposed = true;
            isIdle = entering == 0;
            FreeIfUnused();
        }

        if (isIdle)
        {
            Drain();
        }
    }

    /// <summary>Lets the engine end, once it has written what it took.</summary>
    private void Drain()
    {
        if (engine is { } ending)
        {
            drained = ending.Drain(CancellationToken.None).ContinueWith(
                _ => Leave(), CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
            if (ending.Counts is { Running: 0, Waiting: 0 })
            {
                // Which is at once: whoever disposes of an idle model has its memory back.
                drained.Wait();
            }
        }
    }

    /// <summary>
    /// Ends the generations that still run, within a round each, and frees the weights: once this has ended, their memory is free. What
    /// else runs on the model, a lens or a sweep, is waited for.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        Dispose();
        if (engine is { } ending)
        {
            await ending.Stop().ConfigureAwait(false);
        }

        await freed.Task.ConfigureAwait(false);
    }

    /// <summary>Of a disposed model, whoever ends last leaves when all is freed.</summary>
    private async ValueTask LeaveAsync()
    {
        if (drained is { } ending && engine!.Counts is { Running: 0, Waiting: 0 })
        {
            await ending.ConfigureAwait(false);
        }
    }

    /// <summary>One use less of the weights.</summary>
    private void Leave()
    {
        lock (gate)
        {
            running--;
            FreeIfUnused();
        }
    }

    private void FreeIfUnused()
    {
        if (disposed && running == 0)
        {
            foreach (var adapter in adapters.Values.Where(loaded => loaded.IsOk))
            {
                ((IDisposable)adapter.ResultValue).Dispose();
            }

            ((IDisposable)checkpoint).Dispose();
            freed.TrySetResult();
        }
    }

    /// <summary>The engine for a caller who came before the model was disposed of: it takes his text yet, also where he has to wait for it.</summary>
    private readonly struct Entry : IDisposable
    {
        private readonly LayerSkipModel model;

        public Entry(LayerSkipModel model)
        {
            this.model = model;
            lock (model.gate)
            {
                ObjectDisposedException.ThrowIf(model.disposed, model);
                if (model.engine is null)
                {
                    // Its thread begins with the first text.
                    model.engine = new(model.checkpoint, model.serving);
                    model.running++;
                }

                Engine = model.engine;
                model.entering++;
            }
        }

        public Engine Engine { get; }

        public void Dispose()
        {
            bool isLast;
            lock (model.gate)
            {
                model.entering--;
                isLast = model.disposed && model.entering == 0;
            }

            if (isLast)
            {
                model.Drain();
            }
        }
    }

    /// <summary>Keeps the weights while something runs on them.</summary>
    private readonly struct Use : IDisposable
    {
        private readonly LayerSkipModel model;

        public Use(LayerSkipModel model)
        {
            this.model = model;
            lock (model.gate)
            {
                ObjectDisposedException.ThrowIf(model.disposed, model);
                model.running++;
            }
        }

        public void Dispose() => model.Leave();
    }
}
