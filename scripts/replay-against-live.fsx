// What a replay predicts against what decoding takes: one replay, then live runs over a spread of exit layers and draft
// lengths, interleaved with plain decoding. Prints milliseconds a token, predicted and measured, and the median error; checks that every
// round is as replayed.
//
//     dotnet fsi scripts/replay-against-live.fsx
//     dotnet fsi scripts/replay-against-live.fsx --model DIR --prompt TEXT --exit-layers 1,2,4 --draft-lengths 1,4 --max-new-tokens N --runs N
#load "options.fsx"

open Options

let given =
    Given [
        "--model DIR", "models/stories-10m"
        "--prompt TEXT", "Once upon a time"
        "--exit-layers 1,2,4", "a spread"
        "--draft-lengths 1,2,4", "1,2,3,4,6,8"
        "--max-new-tokens N", "128"
        "--runs N", "7"
        "--threads N", "one for each core"
        "--html FILE", "no page"
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

let model = Checkpoint.load (given.Path "--model") None Device.Cpu |> orStop
let layers = model.Config.Layers
let limit = given.Whole("--max-new-tokens", 2)
let runs = given.Whole("--runs", 1)

let numbers (name: string) (fallback: int list) =
    given.TryWholes(name, Int32.MinValue, Int32.MaxValue) |> Option.defaultValue fallback

let exits =
    [ 1; 2; 3; 4; 6; 8; 12; 16; 20; layers - 1 ]
    |> List.filter (fun exit -> exit < layers)
    |> List.distinct
    |> numbers "--exit-layers"

let lengths = numbers "--draft-lengths" [ 1; 2; 3; 4; 6; 8 ]

let prompt =
    match model.Tokenizer with
    | Some tokenizer -> Tokenizer.encode tokenizer (given.Text "--prompt")
    | None -> [| defaultArg model.Config.Bos 1 |]

let decode strategy =
    Generation.complete model.Weights None (GenerationOptions.greedy strategy limit) prompt
    |> orStop

let exitOf exit = ExitLayer.TryCreate(layers, exit) |> orStop
let strategies = [
    for exit in exits do
        for length in lengths -> exit, length, Strategy.SelfSpeculative(exitOf exit, length)
]
let perToken (made: Completion) = made.Timings.DecodeMs / float (max 1 (made.TokenIds.Length - 1))
let median (values: float list) = (List.sort values)[values.Length / 2]

// Until .NET has compiled all of it for speed, which it does in the background.
let warming = Stopwatch.StartNew()

while warming.ElapsedMilliseconds < 3000L do
    decode Strategy.Autoregressive |> ignore
    decode (Strategy.SelfSpeculative(exitOf exits.Head, 4)) |> ignore
    Threading.Thread.Sleep 100

let recommendedExit, recommendedDraft = Checkpoint.exitAndDraft model

let options = {
    Trace = { Trace.options with MaxNewTokens = limit }
    Exits = [ 1 .. layers - 1 ]
    Lengths = List.distinct (ReplayReport.defaultLengths @ lengths)
    Start = DraftPlan.fixed' (exitOf recommendedExit) recommendedDraft
    BudgetMs = RoundTimes.budgetMs
}

let started = Stopwatch.GetTimestamp()
let report = ReplayReport.run model.Weights options prompt |> orStop
let replayMs = Stopwatch.GetElapsedTime(started).TotalMilliseconds

let times =
    match report.Times with
    | Some times -> times
    | None -> stop 2 "the model's context has no room for a round"

// Interleaved, so that noise meets all.
let live =
    List.init runs (fun _ ->
        decode Strategy.Autoregressive |> perToken,
        strategies |> List.map (fun (_, _, strategy) -> decode strategy))

let plain = live |> List.map fst |> median

let points = [
    for index, (exit, length, _) in List.indexed strategies do
        let predicted =
            report.Grid |> List.find (fun point -> point.Exit = exit && point.DraftLength = length)

        let made = live |> List.map (fun (_, all) -> all[index])

        for run in made do
            if run.Stats.Rounds <> predicted.Stats.Rounds then
                stop 1 $"exit layer {exit}, draft length {length}: live rounds are not the replayed ones"

        exit, length, predicted, made |> List.map perToken |> median
]

printfn "%s, %d threads, %s" (given.Text "--model") (CpuKernels.threads ()) (Benchmark.cpu ())
printfn "replay of the whole surface %.0f ms; rounds timed %d times or more" replayMs times.Samples
printfn "plain decoding: predicted %.4f, measured %.4f ms a token" times.PlainMs plain
printfn "exit  draft  predicted  measured   error   ratio predicted  measured"

for exit, length, predicted, measured in points do
    printfn
        "%4d  %5d  %9.4f  %8.4f  %+5.1f %%            %5.2fx  %7.2fx"
        exit
        length
        predicted.MsPerToken
        measured
        (100.0 * (predicted.MsPerToken / measured - 1.0))
        predicted.Ratio
        (plain / measured)

let error pick =
    points
    |> List.map (fun (_, _, predicted: ReplayPoint, measured) -> abs (pick predicted measured - 1.0))
    |> median

printfn "rounds             equal in %d runs" (runs * strategies.Length)
printfn
    "median error       %.1f %% of the time a token"
    (100.0 * error (fun predicted measured -> predicted.MsPerToken / measured))
printfn
    "median error       %.1f %% of the ratio to plain decoding"
    (100.0 * error (fun predicted measured -> predicted.Ratio / (plain / measured)))

match given.TryText "--html" with
| None -> ()
| Some path ->
    let name = given.Text "--model"

    let about =
        $"{name}, {limit} new tokens, {CpuKernels.threads ()} threads, {Benchmark.cpu ()}; medians of {runs} runs"

    let dots = [
        for exit, length, predicted, measured in points ->
            $"exit layer {exit}, draft length {length}", predicted.MsPerToken, measured
    ]

    Plots.save path "Replay against live decoding" [
        PagePart.Drawn(ReplayPlots.predicted about dots)
        PagePart.Drawn(ReplayPlots.surface about report)
    ]
    |> orStop
#endif
