namespace LayerSkip.Cli

open System
open System.Diagnostics
open LayerSkip

/// What `layerskip train` tells while it goes on, and at the end: a fold over the run's events that also writes them down.
[<RequireQualifiedAccess>]
module internal TrainProgress =
    /// What a run came to, as it goes on.
    [<NoEquality; NoComparison>]
    type Progress = {
        Last: StepReport option
        Tokens: int64
        /// Of those, the ones that were learned.
        Learned: int64
        /// Steps that had nothing to learn.
        Idle: int
        Spikes: int
        /// Steps whose update was left out.
        Skipped: int
        /// The latest, in nats a token: exits, and entropies.
        Validation: (int * float) list option
        Accepted: (int * float) list
        Saved: string option
        End: TrainingEnd option
    }

    /// Of a run that has not begun.
    let none: Progress = {
        Last = None
        Tokens = 0L
        Learned = 0L
        Idle = 0
        Spikes = 0
        Skipped = 0
        Validation = None
        Accepted = []
        Saved = None
        End = None
    }

    /// "2: 3.100, 12: 2.200": exits with their values.
    let private listed (digits: int) (values: (int * float) seq) =
        values
        |> Seq.map (fun (exit, value) -> $"{exit}: {Shown.fixedPoint digits value}")
        |> String.concat ", "

    /// Rounded down to what matters: hours and minutes, minutes and seconds, or seconds.
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

        let learned =
            match LossSums.perToken report.Sums with
            | Some loss ->
                $"loss {Shown.fixedPoint 3 loss}, exits {listed 3 (LossSums.entropies report.Sums)}"
            | None -> "nothing to learn"

        $"step {report.Step} of {options.Steps}, {learned}, {Output.number (int64 rate)} tokens/s, {duration left} left"

    /// The last step that was made, in this call or before it.
    let step (session: TrainingSession) (progress: Progress) : int =
        progress.Last |> Option.map _.Step |> Option.defaultValue session.Trainee.Step

    /// "120 conversations, 3 of them cut, 45,000 tokens of answers to learn"
    let conversations (count: ConversationCount) : string =
        let cut = Output.textIf (count.Cut > 0) $", {Output.number count.Cut} of them cut"
        $"""{Terminal.count count.Conversations "conversation"}{cut}, {Output.number count.Learned} tokens of answers to learn"""

    /// "conversations": what is learned of them; null where there are none.
    let conversationsJson (count: ConversationCount option) (writer: System.Text.Json.Utf8JsonWriter) =
        writer
        |> JsonWrite.objectOrNull "conversations" count (fun count ->
            writer.WriteNumber("count", count.Conversations)
            writer.WriteNumber("samples", count.Samples)
            writer.WriteNumber("cut", count.Cut)
            writer.WriteNumber("answer_tokens", count.Wanted)
            writer.WriteNumber("learned_tokens", count.Learned))

    /// What the run came to, as one object: seconds and tokens are this call's, step and checkpoint the run's.
    let json (session: TrainingSession) (seconds: float) (progress: Progress) =
        let finish =
            match progress.End with
            | Some TrainingEnd.Finished -> "finished"
            | _ -> "stopped"

        let exits name (values: (int * float) seq) writer =
            writer
            |> JsonWrite.object name (fun _ ->
                for exit, value in values do
                    writer.WriteNumber(string exit, value))

        JsonWrite.line (fun writer ->
            writer.WriteString("output", session.Output)
            writer.WriteString("finish_reason", finish)
            writer.WriteNumber("step", step session progress)
            writer.WriteNumber("steps", session.Plan.Options.Steps)
            writer.WriteNumber("ranks", session.Plan.Ranks.Count)
            writer.WriteNumber("tokens", progress.Tokens)
            writer.WriteNumber("seconds", Math.Round(seconds, 3))
            writer.WriteNumber("tokens_per_second", Math.Round(float progress.Tokens / max 1e-9 seconds, 1))
            writer.WriteNumber("peak_memory_bytes", Process.GetCurrentProcess().PeakWorkingSet64)

            match progress.Last |> Option.bind (fun report -> LossSums.perToken report.Sums) with
            | Some loss when Double.IsFinite loss -> writer.WriteNumber("loss", loss)
            | _ -> writer.WriteNull "loss"

            match progress.Validation with
            | Some entropies -> writer |> exits "validation" entropies
            | None -> writer.WriteNull "validation"

            writer |> exits "acceptance" progress.Accepted
            writer |> JsonWrite.textOrNull "checkpoint" progress.Saved
            writer.WriteNumber("learned_tokens", progress.Learned)
            writer.WriteNumber("idle_steps", progress.Idle)
            writer.WriteNumber("spikes", progress.Spikes)
            writer.WriteNumber("skipped_steps", progress.Skipped)
            conversationsJson session.Conversations writer)

    /// As it is typed, with as many ranks as the run has.
    let private resuming (session: TrainingSession) =
        let ranks = session.Plan.Ranks.Count
        let prefix = Output.textIf (ranks > 1) $"mpirun -n {ranks} "
        $"{prefix}layerskip train --resume {session.Output}"

    /// The command that goes on with a run.
    let goOn (session: TrainingSession) = $"go on with `{resuming session}`"

    /// How to go on from a checkpoint after a step that ended the run, with optimiser and schedule kept.
    let wayOut (session: TrainingSession) (checkpoint: string) =
        let options = session.Plan.Options
        let lower =
            $"`{resuming session} --extend --learning-rate {Output.plainNumber (options.Rate.Peak / 2.0)}`"

        let without =
            Output.textIf
                (options.OnSpike <> SpikeRule.Skip)
                $", or without the updates of such steps, `{resuming session} --extend --on-spike skip`"

        $"go on from {checkpoint} at a lower rate, {lower}{without}, or look at the data; unchanged, it ends the same way"

    /// Says at which step the loss jumped, and over what; both in nats a token.
    let private spiked (terminal: Terminal) (step: int) (spike: Spike) =
        let outcome = Output.textIf spike.IsSkipped "; its update was left out"

        Terminal.remark
            terminal
            $"step {step}: the loss jumped to {Shown.fixedPoint 3 spike.Loss}, beyond {Shown.fixedPoint 3 spike.Limit}{outcome}"

    /// Shows an event, and adds it to what the run came to. Steps have a live line on a terminal, elsewhere one every ten seconds:
    /// `shown` is the time of the last (a Stopwatch timestamp; 0: none yet). Of several ranks only the first shows its steps.
    let show
        (terminal: Terminal)
        (session: TrainingSession)
        (watch: Stopwatch)
        (shown: int64 ref)
        (progress: Progress)
        (event: TrainingEvent)
        : Progress =
        match event with
        | TrainingEvent.Stepped report ->
            let count holds = if holds then 1 else 0

            let progress = {
                progress with
                    Last = Some report
                    Tokens = progress.Tokens + report.Tokens
                    Learned = progress.Learned + int64 report.Sums.Tokens
                    Idle = progress.Idle + count (report.Sums.Tokens = 0)
                    Spikes = progress.Spikes + count report.Spike.IsSome
                    Skipped = progress.Skipped + count (report.Spike |> Option.exists _.IsSkipped)
            }

            let rate = float progress.Tokens / watch.Elapsed.TotalSeconds
            let text () = line session.Plan.Options rate report

            if session.Plan.Ranks.Rank = 0 then
                report.Spike |> Option.iter (spiked terminal report.Step)

                if terminal.Status.IsLive then
                    terminal.Status.Show(text ())
                elif shown.Value = 0L || Stopwatch.GetElapsedTime(shown.Value).TotalSeconds >= 10.0 then
                    Terminal.remark terminal (text ())
                    shown.Value <- Stopwatch.GetTimestamp()

            progress
        | TrainingEvent.Validated(step, entropies) ->
            let byExit = entropies |> List.ofArray |> List.mapi (fun i entropy -> i + 1, entropy)
            Terminal.remark terminal $"step {step}, validation: {listed 3 byExit}"
            { progress with Validation = Some byExit }
        | TrainingEvent.Probed(step, accepted) ->
            Terminal.remark
                terminal
                $"step {step}, accepted of {session.Plan.Options.ProbeDraft} drafted tokens, in %%: {listed 1 (accepted |> List.map (fun (exit, share) -> exit, 100.0 * share))}"

            { progress with Accepted = accepted }
        | TrainingEvent.Saved(_, folder) -> { progress with Saved = Some folder }
        | TrainingEvent.Ended(_, reason) -> { progress with End = Some reason }

    /// What the run came to, as a line.
    let result (session: TrainingSession) (seconds: float) (progress: Progress) =
        let quality =
            match progress.Validation with
            | Some entropies -> $", validation {Shown.fixedPoint 3 (snd (List.last entropies))}"
            | None -> ""

        let idle =
            Output.textIf (progress.Idle > 0) $"; {Output.number progress.Idle} steps had nothing to learn"

        $"{session.Output}: {step session progress} of {session.Plan.Options.Steps} steps, {Output.number progress.Tokens} tokens in {duration seconds}{quality}{idle}"
