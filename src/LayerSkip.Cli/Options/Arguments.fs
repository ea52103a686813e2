namespace LayerSkip.Cli

open System
open Argu
open LayerSkip

// The schema is the manual: `layerskip generate --help` prints these sentences. An option that
// names a case of one of the library's unions has the union itself.

/// The options of `layerskip info`.
[<RequireQualifiedAccess>]
type internal InfoArgument =
    | [<Unique; EqualsAssignmentOrSpaced>] Output of file: string

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Output _ -> "also writes the facts (the object with --json) to this file."

/// The options of `layerskip pull`.
[<RequireQualifiedAccess>]
type internal PullArgument =
    | [<MainCommand>] Name of name: string

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Name _ ->
                "the model: org/name, org/name@REVISION (a branch, a tag or a commit), org/name:Q4_K_M or org/name:FILE.gguf of a repository with several; or the address of its page on the hub."

/// What `--format` names.
[<RequireQualifiedAccess>]
type internal FormatName =
    | Hf
    | Gguf

/// The options of `layerskip export`.
[<RequireQualifiedAccess>]
type internal ExportArgument =
    | [<Unique; EqualsAssignmentOrSpaced>] Output of path: string
    | [<Unique; EqualsAssignmentOrSpaced>] Format of FormatName
    | [<Unique; EqualsAssignmentOrSpaced>] Layers of e: int
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--adapter-file")>] AdapterFile of file: string

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Output _ ->
                "the folder (hf) or file (gguf) to write; nothing may be there yet, or an empty folder."
            | Format _ ->
                "hf: a Hugging Face folder. gguf: a file for llama.cpp. Default: gguf where the output ends in .gguf, else hf."
            | Layers _ ->
                "writes the first E layers only, with norm and head: a draft model; 1 to L (default: all L layers)."
            | AdapterFile _ ->
                "an adapter to write with the model, into its folder or beside the .gguf file, as the model's own are. With --layers E, an adapter behind layer E becomes part of the draft model: its norm, or its block and its norm."

/// The options of `layerskip tokenizer train`.
[<RequireQualifiedAccess>]
type internal TokenizerTrainArgument =
    | [<EqualsAssignmentOrSpaced>] Text of file: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--vocab-size")>] VocabSize of n: int
    | [<Unique; EqualsAssignmentOrSpaced>] Output of folder: string
    | [<EqualsAssignmentOrSpaced>] Special of token: string
    | [<Unique; EqualsAssignmentOrSpaced; CustomCommandLine("--min-frequency")>] MinFrequency of n: int
    | [<Unique; CustomCommandLine("--no-bos")>] NoBos
    | [<Unique>] Overwrite

    interface IArgParserTemplate with
        member this.Usage =
            let usual = BpeOptions.ofVocabulary 0

            match this with
            | Text _ ->
                "a UTF-8 file to train on, of any length, read as `train --data` reads it: texts parted by <|endoftext|>, or .jsonl; may be given several times."
            | VocabSize _ -> "how many tokens: the special ones, 256 bytes, and the pieces that merges make."
            | Output _ ->
                "the folder for tokenizer.json and tokenizer_config.json; made where it is not there."
            | Special _ ->
                $"a special token, cut out of the text; may be given several times; the first begins and ends a text (default {usual.SpecialTokens.Head})."
            | MinFrequency _ ->
                $"how often a pair must occur in the text to be merged, 1 or more (default {usual.MinFrequency})."
            | NoBos -> "does not put the first special token in front of a text."
            | Overwrite -> "writes over a tokenizer in the folder."

/// The sub-commands of `layerskip tokenizer`.
[<RequireQualifiedAccess>]
type internal TokenizerArgument =
    | [<CliPrefix(CliPrefix.None); SubCommand>] Train of ParseResults<TokenizerTrainArgument>

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Train _ -> "trains a byte-level BPE tokenizer on text files."

/// Options of every sub-command, and the sub-commands.
[<RequireQualifiedAccess>]
type internal Argument =
    | [<Inherit; Unique; EqualsAssignmentOrSpaced>] Model of path: string
    | [<Inherit; Unique; EqualsAssignmentOrSpaced>] Device of Device
    | [<Inherit; Unique; EqualsAssignmentOrSpaced>] Dtype of name: string
    | [<Inherit; Unique; EqualsAssignmentOrSpaced>] Compute of Compute
    | [<Inherit; Unique; EqualsAssignmentOrSpaced>] Kv of KvFormat
    | [<Inherit; Unique; EqualsAssignmentOrSpaced>] Prefill of Prefill
    | [<Inherit; Unique; EqualsAssignmentOrSpaced>] Threads of n: int
    | [<Inherit; Unique; EqualsAssignmentOrSpaced>] Seed of n: int64
    | [<Inherit; Unique>] Json
    | [<Unique>] Version
    | [<CliPrefix(CliPrefix.None); SubCommand>] Generate of ParseResults<GenerateArgument>
    | [<CliPrefix(CliPrefix.None); SubCommand>] Chat of ParseResults<ChatArgument>
    | [<CliPrefix(CliPrefix.None); SubCommand>] Info of ParseResults<InfoArgument>
    | [<CliPrefix(CliPrefix.None); SubCommand>] Certify of ParseResults<CertifyArgument>
    | [<CliPrefix(CliPrefix.None); SubCommand>] Bench of ParseResults<BenchArgument>
    | [<CliPrefix(CliPrefix.None); SubCommand>] Lens of ParseResults<LensArgument>
    | [<CliPrefix(CliPrefix.None); SubCommand>] Eval of ParseResults<EvalArgument>
    | [<CliPrefix(CliPrefix.None); SubCommand>] Merge of ParseResults<MergeArgument>
    | [<CliPrefix(CliPrefix.None); SubCommand>] Export of ParseResults<ExportArgument>
    | [<CliPrefix(CliPrefix.None); SubCommand>] Replay of ParseResults<ReplayArgument>
    | [<CliPrefix(CliPrefix.None); SubCommand>] Sweep of ParseResults<SweepArgument>
    | [<CliPrefix(CliPrefix.None); SubCommand>] Train of ParseResults<TrainArgument>
    | [<CliPrefix(CliPrefix.None); SubCommand>] Tokenizer of ParseResults<TokenizerArgument>
    | [<CliPrefix(CliPrefix.None); SubCommand>] Pull of ParseResults<PullArgument>
    | [<CliPrefix(CliPrefix.None); SubCommand>] Serve of ParseResults<ServeArgument>

    /// What `--dtype` is to a sub-command.
    static member DtypeIn(command: string) : string =
        match command with
        | "export" ->
            let mixes = GgufMix.all |> Seq.map _.Name |> String.concat ", "
            $"what is written: f64, f32, f16, bf16, or auto, the default: auto keeps each tensor's format in a GGUF file, and makes quantised ones f16 in a Hugging Face folder; in GGUF files also {mixes}; where rows are no multiple of the 256 of K types, others stand in, as in llama.cpp."
        | "train" ->
            "what the passes compute in: f32 on a CPU, where bf16 multiplies in bfloat16 if the processor does (AVX512-BF16, AMX), and keeps weights, sums and the rest in float32."
        | _ ->
            "dtype of the weights in memory: f64, f32, f16, bf16 (default auto: on a CPU as the file has them, tensor by tensor, blocks of a GGUF where they lie; on CUDA bf16)."

    interface IArgParserTemplate with
        member this.Usage =
            match this with
            | Model _ ->
                "a Hugging Face model folder, a .gguf file, or a model on the hub as `layerskip pull` takes it: org/name[@REVISION][:FILE] (default: in a clone of the project, the model in its folder models)."
            | Device _ -> "what computes (default cpu); never another one in silence."
            | Dtype _ ->
                let export, train = Argument.DtypeIn "export", Argument.DtypeIn "train"
                $"{Argument.DtypeIn null} In export {export} In train {train}"
            | Compute _ ->
                "how weights in a GGUF's blocks are multiplied: auto, their bytes with activations of 8 bits, or float, in float32, which defines what the other must agree with (default auto). Others are multiplied in float32 either way."
            | Kv _ ->
                "how decoding keeps keys and values: f32, f16 in half the memory, or q8 (8 bits) in little more than a quarter (default f32 on a CPU)."
            | Prefill _ ->
                "how a prompt's products are computed: auto (the default), on the processor's matrix unit (AVX512-BF16, AMX) where that is faster, in bfloat16 with float32 sums; or exact, as every other row."
            | Threads _ -> $"threads that compute, 1 to {Backend.mostThreads} (default: one for each core)."
            | Seed _ -> $"seed of all random numbers (default {GenerationOptions.defaults.Seed})."
            | Version -> "tells the program's version."
            | Json -> "writes one JSON object to standard output, and nothing else."
            | Generate _ -> "continues a prompt."
            | Chat _ ->
                "talks with a model over several turns, by its own chat template; lines of standard input are messages where nobody types. With --json an object of each answer, a line each."
            | Info _ -> "tells what the model and the machine are."
            | Certify _ ->
                "checks that early exit and speculation write what the whole model writes; exit code 1 where they do not."
            | Bench _ ->
                "measures passes, prefill and decoding, autoregressive and self-speculative, interleaved."
            | Lens _ -> "tells what every layer would say at every position of a text."
            | Eval _ ->
                "evaluates exit layers: perplexity of texts, multiple choice by log-likelihood, generated answers with acceptance and speed; in shards, and resumable."
            | Merge _ -> "joins the files that the shards of a run wrote, and tells what it came to."
            | Export _ ->
                "writes the model, or its first layers as a draft model, in the dtype or the quantised formats of --dtype for other engines."
            | Replay _ ->
                "decodes once with every layer, and tells what each exit layer, draft length and policy would have made of it."
            | Sweep _ ->
                "times every exit layer with every draft length beside plain decoding and prompt lookup; in shards, and resumable."
            | Train _ -> "trains a model to exit early: layer dropout, early-exit loss, self-distillation."
            | Tokenizer _ -> "trains a tokenizer."
            | Pull _ -> "brings a model from the hub into the cache, as --model does with a name."
            | Serve _ ->
                "serves the model to OpenAI's clients over HTTP, with metrics and a page to try it on."

/// The parser of the schema, and what command lines must become before Argu reads all of them.
[<RequireQualifiedAccess>]
module internal Arguments =
    /// The sub-commands that exist.
    let commands = [
        "generate"
        "chat"
        "info"
        "certify"
        "bench"
        "lens"
        "eval"
        "merge"
        "export"
        "replay"
        "sweep"
        "train"
        "tokenizer"
        "pull"
        "serve"
    ]

    /// Its structure is checked by a test, not here.
    // A width of its own: to ask for the terminal's would set the terminal up, and write to it.
    let parser () =
        ArgumentParser.Create<Argument>(
            programName = "layerskip",
            usageStringCharacterWidth = 80,
            checkStructure = false
        )

    /// What a manual says after the options.
    let notes (argv: string[]) : string =
        match Array.tryHead argv with
        | Some "pull" ->
            "\n\nCACHE:\n\n"
            + String.concat "\n" [
                "    Models lie where Python's huggingface_hub has them: HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub."
                "    Of HF_TOKEN (or the file that HF_TOKEN_PATH names, or $HF_HOME/token) the hub alone hears; HF_ENDPOINT is another"
                "    hub, HF_HUB_OFFLINE=1 asks none, HF_HUB_DOWNLOAD_TIMEOUT is how many seconds to wait for it. What is broken off goes"
                "    on where it was. Only what the model needs comes: configuration, tokenizer, .safetensors or one .gguf; no pickles."
            ]
        | Some("generate" | "chat" | "bench" | "serve" as command) ->
            (if command = "chat" then
                 $"\n\nA MODEL TO TALK WITH:\n\n    layerskip chat --model {DefaultModel.chatting}\n\n    It is small (270 MB) and comes from the hub once; any instruction-tuned Llama-like model with a chat template will do."
             else
                 "")
            + "\n\nPASS TIMES:\n\n"
            + String.concat "\n" [
                "    What --policy auto and --stop-rule marginal measure of a model is kept in $XDG_CACHE_HOME/layerskip, else"
                $"    ~/.cache/layerskip; {PassCostsCache.variable}=FOLDER is another place, {PassCostsCache.variable}=off keeps nothing."
            ]
        | Some "certify" ->
            "\n\nTESTS:\n\n"
            + String.concat "\n" [
                "    T1  self-speculation writes the text of plain greedy decoding."
                "    T2  each token is the whole model's choice after the text before it, read at once."
                "    T3  the logits that decide are those of plain decoding, bit for bit (where the CPU kernels run)."
                "    T4  sampling through drafts keeps the whole model's distribution."
                "    T5  after each round the cache holds what a fresh prefill of the text does, but for rounding."
                ""
                "The gap is how far a token's logit may lie below the largest of its row, as a share of the row's largest"
                "magnitude, to count as a tie, which rounding decides: 1e-10 in f64, 1e-5 in f32 and of blocks, 2e-3 in"
                "16 bits. Any other token that is not the largest is a violation."
            ]
        | _ -> ""

    /// The options that take no value.
    let private flags =
        set [
            "--json"
            "--version"
            "--help"
            "--ignore-eos"
            "--chat"
            "--json-object"
            "--requests"
            "--logits"
            "--recompute"
            "--no-bos"
            "--no-eos"
            "--no-special"
            "--extend"
            "--overwrite"
            "--documents"
            "--allow-code-execution"
            "--stop-at-eos"
        ]

    // Argu reads --name=VALUE up to the first line's end only, and not where it is empty; it reads the value whole where it is a word of its own.
    let private parted (word: string) =
        match word.IndexOf '=' with
        | at when
            at > 2
            && word.StartsWith("--", StringComparison.Ordinal)
            && (at = word.Length - 1 || word.IndexOf('\n', at) > 0)
              ->
              [ word[.. at - 1]; word[at + 1 ..] ]
        | _ -> [ word ]

    /// A command line as Argu reads all of it. A word after an option that waits for its value is that value, whatever it
    /// looks like.
    let ofWords (argv: string[]) : string[] =
        // Of `tokenizer train` it names a token.
        let isSpecialFlag = Array.tryHead argv <> Some "tokenizer"
        let isFlag word = flags.Contains word || word = "--special" && isSpecialFlag

        let read awaitsValue (word: string) =
            if awaitsValue then
                [ word ], false
            else
                parted word,
                word.StartsWith("--", StringComparison.Ordinal) && not (word.Contains '=' || isFlag word)

        argv |> Array.mapFold read false |> fst |> Seq.concat |> Array.ofSeq
