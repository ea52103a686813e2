module LayerSkip.Tests.ContextVocabularyTests

open System
open System.Threading
open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Kernels
open LayerSkip.Tests.Tiny

/// A plan of any kind over 24 ids: some of them small enough to begin anew every few rounds.
let private planOf (seed: int) : ContextVocabulary =
    let random = Random seed
    let frequent = [| 0..23 |] |> Array.sortBy (fun _ -> random.Next()) |> Array.truncate (random.Next 12)

    if frequent.Length > 0 && random.Next 4 = 0 then
        ContextVocabulary.ofList frequent
    else
        {
            Frequent = frequent
            HasText = frequent.Length = 0 || random.Next 3 > 0
            Likeliest = random.Next 5
            Capacity = frequent.Length + 1 + random.Next 12
        }

let private confident = StopRule.confidence 0.2

let private drafters layers exit : Drafter list =
    let exit = Tiny.exit layers exit

    [
        Drafter.earlyExit exit
        Drafter.earlyExitUntil confident exit
        Drafter.earlyExitUntil StopRule.adaEdl exit
        Drafter.ofPolicy [ exit ] 2 StopRule.never (DraftPolicy.fixed' "fixed" (DraftPlan.fixed' exit 3))
    ]

/// Every standing of a decoding, the pass over the prompt first.
let private standings (weights: Weights) strategy sampling length prompt (look: Round -> Standing -> 'T) = [
    let decoding = { Rounds.greedy weights strategy length with Sampling = sampling; Seed = 3L }

    for struct (round, standing) in Rounds.run decoding prompt CancellationToken.None do
        look round standing
]

let private around frequent = { ContextVocabulary.around frequent with Likeliest = 3; Capacity = 24 }

let private inTemporary (text: string) (body: string -> unit) =
    let path = IO.Path.GetTempFileName()

    try
        IO.File.WriteAllText(path, text)
        body path
    finally
        IO.File.Delete path

let private sampled temperature topK = Sampling.create temperature topK 0.9 |> Check.getOrRaise

[<Tests>]
let tests =
    testSequenced
    <| testList "a vocabulary in context" [
        for dtype in [ Dtype.F32; Dtype.F64 ] do
            testPropertyWithConfig
                (Tiny.settings 15)
                $"{dtype}: whatever ids drafts are chosen from, the text is the whole model's"
            <| fun (case: Case) (seed: int) ->
                use weights = Tiny.weights dtype case.Model
                let text strategy = (complete weights (options strategy 24) case.Prompt).TokenIds
                let plain = text Strategy.Autoregressive

                for number, drafter in List.indexed (drafters case.Model.Config.Layers case.Exit) do
                    let plan = planOf (seed + number)
                    let strategy = Strategy.Speculative(drafter, LengthPolicy.Fixed case.Draft)
                    Expect.equal (text (strategy.Within plan)) plain $"%A{plan}"

            testPropertyWithConfig
                (Tiny.settings 10)
                $"{dtype}: drafts are among its ids, which are those of the plan, the text and the likeliest"
            <| fun (case: Case) (seed: int) ->
                use weights = Tiny.weights dtype case.Model
                let plan = planOf seed
                let exit = Tiny.exit case.Model.Config.Layers case.Exit
                let strategy = Strategy.SelfSpeculative(exit, case.Draft).Within plan

                let all =
                    standings weights strategy Sampling.Greedy 20 case.Prompt (fun round standing ->
                        let ids = DraftVocabulary.ids standing.Vocabulary.Value
                        round, standing.Text.ToArray(), standing.Likeliest, ids)

                for round, text, likeliest, ids in all do
                    Expect.equal (Array.distinct ids) ids "each once"
                    Expect.isLessThanOrEqual ids.Length plan.Capacity "as many as may be"
                    Expect.containsAll ids plan.Frequent "the frequent ones"
                    Expect.equal
                        likeliest.Length
                        (if plan.Likeliest = 0 then 0 else round.Accepted + 1)
                        "rows"
                    let joined = Array.concat likeliest
                    Expect.containsAll (Array.concat [ plan.Frequent; text; joined; ids ]) ids "no others"

                    if plan.HasText then
                        Expect.contains ids (Array.last text) "the latest token"

                // What is kept of a round's drafts was among the ids that the round before left.
                for (_, _, _, ids), (round, _, _, _) in List.pairwise all do
                    Expect.containsAll ids (Array.truncate round.Accepted round.Tokens) "drafts"

            testPropertyWithConfig
                (Tiny.settings 10)
                $"{dtype}: over all ids, drafts are those of the whole head"
            <| fun (case: Case) ->
                use weights = Tiny.weights dtype case.Model
                let exit = Tiny.exit case.Model.Config.Layers case.Exit
                let plan = ContextVocabulary.ofList (FrequencyList.firstIds 24 24)

                for sampling in [ Sampling.Greedy; sampled 0.9 0; sampled 0.7 9 ] do
                    for rule in [ StopRule.never; confident; StopRule.adaEdl ] do
                        let strategy =
                            Strategy.Speculative(Drafter.earlyExitUntil rule exit, LengthPolicy.Fixed 3)

                        let rounds strategy =
                            standings weights strategy sampling 16 case.Prompt (fun round _ -> round)
                        Expect.equal
                            (rounds (strategy.Within plan))
                            (rounds strategy)
                            $"{sampling}, {rule.Name}"

        testPropertyWithConfig
            (Tiny.settings 15)
            "every token is decided by the logits of plain decoding, bit for bit: T3"
        <| fun (case: Case) (seed: int) ->
            use weights = Tiny.weights Dtype.F32 case.Model
            let exit = Tiny.exit case.Model.Config.Layers case.Exit

            let decisive strategy =
                let rows = Collections.Generic.Dictionary<int, int64[]>()

                // A refused draft's rows are overwritten by those of the round after it.
                let keep first logits =
                    for row, values in Array.indexed (Logits.toFloats logits) do
                        rows[first + row] <- Array.map BitConverter.DoubleToInt64Bits values

                let decoding = { Rounds.greedy weights strategy 20 with Watch = Some keep }
                let struct (_, standing) = Rounds.run decoding case.Prompt CancellationToken.None |> Seq.last
                [ for place in case.Prompt.Length .. standing.Text.Count - 1 -> rows[place] ]

            let strategy = Strategy.SelfSpeculative(exit, case.Draft).Within(planOf seed)
            Expect.equal (decisive strategy) (decisive Strategy.Autoregressive) "the same bits"

        testPropertyWithConfig (Tiny.settings 10) "it begins anew with what the text said last"
        <| fun (text: byte[]) (PositiveInt room) (more: byte[]) ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 24 2 1 1 true; Seed = 1L }
            let cache = Cache.create weights 1 4
            use _storage = cache.Slab :> IDisposable
            let some (bytes: byte[]) = bytes |> Array.map (fun id -> int id % 24)
            let text = Array.append [| 3; 5 |] (some text)
            let room = 1 + room % 9
            let plan = { around [| 7; 8 |] with Capacity = 2 + room }
            let start = ContextVocabulary.start (ReadOnlyMemory text) cache plan
            let full = DraftVocabulary.renew [| 7..23 |] start
            let latest = Array.append (some more) [| 0 |]
            let after = Array.append text latest
            let next = ContextVocabulary.learn (ReadOnlyMemory after) latest [| [| 1; 2 |] |] full plan
            let expected = Array.rev after |> Array.distinct |> Array.truncate ((room + 1) / 2)
            let ids = DraftVocabulary.ids next
            Expect.isLessThanOrEqual ids.Length (2 + room) "as many as may be"
            Expect.sequenceEqual (Array.truncate 2 ids) [| 7; 8 |] "the frequent ones"
            Expect.containsAll ids expected "the latest"

        for dtype in [ Dtype.F32; Dtype.BF16; Dtype.F64 ] do
            testCase $"{dtype}: the certificate holds, whoever drafts" (fun () ->
                use model =
                    Tiny.weights dtype { Config = Tiny.config 24 6 4 2 false; Seed = 11L }
                    |> fun weights -> Checkpoint.ofWeights "tiny" weights None

                let set = LayerSet.tryParse 6 "1,3-4,6" |> Check.getOrRaise

                for plan in [ planOf 1; planOf 3; ContextVocabulary.ofList [| 5 |] ] do
                    let report =
                        Certify.run model {
                            Certify.options with
                                ExitLayers = [ 2; 4 ]
                                DraftLengths = [ 1; 3 ]
                                Drafters = Drafter.layers set :: drafters 6 3
                                Vocabulary = Some plan
                        }

                    Expect.equal report.Violation 0 $"%A{plan}: %A{report.Tests}"

                    for test in report.Tests do
                        if not (test.Name = "T3" && dtype = Dtype.F64) then
                            Expect.isGreaterThan test.Checks 0 test.Name)

        testCase
            "sampled drafts from some ids keep the whole model's law: T4 over each draft's own"
            (fun () ->
                use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 6 3 2 1 false; Seed = 11L }

                for sampling in [ sampled 1.0 0; sampled 0.8 4 ] do
                    for ids in [ [| 4 |]; [| 5; 1 |]; [| 0; 3; 2; 5 |] ] do
                        let after (text: int list) body =
                            Scope.free (fun () ->
                                let cache = Cache.create weights 1 (text.Length + 2)
                                use _storage = cache.Slab :> IDisposable
                                let struct (early, read) =
                                    Model.forwardEarly weights (Array.ofList (2 :: text)) cache
                                body early read)

                        let whole (text: int list) =
                            after text (fun _ read ->
                                let struct (hidden, _) =
                                    Model.forwardRemainder weights 1 (Array.ofList (2 :: text)) read
                                (Model.logits hidden |> Logits.toFloats)[0] |> Sampling.law sampling)

                        let draft (text: int list) =
                            after text (fun early read ->
                                let some = DraftVocabulary.create 6 read |> DraftVocabulary.add ids

                                let struct (draft, _) =
                                    DraftChoice.pick
                                        sampling
                                        (Some some)
                                        DraftReading.Token
                                        early
                                        (Key.ofSeed 1L)

                                match draft.Law with
                                | DraftLaw.Drawn law ->
                                    Expect.equal law.Length 6 "over the vocabulary"
                                    Expect.floatClose Accuracy.high (Array.sum law) 1.0 "a law"
                                    Expect.all
                                        [ 0..5 ]
                                        (fun id -> Array.contains id ids || law[id] = 0.0)
                                        "of these ids"
                                    law
                                | DraftLaw.Certain -> failtest "drawn, not certain")

                        for draftLength in 1..2 do
                            let error = SamplingLaw.worstError whole draft draftLength
                            Expect.isLessThan error 1e-12 $"{sampling}, ids {ids}, {draftLength} drafts")

        testCase "and texts that are sampled with it are as frequent as plain ones" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 6 3 2 1 false; Seed = 11L }
            let sampling = sampled 1.0 0
            let strategy =
                Strategy.SelfSpeculative(Tiny.exit 3 1, 2).Within(ContextVocabulary.ofList [| 1; 4; 5 |])

            let law (text: int[]) =
                Scope.free (fun () ->
                    let cache = Cache.create weights 1 text.Length
                    use _storage = cache.Slab :> IDisposable
                    let struct (hidden, _) = Model.forward weights 1 text cache
                    (Model.logits hidden |> Logits.toFloats)[0] |> Sampling.law sampling)

            // The first token is the prompt's pass', the two others a round's.
            let expected = [|
                for a, pa in Array.indexed (law [| 2 |]) do
                    for b, pb in Array.indexed (law [| 2; a |]) do
                        for pc in law [| 2; a; b |] -> pa * pb * pc
            |]

            let counts = Array.zeroCreate<int> expected.Length

            for seed in 1L .. 3000L do
                let options = { options strategy 3 with Sampling = sampling; Seed = seed }
                let text = (complete weights options [| 2 |]).TokenIds
                let cell = 36 * text[0] + 6 * text[1] + text[2]
                counts[cell] <- counts[cell] + 1

            Expect.isLessThan (SamplingLaw.chiSquare expected counts) 5.0 "standard deviations")

        testCase "its memory goes with the text, and lookup takes none" (fun () ->
            for dtype in [ Dtype.F32; Dtype.F64 ] do
                use weights = Tiny.weights dtype { Config = Tiny.config 24 3 4 2 true; Seed = 5L }
                let plan = around [| 1; 2 |]
                let decode (strategy: Strategy) =
                    complete weights (options (strategy.Within plan) 20) [| 3; 4 |] |> ignore
                let exits = Strategy.SelfSpeculative(Tiny.exit 3 1, 3)
                decode exits
                let tensors, floats = TensorSupport.liveTensors (), TensorSupport.liveFloats ()

                for _ in 1..3 do
                    decode exits

                Expect.equal torch.Tensor.TotalCount tensors "tensors"
                Expect.equal FloatBuffer.Held floats "bytes"

                let lookup = Strategy.Speculative(Drafter.promptLookup 3, LengthPolicy.Fixed 3).Within plan
                let made =
                    standings weights lookup Sampling.Greedy 12 [| 3; 4 |] (fun _ standing ->
                        standing.Vocabulary)
                Expect.all made Option.isNone "nothing is gathered")

        testCase "drafts from it are profiled as they are made, in caches of their own" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 24 4 4 2 true; Seed = 5L }
            let measured () = PassProfile.measureWithin (Some(around [| 1; 2 |])) weights
            measured () |> ignore
            let tensors, floats = TensorSupport.liveTensors (), TensorSupport.liveFloats ()
            let costs = measured ()
            Expect.isGreaterThan (PassCosts.draft costs 1) 0.0 "a draft takes time"
            Expect.equal (torch.Tensor.TotalCount, FloatBuffer.Held) (tensors, floats) "nothing is left")

        testCase "plans that cannot be are refused, every fault at once" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 24 3 4 2 true; Seed = 5L }
            let strategy plan = Strategy.SelfSpeculative(Tiny.exit 3 1, 3).Within plan

            for plan, parts in
                [
                    ContextVocabulary.ofList [| 3; 24; 25 |], [ "24" ]
                    ContextVocabulary.ofList [||], [ "without an id" ]
                    { around [| -1 |] with Likeliest = -2; Capacity = 1 }, [ "likeliest"; "capacity"; "-1" ]
                ] do
                match Generation.run weights None (options (strategy plan) 8) [| 1 |] with
                | Ok _ -> failtest $"%A{plan}"
                | Error faults ->
                    let messages = faults |> List.map LayerSkipError.message
                    Expect.equal messages.Length parts.Length $"%A{messages}"

                    for part in parts do
                        Expect.exists messages _.Contains(part) part)

        testCase "it pays of itself where the head outweighs two layers" (fun () ->
            let shape vocabulary layers hidden intermediate heads kvHeads =
                LlamaConfig.Llama(vocabulary, layers, hidden, intermediate, heads, kvHeads, context = 2048)

            let sizes (config: LlamaConfig) =
                ContextVocabulary.auto config
                |> Option.map (fun plan -> plan.Frequent.Length, plan.Capacity)

            Expect.equal (sizes (shape 49152 30 576 1536 9 3)) (Some(4096, 6144)) "SmolLM2-135M"
            Expect.equal (sizes (shape 128256 32 4096 14336 32 8)) (Some(10688, 16032)) "Llama-3-8B"
            Expect.equal (sizes (shape 1024 24 288 768 6 6)) None "stories-10m")

        testCase "frequencies count every text, the most frequent first" (fun () ->
            Expect.equal (FrequencyList.count [ [| 5; 1; 5 |]; [| 2; 1; 5 |] ]) [| 5; 1; 2 |] "5, 1, 2"
            Expect.equal (FrequencyList.firstIds 3 2) [| 0; 1 |] "no more than there are")

        testProperty "a list of ids is read in its order, each once, whatever stands between"
        <| fun (ids: byte list) (seed: int) ->
            let ids = 7 :: (ids |> List.map int)
            let random = Random seed

            let text =
                ids
                |> List.map (fun id -> $"{id}" + [| " "; ","; "\n"; "\r\n"; " ,\t\n\n" |][random.Next 5])
                |> String.concat ""

            inTemporary text (fun path ->
                Expect.equal (FrequencyList.load 256 path) (Ok(Array.ofList (List.distinct ids))) text)

        testCase "a list that is none is told with its line" (fun () ->
            for text, part in
                [
                    "1 2\n3, x\n", "line 2 has \"x\"; ids of this model are whole numbers from 0 to 23"
                    "24", "line 1 has \"24\""
                    "-1", "line 1 has \"-1\""
                    "1.5", "line 1 has \"1.5\""
                    String('9', 300), "99999 ..\""
                    " \n,\n", "has no id"
                    "", "has no id"
                ] do
                inTemporary text (fun path ->
                    match FrequencyList.load 24 path with
                    | Ok ids -> failtest $"%A{ids}"
                    | Error faults ->
                        let message = faults |> List.map LayerSkipError.message |> List.exactlyOne
                        Expect.stringContains message part text
                        Expect.stringContains message (IO.Path.GetFileName path) "the file"))

        testCase "options name it: auto, all, a number of first ids, or a list" (fun () ->
            let config = LlamaConfig.Llama(49152, 30, 576, 1536, 9, 3, context = 2048)
            let parse = ContextVocabulary.parse "draft-vocabulary" config
            Expect.equal (parse "auto") (Ok(ContextVocabulary.auto config)) "auto"
            Expect.equal (parse "all") (Ok None) "all"
            Expect.equal (parse "49152") (Ok None) "as many as all"
            let first = ContextVocabulary.around (FrequencyList.firstIds 512 49152)
            Expect.equal (parse "512") (Ok(Some first)) "a number"

            inTemporary "3 1 3" (fun path ->
                Expect.equal (parse path) (Ok(Some(ContextVocabulary.around [| 3; 1 |]))) "a list")

            for word in [ "0"; "-4"; "nowhere.txt" ] do
                match parse word with
                | Ok plan -> failtest $"{word}: %A{plan}"
                | Error faults -> Expect.stringContains (LayerSkipError.summary faults) word "it is named")
    ]
