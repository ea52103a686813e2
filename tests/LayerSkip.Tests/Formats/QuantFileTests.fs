/// Models whose matrices stay in a file's blocks: that they compute what they say, and what they hold meanwhile.
module LayerSkip.Tests.QuantFileTests

open System
open System.IO
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.GgufBlockSupport
open LayerSkip.Tests.GgufWriter
open LayerSkip.Tests.QuantFiles
open LayerSkip.Tests.TensorSupport

Backend.ensure ()

let private load dtype path = Checkpoint.load path dtype Device.Cpu |> Check.getOrRaise

/// Hidden states after the last layer, [position][hidden], and logits, [position][vocabulary].
let private read (weights: Weights) (ids: int[]) : float[][] * float[][] =
    Scope.free (fun () ->
        let weights = { weights with Prefill = Prefill.Exact }
        let cache = Cache.create weights 1 ids.Length
        use _storage = cache.Slab :> IDisposable
        let struct (hidden, _) = Model.forward weights ids.Length ids cache
        let states = hidden.Read()

        Tensors.toFloats states |> Array.chunkBySize weights.Config.Hidden,
        SharedHead.logits weights states
        |> Tensors.toFloats
        |> Array.chunkBySize weights.Config.Vocabulary)

/// How far logits are from others, as a share of their row's largest.
let private distance (expected: float[][]) (found: float[][]) =
    Array.map2
        (fun (expected: float[]) (found: float[]) ->
            (Array.map2 (fun a b -> abs (a - b)) expected found |> Array.max)
            / (expected |> Array.map abs |> Array.max))
        expected
        found
    |> Array.max

let private prompt = [| 3; 17; 0; 39; 8; 8; 21; 5; 30; 1; 12 |]

/// What a model writes, plain and self-speculative.
let private texts (weights: Weights) =
    let text strategy =
        (Generation.complete weights None (Tiny.options strategy 24) prompt |> Check.getOrRaise).TokenIds
    text Strategy.Autoregressive, text (Strategy.SelfSpeculative(Tiny.exit weights.Config.Layers 1, 3))

/// Against the same file in float32; what is wrong.
let private faults (path: string) : string list =
    use plain = load (Some Dtype.F32) path
    let _, expected = read plain.Weights prompt

    [
        for compute in [ Compute.Float; Compute.Auto ] do
            use model = Checkpoint.withCompute compute (load None path)
            // Activations of 8 bits; more of it would be another number, or another row.
            let allowed = if compute = Compute.Float then 1e-5 else 0.1
            let found = distance expected (snd (read model.Weights prompt))

            if not (found <= allowed) then
                $"{compute}: {found} of the largest logit"

            let own, fast = texts model.Weights

            if own <> fast then
                $"{compute}: speculation writes %A{fast}, not %A{own}"

        // Through libtorch alone, as the passes of training and of the lens.
        use model = load None path
        let found = distance expected (snd (read (Weights.withoutKernels model.Weights) prompt))

        if not (found <= 1e-5) then
            $"libtorch: {found} of the largest logit"
    ]

/// How often a file is in this process's memory.
let private mappings (path: string) =
    File.ReadLines "/proc/self/maps"
    |> Seq.filter (fun line -> line.Contains path)
    |> Seq.length

let private ofKind (format: GgufFormat) = fun (_: string) -> format

let private q4_k = GgufFormat.Quantised GgufBlocks.q4_K

/// Loads, works, disposes; nothing is left.
let private leavesNothing (path: string) (work: Checkpoint -> unit) =
    let round () =
        let model = load None path
        Expect.isGreaterThan (mappings path) 0 "the file is mapped"
        work model
        (model :> IDisposable).Dispose()
        Expect.equal (mappings path) 0 "and then no more"

    // Constants are made once.
    round ()
    let before = liveTensors ()
    round ()
    Expect.equal (liveTensors ()) before "tensors"

[<Tests>]
let tests =
    testSequenced
    <| testList "quantised files" [
        for name, config in families do
            testCase $"{name}: each format alone computes what it holds" (fun () ->
                let bad = [
                    for format in matrixFormats do
                        for fault in withFile config 3 (ofKind format) faults do
                            $"{nameOf format}: {fault}"
                ]
                Expect.isEmpty bad "every format")

            testPropertyWithConfig
                (Tiny.settings 4)
                $"{name}: formats that differ within a layer compute what they hold"
            <| fun (seed: int) -> Expect.isEmpty (withFile config seed (mixOf seed matrixFormats) faults) name

        testCase "rows of the embedding are the blocks' values, bit for bit" (fun () ->
            for _, format, _ in formats do
                let bytes = modelOfFormat format.Kind
                let at = startOf bytes "token_embd.weight" "token_embd.weight"
                let row = 256 / format.Values * format.Bytes
                let ids = [| 9; 0; 4; 4 |]
                let expected = [|
                    for id in ids -> decode format bytes[at + id * row .. at + (id + 1) * row - 1]
                |]

                withFolder (fun folder ->
                    let path = Path.Combine(folder, "m.gguf")
                    File.WriteAllBytes(path, bytes)
                    use model = load None path

                    Scope.free (fun () ->
                        let ids = Tensors.ofIds [| int64 ids.Length |] ids
                        let rows = Weight.select ids model.Weights.Embedding
                        Expect.equal (Tensors.toFloat32s rows) (Array.concat expected) format.Name)

                    // Layers that add nothing leave what the kernels looked up.
                    use silent = Benchmark.identityAfter 0 model.Weights
                    let states, _ = read silent ids
                    let states = states |> Array.map (Array.map float32)
                    Expect.equal states expected $"{format.Name} in the kernels"))

        testCase "nothing is left of a model: no tensor, no mapping" (fun () ->
            withFile wide 1 (mixOf 5 matrixFormats) (fun path ->
                leavesNothing path (fun model ->
                    read model.Weights prompt |> ignore
                    texts model.Weights |> ignore
                    read (Weights.withoutKernels model.Weights) prompt |> ignore)

                leavesNothing path (fun model ->
                    use other = Checkpoint.withCompute Compute.Float model
                    read other.Weights prompt |> ignore
                    // Disposed here, and again by the caller, who holds the same.
                    ())))

        testCase "nor of one that is changed in memory" (fun () ->
            withFile wide 1 (ofKind q4_k) (fun path ->
                let round () =
                    let model = load None path
                    use silent = Benchmark.identityAfter 1 model.Weights
                    texts silent |> ignore

                round ()
                let before = liveTensors ()
                round ()
                Expect.equal (liveTensors (), mappings path) (before, 0) "tensors, mappings"))

        testCase "nor of one that cannot be loaded" (fun () ->
            let _, format, scales = formats |> List.find (fun (name, _, _) -> name = "Q4_K")
            let bytes = modelOfFormat format.Kind
            let at = startOf bytes "token_embd.weight" "blk.0.ffn_down.weight"
            BitConverter.GetBytes(Half.NaN).CopyTo(bytes, at + scales.Head)

            withFolder (fun folder ->
                let path = Path.Combine(folder, "m.gguf")
                File.WriteAllBytes(path, bytes)
                let refused () = Expect.isError (Checkpoint.load path None Device.Cpu) "refused"
                refused ()
                let before = liveTensors ()
                refused ()
                Expect.equal (liveTensors (), mappings path) (before, 0) "tensors, mappings"))

        testCase "nor where reading fails when some of it is mapped" (fun () ->
            withFile wide 1 (ofKind q4_k) (fun path ->
                let broken = LayerSkipError.BadFile(path, "broken")

                let refused () =
                    use file = Gguf.openFile path |> Check.getOrRaise
                    let spoilt = [
                        for tensor in file.Tensors ->
                            if tensor.Name = "model.norm.weight" then
                                { tensor with Fill = fun _ _ -> Check.throw broken }
                            else
                                tensor
                    ]
                    Expect.isError (StoredWeights.loadInPlace file.Config spoilt) "refused"

                refused ()
                let before = liveTensors ()
                refused ()
                Expect.equal (liveTensors (), mappings path) (before, 0) "tensors, mappings"))

        testCase "weights that are disposed stay mapped until the last sequence over them ends" (fun () ->
            withFile wide 2 (ofKind q4_k) (fun path ->
                let decode (dispose: Weights -> unit) =
                    let weights = (load None path).Weights
                    let cache = Cache.create weights 1 20
                    use _storage = cache.Slab :> IDisposable

                    Scope.free (fun () ->
                        let struct (_, cache) = Model.forwardEarly weights [| 1; 2 |] cache
                        dispose weights
                        let struct (hidden, _) = Model.forwardRemainder weights 1 [| 1; 2; 3 |] cache
                        let values = Tensors.toFloats (hidden.Read())
                        (weights :> IDisposable).Dispose()
                        values)

                let expected = decode ignore
                let found = decode (fun weights -> (weights :> IDisposable).Dispose())
                Expect.equal found expected "the same"
                Expect.equal (mappings path) 0 "and then no more"))

        testCase "a model in parts is mapped part by part, and is the whole one" (fun () ->
            let format = mixOf 6 matrixFormats
            let expected =
                withFile wide 6 format (fun path ->
                    use model = load None path
                    read model.Weights prompt)

            withParts 3 wide 6 format (fun first ->
                let part number = first.Replace("-00001-", $"-0000{number}-")
                let model = load None (part 2)
                Expect.equal (read model.Weights prompt) expected "the same numbers"

                for number in 1..3 do
                    Expect.isGreaterThan (mappings (part number)) 0 $"part {number}"

                (model :> IDisposable).Dispose()
                Expect.equal (mappings (Path.GetDirectoryName first)) 0 "and then no more"))

        testCase "activations that overflow are no number in any form" (fun () ->
            for _, format, _ in formats do
                withFile wide 2 (ofKind (GgufFormat.Quantised format)) (fun path ->
                    for compute in Compute.all do
                        use model = Checkpoint.withCompute compute (load None path)

                        Scope.free (fun () ->
                            model.Weights.Layers[1].MlpNorm.Tensor.mul_(3e38.ToScalar()) |> ignore)

                        for strategy in
                            [ Strategy.Autoregressive; Strategy.SelfSpeculative(Tiny.exit 3 1, 3) ] do
                            match
                                Generation.complete model.Weights None (Tiny.options strategy 8) prompt
                            with
                            | Error [ LayerSkipError.Overflow(place, position, _) ] ->
                                Expect.equal
                                    (place, position)
                                    ("layer 2 of 3", 0)
                                    $"{format.Name}, {compute}"
                            | other -> failtest $"{format.Name}, {compute}: {other}"))

        testCase "16- and 32-bit matrices of one file each stay what they are" (fun () ->
            for name, config in families do
                withFile config 5 (mixOf 5 (List.truncate 3 matrixFormats)) (fun path ->
                    use file = Gguf.openFile path |> Check.getOrRaise
                    use model = load None path

                    let bytes =
                        file.Tensors
                        |> List.sumBy (fun tensor ->
                            Array.fold (*) (int64 (Dtype.bytes tensor.Dtype)) tensor.Shape)

                    Expect.equal (Weights.bytes model.Weights) bytes name
                    Expect.equal (Weights.compute model.Weights) None "no blocks"
                    Expect.isEmpty (faults path) name))

        testCase "what is exported of them is what float32 holds of the file, whatever its formats" (fun () ->
            for formats in [ matrixFormats; List.truncate 3 matrixFormats ] do
                withFile wide 8 (mixOf 8 formats) (fun path ->
                    use plain = load (Some Dtype.F32) path
                    use model = load None path

                    for format, name in
                        [ ExportFormat.HuggingFace, "folder"; ExportFormat.Gguf, "made.gguf" ] do
                        let output = Path.Combine(Path.GetDirectoryName path, name)
                        Export.write format 3 output model |> Check.getOrRaise |> ignore
                        use made = load (Some Dtype.F32) output
                        ExportSupport.expectSameWeights plain.Weights made.Weights))

        testCase "norms in blocks are read: only matrices stay in them" (fun () ->
            withFile wide 7 (ofKind q4_k) (fun path ->
                use file = Gguf.openFile path |> Check.getOrRaise
                let blocks = file.Tensors |> List.pick _.Blocks
                let stored = [
                    for tensor in file.Tensors ->
                        if tensor.Shape.Length = 1 then
                            { tensor with Blocks = Some blocks }
                        else
                            tensor
                ]
                use expected = load None path
                use weights = StoredWeights.loadInPlace file.Config stored |> Check.getOrRaise
                Expect.equal (read weights prompt) (read expected.Weights prompt) "the same numbers"))

        testCase "a file that is deleted, or replaced, after it was loaded does no harm" (fun () ->
            withFile wide 2 (ofKind q4_k) (fun path ->
                use model = load None path
                let expected = read model.Weights prompt
                File.Move(path, path + ".old")
                File.WriteAllBytes(path, Array.zeroCreate 4096)
                Expect.equal (read model.Weights prompt) expected "replaced"
                File.Delete(path + ".old")
                Expect.equal (read model.Weights prompt) expected "deleted"))

        testCase
            "bytes are those of the file's tensors, and what decoding reads leaves out rows looked up"
            (fun () ->
                for config in [ wide; { wide with TiedHead = false } ] do
                    withFile config 4 (mixOf 9 matrixFormats) (fun path ->
                        use file = Gguf.openFile path |> Check.getOrRaise
                        use model = load None path

                        let bytes name =
                            file.Tensors
                            |> List.filter (fun tensor -> name = "" || tensor.Name = name)
                            |> List.sumBy (fun tensor ->
                                let values = Array.fold (*) 1L tensor.Shape

                                match tensor.Blocks with
                                | Some blocks -> BlockFormat.bytes values blocks.Format
                                | None -> values * int64 (Dtype.bytes tensor.Dtype))

                        Expect.equal (Weights.bytes model.Weights) (bytes "") "bytes"
                        let size = FileInfo(path).Length
                        Expect.isLessThan
                            (float (abs (size - bytes "")))
                            (0.02 * float size)
                            "the file's, nearly"

                        let embedding =
                            if config.TiedHead then
                                0L
                            else
                                bytes "model.embed_tokens.weight"
                        Expect.equal (Benchmark.bytesRead model.Weights) (bytes "" - embedding) "read"))
    ]
