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
        }

    /// Opens a file and checks its header; the values stay on disk until a tensor is read.
    let openFile (path: string) : Result<SafetensorsFile, LayerSkipError list> =
        match SourceFile.openRead path "a .safetensors file is needed" with
        | Error faults -> Error faults
        | Ok file ->
            match SourceFile.guard (fun () -> SafetensorsHeader.read file) with
            | Error faults ->
                (file :> IDisposable).Dispose()
                Error faults
            | Ok header ->
                Ok {
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
                }

    /// All files or none: what was opened before a fault is closed again.
    let private openAll (paths: string list) (check: SafetensorsFile list -> LayerSkipError list) =
        let results = List.map openFile paths
        let files = List.choose Result.toOption results

        let faults =
            match List.collect Check.faults results with
            | [] -> check files
            | faults -> faults

        if not faults.IsEmpty then
            for file in files do
                (file :> IDisposable).Dispose()

        Check.all faults files

    /// Which file holds which tensor, from an index.
    let private weightMap
        (path: string)
        (root: JsonElement)
        : Result<Map<string, string>, LayerSkipError list> =
        let bad text = LayerSkipError.BadFile(path, text)

        match root.TryGetProperty "weight_map" with
        | true, map when map.ValueKind = JsonValueKind.Object ->
            let faults = [
                for property in map.EnumerateObject() do
                    match property.Value.ValueKind with
                    | JsonValueKind.String when
                        Path.GetFileName(property.Value.GetString()) = property.Value.GetString()
                        ->
                        ()
                    | JsonValueKind.String ->
                        bad
                            $"\"weight_map\" looks for {property.Name} outside this folder, in {property.Value.GetString()}"
                    | _ -> bad $"\"weight_map\" must name a file for {property.Name}"
            ]

            if faults.IsEmpty then
                Ok(
                    Map [
                        for property in map.EnumerateObject() -> property.Name, property.Value.GetString()
                    ]
                )
            else
                Error faults
        | _ -> Error [ bad "\"weight_map\" must be an object" ]

    let private checkShards (index: string) (map: Map<string, string>) (files: SafetensorsFile list) =
        let bad text = LayerSkipError.BadFile(index, text)

        let held = [
            for file in files do
                for tensor in file.Tensors -> tensor.Name, Path.GetFileName file.Path
        ]
        let pairs = set held

        let missing = [
            for KeyValue(name, file) in map do
                if not (SafetensorsHeader.isIgnored name || pairs.Contains(name, file)) then
                    bad $"{file} should hold tensor {name} and does not"
        ]

        let doubled = [
            for name, places in List.groupBy fst held do
                if places.Length > 1 then
                    let files = places |> List.map snd |> String.concat " and "
                    bad $"tensor {name} is in {files}"
        ]

        missing @ doubled

    let private openShards (index: string) : Result<SafetensorsFile list, LayerSkipError list> =
        match Json.read index "an index of shards is needed" with
        | Error faults -> Error faults
        | Ok document ->
            use document = document

            weightMap index document.RootElement
            |> Result.bind (fun map ->
                let folder = Path.GetDirectoryName index

                let paths = [
                    for file in map.Values |> Seq.distinct |> Seq.sort -> Path.Combine(folder, file)
                ]
                openAll paths (checkShards index map))

    /// The weights of a Hugging Face folder: model.safetensors, the shards of its index, or the only .safetensors.
    let openFolder (folder: string) : Result<SafetensorsFile list, LayerSkipError list> =
        let inside name = Path.Combine(folder, name)
        let several found = LayerSkipError.BadFile(folder, found)

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
                Error [
                    several
                        $"{files.Length} .safetensors files and no {indexName}; add the index, or keep one file"
                ]

    /// Writes a file of tensors, replacing `path` only once all is on disk.
    let write
        (path: string)
        (metadata: Map<string, string>)
        (tensors: TensorItem seq)
        : Result<unit, LayerSkipError list> =
        SafetensorsWriter.write path metadata (List.ofSeq tensors)
