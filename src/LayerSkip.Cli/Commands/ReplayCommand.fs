namespace LayerSkip.Cli

open System
open System.IO
open LayerSkip

/// `layerskip replay`: one greedy run, and what every exit layer, draft length and policy would have done with it; the replaying
/// is `ReplayReport`'s.
[<RequireQualifiedAccess>]
module internal ReplayCommand =
    /// What the command line gives.
    type private Given = {
        /// Those options that `generate` has too, as its own.
        Shared: GenerateArgument list
        ExitLayers: int list option
        DraftLengths: int list option
        Trace: string option
        Html: string option
        Output: string option
    }

    let private none: Given = {
        Shared = []
        ExitLayers = None
        DraftLengths = None
        Trace = None
        Html = None
        Output = None
    }

    let private add (given: Given) (argument: ReplayArgument) : Given =
        let share shared = { given with Shared = given.Shared @ [ shared ] }
        let list option text = Some(List.distinct (List.ofArray (Inputs.numbers option text)))

        match argument with
        | ReplayArgument.Prompt text -> share (GenerateArgument.Prompt text)
        | ReplayArgument.PromptIds ids -> share (GenerateArgument.PromptIds ids)
        | ReplayArgument.PromptFile file -> share (GenerateArgument.PromptFile file)
        | ReplayArgument.MaxNewTokens count -> share (GenerateArgument.MaxNewTokens count)
        | ReplayArgument.StopIds ids -> share (GenerateArgument.StopIds ids)
        | ReplayArgument.IgnoreEos -> share GenerateArgument.IgnoreEos
        | ReplayArgument.ExitLayers layers -> { given with ExitLayers = list "exit-layers" layers }
        | ReplayArgument.DraftLengths lengths -> { given with DraftLengths = list "draft-lengths" lengths }
        | ReplayArgument.Trace file -> { given with Trace = Some file }
        | ReplayArgument.Html file -> { given with Html = Some file }
        | ReplayArgument.Output file -> { given with Output = Some file }

    /// Runs the command; its exit code. All that can be checked without the model is checked before it is loaded.
    let run (terminal: Terminal) (common: Common) (arguments: ReplayArgument list) : int =
        let given = List.fold add none arguments
        let shared = GenerateOptions.read given.Shared
        let prompt = GivenPrompts.one shared.Prompts
        let sampling = GenerateOptions.sampling shared

        Inputs.refuse [
            for length in defaultArg given.DraftLengths [] do
                yield! Inputs.atLeastOne "draft-lengths" length
        ]

        for option, list in [ "exit-layers", given.ExitLayers; "draft-lengths", given.DraftLengths ] do
            if list = Some [] then
                Inputs.usage $"--{option} is empty; write whole numbers between commas, as 1,2,3"

        let written =
            List.choose id [ given.Output; given.Trace; given.Html ]
            |> List.filter ((<>) "")
            |> List.map Path.GetFullPath

        if List.distinct written <> written then
            Inputs.usage "--output, --trace and --html name the same file; give each its own"

        let reads = Inputs.modelPlace common @ GivenPrompts.files shared.Prompts
        use output = OutputFile.Open(given.Output, reads)
        use traceFile = OutputFile.Open(given.Trace, reads, "trace")
        use page = OutputFile.Open(given.Html, reads, "html")
        use checkpoint = Inputs.read common
        let usual = ReplayReport.options checkpoint |> Check.getOrRaise

        // It decodes with every layer, whatever drafts elsewhere.
        let whole = { shared with Strategy = Some StrategyKind.Autoregressive }
        let resolved, _ = GenerateOptions.resolve common.Seed sampling checkpoint whole

        let options: ReplayOptions = {
            usual with
                Trace = { usual.Trace with MaxNewTokens = resolved.MaxNewTokens; StopIds = resolved.StopIds }
                Exits = defaultArg given.ExitLayers usual.Exits
                Lengths = defaultArg given.DraftLengths usual.Lengths
        }

        let ids = GivenPrompts.encode checkpoint prompt
        ReplayReport.check checkpoint.Weights options ids |> Check.getOrRaise
        Inputs.remarks terminal checkpoint
        GivenPrompts.remarks terminal checkpoint prompt ids
        Terminal.remark terminal (Inputs.machine checkpoint)

        if not (ReplayReport.isExact checkpoint.Weights) then
            Terminal.remark
                terminal
                "libtorch computes in this dtype or on this device, where a row may depend on the rows beside it: near ties may be decided otherwise than live"

        let report =
            using (Terminal.working terminal $"replaying {checkpoint.Path}") (fun _ ->
                ReplayReport.run checkpoint.Weights options ids)
            |> Check.getOrRaise

        traceFile.Make(fun () -> ReplayOutput.traceJson report.Trace)

        page.Make(fun () ->
            let about =
                $"{Fingerprint.name checkpoint.Path}, {Inputs.machine checkpoint}, {Benchmark.cpu ()}"

            Plots.html "Replay" (ReplayPlots.page about report))

        output.Tell(
            terminal,
            (if common.Json then
                 ReplayOutput.json checkpoint
             else
                 ReplayOutput.table)
                report
        )

        ExitCode.done'
