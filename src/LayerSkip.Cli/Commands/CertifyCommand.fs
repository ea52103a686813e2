namespace LayerSkip.Cli

open System
open LayerSkip

/// `layerskip certify`: checks on the spot that what is decoded early is what the whole model decodes; the checks themselves
/// are `Certify`'s.
[<RequireQualifiedAccess>]
module internal CertifyCommand =
    /// What the command line gives.
    type private Given = {
        PromptFile: string option
        Options: CertifyOptions
        AdapterFile: string option
        Output: string option
        Html: string option
    }

    /// The contract's object; the gap is a share of the largest logit.
    let private json (report: CertifyReport) =
        JsonWrite.line (fun writer ->
            let counts exact tie violation =
                writer.WriteNumber("exact", (exact: int))
                writer.WriteNumber("tie", (tie: int))
                writer.WriteNumber("violation", (violation: int))

            writer.WriteString("model", report.Model)
            writer.WriteString("dtype", report.Dtype)
            writer |> JsonWrite.textOrNull "compute" report.Compute
            writer.WriteString("kv", report.Kv)
            writer.WriteString("prefill", report.Prefill)
            writer.WriteNumber("gap", report.Gap)

            writer
            |> JsonWrite.objects "tests" report.Tests (fun test ->
                writer.WriteString("name", test.Name)
                writer.WriteNumber("checks", test.Checks)
                counts test.Exact test.Tie test.Violation)

            counts report.Exact report.Tie report.Violation
            writer.WriteNumber("worst_gap", report.WorstGap)
            writer |> JsonWrite.textOrNull "stored_dtype" report.Stored)

    /// A row for each test, and one for all; then the verdict.
    let private table (report: CertifyReport) =
        let scientific (value: float) = value.ToString("0.##E+0", Globalization.CultureInfo.InvariantCulture)

        let rows = [
            [ "test"; "checks"; "exact"; "tie"; "violation" ]
            for test in report.Tests do
                test.Name :: List.map string [ test.Checks; test.Exact; test.Tie; test.Violation ]
            "all"
            :: List.map string [
                report.Tests |> List.sumBy _.Checks
                report.Exact
                report.Tie
                report.Violation
            ]
        ]

        let verdict = (if report.Violation = 0 then "" else "NOT ") + "certified"
        let compute = report.Compute |> Option.map (fun name -> $", compute {name}") |> Option.defaultValue ""

        $"{Output.table [ 1..4 ] rows}\n\n{report.Model} in {report.HeldIn}{compute}, kv {report.Kv}, prefill {report.Prefill}: {verdict}; "
        + $"worst gap {scientific report.WorstGap} of the largest logit, allowed {scientific report.Gap}"

    /// The options with one more.
    let private add (given: Given) (argument: CertifyArgument) : Given =
        let list option text = List.ofArray (Inputs.numbers option text)
        let said = given.Options.Drafting
        let drafting options = { given with Options.Drafting = options }

        match argument with
        | CertifyArgument.Prompts file -> { given with PromptFile = Some file }
        | CertifyArgument.ExitLayers layers -> { given with Options.ExitLayers = list "exit-layers" layers }
        | CertifyArgument.DraftLengths lengths -> {
            given with
                Options.DraftLengths = list "draft-lengths" lengths
          }
        | CertifyArgument.Drafter drafter -> drafting { said with Drafter = Some drafter }
        | CertifyArgument.Policy policy -> drafting { said with Policy = Some policy }
        | CertifyArgument.StopRule rule -> drafting { said with StopRule = Some(DraftingArguments.rule rule) }
        | CertifyArgument.DraftVocabulary ids -> drafting { said with DraftVocabulary = Some ids }
        | CertifyArgument.LayersKept layers -> drafting { said with LayersKept = Some layers }
        | CertifyArgument.MaxNewTokens count -> { given with Options.MaxNewTokens = count }
        | CertifyArgument.AdapterFile file -> { given with AdapterFile = Some file }
        | CertifyArgument.Output file -> { given with Output = Some file }
        | CertifyArgument.Html file -> { given with Html = Some file }

    /// Runs the command; its exit code: failed where a check found another token than the whole model's.
    let run (terminal: Terminal) (common: Common) (arguments: CertifyArgument list) : int =
        let given =
            List.fold
                add
                {
                    PromptFile = None
                    Options = Certify.options
                    AdapterFile = None
                    Output = None
                    Html = None
                }
                arguments
        let asked = given.Options

        Inputs.refuse [
            for length in asked.DraftLengths do
                yield! Inputs.atLeastOne "draft-lengths" length
            yield! Inputs.atLeastOne "max-new-tokens" asked.MaxNewTokens
        ]

        let reads = Inputs.modelPlace common @ Option.toList given.PromptFile
        use output = OutputFile.Open(given.Output, reads)
        use page = OutputFile.OpenPage(given.Html, given.Output, reads)
        use loaded = Inputs.load terminal common
        let checkpoint = Drafters.withFile given.AdapterFile loaded
        let layers = checkpoint.Config.Layers
        Inputs.needEarlierExit "certify" checkpoint

        Certify.faults checkpoint asked |> Inputs.refuse

        Inputs.refuse [
            for exit in asked.ExitLayers do
                if ExitLayer.TryCreate(layers, exit) |> Result.isError then
                    LayerSkipError.OutOfRange("--exit-layers", string exit, LayerSkipError.oneTo (layers - 1))
        ]

        let options = {
            asked with
                Prompts =
                    given.PromptFile |> Option.map (PromptFiles.read checkpoint) |> Option.defaultValue [||]
                Drafters =
                    // A drafting that is named is checked alone.
                    if (DraftingOptions.named asked.Drafting).IsEmpty then
                        Adapters.all checkpoint |> Check.getOrRaise |> List.map AdapterDrafter.create
                    else
                        []
                Seed = common.Seed
        }

        Terminal.remark terminal (Inputs.machine checkpoint)

        let report =
            using (Terminal.working terminal $"certifying {checkpoint.Path}") (fun _ ->
                Certify.run checkpoint options)

        output.Tell(terminal, (if common.Json then json else table) report)

        page.Make(fun () ->
            CertificatePlots.ofReport (Inputs.machine checkpoint) report
            |> Plots.html $"Certificate of {Fingerprint.name checkpoint.Path}")

        if report.Violation > 0 then
            Terminal.fault
                terminal
                $"""{Terminal.count report.Violation "check"} found a token that the whole model would not write; try --dtype f64 to tell rounding from a fault"""

            ExitCode.failed
        else
            ExitCode.done'
