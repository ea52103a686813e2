/// Short runs of training in this process.
module LayerSkip.Tests.TrainingSupport

open System
open System.IO
open TorchSharp
open LayerSkip
open LayerSkip.Tests.FileSupport

Backend.ensure ()

let ok result = Check.getOrRaise result
let config = Tiny.config 24 4 4 2 true
let plain = Recipe.tryPreset "plain" 4 |> ok

/// Dropout and exits that take turns.
let paper: Recipe = {
    Dropout = 0.4
    Depth = DropoutShape.Exponential
    Time = DropoutShape.Constant
    Exits = ExitRule.Rotational(2, 0.5)
    Targets = LossOptions.standard.Targets
}

/// A short run on the tiny model.
let optionsOf (recipe: Recipe) : TrainingOptions = {
    TrainingOptions.standard recipe with
        Steps = 12
        BatchSize = 4
        SequenceLength = 9
        Rate = { Peak = 0.01; Warmup = 3; Floor = 0.1 }
        ValidateEvery = 0
        SaveEvery = 100
}

let options = optionsOf plain

let model () : Checkpoint = {
    Checkpoint.ofWeights (Path.GetTempPath()) (Weights.initial 3L Dtype.F32 Device.Cpu config) None with
        StopIds = [| 2 |]
}

/// One file to learn from, and nothing to validate on.
let dataOf file : TrainingData = {
    Train = [ file ]
    Validation = []
    ValidationShare = 0.0
    Bos = false
    Eos = false
    Special = true
}

/// A folder with something to learn, `data.tokens`.
let withData (body: string -> 'T) : 'T =
    withFolder (fun folder ->
        TokenFile.write (Path.Combine(folder, "data.tokens")) Tiny.rhythm |> ok |> ignore
        body folder)

let tryStart options data output = TrainingSession.start output options Ranks.alone (model ()) data

let start options folder =
    tryStart options (dataOf (Path.Combine(folder, "data.tokens"))) (Path.Combine(folder, "run"))
    |> ok

let tryResume output = TrainingSession.resume output Ranks.alone Device.Cpu
let eventsOf session = TrainingSession.run (fun () -> false) session |> List.ofSeq

/// Trains to the end, and lets go of the run.
let finish (session: TrainingSession) : TrainingEvent list =
    use session = session
    eventsOf session

/// Runs to the end, or until so many steps are made; the events.
let runFor (steps: int) (session: TrainingSession) : TrainingEvent list =
    let mutable made = 0

    [
        for event in TrainingSession.run (fun () -> made >= steps) session do
            match event with
            | TrainingEvent.Stepped _ -> made <- made + 1
            | _ -> ()

            event
    ]

let reports (events: TrainingEvent list) =
    events
    |> List.choose (fun event ->
        match event with
        | TrainingEvent.Stepped report -> Some report
        | _ -> None)

let validations (events: TrainingEvent list) =
    events
    |> List.choose (fun event ->
        match event with
        | TrainingEvent.Validated(step, entropies) -> Some(step, entropies)
        | _ -> None)

let bitsOf (tensors: Tensor seq) = [
    for tensor in tensors -> Tensors.toFloat32s tensor |> Array.map BitConverter.SingleToInt32Bits
]

/// Every weight and moment, and the updates, as bits.
let bits (session: TrainingSession) =
    Seq.append (Weights.tensors session.Trainee.Weights) (AdamWState.TensorsOf session.Trainee.Optimiser)
    |> bitsOf

let fileIn (folder: string) (parts: string list) = Path.Combine(Array.ofList (folder :: parts))
