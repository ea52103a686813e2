namespace LayerSkip

open System
open System.IO
open System.Text.Json

/// What a run of an adapter has come to, as it goes on; steps count from 1.
[<RequireQualifiedAccess; NoEquality; NoComparison>]
type AdapterEvent =
    | Stepped of AdapterReport
    /// How far the exit is from the whole model on the validation text, as it is and through the adapter; at step 0 of the adapter as
    /// it begins.
    | Validated of step: int * bare: ExitGap * adapted: ExitGap
    /// A checkpoint, and where it is.
    | Saved of step: int * folder: string
    /// The last event.
    | Ended of step: int * TrainingEnd

/// A run in its folder.
[<NoEquality; NoComparison>]
type AdapterSession = {
    Output: string
    /// The base, which belongs to the session and stays as it is.
    Model: Checkpoint
    Trainee: AdapterTrainee
    Plan: AdapterPlan
    Data: Dataset
    /// What the conversations come to that are learned; None where there are none.
    Conversations: ConversationCount option
    Validation: Dataset option
    Graded: Batch list
    /// Keeps other processes out of the folder.
    Claim: IDisposable
} with

    interface IDisposable with
        member this.Dispose() =
            (this.Trainee :> IDisposable).Dispose()

            for dataset in this.Data :: Option.toList this.Validation do
                (dataset.Tokens :> IDisposable).Dispose()

            Scope.release (Rope.tensorsOf this.Plan.Rope)
            (this.Model :> IDisposable).Dispose()
            this.Claim.Dispose()

/// Runs that train an adapter: they start in a folder, stop, and go on.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module AdapterSession =
    /// The dtype of the base while an adapter learns: what its passes compute in.
    let baseDtype (options: TrainingOptions) : Dtype = options.Precision

    /// What is wrong with a run before any work is done.
    let check (output: string) (options: AdapterOptions) (config: LlamaConfig) (lessons: AdapterLessons) =
        AdapterOptions.faults config options
        @ AdapterLessons.faults config options.Run lessons
        @ TrainingSession.outputFaults output
        @ RunFolder.faultsOf output (lessons.Data.Train @ lessons.Data.Validation)

    let private assemble
        output
        (options: AdapterOptions)
        (model: Checkpoint)
        (trainee: AdapterTrainee)
        claim
        =
        Check.both
            (RunData.openData output model.Config options.Run)
            (ConversationCount.load (RunFolder.conversationsFile output))
        |> Result.map (fun ((data, validation), conversations) -> {
            Output = output
            Model = model
            Trainee = trainee
            Plan = AdapterTraining.plan options model.Weights (Dataset.reader data)
            Data = data
            Conversations = conversations
            Validation = validation
            Graded =
                validation
                |> Option.map (Dataset.graded options.Run.ValidationTokens options.Run.BatchSize)
                |> Option.defaultValue []
            Claim = claim
        })
        |> Check.orDispose trainee

    /// Starts a run in a new folder over a base in `baseDtype`, which is the run's from now on; `written` is told how many ids it has
    /// written, where it writes its lessons. Errors are those of `check`, and a folder that another process trains in.
    let start
        (output: string)
        (options: AdapterOptions)
        (model: Checkpoint)
        (lessons: AdapterLessons)
        written
        =
        let prepare () =
            // Another process may have been faster.
            Check.all (TrainingSession.outputFaults output) ()
            |> Result.bind (fun () -> AdapterLessons.prepare output options.Run model lessons written)
            |> Result.map (fun () -> RunFolder.forget output)

        Check.all (check output options model.Config lessons) ()
        |> Result.bind (fun () ->
            RunFolder.claimed output Ranks.alone prepare (fun claim ->
                AdapterTraining.start options model.Weights
                |> Result.bind (fun trainee -> assemble output options model trainee claim)))
        |> Check.orDispose model

    let private latest (output: string) =
        Check.guard (fun () ->
            match TrainingCheckpoint.all output with
            | (_, folder) :: _ -> Ok folder
            | [] ->
                Error [
                    LayerSkipError.NotFound(
                        Path.Combine(output, "checkpoint-*"),
                        "name the folder of a run that saved a checkpoint"
                    )
                ])

    /// Goes on from a run's latest checkpoint with its own base, and with other options where `change` says so.
    let extend (change: TrainingOptions -> TrainingOptions) (output: string) (device: Device) =
        let goOn folder (state: AdapterState) claim =
            let options = { state.Options with Run = change state.Options.Run }

            Check.all (TrainingOptions.extensionFaults state.Options.Run options.Run) ()
            |> Result.bind (fun () -> Checkpoint.load state.Model (Some(baseDtype state.Options.Run)) device)
            |> Result.bind (fun model ->
                AdapterCheckpoint.load folder state model.Weights
                |> Result.bind (fun trainee ->
                    Check.all (AdapterOptions.faults model.Config options) ()
                    |> Result.bind (fun () ->
                        if options = state.Options then
                            Ok()
                        else
                            AdapterCheckpoint.extend folder options)
                    |> Check.orDispose trainee
                    |> Result.bind (fun () -> assemble output options model trainee claim))
                |> Check.orDispose model)

        Backend.tryDevice device
        |> Result.bind (fun _ -> latest output)
        |> Result.bind (fun _ ->
            RunFolder.claimed output Ranks.alone Ok (fun claim ->
                latest output
                |> Result.bind (fun folder ->
                    AdapterCheckpoint.read folder |> Result.bind (fun state -> goOn folder state claim))))

    /// Goes on from a run's latest checkpoint, to the same bits as a run that nothing has stopped.
    let resume (output: string) (device: Device) = extend id output device

    let private gap (json: Utf8JsonWriter) (name: string) (gap: ExitGap) =
        json.WriteStartObject name
        json.WriteNumber("kl", gap.MeanDivergence)
        json.WriteNumber("agreement", gap.Agreement)
        json.WriteEndObject()

    let private write (log: TrainingLog) (event: AdapterEvent) =
        match event with
        | AdapterEvent.Stepped report ->
            let rate = float report.Tokens / report.Seconds

            log.Add(
                report.Step,
                (fun json ->
                    LogJson.number json "kl" report.Divergence
                    json.WriteNumber("learning_rate", report.LearningRate)
                    json.WriteNumber("gradient_norm", report.GradientNorm)
                    json.WriteNumber("tokens", report.Tokens)

                    LogJson.spike json report.Spike
                    json.WriteNumber("tokens_per_second", Math.Round(rate, 1))),
                [
                    "train/kl", report.Divergence
                    "train/learning_rate", report.LearningRate
                    "train/gradient_norm", report.GradientNorm
                    "train/tokens_per_second", rate
                ]
            )
        | AdapterEvent.Validated(step, bare, adapted) ->
            log.Add(
                step,
                (fun json ->
                    json.WriteStartObject "validation"
                    gap json "exit" bare
                    gap json "adapter" adapted
                    json.WriteEndObject()),
                [
                    "validation/kl", adapted.MeanDivergence
                    "validation/agreement", adapted.Agreement
                ]
            )
        | AdapterEvent.Saved _
        | AdapterEvent.Ended _ -> ()

    let private due every steps step = every > 0 && (step % every = 0 || step = steps)

    /// Makes the steps that are left; the finished adapter is in the run's folder before the last event.
    let private events (isStopped: unit -> bool) (session: AdapterSession) : seq<AdapterEvent> =
        let options, weights = session.Plan.Options.Run, session.Model.Weights

        let state = {
            Options = session.Plan.Options
            Model = Path.GetFullPath session.Model.Path
            Step = 0
            Updates = []
            Guard = LossGuard.start
            Checksums = Map.empty
        }

        let validated (trainee: AdapterTrainee) = [
            if not session.Graded.IsEmpty && due options.ValidateEvery options.Steps trainee.Step then
                let struct (bare, adapted) =
                    AdapterTraining.validate session.Plan trainee.Adapter session.Graded
                AdapterEvent.Validated(trainee.Step, bare, adapted)
        ]

        let failed (step: int) what =
            AdapterEvent.Ended(step, TrainingEnd.Failed { Step = step; Samples = (0L, 0L); What = what })

        let save (trainee: AdapterTrainee) (after: AdapterEvent list) =
            if not (AdapterTraining.isFinite trainee) then
                [ failed trainee.Step "the adapter or the optimiser hold NaN or infinity" ]
            else
                match AdapterCheckpoint.save session.Output state weights trainee with
                | Ok folder -> AdapterEvent.Saved(trainee.Step, folder) :: after
                | Error faults -> [ AdapterEvent.Ended(trainee.Step, TrainingEnd.Unwritable faults) ]

        let finish (trainee: AdapterTrainee) =
            match AdapterCheckpoint.finish session.Output weights trainee.Adapter with
            | Ok() -> AdapterEvent.Ended(trainee.Step, TrainingEnd.Finished)
            | Error faults -> AdapterEvent.Ended(trainee.Step, TrainingEnd.Unwritable faults)

        let isOver = List.exists (fun (event: AdapterEvent) -> event.IsEnded)

        let rec go (trainee: AdapterTrainee) : seq<AdapterEvent> =
            seq {
                if trainee.Step >= options.Steps then
                    finish trainee
                else
                    match AdapterTraining.step session.Plan trainee with
                    | Error fault -> AdapterEvent.Ended(trainee.Step, TrainingEnd.Failed fault)
                    | Ok(struct (report, next)) ->
                        AdapterEvent.Stepped report
                        yield! validated next

                        let events =
                            if next.Step >= options.Steps then
                                match save next [] with
                                | events when isOver events -> events
                                | events -> events @ [ finish next ]
                            elif isStopped () then
                                save next [ AdapterEvent.Ended(next.Step, TrainingEnd.Stopped) ]
                            elif due options.SaveEvery options.Steps next.Step then
                                save next []
                            else
                                []

                        yield! events

                        if not (isOver events) then
                            yield! go next
            }

        seq {
            if session.Trainee.Step = 0 then
                yield! validated session.Trainee

            yield! go session.Trainee
        }

    /// Makes the steps that are left, and writes down what they come to; the finished adapter is in the run's folder before the last
    /// event. A full disk is thrown as LayerSkipException.
    let run (isStopped: unit -> bool) (session: AdapterSession) : seq<AdapterEvent> =
        seq {
            use log =
                RunFolder.writing session.Output (fun () ->
                    TrainingLog.Open(session.Output, session.Trainee.Step))

            for event in events isStopped session do
                RunFolder.writing session.Output (fun () -> write log event)
                event
        }
