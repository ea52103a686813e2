namespace LayerSkip.Cli

open System
open System.Diagnostics
open System.Threading.Tasks
open LayerSkip

/// Models that are brought by name: a bar on standard error where that is a terminal, else a line now and then.
[<RequireQualifiedAccess>]
module internal Downloads =
    let private bar (share: float) =
        let width = 24
        let full = int (share * float width)
        String('#', full) + String('.', width - full)

    /// As "1 min 5 s".
    let private duration (seconds: float) =
        match int (ceil seconds) with
        | seconds when seconds < 60 -> $"{seconds} s"
        | seconds when seconds < 3600 -> $"{seconds / 60} min {seconds % 60} s"
        | seconds -> $"{seconds / 3600} h {seconds % 3600 / 60} min"

    /// What a bar says of a download after so many seconds.
    let private status (name: string) (seconds: float) (it: HubTransfer) =
        let share = float it.Bytes / float it.Total
        let rate = float it.Fetched / max 0.001 seconds

        let left =
            if seconds < 1.0 || it.Fetched = 0L then
                ""
            else
                $", {duration (float (it.Total - it.Bytes) / rate)} left"

        $"{name} [{bar share}] {int (100.0 * share)} %%, {Output.bytes it.Bytes} of {Output.bytes it.Total}, {Output.bytes (int64 rate)}/s{left}"

    /// Shows what comes of `name`; `isQuiet` leaves out all but remarks.
    let follow (terminal: Terminal) (isQuiet: bool) (name: string) : HubProgress -> unit =
        let watch = Stopwatch.StartNew()
        // When a bar was drawn last, in seconds; the tenths that lines have told.
        let drawn = ref 0.0
        let told = ref 0

        fun progress ->
            match progress with
            | HubProgress.Remark text -> Terminal.remark terminal text
            | HubProgress.Transfer it when isQuiet || it.Fetched = 0L || it.Total = 0L -> ()
            | HubProgress.Transfer it when terminal.Status.IsLive ->
                let seconds = watch.Elapsed.TotalSeconds

                if it.Bytes >= it.Total then
                    terminal.Status.Clear()
                elif seconds - drawn.Value >= 0.1 then
                    drawn.Value <- seconds
                    terminal.Status.Show(Printable.line (status name seconds it))
            | HubProgress.Transfer it ->
                let tenths = int (10L * it.Bytes / it.Total)

                if tenths > told.Value then
                    told.Value <- tenths
                    Terminal.remark terminal $"{name}: {10 * tenths} %% of {Output.bytes it.Total}"

    /// Waits for a model that is brought, shown by `follow`.
    let wait
        (terminal: Terminal)
        (isQuiet: bool)
        (name: string)
        (bring: (HubProgress -> unit) -> Task<'T>)
        : 'T =
        let result = (bring (follow terminal isQuiet name)).GetAwaiter().GetResult()
        terminal.Status.Clear()
        result
