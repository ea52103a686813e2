// What an engine makes of many streams at once, and a conversation of many turns: tokens a second of 1, 8 and 32 streams beside plain
// generation, in turn; and how long the first token of each turn takes, with the cache kept and without.
//
//     dotnet fsi scripts/streams.fsx
//     dotnet fsi scripts/streams.fsx --model FILE --streams 1,8,32 --turns 10 --max-new-tokens 64 --threads 1
#load "options.fsx"

open Options

let given =
    Given [
        "--model DIR", "models/stories-10m"
        "--streams N,N", "1,8,32"
        "--max-new-tokens N", "64"
        "--turns N", "10"
        "--turn-tokens N", "12"
        "--runs N", "5"
        "--threads N", "one for each core"
    ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else

open System
open System.Diagnostics
open System.Threading
open LayerSkip

Backend.load () |> orStop |> ignore
given.TryWhole("--threads", 1) |> Option.iter CpuKernels.setThreads

let model = Checkpoint.load (given.Path "--model") None Device.Cpu |> orStop
let limit, runs = given.Whole("--max-new-tokens", 1), given.Whole("--runs", 1)

let strategy = StrategyChoice.create Sampling.Greedy model StrategyChoice.none |> orStop

let options = GenerationOptions.greedy strategy limit
let vocabulary = model.Config.Vocabulary
let random = Random 1
let ids count = Array.init count (fun _ -> random.Next(3, vocabulary))
let prompts = [| for _ in 1..64 -> ids 16 |]

let median (values: float list) = (List.sort values)[values.Length / 2]
let timed (work: unit -> 'T) =
    let watch = Stopwatch.StartNew()
    let result = work ()
    watch.Elapsed.TotalSeconds, result

let plain () =
    let seconds, made =
        timed (fun () -> Generation.complete model.Weights model.Tokenizer options prompts[0] |> orStop)
    float made.TokenIds.Length / seconds

let streams (engine: Engine) count =
    let seconds, tokens =
        timed (fun () ->
            [
                for prompt in Array.truncate count prompts ->
                    match
                        engine.Submit { EngineRequest.create options prompt with SharesPrefix = false }
                    with
                    | Ok ticket -> ticket
                    | Error refusal -> failwith $"%A{refusal}"
            ]
            |> List.sumBy (fun ticket -> ticket.Completed.Result.TokenIds.Length))

    float tokens / seconds

let counts = given.Wholes("--streams", 1, prompts.Length)
let engine = new Engine(model, { EngineOptions.defaults with Slots = List.max counts })

printfn $"{model.Path}, {Weights.description model.Weights}, {CpuKernels.threads ()} threads, {strategy.Name}"
plain () |> ignore

let rates = [
    for _ in 1..runs do
        ("alone", plain ())
        for count in counts do
            ($"{count} streams", streams engine count)
]

let rateOf name = rates |> List.filter (fst >> (=) name) |> List.map snd |> median

for name in "alone" :: [ for count in counts -> $"{count} streams" ] do
    let rate = rateOf name
    printfn "%-12s %8.1f tokens a second, %.2f of one alone" name rate (rate / rateOf "alone")

(engine :> IDisposable).Dispose()

// Every turn adds its own tokens to all that was said.
let turns, own = given.Whole("--turns", 1), given.Whole("--turn-tokens", 1)

let converse keeps =
    use conversation = Conversation.start model
    let options = { options with MaxNewTokens = 8 }
    let random = Random 2
    let mutable text = [||]

    [
        for _ in 1..turns do
            text <- Array.append text (Array.init own (fun _ -> random.Next(3, vocabulary)))

            if not keeps then
                conversation.Clear()

            let start = Conversation.continued options text conversation |> orStop
            let made = start CancellationToken.None |> Generation.result
            text <- Array.append text made.TokenIds
            made.Timings.TtftMs
    ]

converse true |> ignore
let kept = [ for _ in 1..runs -> converse true ] |> List.transpose |> List.map median
let anew = [ for _ in 1..runs -> converse false ] |> List.transpose |> List.map median

printfn
    $"turn: first token in ms with the cache kept, and read anew ({own} tokens a turn, and 8 of the answer)"

for turn, (kept, anew) in List.zip kept anew |> List.indexed do
    printfn "%4d  %7.2f  %7.2f" (turn + 1) kept anew
#endif
