namespace LayerSkip

open System
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

    let private choose (decoding: Decoding) (hidden: Hidden) : Verdicts voption =
        decoding.Clock.Time(
            Part.Head,
            fun () ->
                let logits = Model.logits hidden

                match Logits.tryFirstNotFinite logits with
                | None -> ValueSome(Sampling.verdicts decoding.Sampling logits)
                | Some _ -> ValueNone
        )

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

            checkDrafts decoding drafter drafts next
            struct (Array.truncate ahead drafts, { standing with Reading = reading; Drafter = Some next })

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

        let struct (seen, standing) = Verification.pass decoding 0 1 prompt standing
        let struct (_, first, standing) = Verification.judge [||] seen standing
        let round = { Tokens = ValueOption.toArray first; Drafted = 0; Accepted = 0 }
        struct (round, { standing with Text = standing.Text.Append round.Tokens })

    let private next (decoding: Decoding) (room: int) (standing: Standing) =
        let ahead =
            match standing.Drafter with
            | Some _ -> min (LengthPolicy.next standing.Rounds decoding.Strategy.Length) (room - 1)
            | None -> 0

        let rows = Verification.pass decoding (standing.Text.Count - 1)

        let struct (round, standing) =
            Speculation.step
                (isStop decoding)
                (propose decoding)
                (fun ids -> rows ids.Length ids)
                Verification.judge
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
            let exit = Verification.layersTo decoding.Strategy.Exit decoding
            let cache = Cache.create decoding.Weights exit (prompt.Length + decoding.MaxNewTokens)
            use _storage = cache.Slab :> IDisposable

            yield!
                ValueNone
                |> Seq.unfold (fun latest ->
                    advance { cache with Cancelled = cancelled } latest
                    |> Option.map (fun round -> round, ValueSome round))
        }
