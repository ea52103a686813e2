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

    let internal outputFaults (output: string) : LayerSkipError list =
        let bad = Check.bad output

        Check.guard (fun () ->
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

    /// What is wrong with a run before any work is done: its options for a model, its data, the folder that it would write.
    let check (output: string) (options: TrainingOptions) (config: LlamaConfig) (data: TrainingData) =
        TrainingOptions.faults config options
        @ RunData.faults data
        @ outputFaults output
        @ RunFolder.faultsOf output (data.Train @ data.Validation)

    /// Data of which a run could learn nothing: prompts that fill their samples.
    let private silentFaults (session: TrainingSession) =
        let why =
            $"has nothing to learn within {session.Plan.Options.SequenceLength} ids of a text: prompts take all of it; give longer samples"

        LayerSkipError.BadFile(session.Data.Tokens.Path, why)
        |> Check.that (session.Coverage |> Option.forall (fun coverage -> coverage.Learned > 0L))

    /// Starts a run in a new folder. The model's weights are float32 (float64 where the run computes in it); they are the
    /// run's from now on, change in place, and go when it is disposed. Only the first rank writes; the others wait for it.
    /// Errors are those of `check`, a folder that another process trains in, and data that have nothing to learn.
    let start (output: string) (options: TrainingOptions) (ranks: Ranks) (model: Checkpoint) data =
        let prepare () =
            // Another process may have been faster.
            Check.all (outputFaults output) ()
            |> Result.bind (fun () ->
                HuggingFaceExport.writeTokenizer (RunFolder.tokenizerFolder output) model)
            |> Result.bind (fun () -> RunData.encode output options model data)
            |> Result.map (fun () -> RunFolder.forget output)

        let work claim =
            // A model that changes has the adapters of none.
            let model = { model with Path = RunFolder.tokenizerFolder output; Adapters = [] }

            RunParts.assemble output options ranks model (Training.start model.Weights)
            |> Result.bind (fun session ->
                { session with HasNewOptions = true; Claim = claim }
                |> Check.all (silentFaults session)
                |> Check.orDispose session)

        Check.all (check output options model.Config data) ()
        |> Result.bind (fun () -> RunFolder.claimed output ranks prepare work)

    let private latest (output: string) : Result<string * (int * string) list, LayerSkipError list> =
        Check.guard (fun () ->
            match TrainingCheckpoint.all output with
            | (_, folder) :: earlier -> Ok(folder, earlier)
            | [] ->
                match Path.GetDirectoryName(Path.GetFullPath output) |> string |> TrainingCheckpoint.all with
                | [] ->
                    let wanted = Path.Combine(output, "checkpoint-*")
                    Error [
                        LayerSkipError.NotFound(wanted, "name the folder of a run that saved a checkpoint")
                    ]
                | _ ->
                    "is one checkpoint; name the run's folder, in which it lies: the latest there is taken"
                    |> Check.bad output)

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
        let allowed = $"{state.Ranks}, as the run began"
        Check.inRange (state.Ranks = ranks.Count) "the number of ranks" (string ranks.Count) allowed

    /// The options to go on with, where they fit the run and what is made of it.
    let private extended change (state: TrainingState) (config: LlamaConfig) =
        let options: TrainingOptions = change state.Options
        let goesOn = options.Steps > state.Step || options.Steps = state.Options.Steps

        let faults =
            TrainingOptions.extensionFaults state.Options options
            @ TrainingOptions.faults config options
            @ Check.inRange goesOn "steps" (string options.Steps) $"more than the {state.Step} that are made"

        Check.all faults options

    /// Goes on from a run's latest checkpoint with other options: steps, rate, weight decay, clipping, spikes, validation,
    /// probes and checkpoints may change. They are the run's from then on. Another number of ranks than it began with is an
    /// error, as is a checkpoint that is not as it was written: then the latest that is gets named.
    let extend (change: TrainingOptions -> TrainingOptions) (output: string) (ranks: Ranks) (device: Device) =
        let goOn claim folder (struct (state: TrainingState, model: Checkpoint, trainee: Trainee)) =
            let own = RunFolder.tokenizerFolder output
            // Every rank has read the options before the first one changes them.
            ranks.Barrier()

            Check.both (Check.all (rankFaults state ranks) ()) (extended change state model.Config)
            |> Result.bind (fun ((), options) ->
                // Somebody may have removed the run's own copy.
                let tokenizer =
                    if ranks.Rank = 0 && not (Directory.Exists own) then
                        HuggingFaceExport.writeTokenizer own model
                    else
                        Ok()

                tokenizer
                |> Result.bind (fun () ->
                    if ranks.Rank = 0 && options <> state.Options then
                        TrainingCheckpoint.extend folder options
                    else
                        Ok())
                |> Result.bind (fun () ->
                    RunParts.assemble output options ranks { model with Path = own } trainee)
                |> Result.map (fun session -> {
                    session with
                        HasNewOptions = (options <> state.Options)
                        Remarks = session.Remarks @ resumeRemarks state
                        Claim = claim
                }))
            |> Check.orDispose trainee

        Backend.tryDevice device
        |> Result.bind (fun _ -> latest output)
        |> Result.bind (fun _ ->
            RunFolder.claimed output ranks Ok (fun claim ->
                latest output
                |> Result.bind (fun (folder, earlier) ->
                    TrainingCheckpoint.load folder device
                    |> Result.mapError (damaged folder earlier)
                    |> Result.bind (goOn claim folder))))

    /// Goes on from a run's latest checkpoint, to the same bits as a run that nothing has stopped.
    let resume (output: string) (ranks: Ranks) (device: Device) = extend id output ranks device

    /// What may not be meant, or is worth knowing, a line each.
    let remarks (session: TrainingSession) : string list =
        session.Remarks
        @ Option.toList (HuggingFaceExport.tokenizerRemark session.Model.Path session.Model)

    /// What its log says last, up to the checkpoint that it goes on from: see `TrainingLog.Latest`.
    let latestNumbers (session: TrainingSession) : struct (float option * float[] option) =
        TrainingLog.Latest(session.Output, session.Trainee.Step)

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

        let writing write = RunFolder.writing session.Output write

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
                let products = Training.productDtype session.Trainee.Weights.Device options
                writing (fun () -> log.Options(session.Trainee.Step, options, products))

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
