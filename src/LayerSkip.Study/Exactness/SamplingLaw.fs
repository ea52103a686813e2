namespace LayerSkip

/// Checks that speculative sampling keeps the law that it should: the whole model's, filtered.
[<RequireQualifiedAccess>]
module SamplingLaw =
    let private justBelowOne = 1.0 - 1.0 / 9007199254740992.0

    /// Every sequence of `length` tokens below `vocabulary`.
    let rec private sequences vocabulary length : int list list =
        if length = 0 then
            [ [] ]
        else
            [
                for rest in sequences vocabulary (length - 1) do
                    for token in 0 .. vocabulary - 1 -> rest @ [ token ]
            ]

    /// The probability of each way to continue `text` up to `length` tokens by plain draws from `p`.
    let rec private continued (p: int list -> float[]) length (text: int list) : (int list * float) list =
        if text.Length >= length then
            [ text, 1.0 ]
        else
            [
                for token, chance in Array.indexed (p text) do
                    if chance > 0.0 then
                        for sequence, rest in continued p length (text @ [ token ]) -> sequence, chance * rest
            ]

    /// The exact law of the first `draftLength` + 1 tokens that one round and then plain draws write, minus the
    /// law of as many plain draws: the largest difference over all sequences. `p` and `q` give the whole
    /// model's and the draft's law after a text. Every refusal is forced through `Acceptance.sampled`.
    let worstError (p: int list -> float[]) (q: int list -> float[]) (draftLength: int) : float =
        let length, vocabulary = draftLength + 1, (p []).Length

        let outcomes (drafts: int list) =
            let before = List.init (draftLength + 1) (fun i -> List.truncate i drafts)
            let laws = before |> List.map p |> Array.ofList

            let proposals =
                List.zip drafts (List.take draftLength before)
                |> List.map (fun (token, text) -> Draft.drawn (q text) token)
                |> Array.ofList

            let keeps i = min 1.0 (laws[i][proposals[i].Token] / Draft.probability proposals[i])

            let drawn = proposals |> Array.fold (fun chance draft -> chance * Draft.probability draft) 1.0

            [
                if drawn > 0.0 then
                    for refused in 0..draftLength do
                        let kept = Seq.init refused keeps |> Seq.fold (*) 1.0
                        let chance =
                            drawn * kept * (if refused < draftLength then 1.0 - keeps refused else 1.0)

                        if chance > 0.0 then
                            let uniforms =
                                Array.init (draftLength + 1) (fun i ->
                                    if i < refused then 0.0 else justBelowOne)
                            let struct (agreed, next) = Acceptance.sampled uniforms laws proposals

                            for token, share in Array.indexed next.Value do
                                if share > 0.0 then
                                    for sequence, rest in
                                        continued p length (List.truncate agreed drafts @ [ token ]) ->
                                        sequence, chance * share * rest
            ]

        let written =
            sequences vocabulary draftLength
            |> Seq.collect outcomes
            |> Seq.groupBy fst
            |> Seq.map (fun (sequence, chances) -> sequence, Seq.sumBy snd chances)
            |> Map.ofSeq

        let plain = continued p length [] |> Map.ofList
        let chance sequence law = Map.tryFind sequence law |> Option.defaultValue 0.0

        Seq.append (Map.keys written) (Map.keys plain)
        |> Seq.map (fun sequence -> abs (chance sequence written - chance sequence plain))
        |> Seq.fold max 0.0

    /// How far counts stray from expected probabilities, in standard deviations of the chi-square law
    /// (Wilson and Hilferty 1931); classes that expect fewer than 5 are pooled. Infinite for an impossible count.
    let chiSquare (expected: float[]) (counts: int[]) : float =
        let draws = float (Array.sum counts)
        let cells = Array.zip (expected |> Array.map (fun p -> p * draws)) (counts |> Array.map float)

        if cells |> Array.exists (fun (mean, count) -> mean <= 0.0 && count > 0.0) then
            infinity
        else
            let rare, common = cells |> Array.partition (fun (mean, _) -> mean < 5.0)
            let pooled = Array.sumBy fst rare, Array.sumBy snd rare
            let cells =
                if fst pooled > 0.0 then
                    Array.append common [| pooled |]
                else
                    common
            let statistic = cells |> Array.sumBy (fun (mean, count) -> (count - mean) ** 2.0 / mean)
            let freedom = float (max 1 (cells.Length - 1))
            let spread = 2.0 / (9.0 * freedom)
            ((statistic / freedom) ** (1.0 / 3.0) - (1.0 - spread)) / sqrt spread

    /// Counts the token that one round of one draft writes first, over many draws.
    let firstTokens (p: float[]) (q: float[]) (draws: int) (seed: int64) : int[] =
        let counts = Array.zeroCreate p.Length
        let mutable key = Key.ofSeed seed

        let next () =
            let struct (u, following) = Key.uniform key
            key <- following
            u

        for _ in 1..draws do
            let draft = Draft.drawn q (Sampling.pick q (next ()))

            let struct (kept, law) = Acceptance.sampled [| next (); next () |] [| p; p |] [| draft |]

            let token =
                if kept = 1 then
                    draft.Token
                else
                    Sampling.pick law.Value (next ())

            counts[token] <- counts[token] + 1

        counts

    /// Where a token falls in its law, the likeliest tokens first: a number that is uniform from 0 to 1 if, and only if, tokens are drawn
    /// from their laws (Rosenblatt's transform; `u`, uniform too, spreads a token over its share). Drafts that are kept too often come
    /// out low, wherever they are in the vocabulary.
    let place (law: float[]) (token: int) (u: float) : float =
        let own = law[token]
        let before = ref 0.0

        law
        |> Array.iteri (fun id p ->
            if p > own || p = own && id < token then
                before.Value <- before.Value + p)

        before.Value + u * own

    /// How far numbers stray from uniform ones, by `chiSquare` over so many classes.
    let uniformity (classes: int) (places: float seq) : float =
        let counts = Array.zeroCreate classes

        for place in places do
            let at = min (classes - 1) (int (place * float classes))
            counts[at] <- counts[at] + 1

        chiSquare (Array.create classes (1.0 / float classes)) counts
