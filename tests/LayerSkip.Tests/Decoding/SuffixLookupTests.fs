module LayerSkip.Tests.SuffixLookupTests

open System
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.Tiny

let private few (tokens: byte[]) = tokens |> Array.map (fun token -> int token % 3)

let private propose (text: int[]) lookup = SuffixLookup.propose 6 (ReadOnlyMemory text) lookup

let private pastOf (texts: int[][]) =
    let past = PastTexts 10_000

    for text in texts do
        past.Add(ReadOnlySpan text)

    past

/// Random models soon repeat themselves.
let private repeating = { Config = Tiny.config 24 3 4 2 true; Seed = 5L }

[<Tests>]
let tests =
    testSequenced
    <| testList "suffix lookup" [
        testProperty "proposes what its index, or the past, drafts, with a chance for each token"
        <| fun (tokens: byte[]) (texts: byte[][]) ->
            let text = few tokens
            let past = texts |> Array.map few |> pastOf

            let own = SuffixIndex.lookup 6 (SuffixIndex.append (ReadOnlyMemory text) SuffixIndex.empty)
            let other = past.Lookup(6, ReadOnlySpan text)

            let struct (alone, _) = propose text (SuffixLookup.create None)
            Expect.equal (alone.Draft, alone.FromPast) (own, false) "the text's own"

            let struct (best, _) = propose text (SuffixLookup.create (Some past))
            Expect.equal best.Draft (if best.FromPast then other else own) "one of the two"
            Expect.isGreaterThanOrEqual best.Expected alone.Expected "the one of which more is expected"
            Expect.equal best.Chances.Length best.Draft.Tokens.Length "a chance each"
            Expect.all best.Chances (fun chance -> chance > 0.0 && chance < 1.0) "chances"

            // Of independent chances: the first, the first two, ...
            let products = [
                for count in 1 .. best.Chances.Length -> Array.fold (*) 1.0 best.Chances[.. count - 1]
            ]

            Expect.floatClose Accuracy.high best.Expected (List.sum products) "expected"
            Expect.floatClose Accuracy.high (best.ExpectedOf 1) (List.sum (List.truncate 1 products)) "of one"
            Expect.equal (best.ExpectedOf 0) 0.0 "of none"

            for least in [ 0.0; 0.3; 0.7; 1.0 ] do
                let first = products |> List.takeWhile (fun chance -> chance >= least)
                Expect.equal (best.LengthAbove least) first.Length $"kept with a chance of {least}"

        testProperty "what is learned of a text that goes on at random is how often it goes on so"
        <| fun (NonNegativeInt seed) ->
            let random = Random seed
            let rate = 0.1 + 0.8 * random.NextDouble()
            let text = [| 1; 2; 3; 4; 1; 2 |]
            let mutable lookup = SuffixLookup.create None
            let chances = ResizeArray()

            for _ in 1..600 do
                let struct (proposal, read) = propose text lookup
                Expect.equal proposal.Draft.Tokens [| 3; 4 |] "as long as the match"
                chances.Add proposal.Chances[0]
                let right = random.NextDouble() < rate
                lookup <- SuffixLookup.learn proposal (if right then [| 3; 4; 9 |] else [| 9 |]) read

            // Judgements of about fifty tokens count at a time.
            let mean = chances |> Seq.skip 100 |> Seq.average
            Expect.isLessThan (abs (mean - rate)) 0.08 $"a rate of {rate} is seen as {mean}"

        testProperty "a proposal is judged up to its first wrong token, and no further than the text goes"
        <| fun (NonNegativeInt kept) (NonNegativeInt more) ->
            let text = Array.init 20 (fun i -> i % 10)
            let struct (proposal, lookup) = propose text (SuffixLookup.create None)
            Expect.equal proposal.Draft.Tokens [| 0..5 |] "six"
            let kept = kept % 6
            let written = Array.append [| 0 .. kept - 1 |] (if more % 2 = 0 then [||] else [| 99 |])
            let struct (after, _) = propose text (SuffixLookup.learn proposal written lookup)

            // Matches of 10 to 16 tokens are of one kind: its chance tells what was judged.
            let right, judged = float kept, float written.Length
            let expected = (proposal.Chances[0] * 3.0 + right) / (3.0 + judged)
            Expect.isLessThan (abs (after.Chances[0] - expected)) 0.03 $"{kept} of {judged}"

        testCase "a lookup stays as it is when another goes on from it" (fun () ->
            let text = [| 1; 2; 3; 4; 1; 2 |]
            let struct (first, lookup) = propose text (SuffixLookup.create None)
            let taught = SuffixLookup.learn first [| 3; 4 |] lookup
            let struct (again, _) = propose text lookup
            let struct (other, _) = propose text taught
            Expect.equal again first "the old one"
            Expect.isGreaterThan other.Expected again.Expected "the new one")

        testCase "the drafter drafts a loop, says so, and starts anew with each text" (fun () ->
            use weights = Tiny.weights Dtype.F32 repeating
            let strategy = Strategy.Speculative(Drafter.suffixLookup None, LengthPolicy.Fixed 8)
            let made = complete weights (options strategy 80) [| 1; 2 |]
            Expect.isGreaterThan made.Stats.NumAcceptedDraftTokens 30 "accepted"
            Expect.equal (made.Stats.Sources |> Array.map _.Source) [| "lookup" |] "by source"
            let again = complete weights (options strategy 80) [| 1; 2 |]
            Expect.equal again.Stats.Rounds made.Stats.Rounds "the same value, the same rounds")

        testCase "a text that was written before is drafted from the past" (fun () ->
            use weights = Tiny.weights Dtype.F32 repeating
            let plain = complete weights (options Strategy.Autoregressive 40) [| 7; 3; 11; 5 |]
            let past = pastOf [| Array.append plain.PromptIds plain.TokenIds |]

            let drafted past =
                let drafter = Drafter.suffixLookup past
                let strategy = Strategy.Speculative(drafter, LengthPolicy.Fixed 8)
                let made = complete weights (options strategy 40) [| 7; 3; 11; 5 |]
                Expect.equal made.TokenIds plain.TokenIds "the whole model's text"
                made.Stats

            let alone, knowing = drafted None, drafted (Some past)
            Expect.isLessThan knowing.Rounds.Length 9 "rounds"
            let names (stats: SpeculationStats) = stats.Sources |> Array.map _.Source
            Expect.contains (names knowing) "past" "its drafts are the past's"
            Expect.isFalse (Array.contains "past" (names alone)) "which is not there"
            Expect.isGreaterThan alone.Rounds.Length knowing.Rounds.Length "more without")
    ]
