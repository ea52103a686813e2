namespace LayerSkip

/// What cells of generated answers come to.
[<RequireQualifiedAccess>]
module internal GenerationSummary =
    let private textOf (name: string) (fields: EvalFields) =
        fields.Texts |> List.tryFind (fst >> (=) name) |> Option.map snd |> Option.defaultValue ""

    let private text (name: string) (score: EvalScore) = textOf name score.Item

    /// A list of the item's own fields, or of those at an exit.
    let private own name (score: EvalScore) = EvalFields.numbers name score.Item
    let private at exit name (score: EvalScore) =
        score
        |> EvalScore.tryExit exit
        |> Option.map (EvalFields.numbers name)
        |> Option.defaultValue []

    /// Tokens after the first, and their time, of each text.
    let private times prefix (numbers: string -> float list) : TextTime list =
        List.map2
            (fun tokens ms -> TextTime.ofText (int tokens) ms)
            (numbers (prefix + GenerationCell.tokens))
            (numbers (prefix + GenerationCell.decodeMs))

    let private average (values: float list) = if values.IsEmpty then nan else List.average values

    let private rate way prefix (texts: (string -> float list) list) : DecodingRate option =
        let all name = texts |> List.collect (fun numbers -> numbers (prefix + name))
        let timed = texts |> List.collect (times prefix) |> List.filter TextTime.isTimed

        if (all GenerationCell.tokens).IsEmpty then
            None
        else
            Some {
                Way = way
                Tokens = int (List.sum (all GenerationCell.tokens))
                TtftMs = average (all GenerationCell.ttftMs)
                MsPerToken = timed |> List.map _.MsPerToken |> average
                TokensPerSecond = timed |> List.map _.TokensPerSecond |> average
            }

    /// The mean; of values that are all 0 or 1 it is a share, whose interval has a width where all are the same, too.
    let private mean (name: string) (values: float list) : EvalMetric =
        if values |> List.forall (fun value -> value = 0.0 || value = 1.0) then
            EvalMetric.share name (int (List.sum values)) values.Length
        else
            EvalMetric.mean name values

    /// pass@1, pass@10 and pass@100, as far as there are samples; the reference's own choice of k.
    let private passes (samples: float list list) : EvalMetric list =
        let least = samples |> List.map List.length |> List.min

        [
            for k in [ 1; 10; 100 ] do
                if k <= least then
                    samples
                    |> List.map (fun found -> Answers.passAt k found.Length (int (List.sum found)))
                    |> mean $"pass@{k}"
        ]

    /// Means over items, whose own numbers are means over turns and samples.
    let private metrics exit (scores: EvalScore list) : EvalMetric list = [
        for name in GenerationScore.names do
            match scores |> List.map (at exit name) |> List.filter (List.isEmpty >> not) with
            | [] -> ()
            | found when name = GenerationScore.passed -> yield! passes found
            | found -> found |> List.map List.average |> mean name
    ]

    /// An exit, as it stands in all scores, with the name of the strategy that wrote its texts.
    let private exitsOf (scores: EvalScore list) : (int * string) list =
        scores
        |> List.collect _.Exits
        |> List.map (fun (exit, fields) -> exit, textOf GenerationCell.way fields)
        |> List.distinctBy fst
        |> List.sortDescending

    let private wayOf (exit: int) (name: string) =
        if name = Strategy.Autoregressive.Name then
            name
        else
            $"{name} {exit}"

    let private isScored exits (score: EvalScore) =
        exits
        |> List.exists (fun (exit, _) ->
            GenerationScore.names |> List.exists (fun name -> not (at exit name score).IsEmpty))

    let private speedUp key plain (scores: EvalScore list) : SpeedUp option =
        let together = List.fold TextTime.add TextTime.none

        let pairs =
            scores
            |> List.map (fun score ->
                together (times "" (fun name -> at plain name score)),
                together (times GenerationCell.speculative (fun name -> own name score)))

        Some(SpeedUp.paired key (Array.ofList pairs))
        |> Option.filter (fun found -> found.Texts > 0)

    let private roundsOf (score: EvalScore) =
        own (GenerationCell.speculative + GenerationCell.rounds) score
        |> List.chunkBySize 2
        |> List.map (fun pair -> int pair[0], int pair[1])

    let private group key (name: string) (scores: EvalScore list) : EvalGroup =
        let exits = exitsOf scores

        let speculated =
            scores
            |> List.map (fun score name -> own name score)
            |> rate "self-speculative" GenerationCell.speculative

        let same = scores |> List.collect (own GenerationCell.sameText)

        {
            Name = name
            Items = scores.Length
            Scored = scores |> List.filter (isScored exits) |> List.length
            Exits = exits |> List.map (fun (exit, _) -> exit, metrics exit scores) |> List.rev
            Rates = [
                for exit, name in exits do
                    yield!
                        scores
                        |> List.map (fun score name -> at exit name score)
                        |> rate (wayOf exit name) ""
                        |> Option.toList
                yield! Option.toList speculated
            ]
            Speculation =
                speculated
                |> Option.map (fun _ -> scores |> Seq.collect roundsOf |> SpeculationMetrics.ofRounds)
            SpeedUp =
                exits
                |> List.tryFind (snd >> (=) Strategy.Autoregressive.Name)
                |> Option.bind (fun (plain, _) -> speedUp key plain scores)
            Compared = same.Length
            Different = same |> List.filter ((=) 0.0) |> List.length
        }

    /// By category, where there are several, and of all.
    let sum (scores: EvalScore list) : EvalSummary =
        let key = Key.ofSeed 0L
        let categories = scores |> List.groupBy (text GenerationCell.category)
        let all = group key "all" scores

        let cut = scores |> List.collect (own GenerationCell.cutTokens) |> List.filter ((<) 0.0)

        {
            Counts = [
                "scored", all.Scored
                "cut", cut.Length
                "cut_tokens", int (List.sum cut)
                "compared", all.Compared
                "different", all.Different
            ]
            Chance = None
            Exits = all.Exits
            Groups = [
                if categories.Length > 1 then
                    for name, scores in categories do
                        group key name scores
                all
            ]
            Remarks = [
                if not cut.IsEmpty then
                    $"{cut.Length} prompts are longer than the model's context leaves room for; {int (List.sum cut)} tokens were cut from their left ends"
                if all.Scored < scores.Length then
                    $"{scores.Length - all.Scored} items have no reference: of them only acceptance and speed are told"
                if all.Different > 0 then
                    $"{all.Different} of {all.Compared} texts of self-speculation differ from the plain ones, which must not happen; please report it"
            ]
        }
