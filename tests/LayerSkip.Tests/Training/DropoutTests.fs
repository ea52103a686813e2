module LayerSkip.Tests.DropoutTests

open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Tests.Tiny

Backend.ensure ()

let private rate p : LayerDropout = {
    Rate = fun _ _ -> p
    Seed = 5L
}

let private start: BatchPlace = { Step = 0; First = 0 }

/// Hidden states [samples; 3; 16] after all layers of a model under a wrapper.
let private hiddenUnder (wrap: LayerWrapper) (samples: int) (model: Model) : float[] =
    use weights = Tiny.weights Dtype.F64 model
    let weights = Weights.withoutKernels weights

    Scope.free (fun () ->
        let ids =
            Tensors.ofIds [| int64 samples; 3L |] (Array.init (3 * samples) (fun i -> (7 * i + 1) % 24))
        let rope = Rope.table model.Config 3 torch.ScalarType.Float64 torch.CPU

        Decoder.embed weights ids
        |> Decoder.runLayers wrap KvStore.none rope weights 0 model.Config.Layers 0
        |> Tensors.toFloats)

/// The embeddings alone.
let private embedded samples (model: Model) = hiddenUnder (fun _ _ x -> x.alias ()) samples model

let private deviations (p: float) (count: int) (hits: int) =
    abs (float hits - p * float count) / sqrt (float count * p * (1.0 - p))

let private drops dropout steps layers samples = [|
    for step in 0 .. steps - 1 do
        for layer in 0 .. layers - 1 do
            for sample in 0 .. samples - 1 do
                not (LayerDropout.keeps dropout step layer sample)
|]

let private hits (draws: bool[]) = draws |> Array.filter id |> Array.length

[<Tests>]
let tests =
    testSequenced
    <| testList "dropout" [
        testPropertyWithConfig (settings 20) "p = 0 is no dropout, bit for bit"
        <| fun (model: Model) ->
            let plain = hiddenUnder Decoder.plain 4 model
            Expect.equal
                (hiddenUnder (LayerDropout.wrap (rate 0.0) start) 4 model)
                plain
                "the same hidden states"

        testPropertyWithConfig (settings 20) "p = 1 skips every block"
        <| fun (model: Model) ->
            let wrap index (_: Layer) =
                LayerDropout.wrap (rate 1.0) start index (fun _ -> failtest "the block was run")

            Expect.equal (hiddenUnder wrap 4 model) (embedded 4 model) "the embeddings"

        testProperty "the block sees the kept samples alone, and the others come back unchanged"
        <| fun (PositiveInt samples) (NonNegativeInt step) ->
            let samples = 1 + samples % 12
            let place = { Step = step; First = 3 }
            let dropout = rate 0.5

            Scope.free (fun () ->
                let x = Tensors.ofFloats [| int64 samples; 2L; 3L |] (Array.init (6 * samples) float)
                let seen = ref 0L

                let block (kept: Tensor) =
                    seen.Value <- kept.shape[0]
                    kept * kept

                let seenBefore = Tensors.toFloats x
                let out = LayerDropout.wrap dropout place 1 block x
                let kept = LayerDropout.kept dropout place 1 samples
                Expect.equal (Tensors.toFloats x) seenBefore "the input is left alone"
                Expect.equal seen.Value (int64 kept.Length) "rows that were computed"
                Expect.equal out.shape x.shape "the shape"

                for row in 0 .. samples - 1 do
                    let values = Tensors.toFloats (out.select (0L, int64 row))
                    let before = Array.init 6 (fun i -> float (6 * row + i))
                    let expected =
                        if Array.contains row kept then
                            Array.map (fun v -> v * v) before
                        else
                            before
                    Expect.equal values expected $"sample {row}")

        testCase "a dropped sample's gradient goes past the block, a kept one's through it" (fun () ->
            use _scope = torch.NewDisposeScope()
            let dropout = rate 0.5
            let kept = LayerDropout.kept dropout start 0 8
            Expect.isTrue (0 < kept.Length && kept.Length < 8) "some of each"
            let x = (Tensors.ofFloats [| 8L; 1L; 1L |] (Array.create 8 1.0)).requires_grad_ true
            let out = LayerDropout.wrap dropout start 0 (fun t -> t * 3.0) x
            out.sum().backward()
            let expected = Array.init 8 (fun row -> if Array.contains row kept then 3.0 else 1.0)
            Expect.equal (Tensors.toFloats x.grad) expected "gradients")

        testCase "the share of dropped samples is p within 4 sigma" (fun () ->
            for p in [ 0.02; 0.1; 0.2; 0.5; 0.9 ] do
                for seed in [ 0L; 1L; -7L ] do
                    let draws = drops { rate p with Seed = seed } 40 32 16
                    let sigma = deviations p draws.Length (hits draws)
                    Expect.isLessThan sigma 4.0 $"p = {p}, seed {seed}")

        testCase
            "draws of neighbouring samples, layers, steps and seeds know nothing of each other"
            (fun () ->
                let p, count = 0.3, 20000
                let dropped seed step layer sample =
                    not (LayerDropout.keeps { rate p with Seed = seed } step layer sample)

                let pairs = [
                    "samples", (fun i -> dropped 1L 0 0 (2 * i), dropped 1L 0 0 (2 * i + 1))
                    "layers", (fun i -> dropped 1L i 0 0, dropped 1L i 1 0)
                    "steps", (fun i -> dropped 1L (2 * i) 3 0, dropped 1L (2 * i + 1) 3 0)
                    "seeds", (fun i -> dropped (int64 (2 * i)) 1 1 0, dropped (int64 (2 * i + 1)) 1 1 0)
                    "step and layer", (fun i -> dropped 1L i (i + 1) 0, dropped 1L (i + 1) i 0)
                ]

                for name, pair in pairs do
                    let both = Array.init count (fun i -> let a, b = pair i in a && b) |> hits
                    Expect.isLessThan (deviations (p * p) count both) 4.0 name)

        testCase "each layer and step drops at its own rate: peak D(l) S(t)" (fun () ->
            let dropout =
                LayerDropout.tryCreate 3L 0.5 (Schedule.exponential 8) (Schedule.exponential 101)
                |> Check.getOrRaise

            Expect.isLessThan (abs (dropout.Rate 50 4 - 0.5 * 0.485994 * 0.414214)) 1e-6 "p(50, 4)")

        testCase "rates outside 0 to 1 are errors" (fun () ->
            for peak in [ -0.1; 1.1; nan ] do
                match LayerDropout.tryCreate 0L peak (Schedule.constant 1.0) (Schedule.constant 1.0) with
                | Ok _ -> failtest $"{peak} was taken"
                | Error faults -> Expect.stringContains (LayerSkipError.summary faults) "0 to 1" "the range")

        testPropertyWithConfig (settings 20) "a step replays bit for bit, and the next one differs"
        <| fun (model: Model) ->
            let under place = hiddenUnder (LayerDropout.wrap (rate 0.5) place) 16 model
            let place = { Step = 12; First = 32 }
            Expect.equal (under place) (under place) "the same step again"
            Expect.notEqual (under place) (under { place with Step = 13 }) "another step"
            Expect.notEqual (under place) (under { place with First = 48 }) "other samples"

        testProperty "how a step's samples are split into batches changes no draw"
        <| fun (NonNegativeInt step) (NonNegativeInt layer) (PositiveInt size) ->
            let size = 1 + size % 7
            let kept first count = LayerDropout.kept (rate 0.5) { Step = step; First = first } layer count

            let parts =
                [| 0..4 |]
                |> Array.collect (fun i -> kept (i * size) size |> Array.map (fun row -> row + i * size))

            Expect.equal parts (kept 0 (5 * size)) "the same samples"

        testCase "no tensor is left behind" (fun () ->
            let model = { Config = Tiny.config 24 4 2 1 true; Seed = 3L }
            let pass step =
                hiddenUnder (LayerDropout.wrap (rate 0.5) { Step = step; First = 0 }) 5 model |> ignore
            pass 0
            let before = TensorSupport.liveTensors ()

            for step in 1..20 do
                pass step

            Expect.equal torch.Tensor.TotalCount before "live tensors")
    ]
