namespace LayerSkip

/// Pictures of a comparison. `about` is what was fixed: the model, the machine, the runs.
[<RequireQualifiedAccess>]
module ComparisonPlots =
    /// How many times as fast as plain decoding each way is, over each set of texts and over all.
    let speeds (about: string) (ways: string list) (cells: ComparedCell list) : Picture =
        let sets = (cells |> List.groupBy _.Text.Set) @ [ "all", cells ]

        let ratio way cells = (Comparison.ratio Comparison.plain.Name way cells).Value
        let table = [| for way in List.rev ways -> [| for _, cells in sets -> ratio way cells |] |]

        Picture.heat
            "Speed of each way to draft, by kind of text"
            about
            "Times as fast as plain decoding, live: geometric means over texts of the ratios of medians. Blue is faster, red slower."
            ("texts", List.map fst sets)
            ("way", List.rev ways)
            {
                Values = table
                Texts = table |> Array.map (Array.map (Shown.fixedPoint 2))
                Notes = [||]
                Measure = "plain decoding's time over it (times)"
                Colours = HeatColours.Around 1.0
                Range = None
            }

    /// How much longer than the replay's oracle each way takes, text by text. `oracle`: of a text by its name, how many times as fast
    /// as plain decoding. Texts stand by the regret of the first way, the least first.
    let regret
        (about: string)
        (ways: string list)
        (oracle: Map<string, float>)
        (cells: ComparedCell list)
        : Picture =
        let regrets way =
            Comparison.ratios Comparison.plain.Name way cells
            |> Array.choose (fun (text, ratio) ->
                Map.tryFind text.Name oracle |> Option.map (fun best -> text.Name, best / ratio - 1.0))
            |> Map.ofArray

        let byWay = ways |> List.map (fun way -> way, regrets way)
        let known = byWay |> List.map (snd >> Map.keys >> set)
        let shared = if known.IsEmpty then Set.empty else Set.intersectMany known
        let places = shared |> List.ofSeq |> List.sortBy (fun text -> (snd byWay.Head)[text])

        Picture.marks
            "What each way loses to the oracle, text by text"
            about
            "How much longer a way takes than the oracle of early exits, which knows the text and drafts at each round as is best for all that follows; times as plain decoding's, the oracle's predicted by replay. Below 0 lookup found what no exit could."
            (Axis.names "text" places)
            (Axis.share "time beyond the oracle's")
            [
                yield
                    Mark.Guide("oracle of early exits", [ 0.0, 0.0; float (max 1 (places.Length - 1)), 0.0 ])
                for way, regrets in byWay do
                    yield
                        Mark.Dots(
                            way,
                            places
                            |> List.mapi (fun place text -> {
                                X = float place
                                Y = regrets[text]
                                Note = $"{text}\n{way}"
                            })
                        )
            ]

    /// A comparison's page.
    let all
        (about: string)
        (ways: string list)
        (oracle: Map<string, float>)
        (cells: ComparedCell list)
        : PagePart list = [
        PagePart.Drawn(regret about ways oracle cells)
        PagePart.Drawn(speeds about (cells |> List.map _.Way |> List.distinct) cells)
    ]
