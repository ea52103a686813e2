/// Attention of many rows on the processor's matrix unit.
module LayerSkip.Tests.MatrixAttentionTests

open System
open System.Runtime.Intrinsics
open Expecto
open FsCheck
open FsCheck.FSharp
open Microsoft.FSharp.NativeInterop
open LayerSkip
open LayerSkip.Kernels

#nowarn "9" // Rows in memory of its own.

Backend.ensure ()

type Asked = {
    Dim: int
    Group: int
    Start: int
    Rows: int
    Window: int
    Format: CacheFormat
    Seed: int
}

type Arbitraries =
    static member Asked() =
        Arb.fromGen (
            gen {
                let! dim = Gen.elements [ 16; 48; 64; 80; 96; 128; 256 ]
                let! group = Gen.frequency [ 9, Gen.choose (1, 4); 1, Gen.elements [ 8; 32 ] ]
                let! start = Gen.oneof [ Gen.constant 0; Gen.choose (1, 300) ]
                let! rows = Gen.choose (1, 150)
                let! window = Gen.oneof [ Gen.constant 0; Gen.choose (1, 200) ]
                let! format = Gen.elements [ CacheFormat.Float32; CacheFormat.Float16; CacheFormat.Int8 ]
                let! seed = Gen.choose (0, 1_000_000)

                return {
                    Dim = dim
                    Group = group
                    Start = start
                    Rows = rows
                    Window = window
                    Format = format
                    Seed = seed
                }
            }
        )

let private settings count = { Tiny.settings count with arbitrary = [ typeof<Arbitraries> ] }

let private rounded (value: float32) =
    let bits = BitConverter.SingleToUInt32Bits value
    BitConverter.UInt32BitsToSingle((bits + 0x7fffu + ((bits >>> 16) &&& 1u)) &&& 0xffff0000u)

let private drawn (random: Random) rows dim size =
    Array.init rows (fun _ -> Array.init dim (fun _ -> float32 ((random.NextDouble() - 0.5) * size)))

/// Keys or values as a cache has them, and as they are read from it.
let private stored format dim (rows: float32[][]) =
    let bytes = CacheRows.Bytes(format, dim)
    let memory = Array.zeroCreate<byte>(bytes * rows.Length)
    let read = Array.init rows.Length (fun _ -> Array.zeroCreate<float32> dim)

    for i in 0 .. rows.Length - 1 do
        use from = fixed rows[i]
        use at = fixed &memory[i * bytes]
        use wide = fixed read[i]
        CacheRows<Vector128<float32>, Lanes128>.Write(format, from, at, dim)
        CacheRows.Widen(format, NativePtr.toNativeInt at, 1, dim, NativePtr.toNativeInt wide)

    memory, read

/// What rows `first` to `last` - 1 get, [rows][group][dim], and the keys and values that they read.
let private attend (asked: Asked) (queries: float32[][]) (keys: byte[]) (values: byte[]) first last =
    let dim, group, rows = asked.Dim, asked.Group, last - first
    let width = group * dim
    let flat = queries[first .. last - 1] |> Array.concat
    let packs = MatrixProduct.Packs rows
    let each = MatrixProduct.PackFloats width
    let answers = Array.create<float32> (packs * each) nanf
    use from = fixed flat
    use keysAt = fixed keys
    use valuesAt = fixed values
    use answered = fixed answers

    for pack in 0..2 .. packs - 1 do
        let some =
            PackedQueries(
                NativePtr.toNativeInt from,
                width,
                NativePtr.toNativeInt answered,
                each,
                group,
                pack,
                min 2 (packs - pack),
                rows,
                asked.Start + first,
                asked.Window,
                dim
            )

        MatrixAttention.Run<Vector128<float32>, Lanes128>(asked.Format, keysAt, valuesAt, &some)

    Array.init rows (fun row ->
        Array.init group (fun head ->
            Array.init dim (fun d ->
                let pack, lane = Math.DivRem(row, MatrixProduct.PackRows)
                let at = pack * each + (head * dim / 2 + d / 2) * MatrixProduct.PackRows + lane
                let bits = BitConverter.SingleToUInt32Bits answers[at]
                BitConverter.UInt32BitsToSingle(if d % 2 = 0 then bits <<< 16 else bits &&& 0xffff0000u))))

let private seen (asked: Asked) row =
    let last = asked.Start + row
    (if asked.Window > 0 then
         max 0 (last + 1 - asked.Window)
     else
         0),
    last

/// The same in float64, of the same rounded numbers; weights are not rounded.
let private expected (asked: Asked) (query: float32[]) (keys: float32[][]) (values: float32[][]) row =
    let first, last = seen asked row
    let scale = 1f / MathF.Sqrt(float32 asked.Dim)

    let scores = [|
        for at in first..last ->
            Array.fold2
                (fun sum q k -> sum + float (rounded (q * scale)) * float (rounded k))
                0.0
                query
                keys[at]
    |]

    let most = Array.max scores
    let weights = scores |> Array.map (fun score -> exp (score - most))
    let total = Array.sum weights
    Array.init asked.Dim (fun d ->
        let mixed =
            Array.mapi
                (fun i weight -> weight * float (rounded ((Array.item (first + i) values)[d])))
                weights
        Array.sum mixed / total)

let private operands (asked: Asked) =
    let random = Random asked.Seed
    let positions = asked.Start + asked.Rows
    let queries = drawn random asked.Rows (asked.Group * asked.Dim) 6.0
    queries, drawn random positions asked.Dim 4.0, drawn random positions asked.Dim 2.0

/// Whether row `row`, alone or before those after it, gets what it gets among all.
let private isTheSameAlone (asked: Asked) row =
    let queries, keys, values = operands asked
    let keys, _ = stored asked.Format asked.Dim keys
    let values, _ = stored asked.Format asked.Dim values
    let whole = attend asked queries keys values 0 asked.Rows
    let alone = attend asked queries keys values row (row + 1)
    let rest = attend asked queries keys values row asked.Rows
    Expect.equal alone[0] whole[row] "alone"
    Expect.equal rest whole[row..] "from there on"

let private tests' =
    if not MatrixUnit.IsThere then
        [
            testCase "there is none" (fun () -> Expect.isFalse (MatrixAttention.Fits 64) "no head fits")
        ]
    else
        [
            testPropertyWithConfig (settings 60) "what rows get is attention over rounded numbers"
            <| fun (asked: Asked) ->
                let queries, keys, values = operands asked
                let keyRows, keysRead = stored asked.Format asked.Dim keys
                let valueRows, valuesRead = stored asked.Format asked.Dim values
                let found = attend asked queries keyRows valueRows 0 asked.Rows

                for row in 0 .. max 1 (asked.Rows / 9) .. asked.Rows - 1 do
                    for head in 0 .. asked.Group - 1 do
                        let query = queries[row][head * asked.Dim .. (head + 1) * asked.Dim - 1]
                        let wanted = expected asked query keysRead valuesRead row
                        let off =
                            Seq.map2
                                (fun (a: float32) b -> abs (float a - b))
                                (found[row] |> Array.item head)
                                wanted
                            |> Seq.max
                        // Values are at most 1; weights and answers have eight bits.
                        Expect.isLessThan off 0.006 $"row {row}, head {head}"

            testPropertyWithConfig (settings 200) "a row's bits depend on that row alone"
            <| fun (asked: Asked) (PositiveInt cut) -> isTheSameAlone asked (cut % asked.Rows)

            // A weight of 1.0000001 for what was mixed before, where the largest score had not grown.
            testCase "nor on whether others in its pack see a chunk more" (fun () ->
                let asked = {
                    Dim = 16
                    Group = 3
                    Start = 0
                    Rows = 132
                    Window = 106
                    Format = CacheFormat.Float32
                    Seed = 555928
                }

                for cut in [ 1; 33; 100; 110 ] do
                    isTheSameAlone asked cut)

            testPropertyWithConfig
                (settings 30)
                "what is no number comes to those that see it, and to no others"
            <| fun (asked: Asked) (PositiveInt at) (inKeys: bool) ->
                let queries, keys, values = operands asked
                let position = at % keys.Length
                let spoiled = if inKeys then keys else values
                spoiled[position][at % asked.Dim] <- [| nanf; infinityf; -infinityf |][at % 3]
                let keys, _ = stored asked.Format asked.Dim keys
                let values, _ = stored asked.Format asked.Dim values
                let found = attend asked queries keys values 0 asked.Rows

                for row in 0 .. asked.Rows - 1 do
                    let first, last = seen asked row
                    let sees = first <= position && position <= last
                    let isFinite = found[row] |> Array.forall (Array.forall Single.IsFinite)

                    // An infinite key may come to a score of minus infinity, and so to no weight.
                    if not sees then
                        Expect.isTrue isFinite $"row {row} does not see {position}"
                    elif not inKeys then
                        Expect.isFalse isFinite $"row {row} sees {position}"
        ]

[<Tests>]
let tests = testSequenced <| testList "attention on the matrix unit" tests'
