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
    | [<EqualsAssignmentOrSpaced>] Strategy of StrategyName
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--exit-layer")>] ExitLayer of e: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--draft-length")>] DraftLength of d: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--max-new-tokens")>] MaxNewTokens of n: int
    | [<Unique; EqualsAssignmentOrSpaced>] Temperature of t: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--top-k")>] TopK of k: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--top-p")>] TopP of p: string
    | [<Unique; EqualsAssignmentOrSpaced>] Samples of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--stop-ids")>] StopIds of ids: string
    | [<Unique; CustomCommandLine("--ignore-eos")>] IgnoreEos
    | [<Unique; CustomCommandLine("--allow-code-execution")>] AllowCodeExecution
    | [<Unique; CustomCommandLine("--no-bos")>] NoBos
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
            | Shots _ ->
                "how many examples with their answers stand before each question (default: 0, of mbpp 3, of gsm8k 8)."
            | ShotsFrom _ ->
                "the file of examples, in the same form: drawn by --seed, before generated answers the first ones (default: the other items)."
            | Strategy _ ->
                "of generated answers: autoregressive, self-speculative or early-exit; may be given several times (default: the first two, and early-exit at the --exit-layers before the last)."
            | ExitLayer _ -> "drafts after this layer (default: the model's recommendation)."
            | DraftLength _ -> "drafts up to so many tokens a round (default: the model's recommendation)."
            | MaxNewTokens _ ->
                "the most tokens of a generated answer (default: what those who published the task took; half of the context at most)."
            | Temperature _ -> "of generated answers; 0 is greedy (default 0)."
            | TopK _ -> "samples from the k most probable tokens; 0 is all (default 0)."
            | TopP _ -> "samples from the fewest tokens that reach probability p (default 1)."
            | Samples _ ->
                "answers to each question, for pass@k; more than one needs a temperature (default 1)."
            | StopIds _ -> "token ids that end an answer, as 1,2, instead of the model's."
            | IgnoreEos -> "lets no token end an answer."
            | AllowCodeExecution ->
                "lets humaneval and mbpp run the Python that the model writes, in a process with limits."
            | NoBos ->
                "puts no beginning-of-text token before a text (default: where the tokenizer puts one before a prompt)."
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
