namespace LayerSkip

open System
open System.Text.Json
open System.Text.RegularExpressions

/// A question with its possible answers, as a file has it.
type ChoiceQuestion = {
    /// The sentence with a gap where options fill one.
    Question: string
    /// In the order of the file.
    Options: string list
    /// The right one, counted from 0.
    Answer: int
}

/// How a file writes its questions, and what stands there instead.
[<NoEquality; NoComparison>]
type internal ChoiceForm = {
    /// For messages: what an object must be.
    Wanted: string
    /// The question of an object, and of the label that a file beside it has for it; None where it is of another form.
    TryRead: int option -> JsonElement -> ChoiceQuestion option
}

/// Forms of questions: those of LLM-Adapters (arXiv 2304.01933: one instruction that holds question and options, and the
/// right option's name), and PIQA's own.
[<RequireQualifiedAccess>]
module internal ChoiceForm =
    let private text (name: string) (root: JsonElement) : string option =
        match root.TryGetProperty name with
        | true, value when value.ValueKind = JsonValueKind.String -> Some(value.GetString())
        | _ -> None

    /// Options must say something, and one of them be right.
    let private question (question: string) (options: string list) (answer: int) : ChoiceQuestion option =
        let isText (text: string) = not (String.IsNullOrWhiteSpace text)

        if
            isText question
            && options.Length > 1
            && List.forall isText options
            && 0 <= answer
            && answer < options.Length
        then
            Some { Question = question; Options = options; Answer = answer }
        else
            None

    /// What stands between marks that follow one another: the text before the first, and after each. None unless each mark
    /// is there, once, in this order.
    let private between (marks: string list) (text: string) : string list option =
        let step (parts: (string list * string) option) (mark: string) =
            match parts with
            | None -> None
            | Some(before, rest) ->
                match rest.IndexOf(mark, StringComparison.Ordinal) with
                | -1 -> None
                | at -> Some(rest[.. at - 1] :: before, rest[at + mark.Length ..])

        marks
        |> List.fold step (Some([], text))
        |> Option.map (fun (before, rest) -> List.rev (rest :: before))

    let private instructed (read: string -> string -> ChoiceQuestion option) _ (root: JsonElement) =
        match text "instruction" root, text "answer" root with
        | Some instruction, Some answer -> read instruction answer
        | _ -> None

    /// An instruction with options "Answer1: .. Answer2: ..": `opening` stands before the question, `name` is the options',
    /// `gap` between them.
    let ofInstruction (opening: string) (name: string) (gap: string) : ChoiceForm =
        let format = "Answer format: "
        let lower = name.ToLowerInvariant()

        let read (instruction: string) (answer: string) =
            // How many options there are is said at the end: answer1/answer2/answer3.
            match instruction.LastIndexOf(format, StringComparison.Ordinal) with
            | at when at > 0 && instruction.StartsWith(opening, StringComparison.Ordinal) ->
                let names = List.ofArray (instruction[at + format.Length ..].Split '/')
                let expected = [ for number in 1 .. names.Length -> $"{lower}{number}" ]
                let body = instruction[opening.Length .. at - 1]

                let marks = [
                    for number in 1 .. names.Length do
                        (if number = 1 then "\n\n" else gap) + $"{name}{number}: "
                ]

                // Two blank lines part the last option from the format, but a space does where all stand on one line.
                let ended (option: string) =
                    if option.EndsWith("\n\n", StringComparison.Ordinal) then
                        option[.. option.Length - 3]
                    elif option.EndsWith ' ' then
                        option[.. option.Length - 2]
                    else
                        option

                match between marks body with
                | Some(asked :: options) when names = expected ->
                    let last = options.Length - 1
                    let options =
                        options |> List.mapi (fun i option -> if i = last then ended option else option)

                    List.tryFindIndex ((=) answer) names |> Option.bind (question asked options)
                | _ -> None
            | _ -> None

        {
            Wanted = $"\"instruction\" ({opening}.. {name}1: .. {format}{lower}1/..) and \"answer\""
            TryRead = instructed read
        }

    /// The same, for sentences with one gap: `_`.
    let withGap (form: ChoiceForm) : ChoiceForm =
        let hasGap (asked: ChoiceQuestion) = asked.Question.Split('_').Length = 2

        { form with TryRead = fun label root -> form.TryRead label root |> Option.filter hasGap }

    /// A question to say true or false to; options in the order of the reference: no, yes.
    let ofTrueFalse: ChoiceForm =
        let opening = "Please answer the following question with true or false, question: "
        let ending = "?\n\nAnswer format: true/false"

        let read (instruction: string) (answer: string) =
            if
                instruction.StartsWith(opening, StringComparison.Ordinal)
                && instruction.EndsWith(ending, StringComparison.Ordinal)
            then
                let asked = instruction[opening.Length .. instruction.Length - ending.Length - 1]

                List.tryFindIndex ((=) answer) [ "false"; "true" ]
                |> Option.bind (question asked [ "no"; "yes" ])
            else
                None

        {
            Wanted =
                "\"instruction\" (Please answer the following question with true or false, ..) and \"answer\""
            TryRead = instructed read
        }

    // "A ) 38 , B ) 27.675 , C ) .."; some have them as a list of Python: ['A ) 38', 'B ) ..'].
    let private letters =
        Regex
            @"^\[?'?A \) (?<o>.*?)'? ?, '?B \) (?<o>.*?)'? ?, '?C \) (?<o>.*?)'? ?, '?D \) (?<o>.*?)'? ?, '?E \) (?<o>.*?)'?\]?$"

    /// A problem, "The options: A ) .. , B ) ..", and the right one's letter.
    let ofLetters: ChoiceForm =
        let mark = " The options: "

        let read (instruction: string) (answer: string) =
            match instruction.LastIndexOf(mark, StringComparison.Ordinal) with
            | -1 -> None
            | at ->
                let found = letters.Match instruction[at + mark.Length ..]

                if found.Success then
                    let options = [ for option in found.Groups["o"].Captures -> option.Value.Trim() ]

                    List.tryFindIndex ((=) answer) [ "A"; "B"; "C"; "D"; "E" ]
                    |> Option.bind (question instruction[.. at - 1] options)
                else
                    None

        {
            Wanted = "\"instruction\" (.. The options: A ) .. , B ) .. to E) and \"answer\" (A to E)"
            TryRead = instructed read
        }

    /// PIQA's own objects, whose right solution stands in a file of labels, or in the object.
    let ofPiqa: ChoiceForm =
        let labelOf (root: JsonElement) =
            match root.TryGetProperty "label" with
            | true, label when label.ValueKind = JsonValueKind.Number && fst (label.TryGetInt32()) ->
                Some(label.GetInt32())
            | _ -> None

        {
            Wanted =
                "\"goal\", \"sol1\" and \"sol2\", with labels (0 or 1) in NAME-labels.lst beside NAME.jsonl"
            TryRead =
                fun label root ->
                    match text "goal" root, text "sol1" root, text "sol2" root with
                    | Some goal, Some first, Some second ->
                        label |> Option.orElse (labelOf root) |> Option.bind (question goal [ first; second ])
                    | _ -> None
        }
