namespace LayerSkip.Cli

open System
open System.Diagnostics
open System.Threading
open LayerSkip

/// `layerskip train --recipe adapter`.
[<RequireQualifiedAccess>]
module internal AdapterTrainCommand =
    /// What a run came to, as it goes on.
    [<NoEquality; NoComparison>]
    type private Progress = {
        Last: AdapterReport option
        Tokens: int64
        Bare: ExitGap option
        Adapted: ExitGap option
        Saved: string option
        End: TrainingEnd option
    }

    let private none = { Last = None; Tokens = 0L; Bare = None; Adapted = None; Saved = None; End = None }

    let private shownGap (gap: ExitGap) =
        $"KL {Shown.fixedPoint 3 gap.MeanDivergence}, agreement {Shown.percent gap.Agreement}"

    /// Shows steps on a live line of a terminal, elsewhere one every ten seconds.
    let private show
        (terminal: Terminal)
        (session: AdapterSession)
        (watch: Stopwatch)
        (shown: int64 ref)
        progress
        event
        =
        let steps = session.Plan.Options.Run.Steps

        match event with
        | AdapterEvent.Stepped report ->
            let tokens = progress.Tokens + report.Tokens
            let rate = float tokens / watch.Elapsed.TotalSeconds
            let text () =
                $"step {report.Step} of {steps}, KL {Shown.fixedPoint 3 report.Divergence}, {Output.number (int64 rate)} tokens/s"

            report.Spike
            |> Option.iter (fun spike ->
                Terminal.remark
                    terminal
                    $"step {report.Step}: the KL divergence jumped to {Shown.fixedPoint 3 spike.Loss}, beyond {Shown.fixedPoint 3 spike.Limit}")

            if terminal.Status.IsLive then
                terminal.Status.Show(text ())
            elif shown.Value = 0L || Stopwatch.GetElapsedTime(shown.Value).TotalSeconds >= 10.0 then
                Terminal.remark terminal (text ())
                shown.Value <- Stopwatch.GetTimestamp()

            { progress with Last = Some report; Tokens = tokens }
        | AdapterEvent.Validated(step, bare, adapted) ->
            Terminal.remark
                terminal
                $"step {step}, validation: exit {shownGap bare}; adapter {shownGap adapted}"
            { progress with Bare = Some bare; Adapted = Some adapted }
        | AdapterEvent.Saved(_, folder) -> { progress with Saved = Some folder }
        | AdapterEvent.Ended(_, reason) -> { progress with End = Some reason }

    let private stepOf (session: AdapterSession) (progress: Progress) =
        progress.Last |> Option.map _.Step |> Option.defaultValue session.Trainee.Step

    let private json (session: AdapterSession) (seconds: float) (progress: Progress) =
        let options = session.Plan.Options

        let gap name (gap: ExitGap option) writer =
            match gap with
            | None -> JsonWrite.textOrNull name None writer
            | Some gap ->
                writer
                |> JsonWrite.object name (fun _ ->
                    writer.WriteNumber("kl", gap.MeanDivergence)
                    writer.WriteNumber("agreement", gap.Agreement))

        JsonWrite.line (fun writer ->
            writer.WriteString("output", session.Output)
            let finished = progress.End |> Option.exists _.IsFinished
            writer.WriteString("finish_reason", (if finished then "finished" else "stopped"))
            writer.WriteString("adapter", AdapterForm.name options.Form)
            writer.WriteNumber("exit_layer", options.Exit)
            writer.WriteNumber("parameters", Adapter.parameters session.Trainee.Adapter)
            writer.WriteNumber("step", stepOf session progress)
            writer.WriteNumber("steps", options.Run.Steps)
            writer.WriteNumber("tokens", progress.Tokens)
            writer.WriteNumber("seconds", Math.Round(seconds, 3))
            writer.WriteNumber("tokens_per_second", Math.Round(float progress.Tokens / max 1e-9 seconds, 1))
            writer.WriteNumber("peak_memory_bytes", Process.GetCurrentProcess().PeakWorkingSet64)

            match progress.Last |> Option.map _.Divergence with
            | Some kl when Double.IsFinite kl -> writer.WriteNumber("kl", kl)
            | _ -> writer.WriteNull "kl"

            writer |> gap "validation_exit" progress.Bare
            writer |> gap "validation" progress.Adapted
            writer |> JsonWrite.textOrNull "checkpoint" progress.Saved
            TrainProgress.conversationsJson session.Conversations writer)

    let private line (session: AdapterSession) (seconds: float) (progress: Progress) =
        let quality =
            match progress.Bare, progress.Adapted with
            | Some bare, Some adapted -> $"; exit {shownGap bare}; adapter {shownGap adapted}"
            | _ -> ""

        $"{session.Output}: {stepOf session progress} of {session.Plan.Options.Run.Steps} steps, {Output.number progress.Tokens} tokens in {Output.number (int64 seconds)} s{quality}"

    let private goOn (session: AdapterSession) = $"go on with `layerskip train --resume {session.Output}`"

    /// Goes through a run's events to its end; the exit code.
    let private follow (terminal: Terminal) (common: Common) (session: AdapterSession) : int =
        let signal = Runtime.CompilerServices.StrongBox 0

        use _cooperating =
            terminal.OnInterrupt(fun code ->
                Volatile.Write(&signal.Value, code)

                Terminal.remark
                    terminal
                    "stopping after this step; once more (Ctrl-C) ends at once and saves nothing")

        let watch, shown = Stopwatch.StartNew(), ref 0L

        let progress =
            try
                AdapterSession.run (fun () -> Volatile.Read &signal.Value <> 0) session
                |> Seq.fold (show terminal session watch shown) none
            finally
                terminal.Status.Clear()

        let seconds = watch.Elapsed.TotalSeconds
        let told () = Terminal.result terminal ((if common.Json then json else line) session seconds progress)

        match progress.End with
        | Some TrainingEnd.Finished ->
            told ()

            let file = IO.Path.Combine(session.Output, AdapterFile.name)
            Terminal.remark
                terminal
                $"draft with it: generate --drafter adapter --adapter-file {file}, and --model its base"
            ExitCode.done'
        | Some TrainingEnd.Stopped ->
            told ()
            Terminal.fault terminal $"stopped after step {stepOf session progress}; {goOn session}"

            match Volatile.Read &signal.Value with
            | 0 -> ExitCode.interrupted
            | code -> code
        | Some(TrainingEnd.Failed fault) ->
            let advice =
                match progress.Saved with
                | Some folder -> $"{goOn session} --extend --learning-rate and a lower rate, from {folder}"
                | None -> "lower --learning-rate, or look at the data; no checkpoint had been saved yet"

            let first, last = fault.Samples
            raise (FailureException $"step {fault.Step}, samples {first} to {last}: {fault.What}; {advice}")
        | Some(TrainingEnd.Unwritable faults) -> raise (FailureException(LayerSkipError.summary faults))
        | None -> raise (FailureException "the run ended without saying why")

    let private start (terminal: Terminal) (common: Common) (given: GivenTraining) : AdapterSession =
        let output = Inputs.required "output" "a folder for the run" given.Output
        let model = Inputs.load terminal { common with Dtype = Some(AdapterTrainOptions.baseDtype common) }
        let options = AdapterTrainOptions.resolve common given model
        let lessons = AdapterTrainOptions.lessons common given options.Run
        let watch = Stopwatch.StartNew()

        let written (count: int64) =
            Terminal.remark
                terminal
                $"{Output.number count} tokens written, {Output.number (int64 (float count / watch.Elapsed.TotalSeconds))} tokens/s"

        AdapterSession.start output options model lessons written |> Check.getOrRaise

    /// Runs the command; its exit code.
    let run (terminal: Terminal) (common: Common) (given: GivenTraining) : int =
        use session =
            match given.Resume with
            | Some folder ->
                let change = if given.Extend then TrainOptions.changed given else id
                AdapterSession.extend change folder common.Device |> Check.getOrRaise
            | None -> start terminal common given

        let options = session.Plan.Options

        Terminal.remark
            terminal
            $"{AdapterForm.name options.Form} adapter behind layer {options.Exit} of {session.Model.Path}: {Output.number (Adapter.parameters session.Trainee.Adapter)} parameters, {Output.number session.Data.Tokens.Count} tokens of text, {Inputs.deviceName common.Device}"

        session.Conversations
        |> Option.iter (TrainProgress.conversations >> Terminal.remark terminal)
        follow terminal common session
