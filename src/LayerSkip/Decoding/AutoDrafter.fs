namespace LayerSkip

open System
open System.Diagnostics

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

/// What passes take, as rounds turn out: a profile's times, scaled to them, and for each number of rows those that were seen.
[<NoEquality; NoComparison>]
type internal LearnedCosts = {
    Profile: PassCosts
    /// By rows, [rows - 1]: milliseconds of passes that were seen, and how many; older ones count less.
    Seen: float[]
    Count: float[]
    /// Milliseconds of all passes, and those that the profile has for them; of drafts too.
    Taken: float
    Predicted: float
    DraftTaken: float
    DraftPredicted: float
    Now: PassCosts
}

[<RequireQualifiedAccess>]
module internal LearnedCosts =
    // What an older pass counts of a newer one.
    let private decay = 0.9
    // Passes that the profile counts for.
    let private weight = 2.0

    let start (profile: PassCosts) : LearnedCosts = {
        Profile = profile
        Seen = Array.zeroCreate profile.Rows.Length
        Count = Array.zeroCreate profile.Rows.Length
        Taken = 0.0
        Predicted = 0.0
        DraftTaken = 0.0
        DraftPredicted = 0.0
        Now = profile
    }

    /// After a round of so many drafts by an exit, and a pass over so many rows.
    let learn (exit: int) (steps: int) (rows: int) (seen: RoundSeen) (costs: LearnedCosts) : LearnedCosts =
        let profile = costs.Profile
        // One slow round, of a machine that does something else, says little.
        let within (ms: float) (now: float) = min ms (2.0 * now)
        let ms = within (seen.Ms - seen.DraftMs) (PassCosts.pass costs.Now rows)
        let index = min rows profile.Rows.Length - 1
        let sums = Array.updateAt index (decay * costs.Seen[index] + ms) costs.Seen
        let counts = Array.updateAt index (decay * costs.Count[index] + 1.0) costs.Count
        let taken = decay * costs.Taken + ms
        let predicted = decay * costs.Predicted + PassCosts.pass profile rows

        let draftTaken, draftPredicted =
            if steps = 0 then
                costs.DraftTaken, costs.DraftPredicted
            else
                let step = within (seen.DraftMs / float steps) (PassCosts.draft costs.Now exit)

                decay * costs.DraftTaken + step, decay * costs.DraftPredicted + PassCosts.draft profile exit

        let scale = taken / predicted
        let draftScale =
            if draftPredicted > 0.0 then
                draftTaken / draftPredicted
            else
                scale

        let times =
            profile.Rows
            |> Array.mapi (fun index ms -> (sums[index] + weight * scale * ms) / (counts[index] + weight))

        {
            costs with
                Seen = sums
                Count = counts
                Taken = taken
                Predicted = predicted
                DraftTaken = draftTaken
                DraftPredicted = draftPredicted
                Now = {
                    Rows = Array.scan max 0.0 times |> Array.tail
                    DraftBase = draftScale * profile.DraftBase
                    DraftLayer = draftScale * profile.DraftLayer
                }
        }

/// Drafting that pays, or none. An exit and the lookup of what the text said before propose token by token, and a draft goes on while what the
/// next token is expected to bring is worth its time: s p > rho t, where s is the chance that all drafts before it are kept, p its own, t what it
/// adds to the round, and rho the tokens a millisecond that decoding makes, or would make plainly where that is more. The chance of a token is
/// learned as it goes: of the exit's from its confidence and from whether lookup says the same, of lookup's from the length of the
/// match. What drafts is chosen by full information: from time to time every exit that may draft is asked what it would have said, at
/// positions that the whole model has judged, in no more than a share of the time.
[<RequireQualifiedAccess>]
module AutoDrafter =
    /// Of the time of decoding, what looking at exits may take: at those beside one that drafts, and where none does.
    let private lookShare, idleShare = 0.005, 0.003
    /// Lookup that is this sure is not worth an exit's opinion.
    let private sure = 0.8
    // What an older round counts of a newer one.
    let private decay = 0.95
    // What an older position counts of a newer one, of those that exits are judged by.
    let private rowDecay = 0.98
    /// Positions before an exit that was not recommended may draft.
    let private enough = 12.0
    /// Rounds from one look to the next, at first.
    let private firstPause = 4
    /// What another exit, or none, has to be better by.
    let private hysteresis = 1.02

    /// What is known of an exit.
    [<NoEquality; NoComparison>]
    type private Known = {
        Exit: ExitLayer
        Source: DraftSource
        /// Of [1; the confidence's logit; lookup says the same; .. and how long its match is; lookup says something else, with its length].
        Odds: Odds
        /// The share of its drafts that are kept.
        Kept: float
        /// Positions at which it would have drafted the whole model's token, and all that it was asked at.
        Matches: float
        Asked: float
    }

    /// A draft as it was made, to learn from.
    [<Struct; NoEquality; NoComparison>]
    type private Made = { Features: float[]; ByLookup: bool }

    [<NoEquality; NoComparison>]
    type private State = {
        Options: AutoOptions
        Index: SuffixIndex
        Exits: Known[]
        /// Which of them drafts; -1: none.
        Current: int
        /// Of [1; the length of the match; its share's logit].
        Lookup: Odds
        /// Tokens and milliseconds of the rounds so far.
        Tokens: float
        Ms: float
        Costs: LearnedCosts
        /// Of the round under way, and how many of its drafts an exit was run for.
        Made: Made[]
        Steps: int
        Looks: bool
        /// Rounds until exits are asked again, and until after that where nothing changes.
        Wait: int
        Pause: int
        LookMs: float
        TotalMs: float
    }

    let private length (found: SuffixDraft) = Math.Log2(float (max 1 found.Matched))

    let private lookupFeatures (found: SuffixDraft) : float[] = [|
        1.0
        length found
        Odds.logit found.Shares[0] / 6.0
    |]

    let private exitFeatures (confidence: float) (token: int) (found: SuffixDraft) : float[] =
        let agrees = found.Tokens.Length > 0 && found.Tokens[0] = token
        let differs = found.Tokens.Length > 0 && not agrees

        [|
            1.0
            Odds.logit confidence
            (if agrees then 1.0 else 0.0)
            (if agrees then length found else 0.0)
            (if differs then 1.0 + length found else 0.0)
        |]

    let private start (options: AutoOptions) : State =
        let exits = [|
            for exit in options.Exits |> List.distinctBy _.Layers |> List.sortBy _.Layers ->
                {
                    Exit = exit
                    Source = DraftSource.Exit exit.Layers
                    Odds = { Weights = [| 0.0; 1.0; 1.2; 0.2; -0.2 |] }
                    Kept = 0.7
                    Matches = 0.0
                    Asked = 0.0
                }
        |]

        {
            Options = options
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

    let private find
        (state: State)
        (index: SuffixIndex)
        (text: ReadOnlyMemory<int>)
        (drafts: ReadOnlyMemory<int>)
        =
        let own =
            if state.Options.Lookup then
                SuffixIndex.lookupAfter drafts 1 index
            else
                SuffixIndex.nothing

        match state.Options.Past with
        | None -> own
        | Some past ->
            let tail = text.Span.Slice(max 0 (text.Length - SuffixIndex.longest)).ToArray()
            let other = past.Lookup(1, ReadOnlySpan(Array.append tail (drafts.ToArray())))

            if other.Matched > own.Matched && other.Tokens.Length > 0 then
                other
            else
                own

    let private propose (request: DraftRequest) (reading: Reading) (state: State) =
        let costs = state.Costs.Now
        let index =
            if state.Options.Lookup then
                SuffixIndex.ofText request.Text state.Index
            else
                state.Index

        let ahead = min request.Ahead state.Options.Longest
        let plain = 1.0 / PassCosts.pass costs 1
        let rate =
            if state.Ms > 0.0 then
                max plain (state.Tokens / state.Ms)
            else
                plain
        let read = Array.zeroCreate<int>(ahead + 1)
        read[0] <- request.Text.Span[request.Text.Length - 1]
        let drafts, made = ResizeArray<Draft>(), ResizeArray<Made>()
        // Of the last token and the drafts, how many the exit has read.
        let mutable seen = 0
        let mutable steps = 0
        let mutable survival = 1.0
        let mutable reading = { reading with Cache = { reading.Cache with Keeps = state.Looks } }
        let mutable goesOn = ahead > 0

        let isWorth chance ms = survival * chance > rate * ms

        let add (draft: Draft) features byLookup chance =
            drafts.Add draft
            made.Add { Features = features; ByLookup = byLookup }
            read[drafts.Count] <- draft.Token
            survival <- survival * chance
            goesOn <- drafts.Count < ahead && not (request.IsStop draft.Token)

        let ofLookup token = Draft.certain token |> Draft.by DraftSource.Lookup

        while goesOn do
            let count = drafts.Count
            let row = PassCosts.pass costs (count + 2) - PassCosts.pass costs (count + 1)
            let found = find state index request.Text (ReadOnlyMemory(read, 1, count))
            let ofFound =
                if found.Tokens.Length > 0 then
                    lookupFeatures found
                else
                    null

            let looked =
                if found.Tokens.Length > 0 then
                    Odds.chance ofFound state.Lookup
                else
                    0.0

            if looked >= sure || state.Current < 0 then
                if found.Tokens.Length > 0 && isWorth looked row then
                    add (ofLookup found.Tokens[0]) ofFound true looked
                else
                    goesOn <- false
            else
                let known = state.Exits[state.Current]
                let exit = known.Exit.Layers
                let cost = PassCosts.draft costs exit

                if not (isWorth (max known.Kept looked) (row + cost)) then
                    goesOn <- false
                else
                    let cache =
                        if seen = 0 then
                            Cache.splitAt exit reading.Cache
                        else
                            reading.Cache

                    let struct (hidden, cache) = Model.forwardEarly request.Weights read[seen..count] cache
                    let struct (draft, key) = request.Pick DraftReading.Confidence hidden reading.Key
                    reading <- { Cache = cache; Key = key }
                    seen <- count + 1
                    steps <- steps + 1
                    let features = exitFeatures draft.Confidence.Value draft.Token found
                    let chance = Odds.chance features known.Odds
                    let draft = { draft with Source = known.Source }

                    match draft.Law with
                    // What was drawn from a law is proposed, whatever it is, or it would be of another law.
                    | DraftLaw.Drawn _ -> add draft features false chance
                    | DraftLaw.Certain when looked > chance ->
                        if isWorth looked row then
                            add (ofLookup found.Tokens[0]) ofFound true looked
                        else
                            goesOn <- false
                    | DraftLaw.Certain ->
                        if isWorth chance row then
                            add draft features false chance
                        else
                            goesOn <- false

        let state = { state with Index = index; Made = made.ToArray(); Steps = steps }

        struct (drafts.ToArray(), reading, state)

    /// Tokens a millisecond at the best length, of an exit that drafts the whole model's token so often.
    let private worth (costs: PassCosts) (known: Known) : float =
        // With two positions of neither kind.
        let share = (known.Matches + 1.0) / (known.Asked + 2.0)
        let mutable best, tokens, power = 0.0, 1.0, 1.0

        for drafts in 1..12 do
            power <- power * share
            tokens <- tokens + power
            best <- max best (tokens / PassCosts.round costs known.Exit.Layers drafts)

        best

    /// Asks every exit, and lets the best one draft if it is better.
    let private look (seen: RoundSeen) (state: State) : State =
        let started = Stopwatch.GetTimestamp()
        let rows = seen.Rows.Value
        let costs = state.Costs.Now

        let ask (known: Known) =
            let step (known: Known) (row: JudgedRow) =
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
        let isStart (known: Known) =
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
                firstPause
            else
                min (if next < 0 then 512 else 32) (2 * state.Pause)

        let exits =
            if next = state.Current || next < 0 then
                exits
            else
                exits
                |> Array.mapi (fun place known ->
                    if place = next then
                        { known with Kept = (known.Matches + 1.0) / (known.Asked + 2.0) }
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

    let private learn (seen: RoundSeen) (state: State) : State =
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
                state.Exits[state.Current].Exit.Layers

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
                    && next.Wait = 0
                    && next.LookMs <= (if next.Current < 0 then idleShare else lookShare) * next.TotalMs
                    // The first look has to be paid for before it is had.
                    && (next.Current >= 0
                        || next.LookMs > 0.0
                        || next.TotalMs > PassCosts.pass next.Options.Costs 1 / idleShare)
        }

    let rec private drafter (state: State) : Drafter = {
        new Drafter with
            member _.Name = "auto"
            member _.Exit = state.Options.Start
            member _.Watch = { Exits = state.Options.Exits |> List.map _.Layers; PromptRows = 0 }

            member _.Draft(request, reading) =
                let struct (drafts, reading, state) = propose request reading state
                struct (drafts, reading, drafter state)

            member this.Learn seen = if seen.IsPrompt then this else drafter (learn seen state)
    }

    /// A drafter for one text; the same value serves any number of them.
    let create (options: AutoOptions) : Drafter =
        drafter (start { options with Exits = Option.toList options.Start @ options.Exits })

    /// Exits worth a look beside the one that is recommended; without one, a spread of the first half.
    let candidates (layers: int) (recommended: ExitLayer option) : ExitLayer list =
        (match recommended with
         | Some exit -> [ exit.Layers; exit.Layers + 1; 2 * exit.Layers ]
         | None -> [ layers / 8; layers / 4; layers / 3; layers / 2 ])
        |> List.distinct
        |> List.choose (fun exit -> ExitLayer.TryCreate(layers, exit) |> Result.toOption)
