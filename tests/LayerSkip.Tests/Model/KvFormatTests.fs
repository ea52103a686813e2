module LayerSkip.Tests.KvFormatTests

open System
open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Kernels
open LayerSkip.Tests.Support
open LayerSkip.Tests.TensorSupport
open LayerSkip.Tests.Tiny

Backend.ensure ()

let private bits (tensor: Tensor) = Tensors.toFloat32s tensor |> Array.map BitConverter.SingleToUInt32Bits
let private withKv kv weights = Weights.withKv kv weights |> Check.getOrRaise

let private message result =
    match result with
    | Error faults -> LayerSkipError.summary faults
    | Ok _ -> failtest "refused"

/// Logits of the last row, and every layer's keys and values, after what `pass` makes of a new cache.
let private seen (weights: Weights) exit capacity (pass: Cache -> struct (Hidden * Cache)) =
    Scope.free (fun () ->
        let start = Cache.create weights exit capacity
        use _storage = start.Slab :> IDisposable
        let struct (hidden, cache) = pass start
        let logits = SharedHead.logits weights (hidden.Read())

        bits logits
        :: [
            for layer in 0 .. weights.Config.Layers - 1 do
                let struct (keys, values) = Cache.layer layer cache
                bits keys
                bits values
        ])

let private pieces weights (texts: int[] list) (cache: Cache) =
    texts
    |> List.fold
        (fun (struct (_, cache)) ids -> Model.forward weights 1 ids cache)
        (struct (Unchecked.defaultof<Hidden>, cache))

let private wide = {
    Tiny.config 24 3 4 2 true with
        HeadDim = 8
        Context = 3000
        Windows = [| None; Some 300; None |]
}

/// A model of which all values of a layer are beyond float16, and nothing else is large.
let private large layer =
    let config = { Tiny.config 24 4 2 1 false with QkvBias = true }
    let weights = Weights.random 1L 0.8 Dtype.F32 Device.Cpu config

    Scope.free (fun () ->
        let bias = weights.Layers[layer - 1].QkvBias.Value.Tensor
        let heads = 3L * int64 config.HeadDim
        bias.narrow(0L, heads, int64 config.HeadDim).fill_(7e4.ToScalar()) |> ignore
        weights.Layers[layer - 1].Output.Tensor.mul_(1e-6.ToScalar()) |> ignore)

    weights

let private certified (checkpoint: Checkpoint) options =
    let report = Certify.run checkpoint options
    let test name = report.Tests |> List.find (fun test -> test.Name = name)
    Expect.equal report.Violation 0 $"{report.Kv}: {report.Tests}"
    Expect.isGreaterThan (test "T3").Checks 0 "bit for bit is checked"
    Expect.equal (test "T3").Exact (test "T3").Checks "bit for bit"
    report

[<Tests>]
let tests =
    testSequenced
    <| testList "kv formats" [
        testPropertyWithConfig (Tiny.settings 25) "self-speculation writes the text of plain decoding in each"
        <| fun (case: Case) ->
            KvFormat.all
            |> List.forall (fun kv ->
                Tiny.withWeights Dtype.F16 case.Model (fun weights ->
                    let weights = withKv kv weights
                    let exit = exit case.Model.Config.Layers case.Exit
                    let text strategy = (complete weights (options strategy 30) case.Prompt).TokenIds
                    text (Strategy.SelfSpeculative(exit, case.Draft)) = text Strategy.Autoregressive))

        testPropertyWithConfig
            (Tiny.settings 12)
            "the certificate of a random model has no violation, in each"
        <| fun (case: Case) ->
            for kv in KvFormat.all do
                Tiny.withWeights Dtype.F32 case.Model (fun weights ->
                    let checkpoint = Checkpoint.ofWeights "tiny" (withKv kv weights) None

                    let options = {
                        Certify.options with
                            ExitLayers = [ case.Exit ]
                            DraftLengths = [ case.Draft ]
                            Prompts = [| case.Prompt |]
                            MaxNewTokens = 12
                    }

                    let report = certified checkpoint options
                    Expect.equal report.Kv (KvFormat.name kv) "it says which")

        sharedTest "the certificate of stories260K has no violation, in each" [ "stories260K" ] (fun folder ->
            for kv in KvFormat.all do
                use model =
                    Checkpoint.load folder None Device.Cpu
                    |> Result.bind (Checkpoint.withKv (Some kv))
                    |> Check.getOrRaise

                let options = {
                    Certify.options with
                        ExitLayers = [ 1; 3 ]
                        DraftLengths = [ 1; 5 ]
                        MaxNewTokens = 20
                }

                certified model options |> ignore)

        testPropertyWithConfig (Tiny.settings 12) "pieces, growth and rewinding leave the same bits, in each"
        <| fun (NonNegativeInt seed) ->
            let random = Random seed
            let ids = Array.init (random.Next(100, 500)) (fun _ -> random.Next 24)
            let refused = Array.init (random.Next(1, 200)) (fun _ -> random.Next 24)
            let size, back = random.Next(1, 200), random.Next(1, 100)

            KvFormat.all
            |> List.forall (fun kv ->
                Tiny.withWeights Dtype.BF16 { Config = wide; Seed = int64 seed } (fun weights ->
                    let weights = { withKv kv weights with Prefill = Prefill.Exact }
                    let whole = seen weights 1 ids.Length (pieces weights [ ids ])
                    let cut = ids |> Array.chunkBySize size |> List.ofArray

                    let rewound (cache: Cache) =
                        let struct (_, cache) = pieces weights [ ids[.. back - 1]; refused ] cache
                        pieces weights [ ids[back..] ] (Cache.truncate back cache)

                    // With room for more, memory grows on the way.
                    seen weights 1 Int32.MaxValue (pieces weights cut) = whole
                    && seen weights 1 Int32.MaxValue rewound = whole))

        testPropertyWithConfig
            (Tiny.settings 20)
            "forms and threads read one cache: logits are close to those of f32"
        <| fun (case: Case) ->
            Tiny.withWeights Dtype.F32 case.Model (fun weights ->
                let logits weights =
                    seen weights case.Exit (case.Prompt.Length + 1) (pieces weights [ case.Prompt; [| 3 |] ])
                    |> List.head
                    |> Array.map BitConverter.UInt32BitsToSingle

                let exact = logits weights
                let largest = exact |> Array.map abs |> Array.max

                let isClose share other =
                    Array.forall2 (fun (a: float32) b -> abs (a - b) <= share * largest) exact other

                let half, bytes = withKv KvFormat.F16 >> logits, withKv KvFormat.Q8 >> logits

                isClose 0.0f (logits (withKv KvFormat.F32 weights))
                && isClose 0.01f (half (Weights.withoutKernels weights))
                && Enum.GetValues<KernelForm>()
                   |> Array.forall (fun form ->
                       let weights = Weights.withKernelForm form weights
                       isClose 0.01f (half weights) && isClose 0.1f (bytes weights)))

        testCase "threads do not change a bit, one to seven of them, in each" (fun () ->
            let before = CpuKernels.threads ()
            let config = { Tiny.config 500 2 8 2 true with Hidden = 128; HeadDim = 32; Context = 256 }
            let ids = Array.init 150 (fun i -> i * 7 % 500)

            try
                for kv in KvFormat.all do
                    use weights = Tiny.weights Dtype.BF16 { Config = config; Seed = 4L }
                    let weights = withKv kv weights

                    let results = [
                        for threads in [ 1; 2; 3; 7 ] do
                            Workers.Use threads
                            let texts = [
                                ids[..99]
                                ids[100..120]
                                ids[121..124]
                                ids[125..148]
                                ids[149..]
                            ]
                            seen weights 1 256 (pieces weights texts)
                    ]

                    Expect.isTrue (results |> List.forall (fun result -> result = results.Head)) $"{kv}"
            finally
                Workers.Use before)

        testCase
            "a position takes 4, 2, or little more than 1 byte a number, beside its hidden states"
            (fun () ->
                let config = { Tiny.config 24 3 4 2 true with HeadDim = 64; Hidden = 256 }
                use weights = Tiny.weights Dtype.F16 { Config = config; Seed = 1L }
                let numbers = 2L * 3L * 2L * 64L
                let states = 2L * 256L * 4L

                for kv, row in
                    [
                        KvFormat.F32, 4L * numbers
                        KvFormat.F16, 2L * numbers
                        KvFormat.Q8, 17L * numbers / 16L
                    ] do
                    let weights = withKv kv weights
                    Expect.equal (Cache.bytesPerPosition weights) (row + states) $"{kv}"
                    let cache = Cache.create weights 1 100
                    use _storage = cache.Slab :> IDisposable
                    let struct (_, cache) = Scope.free (fun () -> Model.forward weights 1 [| 1; 2 |] cache)
                    let storage = cache.Slab.Storage

                    let held =
                        Seq.concat [
                            Seq.ofArray storage.Keys
                            Seq.ofArray storage.Values
                            [ storage.Exits; storage.Lasts ]
                        ]
                        |> Seq.sumBy (fun tensor -> tensor.numel () * tensor.ElementSize)

                    Expect.equal held (int64 storage.Room * (row + states)) $"{kv}: the tensors")

        testCase
            "values beyond float16 are an overflow that names layer, position and format; others hold them"
            (fun () ->
                for layer in 1..4 do
                    use weights = large layer
                    let decode weights =
                        Generation.complete weights None (Tiny.options Strategy.Autoregressive 8) [| 3; 5 |]
                    Expect.isOk (decode weights) "f32"
                    Expect.isOk (decode (withKv KvFormat.Q8 weights)) "q8"

                    for weights in [ weights; Weights.withoutKernels weights ] do
                        for strategy in [ Strategy.Autoregressive; Strategy.SelfSpeculative(exit 4 2, 3) ] do
                            match
                                Generation.complete
                                    (withKv KvFormat.F16 weights)
                                    None
                                    (Tiny.options strategy 8)
                                    [| 3; 5 |]
                            with
                            | Error [ LayerSkipError.Overflow(place, position, _) as fault ] ->
                                Expect.equal (place, position) ($"layer {layer} of 4", 0) "where"
                                let told = LayerSkipError.message fault
                                Expect.stringContains told "keys and values in f16" told
                            | other -> failtest $"{other}")

        testCase "without the kernels there is f16, but no q8, and f32 only where activations are" (fun () ->
            use weights = Tiny.weights Dtype.F64 { Config = Tiny.config 24 3 2 1 true; Seed = 1L }
            Expect.equal (Weights.kv weights) "f64" "its own"
            Expect.stringContains (message (Weights.withKv KvFormat.Q8 weights)) "kv q8 with f64" "q8"
            Expect.stringContains (message (Weights.withKv KvFormat.F32 weights)) "kv f32 with f64" "f32"
            Expect.equal (Weights.kv (withKv KvFormat.F16 weights)) "f16" "f16"

            use narrow = Tiny.weights Dtype.BF16 { Config = Tiny.config 24 3 2 1 true; Seed = 1L }
            let plain = Weights.withoutKernels (withKv KvFormat.Q8 narrow)
            Expect.equal (Weights.kv plain) "f32" "without kernels, as activations"
            Expect.equal (Weights.kv (withKv KvFormat.F32 plain)) "f32" "which are float32"
            Expect.isError (Weights.withKv KvFormat.Q8 plain) "no q8")

        testCase "a cache that memory has no room for says in what it was to be" (fun () ->
            let wide = { Tiny.config 24 2 64 64 true with HeadDim = 64; Context = Int32.MaxValue }
            use weights = Tiny.weights Dtype.F32 { Config = wide; Seed = 1L }
            let weights = withKv KvFormat.Q8 weights
            let cache = Cache.create weights 1 Int32.MaxValue
            use _storage = cache.Slab :> IDisposable

            match
                (try
                    Model.forward weights 1 (Array.zeroCreate 100_000_000) cache |> ignore
                    []
                 with :? LayerSkipException as e ->
                     e.Errors)
            with
            | [ LayerSkipError.NotEnoughMemory(what, bytes, _) ] ->
                Expect.equal what "a cache for 100000000 positions in q8" "what"
                Expect.equal bytes (100_000_000L * Cache.bytesPerPosition weights) "its size"
            | other -> failtest $"{other}")

        testCase "nothing is left behind, in each, refused or not" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = wide; Seed = 1L }
            let ids = Array.init 200 (fun i -> i % 24)

            let decode kv =
                let weights = withKv kv weights
                complete weights (options (Strategy.SelfSpeculative(exit 3 1, 4)) 200) ids |> ignore
                seen weights 1 Int32.MaxValue (pieces weights [ ids; ids ]) |> ignore

            // Angles and constants are made once.
            KvFormat.all |> List.iter decode
            let before = liveTensors ()
            KvFormat.all |> List.iter decode
            Expect.equal (liveTensors ()) before "tensors"

            let other = Tiny.weights Dtype.F64 { Config = Tiny.config 24 3 2 1 true; Seed = 1L }
            let refused = Checkpoint.withKv (Some KvFormat.Q8) (Checkpoint.ofWeights "tiny" other None)
            Expect.isError refused "refused"
            Expect.equal (liveTensors ()) before "the weights are freed")
    ]
