// Makes the default model in models/: its tokenizer, its training, its card. Stopped (Ctrl-C) or killed, it goes on
// from the latest checkpoint when it is called again; that changes no bit of the result.
//
//     dotnet fsi scripts/train-default.fsx
//     dotnet fsi scripts/train-default.fsx --text DIR --teller DIR --run DIR --steps N --recipe paper --phases N
#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else
#r "../src/LayerSkip/bin/Release/net10.0/TorchSharp.dll"
#r "../src/LayerSkip/bin/Release/net10.0/OxyPlot.dll"
#r "../src/LayerSkip/bin/Release/net10.0/LayerSkip.dll"

open System
open System.IO
open System.Runtime.InteropServices
open System.Text.Json
open LayerSkip
open TorchSharp

let root = Path.GetFullPath(Path.Combine(__SOURCE_DIRECTORY__, ".."))

let orStop result =
    match result with
    | Ok value -> value
    | Error faults ->
        eprintfn "train-default: %s" (LayerSkipError.summary faults)
        exit 2

let given =
    fsi.CommandLineArgs[1..]
    |> Array.filter (fun argument -> argument <> "--")
    |> Array.chunkBySize 2
    |> Array.map (fun pair -> pair[0], Array.last pair)
    |> Map.ofArray

let option name fallback = Map.tryFind name given |> Option.defaultValue fallback
let recipeName = option "--recipe" "default"
let text = option "--text" (Path.Combine(root, "..", "shared", "data", "text"))
let teller = option "--teller" (Path.Combine(root, "..", "shared", "data", "stories260K"))
let run = option "--run" (Path.Combine(root, "runs", recipeName))
let steps = option "--steps" "2600" |> int
let phaseCount = option "--phases" "4" |> int

/// Stories that people wrote, three times, and stories that stories260K wrote, once. `tinystories-valid.txt` validates.
let sources = [
    for _ in 1..3 do
        Path.Combine(text, "tinystories-train.txt")
    Path.Combine(text, "stories260K_samples.txt")
]

let validation = Path.Combine(text, "tinystories-valid.txt")

let tokenizer = Path.Combine(run, "tokenizer")

if not (File.Exists(Path.Combine(tokenizer, "tokenizer.json"))) then
    orStop (
        match List.collect Texts.check (validation :: sources) with
        | [] -> Ok()
        | faults -> Error faults
    )

    let lessons =
        sources
        |> List.distinct
        |> Seq.collect Texts.read
        |> Seq.map (fun lesson ->
            match lesson with
            | Lesson.Text text -> text
            | Lesson.Pair(prompt, response) -> prompt + response)

    Directory.CreateDirectory run |> ignore
    let trained = BpeTrainer.train (BpeOptions.ofVocabulary 1024) lessons |> orStop
    BpeTrainer.write tokenizer trained |> orStop
    printfn "tokenizer: %.2f bytes a token" (float trained.Bytes / float trained.Tokens)

/// Deep and narrow, with a small head: two of sixteen layers draft, of twenty-four in the end.
let config: LlamaConfig = {
    Family = Family.Llama
    Vocabulary = 1024
    Hidden = 192
    Intermediate = 512
    Layers = 16
    Heads = 3
    KvHeads = 1
    HeadDim = 64
    Context = 512
    NormEps = 1e-5
    RopeTheta = 10000.0
    RopeScaling = RopeScaling.Default
    Windows = Array.create 16 None
    QkvBias = false
    OutputBias = false
    MlpBias = false
    QkNorm = false
    TiedHead = true
    Bos = Some 0
    StopIds = [| 0 |]
    StoredDtype = None
}

/// Self-distillation of the exits that draft; or the paper's recipe for a training from scratch.
let recipe =
    match recipeName with
    | "default" -> {
        Dropout = 0.0
        Depth = DropoutShape.Exponential
        Time = DropoutShape.Constant
        Exits = ExitRule.Emphasis([ 2, 0.5; 1, 0.2; 3, 0.2; 4, 0.2 ], 2)
        Targets = { Labels = 0.0; LastLayer = 1.0 }
      }
    | "paper" -> Recipe.tryPreset "scratch" config.Layers |> orStop
    | other ->
        eprintfn "train-default: --recipe is %s, it must be default or paper" other
        exit 2

/// Exit 2, which drafts, at every step.
let draftingRecipe =
    if recipeName = "default" then
        { recipe with Exits = ExitRule.Emphasis([ 2, 0.7; 4, 0.2 ], 1) }
    else
        recipe

let common = {
    TrainingOptions.standard recipe with
        Seed = 1L
        ValidateEvery = 200
        ValidationBatches = 12
        ProbeEvery = 200
        ProbeExits = [ 1; 2; 3; 4 ]
        SaveEvery = 100
}

/// Attention to long texts is what costs most here, so most steps read short ones.
let phases =
    [
        "short",
        {
            common with
                Steps = steps
                BatchSize = 8
                SequenceLength = 256
                Rate = { Peak = 2e-3; Warmup = 150; Floor = 0.1 }
        }
        "long",
        {
            common with
                Steps = max 1 (steps / 8)
                BatchSize = 4
                SequenceLength = 512
                Rate = { Peak = 4e-4; Warmup = 20; Floor = 0.05 }
        }
        // The loss still fell, so: once more, with a rate that starts again (SGDR, arXiv 1608.03983).
        "again",
        {
            common with
                Steps = max 1 (steps / 2)
                BatchSize = 4
                SequenceLength = 512
                Rate = { Peak = 1.2e-3; Warmup = 50; Floor = 0.03 }
        }
        // Half as deep again: the exits stay where they are, and what drafts is a smaller part of the whole.
        "deeper",
        {
            common with
                Steps = steps * 10 / 13
                BatchSize = 4
                SequenceLength = 512
                Rate = { Peak = 1.2e-3; Warmup = 50; Floor = 0.02 }
                Recipe = draftingRecipe
        }
    ]
    |> List.truncate phaseCount

/// More layers that change nothing yet: two after every three, above those that draft, whose output projections are zero
/// (LLaMA Pro's block expansion, arXiv 2401.02415).
let deepened (weights: Weights) : Weights =
    let added = [ 5; 6; 8; 9; 11; 12; 14; 15 ]
    let layers = config.Layers + added.Length
    let config = { config with Layers = layers; Windows = Array.create layers None }
    let fresh = Weights.initial common.Seed Dtype.F32 Device.Cpu config

    let layers = [|
        for index, layer in Array.indexed weights.Layers do
            layer

            if List.contains (index + 1) added then
                let made = fresh.Layers[index]

                { made with Output = torch.zeros_like made.Output; Down = torch.zeros_like made.Down }
    |]

    { weights with Config = config; Layers = layers; Kernels = None }

/// Stories that stories260K tells at temperature 0.7: plainer than those given, and those that go round in circles left out.
let told () =
    let path = Path.Combine(run, "told.txt")

    if not (File.Exists path) then
        use teller = Checkpoint.load teller (Some Dtype.F32) Device.Cpu |> orStop
        let tokenizer = Option.get teller.Tokenizer
        // llama2.c parts stories by BOS.
        let bos = Option.toArray (Tokenizer.bos tokenizer)

        let story (number: int) =
            let options = {
                GenerationOptions.greedy Strategy.Autoregressive (teller.Config.Context - 1) with
                    Sampling = Sampling.create 0.7 0 0.95 |> orStop
                    StopIds = bos
                    Seed = int64 number
            }

            Generation.complete teller.Weights (Some tokenizer) options bos |> orStop

        /// Of the runs of four tokens, the share that are not said again.
        let variety (story: Completion) =
            let runs = Array.windowed 4 story.TokenIds
            float (Array.distinct runs).Length / float (max 1 runs.Length)

        // A story a thread: the kernels of one so small have nothing to share.
        let stories =
            Array.Parallel.init 16000 story
            |> Array.filter (fun story -> story.Finish = FinishReason.Stop && variety story >= 0.91)
            |> Array.choose _.Text
            |> Array.map _.Trim()

        File.WriteAllText(path + ".part", String.Join("\n<|endoftext|>\n", stories))
        File.Move(path + ".part", path)
        printfn "told: %d stories" stories.Length

    path

let model (weights: Weights) = {
    Path = tokenizer
    Weights = weights
    Tokenizer = Tokenizer.tryLoad tokenizer |> orStop
    StopIds = config.StopIds
    Recommended = Some(2, 3)
}

let data phase = {
    Train =
        if phase = "deeper" then
            [
                // As many tokens of people's stories as of stories260K's.
                for _ in 1..8 do
                    Path.Combine(text, "tinystories-train.txt")
                told ()
            ]
        else
            sources
    Validation = [ validation ]
    ValidationShare = 0.0
    Bos = true
    Eos = true
}

let mutable stopped = false

let onSignal (context: PosixSignalContext) =
    context.Cancel <- true
    stopped <- true

let interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, onSignal)
let terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, onSignal)

let listed (values: (int * float) seq) digits =
    values
    |> Seq.map (fun (exit, value) -> $"""{exit}: {value.ToString("F" + string digits)}""")
    |> String.concat "  "

let follow (session: TrainingSession) =
    for event in TrainingSession.run (fun () -> stopped) session do
        match event with
        | TrainingEvent.Stepped report when report.Step % 25 = 0 ->
            let exits =
                Seq.indexed report.Sums.CrossEntropy
                |> Seq.filter (fun (_, sum) -> sum > 0.0)
                |> Seq.map (fun (layer, sum) -> layer + 1, sum / float report.Sums.Tokens)

            printfn
                "step %d  loss %.3f  %s  %.0f tokens/s"
                report.Step
                (report.Sums.Objective / float report.Sums.Tokens)
                (listed exits 3)
                (float report.Tokens / report.Seconds)
        | TrainingEvent.Stepped _ -> ()
        | TrainingEvent.Validated(step, entropies) ->
            printfn "step %d  validation  %s" step (listed (entropies |> Seq.mapi (fun i e -> i + 1, e)) 3)
        | TrainingEvent.Probed(step, accepted) -> printfn "step %d  accepted  %s" step (listed accepted 3)
        | TrainingEvent.Saved(_, folder) -> eprintfn "saved %s" folder
        | TrainingEvent.Ended(_, TrainingEnd.Finished) -> printfn "finished: %s" session.Output
        | TrainingEvent.Ended(step, TrainingEnd.Stopped) ->
            printfn "stopped after step %d; the same command goes on" step
            exit 130
        | TrainingEvent.Ended(_, TrainingEnd.Failed fault) ->
            eprintfn "train-default: step %d: %s" fault.Step fault.What
            exit 1
        | TrainingEvent.Ended(_, TrainingEnd.Unwritable faults) ->
            eprintfn "train-default: %s" (LayerSkipError.summary faults)
            exit 1

let mutable weights = Weights.initial common.Seed Dtype.F32 Device.Cpu config

for name, options in phases do
    let output = Path.Combine(run, name)

    if not (File.Exists(Path.Combine(output, "model.safetensors"))) then
        let session =
            if (TrainingCheckpoint.all output).IsEmpty then
                if name = "deeper" then
                    weights <- deepened weights

                TrainingSession.start output options Ranks.alone (model weights) (data name) |> orStop
            else
                TrainingSession.resume output Ranks.alone Device.Cpu |> orStop

        follow session

    weights <- (Checkpoint.load output (Some Dtype.F32) Device.Cpu |> orStop).Weights

/// The validation entropies of every phase, one after another: step over all phases, and each exit's.
let curves =
    let steps = phases |> List.map (fun (_, options) -> options.Steps) |> List.scan (+) 0

    [
        for (name, _), before in List.zip phases (List.take phases.Length steps) do
            for line in File.ReadAllLines(Path.Combine(run, name, "log.jsonl")) do
                use document = JsonDocument.Parse line

                match document.RootElement.TryGetProperty "validation" with
                | true, found ->
                    before + (document.RootElement.GetProperty "step").GetInt32(),
                    [ for entry in found.EnumerateObject() -> entry.Value.GetDouble() ]
                | _ -> ()
    ]

let made = Path.Combine(run, "stories-10m")

if not (Directory.Exists made) then
    use last =
        Checkpoint.load (Path.Combine(run, fst (List.last phases))) (Some Dtype.BF16) Device.Cpu
        |> orStop

    Export.write ExportFormat.HuggingFace last.Config.Layers made last |> orStop |> ignore

Plots.lines "Validation, TinyStories" "step" "cross entropy, nats a token" [
    for exit in [ 1; 2; 4 ] do
        {
            Name = $"exit {exit}"
            Points = curves |> List.map (fun (step, entropies) -> float step, entropies[exit - 1])
        }

    {
        Name = "last layer"
        Points = curves |> List.map (fun (step, entropies) -> float step, List.last entropies)
    }
]
|> Plots.save (Path.Combine(made, "curves.svg")) 720 440
|> orStop

printfn "the model: %s" made
#endif
