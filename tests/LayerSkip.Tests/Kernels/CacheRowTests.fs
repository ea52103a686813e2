module LayerSkip.Tests.CacheRowTests

open System
open Expecto
open FsCheck
open FsCheck.FSharp
open TorchSharp
open LayerSkip
open LayerSkip.Kernels
open LayerSkip.Tests

Backend.ensure ()

// The wider forms run on narrower processors too, in software.
let private forms = Enum.GetValues<KernelForm>() |> List.ofArray
let private kernels form = KernelForms.Of(form, false)
let private address = Tensors.address
let private bits (tensor: Tensor) = Tensors.toFloat32s tensor |> Array.map BitConverter.SingleToUInt32Bits

let private draw (seed: int) (shape: int64 list) =
    use generator = new torch.Generator(uint64 seed)
    torch.randn (Array.ofList shape, generator = generator)

/// Rows of float32 [rows; dim] as a cache holds them, and as it gives them back.
let private throughCache form format (x: Tensor) : struct (Tensor * Tensor) =
    let rows, dim = int x.shape[0], int x.shape[1]
    let bytes = CacheRows.Bytes(format, dim)
    let held = torch.empty ([| int64 rows; int64 bytes |], torch.ScalarType.Byte)
    let back = torch.empty (x.shape, torch.ScalarType.Float32)

    for row in 0 .. rows - 1 do
        let from, into = address x + nativeint (4 * row * dim), address held + nativeint (row * bytes)
        (kernels form).WriteRow(format, from, into, dim)

    (kernels form).WidenRows(format, address held, rows, dim, address back)
    struct (held, back)

let private ofRow form format (values: float32[]) =
    let struct (_, back) = throughCache form format (torch.tensor(values).view(1L, -1L))
    Tensors.toFloat32s back

/// What rows of a cache are asked: rows of queries of a group of heads.
type private Asked = { Group: int; Rows: int; Start: int; Window: int; Dim: int; Seed: int }

type private Arbitraries =
    static member Asked() =
        Arb.fromGen (
            gen {
                let! group = Gen.elements [ 1; 2; 3; 4; 7; 20 ]
                let! rows = Gen.choose (1, 9)
                let! start = Gen.frequency [ 3, Gen.choose (0, 40); 1, Gen.choose (100, 700) ]
                let! window = Gen.elements [ 0; 0; 1; 5; 130 ]
                let! dim = Gen.elements [ 2; 4; 6; 20; 64; 96; 128; 256 ]
                let! seed = Gen.choose (0, 1_000_000)

                return { Group = group; Rows = rows; Start = start; Window = window; Dim = dim; Seed = seed }
            }
        )

let private settings count = { Tiny.settings count with arbitrary = [ typeof<Arbitraries> ] }

[<Tests>]
let tests =
    testSequenced
    <| testList "cache rows" [
        for form in forms do
            for format in Enum.GetValues<CacheFormat>() do
                testPropertyWithConfig
                    (settings 60)
                    $"{form}, {format}: attention is that over the widened cache, bit for bit"
                <| fun (asked: Asked) ->
                    Scope.free (fun () ->
                        let dim, positions = int64 asked.Dim, int64 (asked.Start + asked.Rows)
                        let rows = draw asked.Seed [ 2L * positions; dim ]
                        let struct (held, wide) = throughCache form format rows
                        let part (t: Tensor) which = t.narrow (0L, which * positions, positions)
                        let q = draw (asked.Seed + 1) [ int64 asked.Rows; int64 asked.Group; dim ]
                        let scale = 1.0f / sqrt (float32 asked.Dim)
                        let together, alone = torch.empty_like q, torch.empty_like q

                        let queries =
                            GroupedQueries(
                                address q,
                                asked.Group * asked.Dim,
                                address together,
                                asked.Group * asked.Dim,
                                asked.Group,
                                asked.Rows,
                                asked.Start,
                                asked.Window,
                                asked.Dim
                            )

                        (kernels form)
                            .NarrowAttention(
                                format,
                                queries,
                                address (part held 0L),
                                address (part held 1L),
                                scale
                            )

                        for row in 0 .. asked.Rows - 1 do
                            for head in 0 .. asked.Group - 1 do
                                let at = nativeint (4 * (row * asked.Group + head) * asked.Dim)

                                (kernels form)
                                    .Attention(
                                        address q + at,
                                        address (part wide 0L),
                                        address (part wide 1L),
                                        queries.First row,
                                        queries.Last row,
                                        asked.Dim,
                                        scale,
                                        address alone + at
                                    )

                        bits together = bits alone)

            testCase $"{form}: float16 rows are libtorch's, every number of that format is kept" (fun () ->
                Scope.free (fun () ->
                    let finite =
                        Array.init 65536 (fun i -> float32 (BitConverter.UInt16BitsToHalf(uint16 i)))
                        |> Array.filter Single.IsFinite

                    Expect.equal (ofRow form CacheFormat.Float16 finite) finite "kept"
                    let x = draw 5 [ 40L; 50L ]
                    let struct (_, back) = throughCache form CacheFormat.Float16 (x * 100.0f.ToScalar())
                    let half = (x * 100.0f.ToScalar()).``to``(torch.ScalarType.Float16)
                    Expect.equal (bits back) (bits half) "rounded to nearest"))

            testCase
                $"{form}: what a format has no room for reads as NaN, and so does what is not finite"
                (fun () ->
                    Scope.free (fun () ->
                        for bad in [ nanf; infinityf; -infinityf; 65520.0f; -1e30f ] do
                            let row = Array.init 40 (fun i -> if i = 17 then bad else float32 i)
                            let read = ofRow form CacheFormat.Float16 row
                            Expect.isTrue (Single.IsNaN read[17]) $"{bad} in float16"
                            Expect.equal (read |> Array.filter Single.IsNaN).Length 1 "alone"

                            if not (Single.IsFinite bad) then
                                Expect.all
                                    (ofRow form CacheFormat.Int8 row)
                                    Single.IsNaN
                                    $"a row of 8 bits with {bad}"

                        Expect.equal
                            (Array.head (ofRow form CacheFormat.Float16 [| 65519.0f; 65504.0f |]))
                            65504.0f
                            "rounded"))

            testPropertyWithConfig
                (settings 60)
                $"{form}: 8 bits are the nearest of 255 steps, and bits of every form"
            <| fun (NonNegativeInt seed) (exponent: int) ->
                Scope.free (fun () ->
                    let size = 2.0f ** float32 (exponent % 120)
                    let dim = 2L * int64 (1 + seed % 70)
                    let x = draw seed [ 3L; dim ] * size.ToScalar()
                    let struct (_, back) = throughCache form CacheFormat.Int8 x
                    let struct (_, plain) = throughCache KernelForm.Portable CacheFormat.Int8 x

                    let near row =
                        let x, read = Tensors.toFloat32s x[int64 row], Tensors.toFloat32s back[int64 row]
                        let most = x |> Array.map abs |> Array.max
                        Array.forall2
                            (fun a b -> float (abs (a - b)) <= 0.5001 * float most / 127.0 + 1e-44)
                            x
                            read

                    bits back = bits plain && Seq.forall near (seq { 0..2 }))

        testCase "a row of zeros, and one of next to nothing, stay so in 8 bits" (fun () ->
            for small in [ 0.0f; Single.Epsilon; 1e-43f; 1e-38f ] do
                let read = ofRow KernelForms.Best CacheFormat.Int8 (Array.create 10 small)
                Expect.all read (fun x -> x >= 0.0f && x <= 1.01f * small + 1e-43f) $"{small}")

        testCase "a row takes 4, 2, and a little more than 1 byte a number" (fun () ->
            let bytes format dim = CacheRows.Bytes(format, dim)
            Expect.equal (bytes CacheFormat.Float32 64, bytes CacheFormat.Float16 64) (256, 128) "floats"
            Expect.equal (bytes CacheFormat.Int8 64, bytes CacheFormat.Int8 6) (68, 12) "8 bits")
    ]
