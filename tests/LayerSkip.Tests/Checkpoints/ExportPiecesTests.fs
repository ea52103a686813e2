/// Models whose matrices lie in a file's blocks, written again piece by piece.
module LayerSkip.Tests.ExportPiecesTests

open System
open System.IO
open System.Threading
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.TensorSupport
open LayerSkip.Tests.ExportSupport
open LayerSkip.Tests.QuantFiles

let private inFiles seed (config: LlamaConfig) (body: string -> unit) =
    withFile config seed (mixOf seed matrixFormats) body

/// Every file of a folder, or the file, by name.
let private contents (path: string) : (string * byte[]) list = [
    for file in
        (if Directory.Exists path then
             Directory.GetFiles path
         else
             [| path |])
        |> Array.sort -> Path.GetFileName file, File.ReadAllBytes file
]

/// The tensors of a GGUF file by its own names: ggml's number of the format, and the bytes.
let private rawTensors (path: string) : Map<string, uint32 * byte[]> =
    let bytes = File.ReadAllBytes path
    let header = SourceFile.using path "" GgufHeader.read |> Check.getOrRaise
    let data = (header.End + 31L) / 32L * 32L

    Map [
        for info in header.Infos ->
            let shape = info.Dims |> Array.map int64
            let size = int (GgufFormat.size (GgufFormat.tryOf info.Type).Value shape)
            let start = int data + int info.Offset
            info.Name, (info.Type, bytes[start .. start + size - 1])
    ]

let private mixes = [
    for name in [ "q8_0"; "q4_k_m"; "q6_k"; "iq4_nl" ] -> (GgufMix.tryFind name).Value
]

/// What `write` makes of a checkpoint: the report and its files, or the faults.
let private tried (write: string -> Checkpoint -> Result<ExportReport, _>) (source: Checkpoint) =
    withFolder (fun folder ->
        let path = Path.Combine(folder, "made.gguf")
        write path source |> Result.map (fun report -> { report with Output = "" }, contents path))

let private made write (source: Checkpoint) = tried write source |> Check.getOrRaise

let private anonymous () =
    let line = File.ReadLines "/proc/self/status" |> Seq.find _.StartsWith("RssAnon:")
    1024L * int64 (line.Split([| ' '; '\t' |], StringSplitOptions.RemoveEmptyEntries)[1])

/// How far memory that is no file's grows at most in `body`, in bytes.
let private growth (body: unit -> unit) : int64 =
    GC.Collect()
    GC.WaitForPendingFinalizers()
    let before = anonymous ()
    let mutable most = before
    use stop = new CancellationTokenSource()

    let watch =
        Thread(fun () ->
            while not stop.IsCancellationRequested do
                most <- max most (anonymous ())
                Thread.Sleep 1)

    watch.Start()

    try
        body ()
    finally
        stop.Cancel()
        watch.Join()

    most - before

/// 83 million values: 88 MB in Q8_0, 166 MB in float16.
let private large: LlamaConfig = { LlamaConfig.Llama(100_000, 3, 768, 1024, 4, 2, 96) with TiedHead = true }

[<Tests>]
let tests =
    testList "export: by pieces" [
        testPropertyWithConfig
            (Tiny.settings 5)
            "rows of a part are the whole's, whatever pieces they are asked for in"
        <| fun (seed: int) ->
            for _, config in families do
                inFiles seed config (fun path ->
                    use inPlace = load None path
                    use unpacked = load (Some Dtype.F32) path
                    use _scope = Scope.start ()
                    let expected = Map(Weights.named unpacked.Weights)
                    let parts = Weights.parts inPlace.Weights
                    Expect.equal (parts |> List.map _.Name |> Set) (Set expected.Keys) "names"

                    for part in parts do
                        let random = Random(seed + part.Name.Length)
                        let units = part.Shape[0] / part.Together
                        let mutable first = 0L

                        while first < units do
                            let count = random.NextInt64(1L, units - first + 1L)
                            let start, length = first * part.Together, count * part.Together
                            let found = (part.Rows start length).``to`` torch.ScalarType.Float32
                            let whole = expected[part.Name].narrow(0L, start, length)
                            Expect.equal (bytesOf found) (bytesOf whole) part.Name
                            first <- first + count)

        testPropertyWithConfig
            (Tiny.settings 3)
            "files of a dtype are those of the dequantised model, bit for bit"
        <| fun (seed: int) ->
            for name, config in families do
                inFiles seed config (fun path ->
                    use inPlace = load None path
                    use unpacked = load (Some Dtype.F32) path

                    for format in [ ExportFormat.HuggingFace; ExportFormat.Gguf ] do
                        for dtype in [ Dtype.F32; Dtype.F16; Dtype.BF16 ] do
                            for layers in [ 1; config.Layers ] do
                                let write = Export.writeIn dtype format layers
                                Expect.equal
                                    (tried write inPlace)
                                    (tried write unpacked)
                                    $"{name}, {format}, {dtype}, {layers}")

        testCase "converted by pieces or when loaded, a model is the same" (fun () ->
            withFile wide 5 (fun _ -> GgufFormat.Quantised GgufBlocks.q5_K) (fun path ->
                for dtype in [ Dtype.F64; Dtype.F32; Dtype.F16; Dtype.BF16 ] do
                    use inPlace = load None path
                    use converted = load (Some dtype) path

                    withFolder (fun folder ->
                        let output = Path.Combine(folder, "made")

                        Export.writeIn dtype ExportFormat.HuggingFace 3 output inPlace
                        |> Check.getOrRaise
                        |> ignore

                        use found = load (Some dtype) output
                        expectSameWeights converted.Weights found.Weights)))

        testCase "a file written again in its own mix is the same file" (fun () ->
            for mix in GgufMix.all do
                for hidden, columns in [ 256, 512; 64, 96 ] do
                    let config = { LlamaConfig.Llama(24, 4, hidden, columns, 4, 2, 96) with TiedHead = true }
                    use weights = Tiny.weights Dtype.F32 { Config = config; Seed = 3L }

                    withFolder (fun folder ->
                        let first = Path.Combine(folder, "made.gguf")
                        Export.quantise mix 4 first (Checkpoint.ofWeights "made" weights None)
                        |> Check.getOrRaise
                        |> ignore
                        use source = load None first
                        let report, found = made (Export.quantise mix 4) source
                        Expect.equal report.Dtype mix.Name "report"
                        Expect.isTrue (found = contents first) $"{mix.Name} {hidden}: bit for bit"
                        let report, found = made (Export.write ExportFormat.Gguf 4) source
                        Expect.equal report.Dtype mix.Name "report, where no dtype is asked for"
                        Expect.isTrue (found = contents first) $"{mix.Name} {hidden}: as it is"))

        testPropertyWithConfig
            (Tiny.settings 3)
            "without a dtype a GGUF file keeps each tensor as the source has it, bit for bit"
        <| fun (seed: int) ->
            for name, config in families do
                inFiles seed config (fun path ->
                    use source = load None path
                    let stored = rawTensors path

                    for layers in [ 1; config.Layers ] do
                        withFolder (fun folder ->
                            let output = Path.Combine(folder, "made.gguf")
                            Export.write ExportFormat.Gguf layers output source
                            |> Check.getOrRaise
                            |> ignore
                            let made = rawTensors output
                            let isThere (tensor: string) =
                                not (tensor.StartsWith "blk.") || int (tensor.Split('.')[1]) < layers

                            Expect.equal (Set made.Keys) (Set(stored.Keys |> Seq.filter isThere)) "names"

                            for KeyValue(tensor, found) in made do
                                // Rows in pairs beside biases are decoded when they are loaded.
                                let isDecoded =
                                    (GgufFormat.tryOf (fst stored[tensor])).Value.IsQuantised
                                    && config.Family = Family.Llama
                                    && config.QkvBias
                                    && [ "attn_q.weight"; "attn_k.weight" ] |> List.exists tensor.EndsWith

                                if isDecoded then
                                    Expect.equal (fst found) (GgufFormat.kind GgufFormat.F32) tensor
                                else
                                    Expect.isTrue (found = stored[tensor]) $"{name}, {layers}: {tensor}"))

        testCase
            "of other mixes, what is in the format already is copied and the rest is packed from float32"
            (fun () ->
                inFiles 11 wide (fun path ->
                    use inPlace = load None path
                    use unpacked = load (Some Dtype.F32) path

                    for mix in mixes do
                        for layers in [ 2; 3 ] do
                            withFolder (fun folder ->
                                let output name = Path.Combine(folder, name)

                                for name, source in [ "a.gguf", inPlace; "b.gguf", unpacked ] do
                                    Export.quantise mix layers (output name) source
                                    |> Check.getOrRaise
                                    |> ignore

                                use source = Gguf.openFile path |> Check.getOrRaise
                                use found = Gguf.openFile (output "a.gguf") |> Check.getOrRaise
                                use expected = Gguf.openFile (output "b.gguf") |> Check.getOrRaise
                                let values (tensor: StoredTensor) = StoredTensor.toFloats tensor
                                let stored = Map [ for tensor in source.Tensors -> tensor.Name, tensor ]

                                for found, expected in List.zip found.Tensors expected.Tensors do
                                    Expect.equal
                                        (found.Name, found.Format)
                                        (expected.Name, expected.Format)
                                        "format"

                                    if stored[found.Name].Format = found.Format then
                                        Expect.equal
                                            (values found)
                                            (values stored[found.Name])
                                            $"{found.Name}: copied"
                                    else
                                        Expect.equal
                                            (values found)
                                            (values expected)
                                            $"{found.Name}: packed")))

        testCase "a folder without a dtype: float16, but float32 where the file has matrices of it" (fun () ->
            for format, expected in
                [
                    GgufFormat.F16, Dtype.F16
                    GgufFormat.BF16, Dtype.F16
                    GgufFormat.F32, Dtype.F32
                ] do
                let formatOf (name: string) =
                    if name.Contains "ffn_up" then
                        format
                    else
                        GgufFormat.Quantised GgufBlocks.q8_0

                withFile wide 2 formatOf (fun path ->
                    use source = load None path
                    Expect.equal (Export.dtypeOf source.Weights) expected (nameOf format)

                    withFolder (fun folder ->
                        let output = Path.Combine(folder, "made")
                        let report =
                            Export.write ExportFormat.HuggingFace 3 output source |> Check.getOrRaise
                        Expect.equal report.Dtype (Dtype.name expected) "written"
                        Expect.stringContains
                            report.Remarks.Head
                            $"quantised weights are written in {Dtype.name expected}"
                            "and said")))

        testCase "blocks beyond float16 are refused by name in float16, and written in bfloat16" (fun () ->
            withFile wide 2 (fun _ -> GgufFormat.Quantised GgufBlocks.q8_0) (fun path ->
                do
                    let file = SourceFile.using path "" GgufHeader.read |> Check.getOrRaise
                    let info = file.Infos |> Seq.find (fun info -> info.Name = "blk.1.ffn_up.weight")
                    use stream = File.OpenWrite path
                    stream.Position <- (file.End + 31L) / 32L * 32L + int64 info.Offset
                    stream.Write(BitConverter.GetBytes(Half.op_Explicit 60000.0f: Half))

                use source = load None path

                for format, _ in formats do
                    withFolder (fun folder ->
                        let output = Path.Combine(folder, "made")
                        Export.writeIn Dtype.F16 format 3 output source
                        |> messages
                        |> expectFault [ "blk.1.ffn_up.weight"; "f16"; "bf16 or f32" ]
                        Expect.isEmpty (Directory.GetFileSystemEntries folder) "nothing is written")

                    made (Export.writeIn Dtype.F16 format 1) source |> ignore
                    made (Export.writeIn Dtype.BF16 format 3) source |> ignore))

        testCase "memory stays that of a piece, whatever is written" (fun () ->
            if OperatingSystem.IsLinux() then
                withFolder (fun folder ->
                    let path = Path.Combine(folder, "large.gguf")

                    (use weights = Weights.random 1L 0.8 Dtype.BF16 Device.Cpu large
                     Export.quantise mixes.Head 3 path (checkpoint weights) |> Check.getOrRaise |> ignore)

                    let run dtype write =
                        growth (fun () ->
                            use source = load dtype path
                            let output = Path.Combine(folder, "made")
                            write output source |> Check.getOrRaise |> ignore

                            if Directory.Exists output then
                                Directory.Delete(output, true)
                            else
                                File.Delete output)

                    let bound = 120L <<< 20
                    let whole = run (Some Dtype.F16) (Export.write ExportFormat.Gguf 3)
                    Expect.isGreaterThan whole bound $"a whole model is seen: {whole >>> 20} MB"

                    for name, write in
                        [
                            "q8_0", Export.quantise mixes[0] 3
                            "q4_k_m", Export.quantise mixes[1] 3
                            "gguf, f16", Export.writeIn Dtype.F16 ExportFormat.Gguf 3
                            "gguf, f32", Export.writeIn Dtype.F32 ExportFormat.Gguf 3
                            "folder, f16", Export.writeIn Dtype.F16 ExportFormat.HuggingFace 3
                            "folder, f32, first layer", Export.writeIn Dtype.F32 ExportFormat.HuggingFace 1
                        ] do
                        let grown = run None write
                        Expect.isLessThan grown bound $"{name}: {grown >>> 20} MB"))
    ]
