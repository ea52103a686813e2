namespace LayerSkip.Cli

open Argu
open LayerSkip

/// The options of `layerskip certify`, and what its manual says of them.
[<RequireQualifiedAccess>]
type internal CertifyArgument =
    | [<Unique; EqualsAssignmentOrSpaced>] Prompts of file: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--exit-layers")>] ExitLayers of layers: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--draft-lengths")>] DraftLengths of
        lengths: string
    | [<Unique; EqualsAssignmentOrSpaced>] Drafter of DrafterKind
    | [<Unique; EqualsAssignmentOrSpaced>] Policy of DraftPolicyKind
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--stop-rule")>] StopRule of rule: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--draft-vocabulary")>] DraftVocabulary of
        ids: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--layers-kept")>] LayersKept of layers: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--max-new-tokens")>] MaxNewTokens of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--adapter-file")>] AdapterFile of file: string
    | [<Unique; EqualsAssignmentOrSpaced>] Output of file: string
    | [<Unique; EqualsAssignmentOrSpaced>] Html of file: string

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Prompts _ ->
                "a UTF-8 file with a prompt on each of at most 100,000 lines, as ids (1,2,3) for a model without a tokenizer (default: prompts of its own)."
            | ExitLayers _ -> "the exit layers to check, as 1,2 (default: a grid over the model's layers)."
            | DraftLengths _ -> "the draft lengths to check, as 1,4 (default: a grid)."
            | Drafter _ -> DraftingArguments.drafter
            | Policy _ -> DraftingArguments.policy
            | StopRule _ -> DraftingArguments.stopRule
            | DraftVocabulary _ -> DraftingArguments.draftVocabulary
            | LayersKept _ -> DraftingArguments.layersKept
            | MaxNewTokens _ ->
                $"the most new tokens of each text, 1 or more (default {Certify.options.MaxNewTokens})."
            | AdapterFile _ ->
                "an adapter whose drafts are checked too, beside those of the model's own adapters."
            | Output _ -> "also writes the table (the object with --json) to this file."
            | Html _ -> "also writes a page to this file: the findings of each test, drawn."
