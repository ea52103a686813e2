(**
# Train your own

A model that can be left early, made on a CPU in well under a minute: tiny, but everything is there, from text to a
checkpoint that every command of this library reads. We train it twice from the same start: once to speak after every
layer, once only at the end. `dotnet build -c Release` makes the assemblies of the first cell.
*)

#r "../src/LayerSkip.Study/bin/Release/net10.0/Microsoft.ML.Tokenizers.dll"
#r "../src/LayerSkip.Study/bin/Release/net10.0/TorchSharp.dll"
#r "../src/LayerSkip.Study/bin/Release/net10.0/LayerSkip.Formats.dll"
#r "../src/LayerSkip.Study/bin/Release/net10.0/LayerSkip.dll"
#r "../src/LayerSkip.Study/bin/Release/net10.0/LayerSkip.Study.dll"
#load "notebook.fsx"

open System
open System.IO
open LayerSkip

let folder = Directory.CreateTempSubdirectory "layerskip-notebook-"
let inFolder (name: string) = Path.Combine(folder.FullName, name)

(**
## Something to read

The default model tells us stories, sampled so that no two are alike; one in ten is kept aside to judge by. Put your own
text in their place: UTF-8 files, texts parted by `<|endoftext|>`, of any length.
*)

let teller = Checkpoint.load Notebook.model None Device.Cpu |> Check.getOrRaise
let tokenizer = teller.Tokenizer.Value

let tell (seed: int) =
    let opening = [|
        "Once upon a time"
        "One day"
        "Lily"
        "Tom and his dog"
        "There was a little"
    |]

    let options = {
        GenerationOptions.greedy
            (Strategy.SelfSpeculative(ExitLayer.TryCreate(teller.Config.Layers, 2) |> Check.getOrRaise, 3))
            120 with
            Sampling = Sampling.Filtered(0.7, 0, 1.0, 0.0)
            StopIds = teller.StopIds
            Seed = int64 seed
    }

    let start = opening[seed % opening.Length]
    let told =
        Generation.complete teller.Weights teller.Tokenizer options (Tokenizer.encode tokenizer start)
        |> Check.getOrRaise
    start + told.Text.Value

let stories = [ for seed in 1..50 -> tell seed ]
(teller :> IDisposable).Dispose()

let write name (stories: string list) =
    File.WriteAllText(inFolder name, String.concat "<|endoftext|>" stories)
    inFolder name

let aside, read = stories |> List.indexed |> List.partition (fun (i, _) -> i % 10 = 0)
let data = {
    Train = [ write "train.txt" (List.map snd read) ]
    Validation = [ write "valid.txt" (List.map snd aside) ]
    ValidationShare = 0.0
    Bos = true
    Eos = true
    Special = true
}

printfn $"{read.Length} stories to learn from, {aside.Length} to judge by"

(**
## A model, and two recipes

Six layers and half a million parameters beside the tokenizer's. `Recipe` says how a model learns: the first has layer
dropout and the paper's loss on every layer in turn; the second is ordinary training.
*)

let layers = 6

let config = {
    LlamaConfig.Llama(
        Tokenizer.vocabularySize tokenizer,
        layers,
        hidden = 96,
        intermediate = 256,
        heads = 4,
        kvHeads = 2,
        context = 128
    ) with
        TiedHead = true
        Bos = Tokenizer.bos tokenizer
        StopIds = Tokenizer.eos tokenizer |> Option.toArray
}

let recipe dropout exits : Recipe = {
    Dropout = dropout
    Depth = DropoutShape.Exponential
    Time = DropoutShape.Exponential
    Exits = exits
    Targets = LossOptions.standard.Targets
}

let recipes = [
    "LayerSkip", recipe 0.1 (ExitRule.Emphasis([ for exit in 1 .. layers - 1 -> exit, 0.25 ], 1))
    "ordinary", recipe 0.0 ExitRule.LastOnly
]

let steps = 60

let train (name: string, recipe: Recipe) : (int * float[]) list =
    let weights = Weights.initial 1L Dtype.F32 Device.Cpu config
    let model = Checkpoint.ofWeights Notebook.model weights (Some tokenizer)

    let options = {
        TrainingOptions.standard recipe with
            Steps = steps
            BatchSize = 8
            SequenceLength = 64
            Rate = { Peak = 3e-3; Warmup = 10; Floor = 0.1 }
            Seed = 1L
            ValidateEvery = 20
            ValidationTokens = 1024
            SaveEvery = steps
    }

    use session = TrainingSession.start (inFolder name) options Ranks.alone model data |> Check.getOrRaise

    [
        for event in TrainingSession.run (fun () -> false) session do
            match event with
            | TrainingEvent.Validated(step, entropies) -> step, entropies
            | TrainingEvent.Ended(_, TrainingEnd.Failed fault) -> failwith $"step {fault.Step}: {fault.What}"
            | _ -> ()
    ]

let curves = [ for name, recipe in recipes -> name, train (name, recipe) ]

(**
## What came of it

Cross entropy on the stories that were kept aside, after each layer. Before the first step every layer knows nothing:
ln of the vocabulary, 6.9 nats.
*)

let last (name: string) = curves |> List.find (fst >> (=) name) |> snd |> List.last |> snd

printfn "exit  LayerSkip  ordinary"

for exit in 1..layers do
    printfn $"""{exit, 4}  {(last "LayerSkip")[exit - 1], 9:F1}  {(last "ordinary")[exit - 1], 8:F1}"""

let about =
    $"{layers} layers, hidden {config.Hidden}, {steps} steps of 8 x 64 tokens of stories that stories-10m told, seed 1"

LayerPlots.crossEntropy about [
    for name, _ in curves do
        name, [ for exit in 1..layers -> exit, (last name)[exit - 1] ]
]
|> Notebook.show

(**
After so few steps both have learned little more than which tokens are frequent. But with exits in the loss every layer knows
it, and without only the last ones do. Both get better as training goes on:
*)

Picture.marks
    "The first exit and the last layer, as training goes on"
    about
    "Stories that were kept aside. With exits in its loss a model's first layer keeps up with its last."
    (Axis.whole "step" "")
    (Axis.linear "cross entropy" "nats a token")
    [
        for name, curve in curves do
            for exit in [ 1; layers ] do
                Mark.Line(
                    $"{name}, layer {exit}",
                    [ for step, entropies in curve -> float step, entropies[exit - 1] ]
                )
    ]
|> Notebook.show

(**
## And decode with it

The run's folder holds the checkpoint. It drafts with its first layers, and says what it would have said without.
*)

let finished = Directory.GetDirectories(inFolder "LayerSkip", "checkpoint-*") |> Array.max
let made = Checkpoint.load finished None Device.Cpu |> Check.getOrRaise
let prompt = Tokenizer.encode made.Tokenizer.Value "Once upon a time"

let decode strategy =
    Generation.complete made.Weights made.Tokenizer (GenerationOptions.greedy strategy 64) prompt
    |> Check.getOrRaise

let plain = decode Strategy.Autoregressive

for exit in [ 1; 2; 3 ] do
    let fast = decode (Strategy.SelfSpeculative(ExitLayer.TryCreate(layers, exit) |> Check.getOrRaise, 4))
    printfn
        $"exit {exit}: the same text: {fast.TokenIds = plain.TokenIds}; drafts were kept: {fast.Stats.NumAcceptedDraftTokens > 0}"

(made :> IDisposable).Dispose()
folder.Delete true

(**
From here on: `layerskip train` does the same from the command line, with resuming, curricula, distillation and more; its
`--help` is the manual, and `scripts/train-default.fsx` is how the default model was made.
*)
