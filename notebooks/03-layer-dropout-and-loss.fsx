(**
# Layer dropout and early-exit loss

An ordinary language model can't be left early: its head only understands the last layer. LayerSkip changes two things
while it trains, and nothing of its shape:

1. **layer dropout**: a sample skips whole layers at random, the later ones more often, so that no token depends on
   all of them;
2. **early-exit loss**: the model's own head must make sense of the states after earlier layers too.

This notebook shows both as this library computes them, equation by equation (arXiv 2404.16710), and then what they
leave in a model. `dotnet build -c Release` makes the assemblies of the first cell.
*)

#r "../src/LayerSkip.Study/bin/Release/net10.0/Microsoft.ML.Tokenizers.dll"
#r "../src/LayerSkip.Study/bin/Release/net10.0/TorchSharp.dll"
#r "../src/LayerSkip.Study/bin/Release/net10.0/LayerSkip.Formats.dll"
#r "../src/LayerSkip.Study/bin/Release/net10.0/LayerSkip.dll"
#r "../src/LayerSkip.Study/bin/Release/net10.0/LayerSkip.Study.dll"
#load "notebook.fsx"

open System
open LayerSkip

let layers, steps, peak = 8, 1000, 0.2
let numbered (values: float seq) = values |> Seq.mapi (fun i value -> float (i + 1), value) |> List.ofSeq

(**
## Who skips what

The probability that a sample skips layer *l* at step *t* is *p(t, l) = S(t) D(l) p_max* (equation 2). *D* grows with
depth, from 0 at the first layer to 1 at the last (equation 3); *S* is 1 when a trained model goes on, and grows the
same way over the steps when training starts from scratch (equation 4).
*)

let depth = Schedule.exponential layers
let time = Schedule.exponential steps
let dropout = LayerDropout.tryCreate 1L peak depth time |> Check.getOrRaise
let ratesAt step = [ for layer in 0 .. layers - 1 -> dropout.Rate step layer ]

Picture.marks
    "How often a layer is skipped"
    $"{layers} layers, p_max {peak}, from scratch: D(l) and S(t) exponential over {steps} steps"
    "Late layers are skipped most, and more as training goes on; the first never is."
    (Axis.whole "layer" "")
    (Axis.share "samples that skip it")
    [
        for step in [ 250; 500; 750; steps - 1 ] do
            Mark.Line($"step {step}", numbered (ratesAt step))
    ]
|> Notebook.show

(**
The draws come from a counter, not from a stream: sample 17 at step 500 skips the same layers after a resume, on any
number of machines, and when a layer is run again for its gradients. A hundred thousand draws agree with the formula:
*)

let samples = 100_000
let last = steps - 1
let skipped layer =
    Seq.init samples id
    |> Seq.filter (fun sample -> not (LayerDropout.keeps dropout last layer sample))
    |> Seq.length

printfn "layer  p(t, l)  skipped"

for layer in 0 .. layers - 1 do
    let share = 100.0 * float (skipped layer) / float samples
    printfn $"{layer + 1, 5}  {100.0 * dropout.Rate last layer, 6:F1}%%  {share, 6:F1}%%"

let saved = List.average (ratesAt last)
printfn $"\nat the last step {100.0 * saved:F1}%% of all layers' work is left out"

(**
## Who must speak

The loss is a weighted sum of the cross entropies after each layer (equation 5). The weights *e(l)* grow with the square of
depth (equation 7), and *C(t, l)* says which layers learn at a step: all of them slow training down and cost the last layer
accuracy, so the paper turns them on in turn (rotational) or one after another from the top (gradual). What remains is
normalised, step by step (equation 6).
*)

let shares curriculum = ExitShares.tryCreate layers curriculum (ExitScale.paper 0.2) |> Check.getOrRaise

let table name (curriculum: Curriculum) =
    let shares = shares curriculum
    printfn $"{name}: share of the loss after each layer"

    for step in [ 0; 1; 2; 250; 499; 500 ] do
        let row = shares step |> Array.map (fun share -> if share = 0.0 then "    ." else $"{share, 5:F2}")
        printfn $"""  step {step, 3}  {String.concat " " row}"""

table "rotational, R = 4" (Curriculum.rotational 4)
printfn ""
table "gradual" (Curriculum.gradual layers steps)

(**
## What they leave in a model

The default model was trained so that exits 1 to 4 of its 24 layers can speak (its README says how). We read a text that it
did not write, let every layer say what comes next, and compare with what does. The dashed line is what an exit would
have to reach to be as good as the last layer.
*)

let checkpoint = Checkpoint.load Notebook.model None Device.Cpu |> Check.getOrRaise

let story =
    "Tom had a red ball. He liked to throw it very high. One day the ball went up into a big tree and did not come down. Tom was sad. His sister Ann saw him and said, Do not cry, Tom. I will help you. She took a long stick and hit the branch. The ball fell down. Tom was happy and said, Thank you, Ann. They played with the ball until it was time to eat."

let ids = Tokenizer.encode checkpoint.Tokenizer.Value story
let depthOfModel = checkpoint.Config.Layers

/// -ln p of each next token, by layer, averaged; and KL(last layer || layer).
let read: (int * float) list * (int * float) list =
    use _noGrad = Scope.noGrad ()
    let states = ResizeArray<ExitStates>()
    let cache = Cache.create checkpoint.Weights depthOfModel ids.Length
    use _storage = cache.Slab :> IDisposable

    Model.forwardEach
        checkpoint.Weights
        ids.Length
        ids
        (fun layer hidden -> states.Add(ExitStates.ofHidden layer hidden))
        cache
    |> ignore

    let nexts = Array.init ids.Length (fun i -> [| ids[min (i + 1) (ids.Length - 1)] |])
    let rows = Readout.compared checkpoint.Weights { Top = 0; Targets = nexts } (states.ToArray())
    let mean pick (rows: ComparedRow[]) = rows[.. ids.Length - 2] |> Array.averageBy pick

    List.ofArray (
        Array.mapi (fun i rows -> i + 1, mean (fun row -> -row.Row.Targets[0].LogProbability) rows) rows
    ),
    List.ofArray (Array.mapi (fun i rows -> i + 1, mean _.Kl rows) rows)

let entropies, divergences = read
let about = $"{IO.Path.GetFileName checkpoint.Path}, {depthOfModel} layers, a story of {ids.Length} tokens"
let best = snd (List.last entropies)

LayerPlots.crossEntropy about [ "each layer", entropies ]
|> Picture.over [ Mark.Guide("the last layer", [ 1.0, best; float depthOfModel, best ]) ]
|> Notebook.show

for layer, entropy in entropies do
    if List.contains layer [ 1; 2; 3; 4; 8; 16; depthOfModel ] then
        printfn $"after layer {layer, 2}: {entropy:F1} nats a token"

(**
Two layers already tell most of what twenty-four do. How far an exit's law is from the last layer's is what decides whether
its drafts are kept:
*)

Notebook.show (LayerPlots.divergence about [ "each layer", divergences ])

(checkpoint :> IDisposable).Dispose()

(**
Exits that no loss asked to speak (6 to 16) are further from the last layer than those that were: an exit is made by training,
not by depth. The notebook `05-train-your-own` trains a small model with and without, and `scripts/ablation.fsx` does the
paper's whole ablation (`docs/experiments.md`).
*)
