namespace LayerSkip

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
    /// The ids that the next drafts are chosen from; None: all.
    Vocabulary: DraftVocabulary option
    /// The whole model's likeliest ids at each row at which it last had the word, where the draft vocabulary takes them.
    Likeliest: int[][]
}

/// The pass in which every layer reads the drafts, and what it says of them (LayerSkip, section 4.3).
[<RequireQualifiedAccess>]
module internal Verification =
    /// What a pass says of each row, up to the first whose numbers are not finite; that row's fault, should it count.
    [<NoEquality; NoComparison>]
    type Seen = { Verdicts: Verdicts; Overflow: Lazy<exn> option; Likeliest: int[][] }

    /// The layers up to an exit, or all of them.
    let layersTo (exit: ExitLayer option) (decoding: Decoding) =
        exit |> Option.map _.Layers |> Option.defaultValue decoding.Weights.Config.Layers

    /// A row counts only where all drafts before it are kept: one that the whole model would not have come to may overflow.
    let private see (decoding: Decoding) (textUpTo: int -> int[]) (logits: Logits) : Seen =
        let see logits overflow = {
            Verdicts = Sampling.verdicts decoding.Sampling logits
            Overflow = overflow
            Likeliest =
                match decoding.Strategy.Vocabulary with
                | Some plan when plan.Likeliest > 0 ->
                    Array.init (Logits.rows logits) (fun row -> Logits.largest plan.Likeliest row logits)
                | _ -> [||]
        }

        match Logits.tryFirstNotFinite logits with
        | None -> see logits None
        | Some row ->
            let layers = layersTo decoding.Strategy.Depth decoding
            let overflow = lazy (Overflow.exceptionOf decoding.Weights layers (textUpTo row))
            see (Logits.truncate row logits) (Some overflow)

    /// One pass over what the choosing layers have not read: the verdicts of the last `rows` of `ids`, which follow the
    /// first `before` tokens of the text.
    let pass (decoding: Decoding) before rows (ids: int[]) (standing: Standing) =
        let read () =
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

        decoding.Clock.Time(Part.Verify, read)

    let private uniforms count (key: Key) =
        Array.mapFold
            (fun key _ ->
                let struct (u, next) = Key.uniform key
                u, next)
            key
            (Array.zeroCreate<unit> count)

    let judge (drafts: Draft[]) (seen: Seen) (standing: Standing) =
        let struct (agreed, next, reading) =
            match seen.Verdicts with
            | Verdicts.Tokens own ->
                let struct (agreed, next) = Acceptance.greedy own (drafts |> Array.map _.Token)
                struct (agreed, next, standing.Reading)
            | Verdicts.Laws laws ->
                let us, key = uniforms (drafts.Length + 1) standing.Reading.Key
                let judged = Array.truncate laws.Length drafts
                let struct (agreed, law) = Acceptance.sampled us laws judged
                let next = law |> ValueOption.map (fun law -> Sampling.pick law us[drafts.Length])
                struct (agreed, next, { standing.Reading with Key = key })

        // The kept drafts may end the text before the row that overflows is asked for.
        let overflow = if next.IsNone then seen.Overflow else None

        struct (agreed,
                next,
                {
                    standing with
                        Reading = reading
                        Overflow = overflow
                        Likeliest = Array.truncate (agreed + 1) seen.Likeliest
                })
