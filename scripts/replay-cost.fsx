// What a replay's one run costs: plain decoding of a text, the same with every exit's head at every token, and the trace that
// a replay reads, which puts hidden states aside and reads the head once for many. Runs alternate; medians of whole decodings, and
// the same less the pass over the prompt, which all have alike.
//
//     dotnet fsi scripts/replay-cost.fsx
//     dotnet fsi scripts/replay-cost.fsx --model DIR --prompt TEXT --max-new-tokens N --runs N --threads N
#load "options.fsx"

open Options

let given =
    Given [
        "--model DIR", "models/stories-10m"
        "--prompt TEXT", "Once upon a time"
        "--max-new-tokens N", "128"
        "--runs N", "15"
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

let model = Checkpoint.load (given.Path "--model") None Device.Cpu |> orStop
let limit = given.Whole("--max-new-tokens", 2)
let runs = given.Whole("--runs", 1)

let prompt =
    match model.Tokenizer with
    | Some tokenizer -> Tokenizer.encode tokenizer (given.Text "--prompt")
    | None -> [| defaultArg model.Config.Bos 1 |]

/// Milliseconds on the clock, and of processors, which others' work hardly touches but where threads wait by turning.
let ms (body: unit -> 'T) : float * float =
    let own = Process.GetCurrentProcess().TotalProcessorTime
    let started = Stopwatch.GetTimestamp()
    body () |> ignore

    Stopwatch.GetElapsedTime(started).TotalMilliseconds,
    (Process.GetCurrentProcess().TotalProcessorTime - own).TotalMilliseconds

let decode () =
    Generation.complete model.Weights None (GenerationOptions.greedy Strategy.Autoregressive limit) prompt
    |> orStop

let trace promptRows =
    Trace.run model.Weights { Trace.options with MaxNewTokens = limit; PromptRows = promptRows } prompt
    |> orStop

/// As decoding reads a token, with the head after each layer as soon as its states are there.
let live () =
    let start = Cache.create model.Weights model.Config.Layers (prompt.Length + limit)
    use _storage = start.Slab :> IDisposable
    use _noGrad = Scope.noGrad ()
    let choose hidden = (Logits.argmax (Model.logits hidden))[0]

    let read forward =
        let struct (hidden, cache) = forward ()
        choose hidden, cache

    let mutable token, cache =
        Scope.free (fun () -> read (fun () -> Model.forward model.Weights 1 prompt start))

    for _ in 2..limit do
        let latest, before = token, cache

        let next, after =
            Scope.free (fun () ->
                read (fun () ->
                    Model.forwardEach
                        model.Weights
                        1
                        [| latest |]
                        (fun layer hidden ->
                            if layer < model.Config.Layers then
                                choose hidden |> ignore)
                        before))

        token <- next
        cache <- after

let bodies: (string * (unit -> unit)) list = [
    "plain decoding", decode >> ignore
    "every exit's head live", live
    "trace", (fun () -> trace 0 |> ignore)
    "trace with 32 prompt rows", (fun () -> trace 32 |> ignore)
]

// Until .NET has compiled all of it for speed, which it does in the background.
let warming = Stopwatch.StartNew()

while warming.ElapsedMilliseconds < 3000L do
    for _, body in bodies do
        body ()

    Threading.Thread.Sleep 100

let prefill () =
    let options = GenerationOptions.greedy Strategy.Autoregressive 1
    Generation.complete model.Weights None options prompt |> orStop |> ignore

let median (values: float list) = (List.sort values)[values.Length / 2]

let times =
    List.init runs (fun _ -> ms prefill :: [ for _, body in bodies -> ms body ])
    |> List.transpose

let clock, processor = times |> List.map (List.map fst), times |> List.map (List.map snd)
let first, plain = median clock.Head, median clock[1]

printfn
    "%d tokens after %d, %d layers, %d threads; median of %d; the prompt's pass %.2f ms"
    limit
    prompt.Length
    model.Config.Layers
    (CpuKernels.threads ())
    runs
    first

printfn "                                    ms  of plain  without the prompt's pass  of processor time"

for index, (name, _) in List.indexed bodies do
    let own = median clock[index + 1]

    printfn
        "%-26s %11.2f  %8.2f  %25.2f  %17.2f"
        name
        own
        (own / plain)
        ((own - first) / (plain - first))
        (List.sum processor[index + 1] / List.sum processor[1])
#endif
