namespace LayerSkip

open System.Diagnostics

/// What a round teaches: chances, times, and now and then which exit is best.
[<RequireQualifiedAccess>]
module internal AutoLearning =
    /// Of the time of decoding, what looking at exits may take: at those beside one that drafts, and where none does.
    let private lookShare, idleShare = 0.005, 0.003
    // What an older round counts of a newer one.
    let private decay = 0.95
    // What an older position counts of a newer one, of those that exits are judged by.
    let private rowDecay = 0.98
    /// Positions before an exit that was not recommended may draft.
    let private enough = 12.0
    /// What another exit, or none, has to be better by.
    let private hysteresis = 1.02

    /// Tokens a millisecond at the best length, of an exit that drafts the whole model's token so often.
    let private worth (costs: PassCosts) (known: AutoExit) : float =
        let mutable best, tokens, power = 0.0, 1.0, 1.0

        for drafts in 1..12 do
            power <- power * known.Share
            tokens <- tokens + power
            best <- max best (tokens / PassCosts.round costs known.Exit.Layers drafts)

        best

    /// Asks every exit, and lets the best one draft if it is better.
    let private look (seen: RoundSeen) (state: AutoState) : AutoState =
        let started = Stopwatch.GetTimestamp()
        let rows = seen.Rows.Value
        let costs = LearnedCosts.now state.Costs

        let ask (known: AutoExit) =
            let step (known: AutoExit) (row: JudgedRow) =
                let came = if row.Matches known.Exit.Layers then 1.0 else 0.0

                {
                    known with
                        Matches = rowDecay * known.Matches + came
                        Asked = rowDecay * known.Asked + 1.0
                        Kept = decay * known.Kept + (1.0 - decay) * came
                }

            Array.fold step known rows

        let exits = Array.map ask state.Exits
        let plain = 1.0 / PassCosts.pass costs 1
        let isStart (known: AutoExit) =
            state.Options.Start |> Option.exists (fun start -> start.Layers = known.Exit.Layers)

        let worthOf place =
            if place < 0 then
                plain
            elif exits[place].Asked < enough && not (isStart exits[place]) then
                0.0
            elif place = state.Current && exits[place].Asked < enough then
                infinity
            else
                worth costs exits[place]

        let best = Seq.init (exits.Length + 1) (fun place -> place - 1) |> Seq.maxBy worthOf

        let next =
            if worthOf best > hysteresis * worthOf state.Current then
                best
            else
                state.Current

        // Where nothing changes, they are asked ever more rarely.
        let pause =
            if next <> state.Current then
                AutoState.firstPause
            else
                min (if next < 0 then 512 else 32) (2 * state.Pause)

        let exits =
            if next = state.Current || next < 0 then
                exits
            else
                exits
                |> Array.mapi (fun place known ->
                    if place = next then
                        { known with Kept = known.Share }
                    else
                        known)

        {
            state with
                Exits = exits
                Current = next
                Wait = pause
                Pause = pause
                LookMs = state.LookMs + Stopwatch.GetElapsedTime(started).TotalMilliseconds
        }

    let learn (seen: RoundSeen) (state: AutoState) : AutoState =
        // Further rounds teach less, but never nothing: texts change.
        let rate = max 0.03 (0.15 / (1.0 + state.TotalMs / (40.0 * PassCosts.pass state.Options.Costs 1)))
        let judged = Array.truncate (seen.Round.Accepted + 1) state.Made
        let isKept place = place < seen.Round.Accepted
        let mutable lookup = state.Lookup
        let mutable exits = state.Exits

        for place in 0 .. judged.Length - 1 do
            let made = judged[place]

            if made.ByLookup then
                lookup <- Odds.learn rate made.Features (isKept place) lookup
            else
                let known = exits[state.Current]

                exits <-
                    Array.updateAt
                        state.Current
                        {
                            known with
                                Odds = Odds.learn rate made.Features (isKept place) known.Odds
                                Kept = decay * known.Kept + (if isKept place then 1.0 - decay else 0.0)
                        }
                        exits

        let exit =
            if state.Current < 0 then
                1
            else
                state.Exits[state.Current].Exit.Layers + AutoState.behind state

        // Nobody asks an adapter while it does not draft: what it did is forgotten by and by, so that it is tried again.
        if state.Adapter.IsSome && state.Steps = 0 then
            exits <-
                exits
                |> Array.map (fun known -> { known with Kept = known.Kept + 0.02 * (0.7 - known.Kept) })

        let next = {
            state with
                Lookup = lookup
                Exits = exits
                Tokens = decay * state.Tokens + float seen.Round.Tokens.Length
                Ms = decay * state.Ms + seen.Ms
                Costs = LearnedCosts.learn exit state.Steps (seen.Round.Drafted + 1) seen state.Costs
                TotalMs = state.TotalMs + seen.Ms
                Wait = max 0 (state.Wait - 1)
        }

        let next = if state.Looks then look seen next else next

        {
            next with
                Looks =
                    next.Exits.Length > 0
                    && next.Adapter.IsNone
                    && next.Wait = 0
                    && next.LookMs <= (if next.Current < 0 then idleShare else lookShare) * next.TotalMs
                    // The first look has to be paid for before it is had.
                    && (next.Current >= 0
                        || next.LookMs > 0.0
                        || next.TotalMs > PassCosts.pass next.Options.Costs 1 / idleShare)
        }
