namespace LayerSkip

open System

/// An open GGUF file; its tensors can be read until it is disposed.
[<NoEquality; NoComparison>]
type GgufFile = {
    Path: string
    Metadata: Map<string, GgufValue>
    Config: LlamaConfig
    /// With Hugging Face's names, shapes [out; in], and order of q's and k's rows; without `rope_freqs.weight`,
    /// which is in `Config.RopeScaling`.
    Tensors: StoredTensor list
    /// The open file behind `Tensors`.
    Source: IDisposable
} with

    interface IDisposable with
        member this.Dispose() = this.Source.Dispose()

/// Reading GGUF files, version 2 or 3, of the families that `Architecture` lists. The format is ggml's docs/gguf.md:
/// magic, version, counts, metadata, tensor entries, then the data, aligned to 32 bytes or what `general.alignment`
/// says. Little-endian only; split files are refused.
[<RequireQualifiedAccess>]
module Gguf =
    let private hint = "a .gguf file is needed"

    /// The metadata alone: the entries and values of tensors are not looked at.
    let readMetadata (path: string) : Result<Map<string, GgufValue>, LayerSkipError list> =
        SourceFile.using path hint GgufHeader.readMetadata

    /// Llama 3.1 and later: llama.cpp keeps the stretched angles as a tensor, not as metadata.
    let private withRopeTable (file: SourceFile) (config: LlamaConfig) (tensors: GgufTensor list) =
        match tensors |> List.tryFind (fun tensor -> GgufName.isRopeTable tensor.Name) with
        | None -> Ok config
        | Some table when table.Shape <> [| int64 (config.HeadDim / 2) |] ->
            Check.bad
                file.Path
                $"rope_freqs.weight must hold {config.HeadDim / 2} positive divisors, one a pair of dimensions"
        | Some table ->
            let divisors = StoredTensor.toFloats (GgufTensors.stored file config table)
            let scaled = { config with RopeScaling = RopeScaling.Divided divisors }

            Check.all (ConfigCheck.faults (GgufConfig.named config.Family) file.Path scaled) scaled
            |> Result.map (fun scaled -> { scaled with RopeScaling = RopeAngles.named scaled })

    let private ofHeader (file: SourceFile) (header: GgufHeader) : Result<GgufFile, LayerSkipError list> =
        let architecture = GgufConfig.architecture file.Path header.Metadata
        let spelling = architecture |> Result.defaultValue (Architecture.ofFamily Family.Llama)
        let rename = GgufName.huggingFace spelling.Gguf
        let tensors = GgufTensors.ofHeader file rename header

        // Names and shapes as the entries have them, so that a bad entry does not hide a bad configuration.
        let named =
            Map [
                for info in header.Infos ->
                    rename info.Name, (info.Dims |> Array.rev |> Array.map int64, GgufFormat.name info.Type)
            ]

        let config = architecture |> Result.bind (GgufConfig.ofMetadata file.Path header.Metadata named)

        Check.both tensors config
        |> Result.bind (fun (tensors, config) ->
            withRopeTable file config tensors |> Result.map (fun config -> tensors, config))
        |> Result.map (fun (tensors, config) -> {
            Path = file.Path
            Metadata = header.Metadata
            Config = config
            Tensors = [
                for tensor in tensors do
                    if not (GgufName.isRopeTable tensor.Name) then
                        GgufTensors.stored file config tensor
            ]
            Source = file
        })

    /// Opens a file and checks header, tensor entries and configuration; values stay on disk until a tensor is read.
    /// Every fault of entries and configuration is in the error. Formats are F32, F16, BF16, Q8_0, Q4_0 and Q4_1;
    /// others are WrongDtype, tensor by tensor.
    let openFile (path: string) : Result<GgufFile, LayerSkipError list> =
        SourceFile.openAs path hint (fun file -> GgufHeader.read file |> Result.bind (ofHeader file))

    /// The exit layer and draft length that a file recommends under `layerskip.` keys, if any.
    let internal recommended (file: GgufFile) : Result<(int * int) option, LayerSkipError list> =
        let names = GgufConfig.exitKey, GgufConfig.draftKey
        let reader = GgufReader(file.Path, "layerskip", file.Metadata)
        let length = reader.TryInt(snd names) |> Option.defaultValue LlamaConfig.defaultDraft
        let recommended = reader.TryInt(fst names) |> Option.map (fun exit -> exit, length)
        Check.all
            (reader.Faults @ GenerationConfig.faults file.Config file.Path names recommended)
            recommended
