module LayerSkip.Tests.Phi3Tests

open System
open System.IO
open System.Text.Json
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.TensorSupport
open LayerSkip.Tests.TrainingSupport
open LayerSkip.Tests.ExportSupport
open LayerSkip.Tests.GgufWriter

Backend.ensure ()

/// The model as a llama, whose parts are apart.
let private llama = {
    Tiny.config 24 3 4 2 false with
        Windows = Array.create 3 (Some 5)
        StopIds = [| 2; 5 |]
}

let private phi3 = { llama with Family = Family.Phi3 }

let private withLlama (body: Weights -> 'T) : 'T =
    use weights = Tiny.weights Dtype.F32 { Config = llama; Seed = 3L }
    body weights

/// As Phi-3's checkpoints join them.
let private join (tensors: (string * Tensor) list) : (string * Tensor) list =
    let parts = Map tensors
    let joined (names: string list) = torch.cat ([| for name in names -> parts[name] |], 0L)

    [
        for name, tensor in tensors do
            if name.EndsWith "q_proj.weight" then
                let near (part: string) = name.Replace("q_proj", part)
                near "qkv_proj", joined [ name; near "k_proj"; near "v_proj" ]
            elif name.EndsWith "gate_proj.weight" then
                let near (part: string) = name.Replace("gate_proj", part)
                near "gate_up_proj", joined [ name; near "up_proj" ]
            elif
                not ([ "k_proj.weight"; "v_proj.weight"; "up_proj.weight" ] |> List.exists name.EndsWith)
            then
                name, tensor
    ]

/// As transformers writes it, defaults left out.
let private json (fields: string) =
    """{"model_type":"phi3","architectures":["Phi3ForCausalLM"],"vocab_size":24,"hidden_size":16,"intermediate_size":24,
        "num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":96,
        "original_max_position_embeddings":96,"rms_norm_eps":1e-5,"rope_theta":10000.0,"rope_scaling":null,
        "sliding_window":5,"bos_token_id":1,"eos_token_id":[2,5],"hidden_act":"silu","tie_word_embeddings":false"""
    + fields
    + "}"

let private writeFolder (folder: string) (tensors: (string * Tensor) list) : unit =
    File.WriteAllText(Path.Combine(folder, "config.json"), json "")

    TensorWriter.safetensors (Path.Combine(folder, "model.safetensors")) Map.empty tensors
    |> ok

let private ofJson (text: string) =
    use document = JsonDocument.Parse text
    LlamaConfig.ofJson "config.json" document.RootElement

/// Bit for bit what the llama holds, and so its logits; its texts, plain and speculative.
let private expectLlama (expected: Weights) (found: Weights) : unit =
    Expect.equal found.Config.Family Family.Phi3 "family"

    for a, b in Array.zip (Weights.tensors expected) (Weights.tensors found) do
        Expect.equal b.shape a.shape "shape"
        Expect.equal (bytesOf b) (bytesOf a) "values"

    for strategy in [ Strategy.Autoregressive; Strategy.SelfSpeculative(Tiny.exit 3 1, 3) ] do
        let text = greedy strategy 20 [| 3; 1; 4 |]
        Expect.equal (text found) (text expected) "text"

[<Tests>]
let tests =
    testSequenced
    <| testList "phi-3" [
        testCase "a folder with joined tensors is the llama whose parts they join" (fun () ->
            use _scope = torch.NewDisposeScope()

            withLlama (fun expected ->
                withFolder (fun folder ->
                    writeFolder folder (join (Weights.named expected))
                    use made = load (Some Dtype.F32) folder
                    Expect.equal (plain made.Config) phi3 "configuration"
                    expectLlama expected made.Weights)))

        testCase "a GGUF file with joined tensors too, in llama.cpp's names" (fun () ->
            use _scope = torch.NewDisposeScope()

            withLlama (fun expected ->
                let ggml (name: string) =
                    match name.Split '.' with
                    | [| "model"; "embed_tokens"; _ |] -> "token_embd.weight"
                    | [| "model"; "norm"; _ |] -> "output_norm.weight"
                    | [| "lm_head"; _ |] -> "output.weight"
                    | parts ->
                        let part =
                            match parts[parts.Length - 2] with
                            | "input_layernorm" -> "attn_norm"
                            | "post_attention_layernorm" -> "ffn_norm"
                            | "qkv_proj" -> "attn_qkv"
                            | "o_proj" -> "attn_output"
                            | "gate_up_proj" -> "ffn_up"
                            | "down_proj" -> "ffn_down"
                            | other -> failtest other

                        $"blk.{parts[2]}.{part}.weight"

                let items = [
                    for name, tensor in join (Weights.named expected) ->
                        ggml name, [ for size in Array.rev tensor.shape -> uint64 size ], 0u, bytesOf tensor
                ]

                let metadata = [
                    entryText "general.architecture" "phi3"
                    for key, value in
                        [
                            "block_count", 3
                            "embedding_length", 16
                            "feed_forward_length", 24
                            "attention.head_count", 4
                            "attention.head_count_kv", 2
                            "context_length", 96
                            "rope.dimension_count", 4
                            "rope.scaling.original_context_length", 96
                            "attention.sliding_window", 5
                            "vocab_size", 24
                        ] do
                        entryInt $"phi3.{key}" value
                    entryFloat "phi3.attention.layer_norm_rms_epsilon" 1e-5f
                    entryInt "tokenizer.ggml.bos_token_id" 1
                    entryInt "tokenizer.ggml.eos_token_id" 2
                ]

                withFolder (fun folder ->
                    let path = Path.Combine(folder, "model.gguf")
                    File.WriteAllBytes(path, gguf 3u metadata (placed items))
                    use made = load (Some Dtype.F32) path
                    Expect.equal (plain made.Config) { phi3 with StopIds = [| 2 |] } "configuration"
                    // One stop id is less than the llama's.
                    let found = { made.Weights with Config = { made.Config with StopIds = llama.StopIds } }
                    expectLlama expected found)))

        testCase
            "exports join the tensors, and say what transformers' and llama.cpp's defaults would get wrong"
            (fun () ->
                use _scope = torch.NewDisposeScope()

                withLlama (fun expected ->
                    withFolder (fun folder ->
                        writeFolder folder (join (Weights.named expected))
                        use source = load (Some Dtype.F32) folder

                        exported ExportFormat.HuggingFace 3 source (fun report made ->
                            expectLlama expected made.Weights
                            let inside name = Path.Combine(report.Output, name)
                            use file = Safetensors.openFile (inside "model.safetensors") |> ok
                            Expect.equal
                                (set [
                                    for tensor in file.Tensors -> tensor.Name, List.ofArray tensor.Shape
                                ])
                                (set [
                                    for name, tensor in join (Weights.named expected) ->
                                        name, List.ofArray tensor.shape
                                ])
                                "Phi-3's names"
                            use written = JsonDocument.Parse(File.ReadAllBytes(inside "config.json"))
                            let field (name: string) = written.RootElement.GetProperty(name).GetRawText()
                            Expect.equal (field "model_type") "\"phi3\"" "model type"
                            Expect.stringContains (field "architectures") "Phi3ForCausalLM" "class"
                            Expect.equal (field "sliding_window") "5" "window"
                            Expect.equal
                                (field "original_max_position_embeddings")
                                "96"
                                "no switch of angles"
                            // transformers' own is 32000, no row of this embedding.
                            Expect.equal (field "pad_token_id") "null" "padding")

                        exported ExportFormat.Gguf 3 source (fun report made ->
                            expectLlama expected made.Weights
                            Expect.equal (plain made.Config) phi3 "configuration"
                            use file = Gguf.openFile report.Output |> ok
                            Expect.equal
                                file.Metadata["general.architecture"]
                                (GgufValue.Text "phi3")
                                "architecture"
                            let text = Text.Encoding.Latin1.GetString(File.ReadAllBytes report.Output)

                            for name in [ "blk.2.attn_qkv.weight"; "blk.2.ffn_up.weight" ] do
                                Expect.stringContains text name "llama.cpp's names"

                            Expect.isFalse (text.Contains "attn_q.") "not apart"
                            Expect.exists
                                report.Remarks
                                (fun remark -> remark.Contains "phi3")
                                "no window there"))))

        testCase "what no file of its kind can say" (fun () ->
            let refused format config words =
                use weights = Tiny.weights Dtype.F32 { Config = config; Seed = 1L }
                let target = Path.Combine(Path.GetTempPath(), Path.GetRandomFileName())
                Export.write format 3 target (checkpoint weights) |> messages |> expectFault words

            let hf, file = ExportFormat.HuggingFace, ExportFormat.Gguf
            refused hf { phi3 with QkvBias = true } [ "phi3"; "q, k and v" ]
            refused file { phi3 with MlpBias = true } [ "phi3"; "biases of the MLP" ]
            refused hf { phi3 with RopeScaling = RopeScaling.Linear 2.0 } [ "phi3"; "type linear" ]
            refused file { phi3 with RopeScaling = RopeScaling.Divided [| 2.0; 3.0 |] } [ "phi3"; "divided" ])

        testCase "its configuration: defaults, and what is refused" (fun () ->
            let least =
                """{"model_type":"phi3","vocab_size":24,"hidden_size":16,"intermediate_size":24,"num_hidden_layers":3,
                    "num_attention_heads":4}"""

            let config = ofJson least |> ok
            Expect.equal (config.KvHeads, config.HeadDim, config.Context) (4, 4, 4096) "sizes"
            Expect.equal (config.NormEps, config.Windows) (1e-5, Array.create 3 None) "norm and window"
            Expect.isFalse
                (config.QkvBias || config.OutputBias || config.MlpBias || config.QkNorm)
                "no biases"

            for kind in [ "longrope"; "su"; "yarn"; "linear" ] do
                let scaling =
                    $$""", "rope_parameters":{"type":"{{kind}}","short_factor":[1,1],"long_factor":[2,3]}"""
                ofJson (json scaling)
                |> messages
                |> expectFault [ $"\"{kind}\" is not supported; default is" ]

            for fields in
                [
                    ",\"partial_rotary_factor\":0.5"
                    ",\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":0.5}"
                ] do
                ofJson (json fields)
                |> messages
                |> expectFault [ "partial_rotary_factor"; "0.5"; "only 1" ]

            Expect.isOk (ofJson (json ",\"partial_rotary_factor\":1.0")) "whole heads turn")

        testCase "a GGUF file with two tables of factors is refused in a line" (fun () ->
            let items = placed [ "rope_factors_long.weight", [ 16UL ], 0u, Array.zeroCreate 64 ]

            withBytes (gguf 3u (model "phi3") items) (fun path ->
                let found = Gguf.openFile path |> messages
                Expect.equal found.Length 1 "one fault"
                expectFault [ "longrope"; "not supported" ] found))

        testCase "faults name the joined tensors" (fun () ->
            use _scope = torch.NewDisposeScope()

            withLlama (fun expected ->
                let faults change =
                    withFolder (fun folder ->
                        writeFolder folder (change (join (Weights.named expected)))
                        Checkpoint.load folder (Some Dtype.F32) Device.Cpu |> messages)

                faults (List.filter (fun (name, _) -> name <> "model.layers.1.mlp.gate_up_proj.weight"))
                |> expectFault [ "model.layers.1.mlp.gate_up_proj.weight is missing" ]

                faults (
                    List.map (fun (name, tensor: Tensor) ->
                        name,
                        (if name.EndsWith "0.self_attn.qkv_proj.weight" then
                             tensor.narrow (0L, 0L, 24L)
                         else
                             tensor))
                )
                |> expectFault [ "model.layers.0.self_attn.qkv_proj.weight has shape [24, 16]"; "[32, 16]" ]))

        testCase "a run trains it, stops, goes on, and makes the bits of one that does not stop" (fun () ->
            use _scope = torch.NewDisposeScope()

            withFolder (fun folder ->
                let file name = Path.Combine(folder, name)
                Directory.CreateDirectory(file "model") |> ignore
                withLlama (fun weights -> writeFolder (file "model") (join (Weights.named weights)))
                TokenFile.write (file "data.tokens") Tiny.rhythm |> ok |> ignore

                let options: TrainingOptions = {
                    TrainingOptions.standard (Recipe.tryPreset "plain" 3 |> ok) with
                        Steps = 4
                        BatchSize = 2
                        SequenceLength = 12
                        ValidateEvery = 0
                        SaveEvery = 100
                }

                let run output steps =
                    let model, data = load (Some Dtype.F32) (file "model"), dataOf (file "data.tokens")
                    use session = TrainingSession.start (file output) options Ranks.alone model data |> ok
                    runFor steps session |> ignore

                run "whole" Int32.MaxValue
                run "parted" 2
                tryResume (file "parted") |> ok |> finish |> ignore
                use whole = load (Some Dtype.F32) (file "whole")
                use parted = load (Some Dtype.F32) (file "parted")
                Expect.equal whole.Config.Family Family.Phi3 "family"
                expectSameWeights whole.Weights parted.Weights))
    ]
