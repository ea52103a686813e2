namespace LayerSkip.Cli

open System
open System.Diagnostics
open System.IO
open System.Runtime.CompilerServices
open System.Threading
open LayerSkip

/// A command line that cannot be followed; the message says what to write instead.
type UsageException(message: string) =
    inherit Exception(message)

/// What the process tells whoever started it; codes beyond 128 are 128 and the signal's number, as shells have them.
[<RequireQualifiedAccess>]
module ExitCode =
    let done' = 0
    let failed = 1
    let badInput = 2
    let hungUp = 129
    let interrupted = 130
    let terminated = 143

    /// Of faults of the library: bad input, unless nothing but the work itself failed.
    let ofFaults (errors: LayerSkipError list) : int =
        if List.forall LayerSkipError.isFailure errors then
            failed
        else
            badInput

/// A line on standard error that is written over and over, where that is a terminal.
[<Sealed>]
type StatusLine(error: TextWriter, isLive: bool) =
    let mutable shown = 0
    let mutable ended = not isLive

    let replace (text: string) =
        error.Write("\r" + text.PadRight shown + (if text = "" then "\r" else ""))
        error.Flush()
        shown <- text.Length

    /// Whether standard error is a terminal.
    member _.IsLive = isLive

    /// Puts a text in place of the one that stands there.
    member _.Show(text: string) : unit =
        lock error (fun () ->
            if not ended then
                replace text)

    /// Leaves the line empty, for others to write on.
    member _.Clear() : unit =
        lock error (fun () ->
            if shown > 0 then
                replace "")

    /// Clears it for good.
    member this.End() : unit =
        lock error (fun () ->
            this.Clear()
            ended <- true)

[<RequireQualifiedAccess>]
module internal Disposable =
    /// Does something when it is disposed.
    let create (dispose: unit -> unit) : IDisposable = {
        new IDisposable with
            member _.Dispose() = dispose ()
    }

/// Where a command writes, and what ends it early.
[<NoEquality; NoComparison>]
type Terminal = {
    /// Standard output: results alone.
    Out: TextWriter
    /// Standard error: remarks, progress, faults; also the lock that keeps their lines apart.
    Error: TextWriter
    /// Whether text may be coloured.
    Colour: bool
    /// A generated text as standard output may have it: on a terminal, nothing that steers it.
    Shown: string -> string
    /// The progress that is written over and over.
    Status: StatusLine
    /// Calls its argument with the exit code on Ctrl-C, SIGTERM or SIGHUP from now on, until the result is disposed; before and
    /// after, the process just ends.
    OnInterrupt: (int -> unit) -> IDisposable
}

/// Writing on a terminal, or on what stands in for one: results to standard output, everything else to standard error.
[<RequireQualifiedAccess>]
module Terminal =
    /// Lines joined by spaces.
    let oneLine (text: string) =
        text.Split([| '\r'; '\n' |], StringSplitOptions.RemoveEmptyEntries ||| StringSplitOptions.TrimEntries)
        |> String.concat " "

    /// "1 token", "2 tokens".
    let count (number: int) (thing: string) = if number = 1 then $"1 {thing}" else $"{number} {thing}s"

    /// Whether a terminal knows no escapes: TERM says so, or nothing, from which .NET's Console, git and terminfo conclude the same. Windows
    /// has no TERM.
    let isDumb (variable: string -> string) : bool =
        match variable "TERM" with
        | null
        | "" -> not (OperatingSystem.IsWindows())
        | term -> term = "dumb"

    /// Whether colours are welcome: on a terminal that knows them, unless NO_COLOR is there and not empty.
    let isColourful (isTerminal: bool) (variable: string -> string) : bool =
        isTerminal && String.IsNullOrEmpty(variable "NO_COLOR") && not (isDumb variable)

    /// One line on standard error, of words and colours that are all the program's own.
    let say (terminal: Terminal) (text: string) : unit =
        lock terminal.Error (fun () ->
            terminal.Status.Clear()
            terminal.Error.WriteLine text
            terminal.Error.Flush())

    /// One line on standard error; what a file put into it steers no terminal.
    let remark (terminal: Terminal) (text: string) : unit = say terminal (Printable.line (oneLine text))

    /// Lines on standard output; what a file put into them steers no terminal. In JSON the escapes mean the same text.
    let result (terminal: Terminal) (text: string) : unit =
        terminal.Out.WriteLine(Printable.text text)
        terminal.Out.Flush()

    /// Shows what is done and for how long, on a terminal, until the result is disposed.
    let working (terminal: Terminal) (what: string) : IDisposable =
        let watch = Stopwatch.StartNew()
        let isDone = StrongBox false

        let show _ =
            lock terminal.Error (fun () ->
                if not (Volatile.Read &isDone.Value) then
                    terminal.Status.Show $"{what}, {int watch.Elapsed.TotalSeconds} s")

        let timer = new Timer(show, null, 0, 1000)

        Disposable.create (fun () ->
            timer.Dispose()

            lock terminal.Error (fun () ->
                Volatile.Write(&isDone.Value, true)
                terminal.Status.Clear()))

    /// What ends the command: "layerskip: " and one line on standard error.
    let fault (terminal: Terminal) (text: string) : unit = remark terminal $"layerskip: {text}"

    let private escape = "\u001b["
    let private reset = escape + "0m"

    /// The colour of an origin: green, magenta, red and cyan, as most terminals show them.
    let private colour (origin: Origin) =
        match origin with
        | Origin.Prefill
        | Origin.Plain -> ""
        | Origin.Drafted -> escape + "32m"
        | Origin.LookedUp -> escape + "35m"
        | Origin.Corrected -> escape + "31m"
        | Origin.Bonus -> escape + "36m"

    let private within (terminal: Terminal) (colour: string) (text: string) =
        if terminal.Colour && colour <> "" && text <> "" then
            colour + text + reset
        else
            text

    /// A token's text in the colour of its origin.
    let coloured (terminal: Terminal) (origin: Origin) (text: string) = within terminal (colour origin) text

    /// Text in green, as most terminals show it.
    let green (terminal: Terminal) (text: string) = within terminal (escape + "32m") text

    /// Text in yellow.
    let yellow (terminal: Terminal) (text: string) = within terminal (escape + "33m") text

    /// Text that stands out.
    let bold (terminal: Terminal) (text: string) = within terminal (escape + "1m") text

    /// Text that stands back.
    let faint (terminal: Terminal) (text: string) = within terminal (escape + "2m") text

    /// What the colours mean.
    let legend (terminal: Terminal) =
        [
            Origin.Drafted, "drafted and kept"
            Origin.LookedUp, "looked up and kept"
            Origin.Corrected, "corrected"
            Origin.Bonus, "bonus"
        ]
        |> List.map (fun (origin, meaning) -> coloured terminal origin meaning)
        |> String.concat ", "
