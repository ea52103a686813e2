namespace LayerSkip.Cli

open System
open System.Runtime.InteropServices
open System.Threading

/// Ctrl-C and SIGTERM. A native call cannot be cancelled: a signal ends the process, unless a command has said that it
/// ends by itself. A second signal ends it in any case.
[<RequireQualifiedAccess>]
module internal Signals =
    let mutable private received = 0
    let mutable private cooperative: (int -> unit) option = None

    /// Calls its argument with the exit code instead of ending the process, until the result is disposed.
    let cooperate (onSignal: int -> unit) : IDisposable =
        Volatile.Write(&cooperative, Some onSignal)

        {
            new IDisposable with
                member _.Dispose() = Volatile.Write(&cooperative, None)
        }

    let private endNow code =
        Unfinished.deleteForGood ()
        Posix.exit code

    let private handle (farewell: unit -> unit) (code: int) (context: PosixSignalContext) =
        context.Cancel <- true

        if Interlocked.Increment &received > 1 then
            endNow code
        else
            match Volatile.Read &cooperative with
            | Some onSignal -> onSignal code
            | None ->
                farewell ()
                endNow code

    /// Listens until the result is disposed; `farewell` is said before the process ends. Not Console.CancelKeyPress: that
    /// one sets up the terminal, and writes to it.
    let listen (farewell: unit -> unit) : IDisposable =
        let interrupt =
            PosixSignalRegistration.Create(PosixSignal.SIGINT, handle farewell ExitCode.interrupted)

        let terminate =
            PosixSignalRegistration.Create(PosixSignal.SIGTERM, handle farewell ExitCode.terminated)

        {
            new IDisposable with
                member _.Dispose() =
                    interrupt.Dispose()
                    terminate.Dispose()
        }
