// How fast training is: 6 x parameters x tokens a second over the rate of a 1024 x 1024 float32 product, measured in the same
// run and interleaved, for one exit, for four, for four by self-distillation, and with layer dropout; each in float32 and with
// products in bfloat16, where the processor multiplies it (--threads N: of libtorch).
//
//     dotnet fsi scripts/train-throughput.fsx
//     dotnet fsi scripts/train-throughput.fsx --rounds N --threads N
#load "options.fsx"

open Options

let given = Given [ ("--rounds N", "7"); ("--threads N", "0") ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else

open System
open System.Diagnostics
open TorchSharp
open LayerSkip

let rounds = given.Whole("--rounds", 1)

let threads = given.Whole("--threads", 0)

Backend.ensure ()

if threads > 0 then
    Backend.setThreads threads

let batch, length = 16, 256

let sizes =
    LlamaConfig.Llama(4096, 12, hidden = 256, intermediate = 768, heads = 8, kvHeads = 4, context = length)

let config = { sizes with TiedHead = true }

/// Floating-point operations a second of a product as large as a layer's.
let product () =
    Scope.free (fun () ->
        let a, b = torch.randn (1024L, 1024L), torch.randn (1024L, 1024L)
        let started = Stopwatch.GetTimestamp()

        for _ in 1..20 do
            a.mm(b).Dispose()

        20.0 * 2.0 * 1024.0 ** 3.0 / Stopwatch.GetElapsedTime(started).TotalSeconds)

let weights = Weights.initial 1L Dtype.F32 Device.Cpu config
let parameters = float (Weights.parameters config)
let random = Random 1

let read (_: int64) count =
    Batch.ofIds (Array.init count (fun _ -> Array.init length (fun _ -> random.Next config.Vocabulary)))

let labels, lastLayer = LossOptions.standard.Targets, { Labels = 0.0; LastLayer = 1.0 }
let four = ExitRule.Emphasis([ 2, 1.0; 4, 1.0; 6, 1.0 ], 1)

let plan precision dropout exits targets =
    let recipe = {
        Dropout = dropout
        Depth = DropoutShape.Exponential
        Time = DropoutShape.Constant
        Exits = exits
        Targets = targets
    }

    let options = {
        TrainingOptions.standard recipe with
            BatchSize = batch
            SequenceLength = length
            Precision = precision
    }

    let parts = Recipe.tryBuild config.Layers options.Steps 0L recipe |> Check.getOrRaise
    Training.plan options parts Ranks.alone weights read

let recipes = [
    "one exit", 0.0, ExitRule.LastOnly, labels
    "four exits", 0.0, four, labels
    "four exits, self-distillation", 0.0, four, lastLayer
    "one exit, layer dropout 0.5", 0.5, ExitRule.LastOnly, labels
]

let plans = [
    for name, dropout, exits, targets in recipes do
        for precision in [ Dtype.F32; Dtype.BF16 ] ->
            $"{name}, {Dtype.name precision}", plan precision dropout exits targets
]

let mutable trainee = Training.start weights

let measure plan =
    let rate = product ()

    match Training.step plan trainee with
    | Ok(struct (report, next)) ->
        trainee <- next
        let tokens = float report.Tokens / report.Seconds
        tokens, 6.0 * parameters * tokens / rate, rate
    | Error fault -> failwith $"step {fault.Step}: {fault.What}"

for _, plan in plans do
    measure plan |> ignore

let results =
    [
        for _ in 1..rounds -> plans |> List.map (fun (name, plan) -> name, measure plan)
    ]
    |> List.concat

let quantile q (values: float list) =
    let sorted = List.sort values
    sorted[int (q * float (sorted.Length - 1))]

printfn
    "%.1f M parameters, batch %d x %d, %d threads, %d rounds; product %.0f GFLOP/s; bf16 multiplies in %s"
    (parameters / 1e6)
    batch
    length
    (torch.get_num_threads ())
    rounds
    (results |> List.map (fun (_, (_, _, rate)) -> rate / 1e9) |> quantile 0.5)
    (if Bfloat16.isFast then
         "bfloat16"
     else
         "float32: this processor has no other")

printfn "| | tokens/s | share of the product's rate | 5 %% to 95 %% |\n|---|---|---|---|"

for name, _ in plans do
    let own = results |> List.filter (fst >> (=) name) |> List.map snd
    let tokens = own |> List.map (fun (tokens, _, _) -> tokens)
    let shares = own |> List.map (fun (_, share, _) -> share)

    printfn
        "| %s | %.0f | %.2f | %.2f to %.2f |"
        name
        (quantile 0.5 tokens)
        (quantile 0.5 shares)
        (quantile 0.05 shares)
        (quantile 0.95 shares)

let ratios name =
    let tokens precision =
        results
        |> List.filter (fst >> (=) $"{name}, {Dtype.name precision}")
        |> List.map (fun (_, (tokens, _, _)) -> tokens)

    List.map2 (/) (tokens Dtype.BF16) (tokens Dtype.F32)

for name, _, _, _ in recipes do
    printfn "%s: bf16 reads %.2f times as many tokens a second" name (ratios name |> quantile 0.5)

printfn "peak memory %d MiB" (Process.GetCurrentProcess().PeakWorkingSet64 >>> 20)
#endif
