namespace LayerSkip

open System.IO
open TorchSharp

/// The optimiser's moments as a checkpoint has them: PyTorch's names for them, before the names of the tensors that they belong to.
[<RequireQualifiedAccess>]
module internal Moments =
    let file = "optimizer.safetensors"

    /// `namedLike` gives tensors of the trained ones' order their names.
    let private named
        (namedLike: Tensor[] -> (string * Tensor) list)
        (state: AdamWState)
        : (string * Tensor) list = [
        for kind, tensors in [ "exp_avg", state.First; "exp_avg_sq", state.Second ] do
            for name, moment in namedLike tensors -> $"{kind}.{name}", moment
    ]

    /// Writes them into a checkpoint's folder.
    let write (folder: string) namedLike (state: AdamWState) : Result<unit, LayerSkipError list> =
        named namedLike state
        |> TensorWriter.safetensors (Path.Combine(folder, file)) (Map [ "format", "pt" ])

    /// Reads them into those of `state`, with the updates that each tensor had; `owners` is whose they are, for people.
    let read (folder: string) namedLike (owners: string) (updates: int list) (state: AdamWState) =
        let path = Path.Combine(folder, file)

        Safetensors.openFile path
        |> Result.bind (fun stored ->
            use stored = stored
            use _inference = Scope.inference ()
            let byName = stored.Tensors |> List.map (fun tensor -> tensor.Name, tensor) |> Map.ofList

            let faults = [
                for name, destination in named namedLike state do
                    match Map.tryFind name byName with
                    | Some tensor when tensor.Shape = destination.shape ->
                        use source = Tensors.ofStored tensor
                        destination.copy_ source |> ignore
                    | Some tensor ->
                        let expected, found = List.ofArray destination.shape, List.ofArray tensor.Shape
                        LayerSkipError.WrongShape(name, expected, found)
                    | None -> LayerSkipError.MissingTensor name

                if updates.Length <> state.Updates.Length then
                    LayerSkipError.BadFile(folder, $"counts the updates of other {owners}")
            ]

            match faults with
            | [] -> Ok { state with Updates = Array.ofList updates }
            | faults -> Error [ LayerSkipError.InWeights(path, faults) ])
