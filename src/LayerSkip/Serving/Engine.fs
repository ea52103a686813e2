namespace LayerSkip

open System
open System.Threading
open System.Threading.Tasks

/// Writes the texts of any number of callers on one thread of its own: up to `Slots` at once, a round each in turn, or a piece of a long prompt,
/// while others wait. No caller is ever blocked, and none by another that reads slowly. Texts are those that `Generation` writes. It is disposed before the model.
[<Sealed>]
type Engine(checkpoint: Checkpoint, options: EngineOptions) =
    do Check.all (EngineOptions.faults options) () |> Check.getOrRaise

    let kvBytes = options.KvBytes |> Option.defaultWith (fun () -> max 1L (Memory.free () / 2L))
    let prefixes = new PrefixCache(checkpoint.Weights, options.PrefixTexts, kvBytes)
    let ledger = EngineLedger()
    // Never disposed: a caller may still ask whether it is cancelled.
    let stopping = new CancellationTokenSource()
    let ended = TaskCompletionSource TaskCreationOptions.RunContinuationsAsynchronously

    let gate = obj ()
    let waiting, running = ResizeArray<EngineTask>(), ResizeArray<EngineTask>()
    // The one whose turn it is; it is in neither list.
    let mutable current: EngineTask voption = ValueNone
    // Whether the last turn read a prompt, or was a job's.
    let mutable hasRead = false
    let mutable isOpen = true

    let atWork () = Seq.append (ValueOption.toArray current) running

    /// Takes those that are cancelled out of a list.
    let takeCancelled (tasks: ResizeArray<EngineTask>) : EngineTask list =
        let gone = tasks |> Seq.filter _.IsCancelled |> List.ofSeq
        gone |> List.iter (tasks.Remove >> ignore)
        gone

    /// Takes the next one out of those that run: the first, but that one long prompt is read after another, since their first tokens would all
    /// come late if they took turns, and that somebody writes between two turns that read.
    let takeNext () : EngineTask voption =
        let isFree = running |> Seq.forall (fun task -> task.Reading <> EngineReading.Between)
        let may (task: EngineTask) = isFree || task.Reading <> EngineReading.Begins

        let next =
            running
            |> Seq.tryFind (fun task -> (not hasRead || task.Reading = EngineReading.Nothing) && may task)
            |> Option.orElseWith (fun () -> running |> Seq.tryFind may)

        match next with
        | Some task ->
            hasRead <- task.Reading <> EngineReading.Nothing
            running.Remove task |> ignore
            ValueSome task
        | None -> ValueNone

    /// Lets those in that have a place and, but for the first, memory.
    let admit () =
        let mutable reserved = running |> Seq.sumBy _.Reserved

        let fits () = running.Count = 0 || reserved + waiting[0].Reserved <= kvBytes

        while waiting.Count > 0 && running.Count < options.Slots && fits () do
            let task = waiting[0]
            waiting.RemoveAt 0
            reserved <- reserved + task.Reserved
            running.Add task

        reserved

    /// Waits for work. Whose turn it is, and those that have none any more.
    let arrange () : struct (EngineTask list * EngineTask voption * int64) =
        lock gate (fun () ->
            while isOpen && running.Count = 0 && waiting.Count = 0 do
                Monitor.Wait gate |> ignore

            let gone = takeCancelled running @ takeCancelled waiting
            let reserved = admit ()

            current <- takeNext ()
            struct (gone, current, reserved))

    let turn (task: EngineTask) =
        let struct (isLast, fault) =
            try
                struct (task.Step(), None)
            with e ->
                struct (true, Some e)

        lock gate (fun () ->
            current <- ValueNone

            if not isLast then
                running.Add task)

        if isLast then
            task.End fault

    let work () =
        let mutable goesOn = true

        while goesOn do
            let struct (gone, task, reserved) = arrange ()

            for task in gone do
                task.End(Some(OperationCanceledException()))

            match task with
            | ValueSome task ->
                prefixes.Shrink(max 0L (kvBytes - reserved))
                turn task
            | ValueNone -> goesOn <- lock gate (fun () -> isOpen || waiting.Count > 0)

        (prefixes :> IDisposable).Dispose()
        ended.SetResult()

    let thread = Thread(ThreadStart work, IsBackground = true, Name = "LayerSkip engine")
    do thread.Start()

    let accept (task: EngineTask) : Result<unit, EngineRefusal> =
        lock gate (fun () ->
            let atWork = Seq.length (atWork ())
            let waits = waiting |> Seq.filter (fun task -> not task.IsCancelled) |> Seq.length

            if not isOpen then
                Error EngineRefusal.Closed
            elif waits >= options.Queue + max 0 (options.Slots - atWork) then
                ledger.Update(fun counts -> { counts with Refused = counts.Refused + 1L })
                Error(EngineRefusal.Full(atWork, waits))
            else
                waiting.Add task
                Monitor.PulseAll gate
                Ok())

    let close () =
        lock gate (fun () ->
            isOpen <- false
            Monitor.PulseAll gate)

    /// The model that writes.
    member _.Checkpoint = checkpoint

    member _.Options = options

    /// Asks for a text. What comes of it is written whether or not it is read.
    member _.Submit(request: EngineRequest) : Result<EngineTicket, EngineRefusal> =
        EngineText.TryCreate(checkpoint, prefixes, options.Past, ledger, stopping.Token, request)
        |> Result.mapError EngineRefusal.Invalid
        |> Result.bind (fun text -> accept text |> Result.map (fun () -> text.Ticket))

    /// Other work on the model, as a lens or a score, on the same thread: it takes a place and a turn, in which no text is written. It should
    /// look at its token, as passes do (`Cache.Cancelled`).
    member _.Run
        (work: CancellationToken -> 'T, cancelled: CancellationToken)
        : Result<Task<'T>, EngineRefusal> =
        let job = EngineJob(work, cancelled, stopping.Token)
        accept job |> Result.map (fun () -> job.Completed)

    /// What it does and has done.
    member _.Counts: EngineCounts =
        let struct (active, waits, bytes) =
            lock gate (fun () ->
                let active = Array.ofSeq (atWork ())
                struct (active.Length, waiting.Count, active |> Array.sumBy _.Bytes))

        {
            ledger.Counts with
                Running = active
                Waiting = waits
                RunningBytes = bytes
                PrefixBytes = prefixes.Bytes
                PrefixTexts = prefixes.Count
                KvBytes = kvBytes
        }

    /// Takes no more requests; ends when those that it took are done. Once `cancelled`, what is not done is cancelled.
    member _.Drain(cancelled: CancellationToken) : Task =
        close ()
        let registration = cancelled.Register(fun () -> stopping.Cancel())
        ended.Task.ContinueWith(Action<Task>(fun _ -> registration.Dispose()))

    /// Cancels what is not done, and ends when its memory is freed.
    member _.Stop() : Task =
        close ()
        stopping.Cancel()
        ended.Task

    interface IAsyncDisposable with
        member this.DisposeAsync() = ValueTask(this.Stop())

    interface IDisposable with
        member this.Dispose() = this.Stop().Wait()
