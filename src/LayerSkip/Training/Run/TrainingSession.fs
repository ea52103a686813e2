namespace LayerSkip

open System
open System.IO

/// Runs of training: they start in a folder, stop, and go on.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module TrainingSession =
    /// Prompts of a probe: the first ids of some validation texts; the new tokens of each.
    let private prompts, promptTokens = 8, 64
    let private promptLength (config: LlamaConfig) = config.Context / 2 |> min 8 |> max 1

    let private holdsModel (folder: string) =
        Directory.Exists folder
        && [
            "config.json"
            "tokenizer.json"
            "tokenizer.model"
            "*.safetensors"
            "*.gguf"
           ]
           |> List.exists (fun pattern -> Directory.GetFiles(folder, pattern).Length > 0)

    let private outputFaults (output: string) : LayerSkipError list =
        let bad why = Error [ LayerSkipError.BadFile(output, why) ]

        SourceFile.guard (fun () ->
            if File.Exists output then
                bad "is a file; name a folder for the run"
            elif not (TrainingCheckpoint.all output).IsEmpty then
                bad "holds a run already; resume it, or name another folder"
            elif holdsModel output then
                bad
                    "holds a model or a tokenizer already, which the run would write over; name another folder"
            else
                Ok())
        |> Check.faults

    /// What is wrong with a run before any work is done.
    let check
        (output: string)
        (options: TrainingOptions)
        (config: LlamaConfig)
        (data: TrainingData)
        : LayerSkipError list =
        TrainingOptions.faults config options
        @ RunData.faults data
        @ outputFaults output
        @ RunFolder.faultsOf output (data.Train @ data.Validation)

    /// Data of which a run could learn nothing: prompts that fill their samples.
    let private silentFaults (session: TrainingSession) =
        Check.that
            (session.Coverage |> Option.forall (fun coverage -> coverage.Learned > 0L))
            (LayerSkipError.BadFile(
                session.Data.Tokens.Path,
                $"has nothing to learn within {session.Plan.Options.SequenceLength} ids of a text: prompts take all of it; give longer samples"
            ))

    /// Starts a run in a new folder. The model's weights are float32 (float64 where the run computes in it); they are the
    /// run's from now on, change in place, and go when it is disposed. Only the first rank writes; the others wait for it.
    let start
        (output: string)
        (options: TrainingOptions)
        (ranks: Ranks)
        (model: Checkpoint)
        (data: TrainingData)
        : Result<TrainingSession, LayerSkipError list> =
        let prepare () =
            // Another process may have been faster.
            match outputFaults output with
            | [] ->
                HuggingFaceExport.writeTokenizer (RunFolder.tokenizerFolder output) model
                |> Result.bind (fun () -> RunData.encode output options model data)
                |> Result.map (fun () -> RunFolder.forget output)
            | faults -> Error faults

        let work claim =
            let model = { model with Path = RunFolder.tokenizerFolder output }

            RunParts.assemble output options ranks model (Training.start model.Weights)
            |> Result.bind (fun session ->
                match silentFaults session with
                | [] -> Ok { session with HasNewOptions = true; Claim = claim }
                | faults ->
                    (session :> IDisposable).Dispose()
                    Error faults)

        match check output options model.Config data with
        | [] -> RunFolder.claimed output ranks prepare work
        | faults -> Error faults

    /// Goes on from a run's latest checkpoint with other options: steps, rate, weight decay, clipping, spikes, validation,
    /// probes and checkpoints may change. They are the run's from then on.
    let extend
        (change: TrainingOptions -> TrainingOptions)
        (output: string)
        (ranks: Ranks)
        (device: Device)
        : Result<TrainingSession, LayerSkipError list> =
        RunResume.extend change output ranks device

    /// Goes on from a run's latest checkpoint, to the same bits as a run that nothing has stopped.
    let resume
        (output: string)
        (ranks: Ranks)
        (device: Device)
        : Result<TrainingSession, LayerSkipError list> =
        RunResume.extend id output ranks device

    /// What may not be meant, or is worth knowing, a line each.
    let remarks (session: TrainingSession) : string list =
        session.Remarks
        @ Option.toList (HuggingFaceExport.tokenizerRemark session.Model.Path session.Model)

    let private promptsOf (length: int) (validation: Dataset) : int[][] =
        let starts = validation.Tokens.Starts

        [|
            for start in Array.truncate prompts starts do
                let ids =
                    validation.Tokens.Read(start, int (min (int64 length) (validation.Tokens.Count - start)))
                ids |> Array.map (fun entry -> let struct (id, _) = TokenFile.decode entry in id)
        |]

    /// Makes the steps that are left; the finished model is in the run's folder before the last event.
    let run (isStopped: unit -> bool) (session: TrainingSession) : seq<TrainingEvent> =
        let options, ranks = session.Plan.Options, session.Plan.Ranks
        let promptLength = promptLength session.Model.Config

        // A full disk ends the run with a line that says so; it is thrown, as nothing can be told through the log.
        let writing (write: unit -> 'T) : 'T =
            try
                write ()
            with e when (WriteFault.why e).IsSome ->
                raise (LayerSkipException [ WriteFault.failed session.Output (WriteFault.why e).Value ])

        let state (trainee: Trainee) = {
            Options = options
            Step = trainee.Step
            Ranks = ranks.Count
            Threads = CpuKernels.threads ()
        }

        let watch = {
            Validation = session.Graded
            Prompts = session.Validation |> Option.map (promptsOf promptLength) |> Option.defaultValue [||]
            NewTokens = min promptTokens (session.Model.Config.Context - promptLength)
            Save = fun trainee -> TrainingCheckpoint.save session.Output (state trainee) session.Model trainee
            IsStopped = isStopped
        }

        seq {
            use log =
                if ranks.Rank = 0 then
                    writing (fun () -> TrainingLog.Open(session.Output, session.Trainee.Step))
                else
                    null

            if not (isNull log) && session.HasNewOptions then
                writing (fun () -> log.Options(session.Trainee.Step, options))

            for event in TrainingRun.run session.Plan watch session.Trainee do
                if not (isNull log) then
                    writing (fun () -> log.Write event)

                match event with
                | TrainingEvent.Ended(step, TrainingEnd.Finished) when ranks.Rank = 0 ->
                    match TrainingCheckpoint.finish session.Output session.Model session.Trainee.Weights with
                    | Ok() -> event
                    | Error faults -> TrainingEvent.Ended(step, TrainingEnd.Unwritable faults)
                | event -> event
        }
