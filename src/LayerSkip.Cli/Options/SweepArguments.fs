namespace LayerSkip.Cli

open Argu
open LayerSkip

/// The options of `layerskip sweep`.
[<RequireQualifiedAccess>]
type internal SweepArgument =
    | [<Unique; EqualsAssignmentOrSpaced>] Prompts of file: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--exit-layers")>] ExitLayers of layers: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--draft-lengths")>] DraftLengths of
        lengths: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--max-new-tokens")>] MaxNewTokens of n: int
    | [<Unique; EqualsAssignmentOrSpaced>] Runs of n: int
    | [<Unique; CustomCommandLine("--ignore-eos")>] IgnoreEos
    | [<Unique; CustomCommandLine("--stop-at-eos")>] StopAtEos
    | [<Unique; EqualsAssignmentOrSpaced>] Shard of part: string
    | [<Unique; EqualsAssignmentOrSpaced>] Report of file: string
    | [<Unique; EqualsAssignmentOrSpaced>] Output of file: string
    | [<Unique; EqualsAssignmentOrSpaced>] Csv of file: string
    | [<Unique; EqualsAssignmentOrSpaced>] Html of file: string

    interface IArgParserTemplate with
        member this.Usage =
            let usual = SweepOptions.defaults
            let list (numbers: int list) = numbers |> List.map string |> String.concat ","

            match this with
            | Prompts _ ->
                "a UTF-8 file with a prompt on each line, as ids (1,2,3) for a model without a tokenizer; or .jsonl, an object with \"prompt\" or \"turns\", of which the first counts, on each line (default: prompts of its own)."
            | ExitLayers _ ->
                "the exit layers, as 1,2 (default: 1,2,3,4,6,8,12.. and what the model recommends)."
            | DraftLengths _ ->
                $"the draft lengths, of the exits and of prompt lookup, as 1,4 (default: {list usual.DraftLengths})."
            | MaxNewTokens _ ->
                $"new tokens of each text, 2 or more (default {usual.MaxNewTokens}); a full context ends the text sooner."
            | Runs _ -> $"how often each prompt is decoded in every way (default {usual.Runs})."
            | IgnoreEos ->
                "goes on after end-of-text, so that all texts are as long and no way gains by short ones; as without it."
            | StopAtEos -> "ends texts at the model's end-of-text ids, as generate does."
            | Shard _ ->
                "computes part i of n of the prompts and runs, as 2/4: a job of an array; `layerskip merge` joins the files (default 1/1)."
            | Report _ ->
                "decodes nothing: tells what a file of --output or of `layerskip merge` holds, and writes --csv and --html of it."
            | Output _ ->
                "the file of the run, in JSON lines: a killed sweep goes on where its file ends, by the same command."
            | Csv _ -> "also writes the table to this file, as CSV."
            | Html _ -> "also writes a page to this file: the measured surface beside the cost model's."
