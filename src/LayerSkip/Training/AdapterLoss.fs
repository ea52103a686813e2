namespace LayerSkip

open TorchSharp

/// How far an exit is from the whole model, as sums over positions: those of batches add up.
type ExitGap = {
    Positions: int
    /// KL(base || exit), in nats.
    Divergence: float
    /// Positions at which both have the same likeliest token: what greedy drafts are accepted by.
    Agreed: float
} with

    /// In nats a position; 0 of none.
    member this.MeanDivergence = this.Divergence / float (max 1 this.Positions)
    /// A share, 0 to 1.
    member this.Agreement = this.Agreed / float (max 1 this.Positions)

    /// Of no position.
    static member Zero: ExitGap = { Positions = 0; Divergence = 0.0; Agreed = 0.0 }

    /// Of both together.
    static member Plus (a: ExitGap) (b: ExitGap) : ExitGap = {
        Positions = a.Positions + b.Positions
        Divergence = a.Divergence + b.Divergence
        Agreed = a.Agreed + b.Agreed
    }

/// KL(base || adapted exit): the law of the base's last layer against what its head says of the adapter's states (Balcony's and
/// Kangaroo's lesson; arXiv 2503.05005, section 3). One pass of the base, without gradients, gives both ends; logits are in
/// memory for some positions at a time.
[<RequireQualifiedAccess>]
module AdapterLoss =
    let private wide (logits: Tensor) =
        match logits.dtype with
        | torch.ScalarType.Float64 -> logits
        | _ -> logits.``to`` torch.ScalarType.Float32

    /// Log-probabilities [rows; vocabulary] of hidden states [rows; hidden].
    let private law (weights: Weights) (hidden: Tensor) : Tensor =
        Scope.one (fun () -> torch.special.log_softmax (wide (SharedHead.logits weights hidden), -1L))

    /// What leaves the exit's layer, and the last: [texts; rows; hidden] each.
    let private ends rope (weights: Weights) (exit: int) (batch: Batch) : struct (Tensor * Tensor) =
        use _noGrad = Scope.noGrad ()
        let size = [| int64 batch.Ids.Length; int64 batch.Ids[0].Length |]
        let last = weights.Config.Layers - 1
        let asked = Array.init weights.Config.Layers (fun layer -> layer = exit - 1 || layer = last)
        let hidden = Decoder.embed weights (Tensors.ofIds size (Array.concat batch.Ids))
        let outputs = Trunk.outputs rope weights Decoder.plain asked hidden
        struct (outputs[exit - 1].Value, outputs[last].Value)

    /// The positions that count, in parts, as rows of [texts * rows; hidden].
    let private parts (rowsAtOnce: int) (weights: Weights) (batch: Batch) : Tensor[] =
        Batch.lessons batch
        |> Array.map fst
        |> Array.chunkBySize rowsAtOnce
        |> Array.map (fun rows ->
            (Tensors.ofIds [| int64 rows.Length |] rows).``to``(Weights.torchDevice weights.Device))

    let private rowsOf (rows: Tensor) (hidden: Tensor) =
        hidden.reshape(-1L, hidden.shape[2]).index_select(0L, rows)

    /// Adds the gradients of `scale` times the batch's divergence to those of the adapter's tensors, which need `requires_grad`; the
    /// divergence in nats, [1] in float64 on the device, so that nobody waits for it. Nothing reaches the base.
    let backward
        rowsAtOnce
        rope
        (weights: Weights)
        (adapter: Adapter)
        (scale: float)
        (batch: Batch)
        : Tensor =
        Scope.one (fun () ->
            let weights = Weights.withoutKernels weights
            let struct (entering, last) = ends rope weights adapter.Exit.Layers batch
            use _grad = torch.enable_grad ()
            let out = Adapter.run rope adapter entering
            // One that is only a norm has its input for output.
            let leaf = out.detach().requires_grad_ true

            let learn (rows: Tensor) =
                Scope.one (fun () ->
                    let teacher = using (Scope.noGrad ()) (fun _ -> law weights (rowsOf rows last))
                    let own = law adapter.Weights (rowsOf rows leaf)
                    let sum = torch.nn.functional.kl_div (own, teacher, true, torch.nn.Reduction.Sum)
                    let seed = (Tensors.ofFloats [||] [| scale |]).``to``(sum.dtype, sum.device)
                    Trunk.runBack [ sum, seed ]
                    sum.detach().``to`` torch.ScalarType.Float64)

            let sums = parts rowsAtOnce weights batch |> Array.map learn

            if sums.Length = 0 then
                torch.zeros ([||], torch.ScalarType.Float64, Weights.torchDevice weights.Device)
            else
                Trunk.runBack [ out, leaf.grad ]
                torch.stack(sums).sum())

    /// How far the exit is from the base over a batch, as it is (its own states under the base's norm) and through each adapter.
    let measure
        rowsAtOnce
        rope
        (weights: Weights)
        (exit: int)
        (adapters: Adapter list)
        (batch: Batch)
        : ExitGap list =
        use _inference = Scope.inference ()
        let weights = Weights.withoutKernels weights
        let struct (entering, last) = ends rope weights exit batch

        let exits =
            (weights, entering)
            :: [
                for adapter in adapters -> adapter.Weights, Adapter.run rope adapter entering
            ]

        let grade (rows: Tensor) =
            Scope.one (fun () ->
                let teacher = law weights (rowsOf rows last)
                let best = teacher.argmax -1L

                torch.stack [|
                    for weights, states in exits do
                        let own = law weights (rowsOf rows states)
                        let sum = torch.nn.functional.kl_div (own, teacher, true, torch.nn.Reduction.Sum)
                        sum.``to`` torch.ScalarType.Float64
                        own.argmax(-1L).eq(best).sum().``to`` torch.ScalarType.Float64
                |])

        let parts = parts rowsAtOnce weights batch
        let positions = parts |> Array.sumBy (fun rows -> int (rows.numel ()))

        let sums =
            if parts.Length = 0 then
                Array.zeroCreate (2 * exits.Length)
            else
                Tensors.toFloats (torch.stack(parts |> Array.map grade).sum 0L)

        [
            for pair in Array.chunkBySize 2 sums ->
                { Positions = positions; Divergence = pair[0]; Agreed = pair[1] }
        ]
