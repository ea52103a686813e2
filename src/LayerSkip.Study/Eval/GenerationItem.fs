namespace LayerSkip

/// What an answer is compared with.
[<RequireQualifiedAccess>]
type Scorer =
    /// With nothing: there is no reference, only acceptance and speed.
    | Unscored
    /// With texts, of which the one that is nearest counts: exact match, edit distance, ROUGE.
    | Text of references: string list
    /// The number in it with one: GSM8K's.
    | Number of wanted: string
    /// Between these two it is a Python program, which passes where it runs to its end.
    | Program of before: string * after: string

/// A prompt and what its answer is compared with. After the first turn the prompt goes on from the answer before it.
type Turn = { Prompt: string; Scorer: Scorer }

/// A question, with those that follow it.
type GenerationItem = {
    /// As its file has it.
    Id: string
    /// Reports tell of each apart.
    Category: string
    Turns: Turn list
}

/// What a file holds of a question.
type internal Question = {
    Item: GenerationItem
    /// It and its answer, as they stand before another question; None where it has no answer.
    Example: string option
}

[<RequireQualifiedAccess>]
module GenerationItem =
    /// With a text before its first turn.
    let after (text: string) (item: GenerationItem) : GenerationItem =
        match item.Turns with
        | [] -> item
        | first :: rest -> { item with Turns = { first with Prompt = text + first.Prompt } :: rest }

    /// In turn one of each category, as long as they last: so that the first few are of all.
    let interleaved (items: GenerationItem list) : GenerationItem list =
        items
        |> List.groupBy _.Category
        |> List.collect (snd >> List.indexed)
        |> List.sortBy fst
        |> List.map snd
