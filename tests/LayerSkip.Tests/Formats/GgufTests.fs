module LayerSkip.Tests.GgufTests

open System
open Expecto
open FsCheck
open TorchSharp
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.TensorSupport
open LayerSkip.Tests.GgufWriter
open LayerSkip.Tests.GgufBlockSupport

let private ok result = Check.getOrRaise result

/// Row r of a head of `size` rows comes from llama.cpp's row 2 (r mod size/2) + (r / (size/2)).
let private unpermuted (size: int) (row: int) =
    let head, inside = row / size, row % size
    head * size + 2 * (inside % (size / 2)) + inside / (size / 2)

let private only (file: GgufFile) = List.exactlyOne file.Tensors

let private configOf (entries: byte[] list) =
    withBytes (gguf 3u entries []) (fun path ->
        use file = Gguf.openFile path |> ok
        file.Config)

[<Tests>]
let properties =
    testList "gguf" [
        testProperty "dequantises as ggml does, bit for bit"
        <| fun (seed: int) (PositiveInt rows) (PositiveInt columns) ->
            Backend.ensure ()
            use _scope = torch.NewDisposeScope()
            let rows, columns = 1 + rows % 5, 1 + columns % 9

            for kind in [ 2u; 3u; 8u ] do
                let bytes = blocks (Random seed) kind (rows * columns)
                let dims = [ uint64 (32 * columns); uint64 rows ]
                let file = gguf 2u (model "llama") (placed [ "blk.0.ffn_up.weight", dims, kind, bytes ])

                withBytes file (fun path ->
                    use file = Gguf.openFile path |> ok
                    let stored = only file
                    Expect.equal stored.Name "model.layers.0.mlp.up_proj.weight" "name"
                    Expect.equal stored.Shape [| int64 rows; int64 (32 * columns) |] "shape"
                    Expect.equal stored.Dtype Dtype.F32 "dtype"
                    Expect.equal
                        (bits (Tensors.toFloat32s (Tensors.ofStored stored)))
                        (bits (naive kind bytes))
                        "values")

        testProperty "copies F32, F16 and BF16, bit for bit"
        <| fun (seed: int) (PositiveInt rows) (PositiveInt columns) ->
            Backend.ensure ()
            use _scope = torch.NewDisposeScope()

            for kind, size, dtype in [ 0u, 4, Dtype.F32; 1u, 2, Dtype.F16; 30u, 2, Dtype.BF16 ] do
                let bytes = Array.zeroCreate<byte>(rows * columns * size)
                Random(seed).NextBytes bytes
                let dims = [ uint64 columns; uint64 rows ]

                withBytes
                    (gguf 3u (model "qwen3") (placed [ "output.weight", dims, kind, bytes ]))
                    (fun path ->
                        use file = Gguf.openFile path |> ok
                        Expect.isFalse file.Config.TiedHead "has a head"
                        Expect.equal (only file).Dtype dtype "dtype"
                        Expect.equal (bytesOf (Tensors.ofStored (only file))) bytes "values")

        testProperty "puts q's and k's rows back in halves, of llama alone"
        <| fun (seed: int) (isBias: bool) ->
            Backend.ensure ()
            use _scope = torch.NewDisposeScope()
            let random = Random seed

            for architecture in [ "llama"; "qwen2"; "qwen3" ] do
                for part, rows in [ "q", 64; "k", 32; "v", 32 ] do
                    let columns = if isBias then 1 else 64
                    let values = Array.init (rows * columns) (fun _ -> random.NextSingle())
                    let name = $"""blk.0.attn_{part}.{if isBias then "bias" else "weight"}"""
                    let dims = if isBias then [ uint64 rows ] else [ 64UL; uint64 rows ]
                    let data = Array.collect f32 values

                    let expected =
                        if architecture = "llama" && part <> "v" then
                            Array.init values.Length (fun index ->
                                values[unpermuted 32 (index / columns) * columns + index % columns])
                        else
                            values

                    withBytes (gguf 3u (model architecture) (placed [ name, dims, 0u, data ])) (fun path ->
                        use file = Gguf.openFile path |> ok
                        Expect.equal
                            (Tensors.toFloat32s (Tensors.ofStored (only file)))
                            expected
                            $"{architecture} {name}"
                        Expect.equal file.Config.QkvBias (isBias && part = "q") "biases")

        testProperty "reads some rows as it reads them all, and values without libtorch"
        <| fun (seed: int) (NonNegativeInt first) (NonNegativeInt count) ->
            Backend.ensure ()
            use _scope = torch.NewDisposeScope()
            let random = Random seed
            // Heads of 32 rows are read whole.
            let first = first % 2
            let count = 1 + count % (2 - first)

            for name, unit in [ "blk.0.attn_q.weight", 32; "blk.0.ffn_up.weight", 7 ] do
                for kind, width in [ 0u, 128; 1u, 64; 30u, 64; 2u, 18; 3u, 20; 8u, 34 ] do
                    let rows = 2 * unit

                    let bytes =
                        if width < 64 then
                            blocks random kind (2 * rows)
                        else
                            Array.init (2 * rows * width) (fun at -> byte (at % 60))

                    let file = gguf 3u (model "llama") (placed [ name, [ 64UL; uint64 rows ], kind, bytes ])

                    withBytes file (fun path ->
                        use file = Gguf.openFile path |> ok
                        let whole = Tensors.ofStored (only file)
                        let part =
                            StoredTensor.rows (int64 (first * unit)) (int64 (count * unit)) (only file)
                        let expected = whole.narrow (0L, int64 (first * unit), int64 (count * unit))
                        Expect.equal (bytesOf (Tensors.ofStored part)) (bytesOf expected) $"{name}, {kind}"
                        Expect.equal (StoredTensor.toFloats part) (Tensors.toFloats expected) "as float64"
                        Expect.throwsT<ArgumentOutOfRangeException>
                            (fun () -> StoredTensor.rows 1L (int64 rows) (only file) |> ignore)
                            "outside")

        testCase "reads every type of metadata"
        <| fun () ->
            let entries = [
                entry "u8" 0u [| 200uy |]
                entry "i8" 1u [| 200uy |]
                entry "u16" 2u (BitConverter.GetBytes 60000us)
                entry "i16" 3u (BitConverter.GetBytes -5s)
                entry "u32" 4u (u32 4000000000u)
                entry "i32" 5u (BitConverter.GetBytes -7)
                entry "f32" 6u (f32 0.5f)
                entry "bool" 7u [| 1uy |]
                entry "text" 8u (text "a b é")
                entry "u64" 10u (u64 5UL)
                entry "i64" 11u (BitConverter.GetBytes -9L)
                entry "f64" 12u (BitConverter.GetBytes 0.1)
                entryArray "[u8]" 0u [ [| 1uy |]; [| 255uy |] ]
                entryArray "[i8]" 1u [ [| 255uy |] ]
                entryArray "[i16]" 3u [ BitConverter.GetBytes -2s ]
                entryArray "[u16]" 2u [ BitConverter.GetBytes 65535us ]
                entryArray "[u32]" 4u [ u32 7u ]
                entryArray "[i32]" 5u [ BitConverter.GetBytes -3 ]
                entryArray "[f32]" 6u [ f32 1.5f; f32 2.0f ]
                entryArray "[bool]" 7u [ [| 0uy |]; [| 1uy |] ]
                entryArray "[text]" 8u [ text ""; text "▁x" ]
                entryArray "[u64]" 10u [ u64 8UL ]
                entryArray "[i64]" 11u [ BitConverter.GetBytes -8L ]
                entryArray "[f64]" 12u [ BitConverter.GetBytes 0.2 ]
                entryArray "[none]" 5u []
            ]

            let expected =
                Map [
                    "u8", GgufValue.Int 200L
                    "i8", GgufValue.Int -56L
                    "u16", GgufValue.Int 60000L
                    "i16", GgufValue.Int -5L
                    "u32", GgufValue.Int 4000000000L
                    "i32", GgufValue.Int -7L
                    "f32", GgufValue.Float 0.5
                    "bool", GgufValue.Bool true
                    "text", GgufValue.Text "a b é"
                    "u64", GgufValue.Int 5L
                    "i64", GgufValue.Int -9L
                    "f64", GgufValue.Float 0.1
                    "[u8]", GgufValue.Ints [| 1L; 255L |]
                    "[i8]", GgufValue.Ints [| -1L |]
                    "[i16]", GgufValue.Ints [| -2L |]
                    "[u16]", GgufValue.Ints [| 65535L |]
                    "[u32]", GgufValue.Ints [| 7L |]
                    "[i32]", GgufValue.Ints [| -3L |]
                    "[f32]", GgufValue.Floats [| 1.5; 2.0 |]
                    "[bool]", GgufValue.Bools [| false; true |]
                    "[text]", GgufValue.Texts [| ""; "▁x" |]
                    "[u64]", GgufValue.Ints [| 8L |]
                    "[i64]", GgufValue.Ints [| -8L |]
                    "[f64]", GgufValue.Floats [| 0.2 |]
                    "[none]", GgufValue.Ints [||]
                ]

            for version in [ 2u; 3u ] do
                Expect.equal
                    (withBytes (gguf version entries []) (Gguf.readMetadata >> ok))
                    expected
                    $"version {version}"

        testCase "fills in a configuration's defaults"
        <| fun () ->
            let config = configOf (model "llama")
            Expect.equal config.HeadDim 32 "head"
            Expect.equal config.NormEps 1e-5 "the decimal, not the float32"
            Expect.equal config.RopeTheta 10000.0 "theta"
            Expect.equal config.RopeScaling RopeScaling.Default "scaling"
            Expect.isTrue config.TiedHead "tied"
            Expect.equal config.Bos None "no bos"
            Expect.isEmpty config.StopIds "no stop"

        testCase "reads stop ids, rotary scaling and the size of a head"
        <| fun () ->
            let config =
                configOf (
                    model "qwen2"
                    @ [
                        entryInt "qwen2.attention.key_length" 48
                        entryText "qwen2.rope.scaling.type" "yarn"
                        entryFloat "qwen2.rope.scaling.factor" 4f
                        entryInt "qwen2.rope.scaling.original_context_length" 32
                        entryFloat "qwen2.rope.freq_base" 1e6f
                        entryInt "tokenizer.ggml.bos_token_id" 1
                        entryInt "tokenizer.ggml.eos_token_id" 2
                        entryInt "tokenizer.ggml.eot_token_id" 3
                        entryInt "general.file_type" 7
                    ]
                )

            Expect.equal (config.Family, config.HeadDim, config.RopeTheta) (Family.Qwen2, 48, 1e6) "numbers"
            Expect.equal (config.Bos, config.StopIds) (Some 1, [| 2; 3 |]) "ids"
            Expect.equal config.StoredDtype (Some "Q8_0") "format"

            match config.RopeScaling with
            | RopeScaling.Yarn yarn ->
                Expect.equal (yarn.Factor, yarn.Original) (4.0, 32) "yarn"
                Expect.floatClose Accuracy.high yarn.AttentionFactor (0.1 * log 4.0 + 1.0) "attention"
            | other -> failtest $"%A{other}"

            let linear = [
                entryText "llama.rope.scaling.type" "linear"
                entryFloat "llama.rope.scaling.factor" 2f
            ]

            Expect.equal (configOf (model "llama" @ linear)).RopeScaling (RopeScaling.Linear 2.0) "linear"

        testCase "rope_freqs are the divisors of the angles: llama3's, as llama.cpp stores them"
        <| fun () ->
            let plain = configOf (model "llama")

            let llama3 = { plain with RopeScaling = RopeScaling.Llama3(8.0, 1.0, 4.0, 64) }

            let struct (unscaled, _) = RopeAngles.frequencies plain
            let struct (scaled, _) = RopeAngles.frequencies llama3
            let divisors = Array.map2 (fun a b -> float32 (a / b)) unscaled scaled
            let table (values: float32[]) = [
                "rope_freqs.weight", [ uint64 values.Length ], 0u, Array.collect f32 values
            ]

            withBytes (gguf 3u (model "llama") (placed (table divisors))) (fun path ->
                use file = Gguf.openFile path |> ok
                Expect.isEmpty file.Tensors "no weight"
                let struct (found, _) = RopeAngles.frequencies file.Config
                Expect.isGreaterThan (Array.max divisors) 1.5f "something is scaled"

                for a, b in Array.zip scaled found do
                    Expect.isLessThan (abs (a / b - 1.0)) 1e-6 "an angle")

            withBytes (gguf 3u (model "llama") (placed (table divisors[1..]))) (fun path ->
                match Gguf.openFile path with
                | Error faults ->
                    Expect.stringContains (LayerSkipError.summary faults) "positive divisors" "too few"
                | Ok _ -> failtest "too few divisors")

        testCase "counts tokens where no key does, and keeps unknown tensors for the model to report"
        <| fun () ->
            let tokens = entryArray "tokenizer.ggml.tokens" 8u [ text "a"; text "b" ]
            let key = text "llama.vocab_size"
            let entries =
                model "llama"
                |> List.filter (fun entry -> not (entry.AsSpan().StartsWith(ReadOnlySpan key)))
            let items = placed [ "blk.0.odd.weight", [ 1UL ], 0u, f32 1f ]

            withBytes (gguf 3u (tokens :: entries) items) (fun path ->
                use file = Gguf.openFile path |> ok
                Expect.equal file.Config.Vocabulary 2 "two tokens"
                Expect.equal [ for tensor in file.Tensors -> tensor.Name ] [ "blk.0.odd.weight" ] "tensors")

        testCase "reads nothing after it is closed, and leaves no tensor behind"
        <| fun () ->
            Backend.ensure ()
            let bytes = blocks (Random 1) 3u 128

            withBytes
                (gguf 3u (model "llama") (placed [ "blk.0.attn_q.weight", [ 64UL; 64UL ], 3u, bytes ]))
                (fun path ->
                    let file = Gguf.openFile path |> ok
                    let before = TensorSupport.liveTensors ()

                    for _ in 1..20 do
                        use _scope = torch.NewDisposeScope()
                        Tensors.ofStored (only file) |> ignore

                    Expect.equal torch.Tensor.TotalCount before "live tensors"

                    for _ in 1..20 do
                        (Tensors.ofStored (only file)).Dispose()

                    Expect.equal torch.Tensor.TotalCount before "live tensors, without a scope"
                    (file :> IDisposable).Dispose()
                    Expect.throwsT<ObjectDisposedException>
                        (fun () -> Tensors.ofStored (only file) |> ignore)
                        "closed")
    ]
