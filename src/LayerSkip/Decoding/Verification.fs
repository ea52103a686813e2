namespace LayerSkip

/// What decoding needs beside a prompt.
[<NoEquality; NoComparison>]
type Decoding = {
    Weights: Weights
    Strategy: Strategy
    Sampling: Sampling
    /// What changes the logits before a token is chosen.
    Rules: TokenRules
    StopIds: int[]
    /// New tokens at most, which must fit into the context.
    MaxNewTokens: int
    Seed: int64
    /// Tells the log-probabilities of new tokens, and of so many of the likeliest there.
    LogProbs: int option
    /// The same of the prompt's tokens.
    PromptLogProbs: int option
    Clock: Clock
    /// Looks at the logits that decide tokens: those of the first row decide the token at `place` of the text.
    Watch: (int -> Logits -> unit) option
}

/// Where a text stands after a round.
[<NoEquality; NoComparison>]
type Standing = {
    /// Prompt and new tokens; the model has read all but the last.
    Text: TokenText
    Reading: Reading
    Drafter: Drafter option
    /// The latest first; without the pass over the prompt.
    Rounds: Round list
    /// The fault of the row that decides the next token, where its numbers are not finite or the rules leave nothing.
    Fault: Lazy<exn> option
    /// The rules after the text; None where nothing is changed.
    Ruled: RuledText option
    /// Of the latest round's tokens, where they are asked for.
    LogProbs: TokenLogProbs[]
    /// Of the prompt's tokens, None of the first, where they are asked for.
    PromptLogProbs: TokenLogProbs option[]
    /// The ids that the next drafts are chosen from; None: all.
    Vocabulary: DraftVocabulary option
    /// The whole model's likeliest ids at each row at which it last had the word, where the draft vocabulary takes them.
    Likeliest: int[][]
    /// Drafts so far that were kept and that exact acceptance would have refused.
    Loose: int
}

/// The pass in which every layer reads the drafts, and what it says of them (LayerSkip, section 4.3).
[<RequireQualifiedAccess>]
module internal Verification =
    /// What a pass says of each row, up to the first whose numbers are not finite or in which the rules allow nothing; that row's fault,
    /// should it count; and the model's own logits and those with the rules in them, until the next pass.
    [<NoEquality; NoComparison>]
    type Seen = {
        Verdicts: Verdicts
        Fault: Lazy<exn> option
        Likeliest: int[][]
        Logits: Logits
        Ruled: Logits
    }

    /// Logits with the rules in them, up to the first row in which they allow nothing; the fault of that one, else `fault`.
    let private under (texts: RuledText[]) (textUpTo: int -> int[]) (logits: Logits) fault =
        if Logits.rows logits = 0 then
            logits, fault
        else
            let texts = Array.truncate (Logits.rows logits) texts

            match RuledLogits.over RuledLogits.none None texts logits with
            | struct (ruled, ValueNone) -> ruled, fault
            | struct (ruled, ValueSome row) ->
                let stuck () : exn =
                    LayerSkipException [ LayerSkipError.NothingAllowed (textUpTo row).Length ]

                Logits.truncate row ruled, Some(Lazy<exn> stuck)

    /// A row counts only where all drafts before it are kept: one that the whole model would not have come to may overflow. `texts` are the
    /// rules after what stands before each row, where there are any.
    let private see
        (decoding: Decoding)
        (texts: RuledText[] voption)
        (textUpTo: int -> int[])
        (logits: Logits)
        : Seen =
        let sound, fault =
            match Logits.tryFirstNotFinite logits with
            | None -> logits, None
            | Some row ->
                let layers = decoding.Weights.Config.LayersTo decoding.Strategy.Depth
                let overflow = lazy (Overflow.exceptionOf decoding.Weights layers (textUpTo row))
                Logits.truncate row logits, Some overflow

        let ruled, fault =
            match texts with
            | ValueNone -> sound, fault
            | ValueSome texts -> under texts textUpTo sound fault

        let isAllowed row id = texts |> ValueOption.forall (fun texts -> texts[row].Allows id)

        {
            Verdicts = Sampling.verdicts decoding.Sampling ruled
            Fault = fault
            Likeliest =
                match decoding.Strategy.Vocabulary with
                | Some plan when plan.Likeliest > 0 ->
                    Array.init (Logits.rows ruled) (fun row ->
                        Logits.largest plan.Likeliest row ruled |> Array.filter (isAllowed row))
                | _ -> [||]
            Logits = logits
            Ruled = ruled
        }

    /// The choosing layers read what they have not: the hidden states of the last `rows` of `ids`, or of the last one.
    let forward (decoding: Decoding) rows (ids: int[]) (cache: Cache) : struct (Hidden * Cache) =
        match decoding.Strategy.Depth with
        | Some _ -> Model.forwardEarly decoding.Weights ids cache
        | None -> Model.forwardRemainder decoding.Weights rows ids cache

    /// One pass over what the choosing layers have not read: the verdicts of the last `rows` of `ids`, which follow the
    /// first `before` tokens of the text. Of no ids: that of the last position, which every layer has read.
    let pass (decoding: Decoding) before rows (ids: int[]) (standing: Standing) =
        let read () =
            let cache = standing.Reading.Cache

            let struct (hidden, cache) =
                if ids.Length = 0 then
                    struct (Model.last (before - 1) 1 cache, cache)
                else
                    forward decoding rows ids cache

            let textUpTo row =
                Array.append (standing.Text.Memory.Slice(0, before).ToArray()) ids[.. ids.Length - rows + row]

            // What the rows stand after, beside the text before the first of them.
            let texts =
                standing.Ruled
                |> ValueOption.ofOption
                |> ValueOption.map (TokenRules.along ids[ids.Length - rows + 1 ..])

            let look () =
                let logits = Model.logits hidden
                decoding.Watch |> Option.iter (fun watch -> watch (cache.Early.Length - rows + 1) logits)
                see decoding texts textUpTo logits

            let seen = decoding.Clock.Time(Part.Head, look)
            struct (seen, { standing with Reading = { standing.Reading with Cache = cache } })

        decoding.Clock.Time(Part.Verify, read)

    let private uniforms count (key: Key) =
        Array.mapFold
            (fun key _ ->
                let struct (u, next) = Key.uniform key
                u, next)
            key
            (Array.zeroCreate<unit> count)

    /// The law of a row: what its token is drawn from, or greedy decoding's at temperature 1.
    let private lawAt (seen: Seen) row : float[] =
        match seen.Verdicts with
        | Verdicts.Laws laws -> laws[row]
        | Verdicts.Tokens _ ->
            let logits = Array.zeroCreate (Logits.columns seen.Ruled)
            Logits.copyRow row logits seen.Ruled
            Sampling.softmax logits

    /// Which drafts are kept: what acceptance makes of a rule's answers, and how many were kept that are not exact.
    let private accept
        (rule: AcceptanceRule)
        (drafts: Draft[])
        (seen: Seen)
        (standing: Standing)
        (acceptance: (int -> bool -> bool) -> struct (int * 'Next))
        : struct (int * 'Next * int) =
        let loose = ref 0
        let isOver = ref false

        let law place =
            lazy
                (if isOver.Value then
                     invalidOp "the draft was judged: an acceptance rule looks at its law while it runs"
                 else
                     lawAt seen place)

        let see place isExact = {
            Draft = drafts[place]
            Place = place
            Position = standing.Text.Count + place
            IsExact = isExact
            Law = law place
        }

        let keeps = AcceptanceRule.decider see rule

        let counted place isExact =
            let isKept = keeps place isExact

            if isKept && not isExact then
                loose.Value <- loose.Value + 1

            isKept

        let struct (agreed, next) = acceptance counted
        isOver.Value <- true
        struct (agreed, next, loose.Value)

    let judge (decoding: Decoding) (drafts: Draft[]) (seen: Seen) (standing: Standing) =
        let accept drafts acceptance = accept decoding.Strategy.Acceptance drafts seen standing acceptance

        let struct (agreed, next, loose, reading) =
            match seen.Verdicts with
            | Verdicts.Tokens own ->
                let struct (agreed, next, loose) =
                    accept drafts (fun keeps -> Acceptance.greedyBy keeps own (drafts |> Array.map _.Token))

                struct (agreed, next, loose, standing.Reading)
            | Verdicts.Laws laws ->
                let us, key = uniforms (drafts.Length + 1) standing.Reading.Key
                let judged = Array.truncate laws.Length drafts

                let struct (agreed, law, loose) =
                    accept judged (fun keeps -> Acceptance.sampledBy keeps us laws judged)

                let next = law |> ValueOption.map (fun law -> Sampling.pick law us[drafts.Length])
                struct (agreed, next, loose, { standing.Reading with Key = key })

        // The kept drafts may end the text before the row that overflows is asked for.
        let fault = if next.IsNone then seen.Fault else None

        let logProbs =
            match decoding.LogProbs with
            | None -> [||]
            | Some top ->
                let kept = drafts[.. agreed - 1] |> Array.map _.Token
                TokenLogProbs.ofRows top (Array.append kept (ValueOption.toArray next)) seen.Logits

        struct (agreed,
                next,
                {
                    standing with
                        Reading = reading
                        Fault = fault
                        LogProbs = logProbs
                        Likeliest = Array.truncate (agreed + 1) seen.Likeliest
                        Loose = standing.Loose + loose
                })
