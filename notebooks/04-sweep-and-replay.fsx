(**
# A sweep for the price of one run

Which exit, how many drafts? One can run every combination and time it: `layerskip sweep` does, interleaved and with
intervals. One can also run **once**. Under greedy decoding the text is the same for every exit layer *E*, draft length
*d* and policy, and so is every draft up to the first wrong one. So a single run of the whole model, which notes what every
layer would have said at each position, holds the rounds of them all: a **replay** reads them off.

`layerskip replay --html replay.html` does this with the times of rounds on your machine. Here time is counted in layers, so
that this notebook says the same everywhere. `dotnet build -c Release` makes the assemblies of the first cell.
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
let weights = checkpoint.Weights
let layers = weights.Config.Layers
let prompt = Tokenizer.encode checkpoint.Tokenizer.Value "Lily wanted to"
let about = $"{IO.Path.GetFileName checkpoint.Path}, {layers} layers"

(**
## One run
*)

let options = { Trace.options with MaxNewTokens = 200; PromptRows = ReplayReport.defaultPromptRows }
let trace = Trace.run weights options prompt |> Check.getOrRaise

printfn $"{trace.Written.Length} tokens, and what {layers} layers said at each of them"

(**
## Is it true?

Speculation that really runs must do, round for round, what the replay says. It does:
*)

let replay = Replay.ofTrace trace
let exitAt layer = ExitLayer.TryCreate(layers, layer) |> Check.getOrRaise

let live exit length =
    let greedy = GenerationOptions.greedy (Strategy.SelfSpeculative(exitAt exit, length)) 200
    (Generation.complete weights None greedy prompt |> Check.getOrRaise).Stats.Rounds

let told exit length =
    Replay.rounds (DraftPlan.fixed' (exitAt exit) length) replay
    |> Array.map (fun round -> round.Drafted, round.Accepted)

let compared = [
    for exit in [ 1; 2; 4; 12 ] do
        for length in [ 1; 3; 6 ] do
            let live, told = live exit length, told exit length
            live.Length, live = told
]

printfn
    $"{List.sumBy fst compared} rounds of {compared.Length} plans ran live; all as replayed: {List.forall snd compared}"

(**
## The whole surface

With a cost for each round, the speed of every plan follows. In layers: a draft costs *E* + *h*, with a head that costs as
much as *h* layers, and the verification *L* + *h*.
*)

let head = AcceptancePlots.headLayers weights.Config
let plain = float layers + head
let exits, lengths = [ 1; 2; 3; 4; 6; 8; 12; 16; 20 ] |> List.filter (fun exit -> exit < layers), [ 1..8 ]
printfn $"the head costs as much as {head:F2} layers"

let inLayers: RoundTimes = {
    PlainMs = plain
    Rounds = [
        for exit in 1 .. layers - 1 do
            for drafted in 0..18 do
                let draft = float drafted * (float exit + head)
                {
                    Exit = exit
                    Drafted = drafted
                    RoundMs = draft + plain
                    DraftMs = draft
                    VerifyMs = plain
                }
    ]
    Context = 0
    Samples = 1
}

let report =
    ReplayReport.ofTrace
        (Some inLayers)
        {
            Trace = options
            Exits = exits
            Lengths = lengths
            Start = DraftPlan.fixed' (exitAt 2) 3
            BudgetMs = 0.0
        }
        trace

Notebook.show (ReplayPlots.surface $"{about}; time counted in layers" report)

(**
Acceptance decides it, and what acceptance is worth depends on the exit's cost: above the dashed line some draft length pays.
*)

let acceptance = [
    for exit in exits ->
        exit,
        100.0 * float (trace.Rows |> Array.filter (fun row -> row.Matches exit) |> Array.length)
        / float trace.Rows.Length
]
Notebook.show (
    AcceptancePlots.byExit about layers head [
        "a story", [ for exit, percent in acceptance -> exit, percent / 100.0 ]
    ]
)

(**
## Policies

A policy chooses exit and length anew each round, by what it has seen. The oracle knows the text beforehand: it is what no
policy can beat. Regret is how much longer one takes than it, and than the best fixed plan.
*)

printfn $"""{"policy", -22}  tokens a round  mean exit  regret"""

for policy in report.Policies do
    printfn
        $"{policy.Name, -22}  {policy.Stats.MeanAcceptanceLength, 14:F2}  {policy.MeanExit, 9:F1}  {100.0 * policy.OracleRegret, 5:F1}%%"

Notebook.show (ReplayPlots.regret $"{about}; time counted in layers" report)

Notebook.show (ReplayPlots.timeline about report.Policies.Head)

(**
## Is an exit right when it is sure?

Then drafts can end where it is not. Confidence is the probability that an exit gives its own choice.
*)

CalibrationPlots.reliability about [ for exit in [ 1; 2; 4 ] -> exit, ReplayPlots.confidences exit trace ]
|> Notebook.show

Notebook.show (CalibrationPlots.thresholds about 2 (ReplayPlots.confidences 2 trace))

(**
All of this came from one run of the model. To see what a machine makes of it, `layerskip sweep --html sweep.html` measures
the surface, and lays the cost model's beside it.
*)

(checkpoint :> IDisposable).Dispose()
