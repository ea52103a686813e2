namespace LayerSkip

open System
open System.IO
open LayerSkip.Kernels
open TorchSharp

/// A model ready to run: what a Hugging Face folder or a .gguf file holds.
[<NoEquality; NoComparison>]
type Checkpoint = {
    Path: string
    Weights: Weights
    Tokenizer: Tokenizer option
    /// The chat template, read when it is first asked for; None where the files have none.
    Chat: Lazy<Result<ChatTemplate option, LayerSkipError list>>
    /// generation_config.json's, else config.json's eos_token_id; eos and eot of a GGUF.
    StopIds: int[]
    /// Exit layer and draft length that generation_config.json recommends, or a GGUF file's `layerskip.` keys.
    Recommended: (int * int) option
    /// Files of adapters that go with it: those that generation_config.json names, or that lie beside a GGUF file.
    Adapters: string list
    /// What is written with the model again.
    Kept: KeptFields
    /// What the user should know of the files: sentences.
    Remarks: string list
} with

    /// That of the weights.
    member this.Config = this.Weights.Config

    interface IDisposable with
        member this.Dispose() = (this.Weights :> IDisposable).Dispose()

/// What matrices are held in.
[<RequireQualifiedAccess>]
type WeightsFormat =
    /// Converted.
    | Of of Dtype
    /// On a CPU each matrix of a GGUF file in the file's own, quantised ones in blocks that stay where they
    /// lie; else all in the dtype that suits the file and the device (`Checkpoint.autoDtype`).
    | AsStored
    /// To be written in a dtype: on a CPU as stored where a GGUF file's matrices have no dtype in common, and else converted.
    | ToWriteIn of Dtype

[<RequireQualifiedAccess>]
module Checkpoint =
    /// A model in memory; `path` names it, and its configuration has its stop ids.
    let ofWeights (path: string) (weights: Weights) (tokenizer: Tokenizer option) : Checkpoint = {
        Path = path
        Weights = weights
        Tokenizer = tokenizer
        Chat =
            lazy
                (match tokenizer |> Option.map Tokenizer.chatTemplates with
                 | None
                 | Some [] -> Ok None
                 | Some templates -> ChatTemplate.ofNamed path templates |> Result.map Some)
        StopIds = weights.Config.StopIds
        Recommended = None
        Adapters = []
        Kept = KeptFields.none
        Remarks = []
    }

    /// The dtype that "auto" stands for: bfloat16 on CUDA; on a CPU that of the file's matrices where all have the
    /// same (float16 where all are 16-bit or quantised), else float32.
    let autoDtype (device: Device) (stored: StoredTensor list) : Dtype =
        let narrow (tensor: StoredTensor) =
            // Of fewer bytes than float32: a 16-bit format, or a quantised one, whose values are float32.
            Dtype.bytes tensor.Dtype = 2 || tensor.Dtype = Dtype.F32 && tensor.Format <> "F32"

        let matrices = stored |> List.filter (fun tensor -> tensor.Shape.Length > 1)

        match device with
        | Device.Cuda -> Dtype.BF16
        | Device.Cpu when matrices.IsEmpty -> Dtype.F32
        | Device.Cpu when matrices |> List.forall (fun tensor -> tensor.Dtype = Dtype.F64) -> Dtype.F64
        | Device.Cpu when matrices |> List.forall (fun tensor -> tensor.Dtype = Dtype.BF16) -> Dtype.BF16
        | Device.Cpu when matrices |> List.forall narrow -> Dtype.F16
        | Device.Cpu -> Dtype.F32

    /// A tokenizer of a kind that we do not read keeps no model from taking and giving ids: none then, and a remark.
    let private readable (tokenizer: Result<Tokenizer option, LayerSkipError list>) =
        match tokenizer with
        | Error faults when faults |> List.forall _.IsUnsupported ->
            Ok(
                None,
                [
                    $"{LayerSkipError.summary faults}; without its tokenizer, the model takes and gives ids only"
                ]
            )
        | tokenizer -> tokenizer |> Result.map (fun tokenizer -> tokenizer, [])

    let private tokenizerFaults (path: string) : LayerSkipError list =
        if Directory.Exists path then
            Tokenizer.tryLoad path |> Check.faults
        elif File.Exists path then
            Gguf.readMetadata path |> Result.bind (Tokenizer.ofGguf path) |> Check.faults
        else
            []

    /// The model's tokenizer; without one, why: there is none, or it is of a kind that we do not read.
    let tokenizer (checkpoint: Checkpoint) : Result<Tokenizer, LayerSkipError list> =
        match checkpoint.Tokenizer with
        | Some tokenizer -> Ok tokenizer
        | None ->
            match tokenizerFaults checkpoint.Path with
            | [] when File.Exists checkpoint.Path ->
                Error [ LayerSkipError.NoTokenizerInGguf checkpoint.Path ]
            | [] -> Error [ LayerSkipError.NoTokenizer checkpoint.Path ]
            | faults -> Error faults

    // Compared at once, so that it takes little memory.
    let private headRows = 4096L

    /// A head that a file holds beside tied embeddings: it is not used, which is for the user to know where it says otherwise.
    let private headRemarks (weights: Weights) (stored: StoredTensor list) : string list =
        let isSame (head: StoredTensor) =
            use _scope = Scope.start ()
            let embedding = weights.Embedding

            let same first =
                use _piece = Scope.start ()
                let count = min headRows (head.Shape[0] - first)
                let ids = Tensors.ofIds [| count |] [| int first .. int (first + count) - 1 |]
                let own = Weight.select ids embedding
                let values =
                    (Tensors.ofStored (StoredTensor.rows first count head)).``to``(own.dtype, own.device)
                values.eq(own).all().cpu().data<bool>().[0L]

            head.Shape = Weight.shape embedding
            && Seq.forall same (seq { 0L .. headRows .. head.Shape[0] - 1L })

        match stored |> List.tryFind (fun tensor -> tensor.Name = "lm_head.weight") with
        | Some head when weights.Config.TiedHead && not (isSame head) -> [
            "the file holds a head (lm_head.weight) that differs from the embedding, and \"tie_word_embeddings\" has the embedding used; to use the head, set it to false in config.json"
          ]
        | _ -> []

    /// Whether no dtype holds all matrices as the file has them.
    let private isMixed (stored: StoredTensor list) =
        let matrices = stored |> List.filter (fun tensor -> tensor.Shape.Length > 1)

        (stored |> List.exists _.Blocks.IsSome)
        || matrices |> List.distinctBy _.Dtype |> List.length > 1

    let private build
        isGguf
        path
        (format: WeightsFormat)
        device
        tell
        (config: LlamaConfig)
        (stored: StoredTensor list)
        tokenizer
        =
        let load =
            let inPlace = isGguf && device = Device.Cpu && isMixed stored

            match format with
            | WeightsFormat.AsStored
            | WeightsFormat.ToWriteIn _ when inPlace -> StoredWeights.loadInPlace
            | WeightsFormat.AsStored -> StoredWeights.load (autoDtype device stored) device
            | WeightsFormat.Of dtype
            | WeightsFormat.ToWriteIn dtype -> StoredWeights.load dtype device

        load config (StoredTensor.telling tell stored)
        |> Result.map (fun weights -> {
            ofWeights path weights tokenizer with
                Remarks = headRemarks weights stored
        })
        |> Result.mapError (fun faults ->
            // What names its file needs no other place.
            if faults |> List.forall (fun (fault: LayerSkipError) -> fault.IsBadFile) then
                faults
            elif isGguf then
                [ LayerSkipError.InGguf(path, GgufName.inFaults config.Family faults) ]
            else
                [ LayerSkipError.InWeights(path, faults) ])

    let private loadFolder (folder: string) format device tell =
        let config = LlamaConfig.load (Path.Combine(folder, "config.json"))
        let files = Safetensors.openFolder folder
        let tokenizer = Tokenizer.tryLoad folder |> readable
        let generation = config |> Result.bind (GenerationConfig.read folder)

        try
            match config, files, tokenizer, generation with
            | Ok config, Ok files, Ok(tokenizer, remarks), Ok generation ->
                let stored = files |> List.collect _.Tensors |> WrapperPrefixes.huggingFace
                let kept = KeptFields.ofConfig (Path.Combine(folder, "config.json"))

                let found, absent =
                    generation.Adapters
                    |> List.map (fun name -> Path.Combine(folder, name))
                    |> List.partition File.Exists

                Check.guard (fun () -> build false folder format device tell config stored tokenizer)
                |> Result.map (fun checkpoint -> {
                    checkpoint with
                        StopIds = generation.StopIds
                        Recommended = generation.Recommended
                        Adapters = found
                        Kept = { kept with OfGeneration = generation.Kept }
                        Remarks =
                            remarks
                            @ checkpoint.Remarks
                            @ [
                                for path in absent ->
                                    $"generation_config.json names the adapter {path}, which is not there; the model does without"
                            ]
                })
            | _ ->
                // A bad configuration's faults are those of `generation` too.
                let generation =
                    if Result.isError config then
                        []
                    else
                        Check.faults generation
                Error(Check.faults config @ Check.faults files @ Check.faults tokenizer @ generation)
        finally
            for file in files |> Result.defaultValue [] do
                (file :> IDisposable).Dispose()

    let private loadGguf (path: string) (hint: string) format device tell =
        match Gguf.openFile path with
        | Error [ LayerSkipError.NotFound(absent, _) ] when absent = path ->
            Error [ LayerSkipError.NotFound(path, hint) ]
        | Error faults -> Error faults
        | Ok file ->
            use file = file

            Check.both (readable (Tokenizer.ofGguf path file.Metadata)) (Gguf.recommended file)
            |> Result.bind (fun ((tokenizer, remarks), recommended) ->
                build true path format device tell file.Config file.Tensors tokenizer
                |> Result.map (fun checkpoint -> {
                    checkpoint with
                        Recommended = recommended
                        Adapters = AdapterFile.beside path
                        Remarks = remarks @ checkpoint.Remarks
                }))

    /// Loads a folder or a GGUF file, whatever its name, with weights in `format` on `device`; every fault at once: of the files,
    /// the configuration, the tokenizer, the recommendation; then those of the weights. The caller disposes it. `tell` is told how many
    /// bytes of the tensors are read, and how many there are, before each; what it throws ends the loading.
    let loadTelling
        (tell: int64 -> int64 -> unit)
        (format: WeightsFormat)
        (path: string)
        (device: Device)
        : Result<Checkpoint, LayerSkipError list> =
        Backend.tryDevice device
        |> Result.bind (fun _ ->
            let hint = "give a Hugging Face model folder, a .gguf file, or a model on the hub as org/name"

            let isGguf () = path.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) || Gguf.isFile path

            match PathKind.find path with
            | _ when String.IsNullOrWhiteSpace path -> Error [ LayerSkipError.NotFound(path, hint) ]
            | PathKind.Folder -> loadFolder path format device tell
            | PathKind.RegularFile when not (isGguf ()) -> Check.unsupported $"the file {path}" hint
            // What is no file says so when it is opened.
            | PathKind.RegularFile
            | PathKind.Special
            | PathKind.Nothing -> loadGguf path hint format device tell)

    /// `loadTelling` nobody.
    let loadAs format path device : Result<Checkpoint, LayerSkipError list> =
        loadTelling (fun _ _ -> ()) format path device

    /// The same in a dtype; None: as the file has them.
    let load (path: string) (dtype: Dtype option) (device: Device) : Result<Checkpoint, LayerSkipError list> =
        let format = dtype |> Option.map WeightsFormat.Of |> Option.defaultValue WeightsFormat.AsStored
        loadAs format path device

    /// The same model, with quantised matrices multiplied as `compute` says.
    let withCompute (compute: Compute) (checkpoint: Checkpoint) : Checkpoint = {
        checkpoint with
            Weights = Weights.withCompute compute checkpoint.Weights
    }

    /// The same model, whose prompts are read so.
    let withPrefill (prefill: Prefill) (checkpoint: Checkpoint) : Checkpoint = {
        checkpoint with
            Weights = { checkpoint.Weights with Prefill = prefill }
    }

    /// The same model with caches that hold keys and values in `kv` (None: as activations are held); where they cannot, it
    /// is disposed.
    let withKv (kv: KvFormat option) (checkpoint: Checkpoint) : Result<Checkpoint, LayerSkipError list> =
        match kv |> Option.map (fun kv -> Weights.withKv kv checkpoint.Weights) with
        | None -> Ok checkpoint
        | Some(Ok weights) -> Ok { checkpoint with Weights = weights }
        | Some(Error faults) ->
            (checkpoint :> IDisposable).Dispose()
            Error faults

    /// The exit layer and draft length to use where the user names none: what the model recommends, else a third of its layers and 4.
    let exitAndDraft (checkpoint: Checkpoint) : int * int =
        checkpoint.Recommended
        |> Option.defaultValue (LlamaConfig.defaultExit checkpoint.Config, LlamaConfig.defaultDraft)

    /// Given ids; of none the tokenizer's beginning-of-text token, where it has one.
    let orBos (checkpoint: Checkpoint) (ids: int[]) : int[] =
        if ids.Length > 0 then
            ids
        else
            checkpoint.Tokenizer |> Option.bind Tokenizer.bos |> Option.toArray
