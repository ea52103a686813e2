namespace LayerSkip

open System

/// An open GGUF model, in one file or several; its tensors can be read until it is disposed.
[<NoEquality; NoComparison>]
type GgufFile = {
    Path: string
    Metadata: Map<string, GgufValue>
    Config: LlamaConfig
    /// With Hugging Face's names, shapes [out; in], and order of q's and k's rows; without `rope_freqs.weight`,
    /// which is in `Config.RopeScaling`.
    Tensors: StoredTensor list
    /// The open files behind `Tensors`.
    Source: IDisposable
} with

    interface IDisposable with
        member this.Dispose() = this.Source.Dispose()

/// Reading GGUF files, version 2 or 3, of the families that `Architecture` lists. The format is ggml's docs/gguf.md:
/// magic, version, counts, metadata, tensor entries, then the data, aligned to 32 bytes or what `general.alignment`
/// says. Little-endian only.
[<RequireQualifiedAccess>]
module Gguf =
    let private hint = "a .gguf file is needed"

    /// Whether a file begins as GGUF files do, whatever it is called; not where it cannot be read.
    let isFile (path: string) : bool =
        SourceFile.using path hint (fun file ->
            let front = Array.zeroCreate<byte>(int (min file.Length 4L))
            file.Copy(0L, front.AsSpan())
            Ok(front = "GGUF"B))
        |> Result.defaultValue false

    /// The metadata alone: the entries and values of tensors are not looked at.
    let readMetadata (path: string) : Result<Map<string, GgufValue>, LayerSkipError list> =
        GgufParts.readMetadata path hint

    /// Llama 3.1 and later: llama.cpp keeps the stretched angles as a tensor, not as metadata.
    let private withRopeTable (config: LlamaConfig) (tensors: GgufTensor list) =
        match tensors |> List.tryFind (fun tensor -> GgufName.isRopeTable tensor.Name) with
        | None -> Ok config
        | Some table when table.Shape <> [| int64 (config.HeadDim / 2) |] ->
            Check.bad
                table.File.Path
                $"rope_freqs.weight must hold {config.HeadDim / 2} positive divisors, one a pair of dimensions"
        | Some table ->
            let divisors = StoredTensor.toFloats (GgufTensors.stored config table)
            let scaled = { config with RopeScaling = RopeScaling.Divided divisors }

            Check.all (ConfigCheck.faults (GgufConfig.named config.Family) table.File.Path scaled) scaled
            |> Result.map (fun scaled -> { scaled with RopeScaling = RopeAngles.named scaled })

    let private ofParts (path: string) (parts: GgufPart list) : Result<GgufFile, LayerSkipError list> =
        let first, metadata = parts.Head.File.Path, parts.Head.Header.Metadata
        let architecture = GgufConfig.architecture first metadata
        let spelling = architecture |> Result.defaultValue (Architecture.ofFamily Family.Llama)
        let rename = GgufName.huggingFace spelling.Gguf

        let tensors =
            parts
            |> List.map (fun part -> GgufTensors.ofHeader part.File rename part.Header)
            |> Check.list
            |> Result.map List.concat

        // Names and shapes as the entries have them, so that a bad entry does not hide a bad configuration.
        let named =
            Map [
                for part in parts do
                    for info in part.Header.Infos ->
                        rename info.Name,
                        (info.Dims |> Array.rev |> Array.map int64, GgufFormat.name info.Type)
            ]

        let config = architecture |> Result.bind (GgufConfig.ofMetadata first metadata named)

        Check.both tensors config
        |> Result.bind (fun (tensors, config) ->
            withRopeTable config tensors |> Result.map (fun config -> tensors, config))
        |> Result.map (fun (tensors, config) -> {
            Path = path
            Metadata = metadata
            Config = config
            Tensors = [
                for tensor in tensors do
                    if not (GgufName.isRopeTable tensor.Name) then
                        GgufTensors.stored config tensor
            ]
            Source = {
                new IDisposable with
                    member _.Dispose() = GgufParts.close parts
            }
        })

    /// Opens a file, or all parts of a model that is split into several, and checks headers, tensor entries and
    /// configuration; values stay on disk until a tensor is read. Every fault of entries and configuration is in the error,
    /// each tensor of a format that is not read (`GgufFormat.readable` lists those that are) and each missing part too.
    let openFile (path: string) : Result<GgufFile, LayerSkipError list> =
        GgufParts.openAll path hint
        |> Result.bind (fun parts ->
            let opened = Check.guard (fun () -> ofParts path parts)

            if Result.isError opened then
                GgufParts.close parts

            opened)

    /// The exit layer and draft length that a file recommends under `layerskip.` keys, if any.
    let internal recommended (file: GgufFile) : Result<(int * int) option, LayerSkipError list> =
        let names = GgufConfig.exitKey, GgufConfig.draftKey
        let reader = GgufReader(file.Path, "layerskip", file.Metadata)
        let length = reader.TryInt(snd names) |> Option.defaultValue LlamaConfig.defaultDraft
        let recommended = reader.TryInt(fst names) |> Option.map (fun exit -> exit, length)
        Check.all
            (reader.Faults @ GenerationConfig.faults file.Config file.Path names recommended)
            recommended
