namespace LayerSkip.Cli

open System
open LayerSkip

/// `layerskip export`: writes a model, or its first layers, for other engines; `Export` does the work.
[<RequireQualifiedAccess>]
module internal ExportCommand =
    /// What the command line gives.
    type private Given = {
        Output: string option
        Format: ExportFormat option
        Layers: int option
        AdapterFile: string option
    }

    /// As `--format` takes it.
    let private formatName (format: ExportFormat) =
        match format with
        | ExportFormat.HuggingFace -> "hf"
        | ExportFormat.Gguf -> "gguf"

    /// What was written: tensors, and the bytes of all files.
    let private json (model: string) (report: ExportReport) =
        JsonWrite.line (fun writer ->
            writer.WriteString("model", model)
            writer.WriteString("format", formatName report.Format)
            writer.WriteString("dtype", report.Dtype)
            writer.WriteNumber("layers", report.Layers)
            writer.WriteNumber("tensors", report.Tensors)
            writer |> JsonWrite.counts "formats" report.Formats
            writer.WriteNumber("bytes", report.Bytes)
            writer.WriteString("output", report.Output))

    /// The same as a line.
    let private line (model: string) (report: ExportReport) =
        $"""{report.Output}: {Terminal.count report.Layers "layer"} of {model} as {formatName report.Format} in {report.Dtype}, """
        + $"{report.Tensors} tensors ({Output.counted report.Formats}), {Output.bytes report.Bytes}"

    /// The options with one more.
    let private add (given: Given) (argument: ExportArgument) : Given =
        match argument with
        | ExportArgument.Output path -> { given with Output = Some path }
        | ExportArgument.Format FormatName.Hf -> { given with Format = Some ExportFormat.HuggingFace }
        | ExportArgument.Format FormatName.Gguf -> { given with Format = Some ExportFormat.Gguf }
        | ExportArgument.Layers count -> { given with Layers = Some count }
        | ExportArgument.AdapterFile file -> { given with AdapterFile = Some file }

    /// As the name of the output says.
    let private defaultFormat (output: string) =
        if output.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) then
            ExportFormat.Gguf
        else
            ExportFormat.HuggingFace

    /// Runs the command; its exit code. What the output cannot be is told before the model is loaded.
    let run (terminal: Terminal) (common: Common) (arguments: ExportArgument list) : int =
        let given =
            arguments
            |> List.fold add { Output = None; Format = None; Layers = None; AdapterFile = None }

        let output = Inputs.required "output" "the folder (hf) or the .gguf file to write" given.Output
        let format = given.Format |> Option.defaultValue (defaultFormat output)

        let checkMix mix =
            match Export.checkMix format mix, given.Format with
            | Ok(), _ -> Ok()
            | Error _, Some _ when defaultFormat output = ExportFormat.Gguf ->
                Inputs.usage
                    $"--format hf names a Hugging Face folder, which holds no {mix.Name}, --output {output} a GGUF file, which does; leave --format out"
            | Error _, None ->
                Inputs.usage
                    $"--output {output} names a folder, and a Hugging Face folder in {mix.Name} is not supported; name a file that ends in .gguf, or use --format gguf"
            | refused, Some _ -> refused

        // What a model need not be loaded for.
        let checkDtype =
            match common.Mix with
            | Some mix -> checkMix mix
            | None -> Export.checkDtype format common.Dtype

        Check.both checkDtype (Export.checkOutput format output) |> Check.getOrRaise |> ignore

        use loaded = Inputs.loadToWrite terminal common
        let whole = Drafters.withFile given.AdapterFile loaded

        let checkpoint, layers =
            match given.Layers, given.AdapterFile with
            | Some exit, Some _ when exit < whole.Config.Layers ->
                let draft = Adapters.asModel (Drafters.adapter (Some exit) whole) whole |> Check.getOrRaise
                draft, draft.Config.Layers
            | layers, _ -> whole, layers |> Option.defaultValue whole.Config.Layers

        let report =
            match common.Mix, common.Dtype with
            | Some mix, _ -> Export.quantise mix layers output checkpoint
            | None, Some dtype -> Export.writeIn dtype format layers output checkpoint
            | None, None -> Export.write format layers output checkpoint
            |> Check.getOrRaise

        for remark in report.Remarks do
            Terminal.remark terminal (Faults.advice remark)

        Terminal.result terminal ((if common.Json then json else line) checkpoint.Path report)
        ExitCode.done'
