/// Products on the processor's matrix unit, where it has one that libtorch reaches.
module LayerSkip.Tests.MatrixUnitTests

open System
open System.Threading.Tasks
open Expecto
open FsCheck
open FsCheck.FSharp
open Microsoft.FSharp.NativeInterop
open TorchSharp
open LayerSkip
open LayerSkip.Kernels
open LayerSkip.Tests.TensorSupport

#nowarn "9" // Rows in tensors' memory.

Backend.ensure ()

type Shape = { Rows: int; Inner: int; Outs: int; Seed: int }

type Arbitraries =
    static member Shape() =
        Arb.fromGen (
            gen {
                let! rows = Gen.choose (1, 100)
                let! inner = Gen.elements [ 16; 32; 48; 64; 176; 576; 1024; 1040; 1536; 2064 ]
                let! outs = Gen.choose (1, 130)
                let! seed = Gen.choose (0, 1_000_000)
                return { Rows = rows; Inner = inner; Outs = outs; Seed = seed }
            }
        )

let private settings count = { Tiny.settings count with arbitrary = [ typeof<Arbitraries> ] }

let private draw seed (size: int list) =
    use generator = new torch.Generator(uint64 (seed: int))
    torch.randn (size |> List.map int64 |> Array.ofList, generator = generator)

let private floats (t: Tensor) : nativeptr<float32> = NativePtr.ofNativeInt (Tensors.address t)

/// x W^T of float32 x and bfloat16 W, outputs cut at every `step`.
let private product step scale (x: Tensor) (weights: Tensor) =
    let rows, inner, outs = int x.shape[0], int x.shape[1], int weights.shape[0]
    let packs = torch.empty [| MatrixProduct.Room(inner, rows) |]

    for index in 0 .. (rows - 1) / MatrixProduct.PackRows do
        MatrixProduct.Pack(
            ScaledRows(floats x, inner, scale, inner),
            inner,
            index * MatrixProduct.PackRows,
            rows,
            NativePtr.add (floats packs) (index * MatrixProduct.PackFloats inner)
        )

    let y = torch.full ([| int64 rows; int64 outs |], nan.ToScalar(), torch.ScalarType.Float32)
    let memory = MatrixMemory(WeightFormat.BFloat16, Tensors.address weights, outs)
    let sums = MatrixProduct.SumsOf(rows, 1)

    for first in 0..step .. outs - 1 do
        let count = min step (outs - first)
        MatrixProduct.Sums(null, memory, inner, floats packs, rows, first, count, sums)

        for index in 0 .. (rows - 1) / MatrixProduct.PackRows do
            let row = index * MatrixProduct.PackRows
            MatrixProduct.Store(
                NativePtr.add sums (index * MatrixProduct.PackSums),
                NativePtr.add (floats y) (row * outs + first),
                outs,
                min MatrixProduct.PackRows (rows - row),
                count
            )

    MatrixUnit.Release()
    GC.KeepAlive(x, weights)
    y

let private operands (shape: Shape) =
    draw shape.Seed [ shape.Rows; shape.Inner ],
    (draw (shape.Seed + 1) [ shape.Outs; shape.Inner ]).``to`` torch.ScalarType.BFloat16

let private tests' =
    if not MatrixUnit.IsThere then
        [
            testCase "there is none" (fun () -> Expect.isFalse (MatrixProduct.Fits 64) "no shape fits")
        ]
    else
        [
            testPropertyWithConfig (settings 100) "a product is that of rounded numbers, to float32's sums"
            <| fun (shape: Shape) ->
                Scope.free (fun () ->
                    let x, weights = operands shape
                    let wide (t: Tensor) = t.``to`` torch.ScalarType.Float64
                    let rounded = (x * 0.5).``to`` torch.ScalarType.BFloat16 |> wide
                    let expected = Ops.linear (wide weights) None rounded
                    let size = Ops.linear (wide weights |> _.abs()) None (rounded.abs ())
                    let found = product MatrixProduct.Outputs 0.5f x weights
                    (((wide found).sub(expected).abs()) / size).max().item<double>() < 1e-6)

            testPropertyWithConfig
                (settings 60)
                "a number's bits depend neither on the rows beside its own nor on where outputs are cut"
            <| fun (shape: Shape) (PositiveInt step) ->
                Scope.free (fun () ->
                    let x, weights = operands shape
                    let together = product MatrixProduct.Outputs 1f x weights
                    let cut = product (1 + step % MatrixProduct.Outputs) 1f x weights
                    let row = shape.Seed % shape.Rows
                    let alone =
                        product MatrixProduct.Outputs 1f (x.narrow(0L, int64 row, 1L).contiguous()) weights
                    bytesOf cut = bytesOf together
                    && bytesOf alone = bytesOf (together.narrow (0L, int64 row, 1L)))

            testCase "threads multiply at once" (fun () ->
                Scope.free (fun () ->
                    let x, weights = operands { Rows = 40; Inner = 576; Outs = 96; Seed = 3 }
                    let expected = product MatrixProduct.Outputs 1f x weights |> bytesOf

                    let found =
                        Array.init 4 (fun _ ->
                            Task.Run(fun () -> Scope.free (fun () -> product 24 1f x weights |> bytesOf)))
                        |> Task.WhenAll

                    for bytes in found.Result do
                        Expect.equal bytes expected "the same"))

            testCase "what is no number stays none" (fun () ->
                Scope.free (fun () ->
                    for value in [ nan; infinity; -infinity; 3.4e38 ] do
                        let x, weights = operands { Rows = 3; Inner = 64; Outs = 9; Seed = 5 }
                        x.narrow(0L, 1L, 1L).narrow(1L, 7L, 1L).fill_(value.ToScalar()) |> ignore
                        let found = product MatrixProduct.Outputs 1f x weights
                        Expect.isFalse (Tensors.isFinite (found.narrow (0L, 1L, 1L))) "the row's own"
                        Expect.isTrue (Tensors.isFinite (found.narrow (0L, 2L, 1L))) "no other's"))
        ]

[<Tests>]
let tests = testSequenced <| testList "matrix unit" tests'
