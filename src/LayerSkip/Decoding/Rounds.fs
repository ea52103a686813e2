namespace LayerSkip

open System
open System.Threading

/// What decoding needs beside a prompt.
[<NoEquality; NoComparison>]
type Decoding = {
    Weights: Weights
    Strategy: Strategy
    Sampling: Sampling
    StopIds: int[]
    /// New tokens at most, which must fit into the context.
    MaxNewTokens: int
    Seed: int64
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
    /// The fault of the row that decides the next token, where its numbers are not finite.
    Overflow: Lazy<exn> option
}

/// Decoding, round by round: ids alone, no text (LayerSkip, section 4.3 and appendix A.4).
///
/// Between rounds every layer has read n = prompt + new tokens - 1 positions: all but the last token. A round of d drafts
/// leaves n + d in the early layers; the verification reads the last token and the drafts, d + 1 rows, and what was
/// accepted stays: n + accepted + 1.
[<RequireQualifiedAccess>]
module Rounds =
    /// What a pass says of each row, up to the first whose numbers are not finite; that row's fault, should it count.
    [<NoEquality; NoComparison>]
    type private Seen = { Verdicts: Verdicts; Overflow: Lazy<exn> option }

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

    /// The layers up to an exit, or all of them.
    let private layersTo (exit: ExitLayer option) (decoding: Decoding) =
        exit |> Option.map _.Layers |> Option.defaultValue decoding.Weights.Config.Layers

    let private isStop (decoding: Decoding) id = Array.contains id decoding.StopIds

    /// A row counts only where all drafts before it are kept: one that the whole model would not have come to may overflow.
    let private see (decoding: Decoding) (textUpTo: int -> int[]) (logits: Logits) : Seen =
        let verdicts = Sampling.verdicts decoding.Sampling

        match Logits.tryFirstNotFinite logits with
        | None -> { Verdicts = verdicts logits; Overflow = None }
        | Some row -> {
            Verdicts = verdicts (Logits.truncate row logits)
            Overflow =
                let layers = layersTo decoding.Strategy.Depth decoding
                Some(lazy (Overflow.exceptionOf decoding.Weights layers (textUpTo row)))
          }

    let private choose (decoding: Decoding) (hidden: Hidden) : Verdicts voption =
        decoding.Clock.Time(
            Part.Head,
            fun () ->
                let logits = Model.logits hidden

                match Logits.tryFirstNotFinite logits with
                | None -> ValueSome(Sampling.verdicts decoding.Sampling logits)
                | Some _ -> ValueNone
        )

    let private propose (decoding: Decoding) ahead _ (standing: Standing) =
        match standing.Drafter with
        | None -> struct ([||], standing)
        | Some drafter ->
            let request = {
                Weights = decoding.Weights
                Text = standing.Text.Memory
                Ahead = ahead
                IsStop = isStop decoding
                Choose = choose decoding
            }

            let struct (drafts, reading, next) =
                decoding.Clock.Time(Part.Draft, fun () -> drafter.Draft(request, standing.Reading))

            struct (Array.truncate ahead drafts, { standing with Reading = reading; Drafter = Some next })

    /// One pass over what the choosing layers have not read: the verdicts of the last `rows` of `ids`, which follow the
    /// first `before` tokens of the text.
    let private verify (decoding: Decoding) before rows (ids: int[]) (standing: Standing) =
        let pass () =
            let cache = standing.Reading.Cache

            let struct (hidden, cache) =
                match decoding.Strategy.Depth with
                | Some _ -> Model.forwardEarly decoding.Weights ids cache
                | None -> Model.forwardRemainder decoding.Weights rows ids cache

            let textUpTo row =
                Array.append (standing.Text.Memory.Slice(0, before).ToArray()) ids[.. ids.Length - rows + row]

            let look () =
                let logits = Model.logits hidden
                decoding.Watch |> Option.iter (fun watch -> watch (cache.Early.Length - rows + 1) logits)
                see decoding textUpTo logits

            let seen = decoding.Clock.Time(Part.Head, look)
            struct (seen, { standing with Reading = { standing.Reading with Cache = cache } })

        decoding.Clock.Time(Part.Verify, pass)

    let private uniforms count (key: Key) =
        Array.mapFold
            (fun key _ ->
                let struct (u, next) = Key.uniform key
                u, next)
            key
            (Array.zeroCreate<unit> count)

    let private judge (drafts: Draft[]) (seen: Seen) (standing: Standing) =
        let struct (agreed, next, reading) =
            match seen.Verdicts with
            | Verdicts.Tokens own ->
                let struct (agreed, next) = Speculation.acceptGreedy own (drafts |> Array.map _.Token)
                struct (agreed, next, standing.Reading)
            | Verdicts.Laws laws ->
                let us, key = uniforms (drafts.Length + 1) standing.Reading.Key
                let judged = Array.truncate laws.Length drafts
                let struct (agreed, law) = Speculation.acceptSampled us laws judged
                let next = law |> ValueOption.map (fun law -> Sampling.pick law us[drafts.Length])
                struct (agreed, next, { standing.Reading with Key = key })

        // The kept drafts may end the text before the row that overflows is asked for.
        let overflow = if next.IsNone then seen.Overflow else None
        struct (agreed, next, { standing with Reading = reading; Overflow = overflow })

    let private rewind count (standing: Standing) =
        if count = 0 then
            standing
        else
            let cache = standing.Reading.Cache
            let cache = Cache.truncate (cache.Early.Length - count) cache
            { standing with Reading = { standing.Reading with Cache = cache } }

    /// Reads the prompt, and chooses the first token.
    let private start (decoding: Decoding) (prompt: int[]) cache =
        let standing = {
            Text = TokenText.OfIds prompt
            Reading = { Cache = cache; Key = Key.ofSeed decoding.Seed }
            Drafter = decoding.Strategy.Drafter
            Rounds = []
            Overflow = None
        }

        let struct (seen, standing) = verify decoding 0 1 prompt standing
        let struct (_, first, standing) = judge [||] seen standing
        let round = { Tokens = ValueOption.toArray first; Drafted = 0; Accepted = 0 }
        struct (round, { standing with Text = standing.Text.Append round.Tokens })

    let private next (decoding: Decoding) (room: int) (standing: Standing) =
        let ahead =
            match standing.Drafter with
            | Some _ -> min (LengthPolicy.next standing.Rounds decoding.Strategy.Length) (room - 1)
            | None -> 0

        let rows = verify decoding (standing.Text.Count - 1)

        let struct (round, standing) =
            Speculation.step
                (isStop decoding)
                (propose decoding)
                (fun ids -> rows ids.Length ids)
                judge
                rewind
                ahead
                standing.Text.Last
                standing

        struct (round,
                {
                    standing with
                        Text = standing.Text.Append round.Tokens
                        Rounds = round :: standing.Rounds
                })

    /// The pass over a prompt, which brings a token, and then round after round as they are asked for, until a stop token
    /// or `MaxNewTokens`. Where numbers overflow, the next pull throws a LayerSkipException; once cancelled, within about
    /// a tenth of a second's work an OperationCanceledException.
    let run
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
            let exit = layersTo decoding.Strategy.Exit decoding
            let cache = Cache.create decoding.Weights exit (prompt.Length + decoding.MaxNewTokens)
            use _storage = cache.Slab :> IDisposable

            yield!
                ValueNone
                |> Seq.unfold (fun latest ->
                    advance { cache with Cancelled = cancelled } latest
                    |> Option.map (fun round -> round, ValueSome round))
        }
