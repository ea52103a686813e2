(**
# The logit lens

What would the model say if it stopped here? The **logit lens** asks every layer, at every position: its state goes
through the model's own last norm and head, as if no layer came after. In a LayerSkip model this is not only a way to
look inside: the lens *is* the drafter. Where an early layer's answer is the last layer's, its draft is accepted.

`layerskip lens --html lens.html` makes a page of this to hover over. `dotnet build -c Release` makes the assemblies of
the first cell.
*)

#r "../src/LayerSkip.Study/bin/Release/net10.0/Microsoft.ML.Tokenizers.dll"
#r "../src/LayerSkip.Study/bin/Release/net10.0/TorchSharp.dll"
#r "../src/LayerSkip.Study/bin/Release/net10.0/LayerSkip.Formats.dll"
#r "../src/LayerSkip.Study/bin/Release/net10.0/LayerSkip.dll"
#r "../src/LayerSkip.Study/bin/Release/net10.0/LayerSkip.Study.dll"
#load "notebook.fsx"

open System
open LayerSkip

let checkpoint = Checkpoint.load Notebook.model None Device.Cpu |> Check.getOrRaise
let text = "The fox and the owl were not friends. One night the"
let ids = Tokenizer.encode checkpoint.Tokenizer.Value text
let lens = Lens.run checkpoint Lens.options ids |> Check.getOrRaise

printfn
    $"{lens.Layers} layers, {lens.Tokens.Length} tokens, the {lens.TopK} most probable of {lens.Vocabulary} kept at each"

(**
## Layer by layer, token by token

A column is a position: the model has read up to there. A row is a layer. In the cell is the token that the layer prefers;
the colour says how far its law is from the last layer's (KL, in nats): bright is near.
*)

let visible (text: string) = text.Replace("\n", "↵").Trim()
let some =
    [ 1; 2; 3; 4; 6; 8; 10; 12; 14; 16; 18; 20; 22; 23; lens.Layers ]
    |> List.filter (fun layer -> layer <= lens.Layers)
    |> List.distinct
let exitsShown = some |> List.map (fun layer -> lens.Exits[layer - 1])
let about = $"{IO.Path.GetFileName checkpoint.Path}, {lens.Layers} layers"

let table pick = [| for exit in exitsShown -> exit.Rows |> Array.map pick |]

Picture.heat
    "What each layer would say next"
    $"{about}; \"{text}\""
    "From the bottom up, answers change until they settle: what a word must end with early, how a story goes on late."
    ("after reading", [ for id in lens.Tokens -> visible (lens.Text id) ])
    ("layer", List.map string some)
    {
        Values = table (fun row -> Math.Round(row.Kl, 2))
        Texts = table (fun row -> visible (lens.Text row.Row.Argmax))
        Notes = [||]
        Measure = "KL to the last layer (nats)"
        Colours = HeatColours.Falling
        Range = None
    }
|> Notebook.show

(**
## When is an answer settled?

A position is settled at the first layer from which on every layer says the same. Long before the last layer most are:
*)

let settledBy layer = lens.Settled |> Array.filter (fun first -> first <= layer) |> Array.length

for layer in some do
    printfn $"settled by layer {layer, 2}: {settledBy layer, 2} of {lens.Settled.Length} positions"

(**
What speculation gains depends on less: a draft needs the right answer, and it does not matter whether layers between
think otherwise. The share of positions where a layer's answer is the last one's:
*)

LayerPlots.agreement about [ "each layer", [ for exit in lens.Exits -> exit.Layer, exit.Agreement ] ]
|> Notebook.show

(**
## How sure, and how far

KL to the last layer tells what is lost if the exit's law is taken for the model's; sampling accepts a draft with
probability 1 less the total variation, so this is its business. The dip at the exits that the model was trained to draft with
is the training's mark: an ordinary model has a slope here.
*)

LayerPlots.divergence about [ "each layer", [ for exit in lens.Exits -> exit.Layer, exit.MeanKl ] ]
|> Notebook.show

(checkpoint :> IDisposable).Dispose()
