namespace LayerSkip.Cli

open System
open System.IO
open System.Threading.Tasks
open Argu
open LayerSkip

/// The command: from words to a sub-command, from what it throws to one line and an exit code.
[<RequireQualifiedAccess>]
module Program =
    /// The sub-commands that exist.
    let commands = Arguments.commands

    /// Throws where Argu finds fault with the schema; a test's, since it would cost start-up time.
    let checkStructure () : unit = ArgumentParser<Argument>.CheckStructure()

    let private known = String.concat ", " Arguments.commands

    /// Where the manual of what was typed stands.
    let private helpOf (argv: string[]) =
        match argv |> Array.tryFind (fun word -> List.contains word Arguments.commands) with
        | Some "tokenizer" when Array.contains "train" argv -> "layerskip tokenizer train --help"
        | Some command -> $"layerskip {command} --help"
        | None -> "layerskip --help"

    /// The first word, where it is neither an option nor a sub-command.
    let private unknownCommand (argv: string[]) =
        match Array.tryHead argv with
        | Some word when not (word.StartsWith '-') && not (List.contains word Arguments.commands) -> Some word
        | _ -> None

    /// As the assembly has it: "0.1.0".
    let private version () = typeof<Terminal>.Assembly.GetName().Version.ToString 3

    /// Runs the sub-command; its exit code.
    let private dispatch terminal (results: ParseResults<Argument>) =
        let command = results.TryGetSubCommand()

        let given () = results.GetAllResults() |> Inputs.counting terminal command |> Inputs.common terminal

        let common () = Inputs.unquantised (given ())

        match command with
        | None when results.GetAllResults() |> List.exists _.IsVersion ->
            Terminal.result terminal $"layerskip {version ()}"
            ExitCode.done'
        | Some(Argument.Generate own) -> GenerateCommand.run terminal (common ()) (own.GetAllResults())
        | Some(Argument.Chat own) ->
            ChatCommand.run terminal (LineInput.standard terminal) (common ()) (own.GetAllResults())
        | Some(Argument.Info own) -> InfoCommand.run terminal (common ()) (own.GetAllResults())
        | Some(Argument.Certify own) -> CertifyCommand.run terminal (common ()) (own.GetAllResults())
        | Some(Argument.Bench own) -> BenchCommand.run terminal (common ()) (own.GetAllResults())
        | Some(Argument.Lens own) -> LensCommand.run terminal (common ()) (own.GetAllResults())
        | Some(Argument.Eval own) -> EvalCommand.run terminal (common ()) (own.GetAllResults())
        | Some(Argument.Pull own) -> PullCommand.run terminal (common ()) (own.GetAllResults())
        | Some(Argument.Merge own) -> MergeCommand.run terminal (common ()) (own.GetAllResults())
        | Some(Argument.Export own) -> ExportCommand.run terminal (given ()) (own.GetAllResults())
        | Some(Argument.Replay own) -> ReplayCommand.run terminal (common ()) (own.GetAllResults())
        | Some(Argument.Sweep own) -> SweepCommand.run terminal (common ()) (own.GetAllResults())
        | Some(Argument.Train own) ->
            TrainCommand.run terminal (common ()) (results.GetAllResults()) (own.GetAllResults())
        | Some(Argument.Serve own) -> ServeCommand.run terminal (common ()) (own.GetAllResults())
        | Some(Argument.Tokenizer own) ->
            match own.TryGetSubCommand() with
            | Some(TokenizerArgument.Train own) ->
                TokenizerTrainCommand.run terminal (common ()) (own.GetAllResults())
            | None ->
                Inputs.usage "no sub-command of tokenizer; there is train (see `layerskip tokenizer --help`)"
        | Some _
        | None -> Inputs.usage $"no sub-command; there are {known} (see `layerskip --help`)"

    /// Reads the command line and runs it. A wrong first word is told of with those that exist, which Argu does not do.
    let private execute terminal (argv: string[]) =
        match unknownCommand argv with
        | Some word ->
            Inputs.usage $"unknown sub-command \"{word}\"; there are {known} (see `layerskip --help`)"
        | None ->
            Arguments.parser().ParseCommandLine(Arguments.ofWords argv, raiseOnUsage = true)
            |> dispatch terminal

    /// Whether faults show where they come from.
    let private debugging () = Environment.GetEnvironmentVariable "LAYERSKIP_DEBUG" = "1"

    /// Runs a command line; never throws.
    let runWith (terminal: Terminal) (argv: string[]) : int =
        let explain (e: exn) message code =
            Terminal.fault terminal message

            if debugging () then
                terminal.Error.WriteLine(Printable.text (string e))

            code

        try
            try
                try
                    execute terminal argv
                with :? ArguParseException as e when e.ErrorCode = ErrorCode.HelpText ->
                    Terminal.result terminal (Manual.print argv e.Message)
                    ExitCode.done'
            with
            | :? ArguParseException as e ->
                explain e $"{Faults.ofArgu e.Message} (see `{helpOf argv}`)" ExitCode.badInput
            | :? UsageException as e -> explain e e.Message ExitCode.badInput
            | :? LayerSkipException as e -> explain e (Faults.ofLibrary e.Errors) (ExitCode.ofFaults e.Errors)
            | :? FailureException as e -> explain e e.Message ExitCode.failed
            | e when Memory.isShort e -> explain e Memory.shortage ExitCode.failed
            | e when not (StandardStreams.isBrokenPipe e) ->
                explain e $"{e.Message} ({e.GetType().Name}; LAYERSKIP_DEBUG=1 shows where)" ExitCode.failed
        with e when StandardStreams.isBrokenPipe e ->
            ExitCode.done'

    /// A terminal that is none: for tests and for callers in this process.
    let private withoutColour out error : Terminal = {
        Out = out
        Error = error
        Colour = false
        Shown = id
        Status = StatusLine(error, false)
        OnInterrupt = fun _ -> Disposable.create ignore
    }

    /// Runs a command line in this process, without colour and signals.
    let run (stdout: TextWriter) (stderr: TextWriter) (argv: string[]) : int =
        runWith (withoutColour stdout stderr) argv

    /// Loads libtorch beside the reading of the command line: each takes a good part of the start-up.
    let private loadAhead (argv: string[]) : Task =
        let isManual = Array.contains "--help" argv

        match Array.tryHead argv with
        // A tokenizer is trained, files are merged and models brought without tensors.
        | Some command when
            List.contains command commands
            && not (List.contains command [ "tokenizer"; "merge"; "pull" ])
            && not isManual
            ->
            let loading = Task.Run(fun () -> Backend.load () |> ignore)

            if command = "generate" then
                Warmup.after loading

            loading
        | _ -> Task.CompletedTask

    /// Runs a command line as a process does, with signals.
    let private runIn (terminal: Terminal) (argv: string[]) =
        let farewell () =
            terminal.Status.End()
            Terminal.fault terminal "interrupted"

        use _signals = Signals.listen farewell
        let loading = loadAhead argv
        let code = runWith terminal argv
        // A process must not end while a library loads; what went wrong there has been told.
        Task.WhenAny(loading).Wait()
        code

    [<EntryPoint>]
    let main argv =
        Posix.ignoreFileLimit ()
        let utf8 = Text.UTF8Encoding false
        use error = new StreamWriter(StandardStreams.error (), utf8, AutoFlush = true)

        match StandardStreams.output () with
        | None ->
            error.WriteLine "layerskip: standard output is closed; send it somewhere, as to /dev/null"
            ExitCode.failed
        | Some stream ->
            use out = new StreamWriter(stream, utf8, AutoFlush = false)
            let isTerminal = not Console.IsOutputRedirected

            runIn
                {
                    Out = out
                    Error = error
                    Colour = Terminal.isColourful isTerminal Environment.GetEnvironmentVariable
                    Shown = if isTerminal then Printable.text else id
                    Status = StatusLine(error, not Console.IsErrorRedirected)
                    OnInterrupt = Signals.cooperate
                }
                argv
