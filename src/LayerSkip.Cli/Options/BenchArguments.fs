namespace LayerSkip.Cli

open Argu
open LayerSkip

/// The options of `layerskip bench`, and what its manual says of them.
[<RequireQualifiedAccess>]
type internal BenchArgument =
    | [<Unique; EqualsAssignmentOrSpaced>] Runs of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--exit-layer")>] ExitLayer of e: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--draft-length")>] DraftLength of d: int
    | [<Unique; EqualsAssignmentOrSpaced>] Drafter of DrafterKind
    | [<Unique; EqualsAssignmentOrSpaced>] Policy of DraftPolicyKind
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--stop-rule")>] StopRule of rule: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--draft-vocabulary")>] DraftVocabulary of
        ids: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--layers-kept")>] LayersKept of layers: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--adapter-file")>] AdapterFile of file: string
    | [<EqualsAssignmentOrSpaced; CustomCommandLine("--past-texts")>] PastTexts of path: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--max-new-tokens")>] MaxNewTokens of n: int
    | [<Unique; EqualsAssignmentOrSpaced>] Shape of sizes: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--accept-rate")>] AcceptRate of a: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--identity-after")>] IdentityAfter of e: int
    | [<Unique>] Requests
    | [<Unique; EqualsAssignmentOrSpaced>] Output of file: string
    | [<Unique; EqualsAssignmentOrSpaced>] Html of file: string

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Runs _ -> $"timed runs of each strategy, interleaved (default {Benchmark.defaultRuns})."
            | ExitLayer _ ->
                "the layer E to leave after, 1 to L-1 (default: the model's recommendation, else a third of its layers)."
            | DraftLength _ ->
                $"the most tokens that a round drafts, 1 or more (default: the model's recommendation, else {LlamaConfig.defaultDraft})."
            | Drafter _ -> DraftingArguments.drafter
            | Policy _ -> DraftingArguments.policy
            | StopRule _ -> DraftingArguments.stopRule
            | DraftVocabulary _ -> DraftingArguments.draftVocabulary
            | LayersKept _ -> DraftingArguments.layersKept
            | AdapterFile _ -> DraftingArguments.adapterFile
            | PastTexts _ -> DraftingArguments.pastTexts
            | MaxNewTokens _ ->
                $"new tokens of each run, 2 or more (default {Benchmark.defaultNewTokens}); end-of-text is ignored."
            | Shape _ ->
                "instead of a model, seeded random 16-bit weights: hidden=..,layers=..,heads=..,kv-heads=..,intermediate=..,vocab=..[,tied=0]."
            | AcceptRate _ ->
                "drafts as always, then puts a token in its place that is right with this probability, 0 to 1."
            | IdentityAfter _ ->
                "makes the layers after this one add nothing, at the same cost: every draft from there is accepted."
            | Requests ->
                "instead of the table, answers requests on standard input in JSON, a line each: decode N, speculate N, rows R TIMES, prefill N, bandwidth."
            | Output _ -> "also writes the table (the object with --json) to this file."
            | Html _ -> "also writes a page to this file: where time goes, passes by rows, drafts kept."
