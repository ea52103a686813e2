namespace LayerSkip

open System
open System.IO

/// A run in its folder.
[<NoEquality; NoComparison>]
type TrainingSession = {
    Output: string
    Model: Checkpoint
    Trainee: Trainee
    Plan: TrainingPlan
    Data: Dataset
    /// What of the data is learned; None where texts are packed, which loses nothing.
    Coverage: Coverage option
    /// None where nothing validates.
    Validation: Dataset option
} with

    interface IDisposable with
        member this.Dispose() =
            (this.Trainee :> IDisposable).Dispose()
            (this.Data.Tokens :> IDisposable).Dispose()

            for validation in Option.toList this.Validation do
                (validation.Tokens :> IDisposable).Dispose()

            for tensor in Rope.tensorsOf this.Plan.Rope do
                tensor.Dispose()

[<RequireQualifiedAccess>]
module TrainingSession =
    // Each checkpoint copies its tokenizer from here: the one that a run went on from is removed some time.
    let private tokenizerFolder (output: string) = Path.Combine(output, "tokenizer")

    /// Prompts of a probe: the first ids of some validation texts; the new tokens of each.
    let private prompts, promptTokens = 8, 64
    let private promptLength (config: LlamaConfig) = config.Context / 2 |> min 8 |> max 1

    let private assemble output (options: TrainingOptions) ranks (model: Checkpoint) (trainee: Trainee) =
        Check.both
            (RunData.openData output model.Config options)
            (Recipe.tryBuild model.Config.Layers options.Steps options.Seed options.Recipe)
        |> Result.map (fun ((data, validation), parts) -> {
            Output = output
            Model = model
            Trainee = trainee
            Plan = Training.plan options parts ranks trainee.Weights (Dataset.reader data)
            Data = data
            Coverage = Dataset.coverage data
            Validation = validation
        })

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

    let private outputFaults (output: string) = [
        if File.Exists output then
            LayerSkipError.BadFile(output, "is a file; name a folder for the run")
        elif not (TrainingCheckpoint.all output).IsEmpty then
            LayerSkipError.BadFile(output, "holds a run already; go on with --resume, or name another folder")
        elif holdsModel output then
            LayerSkipError.BadFile(
                output,
                "holds a model or a tokenizer already, which the run would write over; name another folder"
            )
    ]

    /// What is wrong with a run before any work is done.
    let check
        (output: string)
        (options: TrainingOptions)
        (config: LlamaConfig)
        (data: TrainingData)
        : LayerSkipError list =
        TrainingOptions.faults config options @ RunData.faults data @ outputFaults output

    /// Data of which a run could learn nothing: prompts that fill their samples.
    let private silentFaults (session: TrainingSession) =
        Check.that
            (session.Coverage |> Option.forall (fun coverage -> coverage.Learned > 0L))
            (LayerSkipError.BadFile(
                session.Data.Tokens.Path,
                $"has nothing to learn within {session.Plan.Options.SequenceLength} ids of a text: prompts take all of it; give a longer --sequence-length"
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
        match check output options model.Config data with
        | [] ->
            let prepared =
                if ranks.Rank = 0 then
                    try
                        HuggingFaceExport.writeTokenizer (tokenizerFolder output) model
                        RunData.encode output options model data
                    with e when (MappedFile.fault e).IsSome ->
                        Error [ FileWriter.fault output e ]
                else
                    Ok()

            let failed = (ranks.Sum [| (if Result.isError prepared then 1.0 else 0.0) |])[0] > 0.0

            match prepared with
            | Ok() when failed ->
                Error [ LayerSkipError.BadFile(output, "could not be prepared by the first rank") ]
            | prepared ->
                prepared
                |> Result.bind (fun () ->
                    let model = { model with Path = tokenizerFolder output }
                    assemble output options ranks model (Training.start model.Weights))
                |> Result.bind (fun session ->
                    match silentFaults session with
                    | [] -> Ok session
                    | faults ->
                        (session :> IDisposable).Dispose()
                        Error faults)
        | faults -> Error faults

    /// Goes on from a run's latest checkpoint.
    let resume
        (output: string)
        (ranks: Ranks)
        (device: Device)
        : Result<TrainingSession, LayerSkipError list> =
        match TrainingCheckpoint.all output with
        | [] when TrainingCheckpoint.all(Path.GetDirectoryName(Path.GetFullPath output) |> string).IsEmpty ->
            Error [
                LayerSkipError.NotFound(
                    Path.Combine(output, "checkpoint-*"),
                    "name the folder of a run that saved a checkpoint"
                )
            ]
        | [] ->
            Error [
                LayerSkipError.BadFile(
                    output,
                    "is one checkpoint; name the run's folder, in which it lies: the latest there is taken"
                )
            ]
        | (_, folder) :: earlier ->
            TrainingCheckpoint.load folder device
            |> Result.mapError (fun faults ->
                match earlier with
                | [] -> faults
                | (_, next) :: _ -> [
                    LayerSkipError.BadFile(
                        folder,
                        $"cannot be gone on from ({LayerSkipError.summary faults}); remove it, and --resume takes {Path.GetFileName next}"
                    )
                  ])
            |> Result.bind (fun (struct (state, model, trainee)) ->
                // Somebody may have removed the run's own copy.
                if ranks.Rank = 0 && not (Directory.Exists(tokenizerFolder output)) then
                    HuggingFaceExport.writeTokenizer (tokenizerFolder output) model

                if state.Ranks <> ranks.Count then
                    Error [
                        LayerSkipError.OutOfRange(
                            "the number of ranks",
                            string ranks.Count,
                            $"{state.Ranks}, as the run began"
                        )
                    ]
                else
                    assemble output state.Options ranks { model with Path = tokenizerFolder output } trainee)

    /// What to say of a run whose model will have no tokenizer, though the one that it began with has.
    let tokenizerRemark (session: TrainingSession) : string option =
        HuggingFaceExport.tokenizerRemark session.Model.Path session.Model

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
            with e when (MappedFile.fault e).IsSome ->
                raise (LayerSkipException [ FileWriter.fault session.Output e ])

        let state (trainee: Trainee) = { Options = options; Step = trainee.Step; Ranks = ranks.Count }

        let validation =
            session.Validation
            |> Option.map (fun dataset ->
                let read = Dataset.reader dataset
                let count =
                    min options.ValidationBatches (max 1 (Dataset.samples dataset / options.BatchSize))

                [
                    for batch in 0 .. count - 1 do
                        let first = batch * options.BatchSize
                        read (int64 first) (min options.BatchSize (Dataset.samples dataset - first))
                ])
            |> Option.defaultValue []

        let watch = {
            Validation = validation
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
