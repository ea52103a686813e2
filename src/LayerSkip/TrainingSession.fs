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
    /// What of it is graded, of the same ids whatever the batch size; none where it has nothing to learn.
    Graded: Batch list
    /// Whether its options are to be logged: it starts, or goes on with others.
    HasNewOptions: bool
    /// What is worth knowing of how it goes on, a line each.
    Remarks: string list
    /// Keeps other processes out of the folder; nothing on ranks but the first.
    Claim: IDisposable
} with

    interface IDisposable with
        member this.Dispose() =
            (this.Trainee :> IDisposable).Dispose()
            (this.Data.Tokens :> IDisposable).Dispose()

            for validation in Option.toList this.Validation do
                (validation.Tokens :> IDisposable).Dispose()

            for tensor in Rope.tensorsOf this.Plan.Rope do
                tensor.Dispose()

            this.Claim.Dispose()

[<RequireQualifiedAccess>]
module TrainingSession =
    /// Prompts of a probe: the first ids of some validation texts; the new tokens of each.
    let private prompts, promptTokens = 8, 64
    let private promptLength (config: LlamaConfig) = config.Context / 2 |> min 8 |> max 1

    /// What keeps others out, for ranks that write nothing.
    let private noClaim = {
        new IDisposable with
            member _.Dispose() = ()
    }

    /// Does what changes the folder on the first rank, which claims it; the others wait for it. A fault gives the claim back.
    let private claimed
        (output: string)
        (ranks: Ranks)
        (prepare: unit -> Result<unit, LayerSkipError list>)
        (work: IDisposable -> Result<TrainingSession, LayerSkipError list>)
        : Result<TrainingSession, LayerSkipError list> =
        let prepared =
            if ranks.Rank > 0 then
                Ok noClaim
            else
                RunFolder.claim output
                |> Result.bind (fun claim ->
                    try
                        RunFolder.clear output
                        prepare ()
                    with e when (WriteFault.why e).IsSome ->
                        Error [ WriteFault.failed output (WriteFault.why e).Value ]
                    |> Result.map (fun () -> claim)
                    |> Result.mapError (fun faults ->
                        claim.Dispose()
                        faults))

        match prepared, Ranks.anyOf (Result.isError prepared) ranks with
        | Ok _, true -> Error [ LayerSkipError.BadFile(output, "could not be prepared by the first rank") ]
        | Error faults, _ -> Error faults
        | Ok claim, false ->
            work claim
            |> Result.mapError (fun faults ->
                claim.Dispose()
                faults)

    let private assemble output (options: TrainingOptions) ranks (model: Checkpoint) (trainee: Trainee) =
        Check.both
            (RunData.openData output model.Config options)
            (Recipe.tryBuild model.Config.Layers options.Steps options.Seed options.Recipe)
        |> Result.map (fun ((data, validation), parts) ->
            let graded =
                validation
                |> Option.map (Dataset.graded options.ValidationTokens options.BatchSize)
                |> Option.defaultValue []

            {
                Output = output
                Model = model
                Trainee = trainee
                Plan = Training.plan options parts ranks trainee.Weights (Dataset.reader data)
                Data = data
                Coverage = Dataset.coverage data
                Validation = validation
                Graded = graded
                HasNewOptions = false
                Remarks = [
                    if validation.IsSome && graded.IsEmpty then
                        $"the validation data have nothing to learn within {options.SequenceLength} ids of a text: nothing is validated"
                ]
                Claim = noClaim
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
            LayerSkipError.BadFile(output, "holds a run already; resume it, or name another folder")
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

            assemble output options ranks model (Training.start model.Weights)
            |> Result.bind (fun session ->
                match silentFaults session with
                | [] -> Ok { session with HasNewOptions = true; Claim = claim }
                | faults ->
                    (session :> IDisposable).Dispose()
                    Error faults)

        match check output options model.Config data with
        | [] -> claimed output ranks prepare work
        | faults -> Error faults

    let private latest (output: string) : Result<string * (int * string) list, LayerSkipError list> =
        match TrainingCheckpoint.all output with
        | (_, folder) :: earlier -> Ok(folder, earlier)
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

    /// A checkpoint that cannot be gone on from, and the latest that can.
    let private damaged (folder: string) (earlier: (int * string) list) (faults: LayerSkipError list) = [
        let next =
            match earlier |> List.tryFind (snd >> TrainingCheckpoint.isWhole) with
            | Some(_, whole) ->
                $"remove it, and the run goes on from {Path.GetFileName whole}, which is whole"
            | None -> "no earlier checkpoint of the run is whole: start another run"

        LayerSkipError.BadFile(folder, $"cannot be gone on from ({LayerSkipError.summary faults}); {next}")
    ]

    let private resumeRemarks (state: TrainingState) : string list =
        let threads = CpuKernels.threads ()

        [
            if state.Threads > 0 && state.Threads <> threads then
                $"the checkpoint was made on other threads ({state.Threads}, now {threads}): the last bits of sums may differ"
        ]

    let private rankFaults (state: TrainingState) (ranks: Ranks) =
        Check.that
            (state.Ranks = ranks.Count)
            (LayerSkipError.OutOfRange(
                "the number of ranks",
                string ranks.Count,
                $"{state.Ranks}, as the run began"
            ))

    /// The options to go on with, where they fit the run and what is made of it.
    let private extended
        (change: TrainingOptions -> TrainingOptions)
        (state: TrainingState)
        (config: LlamaConfig)
        =
        let options = change state.Options

        let steps =
            Check.that
                (options.Steps > state.Step || options.Steps = state.Options.Steps)
                (LayerSkipError.OutOfRange(
                    "steps",
                    string options.Steps,
                    $"more than the {state.Step} that are made"
                ))

        Check.all
            (TrainingOptions.extensionFaults state.Options options
             @ TrainingOptions.faults config options
             @ steps)
            options

    /// Goes on from a run's latest checkpoint with other options: steps, rate, weight decay, clipping, spikes, validation,
    /// probes and checkpoints may change. They are the run's from then on.
    let extend
        (change: TrainingOptions -> TrainingOptions)
        (output: string)
        (ranks: Ranks)
        (device: Device)
        : Result<TrainingSession, LayerSkipError list> =
        let goOn claim folder (struct (state: TrainingState, model: Checkpoint, trainee: Trainee)) =
            // Every rank has read the options before the first one changes them.
            ranks.Barrier()

            Check.both (Check.all (rankFaults state ranks) ()) (extended change state model.Config)
            |> Result.bind (fun ((), options) ->
                // Somebody may have removed the run's own copy.
                let tokenizer =
                    if ranks.Rank = 0 && not (Directory.Exists(RunFolder.tokenizerFolder output)) then
                        HuggingFaceExport.writeTokenizer (RunFolder.tokenizerFolder output) model
                    else
                        Ok()

                match tokenizer with
                | Error faults -> Error faults
                | Ok() when ranks.Rank = 0 && options <> state.Options ->
                    TrainingCheckpoint.extend folder options |> Result.map (fun () -> options)
                | Ok() -> Ok options)
            |> Result.bind (fun options ->
                assemble output options ranks { model with Path = RunFolder.tokenizerFolder output } trainee
                |> Result.map (fun session -> {
                    session with
                        HasNewOptions = (options <> state.Options)
                        Remarks = session.Remarks @ resumeRemarks state
                        Claim = claim
                }))
            |> Result.mapError (fun faults ->
                (trainee :> IDisposable).Dispose()
                faults)

        Backend.tryDevice device
        |> Result.bind (fun _ -> latest output)
        |> Result.bind (fun _ ->
            claimed output ranks Ok (fun claim ->
                latest output
                |> Result.bind (fun (folder, earlier) ->
                    TrainingCheckpoint.load folder device
                    |> Result.mapError (damaged folder earlier)
                    |> Result.bind (goOn claim folder))))

    /// Goes on from a run's latest checkpoint, to the same bits as a run that nothing has stopped.
    let resume
        (output: string)
        (ranks: Ranks)
        (device: Device)
        : Result<TrainingSession, LayerSkipError list> =
        extend id output ranks device

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
