namespace LayerSkip.Cli

open System
open System.IO
open System.Threading
open LayerSkip

/// A command line that cannot be followed; the message says what to write instead.
type UsageException(message: string) =
    inherit Exception(message)

[<RequireQualifiedAccess>]
module ExitCode =
    let done' = 0
    let failed = 1
    let badInput = 2
    let interrupted = 130

/// Where a command writes, and what ends it early.
[<NoEquality; NoComparison>]
type Terminal = {
    Out: TextWriter
    Error: TextWriter
    /// Whether text may be coloured: standard output is a terminal and NO_COLOR is not set.
    Colour: bool
    /// Calls its argument's token cancelled on Ctrl-C from now on, until the result is disposed.
    OnInterrupt: CancellationTokenSource -> IDisposable
}

[<RequireQualifiedAccess>]
module Terminal =
    let oneLine (text: string) =
        text.Split([| '\r'; '\n' |], StringSplitOptions.RemoveEmptyEntries ||| StringSplitOptions.TrimEntries)
        |> String.concat " "

    /// One line on standard error.
    let remark (terminal: Terminal) (text: string) : unit =
        terminal.Error.WriteLine(oneLine text)
        terminal.Error.Flush()

    /// Lines on standard output.
    let result (terminal: Terminal) (text: string) : unit =
        terminal.Out.WriteLine text
        terminal.Out.Flush()

    let fault (terminal: Terminal) (text: string) : unit = remark terminal $"layerskip: {text}"

    let private escape = "\u001b["
    let private reset = escape + "0m"

    let private colour (origin: Origin) =
        match origin with
        | Origin.Prefill
        | Origin.Plain -> ""
        | Origin.Drafted -> escape + "32m"
        | Origin.Corrected -> escape + "31m"
        | Origin.Bonus -> escape + "36m"

    /// A token's text in the colour of its origin.
    let coloured (terminal: Terminal) (origin: Origin) (text: string) =
        match terminal.Colour, colour origin with
        | true, colour when colour <> "" && text <> "" -> colour + text + reset
        | _ -> text

    /// What the colours mean.
    let legend (terminal: Terminal) =
        [
            Origin.Drafted, "drafted and kept"
            Origin.Corrected, "corrected"
            Origin.Bonus, "bonus"
        ]
        |> List.map (fun (origin, meaning) -> coloured terminal origin meaning)
        |> String.concat ", "

/// A file that is written whole or not at all, and found unwritable before any work is done.
/// Where none is asked for, writing does nothing.
[<Sealed>]
type OutputFile private (target: (string * string) option) =
    let mutable kept = false

    static let create (path: string) =
        let fault why =
            let message = $"cannot be written: {why}; name another file with --output"
            raise (LayerSkipException [ LayerSkipError.BadFile(path, message) ])

        if path = "" || Directory.Exists path then
            fault "it is a folder"

        let full = Path.GetFullPath path
        let folder = Path.GetDirectoryName full

        if not (Directory.Exists folder) then
            fault $"there is no folder {folder}"

        if File.Exists full && File.GetAttributes(full).HasFlag FileAttributes.ReadOnly then
            fault "it is read-only"

        let unfinished = $"{full}.{Environment.ProcessId}.part"

        try
            using (File.Create unfinished) ignore
            full, unfinished
        with
        | :? IOException
        | :? UnauthorizedAccessException as e -> fault (e.Message.TrimEnd '.')

    static member Open(path: string option) : OutputFile = new OutputFile(Option.map create path)

    /// The text and a line's end.
    member _.Write(text: string) : unit =
        target
        |> Option.iter (fun (path, unfinished) ->
            File.WriteAllText(unfinished, text + "\n")
            File.Move(unfinished, path, true)
            kept <- true)

    interface IDisposable with
        member _.Dispose() =
            match target with
            | Some(_, unfinished) when not kept -> File.Delete unfinished
            | _ -> ()
