namespace LayerSkip

/// What speculation did over any number of texts, in vLLM's names (metrics.speculative_decoding). How often the rounds of each draft
/// length kept how many drafts decides all of it, and is all that is held.
type SpeculationMetrics = private {
    /// At a draft length d, how many rounds kept exactly 0..d drafts; at 0 the plain steps.
    rounds: Map<int, int[]>
} with

    member private this.Sum(count: int -> int -> int) : int =
        this.rounds
        |> Map.toSeq
        |> Seq.sumBy (fun (drafted, kept) ->
            if drafted = 0 then
                0
            else
                kept |> Seq.mapi (fun accepted rounds -> rounds * count drafted accepted) |> Seq.sum)

    /// At a draft length, how many rounds kept exactly 0..d drafts.
    member this.AcceptanceHistogramByDraftLength: Map<int, int[]> = Map.remove 0 this.rounds
    /// Steps without a draft.
    member this.NumPlainSteps: int =
        Map.tryFind 0 this.rounds |> Option.map Array.sum |> Option.defaultValue 0
    /// Rounds that drafted.
    member this.NumSpecSteps: int = this.Sum(fun _ _ -> 1)
    member this.NumDraftTokens: int = this.Sum(fun drafted _ -> drafted)
    member this.NumAcceptedDraftTokens: int = this.Sum(fun _ accepted -> accepted)
    /// The most drafts of a round; 0 where there was none.
    member this.NumSpecTokens: int = this.rounds |> Map.fold (fun most drafted _ -> max most drafted) 0

    /// Accepted over drafted; 0 where nothing was drafted.
    member this.DraftAcceptanceRate: float =
        match this.NumDraftTokens with
        | 0 -> 0.0
        | drafted -> float this.NumAcceptedDraftTokens / float drafted

    /// 1 + accepted over rounds that drafted: the tokens that one yields; 0 where there was none.
    member this.MeanAcceptanceLength: float =
        match this.NumSpecSteps with
        | 0 -> 0.0
        | steps -> 1.0 + float this.NumAcceptedDraftTokens / float steps

    /// At j, how many rounds that drafted kept exactly j drafts.
    member this.AcceptanceHistogram: int[] =
        let counts = Array.zeroCreate (if this.NumSpecSteps = 0 then 0 else this.NumSpecTokens + 1)

        for drafted, kept in Map.toSeq this.rounds do
            if drafted > 0 then
                kept |> Array.iteri (fun accepted rounds -> counts[accepted] <- counts[accepted] + rounds)

        counts

    /// At j - 1, of the rounds that drafted at least j tokens the share that kept at least j.
    member this.AcceptanceByPosition: float[] =
        Array.init this.NumSpecTokens (fun before ->
            let reaching = this.rounds |> Map.toSeq |> Seq.filter (fun (drafted, _) -> drafted > before)
            let kept = reaching |> Seq.sumBy (fun (_, counts) -> Seq.sum (Seq.skip (before + 1) counts))
            float kept / float (reaching |> Seq.sumBy (fun (_, counts) -> Array.sum counts)))

    /// Kept drafts and one token of the whole model's a round or plain step; a stop token may have cut the last one.
    member this.Tokens: int = this.NumAcceptedDraftTokens + this.NumSpecSteps + this.NumPlainSteps

    /// Tokens over the layers that one row passes to make them: `exit` a draft, which the verification goes on from, and `layers` a
    /// round or plain step (DEL's token per layer, Entezari Zarch et al. 2025); autoregressive decoding has 1 / `layers`. NaN where there were no rounds. 0 layers
    /// draft where the drafter reads nothing.
    member this.TokensPerLayer(layers: int, exit: int) : float =
        float this.Tokens
        / float (this.NumDraftTokens * exit + (this.NumSpecSteps + this.NumPlainSteps) * layers)

[<RequireQualifiedAccess>]
module SpeculationMetrics =
    /// Of no rounds.
    let none: SpeculationMetrics = { rounds = Map.empty }

    /// Of rounds as `SpeculationStats` has them: drafted and accepted; (0, 0) is a plain step.
    let ofRounds (rounds: (int * int) seq) : SpeculationMetrics = {
        rounds =
            rounds
            |> Seq.groupBy fst
            |> Seq.map (fun (drafted, same) ->
                let counts = Array.zeroCreate (drafted + 1)

                for _, accepted in same do
                    counts[accepted] <- counts[accepted] + 1

                drafted, counts)
            |> Map.ofSeq
    }

    /// Of both together.
    let add (a: SpeculationMetrics) (b: SpeculationMetrics) : SpeculationMetrics = {
        rounds =
            Map.fold
                (fun rounds drafted kept ->
                    match Map.tryFind drafted rounds with
                    | Some there -> Map.add drafted (Array.map2 (+) there kept) rounds
                    | None -> Map.add drafted kept rounds)
                a.rounds
                b.rounds
    }

    /// Of all together.
    let sum (metrics: SpeculationMetrics seq) : SpeculationMetrics = Seq.fold add none metrics

    /// Of texts.
    let ofCompletions (completions: Completion seq) : SpeculationMetrics =
        completions |> Seq.collect _.Stats.Rounds |> ofRounds

    /// From rounds that are counted: at a draft length d, how many kept exactly 0..d drafts. None where the counts are none of such
    /// rounds.
    let tryOfCounts (counts: (int * int[]) seq) : SpeculationMetrics option =
        let sound (drafted, kept: int[]) =
            drafted >= 0 && kept.Length = drafted + 1 && Array.forall (fun count -> count >= 0) kept

        let counts = List.ofSeq counts

        if List.forall sound counts && List.length (List.distinctBy fst counts) = counts.Length then
            Some { rounds = counts |> List.filter (snd >> Array.sum >> (<) 0) |> Map.ofList }
        else
            None

    /// The counts that decide everything: at a draft length d, how many rounds kept exactly 0..d drafts; at 0 the plain steps.
    let counts (metrics: SpeculationMetrics) : (int * int[]) list = Map.toList metrics.rounds
