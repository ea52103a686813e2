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

/// What the loss is of, and how it is computed, which changes the last bits of its sums alone.
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

/// J(X, Y, t) = sum over layers l of e~(t, l) CE(g(x_{l+1}), Y), with one norm and head g for every exit (LayerSkip,
/// equation 5): the loss of layer l is that of its output. CE is the mean over the positions that learn.
///
/// Each exit runs back at once, through the head into the gradient of its own hidden states; then the layers run back
/// once.
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

    /// What an exit says at some rows of its hidden states [batch; rows; hidden]: log-probabilities [row; vocabulary], in
    /// float32 at least.
    let private lawOf weights (rows: Tensor) (hidden: Tensor) : Tensor =
        Scope.one (fun () ->
            let logits =
                hidden.reshape(-1L, hidden.shape[2]).index_select(0L, rows) |> SharedHead.logits weights

            let wide =
                match logits.dtype with
                | torch.ScalarType.Float16
                | torch.ScalarType.BFloat16 -> torch.ScalarType.Float32
                | dtype -> dtype

            torch.special.log_softmax (logits, -1L, Nullable wide))

    /// Cross entropy of a law [row; vocabulary] to labels [row], summed over rows, in nats.
    let private crossEntropy (labels: Tensor) (law: Tensor) : Tensor =
        torch.nn.functional.nll_loss (law, labels, reduction = torch.nn.Reduction.Sum)

    /// KL divergence of a law from a teacher's, [row; vocabulary] both, summed over rows, in nats.
    let private divergence (teacher: Tensor) (law: Tensor) : Tensor =
        torch.nn.functional.kl_div (law, teacher, true, torch.nn.Reduction.Sum)

    /// Adds the gradients of some sums, each times its weight.
    let private runBack (sums: (float * Tensor) list) : unit =
        sums
        |> List.filter (fun (weight, _) -> weight <> 0.0)
        |> List.map (fun (weight, sum) ->
            // A Scalar would have to live as long as the process, and these are never the same.
            let seed = Tensors.ofFloats [||] [| weight |]
            sum, seed.``to`` (sum.dtype, sum.device))
        |> Trunk.runBack

    /// Positions that learn, and what.
    [<NoEquality; NoComparison>]
    type private Lessons = { Rows: Tensor; Labels: Tensor }

    /// One exit learns, its gradients times `weight`: the sums of its cross entropy and divergence, [2] in float64, which
    /// stay on the device, as a read would stop for it; and its law, which may teach.
    let private learn weights (targets: ExitTargets) weight lessons (teacher: Tensor option) hidden =
        Scope.keep (fun (sums: Tensor, law: Tensor) -> [ sums; law ]) (fun () ->
            let law = lawOf weights lessons.Rows hidden
            let entropy = crossEntropy lessons.Labels law
            let divergence = teacher |> Option.map (fun teacher -> divergence teacher law)

            runBack [
                weight * targets.Labels, entropy
                yield! divergence |> Option.map (fun sum -> weight * targets.LastLayer, sum) |> Option.toList
            ]

            let sums = [|
                entropy
                Option.defaultWith (fun () -> torch.zeros_like entropy) divergence
            |]
            torch.stack(sums).detach().``to`` torch.ScalarType.Float64, law.detach ())

    /// Every exit learns, one after another, so that the logits of one are in memory; the last is first, for it may teach.
    /// Their sums, [layers; 2].
    let private learnAll
        options
        (weights: Weights)
        (shares: float[])
        scale
        (hidden: Tensor option[])
        lessons
        =
        let last = shares.Length - 1
        let off = torch.zeros (2L, torch.ScalarType.Float64, Weights.torchDevice weights.Device)

        let learn teacher layer =
            let targets, weight = targetsOf options last layer, scale * shares[layer]
            learn weights targets weight lessons teacher hidden[layer].Value

        let taught (teacher: Tensor option) layer =
            let sums, law = learn teacher layer
            law.Dispose()
            sums

        let ofLast, teacher =
            if hidden[last].IsNone then
                off, None
            elif teaches options shares then
                let sums, law = learn None last
                sums, Some law
            else
                taught None last, None

        let early = Array.init last (fun layer -> if shares[layer] > 0.0 then taught teacher layer else off)

        torch.stack (Array.append early [| ofLast |])

    /// The sums of every exit; their gradients, times `scale`, go into the hidden states and the head's weights.
    let private score options (weights: Weights) (shares: float[]) scale hidden (batch: Batch) : LossSums =
        use _scope = Scope.start ()
        let device = Weights.torchDevice weights.Device
        let onDevice (ids: int[]) = (Tensors.ofIds [| int64 ids.Length |] ids).``to`` device

        let addPart (total: Tensor) (part: (int * int)[]) =
            Scope.one (fun () ->
                let rows, labels = Array.unzip part
                let lessons = { Rows = onDevice rows; Labels = onDevice labels }
                learnAll options weights shares scale hidden lessons |> Scalars.plus total)

        let layers, lessons = shares.Length, Batch.lessons batch

        let sums =
            Array.chunkBySize options.RowsAtOnce lessons
            |> Array.fold addPart (torch.zeros (int64 layers, 2L, torch.ScalarType.Float64, device))
            |> Tensors.toFloats
            |> Array.chunkBySize 2

        let objective layer =
            let targets = targetsOf options (layers - 1) layer
            shares[layer] * (targets.Labels * sums[layer][0] + targets.LastLayer * sums[layer][1])

        {
            Tokens = lessons.Length
            Objective = List.sumBy objective [ 0 .. layers - 1 ]
            CrossEntropy = Array.map Array.head sums
            Divergence = Array.map Array.last sums
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
    /// `shares` are e~ of the step, one a layer; `wrap` is its layer dropout, or `Decoder.plain`; `rope` has the positions of
    /// the batch. With `scale` 1 over all tokens of a step's batches the gradient is that of the step's mean. The weights
    /// need `requires_grad`. Shares of another number of layers, or all 0, are an ArgumentException.
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
        use _scope = Scope.start ()
        use _grad = torch.enable_grad ()
        let weights = Weights.withoutKernels weights
        let asked, ids = askedFor options shares, idsOf batch

        let trunk =
            if options.Recompute then
                Trunk.recomputed rope weights wrap asked ids
            else
                Trunk.kept rope weights wrap asked ids

        // The trunk may have run layers that nobody asked for.
        let leaf isAsked (out: Tensor option) =
            out |> Option.filter (fun _ -> isAsked) |> Option.map _.detach().requires_grad_(true)

        let leaves = Array.map2 leaf asked trunk.Outputs

        let sums = score options weights shares scale leaves batch
        leaves |> Array.map (Option.bind (fun leaf -> Option.ofObj leaf.grad)) |> trunk.Backward
        sums

    /// The same sums as `backward`'s, without gradients.
    let measure
        (options: LossOptions)
        (rope: Rope)
        (weights: Weights)
        (shares: float[])
        (wrap: LayerWrapper)
        (batch: Batch)
        : LossSums =
        check weights shares

        use _inference = Scope.inference ()
        let weights = Weights.withoutKernels weights
        let hidden = idsOf batch |> Decoder.embed weights
        let outputs = Trunk.outputs rope weights wrap (askedFor options shares) hidden
        score options weights shares 0.0 outputs batch
