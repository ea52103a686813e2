module LayerSkip.Tests.KernelTests

open System
open System.Runtime.InteropServices
open System.Runtime.Intrinsics
open System.Threading
open Expecto
open FsCheck
open FsCheck.FSharp
open Microsoft.FSharp.NativeInterop
open TorchSharp
open LayerSkip
open LayerSkip.Kernels
open LayerSkip.Tests.Tiny

#nowarn "9" "51"

Backend.ensure ()

// The wider forms run on narrower processors too, in software, so that each is tested everywhere.
let private forms = Enum.GetValues<KernelForm>() |> List.ofArray

/// Formats of weights, float16 in both ways of reading it.
let private formats = [
    WeightFormat.Float32, false
    WeightFormat.BFloat16, false
    WeightFormat.Float16, false
    WeightFormat.Float16, true
]

let private scalarType format =
    match format with
    | WeightFormat.Float16 -> torch.ScalarType.Float16
    | WeightFormat.BFloat16 -> torch.ScalarType.BFloat16
    | _ -> torch.ScalarType.Float32

let private address = Tensors.address

let private draw (seed: int) (shape: int64 list) =
    use generator = new torch.Generator(uint64 seed)
    torch.randn (Array.ofList shape, generator = generator)

let private product form (format, slow) (weights: Tensor) (x: Tensor) =
    let rows, inner, outs = x.shape[0], x.shape[1], weights.shape[0]
    let y = torch.empty ([| rows; outs |], torch.ScalarType.Float32)
    KernelForms
        .Of(form, slow)
        .Product(MatrixMemory(format, address weights, int outs), int inner, address x, address y, int rows)
    y

/// RMSNorm of one row by a form.
let private norm form (row: Tensor) (weight: Tensor) : Tensor =
    let to' = torch.empty_like row
    let pointer (tensor: Tensor) = NativePtr.ofNativeInt<float32>(address tensor)
    let x, weight, normed = pointer row, pointer weight, pointer to'
    let count = int (row.numel ())

    match form with
    | KernelForm.Avx512 ->
        Elementwise<Vector512<float32>, Lanes512>.RmsNorm(x, weight, normed, count, 1e-5f, 1f)
    | KernelForm.Avx2 ->
        Elementwise<Vector256<float32>, Lanes256>.RmsNorm(x, weight, normed, count, 1e-5f, 1f)
    | _ -> Elementwise<Vector128<float32>, Lanes128>.RmsNorm(x, weight, normed, count, 1e-5f, 1f)

    to'

let private float32s (tensor: Tensor) = Tensors.toFloat32s tensor
let private bits (tensor: Tensor) = float32s tensor |> Array.map BitConverter.SingleToUInt32Bits

type private Shape = { Rows: int; Inner: int; Outs: int; Seed: int }

type private Arbitraries =
    static member Shape() =
        Arb.fromGen (
            gen {
                let! rows = Gen.choose (1, 33)
                let! inner = Gen.oneof [ Gen.choose (1, 80); Gen.elements [ 64; 172; 256; 576 ] ]
                let! outs = Gen.choose (1, 60)
                let! seed = Gen.choose (0, 1_000_000)
                return { Rows = rows; Inner = inner; Outs = outs; Seed = seed }
            }
        )

let private settings count = { Tiny.settings count with arbitrary = [ typeof<Arbitraries> ] }

/// x and weights of a shape, the weights in a format.
let private operands format (shape: Shape) =
    draw shape.Seed [ int64 shape.Rows; int64 shape.Inner ],
    (draw (shape.Seed + 1) [ int64 shape.Outs; int64 shape.Inner ]).``to``(scalarType format)

let private withForm form (model: Model) dtype (body: Weights -> 'T) : 'T =
    use weights = Tiny.weights dtype model
    body (Weights.withKernelForm form weights)

/// Hidden states of the last rows and keys of every layer after reading ids in pieces.
let private read (weights: Weights) exit (pieces: int[] list) =
    Scope.free (fun () ->
        let total = List.sumBy Array.length pieces
        let start = Cache.create weights exit total
        use _storage = start.Slab :> IDisposable

        let step (_, cache) ids =
            let struct (hidden, cache) = Model.forward weights 1 ids cache
            hidden.Read(), cache

        let hidden, cache = List.fold step (null, start) pieces
        let struct (keys, _) = Cache.layer (weights.Config.Layers - 1) cache
        Array.append (bits (SharedHead.logits weights hidden)) (bits keys))

[<Tests>]
let tests =
    testSequenced
    <| testList "kernels" [
        for form in forms do
            for format, slow in formats do
                let name = $"{form}, {format}" + (if slow then " by integers" else "")

                testPropertyWithConfig
                    (settings 40)
                    $"{name}: a product is the plain form's, within 1e-5 of its size"
                <| fun (shape: Shape) ->
                    Scope.free (fun () ->
                        let x, weights = operands format shape
                        let wide (t: Tensor) = t.``to`` torch.ScalarType.Float64
                        let expected = Ops.linear (wide weights) None (wide x)
                        let size = Ops.linear (wide weights |> _.abs()) None (wide x |> _.abs())
                        let error = (product form (format, slow) weights x |> wide).sub(expected).abs()
                        (error / size).max().item<double>() < 1e-5)

                testPropertyWithConfig
                    (settings 40)
                    $"{name}: a row's bits do not depend on the rows beside it"
                <| fun (shape: Shape) ->
                    Scope.free (fun () ->
                        let x, weights = operands format shape
                        let together = product form (format, slow) weights x

                        Seq.forall
                            (fun row ->
                                let alone = x.narrow (0L, int64 row, 1L)
                                bits (product form (format, slow) weights alone) =
                                    bits (together.narrow (0L, int64 row, 1L)))
                            (seq { 0 .. shape.Rows - 1 }))

            testCase $"{form}: every float16 is read exactly" (fun () ->
                Scope.free (fun () ->
                    let finite =
                        Array.init 65536 (fun i -> BitConverter.UInt16BitsToHalf(uint16 i))
                        |> Array.filter Half.IsFinite

                    // One output each, so that the product with 1 is the number itself.
                    let weights = torch.tensor finite
                    let weights =
                        torch.cat (
                            [|
                                weights.unsqueeze 1L
                                torch.zeros_like(weights).unsqueeze(1L).expand(-1L, 15L)
                            |],
                            1L
                        )
                    let x = torch.zeros ([| 1L; 16L |])
                    x[0L, 0L] <- torch.tensor 1.0f

                    for slow in [ false; true ] do
                        let read =
                            product form (WeightFormat.Float16, slow) (weights.contiguous ()) x |> float32s
                        Expect.equal read (finite |> Array.map float32) $"by integers: {slow}"))

            testCase $"{form}: attention is the plain form's, over 0 to 600 positions and windows" (fun () ->
                Scope.free (fun () ->
                    for length, dim, first in
                        [ 1, 4, 0; 2, 64, 0; 7, 8, 3; 64, 64, 0; 129, 20, 100; 601, 128, 1; 600, 64, 0 ] do
                        let q = draw length [ 1L; 1L; 1L; int64 dim ]
                        let k, v =
                            draw (length + 1) [ 1L; 1L; int64 length; int64 dim ],
                            draw (length + 2) [ 1L; 1L; int64 length; int64 dim ]
                        let seen (t: Tensor) = t.narrow (2L, int64 first, int64 (length - first))
                        let expected = Ops.attention null q (seen k) (seen v)
                        let mixed = torch.empty ([| 1L; 1L; int64 dim |], torch.ScalarType.Float32)

                        KernelForms
                            .Of(form, false)
                            .Attention(
                                address q,
                                address k,
                                address v,
                                first,
                                length,
                                dim,
                                1.0f / sqrt (float32 dim),
                                address mixed
                            )

                        Expect.isLessThan
                            ((mixed - expected).abs().max().item<float32>())
                            2e-6f
                            $"{length} positions of {dim}"))

            testPropertyWithConfig
                (settings 40)
                $"{form}: a norm is the plain form's, up to rows whose squares overflow"
            <| fun (shape: Shape) ->
                Scope.free (fun () ->
                    let x, weight = draw shape.Seed [ 3L; int64 shape.Inner ], draw 1 [ int64 shape.Inner ]
                    x.select(0L, 1L).mul_(1e17.ToScalar()) |> ignore
                    x.select(0L, 2L).mul_(1e30.ToScalar()) |> ignore
                    x[2L, int64 (shape.Rows % shape.Inner)] <- torch.tensor 1e21f
                    let expected = Ops.rmsNorm weight 1e-5 x
                    let found =
                        torch.cat [| for row in 0L .. 2L -> norm form (x.narrow (0L, row, 1L)) weight |]
                    let isNaN (t: Tensor) = float32s (t.select (0L, 2L)) |> Array.forall Single.IsNaN
                    let finite (t: Tensor) = t.narrow (0L, 0L, 2L)
                    let error = (finite found - finite expected).abs().max().item<float32>()
                    error <= 1e-5f * expected.narrow(0L, 0L, 2L).abs().max().item<float32>()
                    && isNaN found
                    && isNaN expected)

            testPropertyWithConfig
                (Tiny.settings 30)
                $"{form}: a whole model is libtorch's, within 1e-4 of the largest logit"
            <| fun (case: Case) ->
                let logits (weights: Weights) =
                    Scope.free (fun () ->
                        let cache = Cache.create weights case.Exit (case.Prompt.Length + 1)
                        use _storage = cache.Slab :> IDisposable
                        let struct (_, cache) = Model.forwardEarly weights case.Prompt cache
                        let ids = Array.append case.Prompt [| 3 |]
                        let struct (hidden, _) = Model.forwardRemainder weights ids.Length ids cache
                        SharedHead.logits weights (hidden.Read()) |> Tensors.toFloats)

                [ Dtype.F32; Dtype.F16; Dtype.BF16 ]
                |> List.forall (fun dtype ->
                    withForm form case.Model dtype (fun weights ->
                        let plain, fast = logits (Weights.withoutKernels weights), logits weights
                        let largest = plain |> Array.map abs |> Array.max
                        Array.forall2 (fun a b -> abs (a - b) <= 1e-4 * largest) plain fast))

            testPropertyWithConfig
                (Tiny.settings 30)
                $"{form}: reading a text in pieces gives the bits of reading it whole"
            <| fun (case: Case) (PositiveInt size) ->
                [ Dtype.F32; Dtype.F16; Dtype.BF16 ]
                |> List.forall (fun dtype ->
                    withForm form case.Model dtype (fun weights ->
                        let pieces = case.Prompt |> Array.chunkBySize (1 + size % 5) |> List.ofArray
                        read weights case.Exit pieces = read weights case.Exit [ case.Prompt ]))

        testCase "neither do the threads change a bit, one to three of them" (fun () ->
            let before = CpuKernels.threads ()

            try
                // Large enough that every phase is shared.
                let model = {
                    Config = {
                        Tiny.config 2000 2 8 4 true with
                            Hidden = 256
                            Intermediate = 512
                            HeadDim = 32
                            Context = 256
                    }
                    Seed = 4L
                }

                use weights = Tiny.weights Dtype.BF16 model
                let ids = Array.init 150 (fun i -> i * 7 % 2000)

                let results = [
                    for threads in 1..3 do
                        Workers.Use threads
                        read weights 1 [ ids[..99]; ids[100..120]; ids[121..124]; ids[125..] ]
                ]

                Expect.isTrue (results |> List.forall (fun result -> result = results.Head)) "same bits"
            finally
                Workers.Use before)

        testCase "greedy self-speculation is decided by the logits of plain decoding, bit for bit" (fun () ->
            for dtype in [ Dtype.F32; Dtype.F16; Dtype.BF16 ] do
                use weights = Tiny.weights dtype { Config = Tiny.config 24 4 4 2 true; Seed = 9L }
                let grid = [
                    for e in 1..3 do
                        for d in [ 1; 3; 8; 20 ] -> Strategy.SelfSpeculative(exit 4 e, d), d
                ]
                let checks =
                    Exactness.logits
                        System.Threading.CancellationToken.None
                        weights
                        40
                        [| [| 1 |]; [| 3; 5; 7; 9; 11; 2; 4 |] |]
                        grid
                Expect.equal checks.Length (2 * 12 * 40) "every token of every text"
                Expect.all checks (fun (finding, _) -> finding = Exactness.Exact) $"{dtype}")

        testCase "workers do every part once, whoever calls and however often they slept" (fun () ->
            let before = CpuKernels.threads ()

            try
                for threads in [ 1; 2; 4 ] do
                    Workers.Use threads
                    let counts = Array.zeroCreate<int> 64

                    for round in 1..300 do
                        Workers.Shared.Run(
                            counts.Length,
                            fun part -> Interlocked.Increment(&counts[part]) |> ignore
                        )

                        if round % 100 = 0 then
                            Thread.Sleep 2

                    Expect.all counts (fun count -> count = 300) $"{threads} threads"

                // Two callers at once, and a change of threads under them.
                let total = ref 0

                let call _ =
                    for _ in 1..2000 do
                        Workers.Shared.Run(5, fun _ -> Interlocked.Increment(total) |> ignore)

                let callers = Array.init 2 (fun _ -> Thread((fun () -> call ()), IsBackground = true))
                callers |> Array.iter _.Start()
                Workers.Use 3
                Workers.Use 2
                callers |> Array.iter _.Join()
                Expect.equal total.Value 20_000 "all parts"
            finally
                Workers.Use before)

        testCase "the largest of equal logits is the first" (fun () ->
            for length in [ 1; 3; 8; 9; 100 ] do
                let values = Array.init length (fun i -> float32 (i % 7))
                let expected = Array.findIndex ((=) (Array.max values)) values
                Expect.equal (Search.IndexOfMax(ReadOnlySpan values)) expected $"{length}"
                Expect.equal (Search.IndexOfMax(ReadOnlySpan(Array.map (~-) values))) 0 $"{length}, negative")
    ]
