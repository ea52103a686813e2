namespace LayerSkip.Cli

open System
open System.IO
open System.Threading
open LayerSkip

/// `layerskip lens`: what every layer would say at every position of a text; the lens itself is `Lens`'s.
[<RequireQualifiedAccess>]
module internal LensCommand =
    /// What the command line gives.
    type private Given = {
        Prompts: GivenPrompts
        Options: LensOptions
        Html: string option
        Output: string option
    }

    /// The options with one more.
    let private add (given: Given) (argument: LensArgument) : Given =
        match argument with
        | LensArgument.Prompt text -> { given with Prompts = GivenPrompts.text text given.Prompts }
        | LensArgument.PromptIds ids -> { given with Prompts = GivenPrompts.ids ids given.Prompts }
        | LensArgument.PromptFile file -> { given with Prompts = GivenPrompts.file file given.Prompts }
        | LensArgument.TopK count -> { given with Options.TopK = count }
        | LensArgument.Layers layers -> {
            given with
                Options.Layers = List.ofArray (Inputs.numbers "layers" layers)
          }
        | LensArgument.Logits -> { given with Options.Logits = true }
        | LensArgument.Html file -> { given with Html = Some file }
        | LensArgument.Output file -> { given with Output = Some file }

    /// Of a line that no terminal sets.
    let private defaultColumns = 120

    /// Runs the command; its exit code. All that can be checked without the model is checked before it is loaded.
    let run (terminal: Terminal) (common: Common) (arguments: LensArgument list) : int =
        let none = { Prompts = GivenPrompts.none; Options = Lens.options; Html = None; Output = None }
        let given = List.fold add none arguments
        let prompt = GivenPrompts.one given.Prompts

        Inputs.refuse [
            yield! Inputs.atLeastOne "top-k" given.Options.TopK
            yield! given.Options.Layers |> List.collect (Inputs.atLeastOne "layers")
        ]

        if given.Options.Logits && not common.Json then
            Inputs.usage "--logits adds to the object of --json; give --json too"

        let reads = Inputs.modelPlace common @ GivenPrompts.files given.Prompts
        use output = OutputFile.Open(given.Output, reads)
        use page = OutputFile.OpenPage(given.Html, given.Output, reads)
        use checkpoint = Inputs.read common
        let ids = GivenPrompts.encode checkpoint prompt
        let start = Lens.prepare checkpoint given.Options ids |> Check.getOrRaise
        Inputs.remarks terminal checkpoint
        GivenPrompts.remarks terminal checkpoint prompt ids
        Terminal.remark terminal $"""{Inputs.machine checkpoint}, {Terminal.count ids.Length "token"}"""

        let report =
            using (Terminal.working terminal $"reading {checkpoint.Config.Layers} layers") (fun _ ->
                start CancellationToken.None)

        if common.Json then
            output.Tell(terminal, JsonWrite.line (LensJson.write report))
        else
            let table terminal =
                LensTable.text terminal (Posix.columns () |> Option.defaultValue defaultColumns) report
            // Its cells are printable, its colours the program's own.
            terminal.Out.WriteLine(table terminal)
            terminal.Out.Flush()
            output.Write(table { terminal with Colour = false })

        page.Make(fun () -> LensPage.html report)
        ExitCode.done'
