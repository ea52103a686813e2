// The paper's ablation (LayerSkip, section 6) on a small model from scratch: no recipe, layer dropout, early-exit loss, both,
// and dropout that is constant over depth with the same mean. Writes a table and a plot of cross entropy per exit.
//
//     dotnet fsi scripts/ablation.fsx
//     dotnet fsi scripts/ablation.fsx --text DIR --tokenizer DIR --run DIR --steps N
#load "options.fsx"

open Options

let given =
    Given [
        "--text DIR", "../shared/data/text"
        "--tokenizer DIR", "models/stories-10m"
        "--run DIR", "runs/ablation"
        "--steps N", "600"
    ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else
open System
open System.IO
open LayerSkip

let text = given.Path "--text"
let run = given.Path "--run"
let steps = given.Whole("--steps", 1)

/// The default model's own, unless another is named.
let tokenizerFolder = given.Path "--tokenizer"

let tokenizer =
    match Tokenizer.tryLoad tokenizerFolder |> orStop with
    | Some tokenizer -> tokenizer
    | None -> stop 2 $"{tokenizerFolder} has no tokenizer"

let vocabulary = Tokenizer.vocabularySize tokenizer

let sizes =
    LlamaConfig.Llama(vocabulary, 8, hidden = 128, intermediate = 384, heads = 2, kvHeads = 1, context = 256)

let layers = sizes.Layers

let config = {
    sizes with
        TiedHead = true
        Bos = Tokenizer.bos tokenizer
        StopIds = Tokenizer.eos tokenizer |> Option.toArray
}

/// The paper's for a training from scratch, stronger, as a small model and a short run need to show it: p_max 0.2, all exits.
let recipe dropout depth exits : Recipe = {
    Dropout = dropout
    Depth = depth
    Time = DropoutShape.Exponential
    Exits = exits
    Targets = LossOptions.standard.Targets
}

let peak = 0.2
let mean = peak * (List.averageBy (Schedule.exponential layers) [ 0 .. layers - 1 ])
let loss = ExitRule.Rotational(layers - 1, 1.0)

let variants = [
    "none", recipe 0.0 DropoutShape.Exponential ExitRule.LastOnly
    "dropout", recipe peak DropoutShape.Exponential ExitRule.LastOnly
    "loss", recipe 0.0 DropoutShape.Exponential loss
    "both", recipe peak DropoutShape.Exponential loss
    "constant dropout and loss", recipe mean DropoutShape.Constant loss
]

let data = {
    Train = [
        for name in [ "tinystories-train.txt"; "stories260K_samples.txt" ] do
            Path.Combine(text, name)
    ]
    Validation = [ Path.Combine(text, "tinystories-valid.txt") ]
    ValidationShare = 0.0
    Bos = true
    Eos = true
    Special = true
}

let options recipe = {
    TrainingOptions.standard recipe with
        Steps = steps
        BatchSize = 16
        SequenceLength = 128
        Rate = { Peak = 2e-3; Warmup = 50; Floor = 0.05 }
        Seed = 1L
        ValidateEvery = steps
        ValidationTokens = 48768
        SaveEvery = 100
}

/// Cross entropy of each exit at the end, and the run's seconds.
let train (name: string, recipe: Recipe) : float[] * float =
    let output = Path.Combine(run, name.Replace(' ', '-'))

    let session =
        if (TrainingCheckpoint.all output).IsEmpty then
            let weights = Weights.initial 1L Dtype.F32 Device.Cpu config
            let model = Checkpoint.ofWeights tokenizerFolder weights (Some tokenizer)

            TrainingSession.start output (options recipe) Ranks.alone model data |> orStop
        else
            TrainingSession.resume output Ranks.alone Device.Cpu |> orStop

    for event in TrainingSession.run (fun () -> false) session do
        match event with
        | TrainingEvent.Ended(_, TrainingEnd.Failed fault) -> stop 1 $"step {fault.Step}: {fault.What}"
        | TrainingEvent.Ended(_, TrainingEnd.Unwritable faults) -> stop 1 (LayerSkipError.summary faults)
        | TrainingEvent.Validated(step, entropies) ->
            eprintfn "%s, step %d: %.3f" name step (Array.last entropies)
        | _ -> ()

    // From the log, so that a run that was finished before counts as well.
    let lines =
        File.ReadAllLines(Path.Combine(output, "log.jsonl"))
        |> Array.map (fun line -> Text.Json.JsonDocument.Parse(line).RootElement)

    let field (name: string) (line: Text.Json.JsonElement) = line.TryGetProperty name

    let seconds =
        lines
        |> Array.sumBy (fun line ->
            match field "tokens" line, field "tokens_per_second" line with
            | (true, tokens), (true, rate) -> tokens.GetDouble() / rate.GetDouble()
            | _ -> 0.0)

    let last =
        lines
        |> Array.findBack (fun line -> fst (field "validation" line))
        |> _.GetProperty("validation")

    [| for exit in 1..layers -> (last.GetProperty(string exit)).GetDouble() |], seconds

let results = variants |> List.map (fun variant -> fst variant, train variant)

printfn "| exit | %s |" (results |> List.map fst |> String.concat " | ")
printfn "|---|%s" (String.replicate results.Length "---|")

for exit in 1..layers do
    let cells = results |> List.map (fun (_, (entropies, _)) -> $"%.3f{entropies[exit - 1]}")
    printfn "| %d | %s |" exit (String.concat " | " cells)

let seconds = results |> List.map (fun (_, (_, seconds)) -> $"%.0f{seconds}")
printfn "| seconds | %s |" (String.concat " | " seconds)

let read = steps * 16 * 128 |> float

let picture =
    Picture.marks
        "Layer dropout and early-exit loss, apart and together"
        $"{layers} layers, hidden {config.Hidden}, from scratch on {read / 1e6:F1} million tokens of TinyStories; p_max {peak}, one seed"
        "Cross entropy on texts that were held out, read after each layer: without early-exit loss only the last layer says what comes next."
        (Axis.whole "exit layer" "")
        (Axis.linear "validation cross entropy" "nats a token")
        [
            for name, (entropies, _) in results do
                Mark.Line(name, entropies |> Array.mapi (fun i e -> float (i + 1), e) |> List.ofArray)
        ]

Plots.save (Path.Combine(run, "ablation.svg")) "" [ PagePart.Drawn picture ] |> orStop
#endif
