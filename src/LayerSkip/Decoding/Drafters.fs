namespace LayerSkip

open System

/// How far the model has read a text, and the random numbers that its next draws take.
[<NoEquality; NoComparison>]
type Reading = { Cache: Cache; Key: Key }

/// What a drafter is asked.
[<NoEquality; NoComparison>]
type DraftRequest = {
    Weights: Weights
    /// Prompt and new tokens, the last of which the model has not read.
    Text: ReadOnlyMemory<int>
    /// The most tokens to propose, at least 1.
    Ahead: int
    IsStop: int -> bool
    /// The ids that `Pick` chooses from; None: all.
    Vocabulary: DraftVocabulary option
    /// The draft that hidden states of one row make through the shared head, by the decoding's rules and sampling, with as much as is to be
    /// read of it. The row stands after the text and the drafts made so far, the latest of which is first. Where numbers are not
    /// finite, or the rules leave no token, it is token 0, which the whole model judges like any other.
    Pick: DraftReading -> Draft list -> Hidden -> Key -> struct (Draft * Key)
    /// Whether the rules let a token follow the text and the drafts made so far, the latest of which is first. A draft that they do not
    /// is dropped before it is verified, with all after it.
    Allows: Draft list -> int -> bool
}

/// What proposes tokens for the whole model to judge. Whatever it proposes, the text is the whole model's own.
type Drafter =
    /// As reports name it.
    abstract Name: string
    /// The layers that it reads the text with at first: the verification continues from their exit states. None: it reads with none.
    abstract Exit: ExitLayer option
    /// What it wants to look at; the same at every round.
    abstract Watch: Watch

    /// Up to `Ahead` tokens after the text, perhaps none; how far the model has then read; and the drafter to go on with, so that
    /// it may remember. A drafter that reads nothing this time gives `reading` back as it got it: all but the
    /// last token of the text. One that reads ends before its last draft, as the verification reads that one. Which layers read first
    /// may change from round to round: `Cache.splitAt`, before anything is read.
    abstract Draft: request: DraftRequest * reading: Reading -> struct (Draft[] * Reading * Drafter)

    /// The drafter of the next round, after the pass over the prompt and after each round.
    abstract Learn: RoundSeen -> Drafter

[<RequireQualifiedAccess>]
module Drafter =
    /// A drafter may be anybody's: what it must not do is said with its name, where it did it.
    let internal check (vocabulary: int) (drafts: Draft[]) (next: Drafter) (drafter: Drafter) : unit =
        let fault what = invalidOp $"the drafter {drafter.Name} {what}"

        if isNull drafts || isNull (box next) then
            fault "returned null in place of drafts or of the next drafter"

        for draft in drafts do
            if draft.Token < 0 || draft.Token >= vocabulary then
                fault $"proposed the id {draft.Token}; ids run from 0 to {vocabulary - 1}"

            match draft.Law with
            | DraftLaw.Drawn law when law.Length <> vocabulary ->
                fault $"drew from a law of {law.Length} probabilities; the vocabulary has {vocabulary} ids"
            | _ -> ()

    /// A drafter that remembers nothing.
    let stateless
        (name: string)
        (exit: ExitLayer option)
        (draft: DraftRequest -> Reading -> struct (Draft[] * Reading))
        : Drafter = {
        new Drafter with
            member _.Name = name
            member _.Exit = exit
            member _.Watch = Watch.nothing

            member this.Draft(request, reading) =
                let struct (drafts, reading) = draft request reading
                struct (drafts, reading, this)

            member this.Learn _ = this
    }

    /// Layers that read a token and leave the state that the head drafts from: at least those up to an exit, which the verification
    /// continues from.
    [<NoEquality; NoComparison>]
    type private DraftPass = {
        Name: string
        Source: DraftSource
        Exit: ExitLayer
        Forward: Weights -> int[] -> Cache -> struct (Hidden * Cache)
    }

    let private upTo (exit: ExitLayer) : DraftPass = {
        Name = "self-speculative"
        Source = DraftSource.Exit exit.Layers
        Exit = exit
        Forward = Model.forwardEarly
    }

    /// A pass drafts up to `length` tokens, until they are enough; `alter` may replace a greedy draft: it gets its place in the text,
    /// and the draft; a draft vocabulary that has not what it says keeps its own.
    let private byPass
        alter
        (reads: DraftReading)
        isEnough
        (pass: DraftPass)
        length
        (request: DraftRequest)
        (reading: Reading)
        =
        let propose made token (reading: Reading) =
            let struct (hidden, cache) = pass.Forward request.Weights [| token |] reading.Cache
            let struct (draft, key) = request.Pick reads made hidden reading.Key

            let altered () =
                let token = alter cache.Early.Length draft.Token
                let isThere = request.Vocabulary |> Option.forall (DraftVocabulary.contains token)
                if isThere then token else draft.Token

            let draft =
                match draft.Law with
                | DraftLaw.Certain -> { draft with Token = altered (); Source = pass.Source }
                | DraftLaw.Drawn _ -> { draft with Source = pass.Source }

            struct (draft, { Cache = cache; Key = key })

        let last = request.Text.Span[request.Text.Length - 1]

        Speculation.untilEnough isEnough request.IsStop propose (min request.Ahead length) last {
            reading with
                Cache = Cache.splitAt pass.Exit.Layers reading.Cache
        }

    let rec private passing alter (rule: StopRule) (pass: DraftPass) : Drafter = {
        new Drafter with
            member _.Name = pass.Name
            member _.Exit = Some pass.Exit
            member _.Watch = Watch.nothing

            member this.Draft(request, reading) =
                let struct (drafts, reading) =
                    byPass alter rule.Reads rule.IsEnough pass request.Ahead request reading

                struct (drafts, reading, this)

            member this.Learn seen =
                let next = rule.Learn seen
                if obj.ReferenceEquals(next, rule) then
                    this
                else
                    passing alter next pass
    }

    let private asMade _ (token: int) = token

    /// `earlyExit`, whose greedy drafts `alter` may replace: it gets a draft's place in the text, and the draft.
    let internal alteredExit (alter: int -> int -> int) (exit: ExitLayer) : Drafter =
        passing alter StopRule.never (upTo exit)

    /// Layers 1..E propose token by token, through the head that all layers share (LayerSkip section 4.3).
    let earlyExit (exit: ExitLayer) : Drafter = passing asMade StopRule.never (upTo exit)

    /// `earlyExit`, whose drafts end where a rule says.
    let earlyExitUntil (rule: StopRule) (exit: ExitLayer) : Drafter = passing asMade rule (upTo exit)

    /// Chosen layers propose token by token, and the others are left out: for a model whose exits were never trained. The layers
    /// before the first gap are shared with the verification. A rule may end the drafts.
    let layersUntil (rule: StopRule) (set: LayerSet) : Drafter =
        let exit = set.Prefix
        let later = set.RunsAfter exit.Layers

        passing asMade rule {
            Name = "layers"
            Source = DraftSource.Layers
            Exit = exit
            Forward = fun weights ids cache -> Model.forwardLayers weights later 1 ids cache
        }

    /// `layersUntil` the length alone ends a draft.
    let layers (set: LayerSet) : Drafter = layersUntil StopRule.never set

    let rec private following (watch: Watch) (policy: DraftPolicy) (rule: StopRule) : Drafter = {
        new Drafter with
            member _.Name = policy.Name
            member _.Exit = Some policy.Next.Exit
            member _.Watch = watch

            member this.Draft(request, reading) =
                let plan = policy.Next

                if plan.Length = 0 then
                    struct ([||], reading, this)
                else
                    let reads =
                        if plan.StopBelow > 0.0 then
                            max DraftReading.Confidence rule.Reads
                        else
                            rule.Reads

                    let isUnsure (draft: Draft) =
                        plan.StopBelow > 0.0 && ValueOption.defaultValue 1.0 draft.Confidence < plan.StopBelow

                    let isEnough (made: Draft list) = isUnsure made.Head || rule.IsEnough made

                    let struct (drafts, reading) =
                        byPass asMade reads isEnough (upTo plan.Exit) plan.Length request reading

                    struct (drafts, reading, this)

            member _.Learn seen =
                let policy = policy.Learn seen
                // Now, as part of learning, and not while the next round drafts.
                policy.Next |> ignore
                following watch policy (rule.Learn seen)
    }

    /// Exits draft as a policy says, until a rule ends a draft sooner. `watched` are the exits whose matches the policy learns from,
    /// `promptRows` the rows of the prompt's end that it gets as evidence.
    let ofPolicy
        (watched: ExitLayer list)
        (promptRows: int)
        (rule: StopRule)
        (policy: DraftPolicy)
        : Drafter =
        let watch = { Exits = watched |> List.map _.Layers; PromptRows = promptRows; Past = promptRows > 0 }

        following watch policy rule

    /// The text itself proposes, for no pass at all: what followed its last tokens, up to `maxNgram` of them, where they stood before
    /// (prompt lookup, Saxena 2023). Good where a text repeats its prompt or itself.
    let promptLookup (maxNgram: int) : Drafter =
        if maxNgram < 1 then
            invalidArg (nameof maxNgram) $"an ending has at least one token, not {maxNgram}"

        stateless "prompt-lookup" None (fun request reading ->
            let tokens = PromptLookup.find maxNgram request.Ahead request.Text.Span
            struct (tokens |> Array.map (Draft.certain >> Draft.by DraftSource.Lookup), reading))

    /// The drafts of a proposal: as long as all of them are kept with a chance of `SuffixLookup.leastChance`.
    let internal lookedUp (proposal: SuffixProposal) : Draft[] =
        Array.init (proposal.LengthAbove SuffixLookup.leastChance) (fun place -> {
            Draft.certain proposal.Draft.Tokens[place] with
                Confidence = ValueSome proposal.Draft.Shares[place]
                Source = proposal.Source
        })

    let rec private lookingUp (lookup: SuffixLookup) (proposed: SuffixProposal option) : Drafter = {
        new Drafter with
            member _.Name = "suffix-lookup"
            member _.Exit = None
            member _.Watch = Watch.nothing

            member _.Draft(request, reading) =
                let struct (proposal, lookup) = SuffixLookup.propose request.Ahead request.Text lookup
                struct (lookedUp proposal, reading, lookingUp lookup (Some proposal))

            member this.Learn seen =
                match proposed with
                | Some proposal -> lookingUp (SuffixLookup.learn proposal seen.Round.Tokens lookup) None
                | None -> this
    }

    /// The text itself and past ones propose, for no pass at all: what most often followed the longest ending that stood before
    /// (SuffixDecoding, arXiv 2411.04975), while all of it is kept with a chance of `SuffixLookup.leastChance`. `past` may grow meanwhile: texts are the whole model's, whatever drafts.
    let suffixLookup (past: PastTexts option) : Drafter = lookingUp (SuffixLookup.create past) None
