namespace LayerSkip

/// An item's answers as a cell of a run's file holds them. Lists are over turns within samples.
[<RequireQualifiedAccess>]
module internal GenerationCell =
    // What cells and summary share.
    let id, category, promptTokens, cutTokens = "id", "category", "prompt_tokens", "cut_tokens"
    /// At an exit, the name of the strategy whose texts these are.
    let way = "way"
    let tokens, ttftMs, decodeMs, rounds, sameText = "tokens", "ttft_ms", "decode_ms", "rounds", "same_text"
    /// Before the names of what self-speculation did, in the item's own fields: it has the whole model's texts and scores.
    let speculative = "self_speculative_"

    let private numbers (prefix: string) (answers: DecodedAnswer list) =
        let list name (number: Completion -> float) =
            prefix + name, answers |> List.map (fun answer -> number answer.Completion)

        [
            list tokens (_.TokenIds.Length >> float)
            list ttftMs _.Timings.TtftMs
            list decodeMs _.Timings.DecodeMs
        ]

    let private scores (answers: DecodedAnswer list) = [
        for name in GenerationScore.names do
            let found = [
                for answer in answers do
                    for other, value in answer.Score.Numbers do
                        if other = name then
                            value
            ]

            if not found.IsEmpty then
                name, found
    ]

    let private texts (strategy: Strategy) (answers: DecodedAnswer list) = [
        way, strategy.Name

        for index, answer in List.indexed answers do
            let number = if index = 0 then "" else $"_{index + 1}"
            "text" + number, defaultArg answer.Completion.Text ""

            match answer.Score.Verdict with
            | Some verdict -> "verdict" + number, Sandbox.name verdict
            | None -> ()
    ]

    /// What speculation did over all answers, in vLLM's names.
    let private speculation (answers: DecodedAnswer list) =
        let metrics = answers |> Seq.map _.Completion |> SpeculationMetrics.ofCompletions

        [
            "num_spec_steps", [ float metrics.NumSpecSteps ]
            "num_draft_tokens", [ float metrics.NumDraftTokens ]
            "num_accepted_draft_tokens", [ float metrics.NumAcceptedDraftTokens ]
            "draft_acceptance_rate", [ metrics.DraftAcceptanceRate ]
            "mean_acceptance_length", [ metrics.MeanAcceptanceLength ]
            "acceptance_histogram", metrics.AcceptanceHistogram |> Seq.map float |> List.ofSeq
        ]

    /// Drafted and accepted of every round, one after the other.
    let private roundsOf (answers: DecodedAnswer list) = [
        for answer in answers do
            for drafted, accepted in answer.Completion.Stats.Rounds do
                float drafted
                float accepted
    ]

    /// The cell of an item whose ways these answers are, one list a way; the first way's texts are compared with self-speculation's
    /// where `isGreedy`.
    let write
        (isGreedy: bool)
        (ways: (string * int * Strategy) list)
        (item: GenerationItem)
        (answers: DecodedAnswer list list)
        : EvalScore =
        let found = List.zip ways answers
        let isDrafted (strategy: Strategy) = strategy.Drafter.IsSome
        let drafted = found |> List.tryFind (fun ((_, _, strategy), _) -> isDrafted strategy)

        let plain =
            found
            |> List.tryFind (fun ((_, _, strategy), _) -> strategy.Depth.IsNone && not (isDrafted strategy))

        let first = answers.Head

        let drafts =
            match drafted with
            | None -> []
            | Some(_, answers) ->
                numbers speculative answers
                @ speculation answers
                @ [ speculative + rounds, roundsOf answers ]
                @ match plain with
                  | Some(_, others) when isGreedy ->
                      let isSame (a: DecodedAnswer) (b: DecodedAnswer) =
                          a.Completion.TokenIds = b.Completion.TokenIds
                      [
                          sameText, List.map2 (fun a b -> if isSame a b then 1.0 else 0.0) answers others
                      ]
                  | _ -> []

        {
            Item = {
                Numbers =
                    [
                        promptTokens, first |> List.map (_.PromptTokens >> float)
                        cutTokens, first |> List.map (_.CutTokens >> float)
                    ]
                    @ drafts
                Texts = [ id, item.Id; category, item.Category ]
            }
            Exits = [
                for (_, layers, strategy), answers in found do
                    if not (isDrafted strategy) then
                        layers,
                        { Numbers = numbers "" answers @ scores answers; Texts = texts strategy answers }
                    elif plain.IsNone then
                        layers, { Numbers = scores answers; Texts = texts strategy answers }
            ]
        }
