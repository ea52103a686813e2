/// The law of texts that are sampled under rules: the plain law under the same.
module LayerSkip.Tests.RuledLawTests

open Expecto
open LayerSkip
open LayerSkip.Tests.Tiny
open LayerSkip.Tests.RulesSupport

Backend.ensure ()

let private vocabulary = 6
let private prompt = [| 1; 2; 3; 4; 1; 2; 3; 4; 1; 2 |]

/// The plain law after prompt and text, by definition.
let private law weights rules sampling (text: int[]) : float[] =
    logitsAfter weights None (Array.append prompt text)
    |> ruled rules prompt text
    |> Sampling.law sampling

/// The probability of each second and third token, whatever the first.
let private exact weights rules sampling : float[] =
    let chances = Array.zeroCreate (vocabulary * vocabulary)
    let likely text = law weights rules sampling text |> Array.indexed |> Array.filter (fun (_, p) -> p > 0.0)

    for first, p in likely [||] do
        for second, q in likely [| first |] do
            for third, r in likely [| first; second |] do
                let at = second * vocabulary + third
                chances[at] <- chances[at] + p * q * r

    chances

let private drawn weights rules sampling strategy texts : int[] =
    let counts = Array.zeroCreate (vocabulary * vocabulary)

    for seed in 1..texts do
        let options = { options strategy 4 with Sampling = sampling; Rules = rules; Seed = int64 seed }

        let made = (complete weights options prompt).TokenIds
        let at = made[1] * vocabulary + made[2]
        counts[at] <- counts[at] + 1

    counts

let private cases = [
    Sampling.Filtered(1.0, 0, 1.0, 0.0),
    {
        TokenRules.none with
            RepetitionPenalty = 1.5
            PresencePenalty = 0.5
            FrequencyPenalty = -0.7
            LogitBias = [ 2, 1.0 ]
    }
    Sampling.Filtered(1.2, 5, 0.95, 0.05),
    {
        TokenRules.none with
            FrequencyPenalty = 1.0
            Constraint = Some(random vocabulary [] 2 5)
    }
]

[<Tests>]
let tests =
    testList "the law under rules" [
        testCase "tokens drawn through each drafter have the plain law under the same rules" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config vocabulary 4 4 2 true; Seed = 11L }

            for sampling, rules in cases do
                let exact = exact weights rules sampling
                Expect.floatClose Accuracy.high (Array.sum exact) 1.0 "a law"
                let off rules strategy =
                    SamplingLaw.chiSquare exact (drawn weights rules sampling strategy 1200)

                for name, strategy in ("plain", Strategy.Autoregressive) :: strategies weights 2 3 do
                    if name <> "altered" then
                        Expect.isLessThan (off rules strategy) 6.0 $"{name}, {sampling}"

                let without = off TokenRules.none Strategy.Autoregressive
                Expect.isGreaterThan without 6.0 "without the rules another law shows")

        testCase
            "a draft's law under rules, and the residual, are exact: vocabulary 6, up to 2 drafts"
            (fun () ->
                use weights =
                    Tiny.weights Dtype.F32 { Config = Tiny.config vocabulary 3 2 1 false; Seed = 11L }

                for sampling, rules in cases do
                    // A text that the rules forbid has no law, and nobody comes to it.
                    let nowhere = Array.init vocabulary (fun id -> if id = 0 then 1.0 else 0.0)

                    for ids in [ None; Some [| 4 |]; Some [| 5; 1 |]; Some [| 0; 3; 2; 5 |] ] do
                        let draft (text: int list) =
                            Scope.free (fun () ->
                                let text = Array.ofList text
                                let read = Array.append prompt text
                                let cache = Cache.create weights 1 read.Length
                                use _storage = cache.Slab
                                let struct (early, cache) = Model.forwardEarly weights read cache
                                let some =
                                    ids
                                    |> Option.map (fun ids ->
                                        DraftVocabulary.create 6 cache |> DraftVocabulary.add ids)
                                let start = TokenRules.start vocabulary prompt rules
                                let after = start.Value |> TokenRules.along text |> Array.last

                                let struct (draft, _) =
                                    DraftChoice.pickUnder
                                        after
                                        sampling
                                        some
                                        DraftReading.Token
                                        early
                                        (Key.ofSeed 1L)

                                match draft.Law with
                                | DraftLaw.Drawn law ->
                                    Expect.floatClose Accuracy.high (Array.sum law) 1.0 "a law"
                                    Expect.all
                                        [ 0 .. vocabulary - 1 ]
                                        (fun id -> after.Allows id || law[id] = 0.0)
                                        "of what is allowed"
                                    law
                                | DraftLaw.Certain ->
                                    Expect.isFalse
                                        ([ 0 .. vocabulary - 1 ] |> List.exists after.Allows)
                                        "nothing is allowed"
                                    nowhere)

                        let whole (text: int list) =
                            try
                                law weights rules sampling (Array.ofList text)
                            with :? AssertException ->
                                nowhere

                        for draftLength in 1..2 do
                            let error = SamplingLaw.worstError whole draft draftLength
                            Expect.isLessThan error 1e-12 $"{sampling}, ids %A{ids}, {draftLength} drafts")
    ]
