namespace LayerSkip.Cli

open System
open System.IO
open System.Text

/// What reading a line came to.
[<RequireQualifiedAccess>]
type internal LineRead =
    | Line of string
    /// Ctrl-C: nothing was said.
    | Abandoned
    /// Ctrl-D, or the end of a file.
    | Ended

/// Where lines come from: a person, or a file or pipe.
type internal LineInput =
    /// Whether somebody types.
    abstract IsTyped: bool
    /// The next line. What asks for it, in so many columns, is shown to a person; `past` are lines to look at again, the latest first.
    abstract Read: asks: string * columns: int * past: string list -> LineRead

[<RequireQualifiedAccess>]
module internal LineInput =
    let private width () =
        try
            max 20 Console.WindowWidth
        with :? IOException ->
            80

    let private show (terminal: Terminal) (asks: string) columns (line: EditedLine) =
        let isDumb = Terminal.isDumb Environment.GetEnvironmentVariable
        terminal.Error.Write(LineEditor.drawn isDumb (width ()) asks columns line)
        terminal.Error.Flush()

    let private edit (terminal: Terminal) asks columns past : LineRead =
        // A read that waits cannot be ended: the process can, once it has left the terminal as it found it.
        use _leaving =
            terminal.OnInterrupt(fun code ->
                terminal.Error.WriteLine()
                Terminal.fault terminal "interrupted"
                Environment.Exit code)

        Console.TreatControlCAsInput <- true

        try
            let mutable line = LineEditor.start past
            let mutable read = ValueNone

            while read.IsNone do
                if not Console.KeyAvailable then
                    show terminal asks columns line

                match LineEditor.press (Console.ReadKey true) line with
                | Edit.Going next -> line <- next
                | Edit.Entered text -> read <- ValueSome(LineRead.Line text)
                | Edit.Abandoned -> read <- ValueSome LineRead.Abandoned
                | Edit.Ended -> read <- ValueSome LineRead.Ended

            show terminal asks columns { line with Cursor = line.Text.Length }
            terminal.Error.WriteLine()
            terminal.Error.Flush()
            read.Value
        finally
            Console.TreatControlCAsInput <- false

    let private typed (terminal: Terminal) : LineInput = {
        new LineInput with
            member _.IsTyped = true
            member _.Read(asks, columns, past) = edit terminal asks columns past
    }

    /// Lines of UTF-8, each a line's worth.
    let ofStream (stream: Stream) : LineInput =
        let reader = lazy (new StreamReader(stream, UTF8Encoding(false, true)))

        {
            new LineInput with
                member _.IsTyped = false

                member _.Read(_, _, _) =
                    try
                        match reader.Value.ReadLine() with
                        | null -> LineRead.Ended
                        | line -> LineRead.Line line
                    with :? DecoderFallbackException ->
                        raise (UsageException "standard input is no UTF-8 text; convert it to UTF-8")
        }

    /// Standard input: edited where it and what is told are a terminal's, else line by line.
    let standard (terminal: Terminal) : LineInput =
        if not Console.IsInputRedirected && terminal.Status.IsLive then
            typed terminal
        else
            ofStream (Console.OpenStandardInput())
