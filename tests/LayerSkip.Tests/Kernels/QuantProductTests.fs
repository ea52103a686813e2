module LayerSkip.Tests.QuantProductTests

open System
open System.Runtime.InteropServices
open Expecto
open FsCheck
open FsCheck.FSharp
open Microsoft.FSharp.NativeInterop
open LayerSkip
open LayerSkip.Kernels
open LayerSkip.Tests.Tiny

#nowarn "9"

// The wider forms run on narrower processors too, in software, so that each is tested everywhere.
let private forms = Enum.GetValues<KernelForm>() |> List.ofArray

type private Shape = { Rows: int; Blocks: int; Outs: int; Seed: int }

type private Arbitraries =
    static member Shape() =
        Arb.fromGen (
            gen {
                let! rows = Gen.choose (1, 19)
                let! blocks = Gen.choose (1, 21)
                let! outs = Gen.choose (1, 20)
                let! seed = Gen.choose (0, 1_000_000)
                return { Rows = rows; Blocks = blocks; Outs = outs; Seed = seed }
            }
        )

let private settings count = { Tiny.settings count with arbitrary = [ typeof<Arbitraries> ] }

/// Blocks of any numbers, whose scales are of a size that weights have, some of them subnormal in float16.
let private blocks (format: BlockFormat) (count: int) (random: Random) : byte[] =
    let bytes = Array.zeroCreate<byte>(count * format.Bytes)
    random.NextBytes bytes

    for block in 0 .. count - 1 do
        for scale in format.Scales do
            let value =
                Half.op_Explicit (
                    float32 ((random.NextDouble() - 0.3) * Math.Pow(10.0, float (random.Next(-6, -1))))
                )
                : Half
            MemoryMarshal.Write(bytes.AsSpan(block * format.Bytes + scale), &value)

    bytes

let private decode (format: BlockFormat) (bytes: byte[]) : float32[] =
    let values = Array.zeroCreate<float32>(bytes.Length / format.Bytes * format.Values)
    format.Decode.Invoke(ReadOnlySpan bytes, values.AsSpan())
    values

let private decoder (format: BlockFormat) =
    BlockDecoder(fun blocks values count ->
        format.Decode.Invoke(
            ReadOnlySpan(NativePtr.toVoidPtr (NativePtr.ofNativeInt<byte> blocks), count * format.Bytes),
            Span(NativePtr.toVoidPtr (NativePtr.ofNativeInt<byte> values), count * format.Values)
        ))

/// What activations become: numbers of 8 bits times a scale. It is of 16 of a block of 32, the first four of each eight or the last;
/// of 32 of a block of 256, so of every fourth sixteen.
let private rounded (size: int) (x: float32[]) : float32[] =
    let group at = (if size = 32 then 0 else at / 16 % 4), at / 4 % 2

    let whole (block: float32[]) =
        let largest =
            [| 0 .. size - 1 |]
            |> Array.groupBy group
            |> Array.map (fun (group, places) ->
                group, places |> Array.map (fun at -> abs block[at]) |> Array.max)
            |> Map

        block
        |> Array.mapi (fun at value ->
            let scale = largest[group at] / 127.0f
            let inverse = if scale > 1e-37f then 1.0f / scale else 0.0f
            MathF.Round(value * inverse) * scale)

    x |> Array.chunkBySize size |> Array.collect whole

let private activations (count: int) (random: Random) : float32[] =
    Array.init count (fun _ ->
        // A few are far larger than the others, as in real models.
        let outlier = if random.Next 40 = 0 then 30.0 else 1.0
        float32 ((random.NextDouble() * 2.0 - 1.0) * outlier))

let private product form compute (format: BlockFormat) (weights: byte[]) inner (x: float32[]) : float32[] =
    let rows = x.Length / inner
    let outs = weights.Length / format.Bytes * format.Values / inner
    // Nothing may be read behind the matrix but by prefetching.
    use at = fixed weights
    use input = fixed x
    let y = Array.zeroCreate<float32>(rows * outs)
    use output = fixed y

    let matrix =
        MatrixMemory(
            Enum.Parse<WeightFormat> format.Name,
            NativePtr.toNativeInt at,
            outs,
            Decode = decoder format
        )

    KernelForms
        .Of(form, false, compute)
        .Product(matrix, inner, NativePtr.toNativeInt input, NativePtr.toNativeInt output, rows)

    y

/// Whether y = x W^T within a share of the size of its sums.
let private isProduct (share: float) (weights: float32[]) inner (x: float32[]) (y: float32[]) : bool =
    let weights, x = Array.chunkBySize inner weights, Array.chunkBySize inner x

    Array.chunkBySize weights.Length y
    |> Array.forall2
        (fun (x: float32[]) (y: float32[]) ->
            Array.forall2
                (fun (w: float32[]) (y: float32) ->
                    let terms = Array.map2 (fun (a: float32) (b: float32) -> float a * float b) w x
                    abs (float y - Array.sum terms) <= share * (terms |> Array.sumBy abs) + 1e-30)
                weights
                y)
        x

let private bits (values: float32[]) = values |> Array.map BitConverter.SingleToUInt32Bits

let private operands (format: BlockFormat) (shape: Shape) =
    let random = Random shape.Seed
    let inner = shape.Blocks * format.Values
    inner, blocks format (shape.Outs * shape.Blocks) random, activations (shape.Rows * inner) random

[<Tests>]
let quantProducts =
    testSequenced
    <| testList "quantised products" [
        for form in forms do
            for format in GgufBlocks.all do
                let name = $"{form}, {format.Name}"

                testPropertyWithConfig
                    (settings 25)
                    $"{name}: a product is that of decoded blocks with activations of 8 bits"
                <| fun (shape: Shape) ->
                    let inner, weights, x = operands format shape

                    product form ComputeForm.Bytes format weights inner x
                    |> isProduct 1e-5 (decode format weights) inner (rounded format.Values x)

                testPropertyWithConfig
                    (settings 10)
                    $"{name}: computed in float, it is that of decoded blocks"
                <| fun (shape: Shape) ->
                    let inner, weights, x = operands format shape

                    product form ComputeForm.Float format weights inner x
                    |> isProduct 1e-5 (decode format weights) inner x

                testPropertyWithConfig
                    (settings 15)
                    $"{name}: a row's bits do not depend on the rows beside it"
                <| fun (shape: Shape) ->
                    let inner, weights, x = operands format shape

                    [ ComputeForm.Bytes; ComputeForm.Float ]
                    |> List.forall (fun compute ->
                        let alone =
                            Array.chunkBySize inner x
                            |> Array.collect (product form compute format weights inner)

                        bits alone = bits (product form compute format weights inner x))

                testCase
                    $"{name}: nor do they where rows are long and their inputs pass in stages, for more outputs than go together"
                    (fun () ->
                        for rows, numbers, outs in [ 2, 13_056, 3; 5, 8_192, 33; 8, 2_304, 67; 9, 4_352, 1 ] do
                            let shape = {
                                Rows = rows
                                // Of blocks of 32 the last group is not whole.
                                Blocks = numbers / format.Values - (if format.Values = 32 then 3 else 0)
                                Outs = outs
                                Seed = numbers
                            }

                            let inner, weights, x = operands format shape
                            let all = product form ComputeForm.Bytes format weights inner x

                            let alone =
                                Array.chunkBySize inner x
                                |> Array.collect (product form ComputeForm.Bytes format weights inner)

                            Expect.sequenceEqual (bits all) (bits alone) $"{rows} rows of {numbers}"

                            Expect.isTrue
                                (isProduct 1e-5 (decode format weights) inner (rounded format.Values x) all)
                                $"the product, {rows} rows of {numbers}")

                testCase $"{name}: what is no number stays none" (fun () ->
                    for odd in [ nanf; infinityf; -infinityf ] do
                        let inner, weights, x = operands format { Rows = 3; Blocks = 9; Outs = 4; Seed = 1 }

                        x[inner + 40] <- odd
                        let y = product form ComputeForm.Bytes format weights inner x |> Array.chunkBySize 4
                        Expect.all y[1] (Single.IsFinite >> not) $"{odd} in row 1"
                        Expect.all (Array.append y[0] y[2]) Single.IsFinite "the rows beside it")
    ]
