namespace LayerSkip

open System.Text.Json

/// How a text is cut into items, for perplexity.
type TextOptions = {
    /// The texts between `<|endoftext|>` are items, each on its own; else windows of a file's whole text are.
    Documents: bool
    /// The most tokens that an item reads; None: 512 for windows, the context for documents. The context where that is less.
    Window: int option
    /// Of each file the first so many characters; None: all.
    MaxChars: int option
}

/// What an evaluation is asked for.
type EvalOptions = {
    /// The files of items, in their order.
    Data: string list
    /// 1 to L, where L is the whole model; none: what the task takes by itself.
    ExitLayers: int list
    /// The most items; None: all.
    Limit: int option
    Seed: int64
    /// Examples with their answers before each question; None: as many as the task takes by itself.
    Shots: int option
    /// The file that examples are drawn from; None: the other items.
    ShotsFrom: string option
    /// No beginning-of-text token before a text, though the tokenizer puts one there.
    NoBos: bool
    Text: TextOptions
    Generation: GenerationEvalOptions
}

/// Numbers and texts by name, as the JSON of a result has them.
type EvalFields = { Numbers: (string * float list) list; Texts: (string * string) list }

/// What was found of one item, of the item itself and at each exit layer: what its task sums.
type EvalScore = { Item: EvalFields; Exits: (int * EvalFields) list }

/// What a task makes of all scores.
type EvalSummary = {
    /// By name: "items", "tokens".
    Counts: (string * int) list
    /// What guessing is worth, in the unit of the first metric.
    Chance: float option
    Exits: (int * EvalMetric list) list
    /// Of generated answers by category, with acceptance and speed; the last group is of all.
    Groups: EvalGroup list
    /// What a reader of the numbers should know: sentences.
    Remarks: string list
}

/// A task over the items of its files, ready to score each of them.
[<NoEquality; NoComparison>]
type EvalWork = {
    Items: int
    /// What decides the scores beside model, data, exits, seed and limit: fields of the run's configuration.
    Settings: Utf8JsonWriter -> unit
    /// The score of an item, counted from 0, at these exit layers, whatever was scored before: shards and resumed runs rest
    /// on it.
    Score: int -> EvalScore
    /// The exit layers of the scores, in ascending order.
    ExitLayers: int list
    /// Files that were read beside those of the data, and decide scores too.
    Files: string list
    /// What a reader of the numbers should know of the data: sentences.
    Remarks: string list
}

/// A task: how it reads its files into items, how it scores one of them at every exit, how it sums scores.
[<NoEquality; NoComparison>]
type EvalTask = {
    /// As `--task` names it.
    Name: string
    /// One sentence: what it measures on which files.
    About: string
    /// The options that it heeds beside those of every task, as they are typed: "shots".
    Takes: string list
    /// Reads the files. Errors: what is wrong with them, and options that do not fit.
    Prepare: Checkpoint -> EvalOptions -> Result<EvalWork, LayerSkipError list>
    Sum: EvalScore list -> EvalSummary
}

/// Names in scores.
[<RequireQualifiedAccess>]
module EvalFields =
    let none: EvalFields = { Numbers = []; Texts = [] }

    let ofNumbers (numbers: (string * float list) list) : EvalFields = { none with Numbers = numbers }

    /// The numbers of that name; none where there are none.
    let numbers (name: string) (fields: EvalFields) : float list =
        fields.Numbers
        |> List.tryFind (fst >> (=) name)
        |> Option.map snd
        |> Option.defaultValue []

    /// The one number of that name; 0 where there is none.
    let number (name: string) (fields: EvalFields) : float =
        numbers name fields |> List.tryHead |> Option.defaultValue 0.0

[<RequireQualifiedAccess>]
module internal EvalScore =
    /// The exit layers that any of the scores has, in ascending order.
    let exits (scores: EvalScore list) : int list =
        scores
        |> List.collect (fun score -> List.map fst score.Exits)
        |> List.distinct
        |> List.sort

    /// What was found at an exit layer.
    let tryExit (exit: int) (score: EvalScore) : EvalFields option =
        score.Exits |> List.tryFind (fst >> (=) exit) |> Option.map snd

[<RequireQualifiedAccess>]
module EvalOptions =
    /// All items of these files, at every exit that the task takes by itself, without examples.
    let ofData (data: string list) : EvalOptions = {
        Data = data
        ExitLayers = []
        Limit = None
        Seed = GenerationOptions.defaults.Seed
        Shots = None
        ShotsFrom = None
        NoBos = false
        Text = { Documents = false; Window = None; MaxChars = None }
        Generation = GenerationEvalOptions.defaults
    }

    /// Ids of a text as the model is prompted, but for `NoBos`.
    let encode (tokenizer: Tokenizer) (options: EvalOptions) : string -> int[] =
        if options.NoBos then
            Tokenizer.encodeWith false true tokenizer
        else
            Tokenizer.encode tokenizer

    /// The exit layers that are asked for, in ascending order, or those that a task takes by itself.
    let exitLayers (fallback: int list) (options: EvalOptions) : int list =
        match options.ExitLayers with
        | [] -> fallback
        | given -> given |> List.distinct |> List.sort
