// What an adapter behind an exit is worth to a model that was never trained to exit: the share of drafts that are kept, before (the exit's own
// states) and after, and the speed beside plain decoding, with the whole head and with a draft vocabulary in context; the acceptance from which
// drafting pays at these times; and what a model of 8 billion parameters would gain of the same acceptance, counted in bytes that are read.
//
//     dotnet fsi scripts/adapter.fsx --adapter FILE
//     dotnet fsi scripts/adapter.fsx --model ../shared/data/smollm2-135m-instruct/model.gguf --adapter FILE --threads 1 --texts 1 --runs 2
#load "options.fsx"

open Options

let given =
    Given [
        "--model PATH", "../shared/data/smollm2-135m-instruct/model.gguf"
        "--dtype T", "as stored"
        "--adapter FILE", "the model's own"
        "--exit-layer E", "the adapter's"
        "--draft-lengths D,D", "2,3,4"
        "--data DIR", "../shared/data"
        "--texts N", "2 of each kind"
        "--prompt-tokens N", "384"
        "--max-new-tokens N", "64"
        "--runs N", "5"
        "--threads N", "one for each core"
    ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else

#load "prompts.fsx"

open System
open LayerSkip

Backend.load () |> orStop |> ignore
given.TryWhole("--threads", 1) |> Option.iter CpuKernels.setThreads

let dtype =
    given.TryText "--dtype"
    |> Option.map (fun name ->
        match Dtype.all |> List.tryFind (fun dtype -> Dtype.name dtype = name) with
        | Some dtype -> dtype
        | None -> stop 2 $"--dtype is {name}, it must be f32, f16, bf16 or f64")

let lengths = given.Wholes("--draft-lengths", 1, Int32.MaxValue)

let loaded = Checkpoint.load (given.Path "--model") dtype Device.Cpu |> orStop

let model =
    match given.TryText "--adapter" with
    | Some file -> Adapters.withFile file loaded
    | None -> loaded

let wanted = given.TryWhole("--exit-layer", 1)
let adapter = Adapters.load wanted model |> orStop
Adapters.remarks wanted model |> List.iter (eprintfn "%s")
let weights, config, exit = model.Weights, model.Config, adapter.Exit
let limit = given.Whole("--max-new-tokens", 1)

let texts =
    Prompts.sets
        (given.Path "--data")
        model
        (given.Whole("--texts", 1))
        (min (given.Whole("--prompt-tokens", 1)) (config.Context - limit))

printfn
    "%s in %s, %d threads; %s adapter behind layer %d of %d: %d parameters, %.1f %% of the model's"
    model.Path
    (Weights.description weights)
    (CpuKernels.threads ())
    (AdapterForm.name adapter.Form)
    exit.Layers
    config.Layers
    (Adapter.parameters adapter)
    (100.0 * float (Adapter.parameters adapter) / float (Weights.parameters config))

let vocabulary = ContextVocabulary.auto config

let within (strategy: Strategy) =
    match vocabulary with
    | Some vocabulary -> strategy.Within vocabulary
    | None -> strategy

let way name (strategy: unit -> Strategy) : ComparedWay = {
    Name = name
    IsStatic = false
    Strategy = fun _ -> strategy ()
}

let adapted length = Strategy.Speculative(AdapterDrafter.create adapter, LengthPolicy.Fixed length)

let ways = [
    for length in lengths do
        way $"exit, d = {length}" (fun () -> Strategy.SelfSpeculative(exit, length))
        way $"adapter, d = {length}" (fun () -> adapted length)

        if vocabulary.IsSome then
            way $"adapter in context, d = {length}" (fun () -> within (adapted length))
]

let options = {
    Ways = ways
    Runs = given.Whole("--runs", 1)
    MaxNewTokens = limit
    StopIds = model.StopIds
    Progress = eprintfn "%s"
}

let cells = Comparison.run weights options texts |> orStop

printfn "\n%-26s %-8s %-22s %-8s %s" "way" "kept" "times plain's speed" "worst" "kept by kind of text"

let sum (of': SourceStats -> int) (stats: SourceStats seq) = stats |> Seq.sumBy of' |> float

for summary in Comparison.summaries cells do
    let share (stats: SourceStats seq) = sum _.AcceptedDraftTokens stats / max 1.0 (sum _.DraftTokens stats)
    let own = cells |> List.filter (fun cell -> cell.Way = summary.Way)

    let kinds =
        own
        |> List.groupBy _.Text.Set
        |> List.map (fun (set, cells) -> $"{set} {100.0 * share (cells |> Seq.collect _.Stats.Sources):F0}")
        |> String.concat ", "

    let text, lowest = summary.Worst

    printfn
        "%-26s %5.1f %%  %4.2f [%.2f, %.2f]      %4.2f     %s%s"
        summary.Way
        (100.0 * share summary.Sources)
        summary.ToPlain.Value
        summary.ToPlain.Low
        summary.ToPlain.High
        lowest.Value
        kinds
        (if summary.SameText then "" else "  ANOTHER TEXT")

/// Tokens of a round of d drafts, of which each is kept with probability a while those before it are (Leviathan et al. 2023, equation 1).
let perRound (a: float) d = Seq.init (d + 1) (fun i -> a ** float i) |> Seq.sum

/// The a from which rounds of d drafts, which cost so many plain steps, bring as much as plain steps; 1 and more: none.
let breakEven d cost =
    seq { 0.0..0.001..1.0 }
    |> Seq.tryFind (fun a -> perRound a d >= cost)
    |> Option.map (fun a -> $"{a:F2}")
    |> Option.defaultValue "none"

/// The a that makes so many tokens a round.
let chance d (tokens: float) =
    seq { 0.0..0.001..1.0 }
    |> Seq.tryFind (fun a -> perRound a d >= tokens)
    |> Option.defaultValue 1.0

printfn "\nA round in plain steps, as measured, and the chance per draft from which it pays:"
printfn "%-26s %-8s %-8s %s" "way" "cost" "chance" "break-even"

let plainMs (text: ComparedText) =
    (cells |> List.find (fun cell -> cell.Way = Comparison.plain.Name && cell.Text = text)).MsPerToken

let chances = Collections.Generic.Dictionary<string, float>()

for length in lengths do
    for way in ways |> List.filter (fun way -> way.Name.EndsWith $"d = {length}") do
        let own = cells |> List.filter (fun cell -> cell.Way = way.Name && Double.IsFinite cell.MsPerToken)
        let rounds = own |> List.sumBy (fun cell -> float cell.Stats.NumSpecSteps)
        let tokens =
            own
            |> List.sumBy (fun cell -> float (cell.Stats.NumSpecSteps + cell.Stats.NumAcceptedDraftTokens))

        // Time of all rounds over that of as many plain steps.
        let cost =
            own
            |> List.sumBy (fun cell ->
                let tokens = float (cell.Stats.NumSpecSteps + cell.Stats.NumAcceptedDraftTokens)
                tokens * cell.MsPerToken / plainMs cell.Text)
            |> fun steps -> steps / rounds

        let chance = chance length (tokens / rounds)
        chances[way.Name] <- chance
        printfn "%-26s %5.2f    %4.2f     %s" way.Name cost chance (breakEven length cost)

/// Llama-3.1-8B: numbers of a layer, of its head, and its layers; decoding reads each once a token.
let layer, head, layers = 218.1e6, 525.3e6, 32.0

printfn
    "\nThe same chances in Llama-3.1-8B, in bytes read: exit %.0f of %.0f and a block, a sixteenth of the head, d drafts and a whole pass:"
    (round (float exit.Layers / float config.Layers * layers))
    layers

for length in lengths do
    match chances.TryGetValue $"adapter in context, d = {length}" with
    | true, chance ->
        let draft = (round (float exit.Layers / float config.Layers * layers) + 1.0) * layer + head / 16.0
        let cost = 1.0 + float length * draft / (layers * layer + head)
        printfn
            "d = %d: cost %.2f, %.2f tokens a round, %.2f times plain decoding; break-even chance %s"
            length
            cost
            (perRound chance length)
            (perRound chance length / cost)
            (breakEven length cost)
    | _ -> ()
#endif
