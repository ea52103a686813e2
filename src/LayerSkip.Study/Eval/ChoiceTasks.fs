namespace LayerSkip

/// A set of questions: the forms that its files have, and lm-evaluation-harness's template for it, under its name there.
[<NoEquality; NoComparison>]
type internal ChoiceSet = { Name: string; About: string; Forms: ChoiceForm list; Template: ChoiceTemplate }

/// The tasks of multiple choice.
[<RequireQualifiedAccess>]
module ChoiceTasks =
    let private answers = [
        ChoiceForm.ofInstruction "Please choose the correct answer to the question: " "Answer" " "
    ]

    let private solutions =
        ChoiceForm.ofInstruction "Please choose the correct solution to the question: " "Solution" "\n\n"

    let private gaps =
        ChoiceForm.ofInstruction
            "Please choose the correct answer to fill in the blank to complete the given sentence: "
            "Option"
            " "
        |> ChoiceForm.withGap

    let internal sets: ChoiceSet list = [
        {
            Name = "piqa"
            About = "PIQA, everyday problems (valid.jsonl with valid-labels.lst, or piqa.test.json)"
            Forms = [ ChoiceForm.ofPiqa; solutions ]
            Template = ChoiceTemplate.questionAnswer
        }
        {
            Name = "boolq"
            About = "BoolQ without its passages (boolq.test.json)"
            Forms = [ ChoiceForm.ofTrueFalse ]
            Template = ChoiceTemplate.after (fun question -> $"Question: {question}?\nAnswer:")
        }
        {
            Name = "social_iqa"
            About = "Social IQa (social_i_qa.test.json)"
            Forms = answers
            Template = ChoiceTemplate.after (fun question -> $"Q: {question}\nA:")
        }
        {
            Name = "winogrande"
            About = "WinoGrande, gaps in sentences (winogrande.test.json)"
            Forms = [ gaps ]
            Template = ChoiceTemplate.gap
        }
        {
            Name = "arc_easy"
            About = "ARC, easy questions (ARC-Easy.test.json)"
            Forms = answers
            Template = ChoiceTemplate.questionAnswer
        }
        {
            Name = "arc_challenge"
            About = "ARC, hard questions (ARC-Challenge.test.json)"
            Forms = answers
            Template = ChoiceTemplate.questionAnswer
        }
        {
            Name = "openbookqa"
            About = "OpenBookQA without its facts (openbookqa.test.json)"
            Forms = answers
            Template = ChoiceTemplate.after id
        }
        {
            Name = "mathqa"
            About = "MathQA (mathqa.test.json)"
            Forms = [ ChoiceForm.ofLetters ]
            Template = ChoiceTemplate.questionAnswer
        }
    ]

    /// A task for each set.
    let all: EvalTask list =
        sets
        |> List.map (fun set -> MultipleChoice.task set.Name set.About set.Forms set.Template)
