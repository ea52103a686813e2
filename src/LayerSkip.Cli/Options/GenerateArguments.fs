namespace LayerSkip.Cli

open Argu
open LayerSkip

/// The options of `layerskip generate`, and what its manual says of them.
[<RequireQualifiedAccess>]
type internal GenerateArgument =
    | [<Unique; EqualsAssignmentOrSpaced>] Prompt of text: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--prompt-ids")>] PromptIds of ids: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--prompt-file")>] PromptFile of file: string
    | [<Unique>] Chat
    | [<Unique; EqualsAssignmentOrSpaced>] System of text: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--max-new-tokens")>] MaxNewTokens of n: int
    | [<Unique; EqualsAssignmentOrSpaced>] Strategy of StrategyName
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
    | [<Unique; EqualsAssignmentOrSpaced>] Temperature of t: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--top-k")>] TopK of k: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--top-p")>] TopP of p: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--min-p")>] MinP of p: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--repetition-penalty")>] RepetitionPenalty of
        x: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--presence-penalty")>] PresencePenalty of
        x: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--frequency-penalty")>] FrequencyPenalty of
        x: string
    | [<EqualsAssignmentOrSpaced; CustomCommandLine("--logit-bias")>] LogitBias of bias: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--logprobs")>] LogProbs of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--json-schema")>] JsonSchema of schema: string
    | [<Unique; CustomCommandLine("--json-object")>] JsonObject
    | [<Unique; EqualsAssignmentOrSpaced>] Choices of texts: string
    | [<Unique; EqualsAssignmentOrSpaced>] Regex of pattern: string
    | [<EqualsAssignmentOrSpaced>] Stop of text: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--stop-ids")>] StopIds of ids: string
    | [<Unique; CustomCommandLine("--ignore-eos")>] IgnoreEos
    | [<Unique>] Special
    | [<Unique; EqualsAssignmentOrSpaced>] Output of file: string
    | [<Unique; EqualsAssignmentOrSpaced>] Html of file: string

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Prompt _ ->
                "the text to continue; an empty one is the tokenizer's beginning-of-text token. Write --prompt=TEXT for a text that looks like an option."
            | PromptIds _ -> "the token ids to continue, as 1,2,3; instead of --prompt."
            | PromptFile _ -> "a UTF-8 file whose whole text is continued; instead of --prompt."
            | Chat ->
                "the prompt is a user's message, which the model's own chat template puts into words; what looks like a special token in it is characters."
            | System _ -> "what the model is told before the message; with --chat."
            | MaxNewTokens _ ->
                $"the most new tokens, 1 or more (default {GenerationOptions.defaults.MaxNewTokens}); a full context ends the text sooner."
            | Strategy _ ->
                "autoregressive: every layer for every token. self-speculative: layers 1..E or the text draft, every layer verifies; the same greedy text, or with a temperature the same distribution, faster. early-exit: layers 1..E only; another text. Default: self-speculative where the model recommends an exit or an option says how to draft, else autoregressive."
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
            | Temperature _ ->
                $"what logits are divided by before sampling; 0 is greedy (default {Sampling.defaultTemperature})."
            | TopK _ ->
                $"samples among the k most probable tokens only; 0 is all (default {Sampling.defaultTopK})."
            | TopP _ ->
                $"samples among the fewest tokens whose probabilities reach p, above 0 and at most 1 (default {Sampling.defaultTopP})."
            | MinP _ ->
                $"samples, after the other filters, among tokens at least p times as probable as the most probable only, 0 (all) to 1 (default {Sampling.defaultMinP})."
            | RepetitionPenalty _ ->
                $"what logits of tokens that prompt or text have are divided by where they are above 0, else multiplied by; 0.01 to 100 (default {TokenRules.none.RepetitionPenalty}: nothing). Rules hold for drafts too: the text is plain decoding's under the same."
            | PresencePenalty _ ->
                $"taken from the logits of tokens that the new text has, -2 to 2 (default {TokenRules.none.PresencePenalty})."
            | FrequencyPenalty _ ->
                $"taken from the logit of a token once for each time that the new text has it, -2 to 2 (default {TokenRules.none.FrequencyPenalty})."
            | LogitBias _ ->
                "ID=X: adds X, -100 to 100, to the logit of a token id, as 42=-100; may be given several times."
            | LogProbs _ ->
                $"with --json: \"logprobs\", the log-probability of each new token, with its id and its text, by the model's own law, before filters and rules, and of the n likeliest there, 0 to {TokenLogProbs.most}."
            | JsonSchema _ ->
                "the text is JSON that this JSON schema allows, given itself or as a file; drafts follow it too. What --max-new-tokens cuts is no whole JSON, and its finish_reason is length."
            | JsonObject -> "the text is a JSON object."
            | Choices _ -> "the text is one of these, as yes,no."
            | Regex _ ->
                "the text is this regular expression (ECMA-262) from beginning to end, without look-around and back-references."
            | Stop _ ->
                "ends the text before this string; may be given several times. token_ids go on to the token that completed it."
            | StopIds _ -> "ends the text at these token ids, as 1,2 (default: the model's end-of-text ids)."
            | IgnoreEos -> "does not stop at the model's end-of-text ids."
            | Special -> "shows special tokens in the text."
            | Output _ ->
                "also writes the text (the object with --json) to this file, once all of it is there."
            | Html _ ->
                "also writes a page to this file: the text, each token coloured by where it comes from."
