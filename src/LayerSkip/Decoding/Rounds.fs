namespace LayerSkip

open System
open System.Diagnostics
open System.Threading

/// Decoding, round by round: ids alone, no text (LayerSkip, section 4.3 and appendix A.4).
///
/// Between rounds every layer has read n = prompt + new tokens - 1 positions: all but the last token. A round of d drafts
/// leaves n + d in the early layers; the verification reads the last token and the drafts, d + 1 rows, and what was
/// accepted stays: n + accepted + 1.
[<RequireQualifiedAccess>]
module Rounds =
    /// Greedy decoding of up to `maxNewTokens` tokens.
    let greedy weights (strategy: Strategy) (maxNewTokens: int) : Decoding = {
        Weights = weights
        Strategy = strategy
        Sampling = Sampling.Greedy
        StopIds = [||]
        MaxNewTokens = maxNewTokens
        Seed = 0L
        Clock = Clock()
        Watch = None
    }

    let private isStop (decoding: Decoding) id = Array.contains id decoding.StopIds

    /// A drafter may be anybody's: what it must not do is said with its name, where it did it.
    let private checkDrafts (decoding: Decoding) (drafter: Drafter) (drafts: Draft[]) (next: Drafter) =
        let vocabulary = decoding.Weights.Config.Vocabulary
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

    let private propose (decoding: Decoding) (made: Draft[] ref) ahead _ (standing: Standing) =
        match standing.Drafter with
        | None -> struct ([||], standing)
        | Some drafter ->
            let request = {
                Weights = decoding.Weights
                Text = standing.Text.Memory
                Ahead = ahead
                IsStop = isStop decoding
                Vocabulary = standing.Vocabulary
                Pick =
                    fun reads hidden key ->
                        decoding.Clock.Time(
                            Part.Head,
                            fun () -> DraftChoice.pick decoding.Sampling standing.Vocabulary reads hidden key
                        )
            }

            let struct (drafts, reading, next) =
                decoding.Clock.Time(Part.Draft, fun () -> drafter.Draft(request, standing.Reading))

            checkDrafts decoding drafter drafts next
            made.Value <- Array.truncate ahead drafts
            struct (made.Value, { standing with Reading = reading; Drafter = Some next })

    let private rewind count (standing: Standing) =
        if count = 0 then
            standing
        else
            let cache = standing.Reading.Cache
            let cache = Cache.truncate (cache.Early.Length - count) cache
            { standing with Reading = { standing.Reading with Cache = cache } }

    /// What watched exits say of the last `rows` positions that every layer has read, where the whole model says `tokens`, or its best.
    let private look (decoding: Decoding) rows (tokens: int[] voption) (standing: Standing) : JudgedRow[] =
        let layers = decoding.Weights.Config.Layers
        let cache = standing.Reading.Cache
        let start = cache.Late.Length - rows
        let exits = cache.Slab.KeptLayers

        let tokens =
            match tokens with
            | ValueSome tokens -> tokens
            | ValueNone -> Model.last start rows cache |> Model.logits |> Logits.argmax

        let choices =
            if exits.Length = 0 then
                [||]
            else
                Model.kept start rows cache |> DraftChoice.choices standing.Vocabulary

        Array.init rows (fun row ->
            let ids, confidences = Array.create layers -1, Array.zeroCreate layers
            ids[layers - 1] <- tokens[row]

            exits
            |> Array.iteri (fun index exit ->
                let struct (token, confidence) = choices[row * exits.Length + index]
                ids[exit - 1] <- token
                confidences[exit - 1] <- confidence)

            { Token = tokens[row]; Choices = ids; Confidences = confidences })

    /// The draft vocabulary of the next round: one begins once the prompt was read, for a drafter that reads the text.
    let private widen (decoding: Decoding) (tokens: int[]) (standing: Standing) =
        match decoding.Strategy.Vocabulary, standing.Drafter with
        | Some plan, Some drafter when drafter.Exit.IsSome ->
            let text = standing.Text.Memory

            let next () =
                standing.Vocabulary
                |> Option.defaultWith (fun () -> ContextVocabulary.start text standing.Reading.Cache plan)
                |> fun vocabulary -> ContextVocabulary.learn text tokens standing.Likeliest vocabulary plan

            { standing with Vocabulary = Some(decoding.Clock.Time(Part.Policy, next)) }
        | _ -> standing

    /// Tells the drafter of a round that is over.
    let private learn
        (decoding: Decoding)
        rows
        tokens
        (seen: Lazy<JudgedRow[]> -> RoundSeen)
        (standing: Standing)
        =
        match standing.Drafter with
        | None -> standing
        | Some drafter ->
            let next () =
                let looked =
                    if rows = 0 then
                        lazy [||]
                    else
                        lazy (Scope.free (fun () -> look decoding rows tokens standing))

                drafter.Learn(seen looked)

            { standing with Drafter = Some(decoding.Clock.Time(Part.Policy, next)) }

    /// Reads what the cache has not of the prompt, and chooses the first token.
    let private start (decoding: Decoding) (prompt: int[]) cache =
        let began = Stopwatch.GetTimestamp()

        let standing = {
            Text = TokenText.OfIds prompt
            Reading = { Cache = cache; Key = Key.ofSeed decoding.Seed }
            Drafter = decoding.Strategy.Drafter
            Rounds = []
            Overflow = None
            Vocabulary = None
            Likeliest = [||]
        }

        let read = cache.Early.Length
        let struct (seen, standing) = Verification.pass decoding read 1 prompt[read..] standing
        let struct (_, first, standing) = Verification.judge [||] seen standing
        let ms = Stopwatch.GetElapsedTime(began).TotalMilliseconds

        let round = { Tokens = ValueOption.toArray first; Drafted = 0; Accepted = 0; Sources = [||] }

        let evidence =
            match standing.Drafter with
            | Some drafter -> min drafter.Watch.PromptRows prompt.Length
            | None -> 0

        let seen rows = { IsPrompt = true; Round = round; Drafts = [||]; Rows = rows; Ms = ms; DraftMs = 0.0 }

        struct (round,
                { standing with Text = standing.Text.Append round.Tokens }
                |> widen decoding round.Tokens
                |> learn decoding evidence ValueNone seen)

    let private next (decoding: Decoding) (room: int) (standing: Standing) =
        let began = Stopwatch.GetTimestamp()
        let draftMs = decoding.Clock.DraftMs
        let made = ref [||]

        let ahead =
            match standing.Drafter with
            | Some _ -> min (LengthPolicy.next standing.Rounds decoding.Strategy.Length) (room - 1)
            | None -> 0

        let rows = Verification.pass decoding (standing.Text.Count - 1)

        let struct (round, standing) =
            Speculation.step
                (isStop decoding)
                (propose decoding made)
                (fun ids -> rows ids.Length ids)
                Verification.judge
                rewind
                ahead
                standing.Text.Last
                standing

        let ms = Stopwatch.GetElapsedTime(began).TotalMilliseconds

        let seen rows = {
            IsPrompt = false
            Round = round
            Drafts = Array.truncate round.Drafted made.Value
            Rows = rows
            Ms = ms
            DraftMs = decoding.Clock.DraftMs - draftMs
        }

        let standing = {
            standing with
                Text = standing.Text.Append round.Tokens
                Rounds = round :: standing.Rounds
        }

        // A drafted stop token that is kept is the last: the whole model says nothing after it, and nothing follows.
        struct (round,
                (if round.Tokens.Length = 0 then
                     standing
                 else
                     standing
                     |> widen decoding round.Tokens
                     |> learn decoding round.Tokens.Length (ValueSome round.Tokens) seen))

    /// `run`, over a cache that is lent: it may have read a beginning of the prompt, which is then not read again.
    let runOver
        (loan: CacheLoan)
        (decoding: Decoding)
        (prompt: int[])
        (cancelled: CancellationToken)
        : seq<struct (Round * Standing)> =
        let advance cache (latest: struct (Round * Standing) voption) =
            use _noGrad = Scope.noGrad ()

            match latest with
            | ValueNone -> Some(Scope.free (fun () -> start decoding prompt cache))
            | ValueSome(struct (round, standing)) ->
                let room = prompt.Length + decoding.MaxNewTokens - standing.Text.Count

                if room < 1 || Array.exists (isStop decoding) round.Tokens then
                    None
                else
                    standing.Overflow |> Option.iter (fun fault -> raise fault.Value)
                    Some(Scope.free (fun () -> next decoding room standing))

        seq {
            let cache = loan.Take()
            let latest = ref ValueNone

            // What was read before the last round stays good, whatever ends that one.
            use _loan = {
                new IDisposable with
                    member _.Dispose() =
                        match latest.Value with
                        | ValueSome(struct (_: Round, standing)) ->
                            struct (standing.Text.Memory, standing.Reading.Cache)
                        | ValueNone -> struct (ReadOnlyMemory prompt, cache)
                        |> ReadText.left decoding.Strategy
                        |> loan.Return
            }

            yield!
                ()
                |> Seq.unfold (fun () ->
                    advance { cache with Cancelled = cancelled } latest.Value
                    |> Option.map (fun round ->
                        latest.Value <- ValueSome round
                        round, ()))
        }

    /// The pass over a prompt, which brings a token, and then round after round as they are asked for, until a stop token
    /// or `MaxNewTokens`. Where numbers overflow, the next pull throws a LayerSkipException; once cancelled, within about
    /// a tenth of a second's work an OperationCanceledException.
    let run (decoding: Decoding) (prompt: int[]) (cancelled: CancellationToken) =
        let own = {
            Take =
                fun () ->
                    let capacity = prompt.Length + decoding.MaxNewTokens
                    ReadText.empty capacity decoding.Weights decoding.Strategy
            Return = ReadText.dispose
        }

        runOver own decoding prompt cancelled
