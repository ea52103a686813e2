namespace LayerSkip.Cli

open System
open System.Diagnostics
open System.Threading
open LayerSkip

/// `layerskip train`.
[<RequireQualifiedAccess>]
module internal TrainCommand =
    /// What a run came to, as it goes on.
    [<NoEquality; NoComparison>]
    type private Progress = {
        Last: StepReport option
        Tokens: int64
        Validation: (int * float[]) option
        Accepted: (int * float) list
        Saved: string option
        End: TrainingEnd option
    }

    let private perToken (report: StepReport) = report.Sums.Objective / float (max 1 report.Sums.Tokens)

    let private listed (digits: int) (values: (int * float) seq) =
        values
        |> Seq.map (fun (exit, value) -> $"{exit}: {Output.fixedPoint digits value}")
        |> String.concat ", "

    let private entropies (report: StepReport) =
        Seq.indexed report.Sums.CrossEntropy
        |> Seq.filter (fun (_, sum) -> sum > 0.0)
        |> Seq.map (fun (layer, sum) -> layer + 1, sum / float (max 1 report.Sums.Tokens))

    let private duration (seconds: float) =
        let span = TimeSpan.FromSeconds seconds
        if span.TotalHours >= 1.0 then
            $"{int span.TotalHours} h {span.Minutes:D2} min"
        elif span.TotalMinutes >= 1.0 then
            $"{span.Minutes} min {span.Seconds:D2} s"
        else
            $"{span.Seconds} s"

    /// "step 120 of 1000, loss 2.310, exits 2: 3.100, 12: 2.200, 1,312 tokens/s, 12 min 30 s left"
    let private line (options: TrainingOptions) (rate: float) (report: StepReport) =
        let left = float (options.Steps - report.Step) * float report.Tokens / rate

        $"step {report.Step} of {options.Steps}, loss {Output.fixedPoint 3 (perToken report)}, "
        + $"exits {listed 3 (entropies report)}, {Output.number (int64 rate)} tokens/s, {duration left} left"

    let private json (session: TrainingSession) (seconds: float) (progress: Progress) =
        let finish =
            match progress.End with
            | Some TrainingEnd.Finished -> "finished"
            | _ -> "stopped"

        let exits name (values: (int * float) seq) writer =
            writer
            |> Output.object name (fun () ->
                for exit, value in values do
                    writer.WriteNumber(string exit, value))

        Output.json (fun writer ->
            writer.WriteString("output", session.Output)
            writer.WriteString("finish_reason", finish)
            writer.WriteNumber(
                "step",
                progress.Last |> Option.map _.Step |> Option.defaultValue session.Trainee.Step
            )
            writer.WriteNumber("steps", session.Plan.Options.Steps)
            writer.WriteNumber("ranks", session.Plan.Ranks.Count)
            writer.WriteNumber("tokens", progress.Tokens)
            writer.WriteNumber("seconds", Math.Round(seconds, 3))
            writer.WriteNumber("tokens_per_second", Math.Round(float progress.Tokens / max 1e-9 seconds, 1))
            writer.WriteNumber("peak_memory_bytes", Process.GetCurrentProcess().PeakWorkingSet64)

            match progress.Last with
            | Some report -> writer.WriteNumber("loss", perToken report)
            | None -> writer.WriteNull "loss"

            match progress.Validation with
            | Some(_, entropies) ->
                writer |> exits "validation" (entropies |> Seq.mapi (fun i e -> i + 1, e))
            | None -> writer.WriteNull "validation"

            writer |> exits "acceptance" progress.Accepted
            writer |> Output.textOrNull "checkpoint" progress.Saved)

    let private goOn (session: TrainingSession) =
        let ranks = session.Plan.Ranks.Count
        let prefix = if ranks > 1 then $"mpirun -n {ranks} " else ""
        $"go on with `{prefix}layerskip train --resume {session.Output}`"

    /// Shows an event, and adds it to what the run came to.
    let private show
        (terminal: Terminal)
        (session: TrainingSession)
        (watch: Stopwatch)
        (shown: int64 ref)
        (progress: Progress)
        (event: TrainingEvent)
        : Progress =
        match event with
        | TrainingEvent.Stepped report ->
            let progress = { progress with Last = Some report; Tokens = progress.Tokens + report.Tokens }
            let rate = float progress.Tokens / watch.Elapsed.TotalSeconds
            let text () = line session.Plan.Options rate report

            if session.Plan.Ranks.Rank <> 0 then
                ()
            elif terminal.Status.IsLive then
                terminal.Status.Show(text ())
            elif shown.Value = 0L || Stopwatch.GetElapsedTime(shown.Value).TotalSeconds >= 10.0 then
                Terminal.remark terminal (text ())
                shown.Value <- Stopwatch.GetTimestamp()

            progress
        | TrainingEvent.Validated(step, entropies) ->
            Terminal.remark
                terminal
                $"step {step}, validation: {listed 3 (entropies |> Seq.mapi (fun i e -> i + 1, e))}"

            { progress with Validation = Some(step, entropies) }
        | TrainingEvent.Probed(step, accepted) ->
            Terminal.remark
                terminal
                $"step {step}, accepted of {session.Plan.Options.ProbeDraft} drafted tokens, in %%: {listed 1 (accepted |> List.map (fun (exit, share) -> exit, 100.0 * share))}"

            { progress with Accepted = accepted }
        | TrainingEvent.Saved(_, folder) -> { progress with Saved = Some folder }
        | TrainingEvent.Ended(_, reason) -> { progress with End = Some reason }

    let private result (session: TrainingSession) (seconds: float) (progress: Progress) =
        let step = progress.Last |> Option.map _.Step |> Option.defaultValue session.Trainee.Step

        let quality =
            match progress.Validation with
            | Some(_, entropies) -> $", validation {Output.fixedPoint 3 (Array.last entropies)}"
            | None -> ""

        $"{session.Output}: {step} of {session.Plan.Options.Steps} steps, {Output.number progress.Tokens} tokens in {duration seconds}{quality}"

    /// Ends ranks that a signal finds waiting for one that will not come.
    let private endLater
        (terminal: Terminal)
        (session: TrainingSession)
        (saved: string option ref)
        (code: int)
        =
        let farewell _ =
            let from =
                match saved.Value with
                | Some folder -> $"{folder} is whole; {goOn session}"
                | None -> "no checkpoint had been saved yet"

            Terminal.fault terminal $"another rank has ended, or all were told to; {from}"
            Posix.exit code

        new Timer(farewell, null, 2000, Timeout.Infinite)

    let private follow (terminal: Terminal) (common: Common) (session: TrainingSession) : int =
        let ranks = session.Plan.Ranks
        let signal = Runtime.CompilerServices.StrongBox 0
        let saved = ref (TrainingCheckpoint.all session.Output |> List.tryHead |> Option.map snd)
        let mutable timer: IDisposable = null

        use _cooperating =
            terminal.OnInterrupt(fun code ->
                Volatile.Write(&signal.Value, code)

                if ranks.Count > 1 then
                    timer <- endLater terminal session saved code)

        let watch, shown = Stopwatch.StartNew(), ref 0L

        let progress =
            TrainingSession.run (fun () -> Volatile.Read &signal.Value <> 0) session
            |> Seq.fold
                (fun progress event ->
                    let progress = show terminal session watch shown progress event
                    saved.Value <- progress.Saved |> Option.orElse saved.Value
                    progress)
                { Last = None; Tokens = 0L; Validation = None; Accepted = []; Saved = None; End = None }

        terminal.Status.Clear()
        let seconds = watch.Elapsed.TotalSeconds

        let told () =
            if ranks.Rank = 0 then
                Terminal.result
                    terminal
                    (if common.Json then
                         json session seconds progress
                     else
                         result session seconds progress)

        match progress.End with
        | Some TrainingEnd.Finished ->
            told ()
            ExitCode.done'
        | Some TrainingEnd.Stopped ->
            told ()
            let step = progress.Last |> Option.map _.Step |> Option.defaultValue session.Trainee.Step
            Terminal.fault terminal $"stopped after step {step}; {goOn session}"

            match Volatile.Read &signal.Value with
            | 0 -> ExitCode.interrupted
            | code -> code
        | Some(TrainingEnd.Failed fault) ->
            let first, last = fault.Samples

            let before =
                match saved.Value with
                | Some folder -> $"; the latest checkpoint is {folder}"
                | None -> ""

            raise (
                FailureException
                    $"step {fault.Step}, samples {first} to {last}: {fault.What}; lower --learning-rate, or look at the data{before}"
            )
        | Some(TrainingEnd.Unwritable faults) -> raise (FailureException(LayerSkipError.summary faults))
        | None -> raise (FailureException "the run ended without saying why")

    let private outputOf (given: GivenTraining) =
        match given.Output with
        | Some "" -> Inputs.usage "--output is empty; name a folder for the run"
        | Some output -> output
        | None -> Inputs.usage "no --output; name a folder for the run"

    let private start (common: Common) (given: GivenTraining) (ranks: Ranks) : TrainingSession =
        let output = outputOf given
        let data = TrainOptions.data given

        if data.Train.IsEmpty then
            Inputs.usage "no --data; name text, .jsonl or token files to learn from"

        let master =
            if common.Dtype = Some Dtype.F64 then
                Dtype.F64
            else
                Dtype.F32

        let model =
            if TrainOptions.isFromScratch given then
                TrainOptions.fromScratch common given master
            elif given.Tokenizer.IsSome then
                Inputs.usage "--tokenizer goes with --shape or --config; a model has its own"
            else
                Inputs.load { common with Dtype = Some master }

        let recommended = TrainOptions.recommended given model.Recommended
        let options = TrainOptions.resolve common given model.Config recommended
        TrainingSession.start output options ranks { model with Recommended = recommended } data
        |> Check.getOrRaise

    let run
        (terminal: Terminal)
        (common: Common)
        (isThreadsGiven: bool)
        (arguments: TrainArgument list)
        : int =
        let given = TrainOptions.read arguments
        let ranks = Ranks.tryJoin () |> Check.getOrRaise

        if ranks.Count > 1 && not isThreadsGiven then
            CpuKernels.setThreads (Ranks.threads ranks)

        // One rank speaks for all, as long as nothing goes wrong with another alone.
        let terminal =
            if ranks.Rank = 0 then
                terminal
            else
                { terminal with Status = StatusLine(terminal.Error, false) }

        let work () =
            use session =
                match given.Resume with
                | Some folder -> TrainingSession.resume folder ranks common.Device |> Check.getOrRaise
                | None -> start common given ranks

            if ranks.Rank = 0 then
                Terminal.remark
                    terminal
                    $"""{Output.number (Weights.parameters session.Model.Config)} parameters, {Output.number session.Data.Tokens.Count} tokens of text, {Inputs.deviceName common.Device}, {Terminal.count (CpuKernels.threads ()) "thread"}"""

            follow terminal common session

        let code = work ()
        ranks.Leave()
        code
