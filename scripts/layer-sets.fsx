// Drafts by some layers of a model that was never trained to exit early: for each number of layers left out the best set found, how often
// it says the model's own next token, the agreement from which on it would pay on this machine, and what it brings in decoding
// other prompts: the accepted share of drafts, and tokens a second over those of plain decoding, from interleaved runs. Drafts go through
// the whole head, and where that is much of a draft also through a vocabulary in context.
//
//     dotnet fsi scripts/layer-sets.fsx
//     dotnet fsi scripts/layer-sets.fsx --model DIR --dtype f16 --skipped 1,4,8 --tries N --runs N --threads N
#load "options.fsx"
#load "kinds.fsx"

open Options

let given =
    Given [
        "--model DIR", "../shared/data/smollm2-135m-instruct/model.gguf"
        "--dtype T", "as the file has it"
        "--text DIR", "../shared/data"
        "--skipped 1,4,8", "1,2,4,6,8,10,13,16,20, as many as the model has"
        "--tries N", "40"
        "--new-tokens N", "64"
        "--prompts N", "1"
        "--prompt-tokens N", "48"
        "--draft-length D", "the one that is expected to bring the most"
        "--runs N", "3"
        "--threads N", "one for each core"
    ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else

open System
open System.Diagnostics
open LayerSkip

Backend.load () |> orStop |> ignore
given.TryWhole("--threads", 1) |> Option.iter CpuKernels.setThreads

let dtype =
    given.TryText "--dtype"
    |> Option.map (fun name ->
        match Dtype.all |> List.tryFind (fun dtype -> Dtype.name dtype = name) with
        | Some dtype -> dtype
        | None -> stop 2 $"--dtype is {name}, it must be f64, f32, f16 or bf16")

let model = Checkpoint.load (given.Path "--model") dtype Device.Cpu |> orStop
let weights, layers = model.Weights, model.Config.Layers
let newTokens, runs = given.Whole("--new-tokens", 2), given.Whole("--runs", 1)

let tokenizer =
    match model.Tokenizer with
    | Some tokenizer -> tokenizer
    | None -> stop 2 "the model has no tokenizer"

let skipped =
    given.TryWholes("--skipped", 1, layers - 1)
    |> Option.defaultWith (fun () ->
        [ 1; 2; 4; 6; 8; 10; 13; 16; 20 ] |> List.filter (fun count -> count < layers))

let prompts first =
    Kinds.prompts
        (given.Path "--text")
        tokenizer
        (given.Whole("--prompts", 1))
        (given.Whole("--prompt-tokens", 1))
        first

// Sets are found on some prompts and measured on others.
let seen, unseen = prompts 0.0 |> List.collect snd |> Array.ofList, prompts 0.5

let options = { LayerSearch.options with NewTokens = newTokens; Tries = given.Whole("--tries", 0) }
let began = Stopwatch.StartNew()
let parts, table = LayerSearch.bySkipped weights options seen |> orStop

printfn
    "%s in %s, %d threads, %s"
    (given.Text "--model")
    (Weights.description weights)
    (CpuKernels.threads ())
    (Benchmark.cpu ())
printfn
    "%d sets scored by %d tokens, %.0f s"
    (table |> List.map _.Scored |> List.max)
    (seen.Length * (newTokens - 1))
    began.Elapsed.TotalSeconds
printfn
    "a token %.2f ms, of which the head %.2f; layers by rows, times one row: %s"
    parts.PlainMs
    parts.HeadMs[0]
    (parts.LayersMs
     |> Array.map (fun ms -> $"%.2f{ms / parts.LayersMs[0]}")
     |> String.concat " ")

let decode strategy prompt =
    Generation.complete weights None (GenerationOptions.greedy strategy newTokens) prompt
    |> orStop

/// Drafts through the whole head, and where that is much of a draft also from a vocabulary in context.
let ways = [
    "whole head", parts, id

    match ContextVocabulary.auto model.Config with
    | Some vocabulary ->
        let share = float vocabulary.Capacity / float model.Config.Vocabulary

        "vocabulary in context",
        { parts with DraftHeadMs = share * parts.HeadMs[0] },
        (fun (strategy: Strategy) -> strategy.Within vocabulary)
    | None -> ()
]

/// A set drafting in a way: its draft length, what is expected of it, and how it decodes.
let cells = [
    for found in table do
        if List.contains found.Layers.Skipped skipped then
            for name, parts, within in ways do
                let struct (best, _) = LayerTimes.best parts found.Layers found.Agreement
                let length = given.TryWhole("--draft-length", 1) |> Option.defaultValue best

                found,
                name,
                length,
                LayerTimes.breakEven parts found.Layers,
                LayerTimes.ratio parts found.Layers found.Agreement length,
                within (Strategy.Speculative(Drafter.layers found.Layers, LengthPolicy.Fixed length))
]

let perToken (made: Completion) = made.Timings.DecodeMs / float (max 1 (made.TokenIds.Length - 1))
let median (values: float list) = (List.sort values)[values.Length / 2]

// Interleaved, so that noise meets all: prompt by prompt, plain decoding and then each set.
let measured = [
    for prompt in List.collect snd unseen do
        let turns = [
            for _ in 1..runs do
                let plain = decode Strategy.Autoregressive prompt
                let made = [ for _, _, _, _, _, strategy in cells -> decode strategy prompt ]

                if made |> List.exists (fun own -> own.TokenIds <> plain.TokenIds) then
                    stop 1 "a text is not the whole model's"

                plain, made
        ]

        let plainMs = turns |> List.map (fst >> perToken) |> median

        [
            for index in 0 .. cells.Length - 1 do
                let own = turns |> List.map (fun (_, made) -> made[index])
                own.Head.Stats, plainMs / (own |> List.map perToken |> median)
        ]
]

printfn
    "\n| left out | kept | agreement | draft from | pays from | drafts | accepted | tokens a round | speed, expected | measured | worst, best prompt |"
printfn "|---|---|---|---|---|---|---|---|---|---|---|"

for index, (found, name, length, even, ratio, _) in List.indexed cells do
    let own = measured |> List.map (List.item index)
    let sum pick = own |> List.sumBy (fun (stats: SpeculationStats, _) -> pick stats)
    let accepted, drafted, rounds = sum _.NumAcceptedDraftTokens, sum _.NumDraftTokens, sum _.NumSpecSteps
    let ratios = own |> List.map snd
    let even = if even > 1.0 then "never" else $"%.0f{100.0 * even} %%"

    printfn
        "| %d | %O | %.0f %% | %s | %s | %d | %.0f %% | %.2f | %.2f | %.2f | %.2f, %.2f |"
        found.Layers.Skipped
        found.Layers
        (100.0 * found.Agreement)
        name
        even
        length
        (100.0 * float accepted / float (max 1 drafted))
        (1.0 + float accepted / float (max 1 rounds))
        ratio
        (median ratios)
        (List.min ratios)
        (List.max ratios)
#endif
