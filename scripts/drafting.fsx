// What each way to draft is worth: every kind of prompt, every way, live and interleaved with plain decoding, on a few models. Prints a
// table for each model and one over all, and what `auto` (or `--of`) is worth beside the best single static exit layer and draft length,
// known afterwards, and beside plain decoding on its worst prompt. Checks that every text is plain decoding's.
//
//     dotnet fsi scripts/drafting.fsx --quick
//     dotnet fsi scripts/drafting.fsx --json FILE --html FILE
//     dotnet fsi scripts/drafting.fsx --models models/stories-10m --ways prompt-lookup,suffix-lookup --texts 1 --runs 3
#load "options.fsx"

open Options

let given =
    Given [
        "--quick", "no; a first look, in two minutes or so"
        "--models DIR,FILE",
        "stories-10m, SmolLM2-135M in f16 and q4_k_m, and stories260K where it is trained"
        "--trained DIR", "runs/stories260k"
        "--data DIR", "../shared/data"
        "--ways A,B", "all of them, and the fixed exits and lengths that a replay has at the front"
        "--of WAY", "auto where it is among the ways, else suffix-lookup"
        "--statics N", "3 fixed exits and lengths"
        "--texts N", "2 of each kind, of code 4"
        "--prompt-tokens N", "256, at most the model's context"
        "--max-new-tokens N", "64"
        "--runs N", "3"
        "--threads N", "one for each core"
        "--json FILE", "none"
        "--html FILE", "none"
    ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else

#load "prompts.fsx"

open System
open System.IO
open LayerSkip

Backend.load () |> orStop |> ignore
given.TryWhole("--threads", 1) |> Option.iter CpuKernels.setThreads

let isQuick = given.TryText "--quick" |> Option.isSome
let number name quick full = given.TryWhole(name, 1) |> Option.defaultValue (if isQuick then quick else full)
let textsOfKind, runs = number "--texts" 1 2, number "--runs" 2 3
let limit, statics = number "--max-new-tokens" 32 64, number "--statics" 1 3
let promptTokens = number "--prompt-tokens" 192 256
let root = Path.GetFullPath(Path.Combine(__SOURCE_DIRECTORY__, ".."))
let data = given.Path "--data"

let listed (text: string) =
    text.Split(',', StringSplitOptions.RemoveEmptyEntries ||| StringSplitOptions.TrimEntries)
    |> List.ofArray

let smol = Path.Combine(data, "smollm2-135m-instruct", "model.gguf")

/// SmolLM2 in q4_k_m, made once.
let quantised () =
    let path = Path.Combine(root, "runs", "drafting", "smollm2-135m-q4_k_m.gguf")

    if not (File.Exists path) then
        Directory.CreateDirectory(Path.GetDirectoryName path) |> ignore
        let mix = (GgufMix.tryFind "q4_k_m").Value
        let model = Checkpoint.load smol (Some Dtype.F32) Device.Cpu |> orStop
        Export.quantise mix model.Config.Layers path model |> orStop |> ignore

    path

/// What scripts/continual-stories260k.fsx has made, if it has.
let trained () =
    let run = given.Path "--trained"
    let folder = Path.Combine(run, "settle")

    match
        (if Directory.Exists folder then
             TrainingCheckpoint.all folder
         else
             [])
    with
    | (_, latest) :: _ -> [ ("stories260K, trained", latest) ]
    | [] ->
        eprintfn $"stories260K is left out: scripts/continual-stories260k.fsx has not made {run}"
        []

let models =
    match given.TryText "--models" with
    | Some paths -> [ for path in listed paths -> Path.GetFileName(path.TrimEnd '/'), path ]
    | None -> [
        "stories-10m", Path.Combine(root, "models", "stories-10m")
        if File.Exists smol then
            "SmolLM2-135M f16", smol
            if not isQuick then
                "SmolLM2-135M q4_k_m", quantised ()
        else
            eprintfn $"SmolLM2-135M is left out: {smol} is not there"
        yield! trained ()
      ]

let exitOf (model: Checkpoint) exit = ExitLayer.TryCreate(model.Config.Layers, exit) |> orStop

/// Drafting that chooses for itself, from what passes take.
let auto (model: Checkpoint) (costs: PassCosts) (lookup: bool) (past: PastTexts option) : Strategy =
    let recommended = model.Recommended |> Option.map (fun (exit, _) -> exitOf model exit)

    AutoDrafter.create {
        Costs = costs
        Exits = AutoDrafter.candidates model.Config.Layers recommended
        Start = recommended
        Longest = Strategy.LongestDraft
        Lookup = lookup
        Past = past
    }
    |> Strategy.Adaptive

/// The ways that are compared beside fixed exits: a name, and for a model and what its passes take what makes its strategy.
let ways: (string * (Checkpoint -> PassCosts -> PastTexts -> Strategy)) list = [
    "prompt-lookup",
    fun _ _ _ -> Strategy.Speculative(Drafter.promptLookup PromptLookup.defaultNgram, LengthPolicy.Fixed 10)
    "suffix-lookup", fun _ _ _ -> Strategy.Adaptive(Drafter.suffixLookup None)
    "suffix-lookup with past", fun _ _ past -> Strategy.Adaptive(Drafter.suffixLookup (Some past))
    "del",
    fun model _ _ ->
        let layers = model.Config.Layers

        AdaptivePolicies.del false layers [||]
        |> Drafter.ofPolicy [ for exit in 1 .. layers - 1 -> exitOf model exit ] 32 StopRule.never
        |> Strategy.Adaptive
    "cascade",
    fun model _ _ ->
        let exit, length = Checkpoint.exitAndDraft model
        Strategy.Adaptive(CascadeDrafter.create StopRule.never (exitOf model exit) length None)
    "auto of exits", fun model costs _ -> auto model costs false None
    "auto", fun model costs _ -> auto model costs true None
    "auto with past", fun model costs past -> auto model costs true (Some past)
]

let wanted =
    match given.TryText "--ways" with
    | None when isQuick ->
        ways
        |> List.filter (fun (way, _) ->
            List.contains way [ "prompt-lookup"; "suffix-lookup"; "del"; "cascade"; "auto" ])
    | None -> ways
    | Some names ->
        listed names
        |> List.map (fun name ->
            match ways |> List.tryFind (fun (way, _) -> way = name) with
            | Some way -> way
            | None ->
                let all = ways |> List.map fst |> String.concat ", "
                stop 2 $"--ways: there is no {name}; there are {all}")

let judged =
    match given.TryText "--of" with
    | Some way -> way
    | None when List.exists (fun (way, _) -> way = "auto") wanted -> "auto"
    | None -> "suffix-lookup"

/// The exits and lengths that a replay of every text has at the front over all of them, and how many times as fast as plain
/// decoding the oracle of each text is.
let replayed (model: Checkpoint) (texts: ComparedText list) : (int * int) list * Map<string, float> =
    let layers = model.Config.Layers
    let recommendedExit, recommendedLength = Checkpoint.exitAndDraft model

    let options = {
        Trace = { Trace.options with MaxNewTokens = limit; StopIds = model.StopIds }
        Exits = [ 1 .. layers - 1 ]
        Lengths = ReplayReport.defaultLengths
        Start = DraftPlan.fixed' (exitOf model recommendedExit) recommendedLength
        BudgetMs = RoundTimes.budgetMs
    }

    let middle = (texts |> List.sumBy _.Prompt.Length) / texts.Length + limit / 2

    let times =
        RoundTimes.measure model.Weights (min middle (model.Config.Context - 40)) {
            Exits = options.Exits
            Lengths = options.Lengths
            BudgetMs = options.BudgetMs
        }

    let reports =
        texts
        |> List.map (fun text -> text, Trace.run model.Weights options.Trace text.Prompt |> orStop)
        |> List.filter (fun (_, trace) -> trace.Rows.Length > 0)
        |> List.map (fun (text, trace) -> text, ReplayReport.ofTrace times options trace)

    let ranked =
        reports
        |> List.collect (fun (_, report) -> report.Grid)
        |> List.groupBy (fun point -> point.Exit, point.DraftLength)
        |> List.sortByDescending (fun (_, points) -> points |> List.averageBy (fun point -> log point.Ratio))
        |> List.map fst

    let recommended =
        if model.Recommended.IsSome then
            [ (recommendedExit, recommendedLength) ]
        else
            []

    List.distinct (recommended @ List.truncate statics ranked),
    Map.ofList [
        for text, report in reports do
            match report.Policies with
            | oracle :: _ -> text.Name, oracle.Ratio
            | [] -> ()
    ]

let shown (interval: Interval) = $"%5.2f{interval.Value} [%.2f{interval.Low}, %.2f{interval.High}]"

let table (title: string) (cells: ComparedCell list) =
    printfn "\n%s" title
    printfn
        "%-22s %-20s %-7s %-32s %-7s %s"
        "way"
        "times plain's speed"
        "by rate"
        "worst prompt"
        "policy"
        "accepted, by source"

    for summary in Comparison.summaries cells do
        let text, lowest = summary.Worst

        let sources =
            [
                for source in summary.Sources ->
                    $"{source.Source} {source.AcceptedDraftTokens} of {source.DraftTokens}"
            ]
            |> String.concat ", "

        printfn
            "%-22s %-20s %5.2f   %-32s %4.1f %%  %s%s"
            summary.Way
            (shown summary.ToPlain)
            summary.SpeedUp.OfRates.Value
            $"{lowest.Value:F2} {text.Name}"
            (100.0 * summary.PolicyShare)
            sources
            (if summary.SameText then "" else "  ANOTHER TEXT")

/// Ways over kinds of text, times as fast as plain decoding.
let byKind (cells: ComparedCell list) =
    let sets = cells |> List.groupBy _.Text.Set
    let short (name: string) = name[.. min name.Length 10 - 1]
    printfn
        "\n%-22s %s"
        "times plain's speed"
        (sets |> List.map (fun (set, _) -> $"%10s{short set}") |> String.concat " ")

    for way in cells |> List.map _.Way |> List.distinct do
        let ratios =
            sets
            |> List.map (fun (_, cells) ->
                $"%10.2f{(Comparison.ratio Comparison.plain.Name way cells).Value}")
            |> String.concat " "

        printfn "%-22s %s" way ratios

/// What the way in question is worth beside the best static, where there is one, and plain decoding.
let verdict (best: string option) (cells: ComparedCell list) =
    if cells |> List.exists (fun cell -> cell.Way = judged) then
        match best with
        | Some best ->
            printfn
                "\n%s over the best static (%s): %s"
                judged
                best
                (shown (Comparison.ratio best judged cells))
        | None -> ()

        match Comparison.worst Comparison.plain.Name judged cells with
        | Some(text, lowest) ->
            printfn "%s over plain decoding on its worst prompt, %s: %s" judged text.Name (shown lowest)
        | None -> ()

let quickTexts = [ "multi-turn 1"; "rag 1"; "TinyStories 1"; "Gutenberg 1"; "code edit 1" ]

/// "best static": what of each model the best static did, under one name.
let bestStatic = "best static"

let compare (name: string, path: string) =
    use model = Checkpoint.load path None Device.Cpu |> orStop
    let most = min promptTokens (model.Config.Context - limit)
    let all = Prompts.sets data model textsOfKind most

    let texts =
        if isQuick then
            // Of every kind one is like it.
            all |> List.filter (fun text -> List.contains text.Name quickTexts)
        else
            all
    let fixedOnes, oracle = replayed model texts

    let began = Diagnostics.Stopwatch.StartNew()
    let costs = PassProfile.measure model.Weights
    eprintfn "%s: passes profiled in %d ms" name began.ElapsedMilliseconds

    let compared: ComparedWay list = [
        for exit, length in fixedOnes do
            {
                Name = $"exit {exit}, {length} drafts"
                IsStatic = true
                Strategy = fun _ -> Strategy.SelfSpeculative(exitOf model exit, length)
            }
        for way, strategy in wanted do
            { Name = way; IsStatic = false; Strategy = strategy model costs }
    ]

    let options = {
        Ways = compared
        Runs = runs
        MaxNewTokens = limit
        StopIds = model.StopIds
        Progress = fun told -> eprintfn "%s: %s" name told
    }

    let cells = Comparison.run model.Weights options texts |> orStop
    let best = Comparison.summaries cells |> Comparison.bestStatic |> Option.map _.Way
    let about = $"{name}, {CpuKernels.threads ()} threads, {Benchmark.cpu ()}, {runs} runs of {limit} tokens"
    table about cells
    byKind cells
    verdict best cells

    let line = ComparisonJson.line name oracle cells
    let drawn =
        (judged :: Option.toList best) @ [ "del"; "suffix-lookup"; "prompt-lookup" ]
        |> List.distinct
        |> List.filter (fun way -> cells |> List.exists (fun cell -> cell.Way = way))
    let named =
        cells
        |> List.map (fun cell -> { cell with Text = { cell.Text with Name = $"{name}: {cell.Text.Name}" } })

    let statics =
        named
        |> List.filter (fun cell -> Some cell.Way = best)
        |> List.map (fun cell -> { cell with Way = bestStatic })

    (named |> List.filter (fun cell -> not cell.IsStatic)) @ statics,
    line,
    ComparisonPlots.all about drawn oracle cells

let made = models |> List.map compare
let cells = made |> List.collect (fun (cells, _, _) -> cells)

if models.Length > 1 then
    table "all models" cells
    byKind cells
    verdict (Some bestStatic) cells

given.TryText "--json"
|> Option.iter (fun path ->
    let lines = [ for _, line, _ in made -> line ] @ [ ComparisonJson.line "all" Map.empty cells ]
    AtomicFile.writeBytes path (Text.Encoding.UTF8.GetBytes(String.concat "\n" lines + "\n"))
    |> orStop)

given.TryText "--html"
|> Option.iter (fun path ->
    Plots.save path "Ways to draft" [
        for _, _, parts in made do
            yield! parts
    ]
    |> orStop)

if cells |> List.exists (fun cell -> not cell.SameText) then
    stop 1 "a text is not plain decoding's"
#endif
