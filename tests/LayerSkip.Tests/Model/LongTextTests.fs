module LayerSkip.Tests.LongTextTests

open System
open System.Threading
open System.Threading.Tasks
open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Kernels
open LayerSkip.Tests.Tiny

let private long = {
    Tiny.config 24 3 4 2 true with
        HeadDim = 8
        Context = 3000
        Windows = [| None; Some 300; None |]
}

let private bits (tensor: Tensor) = Tensors.toFloat32s tensor |> Array.map BitConverter.SingleToUInt32Bits

/// Hidden states of the last row, and every layer's keys and values, after reading ids in pieces.
let private read (weights: Weights) exit (pieces: int[] list) =
    Scope.free (fun () ->
        let start = Cache.create weights exit (List.sumBy Array.length pieces)
        use _storage = start.Slab :> IDisposable

        let step (_, cache) ids =
            let struct (hidden, cache) = Model.forward weights 1 ids cache
            hidden.Read(), cache

        let hidden, cache = List.fold step (null, start) pieces

        bits hidden
        :: [
            for layer in 0 .. weights.Config.Layers - 1 do
                let struct (keys, values) = Cache.layer layer cache
                bits keys
                bits values
        ])

[<Tests>]
let tests =
    testSequenced
    <| testList "long texts" [
        testPropertyWithConfig (Tiny.settings 12) "a long prompt leaves the same bits however it is cut"
        <| fun (NonNegativeInt seed) ->
            let random = Random seed
            use weights = Tiny.weights Dtype.BF16 { Config = long; Seed = int64 seed }
            let weights = { weights with Prefill = Prefill.Exact }
            let ids = Array.init (random.Next(200, 900)) (fun _ -> random.Next 24)
            let whole = read weights 1 [ ids ]
            let pieces = ids |> Array.chunkBySize (random.Next(1, 400)) |> List.ofArray
            read weights 2 pieces = whole

        testCase "libtorch's pieces agree with one pass" (fun () ->
            use weights = Tiny.weights Dtype.F64 { Config = long; Seed = 2L }
            let ids = Array.init 700 (fun i -> i * 7 % 24)

            Scope.free (fun () ->
                let cache = Cache.create weights 1 700
                use _storage = cache.Slab :> IDisposable
                let struct (hidden, _) = Model.forward weights 700 ids cache
                let rope = Rope.table long 700 torch.ScalarType.Float64 torch.CPU
                let all = Decoder.embed weights (Tensors.ofIds [| 1L; 700L |] ids)
                let whole = Decoder.runLayers Decoder.plain KvStore.none rope weights 0 3 0 all
                Expect.isLessThan ((hidden.Read() - whole).abs().max().item<double>()) 1e-9 "the same"))

        testCase "storage grows with the text, and what it held stays" (fun () ->
            for dtype in [ Dtype.F32; Dtype.F64 ] do
                use weights = Tiny.weights dtype { Config = long; Seed = 2L }
                let ids = Array.init 900 (fun i -> i * 5 % 24)

                Scope.free (fun () ->
                    let cache = Cache.create weights 1 Int32.MaxValue
                    use _storage = cache.Slab :> IDisposable
                    Expect.equal cache.Slab.Room 0 "nothing yet"
                    let rooms = ResizeArray<int>()

                    // Now ahead of the late layers, now caught up.
                    let step (cache: Cache) (index, chunk: int[]) =
                        let waiting = ids[cache.Late.Length .. cache.Early.Length - 1]

                        let struct (_, cache) =
                            if index % 3 = 0 then
                                Model.forwardEarly weights chunk cache
                            else
                                Model.forwardRemainder weights 1 (Array.append waiting chunk) cache

                        rooms.Add cache.Slab.Room
                        cache

                    let cache = ids |> Array.chunkBySize 9 |> Array.indexed |> Array.fold step cache
                    Expect.isLessThan cache.Slab.Room 2000 "a part of what it may hold"
                    Expect.isLessThan (Seq.length (Seq.distinct rooms)) 12 "a growth is for many positions"

                    let fresh = Cache.create weights 1 900
                    use _fresh = fresh.Slab :> IDisposable
                    let struct (_, fresh) = Model.forward weights 1 ids fresh

                    for layer in 0..2 do
                        let struct (keys, values), struct (freshKeys, freshValues) =
                            Cache.layer layer cache, Cache.layer layer fresh

                        for a, b in [ keys, freshKeys; values, freshValues ] do
                            let held = b.narrow (2L, 0L, a.shape[2])
                            let difference =
                                (a - held).abs().max().``to``(torch.ScalarType.Float64).item<double>()
                            Expect.isLessThanOrEqual
                                difference
                                (if dtype = Dtype.F32 then 0.0 else 1e-9)
                                $"{dtype}, layer {layer}"))

        testCase "a huge context and a huge limit cost what is written" (fun () ->
            use weights =
                Tiny.weights Dtype.F32 { Config = { long with Context = Int32.MaxValue }; Seed = 2L }

            for limit in [ 100_000_000; Int32.MaxValue ] do
                let before = GC.GetAllocatedBytesForCurrentThread()

                let tokens =
                    Generation.run weights None (options Strategy.Autoregressive limit) [| 1; 2; 3 |]
                    |> Check.getOrRaise
                    |> Seq.truncate 5
                    |> Array.ofSeq

                Expect.equal tokens.Length 5 "five events"
                Expect.isLessThan
                    (GC.GetAllocatedBytesForCurrentThread() - before)
                    20_000_000L
                    "and no table for the rest")

        testCase "memory that the system has not is a fault that says how much" (fun () ->
            if not (OperatingSystem.IsLinux()) then
                skiptest "only Linux says what is free"

            match Memory.faults (fun () -> "a thing") (1L <<< 60) with
            | [ LayerSkipError.NotEnoughMemory("a thing", bytes, free) ] ->
                Expect.equal bytes (1L <<< 60) "what it takes"
                Expect.isGreaterThan free 0L "what is there"
            | other -> failtest $"{other}"

            Expect.isEmpty (Memory.faults (fun () -> "a thing") 1000L) "little is always there"

            // 64 KB a position.
            let wide = { Tiny.config 24 2 64 64 true with HeadDim = 64; Context = Int32.MaxValue }
            use weights = Tiny.weights Dtype.F32 { Config = wide; Seed = 1L }
            let cache = Cache.create weights 1 Int32.MaxValue
            use _storage = cache.Slab :> IDisposable
            let struct (_, cache) = Model.forward weights 1 [| 1 |] cache

            let fault =
                try
                    Model.forward weights 1 (Array.zeroCreate 30_000_000) cache |> ignore
                    []
                with :? LayerSkipException as e ->
                    e.Errors

            match fault with
            | [ LayerSkipError.NotEnoughMemory(what, _, _) ] ->
                Expect.equal what "a cache for 30000001 positions" "what"
                let struct (_, cache) = Model.forward weights 1 [| 2 |] cache
                Expect.equal cache.Early.Length 2 "and the cache is still good"
            | other -> failtest $"{other}")

        let bounded prefill =
            let wide = { long with Hidden = 256; Intermediate = 1024; Context = 3000 }
            use weights = Tiny.weights Dtype.BF16 { Config = wide; Seed = 2L }
            let weights = { weights with Prefill = prefill }
            let cache = Cache.create weights 1 3000
            use _storage = cache.Slab :> IDisposable
            let before = TensorSupport.liveFloats ()
            // Of a row: normed, q k v, mixed, gate and up, added.
            let row = int64 sizeof<float32> * int64 (256 + 8 * 8 + 4 * 8 + 2 * 1024 + 256)
            // On the matrix unit the widest input again, in bfloat16, and each thread's rounded weights and sums.
            let packs, perPack =
                match prefill with
                | Prefill.Auto when MatrixUnit.IsThere -> 2L * 1024L, 2L * 48L * 1024L + 4L * 48L * 256L
                | _ -> 0L, 0L
            let most = ref 0L
            use ended = new CancellationTokenSource()

            let watching =
                Task.Run(fun () ->
                    while not ended.IsCancellationRequested do
                        most.Value <- max most.Value (FloatBuffer.Held - before))

            let struct (_, _) =
                Scope.free (fun () -> Model.forward weights 1 (Array.init 2900 (fun i -> i % 24)) cache)
            ended.Cancel()
            watching.Wait()
            // Beside them each thread's widened weights, and the scores of the 48 queries that share a part's keys.
            let perThread = (4L * 48L * 3000L + 130_000L + perPack) * int64 (CpuKernels.threads ())
            let piece = int64 DecoderPass.PieceRows * (row + packs)
            Expect.isLessThan most.Value (piece + perThread) "for a piece"
            Expect.isLessThan (FloatBuffer.Held - before) (16L * row + perThread) "for a decoding step"

        testCase "what many rows need beside the cache is bounded, and given back" (fun () ->
            List.iter bounded [ Prefill.Exact; Prefill.Auto ])

        testCase "sequences share one table of angles, which grows with the longest" (fun () ->
            use weights = Tiny.weights Dtype.BF16 { Config = long; Seed = 2L }

            let cosines length body =
                let cache = Cache.create weights 1 3000
                use _storage = cache.Slab :> IDisposable
                let ids = Array.init length (fun i -> i % 24)
                let struct (_, cache) = Scope.free (fun () -> Model.forward weights 1 ids cache)
                body cache.Slab.Storage.Rope

            cosines 10 (fun first ->
                cosines 20 (fun second ->
                    Expect.equal (Tensors.address second.Cos) (Tensors.address first.Cos) "one table"

                    cosines 2000 (fun third ->
                        let expected = Rope.table long 2000 torch.ScalarType.Float32 torch.CPU
                        let front (tensor: Tensor) = bits (tensor.narrow (0L, 0L, 2000L))
                        Expect.equal (front third.Cos) (bits expected.Cos) "cosines"
                        Expect.equal (front third.Sin) (bits expected.Sin) "sines")

                    Expect.equal (bits second.Cos) (bits first.Cos) "the shorter one is still there")))

        testCase "more parts than a job counts keep all threads" (fun () ->
            let before = CpuKernels.threads ()

            try
                Workers.Use 2

                for parts in [ 65535; 65536; 200_001 ] do
                    let counts = Array.zeroCreate<int> parts
                    let seen = Collections.Concurrent.ConcurrentDictionary<int, unit>()
                    let waited = ref 0

                    Workers.Shared.Run(
                        parts,
                        fun part ->
                            Interlocked.Increment(&counts[part]) |> ignore

                            if seen.Count < 2 then
                                seen[Environment.CurrentManagedThreadId] <- ()

                                // Until another thread has come; a hang's bound.
                                if Interlocked.Increment waited <= 2 then
                                    SpinWait.SpinUntil((fun () -> seen.Count >= 2), 10_000) |> ignore
                    )

                    Expect.equal seen.Count 2 $"{parts} parts: threads"
                    Expect.all counts (fun count -> count = 1) $"{parts} parts: each once"
            finally
                Workers.Use before)
    ]
