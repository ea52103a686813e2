// What speculation pays on a model: for each exit layer E and draft length d the accepted share of drafted tokens and the
// ratio to our own best autoregressive decoding, over two dozen openings of stories. Runs alternate; the ratio is of medians.
// Before that, how often greedy texts come back to what they said.
//
//     dotnet fsi scripts/acceptance.fsx
//     dotnet fsi scripts/acceptance.fsx --model DIR --max-new-tokens N --runs N
#load "options.fsx"

open Options

let given =
    Given [
        "--model DIR", "models/stories-10m"
        "--max-new-tokens N", "128"
        "--runs N", "5"
    ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else

open System.IO
open LayerSkip

let model = Checkpoint.load (given.Path "--model") None Device.Cpu |> orStop
let newTokens = given.Whole("--max-new-tokens", 1)
let runs = given.Whole("--runs", 1)

let openings = [
    "Once upon a time"
    "Once upon a time, there was a boy named Tim."
    "One day, a little girl named Lucy"
    "Lily wanted to"
    "The old man looked at the sea and"
    "In a big forest, there lived a"
    "Tom and his mom went to the"
    "One day, a dog named Max"
    "The sun was hot. The cat"
    "There was a small house on a hill."
    "\"Can we go to the park?\" asked"
    "It was a cold day and the bird"
    "Sam had a red ball."
    "Mia and Ben were friends."
    "The king was sad because"
    "A small fish swam in the"
    "Grandma baked a cake for"
    "Once there was a"
    "Every morning, the farmer"
    "Anna found a key in the"
    "It was raining, so the children"
    "The big bear was hungry and"
    "Jack climbed the tree to"
    "One night, the moon"
]

let encode (text: string) =
    match model.Tokenizer with
    | Some tokenizer -> Tokenizer.encode tokenizer text
    | None -> stop 2 "the model has no tokenizer"

let prompts = openings |> List.map encode

/// Stop ids do not count, so that every text is as long.
let decode strategy prompt =
    Generation.complete model.Weights model.Tokenizer (GenerationOptions.greedy strategy newTokens) prompt
    |> orStop

let median (values: float list) = (List.sort values)[values.Length / 2]

/// Tokens a second over all prompts.
let rate (completions: Completion list) =
    float (completions |> List.sumBy (fun made -> made.TokenIds.Length - 1))
    / (completions |> List.sumBy _.Timings.DecodeMs)
    * 1000.0

let layers = model.Config.Layers
let exits = [ 1; 2; 3; 4; 6; 8 ] |> List.filter (fun exit -> exit < layers)

/// Of the runs of four tokens in a text, up to its end, the share that are not said again.
let variety (prompt: int[]) =
    let options = { GenerationOptions.greedy Strategy.Autoregressive 200 with StopIds = model.StopIds }
    let made = Generation.complete model.Weights model.Tokenizer options prompt |> orStop
    let runs = Array.windowed 4 made.TokenIds
    float (Array.distinct runs).Length / float (max 1 runs.Length)

let varieties = prompts |> List.map variety |> List.sort

printfn
    "greedy texts of 200 tokens or less: %.2f of the runs of four tokens are not said again (least %.2f, median %.2f)\n"
    (List.average varieties)
    varieties.Head
    (median varieties)

printfn "| E | d | accepted | tokens a round | ratio | 5 %% to 95 %% |\n|---|---|---|---|---|---|"

for early in exits do
    for draft in [ 1; 2; 3; 4; 6 ] do
        let strategy = Strategy.SelfSpeculative(ExitLayer.TryCreate(layers, early) |> orStop, draft)

        let pairs = [
            for _ in 0..runs ->
                prompts |> List.map (decode Strategy.Autoregressive), prompts |> List.map (decode strategy)
        ]

        for plain, fast in pairs do
            if List.map _.TokenIds plain <> List.map _.TokenIds fast then
                stop 1 $"the texts differ at E = {early}, d = {draft}; this must not happen"

        // The first warms up.
        let timed = pairs.Tail |> List.map (fun (plain, fast) -> rate plain, rate fast)
        let stats = snd pairs.Head |> List.map _.Stats
        let drafted, accepted = List.sumBy _.NumDraftTokens stats, List.sumBy _.NumAcceptedDraftTokens stats
        let rounds = List.sumBy _.NumSpecSteps stats
        let ratios = timed |> List.map (fun (plain, fast) -> fast / plain) |> List.sort

        printfn
            "| %d | %d | %.1f %% | %.2f | %.2f | %.2f to %.2f |"
            early
            draft
            (100.0 * float accepted / float drafted)
            (1.0 + float accepted / float rounds)
            (median (List.map snd timed) / median (List.map fst timed))
            ratios.Head
            (List.last ratios)
#endif
