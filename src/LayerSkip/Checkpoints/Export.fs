namespace LayerSkip

open System
open System.IO
open TorchSharp

/// What other engines load.
[<RequireQualifiedAccess>]
type ExportFormat =
    /// A folder with config.json, model.safetensors and the tokenizer's files.
    | HuggingFace
    /// One file, as llama.cpp loads it.
    | Gguf

/// What was written.
type ExportReport = {
    Format: ExportFormat
    /// As options name it: a dtype, or a mix of quantised formats.
    Dtype: string
    Layers: int
    /// How many tensors were written.
    Tensors: int
    /// How many of them in each format, as files name it: "F32", "Q4_K".
    Formats: (string * int) list
    /// Of all files.
    Bytes: int64
    Output: string
    /// What the user should know: sentences.
    Remarks: string list
}

/// Writing models for other engines.
[<RequireQualifiedAccess>]
module Export =
    /// The first layers of a model with its norm and head, what early exit computes (LayerSkip, section 4.2): a draft model
    /// for engines that know none. It shares the tensors.
    let firstLayers (layers: int) (checkpoint: Checkpoint) : Checkpoint =
        let weights = checkpoint.Weights

        let config = {
            weights.Config with
                Layers = layers
                Windows = Array.truncate layers weights.Config.Windows
        }

        {
            checkpoint with
                Weights = Weights.truncate config weights
                Recommended =
                    checkpoint.Recommended |> Option.filter (fun _ -> layers = weights.Config.Layers)
                Adapters =
                    if layers = weights.Config.Layers then
                        checkpoint.Adapters
                    else
                        []
        }

    /// Whether a format holds weights of a dtype, where that is known before loading.
    let checkDtype (format: ExportFormat) (dtype: Dtype option) : Result<unit, LayerSkipError list> =
        match format, dtype with
        | ExportFormat.Gguf, Some Dtype.F64 -> Error [ GgufWriter.unsupportedDtype ]
        | (ExportFormat.Gguf | ExportFormat.HuggingFace), _ -> Ok()

    let private holdsBytes (path: string) =
        match PathKind.find path, PathKind.resolve (Path.GetFullPath path) with
        | PathKind.RegularFile, Some file -> FileInfo(file).Length > 0L
        | _ -> false

    let private existing (format: ExportFormat) (path: string) =
        let isFull = Directory.Exists path && Seq.isEmpty (Directory.EnumerateFileSystemEntries path) |> not

        match format with
        | ExportFormat.HuggingFace when isFull -> Some "is a folder that is not empty"
        | ExportFormat.HuggingFace when File.Exists path -> Some "is a file already"
        | ExportFormat.Gguf when Directory.Exists path -> Some "is a folder, a GGUF model is a file"
        | ExportFormat.Gguf when holdsBytes path -> Some "is there already"
        | ExportFormat.HuggingFace
        | ExportFormat.Gguf -> None

    /// Whether a model can be written to a path, before any work is done: nothing is there (or a device, for GGUF), and
    /// its folder takes files.
    let checkOutput (format: ExportFormat) (path: string) : Result<unit, LayerSkipError list> =
        WriteFault.guard (WriteFault.ofOpening path) (fun () ->
            match existing format path, format with
            | Some why, _ -> Check.bad path $"{why}; remove it first, or name another place"
            | None, ExportFormat.HuggingFace -> AtomicFile.checkFolder path
            // To open a FIFO waits for its reader, and to close it ends what that one reads.
            | None, ExportFormat.Gguf when PathKind.find path = PathKind.Special -> Ok()
            | None, ExportFormat.Gguf -> AtomicFile.check path)

    /// Whether a format holds a mix of quantised formats.
    let checkMix (format: ExportFormat) (mix: GgufMix) : Result<unit, LayerSkipError list> =
        match format with
        | ExportFormat.Gguf -> Ok()
        | ExportFormat.HuggingFace ->
            Check.unsupported $"a Hugging Face folder in {mix.Name}" "export a GGUF file for it"

    /// Values that are not finite in what they are written in.
    let private overflows (keptIn: WeightPart -> torch.ScalarType) (weights: Weights) = [
        for part in Weights.parts weights do
            let kept = keptIn part

            if not (WeightPart.areFinite kept (WeightPart.ends part)) then
                ScalarType.beyond part.Name kept
    ]

    /// The dtype that is written where none is asked for: that of the weights in memory; where each matrix is as a file has it float16, or
    /// float32 where one of them is.
    let dtypeOf (weights: Weights) : Dtype =
        let isWide (part: WeightPart) =
            part.Blocks.IsNone && part.Shape.Length > 1 && part.ScalarType = torch.ScalarType.Float32

        if weights.Dtype = Dtype.F32 && not (Weights.parts weights |> List.exists isWide) then
            Dtype.F16
        else
            weights.Dtype

    let private nameOf (whole: Checkpoint) (layers: int) =
        let file = Path.GetFullPath whole.Path |> Path.TrimEndingDirectorySeparator |> Path.GetFileName

        let name =
            if file.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) then
                Path.GetFileNameWithoutExtension file
            else
                file

        if layers = whole.Config.Layers then
            name
        else
            $"{name}, first {layers} of {whole.Config.Layers} layers"

    /// Adapters beside a GGUF file that was written; nothing lies beside a pipe.
    let private copyAdapters (format: ExportFormat) (output: string) (part: Checkpoint) =
        match format with
        | ExportFormat.Gguf when PathKind.find output = PathKind.RegularFile ->
            List.indexed part.Adapters
            |> Check.each (fun (index, path) ->
                AtomicFile.writeBytes (AdapterFile.besideGguf output (index + 1)) (File.ReadAllBytes path))
        | ExportFormat.Gguf
        | ExportFormat.HuggingFace -> Ok()

    /// What `writing` writes of the first layers of a model, once all is found good.
    let private writeBy
        format
        dtype
        (check: Result<unit, LayerSkipError list>)
        writing
        layers
        output
        (checkpoint: Checkpoint)
        =
        let most = checkpoint.Config.Layers
        let isThere = layers >= 1 && layers <= most
        let faults =
            Check.inRange
                isThere
                "layers"
                (string layers)
                $"{LayerSkipError.oneTo most}, the layers of the model"

        Check.both (Check.all faults ()) check
        |> Result.bind (fun _ -> checkOutput format output)
        |> Result.bind (fun _ ->
            use _inference = Scope.inference ()

            let part = firstLayers layers checkpoint

            writing part
            |> Result.bind (fun written -> copyAdapters format output part |> Result.map (fun () -> written))
            |> Result.mapError (fun faults ->
                // Of a GGUF file by the names that are in it.
                if File.Exists checkpoint.Path then
                    GgufName.inFaults checkpoint.Config.Family faults
                else
                    faults)
            |> Result.map (fun (struct (formats: string list, bytes, remarks)) -> {
                Format = format
                Dtype = dtype
                Layers = layers
                Tensors = formats.Length
                Formats = List.countBy id formats
                Bytes = bytes
                Output = output
                Remarks = remarks
            }))

    /// Writes the first `layers` layers of a model (all of them: the model) in a dtype, whole or not at all; one piece of a tensor
    /// at a time is converted. Errors: layers that it has not, a dtype or configuration that the format cannot say, weights
    /// that are not finite in the dtype, an output that is there already or cannot be written.
    let writeIn
        (dtype: Dtype)
        (format: ExportFormat)
        (layers: int)
        (output: string)
        (checkpoint: Checkpoint)
        =
        let writing (part: Checkpoint) =
            let keptIn = WeightPart.keptIn part.Weights.Device dtype >> ScalarType.ofDtype

            Check.all (overflows keptIn part.Weights) ()
            |> Result.bind (fun () ->
                match format with
                | ExportFormat.HuggingFace -> HuggingFaceExport.write dtype output part
                | ExportFormat.Gguf ->
                    GgufExport.write (nameOf checkpoint layers) (GgufExport.Target.Dtype dtype) output part)

        writeBy format (Dtype.name dtype) (checkDtype format (Some dtype)) writing layers output checkpoint

    /// The same as a GGUF file with each matrix in what it is held in: blocks of a GGUF source are copied.
    let private writeAsStored layers output (checkpoint: Checkpoint) =
        let writing (part: Checkpoint) =
            Check.all (part.Weights |> overflows _.ScalarType) ()
            |> Result.bind (fun () ->
                GgufExport.write (nameOf checkpoint layers) GgufExport.Target.AsStored output part)

        writeBy
            ExportFormat.Gguf
            (Weights.fileName checkpoint.Weights)
            (Ok())
            writing
            layers
            output
            checkpoint

    /// The same in no dtype of the caller's: a GGUF file has each matrix in what it is held in, blocks bit for bit; a Hugging
    /// Face folder has all in the dtype that `dtypeOf` names, and a remark says so of blocks.
    let write (format: ExportFormat) (layers: int) (output: string) (checkpoint: Checkpoint) =
        match format with
        | ExportFormat.Gguf -> writeAsStored layers output checkpoint
        | ExportFormat.HuggingFace ->
            let dtype = dtypeOf checkpoint.Weights

            writeIn dtype format layers output checkpoint
            |> Result.map (fun report ->
                if Weights.isQuantised checkpoint.Weights then
                    let remark =
                        $"quantised weights are written in {Dtype.name dtype}: a Hugging Face folder holds none; export a GGUF file to keep them as they are"
                    { report with Remarks = remark :: report.Remarks }
                else
                    report)

    /// The same in a mix of quantised formats, as a GGUF file: blocks that are in their format already are copied, of the rest one piece at
    /// a time is in memory as float32. An error too: weights beyond float16, whose scales could not hold them.
    let quantise (mix: GgufMix) (layers: int) (output: string) (checkpoint: Checkpoint) =
        let writing part = GgufExport.write (nameOf checkpoint layers) (GgufExport.Target.Mix mix) output part
        writeBy ExportFormat.Gguf mix.Name (Ok()) writing layers output checkpoint
