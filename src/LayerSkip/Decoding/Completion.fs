namespace LayerSkip

/// How a prompt is to be continued.
[<NoEquality; NoComparison>]
type GenerationOptions = {
    Strategy: Strategy
    Sampling: Sampling
    /// What changes the model's logits before a token is chosen: penalties, bias, a constraint. They hold for drafts too.
    Rules: TokenRules
    /// The most new tokens; the context may end the text sooner.
    MaxNewTokens: int
    /// Tokens that end the text and are no part of it.
    StopIds: int[]
    /// Texts that end the text and are no part of it; the ids have the tokens that spell one.
    StopTexts: string list
    /// Whether special tokens appear in the text.
    ShowSpecial: bool
    /// Of all random draws: one seed, one text. Greedy decoding draws none.
    Seed: int64
    /// Tells the log-probability of each new token, and so many of the likeliest there, 0 to 20; None: neither.
    LogProbs: int option
    /// The same of the prompt's tokens; they cost the head's time over the prompt, and no pass.
    PromptLogProbs: int option
}

/// Where a token comes from.
[<RequireQualifiedAccess>]
type Origin =
    /// The first one, from the pass over the prompt.
    | Prefill
    /// A step without a draft.
    | Plain
    /// Drafted by layers, and kept.
    | Drafted
    /// Drafted by lookup in the text or a past one, and kept.
    | LookedUp
    /// The whole model's, in place of a draft that it refused.
    | Corrected
    /// The whole model's, after a draft that it kept entirely.
    | Bonus

/// Why a text ended.
[<RequireQualifiedAccess>]
type FinishReason =
    /// A stop id or a stop string.
    | Stop
    /// max-new-tokens, or the end of the context.
    | Length

[<RequireQualifiedAccess>]
module internal FinishReason =
    /// As OpenAI's interface and ours spell it: "stop".
    let name (reason: FinishReason) : string =
        match reason with
        | FinishReason.Stop -> "stop"
        | FinishReason.Length -> "length"

/// What one source's drafts came to.
type SourceStats = {
    /// As `DraftSource.name` has it.
    Source: string
    /// Rounds with a draft of its.
    Rounds: int
    DraftTokens: int
    AcceptedDraftTokens: int
    /// The mean exit layer of its drafts, where they have one.
    MeanExitLayer: float option
}

/// What speculation did, in vLLM's names.
type SpeculationStats = {
    /// Rounds that drafted.
    NumSpecSteps: int
    NumDraftTokens: int
    NumAcceptedDraftTokens: int
    /// Accepted over drafted; 0 where nothing was drafted.
    DraftAcceptanceRate: float
    /// 1 + accepted over rounds: the tokens that a round yields; 0 where there was none.
    MeanAcceptanceLength: float
    /// At j, how many rounds kept exactly j drafts.
    AcceptanceHistogram: int[]
    /// Drafted and accepted of every round; (0, 0) is a plain step.
    Rounds: (int * int)[]
    /// By whose drafts they were, the one of most rounds first.
    Sources: SourceStats[]
}

/// Milliseconds of computing; what a consumer does between events does not count.
type Timings = {
    /// To the first token, from the loaded model, the making of the cache included.
    TtftMs: float
    /// From the first token to the last.
    DecodeMs: float
    /// Of DecodeMs, in the early layers and head of the draft, and in the verifying passes with their head.
    DraftMs: float
    VerifyMs: float
    /// Of both, in norm, head and the choice of tokens.
    HeadMs: float
    /// Of DecodeMs, in deciding what to draft and learning from what came of it.
    PolicyMs: float
} with

    /// Of DecodeMs, beside all passes.
    member this.OverheadMs = this.DecodeMs - this.DraftMs - this.VerifyMs

    /// Of DecodeMs, the policy's share; 0 where nothing was decoded.
    member this.PolicyShare =
        if this.DecodeMs > 0.0 then
            this.PolicyMs / this.DecodeMs
        else
            0.0

/// A finished text.
type Completion = {
    PromptIds: int[]
    /// How many of them a kept cache had read already.
    ReusedIds: int
    /// The new tokens, without a stop token; after a stop string, up to the one that completed it.
    TokenIds: int[]
    /// The text of the new tokens, up to a stop string; None without a tokenizer.
    Text: string option
    /// Of each new token, where they are asked for; else empty.
    LogProbs: TokenLogProbs[]
    /// Of each token of the prompt, None of the first, where they are asked for; else empty.
    PromptLogProbs: TokenLogProbs option[]
    Finish: FinishReason
    /// Whether the text is the whole model's: it is not of early layers alone, nor under a rule of acceptance that is not lossless.
    IsLossless: bool
    /// The rule of acceptance: "exact", "lossy top-k:2".
    Acceptance: string
    /// Drafts that were kept and that exact acceptance would have refused.
    LooseTokens: int
    Stats: SpeculationStats
    Timings: Timings
} with

    /// New tokens after the first, over the time they took.
    member this.TokensPerSecond =
        match this.Timings.DecodeMs with
        | ms when ms > 0.0 -> 1000.0 * float (max 0 (this.TokenIds.Length - 1)) / ms
        | _ -> 0.0

/// A new token as it comes.
type TokenEvent = {
    Id: int
    Origin: Origin
    /// The text that it makes certain, which may be empty or that of earlier tokens.
    Text: string
    /// Where they are asked for.
    LogProbs: TokenLogProbs option
}

/// What decoding has come to, as it goes on.
[<RequireQualifiedAccess>]
type GenerationEvent =
    /// The first event, where log-probabilities of the prompt's tokens are asked for: `Completion.PromptLogProbs`.
    | Prompt of TokenLogProbs option[]
    | Token of TokenEvent
    /// A round that may draft is over; its tokens came before it.
    | Round of Round
    /// The last event; `rest` is text that was held back until now.
    | End of rest: string * Completion

[<RequireQualifiedAccess>]
module GenerationOptions =
    /// What is meant where nothing is said, but for the strategy and the stop ids, which are the model's to recommend.
    let defaults: GenerationOptions = {
        Strategy = Strategy.Autoregressive
        Sampling = Sampling.Greedy
        Rules = TokenRules.none
        MaxNewTokens = 128
        StopIds = [||]
        StopTexts = []
        ShowSpecial = false
        Seed = 0L
        LogProbs = None
        PromptLogProbs = None
    }

    /// Whether a prompt has to be read from its start: an exit's log-probabilities of it are of states that a kept cache may have of another exit.
    let internal readsAll (options: GenerationOptions) : bool =
        options.PromptLogProbs.IsSome && options.Strategy.Depth.IsSome

    /// Greedy decoding up to `maxNewTokens`, with nothing else that ends the text.
    let greedy (strategy: Strategy) (maxNewTokens: int) : GenerationOptions = {
        defaults with
            Strategy = strategy
            MaxNewTokens = maxNewTokens
    }

[<RequireQualifiedAccess>]
module SourceStats =
    /// Of the statistics of several texts, one of each source; the one of most rounds first.
    let merge (parts: SourceStats seq) : SourceStats[] =
        parts
        |> Seq.groupBy _.Source
        |> Seq.map (fun (name, parts) ->
            let drafts = parts |> Seq.sumBy _.DraftTokens

            {
                Source = name
                Rounds = parts |> Seq.sumBy _.Rounds
                DraftTokens = drafts
                AcceptedDraftTokens = parts |> Seq.sumBy _.AcceptedDraftTokens
                MeanExitLayer =
                    parts
                    |> Seq.map (fun part -> part.MeanExitLayer |> Option.map ((*) (float part.DraftTokens)))
                    |> List.ofSeq
                    |> Check.every
                    |> Option.map (fun sums -> List.sum sums / float (max 1 drafts))
            })
        |> Array.ofSeq
        |> Array.sortBy (fun source -> -source.Rounds, source.Source)

[<RequireQualifiedAccess>]
module SpeculationStats =
    let private sources (rounds: Round[]) : SourceStats[] =
        rounds
        |> Seq.indexed
        |> Seq.collect (fun (index, round) ->
            round.Sources |> Seq.mapi (fun place source -> index, source, place < round.Accepted))
        |> Seq.groupBy (fun (_, source, _) -> DraftSource.name source)
        |> Seq.map (fun (name, drafts) ->
            let count wanted = drafts |> Seq.filter wanted |> Seq.length

            {
                Source = name
                Rounds = drafts |> Seq.distinctBy (fun (index, _, _) -> index) |> Seq.length
                DraftTokens = count (fun _ -> true)
                AcceptedDraftTokens = count (fun (_, _, isKept) -> isKept)
                MeanExitLayer =
                    drafts
                    |> Seq.map (fun (_, source, _) -> DraftSource.tryExit source)
                    |> List.ofSeq
                    |> Check.every
                    |> Option.map (List.averageBy float)
            })
        |> Array.ofSeq
        |> Array.sortBy (fun source -> -source.Rounds, source.Source)

    /// Of what rounds drafted and kept, and whose drafts they were.
    let private ofCounts (rounds: (int * int)[]) (sources: SourceStats[]) : SpeculationStats =
        let speculative = rounds |> Array.filter (fun (drafted, _) -> drafted > 0)
        let drafted, accepted = Array.sumBy fst speculative, Array.sumBy snd speculative
        let over (a: int) (b: int) = if b = 0 then 0.0 else float a / float b

        {
            NumSpecSteps = speculative.Length
            NumDraftTokens = drafted
            NumAcceptedDraftTokens = accepted
            DraftAcceptanceRate = over accepted drafted
            MeanAcceptanceLength =
                (if speculative.Length = 0 then
                     0.0
                 else
                     1.0 + over accepted speculative.Length)
            AcceptanceHistogram =
                let counts = speculative |> Array.countBy snd |> Map.ofArray
                let longest = speculative |> Array.fold (fun most (drafted, _) -> max most (drafted + 1)) 0
                Array.init longest (fun kept -> Map.tryFind kept counts |> Option.defaultValue 0)
            Rounds = rounds
            Sources = sources
        }

    /// Of the rounds of one text, the first one first; the pass over the prompt is none.
    let ofRounds (rounds: Round[]) : SpeculationStats =
        rounds
        |> Array.filter (fun round -> round.Drafted > 0)
        |> sources
        |> ofCounts (rounds |> Array.map (fun round -> round.Drafted, round.Accepted))

    /// Of several texts together.
    let merge (texts: SpeculationStats seq) : SpeculationStats =
        texts
        |> Seq.collect _.Sources
        |> SourceStats.merge
        |> ofCounts (texts |> Seq.collect _.Rounds |> Array.ofSeq)
