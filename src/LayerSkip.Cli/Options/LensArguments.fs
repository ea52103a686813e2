namespace LayerSkip.Cli

open Argu
open LayerSkip

/// The options of `layerskip lens`, and what its manual says of them.
[<RequireQualifiedAccess>]
type internal LensArgument =
    | [<Unique; EqualsAssignmentOrSpaced>] Prompt of text: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--prompt-ids")>] PromptIds of ids: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--prompt-file")>] PromptFile of file: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--top-k")>] TopK of k: int
    | [<Unique; EqualsAssignmentOrSpaced>] Layers of layers: string
    | [<Unique>] Logits
    | [<Unique; EqualsAssignmentOrSpaced>] Html of file: string
    | [<Unique; EqualsAssignmentOrSpaced>] Output of file: string

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Prompt _ ->
                "the text to look at; an empty one is the tokenizer's beginning-of-text token. Write --prompt=TEXT for a text that looks like an option."
            | PromptIds _ -> "the token ids to look at, as 1,2,3; instead of --prompt."
            | PromptFile _ -> "a UTF-8 file whose whole text is looked at; instead of --prompt."
            | TopK _ ->
                $"how many of the most probable tokens are told of each layer and position (default {Lens.options.TopK})."
            | Layers _ ->
                "the layers to show, from 1, as 1,2,8 (default: all); the last one always is. All are computed: the settled layer is of all."
            | Logits ->
                "adds the logits after every layer at the last position to the object of --json: exit_logits, [layer][vocabulary]."
            | Html _ ->
                "also writes a page to this file: layers by tokens, to hover over, coloured by probability, KL, rank or entropy."
            | Output _ -> "also writes the table (the object with --json) to this file."
