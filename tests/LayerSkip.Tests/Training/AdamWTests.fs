module LayerSkip.Tests.AdamWTests

open System
open Expecto
open FsCheck
open TorchSharp
open LayerSkip

Backend.ensure ()

let private optimiser =
    testList "AdamW" [
        testProperty "is the algorithm of the paper"
        <| fun (seed: int) (PositiveInt steps) ->
            let random = Random seed
            let steps = 1 + steps % 6
            let settings = { Beta1 = 0.8; Beta2 = 0.9; Epsilon = 1e-6; WeightDecay = 0.2 }
            let start = Array.init 6 (fun _ -> random.NextDouble())
            let gradients = Array.init steps (fun _ -> Array.init 6 (fun _ -> random.NextDouble() - 0.5))
            use _scope = torch.NewDisposeScope()
            let matrix, vector = Tensors.ofFloats [| 2L; 3L |] start, Tensors.ofFloats [| 6L |] start
            let mutable state = AdamW.start [| matrix; vector |]

            for g in gradients do
                let given = [| Some(Tensors.ofFloats [| 2L; 3L |] g); Some(Tensors.ofFloats [| 6L |] g) |]
                state <- AdamW.step settings 0.1 0.5 [| matrix; vector |] given state

            let expected decay =
                Array.init 6 (fun i ->
                    let mutable p, m, v = start[i], 0.0, 0.0

                    for t in 1..steps do
                        let g = 0.5 * gradients[t - 1][i]
                        p <- p - 0.1 * decay * p
                        m <- 0.8 * m + 0.2 * g
                        v <- 0.9 * v + 0.1 * g * g
                        let m', v' = m / (1.0 - 0.8 ** float t), v / (1.0 - 0.9 ** float t)
                        p <- p - 0.1 * m' / (sqrt v' + 1e-6)

                    p)

            let near (a: float[]) (b: float[]) = Array.forall2 (fun a b -> abs (a - b) < 1e-12) a b

            AdamWState.TensorsOf state |> Seq.iter _.Dispose()
            near (Tensors.toFloats matrix) (expected 0.2)
            && near (Tensors.toFloats vector) (expected 0.0)

        testCase "what has no gradient stays, and its moments with it" (fun () ->
            use _scope = torch.NewDisposeScope()
            let p = Tensors.ofFloats [| 1L; 2L |] [| 1.0; 2.0 |]
            let state = AdamW.start [| p |]
            let next = AdamW.step AdamW.standard 0.1 1.0 [| p |] [| None |] state
            Expect.equal (Tensors.toFloats p) [| 1.0; 2.0 |] "the same"
            Expect.equal next.Updates [| 0 |] "not counted"
            AdamWState.TensorsOf state |> Seq.iter _.Dispose())

        testCase "the rate climbs in a line, and falls half a cosine to its floor" (fun () ->
            let rate = { Peak = 2.0; Warmup = 4; Floor = 0.1 }
            let at = RateOptions.at 21 rate
            Expect.floatClose Accuracy.high (at 0) 0.5 "the first step has a rate"
            Expect.floatClose Accuracy.high (at 3) 2.0 "the peak"
            Expect.floatClose Accuracy.high (at 12) 1.1 "half-way"
            Expect.floatClose Accuracy.high (at 20) 0.2 "the last"
            let constant = { rate with Floor = 1.0 }
            Expect.floatClose Accuracy.high (RateOptions.at 21 constant 15) 2.0 "constant")
    ]

[<Tests>]
let tests = testList "training" [ optimiser ]
