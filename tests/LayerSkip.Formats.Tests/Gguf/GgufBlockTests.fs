module LayerSkip.Tests.GgufBlockTests

open System
open System.IO
open System.Text.Json
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.GgufWriter
open LayerSkip.Tests.GgufBlockSupport

let private ok result = Check.getOrRaise result

[<Tests>]
let blockTests =
    testList "gguf blocks" [
        for name, format, _ in formats do
            testProperty $"{name}: the formula's values, bit for bit"
            <| fun (seed: int) (PositiveInt count) ->
                let bytes = blocks (Random seed) format.Kind (1 + count % 9)
                Expect.equal (bits (decode format bytes)) (bits (naive format.Kind bytes)) name

            testProperty $"{name}: a block is worth the same alone and among others"
            <| fun (seed: int) (PositiveInt count) (NonNegativeInt chosen) ->
                let count = 1 + count % 9
                let chosen = chosen % count
                let bytes = blocks (Random seed) format.Kind count
                let alone = decode format bytes[chosen * format.Bytes .. (chosen + 1) * format.Bytes - 1]
                let among = (decode format bytes)[chosen * format.Values .. (chosen + 1) * format.Values - 1]
                Expect.equal (bits alone) (bits among) name

            testProperty $"{name}: some rows of a file are those of the whole"
            <| fun (seed: int) (PositiveInt rows) (PositiveInt blocksOfRow) (NonNegativeInt first) ->
                let rows, wide = 1 + rows % 5, 1 + blocksOfRow % 3
                let first = first % rows
                let bytes = blocks (Random seed) format.Kind (rows * wide)
                let dims = [ uint64 (format.Values * wide); uint64 rows ]

                withBytes
                    (gguf 3u (model "llama") (placed [ "blk.0.ffn_up.weight", dims, format.Kind, bytes ]))
                    (fun path ->
                        use file = Gguf.openFile path |> ok
                        let stored = List.exactlyOne file.Tensors
                        let whole = StoredTensor.toFloats stored
                        let part = StoredTensor.rows (int64 first) (int64 (rows - first)) stored
                        Expect.equal (stored.Format, stored.Dtype) (name, Dtype.F32) "format and dtype"
                        Expect.equal
                            (Array.map float32 whole |> bits)
                            (bits (naive format.Kind bytes))
                            "values"
                        Expect.equal
                            (StoredTensor.toFloats part)
                            whole[first * wide * format.Values ..]
                            "rows to the end")

            testCase $"{name}: half a block, or too few values, is a bug of the caller"
            <| fun () ->
                for bytes, values in [ format.Bytes - 1, format.Values; format.Bytes, format.Values - 1 ] do
                    Expect.throwsT<ArgumentException>
                        (fun () ->
                            format.Decode.Invoke(
                                ReadOnlySpan(Array.zeroCreate<byte> bytes),
                                Span(Array.zeroCreate<float32> values)
                            ))
                        name

            sharedTest $"{name}: ggml's own values" [ "quants"; "blocks.json" ] (fun path ->
                use document = JsonDocument.Parse(File.ReadAllText path)
                let reference = document.RootElement.GetProperty name
                let number (field: string) = reference.GetProperty(field).GetInt32()
                let bytes = Convert.FromHexString(reference.GetProperty("blocks").GetString())
                let expected = [|
                    for value in reference.GetProperty("values").EnumerateArray() -> value.GetSingle()
                |]

                Expect.equal
                    (format.Bytes, format.Values)
                    (number "block_bytes", number "block_elements")
                    "size"
                Expect.equal (bits (decode format bytes)) (bits expected) "bit for bit")

        testCase "every format that is read is among them"
        <| fun () ->
            Expect.equal
                (set [ for format in GgufBlocks.all -> format.Kind ])
                (set [ for _, format, _ in formats -> format.Kind ])
                "formats"

            for name, format, _ in formats do
                Expect.equal (GgufFormat.name format.Kind) name "ggml's name"
    ]
