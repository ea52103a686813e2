/// The early-exit loss written out plainly, over one graph, and what its tests have in common.
module LayerSkip.Tests.LossSupport

open System
open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Tests.Tiny

Backend.ensure ()

let rows = 7

/// Texts of random ids, some of whose labels are ignored.
let batchOf (seed: int) (texts: int) : Batch =
    let random = Random seed
    let ids = Array.init texts (fun _ -> Array.init rows (fun _ -> random.Next 24))
    let label id = if random.Next 4 = 0 then Batch.ignored else id
    { Ids = ids; Labels = ids |> Array.map (Array.map label); Padding = 0 }

let dropout p : LayerDropout = {
    Rate = fun _ layer -> if layer % 2 = 0 then p else p / 2.0
    Seed = 9L
}

let wrapAt first = LayerDropout.wrap (dropout 0.4) { Step = 2; First = first }

let sharesOf layers eScale =
    let scale layer = if layer < layers - 1 then eScale else 1.0
    let weights = Array.init layers (fun layer -> scale layer * sqrt (float (layer + 1)))
    (ExitShares.tryCreate layers Curriculum.all (ExitScale.own weights) |> Check.getOrRaise) 0

let distilled = { LossOptions.standard with Targets = { Labels = 0.7; LastLayer = 1.5 } }

let parameters weights = Weights.tensors weights

/// A float64 model whose weights learn, and the table of its positions; it is freed after `body`.
let learning (model: Model) (body: Rope -> Weights -> 'T) : 'T =
    use weights = Tiny.weights Dtype.F64 model
    use _scope = torch.NewDisposeScope()

    for tensor in parameters weights do
        tensor.requires_grad_ true |> ignore

    body (Rope.table model.Config rows torch.ScalarType.Float64 torch.CPU) weights

let gradients (weights: Weights) : float[][] = parameters weights |> Array.map gradientOf

/// A loss's sums and gradients, with a model of its own.
let run options (model: Model) shares wrap scale batch =
    learning model (fun rope weights ->
        let sums = EarlyExitLoss.backward options rope weights shares wrap scale batch
        sums, gradients weights)

/// The same by one graph over every exit's logits, as the equations are written.
let plainly
    (options: LossOptions)
    (model: Model)
    (shares: float[])
    (wrap: LayerWrapper)
    (scale: float)
    (batch: Batch)
    =
    learning model (fun rope weights ->
        use _scope = torch.NewDisposeScope()
        let weights = Weights.withoutKernels weights
        let size = [| int64 batch.Ids.Length; int64 rows |]
        let last = shares.Length - 1
        let hidden: Tensor[] = Array.zeroCreate shares.Length

        let tap: LayerWrapper =
            fun index layer x ->
                let out = wrap index layer x
                hidden[index] <- out.alias().DetachFromDisposeScope()
                out

        Tensors.ofIds size (Array.concat batch.Ids)
        |> Decoder.embed weights
        |> Decoder.runLayers tap KvStore.none rope weights 0 shares.Length 0
        |> ignore

        let shifted = (Tensors.ofIds size (Array.concat batch.Labels)).narrow(1L, 1L, int64 rows - 1L)
        let labels = shifted.reshape -1L
        let learns = labels.ne(torch.tensor -100L).to_type torch.ScalarType.Float64

        let logits =
            hidden
            |> Array.map (fun hidden ->
                (SharedHead.logits weights (hidden.narrow (1L, 0L, int64 rows - 1L))).reshape(-1L, 24L))

        let law (logits: Tensor) = torch.nn.functional.log_softmax (logits, 1L)

        let losses =
            logits
            |> Array.mapi (fun layer logits' ->
                let entropy =
                    torch.nn.functional.cross_entropy (logits', labels, reduction = torch.nn.Reduction.Sum)

                let teacher = (law logits[last]).detach()
                let surprise = (teacher.exp () * (teacher - law logits')).sum(1L)
                let divergence = (surprise * learns).sum()
                let labels, lastLayer =
                    if layer = last then
                        1.0, 0.0
                    else
                        options.Targets.Labels, options.Targets.LastLayer

                (entropy * labels + divergence * lastLayer) * shares[layer])

        let total = Array.reduce (fun (a: Tensor) b -> a + b) losses
        (total * scale).backward()

        for tensor in hidden do
            tensor.Dispose()

        (Tensors.toFloats (total.detach ()))[0], gradients weights)

let closeTo tolerance (what: string) (expected: float[][]) (found: float[][]) =
    Expect.equal (Array.map Array.length found) (Array.map Array.length expected) "the same tensors"
    let largest = expected |> Seq.collect id |> Seq.map abs |> Seq.fold max 1.0

    for index in 0 .. expected.Length - 1 do
        for a, b in Array.zip expected[index] found[index] do
            Expect.isLessThan
                (abs (a - b))
                (tolerance * largest)
                $"{what}, tensor {index}: {b} instead of {a}"

let near tolerance what (expected: float) (found: float) =
    Expect.isLessThan
        (abs (expected - found))
        (tolerance * max 1.0 (abs expected))
        $"{what}: {found} for {expected}"

/// The objective alone, with some weights moved along a direction.
let movedBy
    options
    rope
    (weights: Weights)
    shares
    wrap
    batch
    (tensor: Tensor)
    (direction: Tensor)
    (h: float)
    =
    use _noGrad = torch.no_grad ()
    use _scope = torch.NewDisposeScope()
    let before = tensor.clone ()
    tensor.copy_ (tensor + direction * h) |> ignore
    let sums = EarlyExitLoss.measure options rope weights shares wrap batch
    tensor.copy_ before |> ignore
    sums.Objective
