namespace LayerSkip.Cli

open System
open LayerSkip

/// `layerskip certify`.
[<RequireQualifiedAccess>]
module internal CertifyCommand =
    /// What the command line gives.
    type private Given = {
        PromptFile: string option
        Exits: int list
        Lengths: int list
        MaxNewTokens: int
        Output: string option
    }

    let private json (report: CertifyReport) =
        Output.json (fun writer ->
            let counts checks exact tie violation =
                checks |> Option.iter (fun (count: int) -> writer.WriteNumber("checks", count))
                writer.WriteNumber("exact", (exact: int))
                writer.WriteNumber("tie", (tie: int))
                writer.WriteNumber("violation", (violation: int))

            writer.WriteString("model", report.Model)
            writer.WriteString("dtype", report.Dtype)
            writer.WriteNumber("gap", report.Gap)

            writer
            |> Output.array "tests" report.Tests (fun test ->
                writer.WriteStartObject()
                writer.WriteString("name", test.Name)
                counts (Some test.Checks) test.Exact test.Tie test.Violation
                writer.WriteEndObject())

            counts None report.Exact report.Tie report.Violation
            writer.WriteNumber("worst_gap", report.WorstGap))

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

        let verdict =
            if report.Violation = 0 then
                "certified"
            else
                "NOT certified"

        $"{Output.table [ 1..4 ] rows}\n\n{report.Model} in {report.Dtype}: {verdict}; "
        + $"worst gap {scientific report.WorstGap} of the largest logit, allowed {scientific report.Gap}"

    /// One prompt a line; blank lines are none.
    let private prompts (checkpoint: Checkpoint) (file: string) : int[][] =
        let lines =
            (Inputs.readText file)
                .Split(
                    [| '\r'; '\n' |],
                    StringSplitOptions.RemoveEmptyEntries ||| StringSplitOptions.TrimEntries
                )

        if lines.Length = 0 then
            Inputs.usage $"{file} holds no prompt; write one on each line"

        match checkpoint.Tokenizer with
        | Some _ -> Array.map (Inputs.encode checkpoint) lines
        | None -> Array.map (Inputs.numbers "prompts") lines

    let private add (given: Given) (argument: CertifyArgument) : Given =
        let list option text = List.ofArray (Inputs.numbers option text)

        match argument with
        | CertifyArgument.Prompts file -> { given with PromptFile = Some file }
        | CertifyArgument.ExitLayers layers -> { given with Exits = list "exit-layers" layers }
        | CertifyArgument.DraftLengths lengths -> { given with Lengths = list "draft-lengths" lengths }
        | CertifyArgument.MaxNewTokens count -> { given with MaxNewTokens = count }
        | CertifyArgument.Output file -> { given with Output = Some file }

    let private read (arguments: CertifyArgument list) : Given =
        let none = {
            PromptFile = None
            Exits = []
            Lengths = []
            MaxNewTokens = Certify.options.MaxNewTokens
            Output = None
        }

        List.fold add none arguments

    let run (terminal: Terminal) (common: Common) (arguments: CertifyArgument list) : int =
        let given = read arguments

        [
            for length in given.Lengths do
                yield! Inputs.atLeastOne "draft-lengths" length
            yield! Inputs.atLeastOne "max-new-tokens" given.MaxNewTokens
        ]
        |> fun faults -> Check.all faults () |> Check.getOrRaise

        use output = OutputFile.Open given.Output
        use checkpoint = Inputs.load common
        let layers = checkpoint.Config.Layers

        given.Exits
        |> List.collect (fun exit -> ExitLayer.TryCreate(layers, exit) |> Check.faults)
        |> fun faults -> Check.all faults () |> Check.getOrRaise

        let options = {
            Prompts = given.PromptFile |> Option.map (prompts checkpoint) |> Option.defaultValue [||]
            ExitLayers = given.Exits
            DraftLengths = given.Lengths
            MaxNewTokens = given.MaxNewTokens
            Seed = common.Seed
        }

        let report = Certify.run checkpoint options
        Terminal.remark terminal (Inputs.machine checkpoint)
        let made = (if common.Json then json else table) report
        Terminal.result terminal made
        output.Write made

        if report.Violation > 0 then
            Terminal.fault
                terminal
                $"{report.Violation} checks found a token that the whole model would not write; try --dtype f64 to tell rounding from a fault"

            ExitCode.failed
        else
            ExitCode.done'
