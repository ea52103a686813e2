namespace LayerSkip

open System
open TorchSharp

/// A model's weights from what its files hold.
[<RequireQualifiedAccess>]
module StoredWeights =
    /// The tensors that checkpoints carry and no forward pass needs.
    let private ignored (config: LlamaConfig) (name: string) =
        name.EndsWith "rotary_emb.inv_freq"
        || name = "rope_freqs.weight"
        || (config.TiedHead && name = "lm_head.weight")

    /// Missing, unknown and mis-shaped tensors, all of them.
    let private faults config (stored: Map<string, StoredTensor>) =
        let expected = Map.ofList (Weights.expected config)

        [
            for KeyValue(name, shape) in expected do
                match Map.tryFind name stored with
                | None -> LayerSkipError.MissingTensor name
                | Some tensor when List.ofArray tensor.Shape <> shape ->
                    LayerSkipError.WrongShape(name, shape, List.ofArray tensor.Shape)
                | Some _ -> ()

            for KeyValue(name, _) in stored do
                if not (expected.ContainsKey name || ignored config name) then
                    LayerSkipError.UnknownTensor name
        ]

    /// Weights of which `make` makes each from its parts, once nothing is missing: it may read stored tensors into new ones, or map the
    /// files of their blocks, and reports names whose values do not fit.
    let private loadBy
        dtype
        device
        config
        (memory: LayerSkipError list)
        (make:
            Map<string, StoredTensor>
                -> (string -> Tensor -> unit)
                -> (StoredBlocks -> MappedFile)
                -> (LayerSkipError -> unit)
                -> CheckpointPart list
                -> Weight)
        (stored: StoredTensor list)
        : Result<Weights, LayerSkipError list> =
        let byName = stored |> List.map (fun tensor -> tensor.Name, tensor) |> Map.ofList

        let fillAll () =
            use _inference = Scope.inference ()
            let unfit = ResizeArray()
            let mapped = ResizeArray<MappedFile>()

            let unmap () =
                for file in mapped do
                    (file :> IDisposable).Dispose()

            let map (blocks: StoredBlocks) =
                let file = blocks.Map()
                mapped.Add file
                file

            let read name (destination: Tensor) =
                let stored = byName[name]
                let check (source: Tensor) =
                    if not (Tensors.isFinite destination) then
                        unfit.Add(
                            if Tensors.isFinite source then
                                ScalarType.beyond name destination.dtype
                            else
                                LayerSkipError.NotFinite name
                        )

                if device = Device.Cpu && destination.dtype = ScalarType.ofDtype stored.Dtype then
                    Tensors.read stored destination
                    check destination
                else
                    use source = Tensors.ofStored stored
                    destination.copy_ source |> ignore
                    check source

            try
                let weights = Weights.assemble config dtype device (make byName read map unfit.Add)

                match List.ofSeq unfit with
                | [] ->
                    let weights = Weights.withKernels weights
                    Scope.own (Weights.each weights |> List.collect Weight.tensors)
                    Ok weights
                | errors ->
                    unmap ()
                    Error errors
            with _ ->
                unmap ()
                reraise ()

        match faults config byName @ memory with
        | [] -> Check.guard fillAll
        | errors -> Error errors

    /// Makes a model's weights from stored tensors of Hugging Face names, converted to `dtype`; one stored tensor at a time
    /// is in memory beside the result. Every fault at once: missing, unknown and mis-shaped tensors and too little memory,
    /// or else NaN, infinity, and values beyond `dtype`.
    let load dtype device config (stored: StoredTensor list) : Result<Weights, LayerSkipError list> =
        stored
        |> loadBy dtype device config (Weights.memoryFaults dtype device config) (fun _ read _ _ ->
            Weights.fill dtype device read >> Weight.ofTensor)

    /// Blocks that are used where they lie: of matrices, but for those whose rows a file has in another order than their biases.
    let private tryBlocks (config: LlamaConfig) (stored: StoredTensor) : StoredBlocks option =
        stored.Blocks
        |> Option.filter (fun blocks ->
            stored.Shape.Length > 1 && not (config.QkvBias && blocks.PairedRows.IsSome))

    let private blockRows
        (file: MappedFile)
        (report: LayerSkipError -> unit)
        (stored: StoredTensor)
        (blocks: StoredBlocks)
        =
        let values = Array.fold (*) 1L stored.Shape
        let memory = {
            Address = file.Address + nativeint blocks.Start
            Length = BlockFormat.bytes values blocks.Format
        }

        if not (BlockFormat.areFinite blocks.Format memory.Address (values / int64 blocks.Format.Values)) then
            report (LayerSkipError.NotFinite stored.Name)

        WeightRows.Blocks {
            Format = blocks.Format
            Shape = stored.Shape
            PairedRows = blocks.PairedRows
            Memory = memory
            Owner = file
        }

    /// The same on a CPU with each matrix in the format that its file has: blocks stay where they lie, mapped into memory, and are read once
    /// to see that their scales are finite; 16- and 32-bit matrices are read.
    let loadInPlace config (stored: StoredTensor list) : Result<Weights, LayerSkipError list> =
        let dtypeOf (stored: StoredTensor) = if stored.Dtype = Dtype.F64 then Dtype.F32 else stored.Dtype

        let taken =
            stored
            |> List.filter (fun stored -> (tryBlocks config stored).IsNone)
            |> List.sumBy (fun stored -> Array.fold (*) (int64 (Dtype.bytes (dtypeOf stored))) stored.Shape)

        let memory = Memory.faults (fun () -> "the weights that are no quantised blocks") taken

        stored
        |> loadBy Dtype.F32 Device.Cpu config memory (fun byName read map report parts ->
            let found = parts |> List.map (fun (name, _) -> byName[name])
            let dense dtype parts = Weights.fill dtype Device.Cpu read parts

            match
                found
                |> List.map (fun stored -> (tryBlocks config stored).IsSome, dtypeOf stored)
                |> List.distinct
            with
            | [ false, dtype ] -> Weight.ofTensor (dense dtype parts)
            | _ -> {
                Rows = [
                    for part, stored in List.zip parts found do
                        match tryBlocks config stored with
                        | Some blocks -> blockRows (map blocks) report stored blocks
                        | None -> WeightRows.Dense(dense (dtypeOf stored) [ part ])
                ]
              })
