namespace LayerSkip.Cli

open Argu
open LayerSkip

/// The options of `layerskip replay`.
[<RequireQualifiedAccess>]
type internal ReplayArgument =
    | [<Unique; EqualsAssignmentOrSpaced>] Prompt of text: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--prompt-ids")>] PromptIds of ids: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--prompt-file")>] PromptFile of file: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--exit-layers")>] ExitLayers of layers: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--draft-lengths")>] DraftLengths of
        lengths: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--max-new-tokens")>] MaxNewTokens of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--stop-ids")>] StopIds of ids: string
    | [<Unique; CustomCommandLine("--ignore-eos")>] IgnoreEos
    | [<Unique; EqualsAssignmentOrSpaced>] Trace of file: string
    | [<Unique; EqualsAssignmentOrSpaced>] Html of file: string
    | [<Unique; EqualsAssignmentOrSpaced>] Output of file: string

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Prompt _ ->
                "the text to continue; an empty one is the tokenizer's beginning-of-text token. Write --prompt=TEXT for a text that looks like an option."
            | PromptIds _ -> "the token ids to continue, as 1,2,3; instead of --prompt."
            | PromptFile _ -> "a UTF-8 file whose whole text is continued; instead of --prompt."
            | ExitLayers _ -> "the exit layers to replay, as 1,2 (default: all, 1 to L-1)."
            | DraftLengths _ -> "the draft lengths to replay, as 1,4 (default: 1 to 8)."
            | MaxNewTokens _ ->
                $"the most new tokens, 1 or more (default {GenerationOptions.defaults.MaxNewTokens}); a full context ends the text sooner."
            | StopIds _ -> "ends the text at these token ids, as 1,2 (default: the model's end-of-text ids)."
            | IgnoreEos -> "does not stop at the model's end-of-text ids."
            | Trace _ ->
                "also writes the trace to this file, in JSON: what every layer would have said at every position."
            | Html _ ->
                "also writes a page to this file: the surface as a heat-map, where exits agree, and what policies lose."
            | Output _ -> "also writes the table (the object with --json) to this file."
