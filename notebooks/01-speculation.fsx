(**
# Self-speculative decoding

A language model writes one token at a time, and reads all of its weights for each. Most tokens are easy: the
first few layers know them already. **Self-speculation** makes use of that without changing the text:

1. **draft**: the first *E* of the *L* layers, with the model's own head, guess up to *d* tokens, one by one;
2. **verify**: one pass of the remaining layers over all the guesses tells what the whole model would have written;
3. **accept**: the guesses are kept up to the first wrong one, and one token of the whole model's own follows.

So a round yields 1 to *d* + 1 tokens, and each of them is what the whole model says. No second model is needed:
the draft is the model's own front, and what it computed is used again when verifying.

Every cell below is about the default model, `models/stories-10m`, which tells simple stories and was trained so that
its first layers can draft for the rest. Name another in the environment variable `LAYERSKIP_NOTEBOOK_MODEL` (a
Hugging Face folder or a .gguf file). `dotnet build -c Release` makes the assemblies of the first cell.
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
let weights, tokenizer = checkpoint.Weights, checkpoint.Tokenizer

let prompt =
    match tokenizer with
    | Some tokenizer -> Tokenizer.encode tokenizer "Once upon a time"
    | None -> [| 1 |]

let layers = weights.Config.Layers
printfn $"{layers} layers, {Weights.parameters weights.Config} parameters, a prompt of {prompt.Length} tokens"

(**
## The same text

We decode 64 tokens twice: with every layer for every token, and with drafts of up to 4 tokens by the layers that the
model recommends to draft with. Nothing is sampled, so the two must agree token by token, and do.
*)

let generate strategy =
    let options = GenerationOptions.greedy strategy 64
    Generation.run weights tokenizer options prompt |> Check.getOrRaise |> List.ofSeq

let completion events =
    events
    |> List.pick (function
        | GenerationEvent.End(_, completion) -> Some completion
        | _ -> None)

let exitAt layer = ExitLayer.TryCreate(layers, layer) |> Check.getOrRaise
let speculate exit draftLength = generate (Strategy.SelfSpeculative(exitAt exit, draftLength))
let firstTokens count (ids: int[]) = ids |> Seq.truncate count |> Seq.map string |> String.concat " "

let recommended, _ = Checkpoint.exitAndDraft checkpoint
let plain = completion (generate Strategy.Autoregressive)
let events = speculate recommended 4
let speculative = completion events

printfn $"autoregressive    {firstTokens 14 plain.TokenIds} ..."
printfn $"self-speculative  {firstTokens 14 speculative.TokenIds} ..."
printfn $"all {plain.TokenIds.Length} tokens equal: {plain.TokenIds = speculative.TokenIds}"
plain.Text |> Option.iter (printfn "\n%s")

(**
Stopping at the early layers and trusting them is another matter: that writes another text.
*)

let early = completion (generate (Strategy.EarlyExit(exitAt recommended)))
let agreed = Seq.zip plain.TokenIds early.TokenIds |> Seq.takeWhile (fun (a, b) -> a = b) |> Seq.length

printfn $"layers 1 to {recommended} alone  {firstTokens 14 early.TokenIds} ..."
printfn $"the first {agreed} tokens agree with the whole model's"

(**
## Round by round

Decoding is a sequence of events: tokens, each with its origin, and the rounds that they came in. Below, a filled
circle is a draft that was kept, an empty one a draft that was refused, and the number is the whole model's own token.
*)

let rounds =
    events
    |> List.choose (function
        | GenerationEvent.Round round -> Some round
        | _ -> None)

printfn "round  drafted  accepted"

for index, round in rounds |> List.indexed |> List.truncate 12 do
    let circles = String('●', round.Accepted) + String('○', round.Drafted - round.Accepted)
    printfn
        $"{index + 1, 5}  {round.Drafted, 7}  {round.Accepted, 8}  {circles, -4}  {Array.last round.Tokens}"

(**
How many drafts did a round keep? The histogram is what to look at when *d* is chosen: where the last bar is long,
longer drafts would be kept too; where the first is, drafting is wasted.
*)

let stats = speculative.Stats
let metrics = SpeculationMetrics.ofCompletions [ speculative ]
let about =
    $"{IO.Path.GetFileName checkpoint.Path}, {layers} layers, exit {recommended}, up to 4 drafts a round"

Notebook.show (AcceptancePlots.lengths about [ $"exit {recommended}", metrics ])

printfn
    $"{stats.NumAcceptedDraftTokens} of {stats.NumDraftTokens} drafts kept, {stats.MeanAcceptanceLength:F2} tokens a round"

(**
Who wrote the text? `Prefill` is the first token, from the pass over the prompt; `Drafted` came from the early
layers; `Corrected` replaced a refused draft; `Bonus` came for free after a draft that was kept entirely; `Plain` is
a step that had no room for a draft.
*)

let origins =
    events
    |> List.choose (function
        | GenerationEvent.Token token -> Some(string token.Origin)
        | _ -> None)
    |> List.countBy id
    |> List.sortByDescending snd

for origin, count in origins do
    printfn $"{origin, -9}  {count, 3}"

(**
## Which exit, how many drafts?

A later exit drafts better, and costs more. On small batches time goes into reading weights, so count the layers that
are read: plain decoding reads *L* a token. A round of *d* drafts reads layers 1 to *E* once for each draft and once
more for the last one, and layers *E* + 1 to *L* once for them all: *dE* + *L*. That makes the expected gain

> tokens a round × *L* / (*dE* + *L*)

without the head, which is read *d* + 1 times a round and matters where the vocabulary is large. The text is
the same in every case; only the way to it differs.
*)

let draftLengths = [ 1; 2; 4; 8 ]
let exits = [ 1; 2; 3; 4; 6; 8; 12 ] |> List.filter (fun exit -> exit < layers)

let grid = [
    for exit in exits do
        for length in draftLengths do
            let run = completion (speculate exit length)
            (exit, length), run
]

let gain (exit, length) (run: Completion) =
    // The last rounds draft less, where the text's limit is near.
    let read = run.Stats.Rounds |> Array.sumBy (fun (drafted, _) -> drafted * exit + layers)
    float ((run.TokenIds.Length - 1) * layers) / float read

let table title cell =
    printfn $"""{title, -10}{String.concat "" [ for length in draftLengths -> $"   d = {length}" ]}"""

    for exit, row in List.groupBy (fst >> fst) grid do
        let name = $"E = {exit}"
        printfn $"""{name, -10}{String.concat "" [ for point, run in row -> $"{cell point run, 8}" ]}"""

table "accepted" (fun _ run -> $"{100.0 * run.Stats.DraftAcceptanceRate:F1}%%")
printfn ""
table "gain" (fun point run -> $"{gain point run:F2}x")

let names = List.map string

let ofGrid pick = [|
    for _, row in List.groupBy (fst >> fst) grid -> [| for point, run in row -> pick point run |]
|]

Picture.heat
    "Layers read: plain decoding over self-speculation"
    about
    "Blue gains, red loses. The gain is in the early exits: they draft almost as well as later ones, for less."
    ("draft length d", names draftLengths)
    ("exit layer E", names exits)
    {
        Values = ofGrid gain
        Texts = ofGrid (fun point run -> $"{gain point run:F2}x")
        Notes = [||]
        Measure = "times fewer layers read"
        Colours = HeatColours.Around 1.0
        Range = None
    }
|> Notebook.show

let (bestExit, bestLength), best = grid |> List.maxBy (fun (point, run) -> gain point run)
printfn $"\nbest: E = {bestExit}, d = {bestLength}: {gain (bestExit, bestLength) best:F2}x"
printfn
    $"every text equals the plain one: {grid |> List.forall (fun (_, run) -> run.TokenIds = plain.TokenIds)}"

(**
Below 1x speculation costs more than it saves. The acceptance rate is a property of the model: an ordinary one
has no good early exits, and training with layer dropout and an early-exit loss gives it some. That is what
LayerSkip is about, and what the notebook `03-layer-dropout-and-loss` shows. To measure times in place of layers:
`layerskip bench --html bench.html`, and `layerskip sweep`.
*)

(weights :> IDisposable).Dispose()
