namespace LayerSkip

open TorchSharp

/// The hidden states of the layers that are asked for, [batch; rows; hidden] each, and the way back from gradients of
/// them to those of the weights.
[<NoEquality; NoComparison>]
type internal Trunk = { Outputs: Tensor option[]; Backward: Tensor option[] -> unit }

/// The layers under a loss that reads several of them, with or without their activations kept.
[<RequireQualifiedAccess>]
module internal Trunk =
    /// Runs as many layers as are needed, and holds on to what leaves the layers that are asked for.
    let outputs rope weights (wrap: LayerWrapper) (asked: bool[]) (hidden: Tensor) : Tensor option[] =
        let kept = Array.create asked.Length None

        let tap: LayerWrapper =
            fun index layer x ->
                let out = wrap index layer x

                if asked[index] then
                    kept[index] <- Some(out.alias().MoveToOuterDisposeScope())

                out

        let count = 1 + Array.findIndexBack id asked
        Decoder.runLayers tap KvStore.none rope weights 0 count 0 hidden |> ignore
        kept

    /// Adds the gradients that reach the weights from those of some tensors.
    let runBack (tensors: (Tensor * Tensor) list) =
        match tensors |> List.filter (fun (tensor, _) -> tensor.requires_grad) with
        | [] -> ()
        | tensors ->
            let roots, gradients = List.unzip tensors
            torch.autograd.backward (Array.ofList roots, Array.ofList gradients)

    /// Keeps every activation.
    let kept rope weights wrap asked ids : Trunk =
        let outputs = Decoder.embed weights ids |> outputs rope weights wrap asked

        {
            Outputs = outputs
            Backward =
                fun gradients ->
                    Seq.map2 (Option.map2 (fun out gradient -> out, gradient)) outputs gradients
                    |> Seq.choose id
                    |> List.ofSeq
                    |> runBack
        }

    /// Keeps what enters each layer, and runs one layer at a time again on the way back.
    let recomputed rope weights wrap (asked: bool[]) ids : Trunk =
        let entering =
            use _noGrad = Scope.noGrad ()
            let hidden = Decoder.embed weights ids
            let upTo = Array.findIndexBack id asked
            let all = asked |> Array.mapi (fun layer _ -> layer <= upTo)
            Array.append [| Some hidden |] (outputs rope weights wrap all hidden)

        // The gradient of what enters a layer, from that of what leaves it.
        let back (gradients: Tensor option[]) (layer: int) (leaving: Tensor option) =
            use _freed = leaving |> Option.toObj

            Scope.keep (Option.toList >> Seq.ofList) (fun () ->
                let total =
                    match leaving, gradients[layer] with
                    | Some a, Some b -> Some(Scalars.plus a b)
                    | a, b -> Option.orElse b a

                total
                |> Option.bind (fun total ->
                    let x = entering[layer].Value.detach().requires_grad_ true
                    runBack [ Decoder.runLayers wrap KvStore.none rope weights layer 1 0 x, total ]
                    Option.ofObj x.grad))

        {
            Outputs = entering[1..]
            Backward =
                fun gradients ->
                    List.foldBack (back gradients) [ 0 .. asked.Length - 1 ] None
                    |> Option.iter (fun gradient -> runBack [ Decoder.embed weights ids, gradient ])
        }
