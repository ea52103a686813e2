namespace LayerSkip

open System.IO

/// A model as a Hugging Face folder.
[<RequireQualifiedAccess>]
module internal HuggingFaceExport =
    let private tokenizerFiles = [
        "tokenizer.json"
        "tokenizer.model"
        "tokenizer_config.json"
        "special_tokens_map.json"
        "added_tokens.json"
        "vocab.json"
        "merges.txt"
        "chat_template.jinja"
    ]

    /// The folder whose tokenizer files are the model's: its own; beside a .gguf file, where the vocabulary is the same.
    let private tokenizerFolder (checkpoint: Checkpoint) : string option =
        if Directory.Exists checkpoint.Path then
            Some checkpoint.Path
        else
            let folder = Path.GetDirectoryName(Path.GetFullPath checkpoint.Path)

            match checkpoint.Tokenizer, Tokenizer.tryLoad folder with
            // A GGUF file's vocabulary may be padded to the model's.
            | Some own, Ok(Some beside) when Array.truncate beside.Pieces.Length own.Pieces = beside.Pieces ->
                Some folder
            | _ -> None

    /// The folder of a model's other chat templates, where it has one.
    let private copyTemplates (source: string) (target: string) : Result<unit, LayerSkipError list> =
        let inner folder = Path.Combine(folder, "additional_chat_templates")

        if not (Directory.Exists(inner source)) then
            Ok()
        else
            AtomicFile.makeFolder (inner target)
            |> Result.bind (fun () ->
                Directory.GetFiles(inner source, "*.jinja")
                |> List.ofArray
                |> Check.each (fun path ->
                    AtomicFile.writeBytes
                        (Path.Combine(inner target, Path.GetFileName path))
                        (File.ReadAllBytes path)))

    // No copy of the file's rights: a read-only source must not make a read-only folder.
    let private copyTokenizer (source: string) (target: string) : Result<unit, LayerSkipError list> =
        tokenizerFiles
        |> List.filter (fun name -> File.Exists(Path.Combine(source, name)))
        |> Check.each (fun name ->
            let bytes = File.ReadAllBytes(Path.Combine(source, name))
            AtomicFile.writeBytes (Path.Combine(target, name)) bytes)
        |> Result.bind (fun () -> copyTemplates source target)

    /// Puts a model's tokenizer into a folder: its files, where it has any, else files made from it, where they describe it.
    let private putTokenizer (target: string) (checkpoint: Checkpoint) : Result<unit, LayerSkipError list> =
        match tokenizerFolder checkpoint, checkpoint.Tokenizer with
        | Some source, _ -> copyTokenizer source target
        | None, Some tokenizer -> TokenizerJsonExport.tryWrite target tokenizer |> Result.map ignore
        | None, None -> Ok()

    /// The same, into a folder that is made for it.
    let writeTokenizer (target: string) (checkpoint: Checkpoint) : Result<unit, LayerSkipError list> =
        AtomicFile.makeFolder target |> Result.bind (fun () -> putTokenizer target checkpoint)

    /// Writes every file of a model into a folder that is there, its matrices in `dtype` and each tensor as `dtypeOf` says; the
    /// format of each. What config.json cannot say is an error, and nothing is written.
    let private fillBy
        (dtype: Dtype)
        (dtypeOf: WeightPart -> Dtype)
        (folder: string)
        (checkpoint: Checkpoint)
        =
        let inside name = Path.Combine(folder, name)

        let items = [
            for part in Weights.parts checkpoint.Weights do
                let dtype = dtypeOf part

                {
                    Name = part.Name
                    Shape = part.Shape
                    Format = dtype
                    Size = Array.fold (*) (int64 (Dtype.bytes dtype)) part.Shape
                    Write = fun file -> WeightPart.write dtype file part
                }
        ]

        let adapters =
            checkpoint.Adapters
            |> List.mapi (fun index path ->
                (if index = 0 then
                     AdapterFile.name
                 else
                     $"adapter{index + 1}.safetensors"),
                path)

        ConfigJsonExport.expressible checkpoint.Config
        |> Result.bind (fun config ->
            ConfigJsonExport.bytes dtype checkpoint.Kept.OfConfig config
            |> AtomicFile.writeBytes (inside "config.json"))
        |> Result.bind (fun () ->
            GenerationConfig.write folder checkpoint.Config.Bos {
                StopIds = checkpoint.StopIds
                Recommended = checkpoint.Recommended
                Adapters = adapters |> List.map fst
                Kept = checkpoint.Kept.OfGeneration
            })
        |> Result.bind (fun () -> putTokenizer folder checkpoint)
        |> Result.bind (fun () ->
            adapters
            |> Check.each (fun (name, path) -> AtomicFile.writeBytes (inside name) (File.ReadAllBytes path)))
        |> Result.bind (fun () ->
            // transformers refuses a file that does not say whose it is.
            Safetensors.write (inside "model.safetensors") (Map [ "format", "pt" ]) items)
        |> Result.map (fun () -> [ for item in items -> SafetensorsHeader.formatOf item.Format ])

    /// The same with every tensor in the dtype that it has.
    let fill (folder: string) (checkpoint: Checkpoint) : Result<string list, LayerSkipError list> =
        let own (part: WeightPart) =
            ScalarType.tryDtype part.ScalarType
            |> Option.defaultWith (fun () -> invalidOp $"weights of {part.ScalarType}")

        fillBy checkpoint.Weights.Dtype own folder checkpoint

    /// What to say of a model whose tokenizer is not in its folder.
    let tokenizerRemark (folder: string) (checkpoint: Checkpoint) : string option =
        match checkpoint.Tokenizer, Tokenizer.tryLoad folder with
        | Some _, Ok None ->
            Some
                "the model's folder has no tokenizer: no tokenizer.json encodes as this GGUF file's own does; copy the files of the model that it was made from"
        | _ -> None

    let private bytesOf (folder: string) = DirectoryInfo(folder).EnumerateFiles() |> Seq.sumBy _.Length

    /// Writes the folder, whole or not at all; the formats of its tensors, its bytes, and what to tell the user.
    let write (dtype: Dtype) (path: string) (checkpoint: Checkpoint) =
        let dtypeOf = WeightPart.keptIn checkpoint.Weights.Device dtype

        AtomicFile.writeFolder path (fun folder -> fillBy dtype dtypeOf folder checkpoint)
        |> Result.map (fun formats ->
            struct (formats, bytesOf path, Option.toList (tokenizerRemark path checkpoint)))
