namespace LayerSkip.Cli

open Argu
open LayerSkip

/// The options of `layerskip train`, and what its manual says of them. Numbers with a fraction come as texts, which
/// `Inputs.real` reads the same way in every culture; cases of the library's unions are words in lower case.
[<RequireQualifiedAccess>]
type internal TrainArgument =
    | [<EqualsAssignmentOrSpaced>] Data of file: string
    | [<Unique; EqualsAssignmentOrSpaced>] Output of folder: string
    | [<Unique; EqualsAssignmentOrSpaced>] Resume of folder: string
    | [<Unique>] Extend
    | [<EqualsAssignmentOrSpaced>] Validation of file: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--valid-share")>] ValidShare of s: string
    | [<Unique; EqualsAssignmentOrSpaced>] Layout of Layout
    | [<Unique; CustomCommandLine("--no-bos")>] NoBos
    | [<Unique; CustomCommandLine("--no-eos")>] NoEos
    | [<Unique; CustomCommandLine("--no-special")>] NoSpecial
    | [<Unique; EqualsAssignmentOrSpaced>] Shape of sizes: string
    | [<Unique; EqualsAssignmentOrSpaced>] Config of file: string
    | [<Unique; EqualsAssignmentOrSpaced>] Tokenizer of folder: string
    | [<Unique; EqualsAssignmentOrSpaced>] Recipe of name: string
    | [<Unique; EqualsAssignmentOrSpaced>] Exits of rule: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--exit-labels")>] ExitLabels of w: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--exit-last-layer")>] ExitLastLayer of w: string
    | [<Unique; EqualsAssignmentOrSpaced>] Dropout of p: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--dropout-depth")>] DropoutDepth of DropoutShape
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--dropout-time")>] DropoutTime of DropoutShape
    | [<Unique; EqualsAssignmentOrSpaced>] Steps of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--batch-size")>] BatchSize of n: int
    | [<Unique; EqualsAssignmentOrSpaced>] Accumulate of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--sequence-length")>] SequenceLength of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--learning-rate")>] LearningRate of r: string
    | [<Unique; EqualsAssignmentOrSpaced>] Warmup of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--rate-floor")>] RateFloor of s: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--weight-decay")>] WeightDecay of w: string
    | [<Unique; EqualsAssignmentOrSpaced>] Beta1 of b: string
    | [<Unique; EqualsAssignmentOrSpaced>] Beta2 of b: string
    | [<Unique; EqualsAssignmentOrSpaced>] Epsilon of e: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--clip-norm")>] ClipNorm of n: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--on-spike")>] OnSpike of SpikeRule
    | [<Unique>] Recompute
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--exit-layer")>] ExitLayer of e: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--draft-length")>] DraftLength of d: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--validate-every")>] ValidateEvery of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--validation-tokens")>] ValidationTokens of
        n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--probe-every")>] ProbeEvery of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--probe-exits")>] ProbeExits of layers: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--save-every")>] SaveEvery of n: int
    | [<Unique; EqualsAssignmentOrSpaced>] Keep of n: int
    | [<Unique; EqualsAssignmentOrSpaced>] Adapter of form: string
    | [<Unique; EqualsAssignmentOrSpaced>] Rank of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--source-layer")>] SourceLayer of n: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--self-tokens")>] SelfTokens of n: int
    | [<Unique; EqualsAssignmentOrSpaced>] Opening of n: int
    | [<Unique; EqualsAssignmentOrSpaced>] Temperature of t: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--at-once")>] AtOnce of n: int

    interface IArgParserTemplate with
        member this.Usage =
            let usual = Recipe.tryPreset "plain" 2 |> Check.getOrRaise |> TrainingOptions.standard
            let rate (value: float) = value.ToString "0e-0"

            match this with
            | Data _ ->
                "what to learn from; may be given several times. Text parted by <|endoftext|>; .jsonl, or .json with one array, of objects with \"text\", with \"prompt\" and \"response\", of which only the response is learned, or with \"messages\" of \"role\" and \"content\" (and \"tools\"), which the model's own chat template puts into words, of which only the assistant's answers are learned; an answer with \"weight\": 0 or \"train\": false is only read; .tokens or .bin (uint16) of ids."
            | Output _ ->
                "the folder of the run: checkpoints, log.jsonl, tensorboard, and at the end the model."
            | Resume _ ->
                "goes on with the run in this folder, from its latest checkpoint and with its own options, to the same bits as if nothing had stopped it."
            | Extend ->
                "with --resume: the run goes on with other --steps, --learning-rate, --warmup, --rate-floor, --weight-decay, --clip-norm, --on-spike, --validate-every, --validation-tokens, --probe-every, --save-every or --keep, from here to its end."
            | Validation _ -> "what to validate on; may be given several times."
            | ValidShare _ ->
                $"without --validation: the share of the texts that are kept for it, below 1 (default {TrainingData.defaultShare}); of very few texts, the end of the last."
            | Layout _ ->
                "packed: windows over all texts, of which no conversation can be one. each: every text, pair or conversation alone, cut to --sequence-length (default: each where a .jsonl or .json file is given, else packed)."
            | NoBos ->
                "puts no beginning-of-text token before a text (default: where the tokenizer puts one before a prompt, and the text does not begin with it)."
            | NoEos ->
                "puts no end-of-text token after a text (default: where the text does not end with it)."
            | NoSpecial ->
                "reads special tokens such as <|im_start|> in the data as characters (default: as the tokens, as in prompts of generate)."
            | Shape _ ->
                "trains from scratch a Llama of these sizes: hidden=..,layers=..,heads=..,kv-heads=..,intermediate=..[,vocab=..][,tied=0][,context=..]; needs --tokenizer, or vocab and token files."
            | Config _ -> "trains from scratch the model that this config.json describes."
            | Tokenizer _ ->
                "the folder of the tokenizer of a model from scratch (see `layerskip tokenizer train`)."
            | Recipe _ ->
                "plain, continual, scratch, code, fine-tune (the paper's), emphasis or self-distillation; the options below change single parts (default: continual, from scratch scratch). adapter: the model stays as it is, bit for bit, and a small adapter behind --exit-layer learns its law (see --adapter)."
            | Exits _ ->
                "which exits learn beside the last layer: last (none); the paper's weights, times SCALE (default 0.2), for all:SCALE, for every EVERY-th exit, one further each step, rotational:EVERY:SCALE, or from the last down, gradual:SCALE (default 1); or exits and weights of your own (default 1), dealt out to GROUPS (default 1) that take turns, emphasis:E=WEIGHT,E=WEIGHT:GROUPS. The paper's weights give exit 1 nothing."
            | ExitLabels _ -> "how much early exits learn from the labels, 0 or more."
            | ExitLastLayer _ ->
                "how much they learn from the last layer (self-distillation by KL divergence), 0 or more."
            | Dropout _ -> "p_max of layer dropout, 0 to 1."
            | DropoutDepth _ -> "how layer dropout grows from the first layer to the last."
            | DropoutTime _ -> "how layer dropout grows from the first step to the last."
            | Steps _ -> $"steps of the optimiser (default {usual.Steps})."
            | BatchSize _ -> $"samples of one micro-batch, on each rank (default {usual.BatchSize})."
            | Accumulate _ -> $"micro-batches of a step (default {usual.Accumulate})."
            | SequenceLength _ ->
                $"token ids of a sample (default {usual.SequenceLength}, or the model's context if that is less)."
            | LearningRate _ ->
                $"the highest learning rate (default: from scratch {rate usual.Rate.Peak}, else {rate TrainingOptions.continuedPeak})."
            | Warmup _ ->
                $"steps until the highest rate (default {usual.Rate.Warmup}, or a quarter of the steps if that is less)."
            | RateFloor _ ->
                $"the share of the highest rate that the cosine ends at, 0 to 1; 1 is a constant rate (default {usual.Rate.Floor})."
            | WeightDecay _ -> $"AdamW's, of matrices (default {usual.Adam.WeightDecay})."
            | Beta1 _ -> $"AdamW's (default {usual.Adam.Beta1})."
            | Beta2 _ -> $"AdamW's (default {usual.Adam.Beta2})."
            | Epsilon _ -> $"AdamW's (default {rate usual.Adam.Epsilon})."
            | ClipNorm _ -> $"the longest gradient; 0 is any (default {usual.ClipNorm})."
            | OnSpike _ ->
                $"where the loss jumps: stop ends the run after several such steps in a row, and at once where loss or gradient is no number; skip leaves the step's update out, while data and rate go on; warn says so and goes on (default {SpikeRule.name usual.OnSpike})."
            | Recompute -> "runs each layer twice and keeps less in memory (activation checkpointing)."
            | ExitLayer _ -> "the exit layer that the model will recommend, and that probes draft with."
            | DraftLength _ ->
                $"the draft length that it will recommend, and of probes (default {usual.ProbeDraft})."
            | ValidateEvery _ ->
                $"steps between validations, of every exit; 0 is never (default {usual.ValidateEvery})."
            | ValidationTokens _ ->
                $"token ids that a validation grades, the same ones whatever the batch size (default {usual.ValidationTokens})."
            | ProbeEvery _ ->
                "steps between probes of acceptance, by real self-speculative decoding; 0 is never (default: as --validate-every)."
            | ProbeExits _ -> "the exit layers of probes, as 1,2 (default: the recommended one)."
            | SaveEvery _ ->
                $"steps between checkpoints; 0 is none but at the end, or where the run is stopped (default {usual.SaveEvery})."
            | Keep _ -> $"how many checkpoints stay (default {usual.Keep})."
            | Adapter _ ->
                "with --recipe adapter: what stands between the exit and the shared head: norm, a norm of its own; lowrank, a residual map of --rank too; block, a decoder layer with its own keys and values and a norm (default)."
            | Rank _ -> "of --adapter lowrank (default 64)."
            | SourceLayer _ ->
                "the layer of the model, from 1, that --adapter block begins as (default: the last)."
            | SelfTokens _ ->
                "with --recipe adapter: so many token ids that the model writes itself, to self.tokens in --output, are learned from, each text as long as --sequence-length; with --data it goes on from their beginnings. Without this option the texts of --data are learned from as they are; without --data it writes as many as --steps read, up to 4 million."
            | Opening _ ->
                "how many token ids of a text of --data the model goes on from, at most (default 16)."
            | Temperature _ -> "of what the model writes (default 0.8); 0 is the likeliest token each time."
            | AtOnce _ ->
                $"texts that it writes side by side (default {SelfText.defaultAtOnce Device.Cpu}, on cuda {SelfText.defaultAtOnce Device.Cuda})."
