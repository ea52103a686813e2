namespace LayerSkip

open System
open System.IO

/// A model ready to run: what a Hugging Face folder or a .gguf file holds.
[<NoEquality; NoComparison>]
type Checkpoint = {
    Path: string
    Weights: Weights
    Tokenizer: Tokenizer option
    /// generation_config.json's, else config.json's eos_token_id; eos and eot of a GGUF.
    StopIds: int[]
    /// Exit layer and draft length that generation_config.json recommends.
    Recommended: (int * int) option
} with

    member this.Config = this.Weights.Config

    interface IDisposable with
        member this.Dispose() = (this.Weights :> IDisposable).Dispose()

[<RequireQualifiedAccess>]
module Checkpoint =
    /// The dtype that "auto" stands for: bfloat16 on CUDA; on a CPU that of the file's matrices where all have the
    /// same (float16 where all are 16-bit or quantised), else float32.
    let autoDtype (device: Device) (stored: StoredTensor list) : Dtype =
        let narrow (tensor: StoredTensor) =
            // Of fewer bytes than float32: a 16-bit format, or a quantised one.
            tensor.Dtype = Dtype.F16 || tensor.Dtype = Dtype.BF16 || tensor.Format.StartsWith 'Q'

        let matrices = stored |> List.filter (fun tensor -> tensor.Shape.Length > 1)

        match device with
        | Device.Cuda -> Dtype.BF16
        | Device.Cpu when matrices.IsEmpty -> Dtype.F32
        | Device.Cpu when matrices |> List.forall (fun tensor -> tensor.Dtype = Dtype.F64) -> Dtype.F64
        | Device.Cpu when matrices |> List.forall (fun tensor -> tensor.Dtype = Dtype.BF16) -> Dtype.BF16
        | Device.Cpu when matrices |> List.forall narrow -> Dtype.F16
        | Device.Cpu -> Dtype.F32

    /// transformers' own names: eos_token_id, assistant_early_exit, num_assistant_tokens.
    let private generationConfig (folder: string) (config: LlamaConfig) =
        let path = Path.Combine(folder, "generation_config.json")

        match Json.read path "" with
        | Error [ LayerSkipError.NotFound _ ] -> Ok(config.StopIds, None)
        | Error faults -> Error faults
        | Ok document ->
            use document = document
            let json = JsonReader(path, document.RootElement)

            let stops = json.TokenIds("eos_token_id", config.Vocabulary) |> Option.defaultValue config.StopIds

            json.TokenIds("bos_token_id", config.Vocabulary) |> ignore

            let recommended =
                match json.TryInt "assistant_early_exit", json.Int("num_assistant_tokens", 4) with
                | Some exit, length ->
                    if exit < 1 || exit >= config.Layers then
                        json.Fault $"\"assistant_early_exit\" is {exit}, it must be 1 to {config.Layers - 1}"

                    if length < 1 then
                        json.Fault $"\"num_assistant_tokens\" is {length}, it must be at least 1"

                    Some(exit, length)
                | None, _ -> None

            Check.all json.Faults (stops, recommended)

    /// A tokenizer of a kind that we do not read keeps no model from taking and giving ids.
    let private readable (tokenizer: Result<Tokenizer option, LayerSkipError list>) =
        match tokenizer with
        | Error faults when faults |> List.forall _.IsUnsupported -> Ok None
        | tokenizer -> tokenizer

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
            | [] -> Error [ LayerSkipError.NoTokenizer checkpoint.Path ]
            | faults -> Error faults

    /// What to tell whoever uses the model, a line each.
    let remarks (checkpoint: Checkpoint) : string list = [
        match checkpoint.Tokenizer, lazy (tokenizerFaults checkpoint.Path) with
        | None, faults when not faults.Value.IsEmpty ->
            $"{LayerSkipError.summary faults.Value}; without its tokenizer, the model takes and gives ids only"
        | _ -> ()
    ]

    let private build path dtype device config (stored: StoredTensor list) tokenizer stops recommended =
        let dtype = dtype |> Option.defaultWith (fun () -> autoDtype device stored)

        Weights.load dtype device config stored
        |> Result.map (fun weights -> {
            Path = path
            Weights = weights
            Tokenizer = tokenizer
            StopIds = stops
            Recommended = recommended
        })
        |> Result.mapError (fun faults ->
            // What names its file needs no other place.
            if faults |> List.forall (fun (fault: LayerSkipError) -> fault.IsBadFile) then
                faults
            else
                [ LayerSkipError.InWeights(path, faults) ])

    let private loadFolder (folder: string) dtype device =
        let config = LlamaConfig.load (Path.Combine(folder, "config.json"))
        let files = Safetensors.openFolder folder
        let tokenizer = Tokenizer.tryLoad folder |> readable
        let generation = config |> Result.bind (generationConfig folder)

        let result =
            match config, files, tokenizer, generation with
            | Ok config, Ok files, Ok tokenizer, Ok(stops, recommended) ->
                let stored = files |> List.collect _.Tensors
                build folder dtype device config stored tokenizer stops recommended
            | _ ->
                let generation =
                    if Result.isError config then
                        []
                    else
                        Check.faults generation
                Error(Check.faults config @ Check.faults files @ Check.faults tokenizer @ generation)

        match files with
        | Ok files ->
            for file in files do
                (file :> IDisposable).Dispose()
        | Error _ -> ()

        result

    let private loadGguf (path: string) (hint: string) dtype device =
        match Gguf.openFile path with
        | Error [ LayerSkipError.NotFound _ ] -> Error [ LayerSkipError.NotFound(path, hint) ]
        | Error faults -> Error faults
        | Ok file ->
            use file = file

            Tokenizer.ofGguf path file.Metadata
            |> readable
            |> Result.bind (fun tokenizer ->
                build path dtype device file.Config file.Tensors tokenizer file.Config.StopIds None)

    /// Loads a folder or a .gguf file with weights of `dtype` (None: auto) on `device`; every fault at once.
    let load (path: string) (dtype: Dtype option) (device: Device) : Result<Checkpoint, LayerSkipError list> =
        Backend.tryDevice device
        |> Result.bind (fun _ ->
            let hint = "give a Hugging Face model folder or a .gguf file"
            let isGguf = path.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase)

            match PathKind.find path with
            | PathKind.Folder -> loadFolder path dtype device
            | PathKind.RegularFile when not isGguf ->
                Error [ LayerSkipError.Unsupported($"the file {path}", hint) ]
            // What is no file says so when it is opened.
            | PathKind.RegularFile
            | PathKind.Special
            | PathKind.Nothing -> loadGguf path hint dtype device)

    /// The exit layer and draft length to use where the user names none: what the model recommends, else L/3 and 4.
    let exitAndDraft (checkpoint: Checkpoint) : int * int =
        checkpoint.Recommended
        |> Option.defaultValue (LlamaConfig.defaultExit checkpoint.Config, 4)
