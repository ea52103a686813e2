namespace LayerSkip.Cli

open System
open System.Runtime.InteropServices
open System.Threading
open LayerSkip

/// Ctrl-C, SIGTERM and SIGHUP. A native call cannot be cancelled: a signal ends the process, unless a command has said that it
/// ends by itself. A second signal ends it in any case.
[<RequireQualifiedAccess>]
module internal Signals =
    let mutable private received = 0
    let mutable private cooperative: (int -> unit) option = None

    /// Calls its argument with the exit code instead of ending the process, until the result is disposed. What came before does not count.
    let cooperate (onSignal: int -> unit) : IDisposable =
        Volatile.Write(&received, 0)
        Volatile.Write(&cooperative, Some onSignal)

        Disposable.create (fun () -> Volatile.Write(&cooperative, None))

    /// Ends the process at once; nothing unfinished stays.
    let endNow (code: int) : unit =
        AtomicFile.discardAll ()
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
        let registrations =
            [
                PosixSignal.SIGHUP, ExitCode.hungUp
                PosixSignal.SIGINT, ExitCode.interrupted
                PosixSignal.SIGTERM, ExitCode.terminated
            ]
            |> List.map (fun (signal, code) -> PosixSignalRegistration.Create(signal, handle farewell code))

        Disposable.create (fun () -> registrations |> List.iter _.Dispose())
