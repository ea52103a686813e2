/// The certificate of every rule, policy and drafter, and the law of what is drawn through each of them.
module LayerSkip.Tests.DraftingCertifyTests

open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.Tiny
open LayerSkip.Tests.DraftingSupport

Backend.ensure ()

let private certify (checkpoint: Checkpoint) (options: CertifyOptions) (drafting: DraftingOptions) =
    let report = Certify.run checkpoint { options with Drafting = drafting }
    Expect.equal report.Violation 0 $"{told drafting}: {report.Tests}"

    for test in report.Tests do
        if test.Name <> "T3" || checkpoint.Weights.Kernels.IsSome then
            Expect.isGreaterThan test.Checks 0 $"{told drafting}: {test.Name} checks something"

let private quick = { Certify.options with ExitLayers = [ 1; 2 ]; DraftLengths = [ 3 ]; MaxNewTokens = 16 }

let private sampling = Sampling.create 1.0 0 1.0 |> Check.getOrRaise

/// The whole model's law after ids.
let private law (weights: Weights) (ids: int[]) : float[] =
    use _inference = Scope.inference ()
    let cache = Cache.create weights weights.Config.Layers ids.Length
    use _storage = cache.Slab
    let struct (hidden, _) = Model.forward weights 1 ids cache
    (Model.logits hidden |> Logits.toFloats)[0] |> Sampling.law sampling

let private vocabulary = 6

// It says the same twice, so that lookup has something to say.
let private prompt = [| 1; 2; 3; 4; 1; 2; 3; 4; 1; 2 |]

/// The probability of each second and third token, [second * vocabulary + third], whatever the first.
let private exact (weights: Weights) : float[] =
    let chances = Array.zeroCreate (vocabulary * vocabulary)

    for first, p in Array.indexed (law weights prompt) do
        for second, q in Array.indexed (law weights (Array.append prompt [| first |])) do
            for third, r in Array.indexed (law weights (Array.append prompt [| first; second |])) do
                let at = second * vocabulary + third
                chances[at] <- chances[at] + p * q * r

    chances

/// How often each second and third token was drawn, over texts of so many seeds.
let private drawn (weights: Weights) (strategy: Strategy) (texts: int) : int[] =
    let counts = Array.zeroCreate (vocabulary * vocabulary)

    for seed in 1..texts do
        let options = {
            // Two drafts fit: the second token and the third are drafted, or put right.
            GenerationOptions.greedy strategy 4 with
                Sampling = sampling
                Seed = int64 seed
        }

        let made = (Generation.complete weights None options prompt |> Check.getOrRaise).TokenIds
        let at = made[1] * vocabulary + made[2]
        counts[at] <- counts[at] + 1

    counts

/// An exit that proposes the id after the one that it drew, and says that it drew that: unlikely drafts are kept too often.
let private biased (exit: ExitLayer) : Drafter =
    let rec over (inner: Drafter) : Drafter = {
        new Drafter with
            member _.Name = "biased"
            member _.Exit = inner.Exit
            member _.Watch = inner.Watch

            member _.Draft(request, reading) =
                let pick reads made hidden key =
                    let struct (draft: Draft, key) = request.Pick reads made hidden key

                    match draft.Law with
                    | DraftLaw.Drawn law ->
                        struct ({ draft with Token = (draft.Token + 1) % law.Length }, key)
                    | DraftLaw.Certain -> struct (draft, key)

                let struct (drafts, reading, next) = inner.Draft({ request with Pick = pick }, reading)

                struct (drafts, reading, over next)

            member _.Learn seen = over (inner.Learn seen)
    }

    over (Drafter.earlyExit exit)

let private texts = 1500
// In standard deviations, as the certificate has it.
let private bound = 6.0

let private tiny vocabulary =
    Tiny.weights Dtype.F32 { Config = Tiny.config vocabulary 4 4 2 true; Seed = 11L }

[<Tests>]
let tests =
    testSequenced
    <| testList "the certificate of drafting" [
        testCase "every rule, policy and drafter passes T1 to T5 on a random model" (fun () ->
            use weights = tiny 24
            let checkpoint = Checkpoint.ofWeights "tiny" weights None

            for drafting in every 4 do
                certify checkpoint quick drafting
                if drafting.Drafter <> Some DrafterKind.Lookup then
                    certify checkpoint quick { drafting with DraftVocabulary = Some "6" })

        sharedTest "and on stories260K" [ "stories260K" ] (fun folder ->
            use checkpoint = Checkpoint.load folder None Device.Cpu |> Check.getOrRaise

            let options = { quick with ExitLayers = [ 3 ]; DraftLengths = [ 4 ]; MaxNewTokens = 24 }

            for drafting in every checkpoint.Config.Layers do
                certify checkpoint options drafting)

        testCase "tokens drawn through each drafter have the whole model's law, live" (fun () ->
            use weights = tiny vocabulary
            let checkpoint = Checkpoint.ofWeights "tiny" weights None
            let exact = exact weights
            Expect.floatClose Accuracy.high (Array.sum exact) 1.0 "a law"

            let off strategy = SamplingLaw.chiSquare exact (drawn weights strategy texts)

            for drafting in every 4 do
                let strategy =
                    Drafting.decide sampling checkpoint drafting
                    |> Result.map (Drafting.strategyWith (fun () -> cheap 4) checkpoint)
                    |> Check.getOrRaise

                Expect.isLessThan (off strategy) bound (told drafting)

            Expect.isLessThan (off Strategy.Autoregressive) bound "plain decoding"

            for layer in 1..3 do
                let strategy = Strategy.Speculative(biased (exit 4 layer), LengthPolicy.Fixed 2)
                Expect.isGreaterThan (off strategy) bound $"a biased drafter is caught, exit {layer}")

        testCase "the certificate's own test of drawn texts catches a biased drafter" (fun () ->
            use weights = tiny 24

            let graded drafter =
                Exactness.drawn System.Threading.CancellationToken.None weights 1L 8 [|
                    [| 1; 2; 3 |]
                    [| 4; 5 |]
                    [| 6 |]
                |] [ Strategy.Speculative(drafter, LengthPolicy.Fixed 3), 3 ]
                |> List.map fst

            Expect.equal (graded (Drafter.earlyExit (exit 4 2))) [ Exactness.Exact ] "an honest one passes"
            Expect.equal (graded (biased (exit 4 2))) [ Exactness.Violation ] "a biased one does not")

        testProperty
            "a token's place in its law is within it, and uniform where tokens are drawn from it"
            (fun (seed: int) ->
                let mutable key = Key.ofSeed (int64 seed)

                let uniform () =
                    let struct (u, next) = Key.uniform key
                    key <- next
                    u

                let law = Array.init 7 (fun id -> if id = 3 then 0.0 else uniform ())
                let law = law |> Array.map (fun p -> p / Array.sum law)

                let places = [
                    for _ in 1..2000 ->
                        let place = SamplingLaw.place law (Sampling.pick law (uniform ())) (uniform ())
                        Expect.isTrue (place >= 0.0 && place <= 1.0 + 1e-9) $"{place}"
                        place
                ]

                Expect.isLessThan (SamplingLaw.uniformity 10 places) bound "uniform"

                let skewed = places |> List.map (fun place -> place * place)
                Expect.isGreaterThan (SamplingLaw.uniformity 10 skewed) bound "and a skew shows")
    ]
