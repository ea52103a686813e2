module LayerSkip.Tests.SamplingTests

open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.Tiny

Backend.ensure ()

let private logits (values: NormalFloat list) =
    Array.ofList (0.0 :: (values |> List.map (fun (NormalFloat x) -> System.Math.Clamp(x, -30.0, 30.0))))

/// A law over a few tokens, changing with the text, some of them impossible.
let private lawAfter (salt: int) vocabulary (text: int list) =
    let hash = text |> List.fold (fun h token -> (h * 31 + token + 7) &&& 0xFFFF) (salt * 101)
    let raw = Array.init vocabulary (fun i -> float ((hash / (i + 1) + i * salt) % 7))
    let raw =
        if Array.sum raw = 0.0 then
            Array.create vocabulary 1.0
        else
            raw
    raw |> Array.map (fun x -> x / Array.sum raw)

/// The law that plain decoding gives three tokens, and how often speculative decoding wrote each triple.
let private triples (weights: Weights) sampling prompt strategy draws =
    let vocabulary = weights.Config.Vocabulary

    let law (text: int[]) =
        Scope.free (fun () ->
            let cache = Cache.create weights weights.Config.Layers text.Length
            use _storage = cache.Slab :> System.IDisposable
            let struct (hidden, _) = Model.forward weights 1 text cache
            SharedHead.logits weights (hidden.Read()) |> Tensors.toFloats |> Sampling.law sampling)

    let first = law prompt

    let expected = [|
        for a in 0 .. vocabulary - 1 do
            let second = law (Array.append prompt [| a |])

            for b in 0 .. vocabulary - 1 do
                let third = law (Array.append prompt [| a; b |])

                for c in 0 .. vocabulary - 1 -> first[a] * second[b] * third[c]
    |]

    let write (seed: int) =
        // Far from the limit, so that rounds draft all they may; the sequence stops after three tokens.
        let options = { options strategy 12 with Sampling = sampling; Seed = int64 seed }

        Generation.run weights None options prompt
        |> Check.getOrRaise
        |> Seq.choose (function
            | GenerationEvent.Token token -> Some token.Id
            | _ -> None)
        |> Seq.truncate 3
        |> Seq.fold (fun cell id -> cell * vocabulary + id) 0

    // Each generation has its own cache, so one model serves several threads.
    let counts = Array.zeroCreate expected.Length

    for cell in Array.Parallel.map write [| 1..draws |] do
        counts[cell] <- counts[cell] + 1

    expected, counts

[<Tests>]
let tests =
    testSequenced
    <| testList "sampling" [
        testProperty "a law sums to 1, keeps at most k tokens and their order"
        <| fun (values: NormalFloat list) (PositiveInt k) (PositiveInt tenths) ->
            let logits = logits values
            let k, p = 1 + k % 8, float (1 + tenths % 10) / 10.0
            let law = Sampling.law (Sampling.Filtered(0.7, k, p, 0.0)) logits
            let kept = law |> Array.filter (fun x -> x > 0.0)
            let least =
                Array.zip logits law |> Array.filter (fun (_, x) -> x > 0.0) |> Array.map fst |> Array.min
            let dropped = Array.zip logits law |> Array.filter (fun (_, x) -> x = 0.0) |> Array.map fst

            abs (Array.sum law - 1.0) < 1e-12
            && (kept.Length <= k || (logits |> Array.countBy id |> Array.exists (fun (_, n) -> n > 1)))
            && dropped |> Array.forall (fun x -> x <= least)

        testProperty "top-p keeps the fewest whose mass reaches p"
        <| fun (values: NormalFloat list) (PositiveInt hundredths) ->
            let logits = logits values
            let p = float (1 + hundredths % 99) / 100.0
            let all = Sampling.softmax logits
            let kept = Sampling.law (Sampling.Filtered(1.0, 0, p, 0.0)) logits |> Array.map (fun x -> x > 0.0)
            let masses = Array.zip all kept |> Array.filter snd |> Array.map fst
            let mass = Array.sum masses
            mass >= p - 1e-12 && mass - Array.min masses < p + 1e-12

        testCase "filters come in the reference's order: temperature, then top-k, then top-p" (fun () ->
            // At temperature 2 the law is .4576 .2775 .1683 .0966; of the first three, .5066 .3073 .1863.
            let logits = [| 3.0; 2.0; 1.0; -0.11 |]
            let law = Sampling.law (Sampling.Filtered(2.0, 3, 0.7, 0.0)) logits
            let e = exp 0.5
            Expect.floatClose Accuracy.high law[0] (e / (e + 1.0)) "renormalised over two"
            Expect.equal (law[2], law[3]) (0.0, 0.0) "dropped by p, dropped by k")

        testProperty "pick never takes an impossible token, and inverts the law"
        <| fun (salt: byte) (NonNegativeInt u) ->
            let law = lawAfter (int salt) 6 [ 1; 2 ]
            let u = float (u % 1000) / 1000.0
            let token = Sampling.pick law u
            let below = Array.sum law[.. token - 1]
            law[token] > 0.0 && below <= u + 1e-12 && (u < below + law[token] + 1e-12)

        testCase "the residual of equal laws is the law itself" (fun () ->
            Expect.equal
                (Sampling.residual [| 0.25; 0.75 |] [| 0.25; 0.75 |])
                [| 0.25; 0.75 |]
                "no division by 0"
            Expect.equal (Sampling.residual [| 0.5; 0.5 |] [| 1.0; 0.0 |]) [| 0.0; 1.0 |] "what p has over q")

        testCase "a draft that the whole model forbids is refused even when the uniform is 0" (fun () ->
            let draft = Draft.drawn [| 1.0; 0.0 |] 0
            let struct (kept, law) =
                Acceptance.sampled [| 0.0; 0.5 |] [| [| 0.0; 1.0 |]; [| 1.0; 0.0 |] |] [| draft |]
            Expect.equal (kept, law) (0, ValueSome [| 0.0; 1.0 |]) "strictly less")

        testCase "temperature, top-k and top-p out of range are errors, all at once" (fun () ->
            Expect.equal (Sampling.create -1.0 -2 1.5 |> Check.faults).Length 3 "three faults"
            Expect.equal (Sampling.create 0.0 0 1.0) (Ok Sampling.Greedy) "temperature 0 is greedy"
            Expect.isError (Sampling.create nan 0 1.0) "NaN"
            Expect.isError (Sampling.create 1.0 0 0.0) "top-p 0"

            for bad in [ -0.1; 1.1; nan; infinity ] do
                Expect.isError (Sampling.createWith bad 1.0 0 1.0) $"min-p {bad}")

        testCase "exact enumeration: vocabulary 8, up to 3 drafts, within 1e-12" (fun () ->
            for salt in 1..4 do
                for draftLength in 1..3 do
                    let vocabulary = if draftLength = 3 then 8 - salt % 2 else 8
                    let error =
                        SamplingLaw.worstError
                            (lawAfter salt vocabulary)
                            (lawAfter (salt + 9) vocabulary)
                            draftLength
                    Expect.isLessThan error 1e-12 $"salt {salt}, {draftLength} drafts")

        testCase "enumeration sees a rule that is a little wrong" (fun () ->
            // Drafts that claim another law than they were drawn from.
            let p, q = lawAfter 3 5, lawAfter 8 5
            let claims text = q text |> Array.map (fun x -> 0.99 * x + 0.01 / 5.0)
            Expect.isLessThan (SamplingLaw.worstError p claims 1) 1e-12 "claimed and drawn agree"
            Expect.isGreaterThan
                (abs (SamplingLaw.chiSquare (p []) (SamplingLaw.firstTokens (q []) (q []) 20_000 1L)))
                6.0
                "another law shows")

        testCase "chi-square of 20,000 self-speculative texts for three (E, d)" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 8 3 2 1 false; Seed = 11L }

            for layer, draftLength, sampling in
                [
                    1, 1, Sampling.Filtered(1.0, 0, 1.0, 0.0)
                    1, 3, Sampling.Filtered(0.8, 6, 0.95, 0.0)
                    2, 2, Sampling.Filtered(1.3, 0, 0.9, 0.0)
                ] do
                let strategy = Strategy.SelfSpeculative(exit 3 layer, draftLength)
                let expected, counts = triples weights sampling [| 1; 5 |] strategy 20_000
                let z = SamplingLaw.chiSquare expected counts
                Expect.isLessThan z 4.5 $"E = {layer}, d = {draftLength}: {z} standard deviations")

        testCase "the same seed writes the same text, another seed another" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 24 3 2 1 false; Seed = 6L }

            let text seed =
                (Generation.complete
                    weights
                    None
                    {
                        options (Strategy.SelfSpeculative(exit 3 1, 3)) 20 with
                            Sampling = Sampling.Filtered(1.0, 0, 1.0, 0.0)
                            Seed = seed
                    }
                    [| 1 |]
                 |> Check.getOrRaise)
                    .TokenIds

            Expect.equal (text 1L) (text 1L) "same"
            Expect.notEqual (text 1L) (text 2L) "different")
    ]
