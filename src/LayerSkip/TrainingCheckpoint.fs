namespace LayerSkip

open System
open System.Globalization
open System.IO
open System.Text.Json

/// What a run needs to go on, beside the weights.
[<NoEquality; NoComparison>]
type TrainingState = {
    Options: TrainingOptions
    /// Steps made.
    Step: int
    /// Processes that shared the run; the order of samples depends on it.
    Ranks: int
}

/// A run's folder: `checkpoint-N` for the latest steps, each a Hugging Face folder with `optimizer.safetensors` and
/// `training_state.json` beside the model, and the finished model in the folder itself.
[<RequireQualifiedAccess>]
module TrainingCheckpoint =
    let private version = 1
    let private stateFile, optimiserFile = "training_state.json", "optimizer.safetensors"
    let private prefix = "checkpoint-"

    /// A run's checkpoints, the latest first.
    let all (output: string) : (int * string) list =
        if not (Directory.Exists output) then
            []
        else
            [
                for folder in Directory.GetDirectories(output, prefix + "*") do
                    match
                        Int32.TryParse(
                            Path.GetFileName(folder)[prefix.Length ..],
                            NumberStyles.None,
                            CultureInfo.InvariantCulture
                        )
                    with
                    | true, step -> step, folder
                    | _ -> ()
            ]
            |> List.sortByDescending fst

    /// Moments under the names of the weights that they belong to.
    let private named (weights: Weights) (kind: string) (moments: Tensor[]) : (string * Tensor) list =
        let handles = Weights.distinctTensors weights |> Array.map _.Handle

        weights
        |> Weights.mapTensors (fun tensor -> moments[Array.IndexOf(handles, tensor.Handle)])
        |> Weights.named
        |> List.map (fun (name, tensor) -> $"{kind}.{name}", tensor)

    let private moments (weights: Weights) (state: AdamWState) =
        named weights "exp_avg" state.First @ named weights "exp_avg_sq" state.Second

    let private stateJson (state: TrainingState) (optimiser: AdamWState) : byte[] =
        HuggingFaceConfig.json (fun json ->
            json.WriteNumber("version", version)
            json.WriteNumber("step", state.Step)
            json.WriteNumber("ranks", state.Ranks)
            json.WriteStartArray "updates"
            Array.iter (fun (count: int) -> json.WriteNumberValue count) optimiser.Updates
            json.WriteEndArray()
            json.WriteStartObject "options"
            TrainingOptions.write json state.Options
            json.WriteEndObject())

    let private removeOld (output: string) keep =
        for _, folder in all output |> List.skip (min keep (all output).Length) do
            Directory.Delete(folder, true)

        // What a killed run left unfinished.
        for folder in Directory.GetDirectories(output, prefix + "*.tmp") do
            Directory.Delete(folder, true)

    /// Writes a checkpoint beside its place, moves it there, and then removes the oldest; the folder.
    /// `model` says what belongs to the weights: tokenizer, stop ids, recommended exit.
    let save
        (output: string)
        (state: TrainingState)
        (model: Checkpoint)
        (trainee: Trainee)
        : Result<string, LayerSkipError list> =
        let target = Path.Combine(output, $"{prefix}{state.Step}")
        let unfinished = FileWriter.beside target

        let discard () =
            if Directory.Exists unfinished then
                Directory.Delete(unfinished, true)

        try
            use _scope = TorchSharp.torch.NewDisposeScope()
            Directory.CreateDirectory unfinished |> ignore

            HuggingFaceConfig.expressible trainee.Weights.Config
            |> Result.bind (fun config ->
                HuggingFaceExport.fill unfinished config { model with Weights = trainee.Weights })
            |> Result.bind (fun _ ->
                moments trainee.Weights trainee.Optimiser
                |> SafetensorsWriter.write (Path.Combine(unfinished, optimiserFile)) (Map [ "format", "pt" ]))
            |> Result.bind (fun () ->
                FileWriter.replace (Path.Combine(unfinished, stateFile)) (fun file ->
                    file.Write(ReadOnlySpan(stateJson state trainee.Optimiser))))
            |> Result.map (fun () ->
                if Directory.Exists target then
                    Directory.Delete(target, true)

                Directory.Move(unfinished, target)
                removeOld output state.Options.Keep
                target)
            |> Result.mapError (fun faults ->
                discard ()
                faults)
        with e when (MappedFile.fault e).IsSome ->
            discard ()
            Error [ FileWriter.fault target e ]

    /// Writes the finished model into the run's folder, file after file.
    let finish (output: string) (model: Checkpoint) (weights: Weights) : Result<unit, LayerSkipError list> =
        try
            use _scope = TorchSharp.torch.NewDisposeScope()

            HuggingFaceConfig.expressible weights.Config
            |> Result.bind (fun config ->
                HuggingFaceExport.fill output config { model with Weights = weights })
            |> Result.map ignore
        with e when (MappedFile.fault e).IsSome ->
            Error [ FileWriter.fault output e ]

    /// Reads a checkpoint's options and step alone.
    let private readState (folder: string) : Result<struct (TrainingState * int[]), LayerSkipError list> =
        let path = Path.Combine(folder, stateFile)

        match Json.read path "a checkpoint of `layerskip train` has one" with
        | Error faults -> Error faults
        | Ok document ->
            use document = document
            let json = JsonReader(path, document.RootElement)

            match json.Int("version", 0), json.Object "options" with
            | found, _ when found <> version ->
                Error [
                    LayerSkipError.BadFile(path, $"has version {found}; this program reads {version}")
                ]
            | _, None -> Error [ LayerSkipError.BadFile(path, "has no \"options\"; take another checkpoint") ]
            | _, Some options ->
                let state = {
                    Options = TrainingOptions.ofJson options
                    Step = json.Int("step", 0)
                    Ranks = json.Int("ranks", 1)
                }

                let updates = json.Ids "updates" |> Option.defaultValue [||]
                Check.all json.Faults (struct (state, updates))

    let private readMoments
        (folder: string)
        (updates: int[])
        (weights: Weights)
        : Result<AdamWState, LayerSkipError list> =
        let path = Path.Combine(folder, optimiserFile)

        match Safetensors.openFile path with
        | Error faults -> Error faults
        | Ok file ->
            use _file = file :> IDisposable
            use _noGrad = TorchSharp.torch.no_grad ()
            use _scope = TorchSharp.torch.NewDisposeScope()
            let state = AdamW.start (Weights.distinctTensors weights)
            let stored = file.Tensors |> List.map (fun tensor -> tensor.Name, tensor) |> Map.ofList

            let faults =
                moments weights state
                |> List.collect (fun (name, destination) ->
                    match Map.tryFind name stored with
                    | Some tensor when tensor.Shape = destination.shape ->
                        use source = tensor.Read()
                        destination.copy_ source |> ignore
                        []
                    | Some tensor -> [
                        LayerSkipError.WrongShape(
                            name,
                            List.ofArray destination.shape,
                            List.ofArray tensor.Shape
                        )
                      ]
                    | None -> [ LayerSkipError.MissingTensor name ])

            let counted =
                Check.that
                    (updates.Length = state.Updates.Length)
                    (LayerSkipError.BadFile(folder, "counts the updates of other weights"))

            match faults @ counted with
            | [] -> Ok { state with Updates = updates }
            | faults ->
                for tensor in AdamWState.TensorsOf state do
                    tensor.Dispose()

                Error [ LayerSkipError.InWeights(path, faults) ]

    /// What somebody may have changed by hand.
    let private checkState (folder: string) (state: TrainingState) (model: Checkpoint) =
        let path = Path.Combine(folder, stateFile)

        let step =
            Check.that
                (state.Step >= 0 && state.Step <= state.Options.Steps)
                (LayerSkipError.OutOfRange(
                    "step",
                    string state.Step,
                    $"0 to {state.Options.Steps}, the steps"
                ))

        match TrainingOptions.faults model.Config state.Options @ step with
        | [] -> Ok()
        | faults ->
            (model :> IDisposable).Dispose()
            Error [
                for fault in faults -> LayerSkipError.BadFile(path, LayerSkipError.message fault)
            ]

    /// Loads a checkpoint to go on from.
    let load
        (folder: string)
        (device: Device)
        : Result<struct (TrainingState * Checkpoint * Trainee), LayerSkipError list> =
        match readState folder with
        | Error faults -> Error faults
        | Ok(struct (state, updates)) ->
            Checkpoint.load folder (Some(Training.masterDtype state.Options)) device
            |> Result.bind (fun model -> checkState folder state model |> Result.map (fun () -> model))
            |> Result.bind (fun model ->
                let weights = Weights.withoutKernels model.Weights

                readMoments folder updates weights
                |> Result.map (fun optimiser ->
                    struct (state,
                            { model with Weights = weights },
                            { Weights = weights; Optimiser = optimiser; Step = state.Step })))
