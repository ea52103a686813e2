/// Penalties, bias and constraints: plain decoding against their definition, and everything that drafts against plain decoding.
module LayerSkip.Tests.TokenRulesTests

open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.Tiny
open LayerSkip.Tests.RulesSupport

Backend.ensure ()

let private newTokens = 14
let private stops = [ 9 ]

let private optionsOf (rules: TokenRules) (strategy: Strategy) = {
    GenerationOptions.greedy strategy newTokens with
        Rules = rules
        StopIds = Array.ofList stops
}

/// A constraint over 24 ids that allows all but `end'` until `length` tokens are there, and then what `last` says.
let private until length (last: int list) =
    machine
        (fun place id ->
            if place < length then
                not (List.contains id stops)
            else
                List.contains id last)
        (fun place _ -> place + 1)
        stops
        24
        0

[<Tests>]
let tests =
    testList "rules" [
        testPropertyWithConfig (settings 60) "plain decoding and early exit write what the definition writes"
        <| fun (case: Case) (seed: int) ->
            withWeights Dtype.F32 case.Model (fun weights ->
                let rules = rulesOf 24 stops seed
                let exit = Tiny.exit weights.Config.Layers case.Exit

                for depth, strategy in [ None, Strategy.Autoregressive; Some exit, Strategy.EarlyExit exit ] do
                    let options = optionsOf rules strategy
                    let text = (complete weights options case.Prompt).TokenIds
                    Expect.equal
                        text
                        (written weights depth options case.Prompt)
                        $"{strategy.Name}, rules {seed}")

        testPropertyWithConfig (settings 60) "whatever drafts, and however, the text is plain decoding's"
        <| fun (case: Case) (seed: int) ->
            for dtype in [ Dtype.F32; Dtype.BF16; Dtype.F64 ] do
                withWeights dtype case.Model (fun weights ->
                    let rules = rulesOf 24 stops seed
                    let text strategy = (complete weights (optionsOf rules strategy) case.Prompt).TokenIds
                    let plain = text Strategy.Autoregressive

                    for name, strategy in strategies weights case.Exit case.Draft do
                        Expect.equal (text strategy) plain $"{name}, rules {seed}, {dtype}")

        testPropertyWithConfig
            (settings 40)
            "drafts of an exit that says what the model says are all kept, under any rules"
        <| fun (case: Case) (seed: int) ->
            let exit = Tiny.exit case.Model.Config.Layers case.Exit

            withWeights Dtype.F32 case.Model (fun weights ->
                // Layers after the exit add nothing.
                let weights = Benchmark.identityAfter exit.Layers weights
                let rules = rulesOf 24 stops seed
                let made =
                    complete
                        weights
                        (optionsOf rules (Strategy.SelfSpeculative(exit, case.Draft)))
                        case.Prompt
                Expect.equal made.Stats.NumAcceptedDraftTokens made.Stats.NumDraftTokens $"rules {seed}")

        testCase "a draft that is forbidden is not verified, and lookup is cut there" (fun () ->
            withWeights Dtype.F32 { Config = Tiny.config 24 3 2 1 false; Seed = 4L } (fun weights ->
                // The text goes 1, 2, 3, 1, 2, ..; lookup says so, and 2 may come but once more.
                let rule =
                    machine
                        (fun place id -> id = [| 1; 2; 3; 1; 5; 5 |][min place 5])
                        (fun place _ -> place + 1)
                        []
                        24
                        0

                let options = {
                    optionsOf
                        { TokenRules.none with Constraint = Some rule }
                        (Strategy.Speculative(Drafter.promptLookup 2, LengthPolicy.Fixed 6)) with
                        MaxNewTokens = 8
                }

                let made = complete weights options [| 1; 2; 3; 1; 2; 3 |]
                Expect.equal made.TokenIds [| 1; 2; 3; 1; 5; 5; 5; 5 |] "the only text"
                Expect.equal
                    made.Stats.NumDraftTokens
                    made.Stats.NumAcceptedDraftTokens
                    "all verified drafts are kept"
                Expect.equal (fst made.Stats.Rounds[0]) 3 "2, 3 and 1, but not the 2 after them"))

        testCase
            "where only a stop id may follow, the text ends; where nothing may, it is an error of one line"
            (fun () ->
                withWeights Dtype.F32 { Config = Tiny.config 24 4 2 1 false; Seed = 8L } (fun weights ->
                    for length in [ 0; 1; 5; 6 ] do
                        for name, strategy in ("plain", Strategy.Autoregressive) :: strategies weights 1 3 do
                            let given last =
                                optionsOf
                                    { TokenRules.none with Constraint = Some(until length last) }
                                    strategy
                            let made = complete weights (given stops) [| 1; 5; 1 |]
                            Expect.equal
                                (made.TokenIds.Length, made.Finish)
                                (length, FinishReason.Stop)
                                $"{name}, {length}"

                            match Generation.complete weights None (given []) [| 1; 5; 1 |] with
                            | Error [ LayerSkipError.NothingAllowed position as fault ] ->
                                Expect.equal position (3 + length) $"{name}, {length}"
                                Expect.isFalse ((LayerSkipError.message fault).Contains '\n') "one line"
                            | other -> failtest $"{name}: {other}"))

        testCase "a vocabulary that is no multiple of 64 has a mask that ends within a word" (fun () ->
            for vocabulary in [ 63; 64; 65; 130 ] do
                let config = Tiny.config vocabulary 2 2 1 false

                withWeights Dtype.F32 { Config = config; Seed = 3L } (fun weights ->
                    let last = {
                        new TokenConstraint with
                            // Bits beyond the vocabulary count for nothing.
                            member this.Allows mask =
                                mask[mask.Length - 1] <- System.UInt64.MaxValue <<< ((vocabulary - 1) % 64)

                            member this.Advance _ = this
                    }

                    let options = {
                        Tiny.options Strategy.Autoregressive 4 with
                            Rules.Constraint = Some last
                    }
                    let made = complete weights options [| 2 |]
                    Expect.equal made.TokenIds (Array.create 4 (vocabulary - 1)) $"{vocabulary}"))

        testCase "no rules are no rules: nothing is copied, and the text is the same" (fun () ->
            Expect.isTrue (TokenRules.isNone TokenRules.none) "none"
            Expect.isTrue (TokenRules.start 24 [| 1 |] TokenRules.none).IsNone "nothing to hold"

            for rules in
                [
                    { TokenRules.none with RepetitionPenalty = 1.1 }
                    { TokenRules.none with PresencePenalty = -0.1 }
                    { TokenRules.none with FrequencyPenalty = 0.1 }
                    { TokenRules.none with LogitBias = [ 1, 0.0 ] }
                    { TokenRules.none with Constraint = Some(until 3 []) }
                ] do
                Expect.isFalse (TokenRules.isNone rules) "some")

        testCase
            "numbers out of range, NaN among them, and ids that are not there are errors, all at once"
            (fun () ->
                let faults = TokenRules.faults 24 >> List.map LayerSkipError.message

                for bad in [ nan; infinity; -infinity; 0.0; -1.0; 101.0 ] do
                    Expect.hasLength
                        (faults { TokenRules.none with RepetitionPenalty = bad })
                        1
                        $"repetition {bad}"

                for bad in [ nan; infinity; -2.5; 2.01 ] do
                    Expect.hasLength
                        (faults { TokenRules.none with PresencePenalty = bad })
                        1
                        $"presence {bad}"
                    Expect.hasLength
                        (faults { TokenRules.none with FrequencyPenalty = bad })
                        1
                        $"frequency {bad}"

                for bad in [ nan; infinity; -100.5; 101.0 ] do
                    Expect.hasLength (faults { TokenRules.none with LogitBias = [ 3, bad ] }) 1 $"bias {bad}"

                for id in [ -1; 24; System.Int32.MaxValue ] do
                    Expect.hasLength
                        (faults { TokenRules.none with LogitBias = [ 3, 1.0; id, 1.0 ] })
                        1
                        $"id {id}"

                let all = {
                    TokenRules.none with
                        RepetitionPenalty = nan
                        PresencePenalty = 3.0
                        FrequencyPenalty = -3.0
                        LogitBias = [ 99, 101.0 ]
                }

                Expect.hasLength (faults all) 5 "five faults"

                withWeights Dtype.F32 { Config = Tiny.config 24 2 2 1 false; Seed = 3L } (fun weights ->
                    let options = { Tiny.options Strategy.Autoregressive 4 with Rules = all }
                    Expect.hasLength
                        (Generation.run weights None options [| 1 |] |> Check.faults)
                        5
                        "in generation too"))
    ]
