namespace LayerSkip

/// The final norm and the LM head, which every exit shares: LayerSkip trains no head of an exit's own (section 4.1.2).
[<RequireQualifiedAccess>]
module SharedHead =
    /// The norm, and a matrix in the head's place, through libtorch: hidden states [..; hidden] -> [..; its rows].
    let internal over (head: Weight) (weights: Weights) (hidden: Tensor) : Tensor =
        Scope.one (fun () ->
            Ops.rmsNorm weights.Norm.Tensor weights.Config.NormEps hidden
            |> Weights.linear weights head None)

    /// Hidden states [..; hidden] after any layer -> logits [..; vocabulary].
    let logits (weights: Weights) (hidden: Tensor) : Tensor =
        match weights.Kernels with
        | Some kernels when CpuKernels.readsHidden kernels hidden -> CpuKernels.head kernels hidden
        | _ -> over weights.Head weights hidden
