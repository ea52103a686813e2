module LayerSkip.Tests.ReplayTests

open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Tests.TensorSupport
open LayerSkip.Tests.Tiny

Backend.ensure ()

let private traceOf weights maxNewTokens stopIds promptRows prompt =
    Trace.run weights { MaxNewTokens = maxNewTokens; StopIds = stopIds; PromptRows = promptRows } prompt
    |> Check.getOrRaise

let private plan layers layer length = DraftPlan.fixed' (exit layers layer) length

/// The definition that the fast form must agree with: `Speculation.step` itself, over the places of a trace. A state is the row
/// that is read next, and whether the context is the text; what would be drafted in another context nobody knows.
let private roundsByStep (trace: Trace) (plan: DraftPlan) : (int * int)[] =
    let layer = plan.Exit.Layers
    let isStop id = Array.contains id trace.StopIds
    let unseen, other = -1, -2

    let propose _ (struct (row, onText)) =
        let token =
            if onText then
                trace.Rows[row].Choices[layer - 1]
            else
                unseen
        struct (Draft.certain token, struct (row + 1, onText && token = trace.Rows[row].Token))

    let rec go row rounds =
        if row >= trace.Rows.Length then
            List.rev rounds
        else
            let verify (ids: int[]) state =
                let verdicts =
                    Array.init ids.Length (fun i ->
                        trace.Rows
                        |> Array.tryItem (row + i)
                        |> Option.map _.Token
                        |> Option.defaultValue other)
                struct (verdicts, state)

            let judge (drafts: Draft[]) verdicts state =
                let struct (agreed, next) = Acceptance.greedy verdicts (drafts |> Array.map _.Token)
                struct (agreed, next, state)

            let struct (round, _) =
                Speculation.step
                    isStop
                    (Speculation.oneByOne isStop propose)
                    verify
                    judge
                    (fun _ state -> state)
                    (min plan.Length (trace.Limit - row - 2))
                    trace.Written[row]
                    (struct (row, true))

            go (row + round.Tokens.Length) ((round.Drafted, round.Accepted) :: rounds)

    go 0 [] |> Array.ofList

let private pairs (rounds: ReplayedRound[]) = rounds |> Array.map (fun round -> round.Drafted, round.Accepted)

/// A cost with jags, as machines have.
let private jagged: RoundCost =
    fun exit drafted -> 10.0 + float (exit * drafted) + (if drafted > 3 then 4.0 else 0.0)

/// A trace of two exits' matches, one layer more than exits, of a vocabulary in which the text is 0, 1, 2..
let private traceOfMatches (matches: bool list list) : Trace =
    let exits = matches.Head.Length

    {
        Prompt = [| 0 |]
        Written = [| 0 .. matches.Length |]
        Stopped = false
        Limit = matches.Length + 1
        StopIds = [||]
        Layers = exits + 1
        Rows = [|
            for index, row in List.indexed matches do
                let token = index + 1

                {
                    Token = token
                    Choices = [|
                        for right in row do
                            if right then token else 999

                        token
                    |]
                    Confidences = Array.create (exits + 1) 0.5
                }
        |]
        PromptRows = [||]
    }

/// Times of rounds as a machine gave them, by exit and draft length: of 2, 5, 9 and 1, 2, 4, 8.
let private timed (ms: int -> int -> float) : RoundTimes = {
    PlainMs = 1.0
    Rounds = [
        for exit in [ 2; 5; 9 ] do
            for drafted in [ 1; 2; 4; 8 ] do
                {
                    Exit = exit
                    Drafted = drafted
                    RoundMs = ms exit drafted
                    DraftMs = 0.0
                    VerifyMs = 0.0
                }
    ]
    Context = 1
    Samples = 1
}

[<Tests>]
let tests =
    testList "replay" [
        testProperty
            "whatever a busy machine did to the times, more drafts and later exits cost no less, and no round nothing"
        <| fun (salt: int) ->
            let random = System.Random salt
            let cost = RoundTimes.cost (timed (fun _ _ -> 0.1 + 10.0 * random.NextDouble()))

            for exit in 1..12 do
                for drafted in 1..20 do
                    Expect.isGreaterThanOrEqual (cost exit drafted) 0.1 $"{exit}, {drafted}"
                    Expect.isGreaterThanOrEqual (cost exit (drafted + 1)) (cost exit drafted - 1e-9) "drafts"
                    Expect.isGreaterThanOrEqual (cost (exit + 1) drafted) (cost exit drafted - 1e-9) "exits"

        testCase "times that rise stay as they were measured, with lines between and beyond" (fun () ->
            let cost = RoundTimes.cost (timed (fun exit drafted -> float (exit * drafted)))

            for exit in [ 2; 5; 9 ] do
                for drafted in [ 1; 2; 3; 4; 6; 8; 18 ] do
                    Expect.floatClose Accuracy.high (cost exit drafted) (float (exit * drafted)) "measured"

            Expect.floatClose Accuracy.high (cost 7 3) 21.0 "between"
            Expect.equal (cost 3 0) 1.0 "plain decoding")

        testProperty
            "pooled neighbours keep the sum, never fall, and leave what rises alone"
            (fun (values: int list) ->
                let values = values |> List.map float |> Array.ofList
                let pooled = RoundTimes.rising values
                Expect.floatClose Accuracy.high (Array.sum pooled) (Array.sum values) "sum"
                Expect.equal (Array.sort pooled) pooled "rising"
                Expect.equal (RoundTimes.rising (Array.sort values)) (Array.sort values) "as they were")

        testPropertyWithConfig
            (settings 40)
            "every round is decoding's, with stop tokens and without"
            (fun (case: Case) (salt: PositiveInt) ->
                let stops =
                    if salt.Get % 2 = 0 then
                        [||]
                    else
                        [| salt.Get % 24; salt.Get / 24 % 24 |]
                let layers = case.Model.Config.Layers

                withWeights Dtype.F32 case.Model (fun weights ->
                    let trace = traceOf weights 24 stops 0 case.Prompt
                    let replay = Replay.ofTrace trace

                    let live strategy =
                        complete weights { options strategy 24 with StopIds = stops } case.Prompt

                    Expect.equal trace.TokenIds (live Strategy.Autoregressive).TokenIds "the text"

                    for layer in 1 .. layers - 1 do
                        for length in [ 1; case.Draft; 8 ] do
                            let plan = plan layers layer length
                            let found = Replay.rounds plan replay
                            let expected = (live (Strategy.SelfSpeculative(plan.Exit, length))).Stats.Rounds
                            Expect.equal (pairs found) (roundsByStep trace plan) "as step over the trace"
                            Expect.equal (Array.map _.Accepted found) (Array.map snd expected) "accepted"

                            for round, (drafted, _) in Array.zip found expected do
                                Expect.isTrue
                                    (round.DraftedAtLeast <= drafted && drafted <= round.Drafted)
                                    $"{drafted} drafts of {round.DraftedAtLeast} to {round.Drafted}"

                            if stops.Length = 0 then
                                Expect.equal (pairs found) expected "drafted"))

        testPropertyWithConfig
            (settings 30)
            "drafts that end where confidence does are decoding's"
            (fun (case: Case) (share: NormalFloat) ->
                // Live, by a drafter that stops as a plan says.
                let layers = case.Model.Config.Layers
                let threshold = abs share.Get % 0.5

                let stopping = Drafter.earlyExitUntil (StopRule.confidence threshold)

                withWeights Dtype.F32 case.Model (fun weights ->
                    let replay = traceOf weights 24 [||] 0 case.Prompt |> Replay.ofTrace
                    let exit = exit layers case.Exit
                    let found =
                        Replay.rounds { Exit = exit; Length = case.Draft; StopBelow = threshold } replay

                    let expected =
                        (complete
                            weights
                            (options (Strategy.Speculative(stopping exit, LengthPolicy.Fixed case.Draft)) 24)
                            case.Prompt)
                            .Stats.Rounds

                    Expect.equal (Array.map _.Accepted found) (Array.map snd expected) "accepted"

                    for round, (drafted, _) in Array.zip found expected do
                        Expect.isTrue
                            (round.DraftedAtLeast <= drafted && drafted <= round.Drafted)
                            $"{drafted} drafts of {round.DraftedAtLeast} to {round.Drafted}"))

        testPropertyWithConfig
            (settings 20)
            "rows are what the layers say, in float64 too, and the prompt's stand apart"
            (fun (case: Case) ->
                for dtype in [ Dtype.F32; Dtype.F64 ] do
                    withWeights dtype case.Model (fun weights ->
                        let trace = traceOf weights 9 [||] 3 case.Prompt
                        let text = Array.append case.Prompt trace.Written
                        let layers = case.Model.Config.Layers
                        // Teacher-forced, over the whole text at once.
                        let logits = ResizeArray<float[][]>()
                        use _scope = Scope.inference ()

                        Decoder.exits
                            weights
                            (fun _ exit -> logits.Add(Tensors.toFloats exit |> Array.chunkBySize 24))
                            (Tensors.ofIds [| 1L; int64 text.Length |] text)

                        let rows = Array.append trace.PromptRows trace.Rows
                        // The prompt's last row is the one whose token is the first new one.
                        let first = case.Prompt.Length - trace.PromptRows.Length
                        Expect.equal trace.PromptRows.Length (min 3 case.Prompt.Length) "rows of the prompt"

                        for index, row in Array.indexed rows do
                            Expect.equal row.Choices[layers - 1] row.Token "the last layer's own"

                            for layer in 1..layers do
                                let law = Sampling.softmax (logits[layer - 1][first + index])
                                Expect.floatClose
                                    Accuracy.low
                                    row.Confidences[layer - 1]
                                    (Array.max law)
                                    $"confidence, layer {layer}"
                                Expect.floatClose
                                    Accuracy.low
                                    law[row.Choices[layer - 1]]
                                    (Array.max law)
                                    $"argmax, layer {layer}"))

        testProperty
            "the oracle is the best of all ways through a text"
            (fun (bits: NonEmptyArray<bool>) (salt: byte) ->
                let rows =
                    bits.Get
                    |> Array.truncate 14
                    |> Array.chunkBySize 2
                    |> Array.filter (fun row -> row.Length = 2)

                if rows.Length > 0 then
                    let replay =
                        rows |> Array.map List.ofArray |> List.ofArray |> traceOfMatches |> Replay.ofTrace
                    let cost: RoundCost =
                        fun exit drafted -> jagged exit drafted + float (int salt * (exit + 3 * drafted) % 7)
                    let plans = [
                        for layer in 1..2 do
                            for length in 1..3 -> plan 3 layer length
                    ]

                    let rec least row =
                        if row >= rows.Length then
                            0.0
                        else
                            plan 3 1 0 :: plans
                            |> List.map (fun plan ->
                                let round = Replay.round plan row replay
                                Replay.ms cost round + least (row + round.Rows))
                            |> List.min

                    let total rounds = rounds |> Array.sumBy (Replay.ms cost)
                    let oracle = Replay.oracle cost plans replay
                    Expect.floatClose Accuracy.high (total oracle) (least 0) "every way tried"
                    Expect.equal (oracle |> Array.sumBy _.Rows) rows.Length "the whole text"

                    for plan in plans do
                        Expect.isLessThanOrEqual
                            (total oracle)
                            (total (Replay.rounds plan replay) + 1e-9)
                            "no fixed plan is better"

                    for policy in
                        [
                            AdaptivePolicies.del false 3 [||]
                            AdaptivePolicies.del true 3 [||]
                            AdaptivePolicies.ucb cost plans
                            AdaptivePolicies.followTheLeader 8 cost plans.Head plans
                        ] do
                        let rounds = Replay.follow cost policy replay
                        Expect.equal (rounds |> Array.sumBy _.Rows) rows.Length policy.Name)

        testCase "policies settle on what pays" (fun () ->
            // Exit 1 is never right and exit 2 always is.
            let replay = List.replicate 400 [ false; true ] |> traceOfMatches |> Replay.ofTrace
            let cost: RoundCost = fun exit drafted -> 3.0 + 0.3 * float exit * float drafted
            let plans = [
                for layer in 1..2 do
                    for length in 1..4 -> plan 3 layer length
            ]
            let settled policy = (Replay.follow cost policy replay |> Array.rev)[1..20]

            for round in settled (AdaptivePolicies.followTheLeader 64 cost plans.Head plans) do
                Expect.equal (round.Plan.Exit.Layers, round.Plan.Length) (2, 4) "the leader"

            for round in settled (AdaptivePolicies.del false 3 [||]) do
                Expect.equal (round.Plan.Exit.Layers, round.Accepted) (2, AdaptivePolicies.delLongest) "DEL"

            let pulls =
                Replay.follow cost (AdaptivePolicies.ucb cost plans[4..]) replay
                |> Array.countBy _.Plan.Length
                |> Array.maxBy snd

            Expect.equal (fst pulls) 4 "the bandit pulls the best arm most"

            // The other way round, the leader follows.
            let turn = List.replicate 100 [ false; true ] @ List.replicate 300 [ false; false ]
            let turned = traceOfMatches turn |> Replay.ofTrace
            let last =
                Replay.follow cost (AdaptivePolicies.followTheLeader 64 cost plans.Head plans) turned
                |> Array.last
            Expect.equal last.Plan.Length 0 "where nothing matches it does not draft")

        testCase "DEL by hand" (fun () ->
            let row confidences choices = { Token = 7; Choices = choices; Confidences = confidences }
            let evidence = [|
                row [| 0.9; 0.6; 1.0 |] [| 7; 7; 7 |]
                row [| 0.3; 0.8; 1.0 |] [| 1; 7; 7 |]
            |]
            let policy = AdaptivePolicies.del true 3 evidence
            // alpha = 1/2 and 1. Exit 1: 1/3, 1.5/4, 1.75/5..; exit 2: (1 + d) / (3 + 2 d), which grows.
            let plan = policy.Next
            Expect.equal (plan.Exit.Layers, plan.Length) (2, AdaptivePolicies.delLongest) "exit 2"
            Expect.equal plan.StopBelow 0.0 "it has not missed yet"

            let seen = {
                IsPrompt = false
                Round = { Tokens = [| 7 |]; Drafted = 1; Accepted = 0; Sources = [||] }
                Drafts = [| Draft.certain 1 |]
                Rows = lazy [| row [| 0.5; 0.2; 1.0 |] [| 7; 1; 7 |] |]
                Ms = 1.0
                DraftMs = 0.0
            }

            let next = (policy.Learn seen).Next
            // Exit 1: 1.95 of 2.9; exit 2: 1.9 of 2.9. The best of sum alpha^j / (3 + d E):
            let rate alpha exit d = Seq.sum [ for j in 0..d -> alpha ** float j ] / float (3 + d * exit)

            let best =
                List.maxBy (fun (exit, d) -> rate (if exit = 1 then 1.95 / 2.9 else 1.9 / 2.9) exit d) [
                    for exit in 1..2 do
                        for d in 0..18 -> exit, d
                ]

            Expect.equal (next.Exit.Layers, next.Length) (fst best, max 1 (snd best)) "the best rate"
            // Exit 1: right 0.95 0.9 + 0.5 over 1.95, wrong 0.95 0.3 over 0.95.
            Expect.floatClose
                Accuracy.high
                next.StopBelow
                (((0.95 * 0.9 + 0.5) / 1.95 + 0.3) / 2.0)
                "the middle of its confidences")

        testCase "a trace frees what it makes, also where it is refused" (fun () ->
            withWeights Dtype.F32 { Config = config 24 4 4 2 false; Seed = 3L } (fun weights ->
                let once () =
                    traceOf weights 12 [||] 2 [| 1; 2; 3 |] |> ignore
                    Trace.run weights Trace.options [||] |> ignore

                once ()
                let before = liveTensors ()

                for _ in 1..5 do
                    once ()

                Expect.equal (liveTensors ()) before "tensors"))

        testCase "what is refused is said, all at once" (fun () ->
            withWeights Dtype.F32 { Config = config 24 4 4 2 false; Seed = 3L } (fun weights ->
                let options = {
                    Trace = Trace.options
                    Exits = [ 0; 4 ]
                    Lengths = [ 0 ]
                    Start = plan 4 1 2
                    BudgetMs = 1.0
                }

                match ReplayReport.run weights options [| 1 |] with
                | Ok _ -> failtest "refused"
                | Error faults -> Expect.equal faults.Length 3 "two exits and a length"))

        testCase "times of rounds make a surface whose best is no better than the oracle" (fun () ->
            withWeights Dtype.F32 { Config = config 24 6 4 2 false; Seed = 3L } (fun weights ->
                let options = {
                    Trace = { Trace.options with MaxNewTokens = 40; PromptRows = 32 }
                    Exits = [ 1..5 ]
                    Lengths = [ 1..4 ]
                    Start = plan 6 2 3
                    BudgetMs = 30.0
                }

                let report = ReplayReport.run weights options [| 1; 2; 3 |] |> Check.getOrRaise
                Expect.equal report.Grid.Length 20 "the surface"
                let least = report.Grid |> List.map _.MsPerToken |> List.min
                Expect.equal report.Best.Value.MsPerToken least "the best"
                let oracle = report.Policies.Head
                Expect.isLessThanOrEqual oracle.MsPerToken least "the oracle"
                Expect.equal oracle.OracleRegret 0.0 "no regret"

                for policy in report.Policies do
                    Expect.isGreaterThan policy.MsPerToken 0.0 policy.Name
                    Expect.isGreaterThanOrEqual
                        policy.Stats.NumDraftTokens
                        policy.DraftedAtLeast
                        policy.Name))

        testCase "a context without room for a round has no times, and nothing to choose by" (fun () ->
            for context in 2..4 do
                let config = { config 24 3 4 2 false with Context = context }

                withWeights Dtype.F32 { Config = config; Seed = 3L } (fun weights ->
                    let options = {
                        Trace = Trace.options
                        Exits = [ 1; 2 ]
                        Lengths = [ 1; 8 ]
                        Start = plan 3 1 2
                        BudgetMs = 1.0
                    }

                    let report = ReplayReport.run weights options [| 1 |] |> Check.getOrRaise
                    Expect.equal report.Trace.Written.Length (context - 1) "the text"
                    Expect.equal report.Times.IsSome (context > 2) "times"))
    ]
