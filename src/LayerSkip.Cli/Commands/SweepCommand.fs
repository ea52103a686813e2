namespace LayerSkip.Cli

open System.Diagnostics
open LayerSkip

/// `layerskip sweep`: times every exit layer with every draft length, or tells what a finished sweep came to; `Sweep` and `SweepReport`
/// do the work.
[<RequireQualifiedAccess>]
module internal SweepCommand =
    /// What the command line gives.
    type private Given = {
        PromptFile: string option
        Options: SweepOptions
        IgnoreEos: bool
        StopAtEos: bool
        Shard: string option
        Report: string option
        Output: string option
        Csv: string option
        Html: string option
    }

    let private none: Given = {
        PromptFile = None
        Options = { SweepOptions.defaults with DraftLengths = [] }
        IgnoreEos = false
        StopAtEos = false
        Shard = None
        Report = None
        Output = None
        Csv = None
        Html = None
    }

    /// The options with one more.
    let private add (given: Given) (argument: SweepArgument) : Given =
        let list option text =
            match List.ofArray (Inputs.numbers option text) with
            | [] -> Inputs.usage $"--{option} is empty; write whole numbers between commas, as 1,2,3"
            | numbers -> numbers

        match argument with
        | SweepArgument.Prompts file -> { given with PromptFile = Some file }
        | SweepArgument.ExitLayers layers -> { given with Options.ExitLayers = list "exit-layers" layers }
        | SweepArgument.DraftLengths lengths -> {
            given with
                Options.DraftLengths = list "draft-lengths" lengths
          }
        | SweepArgument.MaxNewTokens count -> { given with Options.MaxNewTokens = count }
        | SweepArgument.Runs count -> { given with Options.Runs = count }
        | SweepArgument.IgnoreEos -> { given with IgnoreEos = true }
        | SweepArgument.StopAtEos -> { given with StopAtEos = true }
        | SweepArgument.Shard part -> { given with Shard = Some part }
        | SweepArgument.Report file -> { given with Report = Some file }
        | SweepArgument.Output file -> { given with Output = Some file }
        | SweepArgument.Csv file -> { given with Csv = Some file }
        | SweepArgument.Html file -> { given with Html = Some file }

    /// What has a place beside --report.
    let private reports (argument: SweepArgument) = argument.IsReport || argument.IsCsv || argument.IsHtml

    /// Puts the report where it is wanted; failed where a text was another than plain decoding's.
    let private tell
        (terminal: Terminal)
        (common: Common)
        (csv: OutputFile)
        (html: OutputFile)
        (report: SweepReport)
        : int =
        csv.Make(fun () -> (SweepOutput.csv report).TrimEnd())
        html.Make(fun () -> (SweepPlots.html report).TrimEnd())

        report
        |> (if common.Json then SweepTable.json else SweepTable.table)
        |> Terminal.result terminal

        if report.DifferentTexts > 0 then
            Terminal.fault
                terminal
                $"""{Terminal.count report.DifferentTexts "text"} differed from plain decoding's, which must not happen; please report it with `layerskip certify`"""

            ExitCode.failed
        else
            ExitCode.done'

    /// Runs the cells that are left.
    let private measure
        (terminal: Terminal)
        (common: Common)
        (given: Given)
        (output: string option)
        : SweepReport =
        let shard =
            given.Shard
            |> Option.map (Shard.tryParse >> Check.getOrRaise)
            |> Option.defaultValue Shard.whole

        use checkpoint = Inputs.load terminal common
        Inputs.needEarlierExit "sweep" checkpoint

        let options = {
            given.Options with
                Prompts =
                    given.PromptFile |> Option.map (PromptFiles.read checkpoint) |> Option.defaultValue [||]
                StopIds = if given.StopAtEos then checkpoint.StopIds else [||]
                Seed = common.Seed
        }

        let plan = Sweep.plan checkpoint options shard |> Check.getOrRaise
        let watch = Stopwatch.StartNew()

        let progress number count =
            terminal.Status.Show $"cell {number + 1} of {count}, {int watch.Elapsed.TotalSeconds} s"

        let cells = Sweep.run progress output plan |> Check.getOrRaise
        terminal.Status.Clear()
        Terminal.remark
            terminal
            $"{Inputs.machine checkpoint}; {Shown.fixedPoint 1 watch.Elapsed.TotalSeconds} s"
        SweepReport.ofRun (defaultArg output "the run") plan.Header cells |> Check.getOrRaise

    /// Runs the command; its exit code: failed where a text was another than plain decoding's.
    let run (terminal: Terminal) (common: Common) (arguments: SweepArgument list) : int =
        let given = List.fold add none arguments

        if given.IgnoreEos && given.StopAtEos then
            Inputs.usage "--ignore-eos and --stop-at-eos exclude each other; give one"

        if given.Report.IsSome && not (List.forall reports arguments) then
            Inputs.usage
                "--report tells of a sweep that is done; with it go --csv, --html and --json, leave the others out"

        let output = given.Output |> Option.map (Inputs.notEmpty "output" "the file of the run")
        let report = given.Report |> Option.map (Inputs.notEmpty "report" "the file of a run")

        // What the tables must not take the place of.
        let reads =
            Option.toList output
            @ Option.toList report
            @ Option.toList given.PromptFile
            @ (if report.IsSome then [] else Inputs.modelPlace common)

        use csv = OutputFile.Open(given.Csv, reads, "csv")
        use html = OutputFile.Open(given.Html, reads @ Option.toList given.Csv, "html")

        match report with
        | Some path -> SweepReport.load path |> Check.getOrRaise
        | None -> measure terminal common given output
        |> tell terminal common csv html
