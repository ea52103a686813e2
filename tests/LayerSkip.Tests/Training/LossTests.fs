module LayerSkip.Tests.LossTests

open System
open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Tests.Tiny
open LayerSkip.Tests.LossSupport

[<Tests>]
let tests =
    testSequenced
    <| testList "loss" [
        testPropertyWithConfig (settings 6) "its gradient is that of finite differences, with dropout on"
        <| fun (model: Model) (seed: int) ->
            let batch, shares = batchOf seed 3, sharesOf model.Config.Layers 0.5
            let wrap = wrapAt 0

            learning model (fun rope weights ->
                let options = { LossOptions.standard with RowsAtOnce = 5 }
                EarlyExitLoss.backward options rope weights shares wrap 1.0 batch |> ignore

                for index, tensor in Array.indexed (parameters weights) do
                    use generator = new torch.Generator(uint64 index)
                    let noise = torch.randn (tensor.shape, torch.ScalarType.Float64, generator = generator)
                    let direction = noise / noise.norm ()
                    let moved = movedBy options rope weights shares wrap batch tensor direction

                    let slope =
                        if isNull tensor.grad then
                            0.0
                        else
                            (Tensors.toFloats ((tensor.grad * direction).sum()))[0]

                    near 1e-7 $"weight {index}" ((moved 1e-5 - moved -1e-5) / 2e-5) slope)

        testPropertyWithConfig (settings 25) "sums and gradients are those of one graph over all logits"
        <| fun (model: Model) (seed: int) (PositiveInt piece) ->
            let batch, shares = batchOf seed 3, sharesOf model.Config.Layers 0.3

            for options in
                [
                    LossOptions.standard
                    distilled
                    { distilled with Targets = { Labels = 0.0; LastLayer = 1.0 } }
                ] do
                let wrap = wrapAt seed
                let total, expected = plainly options model shares wrap 0.25 batch

                for recompute in [ false; true ] do
                    let options = { options with RowsAtOnce = 1 + piece % 20; Recompute = recompute }
                    let sums, found = run options model shares wrap 0.25 batch
                    near 1e-12 "objective" total sums.Objective
                    closeTo 1e-11 $"gradients, recompute {recompute}" expected found

        testPropertyWithConfig
            (settings 10)
            "what stands behind the last position that learns moves no loss and no gradient"
        <| fun (model: Model) (seed: int) ->
            let shares, last = sharesOf model.Config.Layers 0.3, 1 + abs (seed % (rows - 2))
            let drawn = batchOf seed 3

            let filledWith (id: int) =
                let upTo filler = Array.mapi (fun i value -> if i <= last then value else filler)

                {
                    Ids = drawn.Ids |> Array.map (upTo id)
                    // One at least learns.
                    Labels =
                        drawn.Labels
                        |> Array.mapi (fun text labels ->
                            labels
                            |> Array.mapi (fun i label -> if i = 1 then drawn.Ids[text][1] else label)
                            |> upTo Batch.ignored)
                    Padding = 0
                }

            let before, expected = run distilled model shares (wrapAt seed) 0.5 (filledWith 0)
            let after, found = run distilled model shares (wrapAt seed) 0.5 (filledWith 7)
            Expect.equal after.Tokens before.Tokens "as many"
            near 1e-12 "objective" before.Objective after.Objective
            closeTo 1e-12 "gradients" expected found

        testPropertyWithConfig (settings 15) "e_scale = 0 is plain cross entropy"
        <| fun (model: Model) (seed: int) ->
            let batch, layers = batchOf seed 3, model.Config.Layers
            let shares =
                (ExitShares.tryCreate layers Curriculum.all (ExitScale.paper 0.0) |> Check.getOrRaise) 0
            let sums, found =
                run LossOptions.standard model shares Decoder.plain (1.0 / float (Batch.tokens batch)) batch

            learning model (fun rope weights ->
                let size = [| 3L; int64 rows |]
                let weights = Weights.withoutKernels weights

                let logits =
                    Decoder.embed weights (Tensors.ofIds size (Array.concat batch.Ids))
                    |> Decoder.runLayers Decoder.plain KvStore.none rope weights 0 layers 0
                    |> SharedHead.logits weights

                let labels = (Tensors.ofIds size (Array.concat batch.Labels)).narrow(1L, 1L, int64 rows - 1L)

                let loss =
                    torch.nn.functional.cross_entropy (
                        logits.narrow(1L, 0L, int64 rows - 1L).reshape(-1L, 24L),
                        labels.reshape -1L
                    )

                loss.backward ()
                let mean = (Tensors.toFloats (loss.detach ()))[0]
                near 1e-12 "mean" mean (sums.Objective / float sums.Tokens)
                closeTo 1e-12 "gradients" (gradients weights) found)

        testPropertyWithConfig
            (settings 15)
            "products in bfloat16 leave sums and gradients what they are, in float32, to their rounding"
        <| fun (model: Model) (seed: int) ->
            let batch, shares = batchOf seed 3, sharesOf model.Config.Layers 0.3
            use weights = Tiny.weights Dtype.F32 model
            use _scope = torch.NewDisposeScope()
            let rope = Rope.table model.Config rows torch.ScalarType.Float32 torch.CPU

            let run products recompute =
                let leaves = weights |> Weights.mapTensors (fun t -> t.detach().clone().requires_grad_ true)

                let passes = products leaves
                let options = { distilled with RowsAtOnce = 5; Recompute = recompute }
                let sums = EarlyExitLoss.backward options rope passes shares (wrapAt seed) 0.25 batch
                let grads = Weights.tensors leaves |> Array.map (fun t -> Option.ofObj t.grad)

                for grad in Array.choose id grads do
                    Expect.equal grad.dtype torch.ScalarType.Float32 "gradients' dtype"

                sums, Weights.tensors leaves |> Array.collect gradientOf

            let length = Array.sumBy (fun slope -> slope * slope) >> sqrt
            let sums, expected = run id false

            for recompute in [ false; true ] do
                let sums', found = run (Weights.withProductsIn Dtype.BF16) recompute
                near 0.02 "objective" sums.Objective sums'.Objective
                let off = Array.map2 (-) expected found |> length
                Expect.isGreaterThan off 0.0 "it does round"
                // One in a hundred as a rule; heads of four normed numbers can make ten of it.
                Expect.isLessThan off (0.2 * length expected) "gradients"

        testCase "gradient reaches every weight of every block, the last included" (fun () ->
            let model = {
                Config = { Tiny.config 24 6 4 2 false with QkvBias = true; QkNorm = true }
                Seed = 8L
            }

            for shares in [ sharesOf 6 1.0; sharesOf 6 0.0 ] do
                for recompute in [ false; true ] do
                    let options = { LossOptions.standard with Recompute = recompute }
                    let _, found = run options model shares Decoder.plain 1.0 (batchOf 1 4)

                    for index, gradient in Array.indexed found do
                        // A key's bias moves all scores of a query alike, and does nothing; queries' and values' do.
                        Expect.exists gradient (fun slope -> abs slope > 1e-9) $"tensor {index}"

            // Without the last layer's loss nothing reaches the last block.
            let early =
                (ExitShares.tryCreate
                    6
                    { Curriculum.grouped 1 [ 2 ] with LastAlways = false }
                    (ExitScale.paper 1.0)
                 |> Check.getOrRaise)
                    0
            let _, found = run LossOptions.standard model early Decoder.plain 1.0 (batchOf 1 4)

            learning model (fun _ weights ->
                for layer in 0..5 do
                    let index =
                        parameters weights
                        |> Array.findIndex (fun t -> t.Handle = weights.Layers[layer].Down.Tensor.Handle)
                    let reached = Array.exists (fun slope -> slope <> 0.0) found[index]
                    Expect.equal reached (layer <= 2) $"layer {layer}"))

        testPropertyWithConfig
            (settings 10)
            "no dropout is p = 0 bit for bit, and p = 1 leaves the blocks without gradient"
        <| fun (model: Model) (seed: int) ->
            let batch, shares = batchOf seed 3, sharesOf model.Config.Layers 0.5
            let place = { Step = 1; First = 0 }
            let plain = run distilled model shares Decoder.plain 1.0 batch
            let never = run distilled model shares (LayerDropout.wrap (dropout 0.0) place) 1.0 batch
            Expect.equal never plain "p = 0"

            let always = LayerDropout.wrap { dropout 1.0 with Rate = fun _ _ -> 1.0 } place

            for recompute in [ false; true ] do
                learning model (fun rope weights ->
                    let options = { distilled with Recompute = recompute }
                    let sums = EarlyExitLoss.backward options rope weights shares always 1.0 batch

                    for layer in weights.Layers do
                        Expect.isTrue
                            (isNull layer.Qkv.Tensor.grad && isNull layer.Down.Tensor.grad)
                            "no block ran"

                    Expect.isFalse (isNull weights.Embedding.Tensor.grad) "the embedding learns"
                    Expect.all
                        sums.CrossEntropy
                        (fun sum -> abs (sum - sums.CrossEntropy[0]) < 1e-9)
                        "equal exits")

        testPropertyWithConfig (settings 10) "a step replays bit for bit"
        <| fun (model: Model) (seed: int) ->
            let batch, shares = batchOf seed 4, sharesOf model.Config.Layers 0.5
            let once () = run distilled model shares (wrapAt 4) 1.0 batch
            Expect.equal (once ()) (once ()) "the same sums and gradients"

        testPropertyWithConfig (settings 15) "micro-batches add up to the batch, in sums and gradients"
        <| fun (model: Model) (seed: int) ->
            let batch, shares = batchOf seed 5, sharesOf model.Config.Layers 0.5
            let scale = 1.0 / float (max 1 (Batch.tokens batch))
            let whole, expected = run distilled model shares (wrapAt 10) scale batch
            let part first count : Batch = {
                Ids = Array.sub batch.Ids first count
                Labels = Array.sub batch.Labels first count
                Padding = 0
            }

            learning model (fun rope weights ->
                let sums =
                    [ 0, 2; 2, 2; 4, 1 ]
                    |> List.map (fun (first, count) ->
                        part first count
                        |> EarlyExitLoss.backward distilled rope weights shares (wrapAt (10 + first)) scale)
                    |> List.fold LossSums.plus (LossSums.zero model.Config.Layers)

                Expect.equal sums.Tokens whole.Tokens "tokens"
                near 1e-12 "objective" whole.Objective sums.Objective
                closeTo 1e-11 "cross entropy" [| whole.CrossEntropy |] [| sums.CrossEntropy |]
                closeTo 1e-11 "divergence" [| whole.Divergence |] [| sums.Divergence |]
                closeTo 1e-11 "gradients" expected (gradients weights))

        testPropertyWithConfig (settings 10) "measuring gives the same sums, and no gradient"
        <| fun (model: Model) (seed: int) ->
            let batch, shares = batchOf seed 3, sharesOf model.Config.Layers 0.5
            let sums, _ = run distilled model shares (wrapAt 0) 1.0 batch

            learning model (fun rope weights ->
                Expect.equal
                    (EarlyExitLoss.measure distilled rope weights shares (wrapAt 0) batch)
                    sums
                    "sums"
                Expect.all (parameters weights) (fun tensor -> isNull tensor.grad) "no gradient")

        testCase "divergence is 0 at the last layer, and where an early law is the last one's" (fun () ->
            let model = { Config = Tiny.config 24 3 2 1 false; Seed = 2L }
            let skipLast index (layer: Layer) (x: Tensor) = if index = 2 then x.alias () else layer x
            let sums, _ = run distilled model (sharesOf 3 1.0) skipLast 1.0 (batchOf 3 3)
            Expect.isGreaterThan sums.Divergence[0] 1e-3 "layer 0 differs"
            near 1e-12 "layer 1" 0.0 sums.Divergence[1]
            Expect.equal sums.Divergence[2] 0.0 "the last"
            near 1e-12 "their cross entropies" sums.CrossEntropy[2] sums.CrossEntropy[1])

        testCase "a batch in which nothing learns has no tokens and no gradient" (fun () ->
            let model = { Config = Tiny.config 24 3 2 1 true; Seed = 2L }
            let batch = batchOf 1 2
            let nothing = {
                batch with
                    Labels = batch.Labels |> Array.map (Array.map (fun _ -> Batch.ignored))
            }
            let sums, found = run distilled model (sharesOf 3 1.0) Decoder.plain 1.0 nothing
            Expect.equal sums (LossSums.zero 3) "sums"
            Expect.all found (Array.forall ((=) 0.0)) "gradients")

        testCase "a float32 model learns too, with frozen weights left alone" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 24 4 2 1 false; Seed = 4L }
            use _scope = torch.NewDisposeScope()
            let rope = Rope.table weights.Config rows torch.ScalarType.Float32 torch.CPU

            for tensor in [ weights.Layers[2].Down.Tensor; weights.Layers[3].Qkv.Tensor ] do
                tensor.requires_grad_ true |> ignore

            for recompute in [ false; true ] do
                let options = { LossOptions.standard with Recompute = recompute }
                let sums =
                    EarlyExitLoss.backward
                        options
                        rope
                        weights
                        (sharesOf 4 1.0)
                        Decoder.plain
                        0.1
                        (batchOf 5 3)
                Expect.isGreaterThan sums.Objective 0.0 "a loss"

            Expect.isFalse
                (isNull weights.Layers[2].Down.Tensor.grad || isNull weights.Layers[3].Qkv.Tensor.grad)
                "these learn"
            Expect.isTrue
                (isNull weights.Head.Tensor.grad && isNull weights.Layers[0].Qkv.Tensor.grad)
                "these do not")

        testCase "shares that do not fit the model are a bug" (fun () ->
            let model = { Config = Tiny.config 24 3 2 1 true; Seed = 2L }

            for shares in [ [| 0.5; 0.5 |]; [| 0.0; 0.0; 0.0 |] ] do
                Expect.throwsT<ArgumentException>
                    (fun () -> run distilled model shares Decoder.plain 1.0 (batchOf 1 2) |> ignore)
                    "an exception")

        testCase "no tensor is left behind" (fun () ->
            let model = { Config = Tiny.config 24 4 2 1 true; Seed = 3L }

            learning model (fun rope weights ->
                let step recompute first =
                    let options = { distilled with Recompute = recompute; RowsAtOnce = 6 }
                    EarlyExitLoss.backward
                        options
                        rope
                        weights
                        (sharesOf 4 0.5)
                        (wrapAt first)
                        1.0
                        (batchOf 1 4)
                    |> ignore
                    EarlyExitLoss.measure options rope weights (sharesOf 4 0.5) (wrapAt first) (batchOf 1 4)
                    |> ignore

                step false 0
                step true 0
                let before = TensorSupport.liveTensors ()

                for first in 1..20 do
                    step (first % 2 = 0) first

                Expect.equal torch.Tensor.TotalCount before "live tensors"))
    ]
