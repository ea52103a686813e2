module LayerSkip.Tests.NarrowHeadTests

open System
open System.Runtime.InteropServices
open Expecto
open FsCheck.FSharp
open Microsoft.FSharp.NativeInterop
open LayerSkip
open LayerSkip.Kernels
open LayerSkip.Tests.Tiny

#nowarn "9"

// The wider forms run on narrower processors too, in software, so that each is tested everywhere.
let private forms = Enum.GetValues<KernelForm>() |> List.ofArray

/// Hidden rows, the width of a row in blocks or numbers, a vocabulary, and ids of it in any order.
type private Case = { Rows: int; Width: int; Vocabulary: int; Ids: int[]; Seed: int }

type private Arbitraries =
    static member Case() =
        Arb.fromGen (
            gen {
                let! rows = Gen.oneof [ Gen.choose (1, 9); Gen.choose (1, 40) ]
                let! width = Gen.choose (1, 13)
                let! vocabulary = Gen.oneof [ Gen.choose (1, 60); Gen.choose (60, 700) ]
                let! order = Gen.shuffle [| 0 .. vocabulary - 1 |]
                let! count = Gen.choose (1, vocabulary)
                let! seed = Gen.choose (0, 1_000_000)

                return {
                    Rows = rows
                    Width = width
                    Vocabulary = vocabulary
                    Ids = Array.truncate count order
                    Seed = seed
                }
            }
        )

let private settings count = { Tiny.settings count with arbitrary = [ typeof<Arbitraries> ] }

let private floats (random: Random) count =
    Array.init count (fun _ -> float32 (random.NextDouble() * 2.0 - 1.0))

/// A head's numbers of a row, its bytes, and the format's decoder.
let private dense (format: WeightFormat) (case: Case) =
    let hidden = 2 + 7 * case.Width
    let values = floats (Random case.Seed) (case.Vocabulary * hidden)

    let bytes =
        match format with
        | WeightFormat.Float32 -> MemoryMarshal.AsBytes(values.AsSpan()).ToArray()
        | WeightFormat.Float16 ->
            let halves = values |> Array.map (fun value -> Half.op_Explicit value: Half)
            MemoryMarshal.AsBytes(halves.AsSpan()).ToArray()
        | _ ->
            let upper =
                values |> Array.map (fun value -> uint16 (BitConverter.SingleToUInt32Bits value >>> 16))
            MemoryMarshal.AsBytes(upper.AsSpan()).ToArray()

    hidden, bytes, null

let private quantised (format: BlockFormat) (case: Case) =
    let random = Random case.Seed
    let hidden = case.Width * format.Values
    let bytes = Array.zeroCreate<byte>(case.Vocabulary * case.Width * format.Bytes)
    random.NextBytes bytes

    for block in 0 .. case.Vocabulary * case.Width - 1 do
        for scale in format.Scales do
            let value: Half = Half.op_Explicit (float32 (random.NextDouble() * 0.01 - 0.003))
            MemoryMarshal.Write(bytes.AsSpan(block * format.Bytes + scale), &value)

    let decoder =
        BlockDecoder(fun blocks values count ->
            format.Decode.Invoke(
                ReadOnlySpan(NativePtr.toVoidPtr (NativePtr.ofNativeInt<byte> blocks), count * format.Bytes),
                Span(NativePtr.toVoidPtr (NativePtr.ofNativeInt<byte> values), count * format.Values)
            ))

    hidden, bytes, decoder

let private read (at: nativeint) count =
    ReadOnlySpan<uint32>(NativePtr.toVoidPtr (NativePtr.ofNativeInt<uint32> at), count).ToArray()

/// Whether the logits of gathered rows are the whole head's at their ids, bit for bit; gathered in two turns, of which the first is also
/// read alone, before and after the second.
let private isTheHead form slow compute (format: WeightFormat) operands (case: Case) : bool =
    let hidden, (bytes: byte[]), decoder = operands case
    use weights = fixed bytes
    let norm = floats (Random(case.Seed + 1)) hidden
    use normAt = fixed norm
    let states = floats (Random(case.Seed + 2)) (case.Rows * hidden)
    use statesAt = fixed states
    let states = NativePtr.toNativeInt statesAt
    let head = MatrixMemory(format, NativePtr.toNativeInt weights, case.Vocabulary, Decode = decoder)
    let memory = DecoderMemory(head, NativePtr.toNativeInt normAt, head, [||])
    let shape = DecoderShape(hidden, 8, 1, 1, 2, case.Vocabulary, 1e-5f, Windows = [||])
    use pass = KernelForms.Of(form, slow, compute).CreatePass(shape, memory)
    let whole = read (pass.Head(states, case.Rows)) (case.Rows * case.Vocabulary)

    let expected count = [|
        for row in 0 .. case.Rows - 1 do
            for id in Array.truncate count case.Ids -> whole[row * case.Vocabulary + id]
    |]

    use gathered = pass.GatherHead case.Ids.Length
    let found count = read (pass.Head(gathered, count, states, case.Rows)) (case.Rows * count)
    let first = (case.Ids.Length + 1) / 2
    gathered.Add(ReadOnlySpan case.Ids[.. first - 1])
    let early = found first
    gathered.Add(ReadOnlySpan case.Ids[first..])

    early = expected first
    && found first = early
    && found case.Ids.Length = expected case.Ids.Length

let private dense16And32 = [
    WeightFormat.Float32, false
    WeightFormat.BFloat16, false
    WeightFormat.Float16, false
    WeightFormat.Float16, true
]

let private refuses (body: unit -> unit) = Expect.throwsT<ArgumentOutOfRangeException> body "refused"

[<Tests>]
let tests =
    testSequenced
    <| testList "rows gathered from the head" [
        for form in forms do
            for format, slow in dense16And32 do
                let name = $"{form}, {format}" + (if slow then " by integers" else "")

                testPropertyWithConfig (settings 25) $"{name}: logits are the whole head's, bit for bit"
                <| isTheHead form slow ComputeForm.Bytes format (dense format)

            for format in GgufBlocks.all do
                for compute in [ ComputeForm.Bytes; ComputeForm.Float ] do
                    testPropertyWithConfig
                        (settings 10)
                        $"{form}, {format.Name} as {compute}: logits are the whole head's, bit for bit"
                    <| isTheHead form false compute (Enum.Parse<WeightFormat> format.Name) (quantised format)

        testCase
            "no row that the head has not, nor more than there is room for, nor after they went"
            (fun () ->
                let values = Array.zeroCreate<float32> 24
                use at = fixed values
                let matrix = MatrixMemory(WeightFormat.Float32, NativePtr.toNativeInt at, 6)
                let before = TensorSupport.liveFloats ()
                let rows = new GatheredRows(matrix, 16n, 3)
                rows.Add(ReadOnlySpan [| 5; 0 |])

                for ids in [ [| 6 |]; [| -1 |]; [| 1; 2 |] ] do
                    refuses (fun () -> rows.Add(ReadOnlySpan ids))

                for count in [ 0; 3 ] do
                    refuses (fun () -> rows.First count |> ignore)

                Expect.equal rows.Count 2 "as before"
                Expect.equal (rows.First(2).Address % 64n) 0n "at a multiple of 64"
                rows.Dispose()
                Expect.equal FloatBuffer.Held before "memory is given back"

                for use' in
                    [
                        (fun () -> rows.Add(ReadOnlySpan [| 1 |]))
                        (fun () -> rows.First 1 |> ignore)
                        rows.Clear
                    ] do
                    Expect.throwsT<ObjectDisposedException> use' "disposed")
    ]

/// Few values, so that many are equal; NaN is for no search.
let private numbers (bytes: byte[]) = bytes |> Array.map (fun value -> float32 (int value % 7) - 3.0f)

[<Tests>]
let searches =
    testList "searches of a row" [
        testProperty "of equal largest values that of the lowest id"
        <| fun (bytes: byte[]) (seed: int) ->
            let values = Array.append [| 1.0f |] (numbers bytes)
            let ids = Array.init values.Length id
            Random(seed).Shuffle ids
            let largest = Array.max values

            let expected =
                Seq.indexed values
                |> Seq.filter (fun (_, value) -> value = largest)
                |> Seq.minBy (fun (at, _) -> ids[at])
                |> fst

            Expect.equal
                (Search.IndexOfMax(ReadOnlySpan values, ReadOnlySpan ids))
                expected
                $"{values}, {ids}"

        testProperty "the largest few, in order, of equal ones the first"
        <| fun (bytes: byte[]) (wide: bool) (count: byte) ->
            let values =
                numbers (
                    if wide then
                        Array.collect (fun b -> [| b; b / 2uy; 1uy; b / 3uy |]) bytes
                    else
                        bytes
                )
            let places = Array.create (int count % 20) -1
            let found = Search.Largest(ReadOnlySpan values, Span places)

            let expected =
                Seq.indexed values
                |> Seq.sortBy (fun (at, value) -> -value, at)
                |> Seq.truncate places.Length
                |> Seq.map fst
                |> Array.ofSeq

            Expect.equal (Array.truncate found places) expected $"{places.Length} of {values}"
            Expect.all places[found..] ((=) -1) "the rest is left alone"
    ]
