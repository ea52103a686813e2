module LayerSkip.Tests.SamplingFilterTests

open System
open Expecto
open FsCheck
open FsCheck.FSharp
open LayerSkip

/// The definition, with everything sorted: temperature, the k largest and their equals, softmax, the fewest tokens whose
/// mass reaches p in order of probability, then of id.
let private definedBefore temperature k p (logits: float[]) : float[] =
    let largest = Array.max logits

    let kept =
        if k = 0 || k >= logits.Length then
            logits
        else
            let least = (Array.sortDescending logits)[k - 1]
            logits |> Array.map (fun logit -> if logit < least then -infinity else logit)

    let weights = kept |> Array.map (fun logit -> exp ((logit - largest) / temperature))
    let total = weights |> Array.fold (+) 0.0
    let probabilities = weights |> Array.map (fun weight -> weight / total)

    if p >= 1.0 then
        probabilities
    else
        let sorted = [| 0 .. logits.Length - 1 |] |> Array.sortBy (fun id -> struct (-probabilities[id], id))
        let before = Array.scan (fun mass id -> mass + probabilities[id]) 0.0 sorted

        let nucleus =
            Array.zip sorted before[.. sorted.Length - 1]
            |> Array.takeWhile (fun (_, mass) -> mass < p)
            |> Array.map fst

        let mass = nucleus |> Array.fold (fun sum id -> sum + probabilities[id]) 0.0
        let isKept = Array.zeroCreate logits.Length
        nucleus |> Array.iter (fun id -> isKept[id] <- true)
        Array.mapi (fun id kept -> if kept then probabilities[id] / mass else 0.0) isKept

/// And then those at least `share` times as probable as the most probable.
let private defined temperature k p share logits : float[] =
    let law = definedBefore temperature k p logits

    if share = 0.0 then
        law
    else
        let most = Array.max law
        let kept = law |> Array.map (fun p -> if p < share * most then 0.0 else p)
        let mass = Array.sum kept
        kept |> Array.map (fun p -> p / mass)

type private Case = { Logits: float[]; Temperature: float; TopK: int; TopP: float; MinP: float }

/// Logits of any size and spread, often equal to each other, with filters at and beside their boundaries.
type private Arbitraries =
    static member Case() =
        Arb.fromGen (
            gen {
                let! length =
                    Gen.frequency [
                        3, Gen.choose (1, 12)
                        2, Gen.choose (13, 300)
                        1, Gen.choose (1000, 5000)
                    ]
                let! seed = Gen.choose (0, 1_000_000)
                let! levels = Gen.elements [ 0; 0; 1; 2; 5; 40 ]
                let! scale = Gen.elements [ 1.0; 1.0; 6.0; 1e-5; 40.0; 1e30; 1e300 ]
                let! temperature = Gen.elements [ 0.7; 1.0; 2.0; 0.01; 1e-3; 1e-310; 1e-320; 1e300; 100.0 ]
                let! topK =
                    Gen.oneof [
                        Gen.constant 0
                        Gen.choose (1, 60)
                        Gen.choose (max 1 (length - 2), length + 2)
                    ]
                let! tenths = Gen.choose (1, 10)
                let! odd = Gen.elements [ 0.0; 0.0; 1e-12; -1e-9; 0.037 ]
                let! minP = Gen.elements [ 0.0; 0.0; 1e-9; 0.05; 0.3; 1.0 ]
                let random = Random seed

                let value _ =
                    if levels > 0 then
                        float (random.Next levels)
                    else
                        // As float32 logits are.
                        random.NextDouble() + random.NextDouble() + random.NextDouble() - 1.5
                        |> float32
                        |> float

                return {
                    Logits = Array.init length (fun i -> scale * value i)
                    Temperature = temperature
                    TopK = topK
                    TopP = Math.Clamp(float tenths / 10.0 + odd, 1e-9, 1.0)
                    MinP = minP
                }
            }
        )

let private settings = {
    Expecto.FsCheckConfig.defaultConfig with
        maxTest = 3000
        arbitrary = [ typeof<Arbitraries> ]
}

let private lawOf case =
    Sampling.law (Sampling.Filtered(case.Temperature, case.TopK, case.TopP, case.MinP)) case.Logits
let private bits (law: float[]) = law |> Array.map BitConverter.DoubleToInt64Bits

[<Tests>]
let tests =
    testList "sampling filters" [
        testPropertyWithConfig
            settings
            "what is selected is what sorting selects, to the bit, ties at boundaries included"
        <| fun (case: Case) ->
            bits (lawOf case) = bits (defined case.Temperature case.TopK case.TopP case.MinP case.Logits)

        testPropertyWithConfig settings "whatever the temperature, a law is finite and sums to 1"
        <| fun (case: Case) ->
            let law = lawOf case
            Array.forall (fun p -> p >= 0.0 && p <= 1.0) law && abs (Array.sum law - 1.0) < 1e-9

        testPropertyWithConfig
            settings
            "values come in order, equal ones by place, and no more than are asked for"
        <| fun (case: Case) (PositiveInt asked) ->
            let visited = ResizeArray<int>()

            TopK.descending -infinity case.Logits (fun id ->
                visited.Add id
                visited.Count < asked)

            let sorted =
                [| 0 .. case.Logits.Length - 1 |]
                |> Array.sortBy (fun id -> struct (-case.Logits[id], id))
            List.ofSeq visited = List.ofArray (Array.truncate asked sorted)

        testCase
            "as the temperature goes to 0, a law goes to the largest logit, through the least numbers there are"
            (fun () ->
                let logits = [| 1.0; 3.0; 2.999; -4.0; 3e-310 |]

                for temperature in [ 1e-6; 1e-100; 1e-300; 1e-307; 1e-308; 1e-310; 1e-320; Double.Epsilon ] do
                    for k, p in [ 0, 1.0; 2, 1.0; 0, 0.9; 3, 0.5 ] do
                        let law = Sampling.law (Sampling.Filtered(temperature, k, p, 0.0)) logits
                        Expect.equal law [| 0.0; 1.0; 0.0; 0.0; 0.0 |] $"{temperature}"

                // Logits that differ by less than the temperature still share, at any size.
                let law =
                    Sampling.law (Sampling.Filtered(Double.Epsilon, 0, 1.0, 0.0)) [| 0.0; Double.Epsilon |]
                Expect.floatClose
                    Accuracy.high
                    law[1]
                    (1.0 / (1.0 + exp -1.0))
                    "one step of the least number"
                let law = Sampling.law (Sampling.Filtered(Double.MaxValue, 0, 1.0, 0.0)) [| 5.0; -5.0 |]
                Expect.equal law [| 0.5; 0.5 |] "and a large temperature makes all equal")

        testCase "a whole vocabulary of equal logits, and one with outliers, are no harder" (fun () ->
            for logits in
                [
                    Array.create 128_256 1.0
                    Array.init 128_256 (fun i -> if i = 77 then 1e300 else float (i % 1000))
                    Array.init 128_256 (fun i -> if i % 2 = 0 then -1e300 else float i * 1e-4)
                ] do
                for k, p in [ 50, 1.0; 0, 0.9; 50, 0.9 ] do
                    let case = { Logits = logits; Temperature = 1.0; TopK = k; TopP = p; MinP = 0.0 }
                    Expect.isTrue (bits (lawOf case) = bits (defined 1.0 k p 0.0 logits)) $"{k}, {p}")
    ]
