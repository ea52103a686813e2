module LayerSkip.Tests.DraftingTests

open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.Tiny
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.DraftingSupport

Backend.ensure ()

let private none = DraftingOptions.none

let private drawn = Sampling.create 1.0 0 1.0 |> Check.getOrRaise

let private over (weights: Weights) recommended = {
    Checkpoint.ofWeights "tiny" weights None with
        Recommended = recommended
}

let private strategy (checkpoint: Checkpoint) (options: DraftingOptions) =
    Drafting.decide Sampling.Greedy checkpoint options
    |> Result.map (Drafting.strategyWith (fun () -> cheap checkpoint.Config.Layers) checkpoint)

let private text weights strategy limit prompt =
    (Generation.complete weights None (GenerationOptions.greedy strategy limit) prompt
     |> Check.getOrRaise)
        .TokenIds

/// Every policy and drafter, or none named, with each other option alone.
let private combinations = [
    for policy in None :: List.map Some DraftPolicyKind.all do
        for drafter in None :: List.map Some DrafterKind.all do
            let named = { none with Policy = policy; Drafter = drafter }
            named
            { named with StopRule = Some StopRuleKind.Del }
            { named with ExitLayer = Some 2 }
            { named with DraftLength = Some 3 }
            { named with DraftVocabulary = Some "6" }
            { named with LayersKept = Some "1,3" }
            { named with LayersKept = Some "1,3"; StopRule = Some StopRuleKind.AdaEdl }
            { named with ExitLayer = Some 1; DraftVocabulary = Some "all" }
]

[<Tests>]
let tests =
    testSequenced
    <| testList "drafting" [
        for dtype in [ Dtype.F32; Dtype.F64 ] do
            testPropertyWithConfig
                (Tiny.settings 10)
                $"{dtype}: every rule, policy and drafter writes the whole model's text, from all ids or a few"
            <| fun (case: Case) ->
                use weights = Tiny.weights dtype case.Model
                let layers = case.Model.Config.Layers
                let checkpoint = over weights (Some(case.Exit, case.Draft))
                let plain = text weights Strategy.Autoregressive 24 case.Prompt

                for options in every layers do
                    for vocabulary in [ None; Some "6" ] do
                        if vocabulary.IsNone || options.Drafter <> Some DrafterKind.Lookup then
                            let options = { options with DraftVocabulary = vocabulary }
                            let strategy = strategy checkpoint options |> Check.getOrRaise
                            Expect.equal (text weights strategy 24 case.Prompt) plain (told options)

        testCase "what has no use is refused in a line that names it, and what is taken works" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 24 4 4 2 true; Seed = 3L }
            let checkpoint = over weights (Some(1, 2))
            let plain = text weights Strategy.Autoregressive 12 [| 1; 2; 3 |]
            let mutable taken, refused = 0, 0

            for options in combinations do
                match strategy checkpoint options with
                | Ok strategy ->
                    taken <- taken + 1
                    Expect.equal (text weights strategy 12 [| 1; 2; 3 |]) plain (told options)
                | Error faults ->
                    refused <- refused + 1

                    for line in List.map LayerSkipError.message faults do
                        let names = DraftingOptions.named options @ [ "drafter"; "adapter" ]
                        Expect.exists names (fun name -> line.Contains name) $"{told options}: {line}"
                        Expect.isFalse (line.Contains '\n') "one line"

            Expect.isGreaterThan taken 60 "combinations that make sense"
            Expect.isGreaterThan refused 60 "and those that do not")

        testCase "what has no use is told with what is out of range" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 24 4 4 2 true; Seed = 3L }

            let faults options =
                Drafting.decide Sampling.Greedy (over weights None) options
                |> Check.faults
                |> List.map LayerSkipError.message

            let told =
                faults {
                    none with
                        Drafter = Some DrafterKind.Lookup
                        ExitLayer = Some 2
                        DraftLength = Some 0
                }
            Expect.hasLength told 2 $"%A{told}"

            for name in [ "exit-layer is 2"; "draft-length is 0" ] do
                Expect.exists told _.Contains(name) name)

        testCase "what is not said is the model's, or ours" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 24 6 4 2 true; Seed = 3L }
            let recommended, bare = over weights (Some(3, 5)), over weights None

            let plan (sampling: Sampling) checkpoint options =
                let plan = Drafting.decide sampling checkpoint options |> Check.getOrRaise
                plan.Policy, plan.Drafter, plan.Exit |> Option.map _.Layers, plan.Length

            let greedy = plan Sampling.Greedy
            let static', auto, del = DraftPolicyKind.Static, DraftPolicyKind.Auto, DraftPolicyKind.Del
            let exit, cascade = DrafterKind.Exit, DrafterKind.Cascade
            let asked policy = { none with Policy = Some policy }

            Expect.equal
                (greedy recommended (asked static'))
                (static', exit, Some 3, Some 5)
                "E and d are the model's"
            Expect.equal
                (greedy bare (asked static'))
                (static', exit, Some 2, Some 4)
                "or a third of its layers, and 4"
            Expect.equal
                (greedy recommended (asked auto))
                (auto, cascade, Some 3, None)
                "auto starts with the exit"
            Expect.equal
                (greedy bare (asked auto))
                (auto, cascade, None, None)
                "and with none where none is recommended"
            Expect.equal
                (greedy bare { asked auto with ExitLayer = Some 4 })
                (auto, cascade, Some 4, None)
                "but one that is named"
            Expect.equal (greedy recommended (asked del)) (del, exit, None, None) "DEL chooses both"

            for fixed' in
                [
                    { none with ExitLayer = Some 2 }
                    { none with DraftLength = Some 2 }
                    { none with StopRule = Some StopRuleKind.Del }
                    { none with LayersKept = Some "1-3" }
                    { none with Drafter = Some DrafterKind.Layers; LayersKept = Some "1-3" }
                ] do
                let policy, _, _, _ = greedy recommended fixed'
                Expect.equal policy static' $"numbers are for a fixed drafting: {told fixed'}"

            let policy, _, _, _ = greedy recommended none
            Expect.equal policy Drafting.defaultPolicy "nothing is said"
            Expect.equal
                (greedy recommended (Drafting.ofSelfSpeculative none))
                (static', exit, Some 3, Some 5)
                "the strategy itself is named, and nothing else"
            Expect.equal
                (greedy recommended (Drafting.ofSelfSpeculative { none with Drafter = Some cascade }))
                (Drafting.defaultPolicy, cascade, Some 3, None)
                "or something else"

            let policy, _, _, _ = plan drawn recommended none
            Expect.equal policy static' "one seed, one text: auto's drafts depend on time"

            for sampling in [ Sampling.Greedy; drawn ] do
                let policy, _, _, _ = plan sampling recommended (asked auto)
                Expect.equal policy auto "what is asked for is done")

        testCase "a rule is spelled as it is read; anything else is refused" (fun () ->
            for rule in rules do
                Expect.equal
                    (StopRule.spell rule |> StopRule.tryParse |> Check.getOrRaise)
                    rule
                    (StopRule.spell rule)

                let made = StopRule.create (fun () -> PassCosts.round (cheap 4)) rule
                Expect.equal made.Name (StopRule.spell rule) "and reports name it so"

            for text in
                [
                    ""
                    "x"
                    "Never"
                    "confidence"
                    "confidence:"
                    "confidence:0"
                    "confidence:1.01"
                    "confidence:-1"
                    "confidence:0.5:1"
                    "confidence:NaN"
                    "del:0.5"
                ] do
                StopRule.tryParse text |> messages |> expectFault [ "stop-rule"; "confidence:0.6" ])

        testCase "a model of one layer has lookup, and says what it has not" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 24 1 4 2 true; Seed = 3L }
            let checkpoint = over weights None
            let plain = text weights Strategy.Autoregressive 24 [| 1; 2 |]

            for options in
                [
                    { none with Drafter = Some DrafterKind.Lookup }
                    { none with Policy = Some DraftPolicyKind.Auto }
                ] do
                let strategy = strategy checkpoint options |> Check.getOrRaise
                Expect.equal (text weights strategy 24 [| 1; 2 |]) plain (told options)

            for policy in [ DraftPolicyKind.Static; DraftPolicyKind.Del ] do
                strategy checkpoint { none with Policy = Some policy }
                |> messages
                |> expectFault [ "one layer" ])

        testCase "the cascade looks up where the text repeats itself, and asks the exit elsewhere" (fun () ->
            // Its early layers know little: the head is not the embedding.
            let model = { Config = Tiny.config 24 4 4 2 false; Seed = 5L }
            use weights = Tiny.weights Dtype.F32 model
            let cascade rule = CascadeDrafter.create rule (exit 4 1) 3 None |> Strategy.Adaptive

            let stats prompt =
                (Generation.complete
                    weights
                    None
                    (GenerationOptions.greedy (cascade StopRule.never) 90)
                    prompt
                 |> Check.getOrRaise)
                    .Stats

            let drafted source (stats: SpeculationStats) =
                stats.Sources
                |> Array.sumBy (fun made -> if made.Source = source then made.DraftTokens else 0)

            // Random models soon repeat themselves; until then there is nothing to look up.
            let made = stats [| 1; 2; 3 |]
            Expect.isGreaterThan (drafted "exit" made) 0 "at first"
            Expect.isGreaterThan (drafted "lookup" made) (drafted "exit" made) "once it repeats itself"

            let longest = made.Sources |> Array.find (fun source -> source.Source = "exit") |> _.DraftTokens

            Expect.isLessThanOrEqual longest (3 * made.NumSpecSteps) "the exit drafts its length")

        testCase "an adapter drafts by either policy, until a rule ends its drafts" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 24 4 4 2 true; Seed = 5L }
            use adapter = Adapter.initial 1L 3 AdapterForm.Block (exit 4 2) weights
            let checkpoint = over weights None
            let plain = text weights Strategy.Autoregressive 40 [| 1; 2; 3 |]
            let asked = ResizeArray<int option>()

            for drafting in
                [
                    { none with Drafter = Some DrafterKind.Adapter }
                    { none with Drafter = Some DrafterKind.Adapter; StopRule = Some StopRuleKind.Marginal }
                    {
                        none with
                            Drafter = Some DrafterKind.Adapter
                            Policy = Some DraftPolicyKind.Auto
                            ExitLayer = Some 2
                    }
                ] do
                let adapters layer =
                    asked.Add layer
                    Ok adapter

                let plan =
                    Drafting.decideWith adapters Sampling.Greedy checkpoint drafting |> Check.getOrRaise

                Expect.equal (plan.Exit |> Option.map _.Layers) (Some 2) "the adapter's exit"
                let strategy = Drafting.strategyWith (fun () -> cheap 4) checkpoint plan
                Expect.equal (text weights strategy 40 [| 1; 2; 3 |]) plain (told drafting)

            Expect.equal (List.ofSeq asked) [ None; None; Some 2 ] "asked for once, where one is to draft"

            Drafting.decide Sampling.Greedy checkpoint { none with Drafter = Some DrafterKind.Adapter }
            |> messages
            |> expectFault [ "has no adapter" ])

        testCase "each kept draft has the origin of who made it" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 24 4 4 2 false; Seed = 5L }

            for drafting in every 4 do
                let strategy = strategy (over weights None) drafting |> Check.getOrRaise

                let events =
                    Generation.run weights None (GenerationOptions.greedy strategy 60) [| 1; 2; 3 |]
                    |> Check.getOrRaise
                    |> List.ofSeq

                let tokens origin =
                    events
                    |> List.filter (function
                        | GenerationEvent.Token token -> token.Origin = origin
                        | _ -> false)
                    |> List.length

                let stats = (Generation.result events).Stats

                let kept isLookup =
                    stats.Sources
                    |> Array.sumBy (fun source ->
                        if (source.Source = "lookup") = isLookup then
                            source.AcceptedDraftTokens
                        else
                            0)

                Expect.equal (tokens Origin.LookedUp) (kept true) $"looked up: {told drafting}"
                Expect.equal (tokens Origin.Drafted) (kept false) $"drafted: {told drafting}")

        testCase "costs are asked for where they count, and nowhere else" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 24 4 4 2 true; Seed = 3L }
            let checkpoint = over weights None

            let asks options =
                let mutable asked = 0

                Drafting.decide Sampling.Greedy checkpoint options
                |> Check.getOrRaise
                |> Drafting.strategyWith
                    (fun () ->
                        asked <- asked + 1
                        cheap 4)
                    checkpoint
                |> ignore

                asked > 0

            for options in every 4 do
                let counts =
                    options.Policy = Some DraftPolicyKind.Auto
                    || options.StopRule = Some StopRuleKind.Marginal

                Expect.equal (asks options) counts (told options))
    ]
