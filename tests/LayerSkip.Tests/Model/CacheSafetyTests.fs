module LayerSkip.Tests.CacheSafetyTests

open System
open System.Threading
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Kernels
open LayerSkip.Tests.Tiny

let private model = { Config = Tiny.config 24 3 4 2 true; Seed = 5L }

/// Through the kernels, and through libtorch alone.
let private paths = [ "kernels", Dtype.F32; "libtorch", Dtype.F64 ]

let private withCache dtype body =
    use weights = Tiny.weights dtype model
    let cache = Cache.create weights 1 20
    use _storage = cache.Slab :> IDisposable
    Scope.free (fun () -> body weights cache)

let private values struct (hidden: Hidden, _: Cache) = Tensors.toFloats (hidden.Read())

let private refuses (part: string) (body: unit -> 'T) =
    let message =
        try
            body () |> ignore
            "nothing"
        with
        | :? ArgumentException as e -> e.Message
        | :? InvalidOperationException as e -> e.Message

    Expect.stringContains message part "the fault"

let private shape hidden intermediate heads kvHeads headDim vocabulary =
    DecoderShape(hidden, intermediate, heads, kvHeads, headDim, vocabulary, 1e-5f, Windows = [| 0 |])

[<Tests>]
let tests =
    testSequenced
    <| testList "what a cache refuses" [
        for name, dtype in paths do
            testCase $"{name}: ids outside the vocabulary, before anything is read" (fun () ->
                withCache dtype (fun weights cache ->
                    let other = Cache.create weights 1 20
                    use _other = other.Slab :> IDisposable
                    let expected = Model.forward weights 1 [| 1; 2 |] other |> values

                    for ids in [ [| 24 |]; [| -1 |]; [| 1; Int32.MaxValue |]; [| Int32.MinValue; 1 |] ] do
                        for pass in
                            [
                                Model.forward weights 1
                                Model.forwardRemainder weights 1
                                Model.forwardEarly weights
                            ] do
                            refuses "outside the vocabulary; ids run from 0 to 23" (fun () ->
                                pass ids cache)

                    // The record is still good.
                    Expect.equal (Model.forward weights 1 [| 1; 2 |] cache |> values) expected "the same"))

            testCase $"{name}: no ids, rows that are not there, and fewer ids than wait" (fun () ->
                withCache dtype (fun weights cache ->
                    for pass in
                        [
                            Model.forward weights 1
                            Model.forwardRemainder weights 1
                            Model.forwardEarly weights
                        ] do
                        refuses "no id" (fun () -> pass [||] cache)

                    for rows in [ -1; 0; 3 ] do
                        refuses $"last {rows} rows" (fun () -> Model.forward weights rows [| 1; 2 |] cache)

                    let struct (_, early) = Model.forwardEarly weights [| 1; 2; 3 |] cache
                    refuses "3 wait" (fun () -> Model.forwardRemainder weights 1 [| 1; 2 |] early)))

            testCase $"{name}: a record that was overtaken, also to look at" (fun () ->
                withCache dtype (fun weights cache ->
                    let struct (_, first) = Model.forward weights 1 [| 1; 2 |] cache
                    let struct (_, second) = Model.forward weights 1 [| 3 |] (Cache.truncate 1 first)
                    refuses "overtaken" (fun () -> Cache.layer 0 first)
                    refuses "overtaken" (fun () -> Model.forward weights 1 [| 1 |] first)
                    let struct (keys, _) = Cache.layer 0 second
                    Expect.equal keys.shape [| 1L; 2L; 2L; 4L |] "of the latest"))

            testCase $"{name}: records that no pass returned" (fun () ->
                withCache dtype (fun weights cache ->
                    for length in [ -1; 5; 20; Int32.MaxValue ] do
                        let forged = {
                            cache with
                                Early = { cache.Early with Length = length }
                                Late = { cache.Late with Length = length }
                        }
                        refuses "" (fun () -> Model.forward weights 1 [| 1 |] forged)))

            testCase $"{name}: other weights than its own" (fun () ->
                withCache dtype (fun _ cache ->
                    use others = Tiny.weights dtype { model with Seed = 6L }
                    refuses "other weights" (fun () -> Model.forward others 1 [| 1 |] cache)))

            testCase $"{name}: a slab that was disposed, however often" (fun () ->
                withCache dtype (fun weights cache ->
                    let struct (_, cache) = Model.forward weights 1 [| 1; 2 |] cache

                    for _ in 1..2 do
                        (cache.Slab :> IDisposable).Dispose()

                    for use' in
                        [
                            fun () -> Model.forward weights 1 [| 1 |] cache |> ignore
                            fun () -> Model.forwardEarly weights [| 1 |] cache |> ignore
                            fun () -> Cache.truncate 1 cache |> ignore
                            fun () -> Cache.layer 0 cache |> ignore
                        ] do
                        Expect.throwsT<ObjectDisposedException> use' "disposed"))

        testCase "a slab that was disposed twice gave its pass back once" (fun () ->
            use weights = Tiny.weights Dtype.F32 model
            let slab = (Cache.create weights 1 20).Slab :> IDisposable
            slab.Dispose()
            slab.Dispose()
            let kernels = weights.Kernels.Value
            let first, second = kernels.Rent(), kernels.Rent()
            Expect.isFalse (Object.ReferenceEquals(first, second)) "each of its own"
            kernels.Return first
            kernels.Return second)

        testCase "logits of a pass whose slab is gone" (fun () ->
            use weights = Tiny.weights Dtype.F32 model
            let cache = Cache.create weights 1 20
            let struct (hidden, cache) = Model.forwardEarly weights [| 1 |] cache
            (cache.Slab :> IDisposable).Dispose()
            Expect.throwsT<ObjectDisposedException> (fun () -> Model.logits hidden |> ignore) "disposed"

            Expect.throwsT<ObjectDisposedException> (fun () -> hidden.Read() |> ignore) "disposed")

        for name, dtype in paths do
            testCase $"{name}: hidden states that a later pass overtook" (fun () ->
                withCache dtype (fun weights cache ->
                    let struct (hidden, cache) = Model.forwardEarly weights [| 1 |] cache
                    let struct (latest, _) = Model.forwardEarly weights [| 2 |] cache
                    refuses "overtaken" (fun () -> Model.logits hidden)
                    refuses "overtaken" (fun () -> hidden.Read())
                    Expect.equal (Logits.rows (Model.logits latest)) 1 "of the latest"))

            testCase $"{name}: exit states stay when the late layers have read them" (fun () ->
                withCache dtype (fun weights cache ->
                    let struct (exit, cache) = Model.forwardEarly weights [| 1 |] cache
                    let expected = Tensors.toFloats (exit.Read())
                    let struct (_, cache) = Model.forwardRemainder weights 1 [| 1 |] cache
                    let kept = cache.Slab.Storage.Exits.narrow (1L, 0L, 1L)
                    Expect.equal (Tensors.toFloats kept) expected "the same"))

        testCase "weights that are disposed stay in memory until the last sequence over them ends" (fun () ->
            let before = TensorSupport.liveTensors ()

            let decode (dispose: Weights -> unit) =
                let weights = Tiny.weights Dtype.BF16 model
                let cache = Cache.create weights 1 20
                use _storage = cache.Slab :> IDisposable

                Scope.free (fun () ->
                    let struct (_, cache) = Model.forwardEarly weights [| 1; 2 |] cache
                    dispose weights
                    // Something else may take the memory, were it free.
                    use _other = torch.full ([| 1L <<< 16 |], 1e30.ToScalar())
                    let hidden = Model.forwardRemainder weights 1 [| 1; 2; 3 |] cache |> values
                    (weights :> IDisposable).Dispose()
                    hidden)

            let expected = decode ignore
            Expect.equal (decode (fun weights -> (weights :> IDisposable).Dispose())) expected "the same"
            Expect.equal (TensorSupport.liveTensors ()) before "and then they are gone")

        testCase "float64 states go through a float32 head as numbers, not as bits" (fun () ->
            use weights = Tiny.weights Dtype.F32 model

            Scope.free (fun () ->
                let numbers = Array.init 32 (fun i -> float32 i / 16.0f - 1.0f)
                let hidden = torch.tensor(numbers).reshape(1L, 2L, 16L)
                let expected = SharedHead.logits weights hidden |> Tensors.toFloats
                let found =
                    SharedHead.logits weights (hidden.``to`` torch.ScalarType.Float64) |> Tensors.toFloats

                for a, b in Seq.zip expected found do
                    Expect.floatClose Accuracy.medium b a "a logit"))

        testCase "a decoder of sizes that cannot be is an exception" (fun () ->
            shape 64 128 4 2 16 1000 |> ignore

            for wrong in
                [
                    fun () -> shape 0 128 4 2 16 1000
                    fun () -> shape 64 -1 4 2 16 1000
                    fun () -> shape 64 Int32.MaxValue 4 2 16 1000
                    fun () -> shape 64 128 4 3 16 1000
                    fun () -> shape 64 128 4 0 16 1000
                    fun () -> shape 64 128 4 2 15 1000
                    fun () -> shape 64 128 4 2 16 Int32.MaxValue
                    // These wrap in 32 bits.
                    fun () -> shape 8 16 65537 1 65536 32
                    fun () -> shape 8 16 268435458 1 16 32
                    fun () -> shape 8 16 536870913 1 8 32
                    fun () -> shape Int32.MaxValue 16 Int32.MaxValue Int32.MaxValue 2147483646 32
                ] do
                refuses "" wrong)

        testCase
            "a config of such sizes is refused where weights of it are made, not where they are read"
            (fun () ->
                let config = { model.Config with Heads = 65537; KvHeads = 1; HeadDim = 65536 }
                let q =
                    Weights.expected config
                    |> List.find (fun (name, _) -> name.EndsWith "0.self_attn.q_proj.weight")
                Expect.equal (snd q) [ 65537L * 65536L; 16L ] "in 64 bits")
    ]
