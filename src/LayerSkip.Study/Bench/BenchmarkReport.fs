namespace LayerSkip

/// A median, and the 5th and 95th of a hundred.
type Spread = { Median: float; P5: float; P95: float }

/// What a benchmark decodes, and how often.
[<NoEquality; NoComparison>]
type BenchmarkOptions = {
    /// As ids.
    Prompt: int[]
    /// Timed runs of each strategy, interleaved; one more of each comes before, to warm up.
    Runs: int
    /// What is timed beside plain decoding.
    Strategy: Strategy
    /// New tokens of a run.
    MaxNewTokens: int
    /// Drafts are right with this probability, independently, whatever the exit says; None: the exit's own. For a strategy whose
    /// exit drafts as many tokens each time.
    AcceptRate: float option
    Seed: int64
}

/// What decoding one way took.
type DecodingTimes = {
    /// Of each run: the time from the first token to the last, over the tokens after the first.
    MsPerToken: Spread
    /// To the first token.
    TtftMs: Spread
    /// Between one event that brings tokens and the next (a token, or the tokens of a round).
    LatencyMs: Spread
    /// Milliseconds a token in draft passes and in verifying passes, heads included; in the heads of both, with their
    /// norm and choice; and beside all passes.
    DraftMs: float
    VerifyMs: float
    HeadMs: float
    OverheadMs: float
    /// In deciding what to draft and learning from what came of it.
    PolicyMs: float
    /// Accepted over drafted tokens, 0 to 1.
    Acceptance: float
}

/// What a model's passes take, and what decoding takes with them.
[<NoEquality; NoComparison>]
type BenchmarkReport = {
    Cpu: string
    Threads: int
    /// Gigabytes a second that as many threads read from memory at best.
    ReadBandwidth: float
    /// A whole forward pass, head included, by its number of new rows: of 1, 2, 5 and 8 those that the context has room for.
    PassMs: (int * float) list
    /// A pass over a prompt: its ids, and its time.
    PrefillTokens: int
    PrefillMs: float
    Autoregressive: DecodingTimes
    /// Bytes of weights that a token reads, over its time, in GB/s.
    AutoregressiveRate: float
    SelfSpeculative: DecodingTimes
    /// From the measured times of the passes that the rounds ran, with nothing added for overhead: of an exit that drafts as many
    /// tokens each time by the rounds' own passes, of others by `PassCosts`.
    PredictedMsPerToken: float
    /// Whether both wrote the same text in every run.
    SameText: bool
    /// What each timed run came to, in order: autoregressive, and self-speculative.
    Decoded: (Completion * Completion) list
} with

    /// By whose drafts they were, of all timed runs.
    member this.Sources: SourceStats[] =
        this.Decoded |> Seq.collect (fun (_, fast) -> fast.Stats.Sources) |> SourceStats.merge

    /// The mean exit layer of drafts that have one; NaN without such.
    member this.MeanExitLayer: float =
        let drafts = [
            for source in this.Sources do
                for exit in Option.toList source.MeanExitLayer do
                    exit, float source.DraftTokens
        ]

        (drafts |> List.sumBy (fun (exit, count) -> exit * count)) / (drafts |> List.sumBy snd)

    /// The mean number of drafts of a round, plain steps included; NaN without rounds.
    member this.MeanDraftLength: float =
        let rounds = this.Decoded |> Seq.collect (fun (_, fast) -> fast.Stats.Rounds) |> Array.ofSeq
        float (rounds |> Array.sumBy fst) / float rounds.Length

    /// Of the time of decoding, the policy's share.
    member this.PolicyShare: float =
        let sum (ms: Timings -> float) = this.Decoded |> List.sumBy (fun (_, fast) -> ms fast.Timings)
        sum _.PolicyMs / sum _.DecodeMs

    /// How many times as fast self-speculation is, by the medians of time a token.
    member this.Ratio = this.Autoregressive.MsPerToken.Median / this.SelfSpeculative.MsPerToken.Median
    /// Five rows over one; None where the context has no room for five.
    member this.VerifyRowsRatio: float option =
        let passes = Map.ofList this.PassMs
        Option.map2 (/) (Map.tryFind 5 passes) (Map.tryFind 1 passes)

/// Spreads of samples.
[<RequireQualifiedAccess>]
module Spread =
    /// The place in sorted numbers that a share of them, 0 to 1, lies below; it is interpolated between two. NaN of none.
    let at (share: float) (sorted: float[]) : float =
        if sorted.Length = 0 then
            nan
        else
            let place = share * float (sorted.Length - 1)
            let below = int place
            let above = min (sorted.Length - 1) (below + 1)
            sorted[below] + (place - float below) * (sorted[above] - sorted[below])

    /// Of some numbers; NaN of none.
    let ofSamples (samples: float seq) : Spread =
        let sorted = Seq.sort samples |> Array.ofSeq
        { Median = at 0.5 sorted; P5 = at 0.05 sorted; P95 = at 0.95 sorted }
