namespace LayerSkip

open System.Text.Json

/// Multiple choice by log-likelihood at every exit layer: the option that the model finds the most probable is its answer.
[<RequireQualifiedAccess>]
module MultipleChoice =
    // What scores and summary share.
    let private gold, options, bytes, tokens = "gold", "options", "bytes", "tokens"
    let private logLikelihood = "loglikelihood"
    let private cut, leftOut = "cut", "left_out"

    /// ln p of each prompt's continuation at each exit: [exit][prompt]. All exits in one pass, what the prompts share in one
    /// cache.
    let internal likelihoods
        (weights: Weights)
        (exits: int list)
        (prompts: ChoiceIds list)
        : (int * float list) list =
        let shared = ChoiceIds.shared prompts
        let longest = prompts |> List.map (fun prompt -> prompt.Ids.Length - 1) |> List.max
        let cache = Cache.create weights weights.Config.Layers longest
        use _slab = cache.Slab

        let read cache (prompt: ChoiceIds) =
            let last = prompt.Ids.Length - 1
            let targets = prompt.Ids[prompt.Ids.Length - prompt.Scored ..]

            let struct (rows, after) =
                Likelihood.read weights exits targets prompt.Ids[shared .. last - 1] cache

            List.map (snd >> Likelihood.sum) rows, Cache.truncate shared after

        let front =
            if shared = 0 then
                cache
            else
                let struct (_, read) = Model.forward weights 1 prompts.Head.Ids[.. shared - 1] cache
                read

        List.mapFold read front prompts |> fst |> List.transpose |> List.zip exits

    let private score
        (checkpoint: Checkpoint)
        (encode: string -> int[])
        (exits: int list)
        (template: ChoiceTemplate)
        (examples: string list)
        (asked: ChoiceQuestion)
        : EvalScore =
        let context = checkpoint.Config.Context

        let prompts =
            template.Prompts asked
            |> List.map (ChoiceTemplate.withExamples examples >> ChoiceIds.encode encode context)

        let ofItem = [
            gold, [ float asked.Answer ]
            options, [ float asked.Options.Length ]

            if template.Continues then
                bytes, asked.Options |> List.map (ChoiceTemplate.bytes >> float)
        ]

        match Check.every prompts with
        | None -> { Item = EvalFields.ofNumbers (ofItem @ [ leftOut, [ 1.0 ] ]); Exits = [] }
        | Some prompts -> {
            Item =
                EvalFields.ofNumbers (
                    ofItem
                    @ [
                        tokens, prompts |> List.map (_.Scored >> float)
                        cut, [ (if List.exists _.IsCut prompts then 1.0 else 0.0) ]
                    ]
                )
            Exits =
                likelihoods checkpoint.Weights exits prompts
                |> List.map (fun (exit, values) -> exit, EvalFields.ofNumbers [ logLikelihood, values ])
          }

    /// The index of the largest; of equal ones the first.
    let private best (values: float list) : int = values |> List.indexed |> List.maxBy snd |> fst

    /// acc: the share of questions whose right option has the largest log-likelihood; acc_norm: the largest one for each
    /// of the option's bytes.
    let private sum (scores: EvalScore list) : EvalSummary =
        let count name =
            scores
            |> List.filter (fun score -> EvalFields.number name score.Item > 0.0)
            |> List.length
        let scored = scores |> List.filter (fun score -> not score.Exits.IsEmpty)
        let exits = EvalScore.exits scored

        let right exit (value: EvalFields -> float list -> float list) =
            scored
            |> List.filter (fun score ->
                let found =
                    List.find (fst >> (=) exit) score.Exits |> snd |> EvalFields.numbers logLikelihood
                best (value score.Item found) = int (EvalFields.number gold score.Item))
            |> List.length

        let isNormed = scored |> List.forall (fun score -> not (EvalFields.numbers bytes score.Item).IsEmpty)

        let metrics exit = [
            EvalMetric.share "acc" (right exit (fun _ found -> found)) scored.Length

            if isNormed then
                let normed item found = List.map2 (/) found (EvalFields.numbers bytes item)
                EvalMetric.share "acc_norm" (right exit normed) scored.Length
        ]

        let many count what = [
            if count > 0 then
                $"{count} {what}"
        ]

        {
            Counts = [ "questions", scored.Length; cut, count cut; leftOut, count leftOut ]
            Chance =
                if scored.IsEmpty then
                    None
                else
                    // By numbers of options, so that a fifth is 0.2 whatever the number of questions.
                    scored
                    |> List.countBy (fun score -> EvalFields.number options score.Item)
                    |> List.sumBy (fun (options, count) -> float count / options)
                    |> fun right -> Some(right / float scored.Length)
            Exits = exits |> List.map (fun exit -> exit, metrics exit)
            Groups = []
            Remarks =
                many (count cut) "questions are cut from the left to the model's context"
                @ many
                    (count leftOut)
                    "questions have an answer longer than the model's context and are left out"
        }

    /// `count` of the questions, drawn without the one that is asked: each question its own, the same whatever shard asks it.
    let private draw (seed: int64) (count: int) (own: int option) (index: int) (pool: ChoiceQuestion[]) =
        let candidates = [|
            for at in 0 .. pool.Length - 1 do
                if own <> Some at then
                    at
        |]

        let mutable key = Key.ofSeed seed |> Key.within index

        // Fisher and Yates, as far as it is needed.
        for at in 0 .. count - 1 do
            let struct (u, next) = Key.uniform key
            key <- next
            let other = at + int (u * float (candidates.Length - at))
            let held = candidates[at]
            candidates[at] <- candidates[other]
            candidates[other] <- held

        [ for at in 0 .. count - 1 -> pool[candidates[at]] ]

    let private unread (path: string) (file: ChoiceFile) =
        match file.Unread with
        | [] -> []
        | places ->
            let shown = String.concat ", " (List.truncate 5 places)
            let more = if places.Length > 5 then ", .." else ""
            [
                $"{places.Length} of {file.Questions.Length + places.Length} objects of {Fingerprint.name path} are of another form and not read: {shown}{more}"
            ]

    let private prepare
        (forms: ChoiceForm list)
        (template: ChoiceTemplate)
        (checkpoint: Checkpoint)
        (options: EvalOptions)
        : Result<EvalWork, LayerSkipError list> =
        let files = options.Data |> List.map (ChoiceFile.read forms) |> Check.list
        let shots = options.ShotsFrom |> Option.toList |> List.map (ChoiceFile.read forms) |> Check.list

        Check.both (Checkpoint.tokenizer checkpoint) (Check.both files shots)
        |> Result.bind (fun (tokenizer, (files, shots)) ->
            let questions = files |> List.map _.Questions |> Array.concat
            let pool = if shots.IsEmpty then questions else shots.Head.Questions
            let most = if shots.IsEmpty then pool.Length - 1 else pool.Length
            let count = defaultArg options.Shots 0
            let exits = EvalOptions.exitLayers [ 1 .. checkpoint.Config.Layers ] options
            let encode = EvalOptions.encode tokenizer options

            let examples index =
                let own = if shots.IsEmpty then Some index else None

                draw options.Seed count own index pool |> List.map (ChoiceTemplate.example template)

            let settings (json: Utf8JsonWriter) =
                json.WriteBoolean("no_bos", options.NoBos)
                json.WriteNumber("shots", count)
                options.ShotsFrom
                |> Option.iter (fun path -> json.WriteString("shots_from", Fingerprint.name path))

            Check.all
                (Check.inRange
                    (count <= most)
                    "shots"
                    (string count)
                    $"0 to {most}, the other questions that there are")
                {
                    Items = questions.Length
                    Settings = settings
                    Score =
                        fun index -> score checkpoint encode exits template (examples index) questions[index]
                    ExitLayers = exits
                    Files =
                        List.collect _.Labels files
                        @ Option.toList options.ShotsFrom
                        @ List.collect _.Labels shots
                    Remarks = List.map2 unread options.Data files |> List.concat
                })

    /// The task that reads questions of these forms and asks them so.
    let internal task
        (name: string)
        (about: string)
        (forms: ChoiceForm list)
        (template: ChoiceTemplate)
        : EvalTask = {
        Name = name
        About = about
        Takes = [ "shots"; "shots-from"; "no-bos" ]
        Prepare = prepare forms template
        Sum = sum
    }
