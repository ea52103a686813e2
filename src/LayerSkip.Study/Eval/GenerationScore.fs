namespace LayerSkip

/// What an answer is worth: numbers by name, 0 to 1 but for the edit distance; of a program how it ended.
type internal AnswerScore = { Numbers: (string * float) list; Verdict: Verdict option }

[<RequireQualifiedAccess>]
module internal GenerationScore =
    let private one (holds: bool) = if holds then 1.0 else 0.0

    let none: AnswerScore = { Numbers = []; Verdict = None }

    let private ofText (references: string list) (answer: string) =
        let best choose (compare: string -> float) = references |> List.map compare |> choose
        let distance (reference: string) = float (Answers.editDistance (reference.Trim()) (answer.Trim()))

        [
            "exact_match", best List.max (fun reference -> one (Answers.isSame reference answer))
            "edit_distance", best List.min distance
            "rouge1", best List.max (fun reference -> (Rouge.ngrams 1 reference answer).F1)
            "rouge2", best List.max (fun reference -> (Rouge.ngrams 2 reference answer).F1)
            "rougeL", best List.max (fun reference -> (Rouge.longest reference answer).F1)
            "rougeLsum", best List.max (fun reference -> (Rouge.longestBySentence reference answer).F1)
        ]

    let private ofNumber (wanted: string) (answer: string) = [
        "strict_match", one (Answers.isNumber wanted (Answers.strict answer))
        "flexible_extract", one (Answers.isNumber wanted (Answers.flexible answer))
    ]

    /// Whether a program passes; the samples of an item make pass@k of it.
    let passed = "passed"

    /// All numbers that an answer can have, in the order in which reports tell them.
    let names = [
        passed
        "strict_match"
        "flexible_extract"
        "exact_match"
        "edit_distance"
        "rouge1"
        "rouge2"
        "rougeL"
        "rougeLsum"
    ]

    /// The score of an answer; `run` runs a program.
    let ofAnswer (run: string -> Verdict) (scorer: Scorer) (answer: string) : AnswerScore =
        match scorer with
        | Scorer.Unscored -> none
        | Scorer.Text references -> { none with Numbers = ofText references answer }
        | Scorer.Number wanted -> { none with Numbers = ofNumber wanted answer }
        | Scorer.Program(before, after) ->
            let verdict = run (before + answer + after)
            { Numbers = [ passed, one verdict.IsPassed ]; Verdict = Some verdict }
