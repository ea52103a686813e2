namespace LayerSkip

open System

/// What a stop rule, or a policy, looks at of each draft's logits: the more, the more it costs.
[<RequireQualifiedAccess>]
type DraftReading =
    /// The token alone.
    | Token
    /// Its probability too.
    | Confidence
    /// And the entropy of the law, in nats.
    | Entropy

/// What ends a draft before its length does. It is a value: a decoding starts with one and goes on with what `Learn` returns.
/// Whatever it ends, the text is the whole model's own.
type StopRule =
    /// As reports and options name it.
    abstract Name: string
    abstract Reads: DraftReading
    /// Whether the latest draft, which is first of those made this round, is the last; it is verified like any other.
    abstract IsEnough: made: Draft list -> bool
    /// The rule after one more round.
    abstract Learn: RoundSeen -> StopRule

/// A stop rule by its name.
[<RequireQualifiedAccess>]
type StopRuleKind =
    | Never
    /// Above 0, at most 1.
    | Confidence of least: float
    | DraftVerify
    | AdaEdl
    | Del
    | Marginal

[<RequireQualifiedAccess>]
module StopRule =
    /// As options spell it, and what `tryParse` reads.
    let spell (kind: StopRuleKind) : string =
        match kind with
        | StopRuleKind.Never -> "never"
        | StopRuleKind.Confidence least -> $"confidence:{Number.show least}"
        | StopRuleKind.DraftVerify -> "draft-verify"
        | StopRuleKind.AdaEdl -> "adaedl"
        | StopRuleKind.Del -> "del"
        | StopRuleKind.Marginal -> "marginal"

    let private folded
        kind
        reads
        (isEnough: 'State -> Draft list -> bool)
        (learn: RoundSeen -> 'State -> 'State)
        start
        =
        let rec after (state: 'State) : StopRule = {
            new StopRule with
                member _.Name = spell kind
                member _.Reads = reads
                member _.IsEnough made = isEnough state made
                member this.Learn seen = if seen.IsPrompt then this else after (learn seen state)
        }

        after start

    let private confidenceOf (draft: Draft) = ValueOption.defaultValue 1.0 draft.Confidence

    /// Only the length ends a draft: the paper's d.
    let never: StopRule = folded StopRuleKind.Never DraftReading.Token (fun () _ -> false) (fun _ () -> ()) ()

    /// A draft of less probability than `least` is the last (Kangaroo, arXiv 2404.18911; its value is 0.6).
    let confidence (least: float) : StopRule =
        folded
            (StopRuleKind.Confidence least)
            DraftReading.Confidence
            (fun () made -> confidenceOf made.Head < least)
            (fun _ () -> ())
            ()

    /// A threshold of a certainty that follows how much is kept (Zhang et al. 2023, arXiv 2309.08168, section 3.3: its beta 0.5 and
    /// 0.9, step 0.01 and wished share 0.9): state (share kept, threshold).
    let private following kind reads (certainty: Draft -> float) (start: float) =
        let learn (seen: RoundSeen) (share, threshold) =
            match seen.Round.Drafted with
            | 0 -> share, threshold
            | drafted ->
                let share = 0.5 * share + 0.5 * float seen.Round.Accepted / float drafted

                let wished =
                    if share < 0.9 then
                        threshold + 0.01
                    // The length ended it: nothing says that the threshold is too high.
                    elif certainty seen.Drafts[drafted - 1] >= threshold then
                        threshold
                    else
                        threshold - 0.01

                share, 0.9 * threshold + 0.1 * wished

        folded kind reads (fun (_, threshold) made -> certainty made.Head < threshold) learn (1.0, start)

    /// Draft & Verify's adaptive threshold of confidence, which starts at 0.8.
    let draftVerify: StopRule = following StopRuleKind.DraftVerify DraftReading.Confidence confidenceOf 0.8

    /// AdaEDL (Agrawal et al. 2024, arXiv 2410.18351): 1 - sqrt(kappa H) bounds acceptance from below, where H is the entropy of the draft's
    /// law and kappa 0.2; under a threshold, which follows what is kept as Draft & Verify's does, a draft is the last.
    let adaEdl: StopRule =
        let bound (draft: Draft) =
            match draft.Entropy with
            | ValueSome entropy -> 1.0 - sqrt (0.2 * entropy)
            | ValueNone -> 1.0

        following StopRuleKind.AdaEdl DraftReading.Entropy bound 0.4

    /// DEL's (arXiv 2504.05598): half way between the mean confidences of kept and of refused drafts, older rounds counting 0.95 of
    /// newer ones.
    let del: StopRule =
        let learn (seen: RoundSeen) (kept: float, keptCount: float, refused: float, refusedCount: float) =
            let sum wanted value =
                seen.Judged
                |> Array.sumBy (fun (draft, isKept) -> if isKept = wanted then value draft else 0.0)

            let decayed before now = AdaptivePolicies.delDecay * before + now

            decayed kept (sum true confidenceOf),
            decayed keptCount (sum true (fun _ -> 1.0)),
            decayed refused (sum false confidenceOf),
            decayed refusedCount (sum false (fun _ -> 1.0))

        let isEnough (kept, keptCount, refused, refusedCount) (made: Draft list) =
            keptCount > 0.0
            && refusedCount > 0.0
            && confidenceOf made.Head < (kept / keptCount + refused / refusedCount) / 2.0

        folded StopRuleKind.Del DraftReading.Confidence isEnough learn (0.0, 0.0, 0.0, 0.0)

    /// What the marginal rule has learned of an exit: how likely a draft of a confidence is kept, and the share of judged drafts that are.
    [<NoEquality; NoComparison>]
    type private Calibration = { Odds: Odds; Kept: float }

    /// Draft one more while what it is expected to bring is worth its time: s p > rho t, where s is the chance that all drafts so far are
    /// kept, p that the next one is, t what it adds to the round, and rho the tokens a millisecond that decoding makes. Chances are
    /// confidences, calibrated online by logistic regression per exit. With the same chance at each place this is the best
    /// constant length.
    let marginal (cost: RoundCost) : StopRule =
        let fresh = { Odds = { Weights = [| 0.0; 1.0 |] }; Kept = 0.7 }
        let of' source calibrations = Map.tryFind source calibrations |> Option.defaultValue fresh
        let features (draft: Draft) = [| 1.0; Odds.logit (confidenceOf draft) |]
        let chance calibration (draft: Draft) = Odds.chance (features draft) calibration.Odds

        let isEnough (calibrations, tokens: float, ms: float) (made: Draft list) =
            let calibration = of' made.Head.Source calibrations
            let survival = made |> List.fold (fun product draft -> product * chance calibration draft) 1.0
            let rate = if ms > 0.0 then tokens / ms else 1.0 / cost 1 0

            let exit = DraftSource.tryExit made.Head.Source |> Option.defaultValue 1
            let next = cost exit (made.Length + 1) - cost exit made.Length
            survival * calibration.Kept <= rate * next

        let learn (seen: RoundSeen) (calibrations, tokens, ms) =
            let step calibration (draft, isKept) = {
                Odds = calibration.Odds |> Odds.learn 0.05 (features draft) isKept
                Kept = 0.95 * calibration.Kept + (if isKept then 0.05 else 0.0)
            }

            let calibrations =
                match Array.tryHead seen.Drafts with
                | Some first ->
                    let after = seen.Judged |> Array.fold step (of' first.Source calibrations)
                    Map.add first.Source after calibrations
                | None -> calibrations

            calibrations, 0.95 * tokens + float (seen.Round.Accepted + 1), 0.95 * ms + seen.Ms

        folded StopRuleKind.Marginal DraftReading.Confidence isEnough learn (Map.empty, 0.0, 0.0)

    /// A rule as an option names it: never, confidence:0.6, draft-verify, adaedl, del, marginal.
    let tryParse (text: string) : Result<StopRuleKind, LayerSkipError list> =
        let whole = [
            StopRuleKind.Never
            StopRuleKind.DraftVerify
            StopRuleKind.AdaEdl
            StopRuleKind.Del
            StopRuleKind.Marginal
        ]

        let least =
            match text.Split ':' with
            | [| "confidence"; number |] -> Number.tryReal number
            | _ -> None

        match whole |> List.tryFind (fun kind -> spell kind = text), least with
        | Some kind, _ -> Ok kind
        | None, Some least when least > 0.0 && least <= 1.0 -> Ok(StopRuleKind.Confidence least)
        | _ ->
            Check.outOfRange
                "stop-rule"
                text
                "never, confidence:T with T above 0 and at most 1 (as confidence:0.6), draft-verify, adaedl, del or marginal"

    /// The rule of a name; only the marginal one asks what rounds cost.
    let create (cost: unit -> RoundCost) (kind: StopRuleKind) : StopRule =
        match kind with
        | StopRuleKind.Never -> never
        | StopRuleKind.Confidence least -> confidence least
        | StopRuleKind.DraftVerify -> draftVerify
        | StopRuleKind.AdaEdl -> adaEdl
        | StopRuleKind.Del -> del
        | StopRuleKind.Marginal -> marginal (cost ())
