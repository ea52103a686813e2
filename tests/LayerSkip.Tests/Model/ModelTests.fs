module LayerSkip.Tests.ModelTests

open System
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.Tiny

Backend.ensure ()

let private worst (a: Tensor) (b: Tensor) =
    Expect.equal a.shape b.shape "same shape"
    Tensors.toFloats ((a - b).abs().max()) |> Array.head

/// Runs over a model's weights, and frees them.
let private withWeights dtype model (body: Weights -> 'T) : 'T =
    use weights = Tiny.weights dtype model
    body weights

let private withCache weights exit capacity (body: Cache -> 'T) : 'T =
    let cache = Cache.create weights exit capacity
    use _storage = cache.Slab :> IDisposable
    body cache

/// The persistent form that defines the cache: every append makes new tensors, and any old record stays valid.
let private persistent (keys: Tensor[]) (values: Tensor[]) : KvStore =
    fun layer k v ->
        let append (past: Tensor[]) (fresh: Tensor) =
            past[layer] <-
                if isNull past[layer] then
                    fresh.clone ()
                else
                    torch.cat ([| past[layer]; fresh |], 2L)
            past[layer].DetachFromDisposeScope() |> ignore
            past[layer]

        struct (append keys k, append values v)

[<Tests>]
let tests =
    testSequenced
    <| testList "model" [
        testPropertyWithConfig (settings 40) "early and remainder give what the whole forward pass gives"
        <| fun (case: Case) ->
            withWeights Dtype.F64 case.Model (fun weights ->
                Scope.free (fun () ->
                    let ids = case.Prompt
                    let whole =
                        withCache
                            weights
                            case.Model.Config.Layers
                            16
                            (Model.forward weights ids.Length ids >> fun struct (hidden, _) -> hidden.Read())

                    withCache weights case.Exit 16 (fun cache ->
                        // Token by token through the early layers, then all at once through the rest.
                        let cache =
                            ids[.. ids.Length - 2]
                            |> Array.fold
                                (fun cache id ->
                                    let struct (_, cache) = Model.forwardEarly weights [| id |] cache
                                    cache)
                                cache

                        let struct (hidden, cache) = Model.forwardRemainder weights ids.Length ids cache
                        Expect.equal (cache.Pending, cache.Late.Length) (0, ids.Length) "all verified"
                        Expect.isLessThan (worst whole (hidden.Read())) 1e-12 "same hidden states")))

        testPropertyWithConfig (settings 30) "preallocated and persistent caches agree"
        <| fun (case: Case) ->
            withWeights Dtype.F64 case.Model (fun weights ->
                Scope.free (fun () ->
                    let config = case.Model.Config
                    let empty () : Tensor[] = Array.create config.Layers null
                    let store = persistent (empty ()) (empty ())
                    let rope = Rope.table config 32 torch.ScalarType.Float64 torch.CPU

                    withCache weights config.Layers 32 (fun cache ->
                        let mutable cache = cache

                        for start, id in Array.indexed case.Prompt do
                            let ids = Tensors.ofIds [| 1L; 1L |] [| id |]

                            let reference =
                                Decoder.embed weights ids
                                |> Decoder.runLayers Decoder.plain store rope weights 0 config.Layers start

                            let struct (hidden, next) = Model.forward weights 1 [| id |] cache
                            cache <- next
                            Expect.isLessThan (worst reference (hidden.Read())) 1e-12 "same hidden state")))

        testPropertyWithConfig (settings 30) "a rewound cache decodes like a fresh one"
        <| fun (case: Case) ->
            withWeights Dtype.F64 case.Model (fun weights ->
                Scope.free (fun () ->
                    let layers = case.Model.Config.Layers
                    let next = [| 7; 3 |]

                    let direct =
                        withCache weights layers 32 (fun cache ->
                            let struct (_, cache) = Model.forward weights 1 case.Prompt cache
                            let struct (hidden, _) = Model.forward weights 2 next cache
                            hidden.Read())

                    withCache weights layers 32 (fun cache ->
                        let struct (_, cache) = Model.forward weights 1 case.Prompt cache
                        let struct (_, cache) = Model.forward weights 1 [| 9; 9; 9 |] cache
                        let cache = Cache.truncate case.Prompt.Length cache
                        let struct (hidden, _) = Model.forward weights 2 next cache
                        Expect.isLessThan (worst direct (hidden.Read())) 1e-12 "same hidden states")))

        testPropertyWithConfig (settings 30) "every exit over a whole text agrees with the cached pass"
        <| fun (case: Case) ->
            withWeights Dtype.F64 case.Model (fun weights ->
                Scope.free (fun () ->
                    let ids = case.Prompt

                    Decoder.exits
                        weights
                        (fun layer logits ->
                            let cached =
                                withCache weights layer 16 (fun cache ->
                                    let struct (hidden, _) = Model.forwardEarly weights ids cache
                                    Decoder.head weights (hidden.Read()))

                            let last = logits.narrow (1L, int64 ids.Length - 1L, 1L)
                            Expect.isLessThan (worst last cached) 1e-11 $"exit {layer}")
                        (Tensors.ofIds [| 1L; int64 ids.Length |] ids)))

        testCase "a stale cache record is an error that says what to do" (fun () ->
            withWeights Dtype.F32 { Config = Tiny.config 24 2 2 1 true; Seed = 1L } (fun weights ->
                Scope.free (fun () ->
                    withCache weights 1 8 (fun cache ->
                        let struct (_, _) = Model.forward weights 1 [| 1; 2 |] cache

                        let message =
                            try
                                Model.forward weights 1 [| 3 |] cache |> ignore
                                ""
                            with :? InvalidOperationException as e ->
                                e.Message

                        Expect.stringContains
                            message
                            "use the one that the last forward or truncate returned"
                            "the mend"))))

        testCase "attention over groups is attention over repeated keys" (fun () ->
            Scope.free (fun () ->
                let draw (shape: int64[]) = torch.randn (shape, torch.ScalarType.Float64)
                let q, k, v = draw [| 2; 3; 6; 4 |], draw [| 2; 2; 5; 4 |], draw [| 2; 2; 5; 4 |]
                let mask = Ops.mask (Some 4) 2 3 torch.CPU
                let repeated (t: Tensor) = t.repeat_interleave (3L, 1L)

                let scores =
                    (q.transpose(1L, 2L).matmul((repeated k).transpose(2L, 3L)) / 2.0)
                        .masked_fill(mask.logical_not (), Double.NegativeInfinity.ToScalar())

                let expected = scores.softmax(-1L).matmul(repeated v).transpose(1L, 2L).reshape(2L, 3L, 24L)
                Expect.isLessThan (worst expected (Ops.attention mask q k v)) 1e-12 "same"

                let visible = mask.``to`` (torch.ScalarType.Int64) |> Tensors.toIds
                Expect.equal visible [| 1; 1; 1; 0; 0; 1; 1; 1; 1; 0; 0; 1; 1; 1; 1 |] "windows of four"))

        testCase
            "the head is read on the rows that are needed, and widened weights agree with float32"
            (fun () ->
                let model = { Config = Tiny.config 24 3 4 2 false; Seed = 5L }

                for dtype, tolerance in [ Dtype.BF16, 0.1; Dtype.F16, 0.02 ] do
                    withWeights Dtype.F32 model (fun wide ->
                        withWeights dtype model (fun narrow ->
                            Scope.free (fun () ->
                                let logits weights =
                                    withCache weights 3 8 (fun cache ->
                                        let struct (hidden, _) =
                                            Model.forward weights 2 [| 1; 2; 3 |] cache
                                        Decoder.head weights (hidden.Read()))

                                let a, b = logits wide, logits narrow
                                Expect.equal a.shape [| 1L; 2L; 24L |] "two rows"
                                Expect.equal
                                    b.dtype
                                    torch.ScalarType.Float32
                                    "activations stay float32 on a CPU"
                                Expect.isLessThan (worst a b) tolerance $"{dtype}"))))
    ]

let private speculate (case: Case) =
    Strategy.SelfSpeculative(exit case.Model.Config.Layers case.Exit, case.Draft)

[<Tests>]
let generation =
    testSequenced
    <| testList "generation" [
        testPropertyWithConfig (settings 60) "self-speculative text is autoregressive text (T1, float64)"
        <| fun (case: Case) (stop: byte) (count: byte) ->
            withWeights Dtype.F64 case.Model (fun weights ->
                let count = 1 + int count % 30
                let whole = complete weights (options Strategy.Autoregressive count) case.Prompt

                // Half of the time a token of the text itself stops it, so that stops fall inside drafts.
                let stops =
                    if stop < 128uy then
                        [||]
                    else
                        [| whole.TokenIds[int stop % whole.TokenIds.Length] |]

                let run strategy =
                    complete weights { options strategy count with StopIds = stops } case.Prompt

                let plain, speculative = run Strategy.Autoregressive, run (speculate case)
                let rounds = speculative.Stats.Rounds
                let tokens = speculative.TokenIds.Length

                plain.TokenIds = speculative.TokenIds
                && plain.Finish = speculative.Finish
                && rounds
                   |> Array.forall (fun (drafted, accepted) -> accepted <= drafted && drafted <= case.Draft)
                && (plain.Finish = FinishReason.Stop
                    || (rounds |> Array.sumBy (fun (_, accepted) -> accepted + 1)) = tokens - 1))

        testPropertyWithConfig (settings 30) "the certificate finds no violation in any dtype"
        <| fun (case: Case) ->
            for dtype in [ Dtype.F64; Dtype.F32; Dtype.BF16 ] do
                withWeights dtype case.Model (fun weights ->
                    let checkpoint = Checkpoint.ofWeights "tiny" weights None

                    let report =
                        Certify.run checkpoint {
                            Certify.options with
                                Prompts = [| case.Prompt |]
                                ExitLayers = [ case.Exit ]
                                DraftLengths = [ case.Draft ]
                                MaxNewTokens = 10
                        }

                    Expect.equal report.Violation 0 $"{report}"
                    Expect.equal
                        (report.Tests |> List.map _.Name)
                        [ "T1"; "T2"; "T3"; "T4"; "T5" ]
                        "every test"
                    // Only the kernels promise equal bits, and they have no float64.
                    let bitwise, others = report.Tests |> List.partition (fun test -> test.Name = "T3")
                    Expect.equal (bitwise.Head.Checks > 0) (dtype <> Dtype.F64) "equal bits"
                    Expect.all others (fun test -> test.Checks > 0) "every test checked something")

        testPropertyWithConfig (settings 20) "a draft of the whole model is accepted entirely"
        <| fun (case: Case) ->
            // Late layers that add nothing: the exit says what the last layer says.
            withWeights Dtype.F64 case.Model (fun weights ->
                Scope.free (fun () ->
                    for layer in weights.Layers[case.Exit ..] do
                        for tensor in
                            [ Some layer.Output; layer.OutputBias; Some layer.Down; layer.DownBias ] do
                            tensor |> Option.iter (fun t -> t.zero_ () |> ignore))

                let made = complete weights (options (speculate case) 20) case.Prompt
                made.Stats.NumAcceptedDraftTokens = made.Stats.NumDraftTokens)

        testCase
            "events are the tokens in order, rounds, and one end; each enumeration starts anew"
            (fun () ->
                withWeights Dtype.F32 { Config = Tiny.config 24 4 4 2 true; Seed = 3L } (fun weights ->
                    let events =
                        Generation.run weights None (options (Strategy.SelfSpeculative(exit 4 2, 3)) 21) [|
                            1
                            2
                            3
                        |]
                        |> Check.getOrRaise

                    let list = List.ofSeq events

                    let tokens =
                        list
                        |> List.choose (function
                            | GenerationEvent.Token(id, origin, _) -> Some(id, origin)
                            | _ -> None)

                    let rounds =
                        list
                        |> List.choose (function
                            | GenerationEvent.Round round -> Some round
                            | _ -> None)

                    match List.last list with
                    | GenerationEvent.End(_, completion) ->
                        Expect.equal (Array.ofList (List.map fst tokens)) completion.TokenIds "the tokens"
                        Expect.equal completion.TokenIds.Length 21 "as many as asked for"
                        Expect.equal
                            (rounds |> List.collect (fun r -> List.ofArray r.Tokens))
                            (List.map fst tokens.Tail)
                            "rounds"
                        Expect.equal completion.Text None "no tokenizer, no text"
                        Expect.equal (snd tokens.Head) Origin.Prefill "the first comes from the prompt"

                        let kept =
                            tokens
                            |> List.filter (fun (_, origin) -> origin = Origin.Drafted)
                            |> List.length
                        Expect.equal kept completion.Stats.NumAcceptedDraftTokens "drafted and kept"
                    | other -> failtest $"{other}"

                    Expect.equal
                        (List.ofSeq events
                         |> List.choose (function
                             | GenerationEvent.Token(id, origin, _) -> Some(id, origin)
                             | _ -> None))
                        tokens
                        "the same again"))

        testCase "early exit runs the early layers alone: E layers zeroed after it change nothing" (fun () ->
            withWeights Dtype.F64 { Config = Tiny.config 24 4 2 2 false; Seed = 9L } (fun weights ->
                let early = complete weights (options (Strategy.EarlyExit(exit 4 2)) 12) [| 4; 5 |]

                Scope.free (fun () ->
                    for layer in weights.Layers[2..] do
                        layer.Output.zero_ () |> ignore
                        layer.Down.zero_ () |> ignore)

                let whole = complete weights (options Strategy.Autoregressive 12) [| 4; 5 |]
                Expect.equal early.TokenIds whole.TokenIds "the model of two layers"))

        testCase "the context ends a text with length, and a prompt must leave room" (fun () ->
            withWeights Dtype.F32 { Config = Tiny.config 24 3 2 1 true; Seed = 2L } (fun weights ->
                let prompt = Array.create 90 3
                let strategy = Strategy.SelfSpeculative(exit 3 1, 4)
                let made = complete weights (options strategy 50) prompt
                Expect.equal (made.TokenIds.Length, made.Finish) (6, FinishReason.Length) "96 positions"

                let faults =
                    Generation.run weights None (options strategy 50) (Array.create 96 3) |> Check.faults
                Expect.equal faults [ LayerSkipError.PromptTooLong(96, 96) ] "no room"))

        testCase "no native tensor is left after 50 generations" (fun () ->
            withWeights Dtype.F32 { Config = Tiny.config 24 3 4 2 false; Seed = 4L } (fun weights ->
                let once seed =
                    for sampling in [ Sampling.Greedy; Sampling.Filtered(0.8, 5, 0.9) ] do
                        for strategy in
                            [
                                Strategy.Autoregressive
                                Strategy.EarlyExit(exit 3 1)
                                Strategy.SelfSpeculative(exit 3 1, 3)
                            ] do
                            complete weights { options strategy 12 with Sampling = sampling; Seed = seed } [|
                                1
                                2
                                3
                            |]
                            |> ignore

                once 0L
                let before = TensorSupport.liveTensors ()

                for seed in 1L .. 50L do
                    once seed

                // A consumer that stops early gives everything back too.
                Generation.run weights None (options Strategy.Autoregressive 12) [| 1 |]
                |> Check.getOrRaise
                |> Seq.truncate 3
                |> Seq.iter ignore

                Expect.equal torch.Tensor.TotalCount before "as many tensors as before"))

        testCase "2,000 tokens take no memory beyond the preallocated cache" (fun () ->
            let config = { Tiny.config 24 3 4 2 false with Context = 2200 }

            withWeights Dtype.F32 { Config = config; Seed = 4L } (fun weights ->
                let counts =
                    Generation.run weights None (options (Strategy.SelfSpeculative(exit 3 1, 4)) 2000) [|
                        1
                        2
                    |]
                    |> Check.getOrRaise
                    |> Seq.choose (function
                        | GenerationEvent.Round _ -> Some torch.Tensor.TotalCount
                        | _ -> None)
                    |> Array.ofSeq

                Expect.isGreaterThan counts.Length 300 "many rounds"
                Expect.equal (Array.distinct counts).Length 1 "the same number of tensors after each"))
    ]
