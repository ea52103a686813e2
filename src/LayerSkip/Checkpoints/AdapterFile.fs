namespace LayerSkip

open System
open System.IO
open TorchSharp

/// An adapter beside its model: a safetensors file of its own, whose metadata say what it is and for which model.
[<RequireQualifiedAccess>]
module AdapterFile =
    /// Its name in a model's folder.
    let name = "adapter.safetensors"

    /// The file that a path means: itself, or the one that a folder has under its usual name.
    let internal located (path: string) : string =
        if PathKind.find path = PathKind.Folder then
            Path.Combine(path, name)
        else
            path

    /// Where the number-th adapter (from 1) of a GGUF file lies: model.adapter.safetensors beside model.gguf, model.adapter2.safetensors.
    let internal besideGguf (path: string) (number: int) : string =
        let stem = Path.GetFileNameWithoutExtension path
        let suffix = if number = 1 then "" else string number
        Path.Combine(string (Path.GetDirectoryName path), $"{stem}.adapter{suffix}.safetensors")

    /// The adapters that lie beside a GGUF file: its own, one after another, else one named as in a folder.
    let internal beside (path: string) : string list =
        match List.init 9 (fun number -> besideGguf path (number + 1)) |> List.filter File.Exists with
        | [] -> [ Path.Combine(string (Path.GetDirectoryName path), name) ] |> List.filter File.Exists
        | own -> own

    let private formKey, rankKey, exitKey, baseKey =
        "layerskip_adapter", "layerskip_rank", "layerskip_exit_layer", "layerskip_base"

    let private sizes = [
        "hidden size", "layerskip_hidden", (fun (config: LlamaConfig) -> config.Hidden)
        "layers", "layerskip_layers", _.Layers
        "vocabulary", "layerskip_vocabulary", _.Vocabulary
    ]

    /// What an adapter is, and the sizes of its base.
    let internal metadata (weights: Weights) (adapter: Adapter) : Map<string, string> =
        Map [
            yield "format", "pt"
            yield formKey, AdapterForm.name adapter.Form
            match adapter.Form with
            | AdapterForm.LowRank rank -> yield rankKey, string rank
            | AdapterForm.Norm
            | AdapterForm.Block -> ()
            yield exitKey, string adapter.Exit.Layers
            yield baseKey, adapter.Base
            for _, key, size in sizes do
                yield key, string (size weights.Config)
        ]

    /// Writes an adapter of a base, each tensor in the dtype that it has, whole or not at all.
    let write (path: string) (weights: Weights) (adapter: Adapter) : Result<unit, LayerSkipError list> =
        use _scope = Scope.start ()
        TensorWriter.safetensors path (metadata weights adapter) (Adapter.named adapter)

    /// What the metadata say of an adapter for this configuration: its form, its exit, and the mark of its base.
    let private described (config: LlamaConfig) (path: string) (metadata: Map<string, string>) =
        let number key = Map.tryFind key metadata |> Option.bind Number.tryWhole

        match Map.tryFind formKey metadata with
        | None -> Check.bad path "is no adapter: its metadata name none; train one for this model"
        | Some form ->
            let others = [
                for what, key, size in sizes do
                    match number key with
                    | Some found when found <> size config -> $"{what} {found} (this model has {size config})"
                    | Some _ -> ()
                    | None -> $"no {what}"
            ]

            let fits =
                LayerSkipError.BadFile(
                    path,
                    $"""is an adapter for another model, of {String.concat ", " others}; name the one that it was trained for"""
                )
                |> Check.that others.IsEmpty

            let form = AdapterForm.tryCreate config.Hidden form (number rankKey |> Option.defaultValue 0)

            let exit = ExitLayer.TryCreate(config.Layers, number exitKey |> Option.defaultValue 0)

            let inFile (result: Result<'T, LayerSkipError list>) =
                result
                |> Result.mapError (
                    List.map (fun fault -> LayerSkipError.BadFile(path, LayerSkipError.message fault))
                )

            Check.all fits ()
            |> Result.bind (fun () -> Check.both (inFile form) (inFile exit))
            |> Result.map (fun (form, exit) ->
                struct (form, exit, Map.tryFind baseKey metadata |> Option.defaultValue ""))

    let private tensorFaults (parts: CheckpointPart list) (stored: Map<string, StoredTensor>) = [
        for name, shape in parts do
            match Map.tryFind name stored with
            | None -> LayerSkipError.MissingTensor name
            | Some tensor when List.ofArray tensor.Shape <> shape ->
                LayerSkipError.WrongShape(name, shape, List.ofArray tensor.Shape)
            | Some _ -> ()

        for KeyValue(name, _) in stored do
            if not (List.exists (fst >> (=) name) parts) then
                LayerSkipError.UnknownTensor name
    ]

    let private opened (path: string) : Result<SafetensorsFile, LayerSkipError list> =
        let path = located path

        match Safetensors.openFile path with
        | Error [ LayerSkipError.NotFound(absent, _) ] when absent = path ->
            Error [ LayerSkipError.NotFound(path, "name an adapter that training wrote") ]
        | opened -> opened

    /// Of the adapter in a file or folder, where it is one for a model of this configuration: its exit, and the fingerprint of its base.
    let describe
        (config: LlamaConfig)
        (path: string)
        : Result<struct (ExitLayer * string), LayerSkipError list> =
        opened path
        |> Result.bind (fun file ->
            use file = file

            described config path file.Metadata
            |> Result.map (fun (struct (_, exit, mark)) -> struct (exit, mark)))

    /// Reads an adapter with matrices of `dtype`; its tensors belong to it. An error: a file that cannot be read or holds none, one for a
    /// model of other sizes, values that are not finite.
    let internal readIn
        (dtype: Dtype)
        (weights: Weights)
        (path: string)
        : Result<Adapter, LayerSkipError list> =
        Backend.ensure ()

        match opened path with
        | Error faults -> Error faults
        | Ok file ->
            use file = file

            described weights.Config path file.Metadata
            |> Result.bind (fun (struct (form, exit, mark)) ->
                let stored = file.Tensors |> List.map (fun tensor -> tensor.Name, tensor) |> Map.ofList
                let unfit = ResizeArray<LayerSkipError>()

                let fill name (destination: Tensor) =
                    use source = Tensors.ofStored stored[name]
                    destination.copy_ source |> ignore

                    if not (Tensors.isFinite destination) then
                        unfit.Add(
                            if Tensors.isFinite source then
                                ScalarType.beyond name destination.dtype
                            else
                                LayerSkipError.NotFinite name
                        )

                match tensorFaults (Adapter.expected weights.Config form exit) stored with
                | [] ->
                    Check.guard (fun () -> Ok(Adapter.build dtype weights form exit mark fill))
                    |> Result.bind (fun adapter ->
                        match List.ofSeq unfit with
                        | [] -> Ok adapter
                        | faults ->
                            (adapter :> IDisposable).Dispose()
                            Error faults)
                | faults -> Error faults)
            |> Result.mapError (fun faults ->
                if faults |> List.forall _.IsBadFile then
                    faults
                else
                    [ LayerSkipError.InWeights(path, faults) ])

    /// The dtype that an adapter's matrices have beside a base's: the same; beside blocks of a file, which have none, float16.
    let private dtypeBeside (weights: Weights) : Dtype =
        if Weights.isQuantised weights then
            Dtype.F16
        else
            weights.Dtype

    /// What the user should know of the adapter in a file beside a base, by the fingerprint of its own.
    let internal remarks (weights: Weights) (path: string) (mark: string) : string list = [
        if mark <> Adapter.fingerprint weights then
            $"{path} was trained for another model of the same sizes: the text stays this model's own, but few drafts may be accepted"
    ]

    /// The adapter in a file, or in a folder under its usual name, for a base, which it shares embedding and head with: it is good as long as the base. Disposing of it leaves
    /// the base. Errors as of bad files: none there, none readable, none of this model's sizes.
    let load (weights: Weights) (path: string) : Result<Adapter, LayerSkipError list> =
        readIn (dtypeBeside weights) weights path
        |> Result.map (fun adapter ->
            if weights.Kernels.IsSome then
                Adapter.withKernels adapter
            else
                adapter)
