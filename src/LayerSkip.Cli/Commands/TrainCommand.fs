namespace LayerSkip.Cli

open System
open System.Diagnostics
open System.Threading
open LayerSkip

/// `layerskip train`.
[<RequireQualifiedAccess>]
module internal TrainCommand =
    /// How long a step may still take when a signal comes: mpirun sends SIGKILL a second after SIGTERM.
    let private patience = TimeSpan.FromMilliseconds 400.0

    /// Ends this rank; the first of those left here speaks for all. mpirun loses what a rank says as it ends.
    let private endRank (ranks: Ranks) (say: unit -> unit) (code: int) =
        if Ranks.isFirstLeft ranks then
            say ()

        Threading.Thread.Sleep Ranks.lastWords
        Signals.endNow code

    /// A signal finds ranks at work, or waiting for one that is no more: then they cannot end by themselves.
    let private onSignal (ranks: Ranks) (isOver: unit -> bool) (say: unit -> unit) (code: int) =
        let wait () =
            if ranks.Gone().IsEmpty then
                Threading.Thread.Sleep patience

            if not (isOver ()) then
                endRank ranks say code

        if ranks.Count > 1 then
            Thread(wait, IsBackground = true).Start()

    /// Goes through a run's events to its end; the exit code. A failure says from which checkpoint to go on.
    let private follow (terminal: Terminal) (common: Common) (session: TrainingSession) : int =
        let ranks = session.Plan.Ranks
        let signal, isOver = Runtime.CompilerServices.StrongBox 0, Runtime.CompilerServices.StrongBox false
        let saved = ref (TrainingCheckpoint.all session.Output |> List.tryHead |> Option.map snd)

        let sayUnfinished () =
            let from =
                match saved.Value with
                | Some folder -> $"{folder} is whole; {TrainProgress.goOn session}"
                | None -> "no checkpoint had been saved yet"

            let why =
                if ranks.Gone().IsEmpty then
                    "the ranks were told to end"
                else
                    "a rank has ended, and with it the run"
            Terminal.fault terminal $"{why}; {from}"

        use _cooperating =
            terminal.OnInterrupt(fun code ->
                Volatile.Write(&signal.Value, code)

                if ranks.Count = 1 then
                    Terminal.remark
                        terminal
                        "stopping after this step; once more (Ctrl-C) ends at once and saves nothing"

                onSignal ranks (fun () -> Volatile.Read &isOver.Value) sayUnfinished code)

        let watch, shown = Stopwatch.StartNew(), ref 0L

        let unwritable (faults: LayerSkipError list) =
            let latest =
                match saved.Value with
                | Some folder -> $"; then {TrainProgress.goOn session}, from {folder}"
                | None -> ""

            LayerSkipError.summary faults + latest

        let progress =
            try
                TrainingSession.run (fun () -> Volatile.Read &signal.Value <> 0) session
                |> Seq.fold
                    (fun progress event ->
                        let progress = TrainProgress.show terminal session watch shown progress event
                        saved.Value <- progress.Saved |> Option.orElse saved.Value
                        progress)
                    TrainProgress.none
            with :? LayerSkipException as e ->
                terminal.Status.Clear()
                raise (FailureException(unwritable e.Errors))

        terminal.Status.Clear()
        let seconds = watch.Elapsed.TotalSeconds

        let told () =
            if ranks.Rank = 0 then
                let result =
                    if common.Json then
                        TrainProgress.json
                    else
                        TrainProgress.result
                Terminal.result terminal (result session seconds progress)

        match progress.End with
        | Some TrainingEnd.Finished ->
            told ()
            ExitCode.done'
        | Some TrainingEnd.Stopped ->
            Volatile.Write(&isOver.Value, true)
            told ()
            let step = TrainProgress.step session progress
            let say () = Terminal.fault terminal $"stopped after step {step}; {TrainProgress.goOn session}"

            // Another rank may have been the one that heard the signal.
            let code =
                match Volatile.Read &signal.Value with
                | 0 -> ExitCode.interrupted
                | code -> code

            // MPI would wait for mpirun, which is about to kill.
            if ranks.Count > 1 then
                endRank ranks say code

            say ()
            code
        | Some(TrainingEnd.Failed fault) ->
            let first, last = fault.Samples

            let advice =
                match saved.Value with
                | Some folder -> TrainProgress.wayOut session folder
                | None -> "lower --learning-rate, or look at the data; no checkpoint had been saved yet"

            raise (FailureException $"step {fault.Step}, samples {first} to {last}: {fault.What}; {advice}")
        | Some(TrainingEnd.Unwritable faults) -> raise (FailureException(unwritable faults))
        | None -> raise (FailureException "the run ended without saying why")

    /// What somebody may not have meant.
    let private remarks (terminal: Terminal) (given: GivenTraining) (session: TrainingSession) =
        let options = session.Plan.Options
        session.Conversations
        |> Option.iter (TrainProgress.conversations >> Terminal.remark terminal)

        for coverage in Option.toList session.Coverage do
            let lost = 1.0 - float coverage.Learned / float coverage.Wanted
            let within = $"--sequence-length {options.SequenceLength}"

            let remark count what =
                if count > 0 then
                    Terminal.remark
                        terminal
                        $"{Output.number count} of {Output.number coverage.Texts} texts {what}"

            let advice =
                match session.Conversations with
                | Some _ -> "a longer one reads more"
                | None -> "--layout packed reads all of it"

            remark
                coverage.Cut
                $"are longer than {within} and cut: {Shown.percent lost} of what could be learned is left out ({advice})"

            remark coverage.Silent $"have nothing to learn within {within}: their prompts fill it"

        TrainingSession.remarks session |> List.iter (Terminal.remark terminal)

        let learns exit =
            seq { 0 .. max 1 (options.Steps / 1000) .. options.Steps - 1 }
            |> Seq.append (seq { 0 .. min 63 (options.Steps - 1) })
            |> Seq.exists (fun step -> (session.Plan.Parts.Shares step)[exit - 1] > 0.0)

        match given.ExitLayer with
        | Some exit when not (learns exit) ->
            Terminal.remark
                terminal
                $"exit {exit}, which the model will recommend, learns nothing by this recipe; see --exits"
        | _ -> ()

    /// A run's beginning, from what the command line says.
    let private start terminal (common: Common) (given: GivenTraining) (ranks: Ranks) : TrainingSession =
        let output = Inputs.required "output" "a folder for the run" given.Output
        let data = TrainOptions.data given

        if data.Train.IsEmpty then
            Inputs.usage "no --data; name text, .jsonl or token files to learn from"

        let master =
            if common.Dtype = Some Dtype.F64 then
                Dtype.F64
            else
                Dtype.F32

        if TrainOptions.isFromScratch given && common.Model.IsSome then
            Inputs.usage "--model and --shape or --config exclude each other; leave one out"

        let model =
            if TrainOptions.isFromScratch given then
                TrainOptions.fromScratch common given master
            elif given.Tokenizer.IsSome then
                Inputs.usage "--tokenizer goes with --shape or --config; a model has its own"
            else
                Inputs.load terminal { common with Dtype = Some master }

        let recommended = TrainOptions.recommended given model.Recommended
        let options = TrainOptions.resolve common given model.Config recommended
        TrainingSession.start output options ranks { model with Recommended = recommended } data
        |> Check.getOrRaise

    /// Runs the command; its exit code. `commonGiven` are the common options as they were typed.
    let run (terminal: Terminal) (common: Common) commonGiven (arguments: TrainArgument list) : int =
        let given = TrainOptions.read arguments
        ResumeOptions.check commonGiven arguments given

        let isAdapter =
            match given.Resume with
            | Some folder -> AdapterCheckpoint.isRun folder
            | None -> given.Recipe = Some AdapterTrainOptions.recipe

        if given.Resume.IsNone then
            AdapterTrainOptions.check isAdapter arguments

        let ranks = MpiRanks.tryJoin () |> Check.getOrRaise

        if isAdapter && ranks.Count > 1 then
            Inputs.usage "an adapter is trained by one process; start it without mpirun"

        if ranks.Count > 1 && not (commonGiven |> List.exists _.IsThreads) then
            CpuKernels.setThreads (MpiRanks.threads ranks)

        // One rank speaks for all, as long as nothing goes wrong with another alone.
        let terminal =
            if ranks.Rank = 0 then
                terminal
            else
                { terminal with Status = StatusLine(terminal.Error, false) }

        let work () =
            use session =
                match given.Resume with
                | Some folder when given.Extend ->
                    TrainingSession.extend (TrainOptions.changed given) folder ranks common.Device
                    |> Check.getOrRaise
                | Some folder -> TrainingSession.resume folder ranks common.Device |> Check.getOrRaise
                | None -> start terminal common given ranks

            if ranks.Rank = 0 then
                remarks terminal given session

                let learner =
                    if given.Resume.IsSome then
                        $"{session.Output} goes on after step {session.Trainee.Step}"
                    elif TrainOptions.isFromScratch given then
                        "a model from scratch"
                    else
                        common.Place.Value

                let products =
                    Training.productDtype session.Trainee.Weights.Device session.Plan.Options |> Dtype.name

                Terminal.remark
                    terminal
                    $"""{learner}: {Output.number (Weights.parameters session.Model.Config)} parameters, {Output.number session.Data.Tokens.Count} tokens of text, {Inputs.deviceName common.Device}, products in {products}, {Terminal.count (CpuKernels.threads ()) "thread"}"""

            follow terminal common session

        let code =
            if isAdapter then
                AdapterTrainCommand.run terminal common given
            else
                work ()

        ranks.Leave()
        code
