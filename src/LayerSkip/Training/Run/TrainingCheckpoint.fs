namespace LayerSkip

open System
open System.Globalization
open System.IO
open System.Text.Json

/// A run's folder: `checkpoint-N` for the latest steps, each a Hugging Face folder with `optimizer.safetensors` and
/// `training_state.json` beside the model, and the finished model in the folder itself.
[<RequireQualifiedAccess>]
module TrainingCheckpoint =
    let private prefix = "checkpoint-"

    let private folders (output: string) : string[] =
        try
            if Directory.Exists output then
                Directory.GetDirectories(output, prefix + "*")
            else
                [||]
        with e when (ReadFault.why e).IsSome ->
            Check.bad output (ReadFault.why e).Value |> Check.getOrRaise

    /// A run's checkpoints, the latest first. A folder that cannot be looked into is thrown as LayerSkipException.
    let all (output: string) : (int * string) list =
        let stepOf (folder: string) =
            let number = Path.GetFileName(folder)[prefix.Length ..]

            match Int32.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture) with
            | true, step -> Some(step, folder)
            | _ -> None

        folders output |> List.ofArray |> List.choose stepOf |> List.sortByDescending fst

    // A checkpoint of which a kill left half must not look like one.
    let private remove (folder: string) =
        let going = Unfinished.beside folder
        Unfinished.start going (fun () -> Directory.Move(folder, going))
        Unfinished.discard going

    let internal removeOld (output: string) keep =
        let checkpoints = all output

        for _, folder in checkpoints |> List.skip (min keep checkpoints.Length) do
            remove folder

    /// Writes a checkpoint beside its place, moves it there, and then removes the oldest; the folder.
    /// `model` says what belongs to the weights: tokenizer, stop ids, recommended exit.
    let save (output: string) (state: TrainingState) (model: Checkpoint) (trainee: Trainee) =
        let target = Path.Combine(output, $"{prefix}{state.Step}")
        use _scope = Scope.start ()

        let fill folder =
            HuggingFaceExport.fill folder { model with Weights = trainee.Weights }
            |> Result.bind (fun _ ->
                Moments.write folder (Weights.namedLike trainee.Weights.Config) trainee.Optimiser)
            |> Result.bind (fun () ->
                let stored = {
                    State = state
                    Updates = List.ofArray trainee.Optimiser.Updates
                    Guard = trainee.Guard
                    Checksums = TrainingState.checksums folder
                }

                AtomicFile.writeBytes (Path.Combine(folder, TrainingState.file)) (TrainingState.bytes stored))

        AtomicFile.writeFolder target fill
        |> Result.bind (fun () ->
            WriteFault.guard (WriteFault.ofOpening output) (fun () ->
                removeOld output state.Options.Keep
                Ok target))

    /// Writes the finished model into the run's folder, file after file.
    let finish (output: string) (model: Checkpoint) (weights: Weights) : Result<unit, LayerSkipError list> =
        use _scope = Scope.start ()
        HuggingFaceExport.fill output { model with Weights = weights } |> Result.map ignore

    let private readMoments (folder: string) (updates: int list) (weights: Weights) =
        let state = AdamW.start (Weights.tensors weights)

        match Moments.read folder (Weights.namedLike weights.Config) "weights" updates state with
        | Ok read -> Ok read
        | Error faults ->
            Scope.release (AdamWState.TensorsOf state)
            Error faults

    /// What somebody may have changed by hand.
    let private stateFaults (folder: string) (state: TrainingState) (config: LlamaConfig) =
        let path = Path.Combine(folder, TrainingState.file)

        let isMade = state.Step >= 0 && state.Step <= state.Options.Steps
        let step = Check.inRange isMade "step" (string state.Step) $"0 to {state.Options.Steps}, the steps"

        [
            for fault in TrainingOptions.faults config state.Options @ step ->
                LayerSkipError.BadFile(path, LayerSkipError.message fault)
        ]

    let private loadTrainee (folder: string) (stored: StoredState) (model: Checkpoint) =
        let weights = Weights.withoutKernels model.Weights

        Check.all (stateFaults folder stored.State model.Config) ()
        |> Result.bind (fun () -> readMoments folder stored.Updates weights)
        |> Result.bind (fun optimiser ->
            let trainee = {
                Weights = weights
                Optimiser = optimiser
                Guard = stored.Guard
                Step = stored.State.Step
            }

            // Checksums would tell, where there are any.
            if Training.isFinite trainee then
                Ok(struct (stored.State, { model with Weights = weights }, trainee))
            else
                Scope.release (AdamWState.TensorsOf optimiser)
                Check.bad folder "holds NaN or infinity among weights or moments")
        |> Check.orDispose model

    /// Loads a checkpoint to go on from: its state, its model, and the trainee, which owns the weights of both. Files other
    /// than those which were written with the state, options outside their range, and numbers that are not finite are
    /// errors.
    let load (folder: string) (device: Device) =
        TrainingState.read folder
        |> Result.bind (fun stored -> Check.all (TrainingState.sealFaults folder stored) stored)
        |> Result.bind (fun stored ->
            Checkpoint.load folder (Some(Training.masterDtype stored.State.Options)) device
            |> Result.bind (loadTrainee folder stored))

    /// Whether a checkpoint is as it was written; of an earlier version's only whether its state can be read.
    let internal isWhole (folder: string) : bool =
        match TrainingState.read folder with
        | Ok stored -> (TrainingState.sealFaults folder stored).IsEmpty
        | Error _ -> false

    /// Gives a checkpoint other options, for good.
    let internal extend (folder: string) (options: TrainingOptions) : Result<unit, LayerSkipError list> =
        TrainingState.read folder
        |> Result.bind (fun stored ->
            let extended = {
                stored with
                    State.Options = options
                    Checksums =
                        if stored.Checksums.IsEmpty then
                            TrainingState.checksums folder
                        else
                            stored.Checksums
            }

            AtomicFile.writeBytes (Path.Combine(folder, TrainingState.file)) (TrainingState.bytes extended))
