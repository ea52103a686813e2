namespace LayerSkip.Cli

open LayerSkip

/// What the manuals say of the options that choose a drafting, and how they are read: the same in every command that has them.
[<RequireQualifiedAccess>]
module internal DraftingArguments =
    /// --drafter
    let drafter =
        "who proposes tokens. exit: layers 1..E. lookup: what the text said before. cascade: lookup where it promises more, else the exit. layers: those of --layers-kept. adapter: the layers up to an exit and the adapter that `layerskip train --recipe adapter` made for it. Default: exit; with --policy auto cascade."

    /// --policy
    let policy =
        $"what decides how each round drafts. static: one exit layer and draft length. auto: exits and lookup, token by token, while the next one is worth its time, and none where drafting does not pay; passes are timed first, in 0.3 s, once for a model and a machine. del: DEL's choice of both, for comparison. Default: {DraftPolicyKind.name Drafting.defaultPolicy}, but static with --strategy self-speculative and nothing else, with options of a fixed drafting, and with a temperature: what auto drafts depends on time, and one seed is to draw one text."

    /// --stop-rule
    let stopRule =
        "what ends a draft before its length does: never (the default), confidence:T, draft-verify, adaedl, del, or marginal, which weighs what a token more brings against its time."

    /// --draft-vocabulary
    let draftVocabulary =
        "the ids that drafts are chosen from: all (the default), N first ids or those of a list in a file, either with the ids of the text and the likeliest ones; auto, a twelfth of the vocabulary where the head costs enough."

    /// --layers-kept
    let layersKept =
        "the layers that draft, as 1-10,15,30, while the others are left out (default of --drafter layers: the model's recommendation)."

    /// --adapter-file
    let adapterFile =
        "the adapter of --drafter adapter: its file, or a run's or a model's folder that has one (default: the one that the model's folder names, or that lies beside a .gguf file)."

    /// --past-texts
    let pastTexts =
        "a text that the new one may repeat, as the one to edit, for drafts by lookup: a UTF-8 file, a .jsonl file, of whose objects each string is a text, a conversation that /save wrote, or a folder of such; may be given several times. Without --drafter, lookup drafts beside an exit, or alone where the model recommends none."

    /// A stop rule as it is spelled.
    let rule (text: string) : StopRuleKind = StopRule.tryParse text |> Check.getOrRaise
