module LayerSkip.Tests.ExportQuantTests

open System
open System.IO
open Expecto
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.TensorSupport
open LayerSkip.Tests.ExportSupport

/// Exports in a mix, and loads what was written in float32.
let private quantised
    (mix: GgufMix)
    (layers: int)
    (source: Checkpoint)
    (body: ExportReport -> Checkpoint -> 'T)
    =
    withFolder (fun folder ->
        let path = Path.Combine(folder, "model.gguf")
        let report = Export.quantise mix layers path source |> Check.getOrRaise
        use made = load (Some Dtype.F32) path
        body report made)

/// How far rows of logits are from others, as a share of their size.
let private distance (expected: float[]) (found: float[]) =
    let squares = Array.sumBy (fun (value: float) -> value * value)
    sqrt (squares (Array.map2 (-) expected found) / squares expected)

let private logits (checkpoint: Checkpoint) (ids: int[]) : float[] =
    use _scope = Scope.start ()
    let mutable last = [||]
    let input = Tensors.ofIds [| 1L; int64 ids.Length |] ids
    Decoder.exits checkpoint.Weights (fun _ logits -> last <- Tensors.toFloats logits) input
    last

/// What a model of a few layers may lose in its logits; the tiny ones are none that anybody quantises.
let private allowed (mix: GgufMix) =
    match mix.Name with
    | "q8_0" -> 0.02
    | "q6_k" -> 0.06
    | "q5_0"
    | "q5_1"
    | "q5_k_m"
    | "q5_k_s" -> 0.12
    | "q2_k" -> 0.8
    | "q3_k_s"
    | "q3_k_m"
    | "q3_k_l" -> 0.45
    | _ -> 0.25

let private tiny (hidden: int) (columns: int) : LlamaConfig = {
    LlamaConfig.Llama(24, 4, hidden, columns, 4, 2, 96) with
        TiedHead = true
}

let private withTiny dtype (config: LlamaConfig) (body: Checkpoint -> 'T) : 'T =
    use weights = Tiny.weights dtype { Config = config; Seed = 3L }
    body (checkpoint weights)

let private refuses mix layers (words: string list) (source: Checkpoint) =
    withFolder (fun folder ->
        Export.quantise mix layers (Path.Combine(folder, "made.gguf")) source
        |> messages
        |> expectFault words
        Expect.isEmpty (Directory.GetFileSystemEntries folder) "nothing is written")

let private nearIts (mix: GgufMix) (source: Checkpoint) (prompt: int[]) =
    quantised mix source.Config.Layers source (fun report made ->
        Expect.equal (report.Dtype, report.Bytes) (mix.Name, FileInfo(report.Output).Length) "report"
        Expect.equal (List.sumBy snd report.Formats) report.Tensors "a format each"
        Expect.equal made.Config.StoredDtype (Some(mix.Name.ToUpperInvariant())) "the file says so"
        Expect.equal
            (plain { made.Config with Family = source.Config.Family })
            (plain source.Config)
            "the same configuration"

        let found = distance (logits source prompt) (logits made prompt)
        Expect.isLessThan found (allowed mix) $"{mix.Name}: {found} of the logits")

let private q8_0 = (GgufMix.tryFind "q8_0").Value
let private q4_k_m = (GgufMix.tryFind "q4_k_m").Value

[<Tests>]
let tests =
    testList "export: quantised" [
        for mix in GgufMix.all do
            testCase $"{mix.Name}: blocks of 256 and of 32, of a model's every dtype" (fun () ->
                for dtype in [ Dtype.F64; Dtype.F32; Dtype.F16; Dtype.BF16 ] do
                    for hidden, columns in [ 256, 512; 64, 96 ] do
                        withTiny dtype (tiny hidden columns) (fun source ->
                            nearIts mix source [| 3; 1; 4; 1; 5; 9; 2; 6 |]))

            sharedTest $"{mix.Name}: stories260K" [ "stories260K" ] (fun path ->
                use source = load (Some Dtype.F32) path
                nearIts mix source [| 1; 403; 407; 261; 378; 417; 286; 261; 268 |])

        testCase "a pass over the file's own blocks is a pass over the file" (fun () ->
            withTiny Dtype.F32 (tiny 256 256) (fun source ->
                quantised q8_0 4 source (fun _ made ->
                    quantised q8_0 4 made (fun _ again ->
                        let prompt = [| 3; 1; 4; 1; 5 |]
                        let found = distance (logits made prompt) (logits again prompt)
                        Expect.isLessThan found 1e-3 "nothing is lost twice"))))

        testCase "weights that lie in a file's blocks are written too" (fun () ->
            withTiny Dtype.F32 (tiny 256 256) (fun source ->
                withFolder (fun folder ->
                    let path = Path.Combine(folder, "source.gguf")
                    Export.quantise q4_k_m 4 path source |> Check.getOrRaise |> ignore
                    use inPlace = load None path
                    use unpacked = load (Some Dtype.F32) path
                    let prompt = [| 3; 1; 4; 1; 5 |]

                    quantised q8_0 3 inPlace (fun _ made ->
                        quantised q8_0 3 unpacked (fun _ expected ->
                            Expect.equal (logits made prompt) (logits expected prompt) "the same values")))))

        testCase "the first E layers write what early exit writes" (fun () ->
            withTiny Dtype.F32 (tiny 64 96) (fun source ->
                quantised q8_0 4 source (fun _ whole ->
                    let early = Strategy.EarlyExit(Tiny.exit 4 2)
                    let expected = greedy early 12 [| 3; 1; 4 |] whole.Weights

                    quantised q8_0 2 source (fun report part ->
                        Expect.equal (report.Layers, part.Config.Layers) (2, 2) "layers"
                        let found = greedy Strategy.Autoregressive 12 [| 3; 1; 4 |] part.Weights
                        Expect.equal found expected "the same text"))))

        testCase "rows that no block divides stay in float16, and the user is told which" (fun () ->
            withTiny Dtype.F32 (tiny 48 96) (fun source ->
                quantised q4_k_m 4 source (fun report made ->
                    let told = String.concat "\n" report.Remarks
                    Expect.stringContains told "token_embd.weight is kept in f16: its rows of 48" "named"
                    Expect.isFalse (told.Contains "blk.0.ffn_down") "96 is a multiple of 32"
                    let found = distance (logits source [| 3; 1; 4 |]) (logits made [| 3; 1; 4 |])
                    Expect.isLessThan found (allowed q4_k_m) "it runs")))

        testCase "weights that are not finite, or beyond what scales hold, are refused" (fun () ->
            for value, words in
                [
                    nanf, [ "q_proj"; "f32" ]
                    1e6f, [ "q_proj"; "q4_k_m" ]
                    -1e6f, [ "q_proj"; "q4_k_m" ]
                ] do
                withTiny Dtype.F32 (tiny 64 96) (fun source ->
                    use _scope = Scope.noGrad ()
                    let named = Weights.named source.Weights
                    let _, tensor = named |> List.find (fun (name, _) -> name.Contains "1.self_attn.q_proj")
                    use one = tensor.narrow (0L, 0L, 1L)
                    use filled =
                        Tensors.ofFloats one.shape (Array.create (int (one.numel ())) (float value))
                    one.copy_ filled |> ignore
                    refuses q4_k_m 4 words source))

        testCase "layers that the model has not" (fun () ->
            withTiny Dtype.F32 (tiny 64 96) (refuses q4_k_m 5 [ "layers is 5"; "1 to 4" ]))

        testCase "no tensor is left behind" (fun () ->
            withTiny Dtype.F16 (tiny 64 96) (fun source ->
                withFolder (fun folder ->
                    let run round =
                        Export.quantise q4_k_m 3 (Path.Combine(folder, $"{round}.gguf")) source
                        |> Check.getOrRaise
                        |> ignore

                    run 0
                    let before = TensorSupport.liveTensors ()
                    run 1
                    Expect.equal TorchSharp.torch.Tensor.TotalCount before "tensors")))
    ]
