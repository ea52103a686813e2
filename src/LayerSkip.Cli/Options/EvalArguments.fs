namespace LayerSkip.Cli

open Argu
open LayerSkip

/// The options of `layerskip eval`, and what its manual says of them.
[<RequireQualifiedAccess>]
type internal EvalArgument =
    | [<Unique; EqualsAssignmentOrSpaced>] Task of name: string
    | [<EqualsAssignmentOrSpaced>] Data of file: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--exit-layers")>] ExitLayers of layers: string
    | [<Unique; EqualsAssignmentOrSpaced>] Limit of n: int
    | [<Unique; EqualsAssignmentOrSpaced>] Shots of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--shots-from")>] ShotsFrom of file: string
    | [<Unique>] Documents
    | [<Unique; EqualsAssignmentOrSpaced>] Window of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--max-chars")>] MaxChars of n: int
    | [<Unique; EqualsAssignmentOrSpaced>] Shard of part: string
    | [<Unique; EqualsAssignmentOrSpaced>] Output of file: string

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Task _ ->
                let tasks = EvalTasks.all |> List.map (fun task -> $"{task.Name}: {task.About}.")
                $"""what is evaluated. {String.concat " " tasks}"""
            | Data _ -> "a file of items, in the form that the task reads; may be given several times."
            | ExitLayers _ ->
                "the exit layers to evaluate, as 1,2,12, where the last one is the whole model (default: every layer, or what the task says)."
            | Limit _ -> "the most items, from the first on (default: all)."
            | Shots _ -> "how many examples with their answers stand before each question (default 0)."
            | ShotsFrom _ ->
                "the file that examples are drawn from by --seed, in the same form (default: the other items)."
            | Documents ->
                "of texts parted by <|endoftext|>, or of .jsonl, each is read on its own (default: windows over each file's whole text, with a newline for <|endoftext|>)."
            | Window _ ->
                "the most tokens that are read at once (default 512; with --documents the context), which the model's context bounds."
            | MaxChars _ -> "reads the first so many characters of each file (default: all)."
            | Shard _ ->
                "computes the part i of n of the items, as 2/4; `layerskip merge` joins the parts' files (default 1/1)."
            | Output _ ->
                "writes each item's result to this file, a line of JSON each. A run that was stopped goes on where its file ends."

/// The options of `layerskip merge`, and what its manual says of them.
[<RequireQualifiedAccess>]
type internal MergeArgument =
    | [<MainCommand>] Files of file: string list
    | [<Unique; EqualsAssignmentOrSpaced>] Output of file: string

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Files _ -> "the files that the shards of one run wrote, each once, in any order."
            | Output _ -> "also writes the whole run to this file, as one process would have."
