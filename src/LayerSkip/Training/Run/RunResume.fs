namespace LayerSkip

open System
open System.IO

/// Runs that go on from a checkpoint.
[<RequireQualifiedAccess>]
module internal RunResume =
    let private latest (output: string) : Result<string * (int * string) list, LayerSkipError list> =
        SourceFile.guard (fun () ->
            match TrainingCheckpoint.all output with
            | (_, folder) :: earlier -> Ok(folder, earlier)
            | [] when
                TrainingCheckpoint.all(Path.GetDirectoryName(Path.GetFullPath output) |> string).IsEmpty
                ->
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
                ])

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

    /// Goes on from a run's latest checkpoint, with other options.
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
                RunParts.assemble
                    output
                    options
                    ranks
                    { model with Path = RunFolder.tokenizerFolder output }
                    trainee
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
            RunFolder.claimed output ranks Ok (fun claim ->
                latest output
                |> Result.bind (fun (folder, earlier) ->
                    TrainingCheckpoint.load folder device
                    |> Result.mapError (damaged folder earlier)
                    |> Result.bind (goOn claim folder))))
