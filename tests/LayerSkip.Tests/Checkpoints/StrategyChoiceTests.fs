module LayerSkip.Tests.StrategyChoiceTests

open Expecto
open LayerSkip
open LayerSkip.Tests.Tiny

Backend.ensure ()

let private none = DraftingOptions.none

/// Each option alone.
let private alone = [
    { none with Drafter = Some DrafterKind.Lookup }
    { none with Policy = Some DraftPolicyKind.Static }
    { none with StopRule = Some StopRuleKind.Del }
    { none with ExitLayer = Some 2 }
    { none with DraftLength = Some 3 }
    { none with DraftVocabulary = Some "6" }
    { none with LayersKept = Some "1,3" }
    { none with Acceptance = Some AcceptanceRule.lossyAlways }
]

let private together: DraftingOptions = {
    Drafter = Some DrafterKind.Exit
    Policy = Some DraftPolicyKind.Static
    StopRule = Some StopRuleKind.Del
    ExitLayer = Some 2
    DraftLength = Some 3
    DraftVocabulary = Some "6"
    LayersKept = Some "1,3"
    Past = None
    Acceptance = Some AcceptanceRule.exact
}

let private model = { Config = config 24 4 2 2 true; Seed = 5L }

let private over recommended body =
    withWeights Dtype.F32 model (fun weights ->
        body { Checkpoint.ofWeights "tiny" weights None with Recommended = recommended })

let private planned strategy drafting checkpoint =
    StrategyChoice.plan Sampling.Greedy checkpoint { Strategy = strategy; Drafting = drafting }

let private optionOf (error: LayerSkipError) =
    match error with
    | LayerSkipError.Excluded(option, _, "strategy", _, _) -> option
    | error -> LayerSkipError.message error

[<Tests>]
let tests =
    testSequenced
    <| testList "choice of a strategy" [
        testCase "every option is given under its own name, with its value" (fun () ->
            Expect.equal
                (DraftingOptions.given together)
                [
                    "drafter", "exit"
                    "policy", "static"
                    "stop-rule", "del"
                    "exit-layer", "2"
                    "draft-length", "3"
                    "draft-vocabulary", "6"
                    "layers-kept", "1,3"
                    "acceptance", "exact"
                ]
                "all"

            let fields = FSharp.Reflection.FSharpType.GetRecordFields typeof<DraftingOptions>
            Expect.equal
                (DraftingOptions.given together).Length
                (fields.Length - 1)
                "past texts are no option"
            Expect.equal
                (alone |> List.collect DraftingOptions.named)
                (DraftingOptions.named together)
                "each")

        for kind, taken in [ StrategyKind.Autoregressive, []; StrategyKind.EarlyExit, [ "exit-layer" ] ] do
            testCase
                $"{StrategyKind.name kind} leaves no option without use in silence, and tells of all at once"
                (fun () ->
                    let choice drafting = { Strategy = Some kind; Drafting = drafting }
                    let all = DraftingOptions.named together |> List.except taken
                    Expect.equal
                        (StrategyChoice.exclusions (choice together) |> List.map optionOf)
                        all
                        "before a model is there"

                    over (Some(2, 3)) (fun checkpoint ->
                        let found = planned (Some kind) together checkpoint |> Check.faults
                        Expect.equal (List.map optionOf found) all "over a model"

                        for drafting in alone do
                            let found = planned (Some kind) drafting checkpoint
                            let named = DraftingOptions.named drafting |> List.except taken
                            Expect.equal (Check.faults found |> List.map optionOf) named "each alone"))

        testCase "a number that nothing takes is told as that, not as one too many" (fun () ->
            over None (fun checkpoint ->
                for kind in [ StrategyKind.Autoregressive; StrategyKind.EarlyExit ] do
                    let found =
                        planned
                            (Some kind)
                            {
                                none with
                                    ExitLayer = Some 9
                                    DraftLength = Some 0
                                    Policy = Some DraftPolicyKind.Auto
                            }
                            checkpoint

                    Expect.equal
                        (Check.faults found |> List.map LayerSkipError.message)
                        [
                            "exit layer is 9, it must be 1 to 3: the model has 4 layers"
                            "draft-length is 0, it must be 1 or more"
                            $"policy and strategy {StrategyKind.name kind} exclude each other: it drafts nothing; leave one out"
                        ]
                        "three"))

        testCase "what is left open is the model's to recommend" (fun () ->
            let is expected recommended strategy drafting =
                over recommended (fun checkpoint ->
                    let shown =
                        match planned strategy drafting checkpoint |> Check.getOrRaise with
                        | StrategyPlan.Autoregressive -> "autoregressive"
                        | StrategyPlan.EarlyExit exit -> $"early-exit {exit.Layers}"
                        | StrategyPlan.SelfSpeculative plan ->
                            let exit = plan.Exit |> Option.map _.Layers |> Option.defaultValue 0
                            let length = defaultArg plan.Length 0
                            $"{DraftPolicyKind.name plan.Policy} {DrafterKind.name plan.Drafter} {exit} {length}"

                    Expect.equal shown expected $"%A{recommended} %A{strategy}")

            is "autoregressive" None None none
            is "auto cascade 2 0" (Some(2, 3)) None none
            is "static exit 1 4" None None { none with ExitLayer = Some 1 }
            is "autoregressive" (Some(2, 3)) (Some StrategyKind.Autoregressive) none
            is "early-exit 2" (Some(2, 3)) (Some StrategyKind.EarlyExit) none
            is "early-exit 3" (Some(2, 3)) (Some StrategyKind.EarlyExit) { none with ExitLayer = Some 3 }
            is "static exit 2 3" (Some(2, 3)) (Some StrategyKind.SelfSpeculative) none

            is "static exit 2 3" (Some(2, 3)) (Some StrategyKind.SelfSpeculative) {
                none with
                    Acceptance = Some AcceptanceRule.lossyAlways
            }

            Expect.isTrue (StrategyChoice.saysNothing StrategyChoice.none) "nothing is said")

        testCase
            "the rule of acceptance is the strategy's, and its faults are told with the others"
            (fun () ->
                over (Some(2, 3)) (fun checkpoint ->
                    let rule = AcceptanceRule.lossyTopK 2
                    let strategy =
                        StrategyChoice.create Sampling.Greedy checkpoint {
                            Strategy = Some StrategyKind.SelfSpeculative
                            Drafting = { none with Acceptance = Some rule }
                        }
                        |> Check.getOrRaise

                    Expect.equal
                        (strategy.Acceptance.Name, strategy.IsLossless)
                        ("lossy top-k:2", false)
                        "its own"

                    let bad = {
                        none with
                            Acceptance = Some(AcceptanceRule.lossyTopK 0)
                            DraftLength = Some 0
                    }

                    Expect.equal
                        (planned None bad checkpoint |> Check.faults |> List.map LayerSkipError.message)
                        [
                            "draft-length is 0, it must be 1 or more"
                            "acceptance is lossy top-k:0, it must be top-k:1 or more"
                        ]
                        "both"))
    ]
