namespace LayerSkip

open System
open TorchSharp

/// What early exits learn from, each part times its weight. The last layer learns from the labels.
type ExitTargets = {
    /// Cross entropy to the labels.
    Labels: float
    /// KL divergence from the last layer, which this does not pull: self-distillation.
    LastLayer: float
}

type LossOptions = {
    Targets: ExitTargets
    /// How many positions' logits are in memory at once.
    RowsAtOnce: int
    /// Keep only what enters each layer, and run it once more for its gradients (activation checkpointing).
    Recompute: bool
}

[<RequireQualifiedAccess>]
module LossOptions =
    /// The paper's: labels alone.
    let standard: LossOptions = {
        Targets = { Labels = 1.0; LastLayer = 0.0 }
        RowsAtOnce = 1024
        Recompute = false
    }

    /// A CPU's caches want few rows, a GPU many: as many as make logits of half a gigabyte in float32.
    let internal rowsAtOnce (device: Device) (vocabulary: int) : int =
        match device with
        | Device.Cpu -> standard.RowsAtOnce
        | Device.Cuda -> max standard.RowsAtOnce ((1 <<< 27) / vocabulary)

/// J = sum over layers l of e~(t, l) CE(g(x_{l+1}), Y), with one norm and head g for every exit (LayerSkip, equation 5).
///
/// Exits are computed one after another. Each runs back at once, through the head into the gradient of its own hidden
/// states, so that the logits of one exit are in memory, never those of all; then the layers run back once.
[<RequireQualifiedAccess>]
module EarlyExitLoss =
    let private idsOf (batch: Batch) =
        Tensors.ofIds [| int64 batch.Ids.Length; int64 batch.Ids[0].Length |] (Array.concat batch.Ids)

    /// Whether the last layer teaches an early one.
    let private teaches (options: LossOptions) (shares: float[]) =
        options.Targets.LastLayer <> 0.0
        && Array.exists (fun share -> share > 0.0) shares[.. shares.Length - 2]

    let private targetsOf (options: LossOptions) last layer =
        if layer = last then
            { Labels = 1.0; LastLayer = 0.0 }
        else
            options.Targets

    /// Log-probabilities at some rows of hidden states [batch; rows; hidden], [row; vocabulary], in float32 at least.
    let private logProbabilities weights (rows: Tensor) (hidden: Tensor) =
        Scope.one (fun () ->
            let logits = hidden.reshape(-1L, hidden.shape[2]).index_select(0L, rows) |> Model.head weights

            let wide =
                match logits.dtype with
                | torch.ScalarType.Float16
                | torch.ScalarType.BFloat16 -> torch.ScalarType.Float32
                | dtype -> dtype

            torch.special.log_softmax (logits, -1L, Nullable wide))

    /// The sums of every exit; their gradients, times `scale`, go into the hidden states and the head's weights.
    let private score
        (options: LossOptions)
        (weights: Weights)
        (shares: float[])
        scale
        (hidden: Tensor option[])
        (batch: Batch)
        : LossSums =
        let last = shares.Length - 1
        let device = weights.Embedding.device

        // Each layer's cross entropy and divergence, [2; layers]: they stay on the device, which a read would stop for.
        use _scope = torch.NewDisposeScope()
        let totals = torch.zeros (2L, int64 shares.Length, torch.ScalarType.Float64, device)
        let entropy, divergence = 0L, 1L

        // Adds one exit's sums over some rows, learns from them, and returns its log-probabilities.
        let learn rows labels (teacher: Tensor option) layer =
            Scope.one (fun () ->
                let law = logProbabilities weights rows hidden[layer].Value

                let take row weight (sum: Tensor) =
                    totals.select(0L, row).select(0L, int64 layer)
                    |> Scalars.addInPlace (sum.detach().``to`` torch.ScalarType.Float64)
                    |> ignore

                    sum, scale * shares[layer] * weight

                let targets = targetsOf options last layer
                let sum = torch.nn.Reduction.Sum

                [
                    torch.nn.functional.nll_loss (law, labels, reduction = sum)
                    |> take entropy targets.Labels

                    match teacher with
                    | Some teacher ->
                        torch.nn.functional.kl_div (law, teacher, true, sum)
                        |> take divergence targets.LastLayer
                    | None -> ()
                ]
                |> List.filter (fun (_, weight) -> weight <> 0.0)
                |> List.map (fun (sum, weight) ->
                    // A Scalar would have to live as long as the process, and these are never the same.
                    let seed = Tensors.ofFloats [||] [| weight |]
                    sum, seed.``to`` (sum.dtype, sum.device))
                |> Trunk.runBack

                law.detach ())

        let early = [ 0 .. last - 1 ] |> List.filter (fun layer -> shares[layer] > 0.0)
        let lessons = Batch.lessons batch

        for part in Array.chunkBySize options.RowsAtOnce lessons do
            use _scope = torch.NewDisposeScope()
            let onDevice (ids: int[]) = (Tensors.ofIds [| int64 ids.Length |] ids).``to`` device
            let rows, labels = Array.unzip part
            let rows, labels = onDevice rows, onDevice labels

            let teacher =
                if hidden[last].IsNone then
                    None
                else
                    let law = learn rows labels None last

                    if teaches options shares then
                        Some law
                    else
                        law.Dispose()
                        None

            for layer in early do
                (learn rows labels teacher layer).Dispose()

        let entropies, divergences = Tensors.toFloats totals |> Array.splitAt shares.Length

        let objective =
            Seq.sum (
                seq {
                    for layer in 0..last do
                        let targets = targetsOf options last layer

                        shares[layer]
                        * (targets.Labels * entropies[layer] + targets.LastLayer * divergences[layer])
                }
            )

        {
            Tokens = lessons.Length
            Objective = objective
            CrossEntropy = entropies
            Divergence = divergences
        }

    let private check (weights: Weights) (shares: float[]) =
        if shares.Length <> weights.Config.Layers then
            invalidArg (nameof shares) $"{shares.Length} shares for a model of {weights.Config.Layers} layers"

        if not (Array.exists (fun share -> share > 0.0) shares) then
            invalidArg (nameof shares) "no layer has a share of the loss"

    let private askedFor options (shares: float[]) =
        let last = shares.Length - 1

        shares
        |> Array.mapi (fun layer share -> share > 0.0 || (layer = last && teaches options shares))

    /// Adds the gradients of `scale` times the batch's objective to those of the weights, and returns its sums.
    /// `shares` are e~ of the step; `wrap` is its layer dropout, or `Model.plain`. With `scale` 1 over all tokens of a
    /// step's batches the gradient is that of the step's mean. The weights need `requires_grad`.
    let backward
        (options: LossOptions)
        (rope: Rope)
        (weights: Weights)
        (shares: float[])
        (wrap: LayerWrapper)
        (scale: float)
        (batch: Batch)
        : LossSums =
        check weights shares
        use _scope = torch.NewDisposeScope()
        use _grad = torch.enable_grad ()
        let weights = Weights.withoutKernels weights
        let asked, ids = askedFor options shares, idsOf batch

        let trunk =
            if options.Recompute then
                Trunk.recomputed rope weights wrap asked ids
            else
                Trunk.kept rope weights wrap asked ids

        let leaves =
            trunk.Outputs
            |> Array.mapi (fun layer out ->
                if asked[layer] then
                    out |> Option.map (fun out -> out.detach().requires_grad_ true)
                else
                    None)

        let sums = score options weights shares scale leaves batch
        leaves |> Array.map (Option.bind (fun leaf -> Option.ofObj leaf.grad)) |> trunk.Backward
        sums

    /// The same sums without gradients.
    let measure
        (options: LossOptions)
        (rope: Rope)
        (weights: Weights)
        (shares: float[])
        (wrap: LayerWrapper)
        (batch: Batch)
        : LossSums =
        check weights shares

        Scope.run (fun () ->
            let weights = Weights.withoutKernels weights
            let hidden = idsOf batch |> Model.embed weights
            let outputs = Trunk.outputs rope weights wrap (askedFor options shares) hidden
            score options weights shares 0.0 outputs batch)
