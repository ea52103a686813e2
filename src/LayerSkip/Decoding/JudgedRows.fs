namespace LayerSkip

/// What a round's drafter may look at when it is over.
[<RequireQualifiedAccess>]
module internal JudgedRows =
    /// What watched exits say of the last `rows` positions that every layer has read, where the whole model says `tokens`, or its best. A
    /// round's begin after `ruled`; of a prompt's the rules say nothing.
    let last
        (decoding: Decoding)
        rows
        (tokens: int[] voption)
        (ruled: RuledText option)
        (standing: Standing)
        : JudgedRow[] =
        let layers = decoding.Weights.Config.Layers
        let cache = standing.Reading.Cache
        let start = cache.Late.Length - rows
        let exits = cache.Slab.KeptLayers

        let choose =
            match tokens, ruled with
            | ValueSome tokens, Some text ->
                // Of each position as many rows as there are exits.
                TokenRules.along tokens[.. rows - 2] text
                |> Array.collect (Array.replicate exits.Length)
                |> DraftChoice.choicesUnder
            | _ -> DraftChoice.choices

        let tokens =
            match tokens with
            | ValueSome tokens -> tokens
            | ValueNone -> Model.last start rows cache |> Model.logits |> Logits.argmax

        let choices =
            if exits.Length = 0 then
                [||]
            else
                Model.kept start rows cache |> choose standing.Vocabulary

        Array.init rows (fun row ->
            let ids, confidences = Array.create layers -1, Array.zeroCreate layers
            ids[layers - 1] <- tokens[row]

            exits
            |> Array.iteri (fun index exit ->
                let struct (token, confidence) = choices[row * exits.Length + index]
                ids[exit - 1] <- token
                confidences[exit - 1] <- confidence)

            { Token = tokens[row]; Choices = ids; Confidences = confidences })
