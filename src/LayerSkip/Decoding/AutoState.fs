namespace LayerSkip

open System

/// What drafting that chooses for itself knows at first.
[<NoEquality; NoComparison>]
type AutoOptions = {
    Costs: PassCosts
    /// Exits that may draft.
    Exits: ExitLayer list
    /// The one of them that drafts at first; None: none does until one has shown that it pays.
    Start: ExitLayer option
    /// The most tokens of a draft.
    Longest: int
    /// Whether what the text said before is looked up.
    Lookup: bool
    /// Texts written before, where lookup also looks.
    Past: PastTexts option
}

/// What is known of an exit.
[<NoEquality; NoComparison>]
type internal AutoExit = {
    Exit: ExitLayer
    Source: DraftSource
    /// Of [1; the confidence's logit; lookup says the same; .. and how long its match is; lookup says something else, with its length].
    Odds: Odds
    /// The share of its drafts that are kept.
    Kept: float
    /// Positions at which it would have drafted the whole model's token, and all that it was asked at.
    Matches: float
    Asked: float
} with

    /// The share of them, with two positions of neither kind.
    member this.Share: float = (this.Matches + 1.0) / (this.Asked + 2.0)

/// A draft as it was made, to learn from.
[<Struct; NoEquality; NoComparison>]
type internal AutoDraft = { Features: float[]; ByLookup: bool }

[<NoEquality; NoComparison>]
type internal AutoState = {
    Options: AutoOptions
    /// What stands behind the only exit, if anything, and what it has read.
    Adapter: Adapter option
    Memory: AdapterMemory voption
    Index: SuffixIndex
    Exits: AutoExit[]
    /// Which of them drafts; -1: none.
    Current: int
    /// Of [1; the length of the match; its share's logit].
    Lookup: Odds
    /// Tokens and milliseconds of the rounds so far.
    Tokens: float
    Ms: float
    Costs: LearnedCosts
    /// Of the round under way, and how many of its drafts an exit was run for.
    Made: AutoDraft[]
    Steps: int
    Looks: bool
    /// Rounds until exits are asked again, and until after that where nothing changes.
    Wait: int
    Pause: int
    LookMs: float
    TotalMs: float
}

[<RequireQualifiedAccess>]
module internal AutoState =
    /// Rounds from one look at exits to the next, at first.
    let firstPause = 4

    let length (found: SuffixDraft) = Math.Log2(float (max 1 found.Matched))

    let lookupFeatures (found: SuffixDraft) : float[] = [|
        1.0
        length found
        Odds.logit found.Shares[0] / 6.0
    |]

    let exitFeatures (confidence: float) (token: int) (found: SuffixDraft) : float[] =
        let agrees = found.Tokens.Length > 0 && found.Tokens[0] = token
        let differs = found.Tokens.Length > 0 && not agrees

        [|
            1.0
            Odds.logit confidence
            (if agrees then 1.0 else 0.0)
            (if agrees then length found else 0.0)
            (if differs then 1.0 + length found else 0.0)
        |]

    /// Layers that run behind the exit.
    let behind (state: AutoState) : int =
        state.Adapter
        |> Option.map (fun adapter -> adapter.Weights.Config.Layers)
        |> Option.defaultValue 0

    let start (adapter: Adapter option) (options: AutoOptions) : AutoState =
        let sourceOf (exit: ExitLayer) =
            match adapter with
            | Some _ -> DraftSource.Adapter exit.Layers
            | None -> DraftSource.Exit exit.Layers

        let exits = [|
            for exit in options.Exits |> List.distinctBy _.Layers |> List.sortBy _.Layers ->
                {
                    Exit = exit
                    Source = sourceOf exit
                    Odds = { Weights = [| 0.0; 1.0; 1.2; 0.2; -0.2 |] }
                    Kept = 0.7
                    Matches = 0.0
                    Asked = 0.0
                }
        |]

        {
            Options = options
            Adapter = adapter
            Memory = ValueNone
            Index = SuffixIndex.empty
            Exits = exits
            Current =
                match options.Start with
                | Some start -> exits |> Array.findIndex (fun known -> known.Exit.Layers = start.Layers)
                | None -> -1
            Lookup = { Weights = [| -2.0; 0.9; 0.0 |] }
            Tokens = 0.0
            Ms = 0.0
            Costs = LearnedCosts.start options.Costs
            Made = [||]
            Steps = 0
            Looks = false
            Wait = 0
            Pause = firstPause
            LookMs = 0.0
            TotalMs = 0.0
        }

    /// What followed where the text and `drafts` ended, in this text or those written before, and whose draft it is.
    let find
        (state: AutoState)
        (text: ReadOnlyMemory<int>)
        (drafts: ReadOnlyMemory<int>)
        : struct (SuffixDraft * DraftSource) =
        let own =
            if state.Options.Lookup then
                SuffixIndex.lookupAfter drafts 1 state.Index
            else
                SuffixIndex.nothing

        match state.Options.Past with
        | None -> struct (own, DraftSource.Lookup)
        | Some past ->
            let tail = text.Span.Slice(max 0 (text.Length - SuffixIndex.longest)).ToArray()
            let other = past.Lookup(1, ReadOnlySpan(Array.append tail (drafts.ToArray())))

            if other.Matched > own.Matched && other.Tokens.Length > 0 then
                struct (other, DraftSource.Past)
            else
                struct (own, DraftSource.Lookup)
