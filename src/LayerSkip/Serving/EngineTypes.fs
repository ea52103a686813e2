namespace LayerSkip

open System
open System.Threading
open System.Threading.Channels
open System.Threading.Tasks

/// How an engine shares its thread and memory.
[<NoEquality; NoComparison>]
type EngineOptions = {
    /// The most texts that are written at once, a round each in turn.
    Slots: int
    /// The most requests that wait for a place; the next one is refused.
    Queue: int
    /// The most texts whose caches stay for prompts that begin as they do; 0: none.
    PrefixTexts: int
    /// The most bytes of all caches, those of prefixes among them; None: half of the memory that is free. A request waits where it would need
    /// more, but one text is always written.
    KvBytes: int64 option
    /// Where finished texts are remembered for the drafts of later ones (`DraftingOptions.Past`), and None for good reason: how fast one
    /// user's text comes would then tell what another's said.
    Past: PastTexts option
}

/// A text to be written.
[<NoEquality; NoComparison>]
type EngineRequest = {
    Prompt: int[]
    Options: GenerationOptions
    /// Whether its cache may begin as another text's, and stay for the next.
    SharesPrefix: bool
    /// Ends it: its place is then another's within a round, also while its prompt is read.
    Cancelled: CancellationToken
}

/// Why a request is not taken.
[<RequireQualifiedAccess>]
type EngineRefusal =
    /// Its prompt or its options are at fault.
    | Invalid of LayerSkipError list
    /// So many texts are being written, and so many requests wait, as many as may.
    | Full of running: int * waiting: int
    /// The engine is ending.
    | Closed

/// A request that was taken.
[<NoEquality; NoComparison>]
type EngineTicket = {
    /// What comes of it, as `Generation.run` has it, for one reader, at any speed. It ends with `End`; or else reading on throws: an
    /// OperationCanceledException where it was cancelled, a LayerSkipException where numbers overflow or memory is short.
    Events: ChannelReader<GenerationEvent>
    /// The finished text, or the same exceptions. Its place and its memory have been given back by then.
    Completed: Task<Completion>
}

/// What an engine does and has done, as of a moment.
type EngineCounts = {
    /// Texts that are being written, and requests that wait for a place.
    Running: int
    Waiting: int
    /// Requests that came to their end: by a stop token or string, and by their length.
    Stopped: int64
    Exhausted: int64
    /// Requests that were cancelled, that failed, and that were refused for a full queue.
    Cancelled: int64
    Failed: int64
    Refused: int64
    /// Tokens of prompts that were begun, and how many of them some kept cache had read.
    PromptTokens: int64
    ReusedTokens: int64
    /// Prompts that were begun, and how many found some of their tokens read.
    Prompts: int64
    PrefixHits: int64
    GeneratedTokens: int64
    /// Rounds that drafted, what they drafted, and what was kept.
    Drafts: int64
    DraftTokens: int64
    AcceptedTokens: int64
    /// At j, rounds that kept more than j drafts.
    AcceptedPerPosition: int64[]
    /// Bytes of the caches of texts that are being written, and of those that are kept for their prefixes, which are so many.
    RunningBytes: int64
    PrefixBytes: int64
    PrefixTexts: int
    /// The most bytes of both.
    KvBytes: int64
} with

    /// The share of `KvBytes` that is taken.
    member this.KvUsage: float = float (this.RunningBytes + this.PrefixBytes) / float (max 1L this.KvBytes)

[<RequireQualifiedAccess>]
module EngineOptions =
    /// What is meant where nothing is said.
    let defaults: EngineOptions = { Slots = 32; Queue = 256; PrefixTexts = 32; KvBytes = None; Past = None }

    /// Every fault: a number below its least.
    let faults (options: EngineOptions) : LayerSkipError list = [
        yield! Check.atLeast 1 "slots" options.Slots
        yield! Check.atLeast 0 "queue" options.Queue
        yield! Check.atLeast 0 "prefix-texts" options.PrefixTexts
        match options.KvBytes with
        | Some bytes when bytes < 1L -> LayerSkipError.OutOfRange("kv-bytes", string bytes, "1 or more")
        | _ -> ()
    ]

[<RequireQualifiedAccess>]
module EngineRequest =
    /// A text to be written that nothing cancels.
    let create (options: GenerationOptions) (prompt: int[]) : EngineRequest = {
        Prompt = prompt
        Options = options
        SharesPrefix = true
        Cancelled = CancellationToken.None
    }

[<RequireQualifiedAccess>]
module EngineCounts =
    /// Of an engine that has done nothing.
    let zero: EngineCounts = {
        Running = 0
        Waiting = 0
        Stopped = 0L
        Exhausted = 0L
        Cancelled = 0L
        Failed = 0L
        Refused = 0L
        PromptTokens = 0L
        ReusedTokens = 0L
        Prompts = 0L
        PrefixHits = 0L
        GeneratedTokens = 0L
        Drafts = 0L
        DraftTokens = 0L
        AcceptedTokens = 0L
        AcceptedPerPosition = [||]
        RunningBytes = 0L
        PrefixBytes = 0L
        PrefixTexts = 0
        KvBytes = 0L
    }

    /// With a round that came to its end.
    let internal addRound (round: Round) (counts: EngineCounts) : EngineCounts =
        if round.Drafted = 0 then
            counts
        else
            let known = counts.AcceptedPerPosition

            {
                counts with
                    Drafts = counts.Drafts + 1L
                    DraftTokens = counts.DraftTokens + int64 round.Drafted
                    AcceptedTokens = counts.AcceptedTokens + int64 round.Accepted
                    AcceptedPerPosition =
                        Array.init (max known.Length round.Accepted) (fun place ->
                            (if place < known.Length then known[place] else 0L)
                            + (if place < round.Accepted then 1L else 0L))
            }
