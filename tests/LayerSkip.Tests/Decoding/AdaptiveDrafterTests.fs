module LayerSkip.Tests.AdaptiveDrafterTests

open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Tests.TensorSupport
open LayerSkip.Tests.Tiny

/// Another exit and length each round, so that the border of the cache's halves moves in every way.
let private wandering layers (seed: int) : DraftPolicy =
    let plan step = {
        Exit = exit layers (1 + abs (seed + 7 * step) % (layers - 1))
        Length = abs (seed / 3 + step) % 5
        StopBelow = if step % 3 = 0 then 0.05 else 0.0
    }

    DraftPolicy.folded "wandering" plan (fun _ step -> step + 1) 0

let private everyExit layers = List.init (layers - 1) (fun i -> exit layers (i + 1))

let private rules (layers: int) : StopRule list =
    let cost: RoundCost =
        fun exit drafted -> 1.0 + 0.1 * float drafted + float (exit * drafted) / float layers

    [
        StopRule.never
        StopRule.confidence 0.06
        StopRule.draftVerify
        StopRule.adaEdl
        StopRule.del
        StopRule.marginal cost
    ]

/// Drafting that chooses for itself, with times that make drafts cheap, dear, or odd.
let private autos (layers: int) (salt: int) : Drafter list =
    let costs cheap = {
        Rows = Array.init 6 (fun row -> 1.0 + cheap * float row)
        DraftBase = cheap / 2.0
        DraftLayer = cheap / 10.0
    }

    let create cheap exits start lookup past =
        AutoDrafter.create {
            Costs = costs cheap
            Exits = exits
            Start = start
            Longest = 1 + abs salt % 12
            Lookup = lookup
            Past = past
        }

    let past = PastTexts 1000
    past.Add(System.ReadOnlySpan [| 1; 2; 3; 1; 2; 3; 4; 5; 6; 1; 2; 3 |])
    let first = exit layers 1

    [
        create 0.01 (everyExit layers) (Some first) true None
        create 0.0 (everyExit layers) None true (Some past)
        create 0.02 [] (Some first) false None
        create 0.01 [] None true None
        create 10.0 (everyExit layers) (Some first) true None
    ]

/// The rows that a drafter was shown.
let private recording
    (shown: ResizeArray<JudgedRow>)
    (watched: ExitLayer list)
    (policy: DraftPolicy)
    : Drafter =
    let policy = {
        new DraftPolicy with
            member _.Name = policy.Name
            member _.Next = policy.Next
            member this.Learn seen =
                if not seen.IsPrompt then
                    shown.AddRange seen.Rows.Value

                this
    }

    Drafter.ofPolicy watched 0 StopRule.never policy

[<Tests>]
let tests =
    testSequenced
    <| testList "adaptive drafters" [
        testProperty "what a pass is believed to take, asked alone, is what it is among all"
        <| fun (rounds: (int * NormalFloat * NormalFloat) list) ->
            let step costs (rows, ms: NormalFloat, draftMs: NormalFloat) =
                let rows = 1 + abs (rows % 20)
                let draftMs = if rows = 1 then 0.0 else abs draftMs.Get

                let seen = {
                    IsPrompt = false
                    Round = { Tokens = [| 1 |]; Drafted = rows - 1; Accepted = 0; Sources = [||] }
                    Drafts = [||]
                    Rows = lazy [||]
                    Ms = draftMs + abs ms.Get
                    DraftMs = draftMs
                }

                LearnedCosts.learn 2 (rows - 1) rows seen costs

            let learned = rounds |> List.fold step (LearnedCosts.start (PassCosts.ofShares 4 1.0 2.0))
            let now = LearnedCosts.now learned

            for rows in 1..20 do
                Expect.equal (LearnedCosts.pass learned rows) (PassCosts.pass now rows) $"{rows} rows"

            for exit in 1..3 do
                Expect.floatClose
                    Accuracy.veryHigh
                    (LearnedCosts.draft learned exit)
                    (PassCosts.draft now exit)
                    $"exit {exit}"

        for dtype in [ Dtype.F32; Dtype.F64 ] do
            testPropertyWithConfig
                (Tiny.settings 15)
                $"{dtype}: whichever exit drafts, and whatever ends a draft, the text is the whole model's"
            <| fun (case: Case) (salt: int) ->
                use weights = Tiny.weights dtype case.Model
                let layers = case.Model.Config.Layers
                let text strategy = complete weights (options strategy 24) case.Prompt
                let plain = text Strategy.Autoregressive

                for rule in rules layers do
                    let drafters = [
                        Drafter.ofPolicy (everyExit layers) 0 rule (wandering layers (salt % 1000))
                        Drafter.ofPolicy (everyExit layers) 32 rule (AdaptivePolicies.del false layers [||])
                        Drafter.earlyExitUntil rule (exit layers case.Exit)
                    ]

                    for drafter in drafters do
                        let made = text (Strategy.Adaptive drafter)
                        Expect.equal made.TokenIds plain.TokenIds $"{drafter.Name}, {rule.Name}"

            testPropertyWithConfig
                (Tiny.settings 15)
                $"{dtype}: what watched exits say live is what a trace says"
            <| fun (case: Case) (salt: int) ->
                use weights = Tiny.weights dtype case.Model
                let layers = case.Model.Config.Layers
                let shown = ResizeArray<JudgedRow>()
                let policy =
                    DraftPolicy.fixed' "fixed" {
                        DraftPlan.fixed' (exit layers case.Exit) 3 with
                            Length = abs (salt % 5)
                    }
                let drafter = recording shown (everyExit layers) policy
                let made = complete weights (options (Strategy.Adaptive drafter) 24) case.Prompt

                let trace =
                    Trace.run weights { Trace.options with MaxNewTokens = made.TokenIds.Length } case.Prompt
                    |> Check.getOrRaise

                let rows = Array.truncate (made.TokenIds.Length - 1) trace.Rows
                Expect.equal (shown.Count, rows.Length) (rows.Length, rows.Length) "every position once"

                for live, traced in Seq.zip shown rows do
                    Expect.equal live.Token traced.Token "the whole model's token"
                    Expect.equal live.Choices[.. layers - 2] traced.Choices[.. layers - 2] "choices"

                    for exit in 0 .. layers - 2 do
                        Expect.floatClose
                            Accuracy.low
                            live.Confidences[exit]
                            traced.Confidences[exit]
                            "confidence"

            testPropertyWithConfig
                (Tiny.settings 25)
                $"{dtype}: whatever chooses for itself, the text is the whole model's"
            <| fun (case: Case) (salt: int) ->
                use weights = Tiny.weights dtype case.Model
                let layers = case.Model.Config.Layers
                let plain = complete weights (options Strategy.Autoregressive 48) case.Prompt

                for index, drafter in List.indexed (autos layers (salt % 1000)) do
                    // The same value again: it remembers nothing of the text before.
                    for _ in 1..2 do
                        let made = complete weights (options (Strategy.Adaptive drafter) 48) case.Prompt
                        Expect.equal made.TokenIds plain.TokenIds $"way {index}"

        testCase "drafting that does not pay ends, and what pays is found" (fun () ->
            let model = { Config = Tiny.config 24 4 4 2 true; Seed = 5L }
            use weights = Tiny.weights Dtype.F32 model
            let drafted drafter =
                (complete weights (options (Strategy.Adaptive drafter) 200) [| 1; 2 |]).Stats
            let ways = autos 4 11
            // Random models soon repeat themselves.
            let lookup = drafted ways[3]
            Expect.isGreaterThan lookup.NumAcceptedDraftTokens 50 "lookup"
            Expect.equal (lookup.Sources |> Array.map _.Source) [| "lookup" |] "by lookup alone"
            Expect.isGreaterThan lookup.DraftAcceptanceRate 0.7 "what is drafted is kept"
            Expect.equal (drafted ways[4]).NumDraftTokens 0 "a row that costs ten passes is not drafted")

        testPropertyWithConfig
            (Tiny.settings 15)
            "DEL live, from the prompt's last rows on, drafts and keeps what its replay does"
        <| fun (case: Case) ->
            use weights = Tiny.weights Dtype.F32 case.Model
            let layers = case.Model.Config.Layers

            for honours in [ true; false ] do
                let live =
                    AdaptivePolicies.del honours layers [||]
                    |> Drafter.ofPolicy (everyExit layers) 32 StopRule.never
                    |> Strategy.Adaptive

                let made = complete weights (options live 24) case.Prompt

                let trace =
                    Trace.run weights { Trace.options with MaxNewTokens = 24; PromptRows = 32 } case.Prompt
                    |> Check.getOrRaise

                let replayed =
                    Replay.ofTrace trace
                    |> Replay.follow (fun _ _ -> 1.0) (AdaptivePolicies.del honours layers trace.PromptRows)

                Expect.equal (made.Stats.Rounds |> Array.map snd) (replayed |> Array.map _.Accepted) "kept"

        testProperty
            "Draft & Verify's threshold follows what is kept, within its steps"
            (fun (kept: bool[]) ->
                let draft confidence = { Draft.certain 1 with Confidence = ValueSome confidence }

                let seen isKept = {
                    IsPrompt = false
                    Round = {
                        Tokens = [| 1 |]
                        Drafted = 1
                        Accepted = if isKept then 1 else 0
                        Sources = [||]
                    }
                    Drafts = [| draft 0.0 |]
                    Rows = lazy [||]
                    Ms = 1.0
                    DraftMs = 0.5
                }

                // The threshold, found from outside.
                let threshold (rule: StopRule) =
                    seq { 0.0..0.0001..1.0 }
                    |> Seq.find (fun confidence -> not (rule.IsEnough [ draft confidence ]))

                let mutable share, expected, rule = 1.0, 0.8, StopRule.draftVerify

                for isKept in Array.truncate 20 kept do
                    share <- 0.5 * share + (if isKept then 0.5 else 0.0)
                    expected <- expected + 0.1 * (if share < 0.9 then 0.01 else -0.01)
                    rule <- rule.Learn(seen isKept)

                Expect.isLessThan (abs (threshold rule - expected)) 0.00011 "threshold")

        testProperty "the marginal rule drafts as long as is best where every draft has the same chance"
        <| fun (chanceOf: byte) (costOf: byte) ->
            let chance, each = 0.3 + 0.65 * float chanceOf / 255.0, 0.05 + 0.5 * float costOf / 255.0
            let cost: RoundCost = fun _ drafted -> 1.0 + each * float drafted
            let yields drafted = (1.0 - chance ** float (drafted + 1)) / (1.0 - chance)
            let rate drafted = yields drafted / cost 1 drafted
            let best = [ 1..60 ] |> List.maxBy rate

            // Rounds of `best` drafts, kept as often as they should be; the confidence says the chance.
            let draft = { Draft.certain 1 with Confidence = ValueSome chance; Source = DraftSource.Exit 1 }

            let random = System.Random 7

            let round () =
                let accepted =
                    Seq.init best (fun _ -> random.NextDouble())
                    |> Seq.takeWhile (fun u -> u < chance)
                    |> Seq.length

                {
                    IsPrompt = false
                    Round = {
                        Tokens = Array.replicate (accepted + 1) 1
                        Drafted = best
                        Accepted = accepted
                        Sources = Array.replicate best (DraftSource.Exit 1)
                    }
                    Drafts = Array.replicate best draft
                    Rows = lazy [||]
                    Ms = cost 1 best
                    DraftMs = 0.0
                }

            let lengthOf (rule: StopRule) =
                Seq.initInfinite (fun i -> i + 1)
                |> Seq.find (fun made -> made = 60 || rule.IsEnough(List.replicate made draft))

            // What the rule has of the last rounds is noisy, so many moments of it count together; and flat near the best, so rates do.
            let lengths =
                Seq.init 600 (fun _ -> round ())
                |> Seq.scan (fun (rule: StopRule) seen -> rule.Learn seen) (StopRule.marginal cost)
                |> Seq.indexed
                |> Seq.filter (fun (index, _) -> index >= 100 && index % 20 = 0)
                |> Seq.map (snd >> lengthOf)
                |> List.ofSeq

            Expect.isGreaterThan
                (lengths |> List.averageBy rate)
                (0.93 * rate best)
                $"%A{lengths} drafts, {best} are best"

        testCase "no tensor is left behind where states are kept" (fun () ->
            let model = { Config = Tiny.config 24 4 4 2 true; Seed = 3L }
            use weights = Tiny.weights Dtype.F64 model

            let run () =
                let drafter = Drafter.ofPolicy (everyExit 4) 8 StopRule.never (wandering 4 5)
                complete weights (options (Strategy.Adaptive drafter) 40) [| 1; 2; 3 |] |> ignore

            run ()
            let before = TensorSupport.liveTensors ()
            run ()
            Expect.equal torch.Tensor.TotalCount before "tensors")
    ]
