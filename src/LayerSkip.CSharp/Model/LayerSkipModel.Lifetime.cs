namespace LayerSkip.CSharp;

public sealed partial class LayerSkipModel
{
    private readonly TaskCompletionSource freed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly CancellationTokenSource ending = new();
    private int running;
    private bool disposed;

    /// <summary>Frees the weights, once the generations and lenses that still run have ended; no new one can start.</summary>
    public void Dispose()
    {
        lock (gate)
        {
            if (disposed)
            {
                return;
            }

            disposed = true;
            FreeIfUnused();
        }
    }

    /// <summary>
    /// Ends the generations that still run, within a round each, and frees the weights: once this has ended, their memory is free. What
    /// else runs on the model, a lens or a sweep, is waited for.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        Dispose();
        await ending.CancelAsync().ConfigureAwait(false);
        await freed.Task.ConfigureAwait(false);
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

        public void Dispose()
        {
            lock (model.gate)
            {
                model.running--;
                model.FreeIfUnused();
            }
        }
    }
}
