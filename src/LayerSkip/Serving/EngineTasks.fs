namespace LayerSkip

open System
open System.Collections.Generic
open System.Threading
open System.Threading.Channels
open System.Threading.Tasks

/// What an engine counts, from any thread.
[<Sealed>]
type internal EngineLedger() =
    let gate = obj ()
    let mutable counts = EngineCounts.zero

    member _.Counts: EngineCounts = lock gate (fun () -> counts)

    member _.Update(change: EngineCounts -> EngineCounts) : unit =
        lock gate (fun () -> counts <- change counts)

/// Whether a task's next turn reads a prompt.
[<Struct; RequireQualifiedAccess>]
type internal EngineReading =
    /// No, or a few tokens.
    | Nothing
    /// All that it has to read, in one turn.
    | Whole
    /// The first piece of several.
    | Begins
    /// A later piece.
    | Between

/// What has the engine's thread in turn.
type internal EngineTask =
    /// The most bytes that its cache will take.
    abstract Reserved: int64
    /// The bytes that it takes now.
    abstract Bytes: int64
    abstract IsCancelled: bool
    abstract Reading: EngineReading
    /// A turn: whether it was the last.
    abstract Step: unit -> bool
    /// After the last, or in place of one: frees what it holds, and then tells whoever waits. With what ended it, if that was not itself.
    abstract End: fault: exn option -> unit

/// A request under way.
[<Sealed>]
type internal EngineText
    private
    (
        request: EngineRequest,
        reserved: int64,
        first: EngineReading,
        slab: Slab option ref,
        start: CancellationToken -> seq<GenerationEvent list>,
        stopping: CancellationToken,
        ledger: EngineLedger,
        past: PastTexts option
    ) =
    let events =
        Channel.CreateUnbounded<GenerationEvent>(
            UnboundedChannelOptions(SingleWriter = true, AllowSynchronousContinuations = false)
        )

    let completed = TaskCompletionSource<Completion> TaskCreationOptions.RunContinuationsAsynchronously
    // With a round's end as it comes.
    let mutable rounds: IEnumerator<GenerationEvent list> = null
    let mutable linked: CancellationTokenSource = null
    let mutable last: GenerationEvent voption = ValueNone
    let mutable reading = first

    let write (event: GenerationEvent) = events.Writer.TryWrite event |> ignore

    let count (counts: EngineCounts) (event: GenerationEvent) =
        match event with
        | GenerationEvent.Token _ -> { counts with GeneratedTokens = counts.GeneratedTokens + 1L }
        | GenerationEvent.Round round -> EngineCounts.addRound round counts
        | GenerationEvent.Prompt _
        | GenerationEvent.End _ -> counts

    let cancellation () =
        OperationCanceledException(
            if request.Cancelled.IsCancellationRequested then
                request.Cancelled
            else
                stopping
        )

    /// Gives back all that it holds; what went wrong in that, if anything did.
    let free () : exn option =
        try
            if not (isNull rounds) then
                rounds.Dispose()

            if not (isNull linked) then
                linked.Dispose()

            None
        with e ->
            Some e

    let finish (completion: Completion) =
        past
        |> Option.iter _.Add(ReadOnlySpan(Array.append completion.PromptIds completion.TokenIds))

        ledger.Update(fun counts ->
            match completion.Finish with
            | FinishReason.Stop -> { counts with Stopped = counts.Stopped + 1L }
            | FinishReason.Length -> { counts with Exhausted = counts.Exhausted + 1L })

        ValueOption.iter write last
        events.Writer.TryComplete() |> ignore
        completed.TrySetResult completion |> ignore

    let fail (fault: exn) =
        match fault with
        | :? OperationCanceledException ->
            let fault = cancellation ()
            ledger.Update(fun counts -> { counts with Cancelled = counts.Cancelled + 1L })
            events.Writer.TryComplete fault |> ignore
            completed.TrySetCanceled fault.CancellationToken |> ignore
        | fault ->
            ledger.Update(fun counts -> { counts with Failed = counts.Failed + 1L })
            events.Writer.TryComplete fault |> ignore
            completed.TrySetException fault |> ignore
            // Whoever reads the events knows.
            completed.Task.Exception |> ignore

    /// A request that is good, to be begun at its first turn; its faults else.
    static member TryCreate
        (
            checkpoint: Checkpoint,
            prefixes: PrefixCache,
            past: PastTexts option,
            ledger: EngineLedger,
            stopping: CancellationToken,
            request: EngineRequest
        ) : Result<EngineText, LayerSkipError list> =
        let weights, strategy = checkpoint.Weights, request.Options.Strategy
        let slab = ref None

        let take () =
            let cache =
                if request.SharesPrefix then
                    prefixes.Take(strategy, request.Prompt)
                else
                    ReadText.empty weights.Config.Context weights strategy

            let read = cache.Early.Length
            slab.Value <- Some cache.Slab

            ledger.Update(fun counts -> {
                counts with
                    Prompts = counts.Prompts + 1L
                    PrefixHits = counts.PrefixHits + (if read > 0 then 1L else 0L)
                    PromptTokens = counts.PromptTokens + int64 request.Prompt.Length
                    ReusedTokens = counts.ReusedTokens + int64 read
            })

            cache

        let give (text: ReadText) =
            slab.Value <- None

            if request.SharesPrefix then
                prefixes.Return text
            else
                ReadText.dispose text

        Generation.prepareOver
            { Take = take; Return = give }
            weights
            checkpoint.Tokenizer
            request.Options
            request.Prompt
        |> Result.map (fun start ->
            let length =
                min
                    (int64 weights.Config.Context)
                    (int64 request.Prompt.Length + int64 request.Options.MaxNewTokens)

            let reserved = length * ReadText.bytesPerPosition weights strategy

            let known =
                if request.SharesPrefix && not (GenerationOptions.readsAll request.Options) then
                    prefixes.Known(strategy, request.Prompt)
                else
                    0

            let unread = request.Prompt.Length - known

            // As far as can be told: what is known now may be gone when it begins.
            let reading =
                if PromptPieces.count weights unread > 1 then
                    EngineReading.Begins
                elif unread > PromptPieces.few then
                    EngineReading.Whole
                else
                    EngineReading.Nothing

            EngineText(request, reserved, reading, slab, start, stopping, ledger, past))

    member _.Ticket: EngineTicket = { Events = events.Reader; Completed = completed.Task }

    interface EngineTask with
        member _.Reserved = reserved
        member _.Bytes = slab.Value |> Option.map _.Bytes |> Option.defaultValue 0L

        member _.IsCancelled = request.Cancelled.IsCancellationRequested || stopping.IsCancellationRequested

        member _.Reading = reading

        member _.Step() =
            let isFirst = isNull rounds

            if isFirst then
                linked <- CancellationTokenSource.CreateLinkedTokenSource(request.Cancelled, stopping)
                rounds <- (start linked.Token).GetEnumerator()

            if not (rounds.MoveNext()) then
                invalidOp "the rounds ended before the text"

            // Pieces bring nothing.
            reading <-
                if (isFirst || reading <> EngineReading.Nothing) && rounds.Current.IsEmpty then
                    EngineReading.Between
                else
                    EngineReading.Nothing

            ledger.Update(fun counts -> List.fold count counts rounds.Current)

            for event in rounds.Current do
                match event with
                // Whoever reads it may count on the place being another's.
                | GenerationEvent.End _ -> last <- ValueSome event
                | event -> write event

            last.IsSome

        member _.End(fault) =
            match last, fault, free () with
            | ValueSome(GenerationEvent.End(_, completion)), None, None -> finish completion
            | _, Some fault, _
            | _, None, Some fault -> fail fault
            | _, None, None -> fail (cancellation ())

/// Work that has the thread for itself, once.
[<Sealed>]
type internal EngineJob<'T>
    (work: CancellationToken -> 'T, cancelled: CancellationToken, stopping: CancellationToken) =
    let completed = TaskCompletionSource<'T> TaskCreationOptions.RunContinuationsAsynchronously
    let mutable result = ValueNone

    member _.Completed: Task<'T> = completed.Task

    interface EngineTask with
        member _.Reserved = 0L
        member _.Bytes = 0L
        member _.IsCancelled = cancelled.IsCancellationRequested || stopping.IsCancellationRequested
        member _.Reading = EngineReading.Whole

        member _.Step() =
            use linked = CancellationTokenSource.CreateLinkedTokenSource(cancelled, stopping)
            result <- ValueSome(work linked.Token)
            true

        member _.End(fault) =
            match result, fault with
            | ValueSome result, None -> completed.TrySetResult result |> ignore
            | _, Some fault when not (fault :? OperationCanceledException) ->
                completed.TrySetException fault |> ignore
            | _ -> completed.TrySetCanceled() |> ignore
