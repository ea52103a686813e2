using System.Diagnostics;
using System.Runtime.ExceptionServices;

namespace LayerSkip.Kernels;

/// <summary>
/// Threads that stay. They take the parts of a job one by one, spin for a moment after it, since the next job of
/// the same pass is microseconds away, and then sleep.
/// </summary>
/// <remarks>
/// The caller works too, and goes on when all parts are done, whether or not every worker woke up for them. When
/// others hold the cores it soon blocks instead of spinning, so that a worker that was pushed off may run in its place.
/// Nothing that a part throws ends a worker, and nothing lets the caller go while a part still runs.
/// </remarks>
public sealed class Workers
{
    /// <summary>The most threads that can be asked for.</summary>
    public const int Most = 1024;

    private static readonly long IdleSpin = Stopwatch.Frequency / 5_000;
    private static readonly long WaitSpin = Stopwatch.Frequency / 20_000;

    private static Workers shared = new(Math.Min(Environment.ProcessorCount, Most));

    [ThreadStatic]
    private static bool withinPart;

    private readonly object gate = new();
    private readonly object owner = new();

    private PartQueue queue;
    private Action<int>? work;
    private int done;
    private int sleeping;

    // What a part of the job threw first.
    private volatile ExceptionDispatchInfo? fault;
    private volatile bool callerWaits;
    private volatile bool stopped;

    private Workers(int threads)
    {
        Threads = threads;

        try
        {
            for (int i = 1; i < threads; i++)
            {
                new Thread(Serve) { IsBackground = true, Name = $"LayerSkip kernel {i}" }.Start();
            }
        }
        catch
        {
            // The system has no more threads: those that it gave go.
            Stop();
            throw;
        }
    }

    /// <summary>The workers that every kernel uses.</summary>
    public static Workers Shared => Volatile.Read(ref shared);

    public int Threads { get; }

    /// <summary>Makes the kernels use so many threads from now on, 1 to <see cref="Most"/>, the caller included.</summary>
    public static void Use(int threads)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(threads, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(threads, Most);
        RefuseWithinPart();

        if (Shared.Threads != threads)
        {
            var former = Interlocked.Exchange(ref shared, new Workers(threads));
            former.Stop();
        }
    }

    /// <summary>
    /// Calls <paramref name="body"/> with 0 .. parts - 1, each once, in any order, on any of the threads; returns
    /// when all have returned. A second caller at the same time does its parts alone.
    /// </summary>
    /// <remarks>What a part throws is thrown here, once no part runs any more; those not begun by then never are.</remarks>
    /// <exception cref="InvalidOperationException">A part of a job called this.</exception>
    public void Run(int parts, Action<int> body)
    {
        RefuseWithinPart();

        if (parts > PartQueue.Most)
        {
            RunGrouped(parts, body);
            return;
        }

        if (parts <= 1 || Threads == 1 || stopped || !Monitor.TryEnter(owner))
        {
            RunAlone(parts, body);
            return;
        }

        ExceptionDispatchInfo? thrown;
        bool interrupted;

        try
        {
            fault = null;
            Volatile.Write(ref done, 0);
            work = body;
            queue.Open(parts);
            interrupted = Volatile.Read(ref sleeping) > 0 && !TryWake();

            while (queue.TryTake(out int part))
            {
                Do(body, part);
            }

            interrupted |= !Await(parts);
            thrown = fault;
        }
        finally
        {
            Monitor.Exit(owner);
        }

        if (interrupted)
        {
            // Whoever interrupted this thread meets it at its next wait: here it had to stay.
            Thread.CurrentThread.Interrupt();
        }

        thrown?.Throw();
    }

    /// <summary>More parts than a job can count: the job has fewer, of several each.</summary>
    private void RunGrouped(int parts, Action<int> body)
    {
        int size = (int)((parts + (long)PartQueue.Most - 1) / PartQueue.Most);

        Run(
            (int)(((long)parts + size - 1) / size),
            group =>
            {
                long end = Math.Min(parts, (group + 1L) * size);

                for (long part = (long)group * size; part < end; part++)
                {
                    body((int)part);
                }
            });
    }

    private static void RefuseWithinPart()
    {
        if (withinPart)
        {
            throw new InvalidOperationException(
                "a job within a part of another is not supported; share the outer one's parts, or do the inner work in a loop");
        }
    }

    private static void RunAlone(int parts, Action<int> body)
    {
        withinPart = true;

        try
        {
            for (int part = 0; part < parts; part++)
            {
                body(part);
            }
        }
        finally
        {
            withinPart = false;
        }
    }

    private void Do(Action<int> body, int part)
    {
        if (fault is null)
        {
            withinPart = true;

            try
            {
                body(part);
            }
            catch (Exception e)
            {
                Interlocked.CompareExchange(ref fault, ExceptionDispatchInfo.Capture(e), null);
            }

            withinPart = false;
        }

        Interlocked.Increment(ref done);
    }

    /// <summary>Wakes those that sleep; false where this thread was interrupted instead, and does all parts itself.</summary>
    private bool TryWake()
    {
        try
        {
            lock (gate)
            {
                Monitor.PulseAll(gate);
            }

            return true;
        }
        catch (ThreadInterruptedException)
        {
            return false;
        }
    }

    /// <summary>Until all parts are done; false where this thread was interrupted meanwhile.</summary>
    private bool Await(int parts)
    {
        var spin = new Spin(WaitSpin);

        while (Volatile.Read(ref done) < parts)
        {
            if (spin.IsOver())
            {
                return Block(parts);
            }
        }

        return true;
    }

    private bool Block(int parts)
    {
        bool interrupted = false;

        while (Volatile.Read(ref done) < parts)
        {
            try
            {
                lock (gate)
                {
                    callerWaits = true;

                    while (Volatile.Read(ref done) < parts)
                    {
                        // Bounded, so that no order of events can leave it waiting for good.
                        Monitor.Wait(gate, 1);
                    }
                }
            }
            catch (ThreadInterruptedException)
            {
                interrupted = true;
            }
        }

        callerWaits = false;
        return !interrupted;
    }

    private void Serve()
    {
        var spin = new Spin(IdleSpin);

        while (!stopped)
        {
            if (queue.TryTake(out int part))
            {
                // The job cannot end before this part does, so its work stays in place.
                Do(work!, part);

                if (callerWaits)
                {
                    lock (gate)
                    {
                        Monitor.PulseAll(gate);
                    }
                }

                spin = new Spin(IdleSpin);
            }
            else if (spin.IsOver())
            {
                Sleep();
                spin = new Spin(IdleSpin);
            }
        }
    }

    private void Sleep()
    {
        lock (gate)
        {
            Interlocked.Increment(ref sleeping);

            while (!stopped && !queue.HasParts)
            {
                Monitor.Wait(gate);
            }

            Interlocked.Decrement(ref sleeping);
        }
    }

    private void Stop()
    {
        // Not while a job runs.
        lock (owner)
        {
            stopped = true;

            lock (gate)
            {
                Monitor.PulseAll(gate);
            }
        }
    }
}
