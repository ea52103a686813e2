namespace LayerSkip

open System

/// The drafts of a round, token by token while the next one is worth its time.
[<RequireQualifiedAccess>]
module internal AutoProposal =
    /// Lookup that is this sure is not worth an exit's opinion.
    let private sure = 0.8

    /// What lookup says after the text and `drafts`, where the rules let it follow them.
    let private find
        (request: DraftRequest)
        (latest: Draft list)
        (drafts: ReadOnlyMemory<int>)
        (state: AutoState)
        : struct (SuffixDraft * DraftSource) =
        match AutoState.find state request.Text drafts with
        | struct (found, source) when found.Tokens.Length > 0 && not (request.Allows latest found.Tokens[0]) ->
            struct (SuffixIndex.nothing, source)
        | found -> found

    /// Tokens a millisecond that decoding makes, or would make plainly where that is more.
    let private rate (state: AutoState) : float =
        let plain = 1.0 / LearnedCosts.pass state.Costs 1

        if state.Ms > 0.0 then
            max plain (state.Tokens / state.Ms)
        else
            plain

    /// The chance of a draft of lookup's.
    let private chance (found: SuffixDraft) (state: AutoState) : float =
        if found.Tokens.Length > 0 then
            Odds.chance (AutoState.lookupFeatures found) state.Lookup
        else
            0.0

    /// What the pass takes for the row of a draft after `count` others.
    let private row (count: int) (state: AutoState) : float =
        LearnedCosts.pass state.Costs (count + 2) - LearnedCosts.pass state.Costs (count + 1)

    /// The round's drafts, of which lookup says `first` to be the first.
    let private draft
        (first: struct (SuffixDraft * DraftSource))
        (request: DraftRequest)
        (reading: Reading)
        (state: AutoState)
        =
        let costs = state.Costs
        let ahead = min request.Ahead state.Options.Longest
        let rate = rate state
        let read = Array.zeroCreate<int>(ahead + 1)
        read[0] <- request.Text.Span[request.Text.Length - 1]
        let drafts, made = ResizeArray<Draft>(), ResizeArray<AutoDraft>()
        // Of the last token and the drafts, how many the exit has read.
        let mutable seen = 0
        let mutable steps = 0
        // The drafts, the latest first.
        let mutable latest: Draft list = []
        let mutable survival = 1.0
        // An adapter reads the states of its exit, whoever drafts.
        let keeps = state.Looks || state.Adapter.IsSome
        let mutable reading = { reading with Cache = { reading.Cache with Keeps = keeps } }
        let mutable memory = state.Memory
        let mutable goesOn = ahead > 0

        let isWorth chance ms = survival * chance > rate * ms

        let add (draft: Draft) features byLookup chance =
            drafts.Add draft
            latest <- draft :: latest
            made.Add { Features = features; ByLookup = byLookup }
            read[drafts.Count] <- draft.Token
            survival <- survival * chance
            goesOn <- drafts.Count < ahead && not (request.IsStop draft.Token)

        let addIfWorth draft features byLookup chance ms =
            if isWorth chance ms then
                add draft features byLookup chance
            else
                goesOn <- false

        let ofLookup source (found: SuffixDraft) = Draft.certain found.Tokens[0] |> Draft.by source

        /// The exit, or the adapter behind it, reads what it has not of the last token and `count` drafts, and says the next.
        let ask exit count : Draft =
            let reads = DraftReading.Confidence
            let ids = read[seen..count]

            if seen = 0 then
                reading <- { reading with Cache = Cache.splitAt exit reading.Cache }

            let draft =
                match state.Adapter with
                | Some adapter ->
                    let before =
                        if seen = 0 then
                            AdapterDrafter.start adapter request reading memory
                        else
                            memory.Value

                    let struct (draft, after, own) =
                        AdapterDrafter.step adapter reads latest ids request reading before.Cache

                    reading <- after
                    memory <- ValueSome(AdapterDrafter.finish request read[1..count] own before)
                    draft
                | None ->
                    let struct (hidden, cache) = Model.forwardEarly request.Weights ids reading.Cache
                    let struct (draft, key) = request.Pick reads latest hidden reading.Key
                    reading <- { Cache = cache; Key = key }
                    draft

            seen <- count + 1
            steps <- steps + 1
            draft

        while goesOn do
            let count = drafts.Count
            let row = row count state

            let struct (found, source) =
                if count = 0 then
                    first
                else
                    find request latest (ReadOnlyMemory(read, 1, count)) state
            let looked = chance found state

            if found.Tokens.Length = 0 && state.Current < 0 then
                goesOn <- false
            elif looked >= sure || state.Current < 0 then
                addIfWorth (ofLookup source found) (AutoState.lookupFeatures found) true looked row
            else
                let known = state.Exits[state.Current]
                let exit = known.Exit.Layers
                let cost = LearnedCosts.draft costs (exit + AutoState.behind state)

                if not (isWorth (max known.Kept looked) (row + cost)) then
                    goesOn <- false
                else
                    let draft = ask exit count
                    let features =
                        AutoState.exitFeatures
                            (ValueOption.defaultValue 0.0 draft.Confidence)
                            draft.Token
                            found
                    let chance = Odds.chance features known.Odds

                    match draft.Law with
                    // What was drawn from a law is proposed, whatever it is, or it would be of another law.
                    | DraftLaw.Drawn _ -> add { draft with Source = known.Source } features false chance
                    | DraftLaw.Certain when looked > chance ->
                        addIfWorth (ofLookup source found) (AutoState.lookupFeatures found) true looked row
                    | DraftLaw.Certain ->
                        addIfWorth { draft with Source = known.Source } features false chance row

        struct (drafts.ToArray(),
                reading,
                { state with Made = made.ToArray(); Steps = steps; Memory = memory })

    let propose (request: DraftRequest) (reading: Reading) (state: AutoState) =
        let state =
            if state.Options.Lookup then
                { state with Index = SuffixIndex.ofText request.Text state.Index }
            else
                state

        let struct (found, _) as first = find request [] ReadOnlyMemory.Empty state

        let noExit = state.Current < 0 && not state.Looks && state.Adapter.IsNone

        // Most rounds where nothing pays: there is no time to lose.
        if noExit && not (chance found state > rate state * row 0 state) then
            let reading =
                if reading.Cache.Keeps then
                    { reading with Cache = { reading.Cache with Keeps = false } }
                else
                    reading

            struct ([||], reading, { state with Made = [||]; Steps = 0 })
        else
            draft first request reading state
