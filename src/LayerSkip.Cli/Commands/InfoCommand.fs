namespace LayerSkip.Cli

open System.Text.Json
open LayerSkip

/// `layerskip info`: what a model and the machine are, as a table or as JSON.
[<RequireQualifiedAccess>]
module internal InfoCommand =
    /// What computes the decode step: the kernels' vectors, or libtorch.
    let private simd (checkpoint: Checkpoint) =
        match checkpoint.Weights.Kernels with
        | Some _ -> CpuKernels.form ()
        | None -> "none (libtorch)"

    /// How rotary angles stretch, in a few words.
    let private rope (config: LlamaConfig) =
        match config.RopeScaling with
        | RopeScaling.Default -> "default"
        | RopeScaling.Dynamic(factor, _) -> $"dynamic, factor {Shown.fixedPoint 2 factor} beyond the context"
        | RopeScaling.Linear factor -> $"linear, factor {Shown.fixedPoint 2 factor}"
        | RopeScaling.Llama3(factor, _, _, original) ->
            $"llama3, factor {Shown.fixedPoint 2 factor} from {original}"
        | RopeScaling.Divided divisors -> $"a table of {divisors.Length} divisors"
        | RopeScaling.Yarn yarn -> $"yarn, factor {Shown.fixedPoint 2 yarn.Factor} from {yarn.Original}"

    /// The kind of tokenizer, where there is one.
    let private tokenizer (checkpoint: Checkpoint) = checkpoint.Tokenizer |> Option.map Tokenizer.kind

    /// How many tensors a GGUF file has in each format; none of a folder.
    let private formats (checkpoint: Checkpoint) : (string * int) list =
        if System.IO.File.Exists checkpoint.Path then
            use file = Gguf.openFile checkpoint.Path |> Check.getOrRaise
            file.Tensors |> List.countBy _.Format
        else
            []

    /// The contract's object: `model`, whose bytes are those of the weights in memory, and `machine`.
    let private json (checkpoint: Checkpoint) (backend: BackendInfo) =
        let config = checkpoint.Config

        let model (writer: Utf8JsonWriter) =
            writer.WriteString("path", checkpoint.Path)
            writer.WriteString("family", Family.name config.Family)
            writer.WriteNumber("layers", config.Layers)
            writer.WriteNumber("hidden", config.Hidden)
            writer.WriteNumber("intermediate", config.Intermediate)
            writer.WriteNumber("heads", config.Heads)
            writer.WriteNumber("kv_heads", config.KvHeads)
            writer.WriteNumber("head_dim", config.HeadDim)
            writer.WriteNumber("vocabulary", config.Vocabulary)
            writer.WriteNumber("context", config.Context)
            writer.WriteString("rope", rope config)
            writer.WriteBoolean("tied_head", config.TiedHead)
            writer.WriteNumber("parameters", Weights.parameters config)
            writer.WriteNumber("bytes", Weights.bytes checkpoint.Weights)
            writer.WriteString("dtype", Weights.dtypeName checkpoint.Weights)
            writer |> JsonWrite.textOrNull "compute" (Weights.compute checkpoint.Weights)
            writer.WriteString("kv", Weights.kv checkpoint.Weights)
            writer.WriteNumber("cache_bytes_per_position", Cache.bytesPerPosition checkpoint.Weights)
            writer |> JsonWrite.textOrNull "stored_dtype" config.StoredDtype

            match formats checkpoint with
            | [] -> ()
            | formats -> writer |> JsonWrite.counts "formats" formats

            writer |> JsonWrite.textOrNull "tokenizer" (tokenizer checkpoint)
            writer |> JsonWrite.ints "stop_ids" checkpoint.StopIds

            writer
            |> JsonWrite.objectOrNull "recommended" checkpoint.Recommended (fun (exit, length) ->
                writer.WriteNumber("exit_layer", exit)
                writer.WriteNumber("draft_length", length))

        let machine (writer: Utf8JsonWriter) =
            writer.WriteString("device", Inputs.deviceName checkpoint.Weights.Device)

            writer
            |> JsonWrite.object "libtorch" (fun _ ->
                writer.WriteString("folder", backend.Folder)
                writer.WriteString("origin", backend.Origin)
                writer.WriteBoolean("patched", backend.Patched))

            writer.WriteNumber("threads", CpuKernels.threads ())
            writer.WriteString("simd", simd checkpoint)

        JsonWrite.line (fun writer ->
            writer |> JsonWrite.object "model" (fun _ -> model writer)
            writer |> JsonWrite.object "machine" (fun _ -> machine writer))

    /// The same for readers. A path or a name out of a file steers no terminal.
    let private table (checkpoint: Checkpoint) (backend: BackendInfo) =
        let config = checkpoint.Config
        let weights = checkpoint.Weights
        let exit, length = Checkpoint.exitAndDraft checkpoint

        let recommended =
            match checkpoint.Recommended with
            | Some _ -> $"exit layer {exit}, draft length {length}"
            | None when config.Layers < 2 -> "none: one layer has no earlier exit"
            | None -> $"none (exit layer {exit}, draft length {length} where none are given)"

        // What stays in blocks is called as the file is.
        let stored =
            config.StoredDtype
            |> Option.filter (fun _ -> not (Weights.isQuantised weights))
            |> Option.map (fun name -> $" (stored as {name |> Printable.cut 40 |> Printable.line})")
            |> Option.defaultValue ""

        let patch = Output.textIf backend.Patched "; TorchSharp's library patched for this system"

        let head =
            if config.TiedHead then
                "tied to the embedding"
            else
                "its own"
        let stops = checkpoint.StopIds |> Seq.map string |> String.concat ", "

        Output.table [] [
            [ "model"; Printable.line checkpoint.Path ]
            [ "family"; Family.name config.Family ]
            [ "layers"; string config.Layers ]
            [ "hidden"; $"{config.Hidden} (intermediate {config.Intermediate})" ]
            [
                "heads"
                $"{config.Heads} of {config.HeadDim} ({config.KvHeads} for keys and values)"
            ]
            [ "vocabulary"; Output.number config.Vocabulary ]
            [ "context"; $"{Output.number config.Context} (rope {rope config})" ]
            [ "parameters"; Output.number (Weights.parameters config) ]
            [ "bytes"; Output.bytes (Weights.bytes weights) ]
            [ "dtype"; Weights.description weights + stored ]
            match formats checkpoint with
            | [] -> ()
            | formats -> [ "formats"; Output.counted formats ]
            match Weights.compute weights with
            | None -> ()
            | Some name -> [ "compute"; name ]
            [
                "cache"
                $"{Output.bytes (Cache.bytesPerPosition weights)} a position (keys and values in {Weights.kv weights})"
            ]
            [ "head"; head ]
            [ "tokenizer"; tokenizer checkpoint |> Option.defaultValue "none" ]
            [ "stop ids"; (if stops = "" then "none" else stops) ]
            [ "recommended"; recommended ]
            [ "device"; Inputs.deviceName weights.Device ]
            [ "libtorch"; $"{backend.Folder} ({backend.Origin}{patch})" ]
            [ "threads"; string (CpuKernels.threads ()) ]
            [ "SIMD forms"; simd checkpoint ]
        ]

    /// Runs the command; its exit code.
    let run (terminal: Terminal) (common: Common) (arguments: InfoArgument list) : int =
        let file = arguments |> List.map (fun (InfoArgument.Output file) -> file) |> List.tryHead

        use output = OutputFile.Open(file, Inputs.modelPlace common)
        use checkpoint = Inputs.load terminal common
        let backend = Backend.load () |> Check.getOrRaise

        output.Tell(terminal, (if common.Json then json else table) checkpoint backend)
        ExitCode.done'
