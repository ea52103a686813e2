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

        testPropertyWithConfig
            (settings 30)
            "layer by layer, each exit says what it says alone, with the kernels to the bit"
        <| fun (case: Case) ->
            for dtype in [ Dtype.F64; Dtype.F32 ] do
                withWeights dtype case.Model (fun weights ->
                    Scope.free (fun () ->
                        let ids, layers = case.Prompt, case.Model.Config.Layers

                        let alone exit =
                            withCache weights exit 16 (fun cache ->
                                let struct (hidden, _) = Model.forwardEarly weights ids cache
                                Logits.toFloats (Model.logits hidden) |> Array.head)

                        withCache weights case.Exit 32 (fun cache ->
                            let seen = ResizeArray<int * float[]>()
                            let visit layer hidden =
                                seen.Add(layer, Logits.toFloats (Model.logits hidden) |> Array.last)

                            let struct (hidden, cache) =
                                Model.forwardEach weights ids.Length ids visit cache
                            Expect.equal (seen |> Seq.map fst |> List.ofSeq) [ 1..layers ] "every exit"
                            let within = if weights.Kernels.IsSome then 0.0 else 1e-12

                            for exit, logits in seen do
                                let error =
                                    Seq.map2 (fun a b -> abs (a - b)) logits (alone exit) |> Seq.max
                                Expect.isLessThanOrEqual error within $"exit {exit}"

                            Expect.equal hidden.Rows ids.Length "all rows"

                            let next = Model.forwardEach weights 1 [| 3 |] (fun _ _ -> ()) cache
                            let struct (_, cache) = next

                            withCache weights layers 32 (fun whole ->
                                let struct (_, whole) = Model.forward weights 1 ids whole
                                let struct (_, whole) = Model.forward weights 1 [| 3 |] whole

                                for layer in 0 .. layers - 1 do
                                    let struct (k, v) = Cache.layer layer cache
                                    let struct (wholeK, wholeV) = Cache.layer layer whole
                                    let error = max (worst k wholeK) (worst v wholeV)
                                    Expect.isLessThanOrEqual error within "the same cache"))))

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
                                    SharedHead.logits weights (hidden.Read()))

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
                                        SharedHead.logits weights (hidden.Read()))

                                let a, b = logits wide, logits narrow
                                Expect.equal a.shape [| 1L; 2L; 24L |] "two rows"
                                Expect.equal
                                    b.dtype
                                    torch.ScalarType.Float32
                                    "activations stay float32 on a CPU"
                                Expect.isLessThan (worst a b) tolerance $"{dtype}"))))
    ]
