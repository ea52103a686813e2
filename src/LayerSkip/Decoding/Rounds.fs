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
        Rules = TokenRules.none
        StopIds = [||]
        MaxNewTokens = maxNewTokens
        Seed = 0L
        LogProbs = None
        PromptLogProbs = None
        Clock = Clock()
        Watch = None
    }

    let private isStop (decoding: Decoding) id = Array.contains id decoding.StopIds

    let private rewind count (standing: Standing) =
        if count = 0 then
            standing
        else
            let cache = standing.Reading.Cache
            let cache = Cache.truncate (cache.Early.Length - count) cache
            { standing with Reading = { standing.Reading with Cache = cache } }

    /// Drafts up to the first that the rules forbid where it stands, or to a stop token.
    let private lawful (decoding: Decoding) (ruled: RuledText option) (drafts: Draft[]) : Draft[] =
        let rec count (text: RuledText) place =
            if place = drafts.Length || not (text.Allows drafts[place].Token) then
                place
            elif isStop decoding drafts[place].Token then
                place + 1
            else
                count (text.After drafts[place].Token) (place + 1)

        match ruled with
        | None -> drafts
        | Some text -> Array.truncate (count text 0) drafts

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
                    fun reads made hidden key ->
                        let pick () =
                            match standing.Ruled with
                            | None -> DraftChoice.pick decoding.Sampling standing.Vocabulary reads hidden key
                            | Some text ->
                                let text = TokenRules.afterDrafts made text
                                DraftChoice.pickUnder
                                    text
                                    decoding.Sampling
                                    standing.Vocabulary
                                    reads
                                    hidden
                                    key

                        decoding.Clock.Time(Part.Head, pick)
                Allows =
                    fun made token ->
                        standing.Ruled
                        |> Option.forall (fun text -> (TokenRules.afterDrafts made text).Allows token)
            }

            let struct (drafts, reading, next) =
                decoding.Clock.Time(Part.Draft, fun () -> drafter.Draft(request, standing.Reading))

            Drafter.check decoding.Weights.Config.Vocabulary drafts next drafter
            let drafts = Array.truncate ahead drafts
            made.Value <- lawful decoding standing.Ruled drafts
            let next = { standing with Reading = reading; Drafter = Some next }

            if made.Value.Length = drafts.Length then
                struct (made.Value, next)
            else
                // The verification reads what is left: layers may have read further.
                let beyond = reading.Cache.Early.Length - standing.Text.Count - made.Value.Length
                struct (made.Value, rewind (max 0 beyond) next)

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
        ruled
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
                        lazy (Scope.free (fun () -> JudgedRows.last decoding rows tokens ruled standing))

                drafter.Learn(seen looked)

            { standing with Drafter = Some(decoding.Clock.Time(Part.Policy, next)) }

    /// With a round's tokens at the end of the text. Nothing follows a stop token, so the rules do not go on from one.
    let private written (decoding: Decoding) (tokens: int[]) (standing: Standing) =
        let after text =
            tokens
            |> Seq.takeWhile (isStop decoding >> not)
            |> Seq.fold (fun (text: RuledText) id -> text.After id) text

        {
            standing with
                Text = standing.Text.Append tokens
                Ruled = standing.Ruled |> Option.map after
        }

    /// Reads what the cache has not of the prompt, and chooses the first token.
    let private start (decoding: Decoding) (prompt: int[]) cache =
        let began = Stopwatch.GetTimestamp()

        let standing = {
            Text = TokenText.OfIds prompt
            Reading = { Cache = cache; Key = Key.ofSeed decoding.Seed }
            Drafter = decoding.Strategy.Drafter
            Rounds = []
            Fault = None
            Ruled = TokenRules.start decoding.Weights.Config.Vocabulary prompt decoding.Rules
            LogProbs = [||]
            PromptLogProbs = [||]
            Vocabulary = None
            Likeliest = [||]
            Loose = 0
        }

        let read = cache.Early.Length
        let struct (seen, standing) = Verification.pass decoding read 1 prompt[read..] standing
        let struct (_, first, standing) = Verification.judge decoding [||] seen standing

        let standing =
            match decoding.PromptLogProbs with
            | None -> standing
            | Some top ->
                let depth = decoding.Strategy.Depth
                let told = PromptLogProbs.ofCache depth top prompt standing.Reading.Cache
                { standing with PromptLogProbs = told }

        let ms = Stopwatch.GetElapsedTime(began).TotalMilliseconds

        let round = { Tokens = ValueOption.toArray first; Drafted = 0; Accepted = 0; Sources = [||] }

        let evidence =
            match standing.Drafter with
            | Some drafter -> min drafter.Watch.PromptRows prompt.Length
            | None -> 0

        let seen rows = { IsPrompt = true; Round = round; Drafts = [||]; Rows = rows; Ms = ms; DraftMs = 0.0 }

        struct (round,
                written decoding round.Tokens standing
                |> widen decoding round.Tokens
                |> learn decoding evidence ValueNone None seen)

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
                (Verification.judge decoding)
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

        let ruled = standing.Ruled
        let standing = written decoding round.Tokens { standing with Rounds = round :: standing.Rounds }

        // A drafted stop token that is kept is the last: the whole model says nothing after it, and nothing follows.
        struct (round,
                (if round.Tokens.Length = 0 then
                     standing
                 else
                     standing
                     |> widen decoding round.Tokens
                     |> learn decoding round.Tokens.Length (ValueSome round.Tokens) ruled seen))

    /// `run`, over a cache that is lent: it may have read a beginning of the prompt, which is then not read again. A prompt that is long takes
    /// more than one pull: those before its last piece bring no round.
    let runOver
        (loan: CacheLoan)
        (decoding: Decoding)
        (prompt: int[])
        (cancelled: CancellationToken)
        : seq<struct (Round * Standing) voption> =
        let decode cache (latest: struct (Round * Standing) voption) =
            match latest with
            | ValueNone -> Some(Scope.free (fun () -> start decoding prompt cache))
            | ValueSome(struct (round, standing)) ->
                let room = prompt.Length + decoding.MaxNewTokens - standing.Text.Count

                if room < 1 || Array.exists (isStop decoding) round.Tokens then
                    None
                else
                    standing.Fault |> Option.iter (fun fault -> raise fault.Value)
                    Some(Scope.free (fun () -> next decoding room standing))

        seq {
            let cache = ref (loan.Take())
            let latest = ref ValueNone

            // What was read before the last round or piece stays good, whatever ends that one.
            use _loan = {
                new IDisposable with
                    member _.Dispose() =
                        match latest.Value with
                        | ValueSome(struct (_: Round, standing)) ->
                            struct (standing.Text.Memory, standing.Reading.Cache)
                        | ValueNone -> struct (ReadOnlyMemory prompt, cache.Value)
                        |> ReadText.left decoding.Strategy
                        |> loan.Return
            }

            let advance () =
                use _noGrad = Scope.noGrad ()
                let held = { Cache.awaitPrompt prompt.Length cache.Value with Cancelled = cancelled }

                if latest.Value.IsNone && PromptPieces.areMore decoding prompt held then
                    cache.Value <- PromptPieces.read decoding prompt held
                    Some(ValueNone, ())
                else
                    decode held latest.Value
                    |> Option.map (fun round ->
                        latest.Value <- ValueSome round
                        latest.Value, ())

            yield! Seq.unfold advance ()
        }

    /// A cache that a text has for itself, and that is freed with its end.
    let ownCache (decoding: Decoding) (prompt: int[]) : CacheLoan = {
        Take =
            fun () ->
                let capacity = prompt.Length + decoding.MaxNewTokens
                ReadText.empty capacity decoding.Weights decoding.Strategy
        Return = ReadText.dispose
    }

    /// The pass over a prompt, which brings a token, and then round after round as they are asked for, until a stop token
    /// or `MaxNewTokens`. Where numbers overflow, the next pull throws a LayerSkipException; once cancelled, within about
    /// a tenth of a second's work an OperationCanceledException.
    let run
        (decoding: Decoding)
        (prompt: int[])
        (cancelled: CancellationToken)
        : seq<struct (Round * Standing)> =
        runOver (ownCache decoding prompt) decoding prompt cancelled
        |> Seq.choose ValueOption.toOption
