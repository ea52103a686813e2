namespace LayerSkip

/// Lookup first, an exit where lookup promises less: the one drafts for no pass at all, the other always has something to say.
[<RequireQualifiedAccess>]
module CascadeDrafter =
    // What an older draft of the exit counts of a newer one.
    let private decay = 0.95
    // What share of the exit's drafts is taken to be kept before any was judged.
    let private keptAtFirst = 0.7

    [<NoEquality; NoComparison>]
    type private State = {
        Exit: Drafter
        /// The most tokens that the exit drafts.
        Length: int
        /// Of the exit's judged drafts, the share that was kept.
        Kept: float
        Lookup: SuffixLookup
        /// What lookup said in the round under way, whether it was drafted or not.
        Proposed: SuffixProposal voption
        ExitDrafts: bool
    }

    let private judged (seen: RoundSeen) (kept: float) =
        seen.Judged
        |> Array.fold (fun kept (_, isKept) -> decay * kept + (if isKept then 1.0 - decay else 0.0)) kept

    let rec private drafter (state: State) : Drafter = {
        new Drafter with
            member _.Name = "cascade"
            member _.Exit = state.Exit.Exit
            member _.Watch = state.Exit.Watch

            member _.Draft(request, reading) =
                let struct (proposal, lookup) = SuffixLookup.propose request.Ahead request.Text state.Lookup
                let length = min state.Length request.Ahead
                let found = Drafter.lookedUp proposal
                let byLookup = proposal.ExpectedOf found.Length > Odds.expected length (fun _ -> state.Kept)

                let state = {
                    state with
                        Lookup = lookup
                        Proposed = ValueSome proposal
                        ExitDrafts = not byLookup
                }

                if byLookup then
                    struct (found, reading, drafter state)
                else
                    let struct (drafts, reading, exit) =
                        state.Exit.Draft({ request with Ahead = length }, reading)

                    struct (drafts, reading, drafter { state with Exit = exit })

            member this.Learn seen =
                match state.Proposed with
                | ValueSome proposal when not seen.IsPrompt ->
                    let next = {
                        state with
                            Lookup = SuffixLookup.learn proposal seen.Round.Tokens state.Lookup
                            Proposed = ValueNone
                    }

                    if state.ExitDrafts then
                        drafter { next with Exit = state.Exit.Learn seen; Kept = judged seen state.Kept }
                    else
                        drafter next
                // A plain step drafts nothing.
                | _ -> this
    }

    /// Lookup in the text and past ones drafts where it expects more of its tokens to be kept than of the exit's `length`, by the share of them
    /// that was kept so far; else the exit does, until a rule ends its drafts.
    let create (rule: StopRule) (exit: ExitLayer) (length: int) (past: PastTexts option) : Drafter =
        if length < 1 then
            invalidArg (nameof length) $"a draft has at least one token, not {length}"

        drafter {
            Exit = Drafter.earlyExitUntil rule exit
            Length = length
            Kept = keptAtFirst
            Lookup = SuffixLookup.create past
            Proposed = ValueNone
            ExitDrafts = false
        }
