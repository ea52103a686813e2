namespace LayerSkip

open System
open System.IO
open System.Text.Json

/// An open safetensors file; its tensors can be read until it is disposed.
[<NoEquality; NoComparison>]
type SafetensorsFile = {
    Path: string
    /// The texts of `__metadata__`.
    Metadata: Map<string, string>
    /// In the order of their bytes, without buffers that are no weights (`rotary_emb.inv_freq` and the like).
    Tensors: StoredTensor list
    /// The open file behind `Tensors`.
    Source: IDisposable
} with

    interface IDisposable with
        member this.Dispose() = this.Source.Dispose()

/// Weights in safetensors: 8 bytes of header length (little-endian), a JSON header, then the values of every tensor,
/// row after row, without gaps (github.com/huggingface/safetensors, README, "Format").
[<RequireQualifiedAccess>]
module Safetensors =
    let private indexName = "model.safetensors.index.json"

    let private stored (file: SourceFile) (data: int64) (entry: SafetensorsEntry) (dtype: Dtype) =
        let row = (entry.End - entry.Start) / max 1L (StoredTensor.every entry.Shape).Count

        let fill (rows: Rows) =
            let first = data + entry.Start + rows.First * row
            RawMemory.fill (FillSpan(fun start destination -> file.Copy(first + start, destination)))

        {
            Name = entry.Name
            Shape = entry.Shape
            Format = entry.Format
            Dtype = dtype
            Fill = fill
            Blocks = None
        }

    /// Opens a file and checks its header; the values stay on disk until a tensor is read. Every fault of the header
    /// is in the error: overlaps, gaps, sizes that are not the shape's, dtypes other than F64, F32, F16 and BF16.
    let openFile (path: string) : Result<SafetensorsFile, LayerSkipError list> =
        SourceFile.openAs path "a .safetensors file is needed" (fun file ->
            SafetensorsHeader.read file
            |> Result.map (fun header -> {
                Path = path
                Metadata = header.Metadata
                Tensors = [
                    for entry in header.Entries do
                        match SafetensorsHeader.dtype entry.Format with
                        | Some dtype when not (SafetensorsHeader.isIgnored entry.Name) ->
                            stored file header.Data entry dtype
                        | _ -> ()
                ]
                Source = file
            }))

    /// All files or none: what was opened before a fault is closed again.
    let private openAll (paths: string list) (check: SafetensorsFile list -> LayerSkipError list) =
        let results = List.map openFile paths
        let opened = Check.list results |> Result.bind (fun files -> Check.all (check files) files)

        if Result.isError opened then
            for file in List.choose Result.toOption results do
                (file :> IDisposable).Dispose()

        opened

    /// Which file holds which tensor, from an index.
    let private weightMap
        (path: string)
        (root: JsonElement)
        : Result<Map<string, string>, LayerSkipError list> =
        let place (property: JsonProperty) =
            match property.Value.ValueKind, property.Value.ToString() with
            | JsonValueKind.String, file when Path.GetFileName file = file -> Ok(property.Name, file)
            | JsonValueKind.String, file ->
                Check.bad path $"\"weight_map\" looks for {property.Name} outside this folder, in {file}"
            | _ -> Check.bad path $"\"weight_map\" must name a file for {property.Name}"

        match root.TryGetProperty "weight_map" with
        | true, map when map.ValueKind = JsonValueKind.Object ->
            [ for property in map.EnumerateObject() -> place property ]
            |> Check.list
            |> Result.map Map
        | _ -> Check.bad path "\"weight_map\" must be an object"

    let private checkShards (index: string) (map: Map<string, string>) (files: SafetensorsFile list) =
        let bad text = LayerSkipError.BadFile(index, text)

        let held = [
            for file in files do
                for tensor in file.Tensors -> tensor.Name, Path.GetFileName file.Path
        ]
        let pairs = set held

        [
            for KeyValue(name, file) in map do
                if not (SafetensorsHeader.isIgnored name || pairs.Contains(name, file)) then
                    bad $"{file} should hold tensor {name} and does not"

            for name, places in List.groupBy fst held do
                if places.Length > 1 then
                    let files = places |> List.map snd |> String.concat " and "
                    bad $"tensor {name} is in {files}"
        ]

    let private openShards (index: string) : Result<SafetensorsFile list, LayerSkipError list> =
        Json.load index "an index of shards is needed" (weightMap index)
        |> Result.bind (fun map ->
            let folder = Path.GetDirectoryName index
            let paths = [
                for file in map.Values |> Seq.distinct |> Seq.sort -> Path.Combine(folder, file)
            ]
            openAll paths (checkShards index map))

    /// The weights of a Hugging Face folder: model.safetensors, the shards of its index, or the only .safetensors. Of
    /// shards all are opened, in the order of their names; a tensor that is in none of them or in two is an error.
    /// Whoever has the files disposes of them.
    let openFolder (folder: string) : Result<SafetensorsFile list, LayerSkipError list> =
        let inside name = Path.Combine(folder, name)

        if not (Directory.Exists folder) then
            Error [ LayerSkipError.NotFound(folder, "a folder with model.safetensors is needed") ]
        elif File.Exists(inside "model.safetensors") then
            openAll [ inside "model.safetensors" ] (fun _ -> [])
        elif File.Exists(inside indexName) then
            openShards (inside indexName)
        else
            let named pattern = SourceFile.list folder pattern
            let absent hint = Error [ LayerSkipError.NotFound(inside "model.safetensors", hint) ]

            match named "*.safetensors", named "pytorch_model*.bin", named "*.gguf" with
            | Error faults, _, _
            | _, Error faults, _
            | _, _, Error faults -> Error faults
            | Ok [ only ], _, _ -> openAll [ only ] (fun _ -> [])
            | Ok [], Ok(_ :: _), _ ->
                absent "the weights are in pytorch_model.bin only: convert them to safetensors"
            | Ok [], _, Ok(_ :: _) -> absent "the folder holds a .gguf file: name that file as the model"
            | Ok [], _, _ -> absent $"a model folder has it, or {indexName} and its shards"
            | Ok files, _, _ ->
                Check.bad
                    folder
                    $"{files.Length} .safetensors files and no {indexName}; add the index, or keep one file"

    /// Writes a file of tensors, replacing `path` only once all is on disk; `metadata` are the texts of
    /// `__metadata__`. Two tensors of one name, or one named `__metadata__`, are an error.
    let write
        (path: string)
        (metadata: Map<string, string>)
        (tensors: TensorItem<Dtype> seq)
        : Result<unit, LayerSkipError list> =
        SafetensorsWriter.write path metadata (List.ofSeq tensors)
