namespace LayerSkip.Cli

open System
open System.IO
open System.Threading
open System.Threading.Tasks
open Argu
open LayerSkip

[<RequireQualifiedAccess>]
module Program =
    /// The sub-commands that exist.
    let commands = Arguments.commands

    /// Throws where Argu finds fault with the schema; a test's, since it would cost start-up time.
    let checkStructure () : unit = ArgumentParser<Argument>.CheckStructure()

    let private known = String.concat ", " Arguments.commands

    /// Argu's message without the manual that follows it.
    let private firstLine (message: string) =
        let first = message.Split('\n')[0]
        first.Replace("ERROR: ", "").Trim().TrimEnd '.'

    let private helpOf (argv: string[]) =
        match argv |> Array.tryFind (fun word -> List.contains word Arguments.commands) with
        | Some command -> $"layerskip {command} --help"
        | None -> "layerskip --help"

    /// The first word, where it is neither an option nor a sub-command.
    let private unknownCommand (argv: string[]) =
        match Array.tryHead argv with
        | Some word when not (word.StartsWith '-') && not (List.contains word Arguments.commands) -> Some word
        | _ -> None

    let private dispatch terminal (results: ParseResults<Argument>) =
        let common () = Inputs.common (results.GetAllResults())

        match results.TryGetSubCommand() with
        | Some(Argument.Generate own) -> GenerateCommand.run terminal (common ()) (own.GetAllResults())
        | Some(Argument.Info own) -> InfoCommand.run terminal (common ()) (own.GetAllResults())
        | Some(Argument.Certify own) -> CertifyCommand.run terminal (common ()) (own.GetAllResults())
        | Some(Argument.Bench own) -> BenchCommand.run terminal (common ()) (own.GetAllResults())
        | Some(Argument.Export own) -> ExportCommand.run terminal (common ()) (own.GetAllResults())
        | Some _
        | None -> Inputs.usage $"no sub-command; there are {known} (see `layerskip --help`)"

    let private execute terminal (argv: string[]) =
        match unknownCommand argv with
        | Some word ->
            Inputs.usage $"unknown sub-command \"{word}\"; there are {known} (see `layerskip --help`)"
        | None -> Arguments.parser().ParseCommandLine(argv, raiseOnUsage = true) |> dispatch terminal

    // What the system answers to a write into a pipe that nobody reads.
    let private brokenPipe = 32

    let private isBrokenPipe (e: exn) =
        match e with
        | :? IOException as e -> e.HResult = brokenPipe
        | _ -> false

    let private debugging () = Environment.GetEnvironmentVariable "LAYERSKIP_DEBUG" = "1"

    /// Runs a command line; never throws.
    let runWith (terminal: Terminal) (argv: string[]) : int =
        let explain (e: exn) message code =
            Terminal.fault terminal message

            if debugging () then
                terminal.Error.WriteLine(string e)

            code

        try
            try
                execute terminal argv
            with
            | :? ArguParseException as e when e.ErrorCode = ErrorCode.HelpText ->
                Terminal.result terminal (e.Message.TrimEnd())
                ExitCode.done'
            | :? ArguParseException as e ->
                explain e $"{firstLine e.Message} (see `{helpOf argv}`)" ExitCode.badInput
            | :? UsageException
            | :? LayerSkipException as e -> explain e e.Message ExitCode.badInput
            | e when not (isBrokenPipe e) ->
                explain e $"{e.Message} ({e.GetType().Name}; LAYERSKIP_DEBUG=1 shows where)" ExitCode.failed
        with e when isBrokenPipe e ->
            ExitCode.done'

    /// Runs a command line in this process, without colour and Ctrl-C.
    let run (stdout: TextWriter) (stderr: TextWriter) (argv: string[]) : int =
        let nothing = {
            new IDisposable with
                member _.Dispose() = ()
        }
        runWith { Out = stdout; Error = stderr; Colour = false; OnInterrupt = fun _ -> nothing } argv

    /// Cancels on the first Ctrl-C; a second one ends the process.
    let private onInterrupt (cancel: CancellationTokenSource) : IDisposable =
        let handler =
            ConsoleCancelEventHandler(fun _ pressed ->
                pressed.Cancel <- not cancel.IsCancellationRequested
                cancel.Cancel())

        Console.CancelKeyPress.AddHandler handler

        {
            new IDisposable with
                member _.Dispose() = Console.CancelKeyPress.RemoveHandler handler
        }

    /// Console's own stream drops what a closed pipe refuses; this one reports it, so that work can end.
    let private standardOutput () : Stream =
        let open' () =
            new FileStream(new Microsoft.Win32.SafeHandles.SafeFileHandle(1n, false), FileAccess.Write, 0)

        if OperatingSystem.IsWindows() || not Console.IsOutputRedirected then
            Console.OpenStandardOutput()
        else
            match open' () with
            // A file may be shared with standard error, whose place in it only Console keeps.
            | file when file.CanSeek -> Console.OpenStandardOutput()
            | pipe -> pipe

    /// Loads libtorch beside the reading of the command line: each takes a good part of the start-up.
    let private loadAhead (argv: string[]) : Task =
        let isManual = Array.contains "--help" argv

        match Array.tryHead argv with
        | Some command when List.contains command commands && not isManual ->
            Task.Run(fun () -> Backend.load () |> ignore)
        | _ -> Task.CompletedTask

    [<EntryPoint>]
    let main argv =
        let loading = loadAhead argv
        let utf8 = Text.UTF8Encoding false
        use out = new StreamWriter(standardOutput (), utf8, AutoFlush = false)
        use error = new StreamWriter(Console.OpenStandardError(), utf8, AutoFlush = true)

        let colour =
            not Console.IsOutputRedirected
            && String.IsNullOrEmpty(Environment.GetEnvironmentVariable "NO_COLOR")

        let code = runWith { Out = out; Error = error; Colour = colour; OnInterrupt = onInterrupt } argv

        // A process must not end while a library loads; what went wrong there has been told.
        Task.WhenAny(loading).Wait()
        code
