module LayerSkip.Tests.ReuseTests

open System
open System.Threading
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.TensorSupport
open LayerSkip.Tests.Tiny
open LayerSkip.Tests.DraftingSupport
open LayerSkip.Tests.ServingSupport

Backend.ensure ()

let private drawn = Sampling.create 1.0 0 1.0 |> Check.getOrRaise

let private ofOptions sampling (checkpoint: Checkpoint) (options: DraftingOptions) =
    Drafting.decide sampling checkpoint options
    |> Check.getOrRaise
    |> Drafting.strategyWith (fun () -> cheap checkpoint.Config.Layers) checkpoint

/// Whatever writes greedy texts, by name.
let private greedy (case: Case) (checkpoint: Checkpoint) = [
    Strategy.Autoregressive
    Strategy.EarlyExit(exit case.Model.Config.Layers case.Exit)
    for options in every case.Model.Config.Layers do
        ofOptions Sampling.Greedy checkpoint options
    (Strategy.SelfSpeculative(exit case.Model.Config.Layers case.Exit, case.Draft))
        .Within(ContextVocabulary.around [| 0..5 |])
]

/// What draws the same text whatever the time that passes took.
let private timeless (case: Case) (checkpoint: Checkpoint) =
    let none = { DraftingOptions.none with Policy = Some DraftPolicyKind.Static }

    [
        Strategy.Autoregressive
        Strategy.EarlyExit(exit case.Model.Config.Layers case.Exit)
        for rule in [ StopRuleKind.Never; StopRuleKind.Confidence 0.06; StopRuleKind.AdaEdl ] do
            for drafter in [ DrafterKind.Exit; DrafterKind.Cascade ] do
                ofOptions drawn checkpoint { none with Drafter = Some drafter; StopRule = Some rule }
        ofOptions drawn checkpoint { none with Drafter = Some DrafterKind.Lookup }
        ofOptions drawn checkpoint { none with LayersKept = Some "1" }
        ofOptions drawn checkpoint { none with Policy = Some DraftPolicyKind.Del }
        (Strategy.SelfSpeculative(exit case.Model.Config.Layers case.Exit, case.Draft))
            .Within(ContextVocabulary.around [| 0..5 |])
    ]

let private turn (conversation: Conversation) options prompt =
    match Conversation.continued options prompt conversation with
    | Ok start -> start CancellationToken.None |> Generation.result
    | Error faults -> failtest (LayerSkipError.summary faults)

/// The prompts of a conversation: each time what was said before, now and then less of it, and a few tokens or none.
let private nextPrompt (random: Random) (said: int[]) =
    let kept =
        match random.Next 4 with
        | 0 -> Array.truncate (random.Next(1, said.Length + 1)) said
        | _ -> said

    let prompt = Array.append kept (Array.init (random.Next 5) (fun _ -> random.Next 24))

    if prompt.Length > 70 then
        prompt[prompt.Length - 12 ..]
    else
        prompt

/// Six turns, each by one of the strategies: every text is what a fresh cache writes. How many prompt tokens were not read again.
let private converse
    (checkpoint: Checkpoint)
    sampling
    (strategies: Strategy list)
    (prompt: int[])
    (seed: int)
    =
    use conversation = Conversation.start checkpoint
    let random = Random seed
    let strategies = Array.ofList strategies
    let mutable prompt = prompt
    let mutable reused = 0
    // Half of the conversations keep to one strategy.
    let own = strategies[random.Next strategies.Length]
    let changes = random.Next 2 = 0

    for _ in 1..6 do
        let strategy =
            if changes then
                strategies[random.Next strategies.Length]
            else
                own

        let options = {
            options strategy (1 + random.Next 12) with
                Sampling = sampling
                Seed = int64 (random.Next())
        }

        let expected = fresh checkpoint options prompt
        let made = turn conversation options prompt
        Expect.equal made.TokenIds expected.TokenIds $"{strategy.Name} after %A{prompt}"
        reused <- reused + made.ReusedIds
        prompt <- nextPrompt random (Array.append made.PromptIds made.TokenIds)

    reused

let private strategyOf (case: Case) =
    Strategy.SelfSpeculative(exit case.Model.Config.Layers case.Exit, case.Draft)

let private model = { Config = Tiny.config 24 4 4 2 true; Seed = 5L }

let private case = { Model = model; Exit = 2; Draft = 3; Prompt = [| 1; 4; 2; 3; 9; 8; 7; 11 |] }

let private withCheckpoint body =
    withWeights Dtype.F32 model (fun weights -> body (over case.Exit case.Draft weights))

/// The ids that a prefix cache has read of a prompt, for a text that reads it all and is then returned.
let private through (prefixes: PrefixCache) (checkpoint: Checkpoint) strategy (prompt: int[]) =
    pulls prefixes checkpoint.Weights (options strategy 4) prompt
    |> Seq.concat
    |> Generation.result

[<Tests>]
let tests =
    testSequenced
    <| testList "kept caches" [
        for dtype in [ Dtype.F32; Dtype.BF16; Dtype.F64 ] do
            testPropertyWithConfig
                (settings 15)
                $"{dtype}: every turn's greedy text is a fresh cache's, whatever drafts"
            <| fun (case: Case) (seed: int) ->
                withWeights dtype case.Model (fun weights ->
                    let checkpoint = over case.Exit case.Draft { weights with Prefill = Prefill.Exact }
                    converse checkpoint Sampling.Greedy (greedy case checkpoint) case.Prompt seed |> ignore)

        testPropertyWithConfig (settings 25) "a drawn text is a fresh cache's too, seed by seed"
        <| fun (case: Case) (seed: int) ->
            withWeights Dtype.F32 case.Model (fun weights ->
                let checkpoint = over case.Exit case.Draft weights
                converse checkpoint drawn (timeless case checkpoint) case.Prompt seed |> ignore)

        testCase "what one turn read and wrote, the next does not read again" (fun () ->
            withCheckpoint (fun checkpoint ->
                for strategy in [ Strategy.Autoregressive; strategyOf case ] do
                    use conversation = Conversation.start checkpoint
                    let mutable prompt = case.Prompt
                    let mutable read = 0

                    for _ in 1..5 do
                        let made = turn conversation (options strategy 6) prompt
                        Expect.equal made.ReusedIds read "read before"
                        // All but the last token, which was written and not read.
                        read <- prompt.Length + made.TokenIds.Length - 1
                        Expect.isGreaterThanOrEqual conversation.Ids.Length read "in the cache"
                        prompt <- Array.concat [ prompt; made.TokenIds; [| 5; 6 |] ]))

        testCase "a turn that is left or cancelled in the middle leaves what it had read" (fun () ->
            withCheckpoint (fun checkpoint ->
                use conversation = Conversation.start checkpoint
                let options = options (strategyOf case) 12
                let expected = (fresh checkpoint options case.Prompt).TokenIds

                let start = Conversation.continued options case.Prompt conversation |> Check.getOrRaise

                start CancellationToken.None |> Seq.take 3 |> Seq.length |> ignore
                Expect.isGreaterThanOrEqual conversation.Ids.Length case.Prompt.Length "left"

                use cancelled = new CancellationTokenSource()
                let start = Conversation.continued options case.Prompt conversation |> Check.getOrRaise

                Expect.throwsT<OperationCanceledException>
                    (fun () ->
                        for event in start cancelled.Token do
                            match event with
                            | GenerationEvent.Round _ -> cancelled.Cancel()
                            | _ -> ())
                    "cancelled"

                Expect.isGreaterThanOrEqual conversation.Ids.Length case.Prompt.Length "cancelled"
                let made = turn conversation options case.Prompt
                Expect.equal made.TokenIds expected "the text"
                Expect.equal made.ReusedIds case.Prompt.Length "all of it"))

        testCase "what only some layers have read is no use to the whole model" (fun () ->
            withCheckpoint (fun checkpoint ->
                use conversation = Conversation.start checkpoint
                let early = Strategy.EarlyExit(exit 4 2)
                let run strategy = turn conversation (options strategy 6) case.Prompt
                Expect.equal (run early).ReusedIds 0 "new"
                Expect.equal (run early).ReusedIds 7 "the same exit"
                Expect.equal (run (Strategy.EarlyExit(exit 4 1))).ReusedIds 0 "another exit"
                Expect.equal (run Strategy.Autoregressive).ReusedIds 0 "every layer"
                // The whole model's positions serve any exit.
                Expect.equal
                    (run early).ReusedIds
                    7
                    "an exit, after the whole model, from whose last position no exit's token comes"
                Expect.equal (run Strategy.Autoregressive).ReusedIds 7 "which reads behind them"
                Expect.equal (run Strategy.Autoregressive).ReusedIds 8 "and then has read all"))

        testCase "the prompt's log-probabilities are those of a cache that reads all of it" (fun () ->
            withCheckpoint (fun checkpoint ->
                for strategy in [ strategyOf case; Strategy.EarlyExit(exit 4 2) ] do
                    use conversation = Conversation.start checkpoint
                    let asked = { options strategy 4 with PromptLogProbs = Some 2; LogProbs = Some 2 }
                    let longer = Array.append case.Prompt [| 3; 5 |]
                    turn conversation asked case.Prompt |> ignore
                    let made, expected = turn conversation asked longer, fresh checkpoint asked longer
                    Expect.equal made.PromptLogProbs expected.PromptLogProbs "the prompt's"
                    Expect.equal made.LogProbs expected.LogProbs "the text's"))

        testCase "memory is one cache's, however many turns there were" (fun () ->
            withCheckpoint (fun checkpoint ->
                let vocabulary = ContextVocabulary.around [| 0..5 |]
                let strategies = [
                    strategyOf case
                    (strategyOf case).Within vocabulary
                    ofOptions Sampling.Greedy checkpoint DraftingOptions.none
                ]

                use conversation = Conversation.start checkpoint

                let run () =
                    for strategy in strategies do
                        turn conversation (options strategy 6) case.Prompt |> ignore

                run ()
                let before = liveTensors ()

                for _ in 1..20 do
                    run ()

                Expect.equal (liveTensors ()) before "tensors"
                conversation.Clear()
                Expect.equal conversation.Bytes 0L "bytes"))

        testCase "a prefix is taken whole, copied where it is a part, and left where it is short" (fun () ->
            withCheckpoint (fun checkpoint ->
                use prefixes = new PrefixCache(checkpoint.Weights, 4, 1L <<< 30)
                let strategy = strategyOf case
                let run prompt = (through prefixes checkpoint strategy prompt).ReusedIds
                let system = Array.init 24 (fun i -> (7 * i) % 24)
                let prompt ending = Array.append system ending
                let first = prompt [| 1; 2; 3; 4; 5; 6; 7; 8 |]

                Expect.equal (run first) 0 "nothing is held"
                Expect.equal (run (prompt [| 9; 9; 9; 9 |])) 24 "the system's, copied"
                Expect.equal prefixes.Count 2 "both are held"
                Expect.equal (run (Array.append first [| 3 |])) 32 "the first one is still whole"
                Expect.equal (run [| system[0]; 23 |]) 0 "a token is not worth it"
                Expect.isGreaterThan prefixes.Bytes 0L "bytes"))

        testCase "a beginning is known whoever drafts, and who looks at more of it keeps that" (fun () ->
            withCheckpoint (fun checkpoint ->
                let none = DraftingOptions.none
                let plain, del = Strategy.Autoregressive, { none with Policy = Some DraftPolicyKind.Del }
                let ofOptions = ofOptions Sampling.Greedy checkpoint
                let auto = ofOptions { none with Policy = Some DraftPolicyKind.Auto }
                let lookup = ofOptions { none with Drafter = Some DrafterKind.Lookup }
                let del = ofOptions del
                let prompt = Array.init 24 (fun i -> (7 * i) % 24)

                let reused (strategies: Strategy list) =
                    use prefixes = new PrefixCache(checkpoint.Weights, 4, 1L <<< 30)

                    [
                        for strategy in strategies do
                            let made = through prefixes checkpoint strategy prompt
                            let expected = fresh checkpoint (options strategy 4) prompt
                            Expect.equal made.TokenIds expected.TokenIds strategy.Name
                            made.ReusedIds
                    ]

                Expect.equal
                    (reused [ plain; auto; lookup; strategyOf case; auto; plain ])
                    [ 0; 24; 24; 24; 24; 24 ]
                    "the same positions"

                // It looks at states of the prompt's end, which others have not kept.
                Expect.equal (reused [ plain; del; plain; auto; del ]) [ 0; 0; 24; 24; 24 ] "its own"

                // A layer that the model has not is refused over a kept cache as over a new one.
                use prefixes = new PrefixCache(checkpoint.Weights, 4, 1L <<< 30)
                through prefixes checkpoint plain prompt |> ignore
                let cache = prefixes.Take(plain, prompt)
                use _cache = cache.Slab :> IDisposable
                Expect.equal (Cache.keeping [ 4 ] cache).Keeps true "the last layer"
                Expect.throwsT<ArgumentException> (fun () -> Cache.keeping [ 5 ] cache |> ignore) "layer 5"))

        testCase "as many texts stay as may, and as many bytes; the longest unused go" (fun () ->
            withCheckpoint (fun checkpoint ->
                let strategy = Strategy.Autoregressive
                let texts = [| for i in 0..4 -> Array.init 20 (fun j -> (i + 3 * j + i * j) % 24) |]
                use prefixes = new PrefixCache(checkpoint.Weights, 3, 1L <<< 30)
                let run text = (through prefixes checkpoint strategy text).ReusedIds

                for text in texts do
                    Expect.equal (run text) 0 "new"

                Expect.equal prefixes.Count 3 "three"
                Expect.equal (run texts[2]) 20 "the third is there"
                Expect.equal (run texts[0]) 0 "the first is gone"
                let each = prefixes.Bytes / 3L
                prefixes.Shrink(2L * each + each / 2L)
                Expect.equal prefixes.Count 2 "two"
                Expect.equal (run texts[2]) 20 "the latest ones stay"
                use none = new PrefixCache(checkpoint.Weights, 0, 1L <<< 30)
                through none checkpoint strategy texts[0] |> ignore
                Expect.equal (none.Count, none.Bytes) (0, 0L) "none"))

        testCase "a cache in use is nobody else's" (fun () ->
            withCheckpoint (fun checkpoint ->
                use prefixes = new PrefixCache(checkpoint.Weights, 3, 1L <<< 30)
                let strategy = Strategy.Autoregressive
                through prefixes checkpoint strategy case.Prompt |> ignore
                let longer = Array.append case.Prompt [| 3 |]
                let first, second = prefixes.Take(strategy, longer), prefixes.Take(strategy, longer)
                use _first = first.Slab :> IDisposable
                use _second = second.Slab :> IDisposable
                Expect.isFalse (obj.ReferenceEquals(first.Slab, second.Slab)) "two caches"
                Expect.equal second.Early.Length 0 "the second begins anew"))
    ]
