module LayerSkip.Tests.ConfigTests

open System.IO
open System.Text.Json
open System.Text.Json.Nodes
open Expecto
open LayerSkip

let private basic =
    """{"model_type":"llama","hidden_size":32,"intermediate_size":72,"num_hidden_layers":4,"num_attention_heads":4,
        "num_key_value_heads":2,"head_dim":8,"vocab_size":128,"max_position_embeddings":64,"rms_norm_eps":1e-5,
        "rope_theta":500000.0,"eos_token_id":[2,3],"bos_token_id":1,"torch_dtype":"float16"}"""

let private read (json: string) =
    use document = JsonDocument.Parse json
    LlamaConfig.ofJson "config.json" document.RootElement

/// The basic configuration with some fields set to raw JSON, or taken away where that is empty.
let private set (fields: (string * string) list) =
    let node = (JsonNode.Parse basic).AsObject()

    for name, value in fields do
        if value = "" then
            node.Remove name |> ignore
        else
            node[name] <- JsonNode.Parse value

    node.ToJsonString()

let private faultsOf fields =
    match read (set fields) with
    | Ok _ -> ""
    | Error faults -> LayerSkipError.summary faults

let private ok fields =
    match read (set fields) with
    | Ok config -> config
    | Error faults -> failtest (LayerSkipError.summary faults)

[<Tests>]
let tests =
    testList "config" [
        testCase "reads a plain llama" (fun () ->
            let config = ok []
            Expect.equal
                (config.Family, config.Layers, config.Heads, config.KvHeads)
                (Family.Llama, 4, 4, 2)
                "shape"
            Expect.equal (config.RopeTheta, config.RopeScaling) (500000.0, RopeScaling.Default) "rope"
            Expect.equal (config.StopIds, config.Bos) ([| 2; 3 |], Some 1) "several stop ids"
            Expect.equal (config.StoredDtype, config.TiedHead) (Some "float16", false) "defaults")

        testCase "transformers 4 and 5 spell the same thing" (fun () ->
            let scaling =
                """{"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
                    "original_max_position_embeddings":16}"""

            let four = ok [ "rope_scaling", scaling ]

            let five =
                ok [
                    "rope_theta", ""
                    "torch_dtype", ""
                    "dtype", "\"float16\""
                    "rope_parameters", scaling.Replace("{", """{"rope_theta":500000.0,""")
                ]

            Expect.equal five four "equal"
            Expect.equal four.RopeScaling (RopeScaling.Llama3(32.0, 1.0, 4.0, 16)) "llama3")

        testCase "the older key of rope_scaling is type" (fun () ->
            Expect.equal
                (ok [ "rope_scaling", """{"type":"linear","factor":4.0}""" ]).RopeScaling
                (RopeScaling.Linear 4.0)
                "linear")

        testCase "families have their own biases, norms and windows" (fun () ->
            let family name rest = ok (("model_type", $"\"{name}\"") :: rest)
            let qwen2 =
                family "qwen2" [
                    "sliding_window", "8"
                    "use_sliding_window", "true"
                    "max_window_layers", "3"
                ]
            Expect.equal (qwen2.QkvBias, qwen2.OutputBias, qwen2.QkNorm) (true, false, false) "qwen2"
            Expect.equal qwen2.Windows [| None; None; None; Some 8 |] "windows from the fourth layer"
            Expect.equal
                (family "qwen2" [ "sliding_window", "8" ]).Windows
                (Array.create 4 None)
                "unused by default"
            Expect.isTrue (family "qwen3" []).QkNorm "qwen3"
            Expect.equal
                (family "mistral" [ "sliding_window", "8" ]).Windows
                (Array.create 4 (Some 8))
                "mistral"
            Expect.equal
                (family "mistral" [ "sliding_window", "null" ]).Windows
                (Array.create 4 None)
                "mistral, none"

            let typed = """["full_attention","sliding_attention","full_attention","sliding_attention"]"""

            let windows =
                (family "qwen3" [ "sliding_window", "8"; "use_sliding_window", "true"; "layer_types", typed ])
                    .Windows

            Expect.equal windows [| None; Some 8; None; Some 8 |] "layer types")

        testCase "every fault is reported at once, by name" (fun () ->
            let message =
                faultsOf [
                    "hidden_size", ""
                    "num_key_value_heads", "3"
                    "hidden_act", "\"gelu\""
                    "rope_scaling", """{"rope_type":"longrope"}"""
                ]

            for word in [ "hidden_size"; "num_key_value_heads"; "gelu"; "longrope" ] do
                Expect.stringContains message word "named")

        testCase "an unknown family names those that are known" (fun () ->
            Expect.stringContains (faultsOf [ "model_type", "\"gpt2\"" ]) "gpt2" "what"
            Expect.stringContains (faultsOf [ "model_type", "\"gpt2\"" ]) "qwen3" "what is known")

        testCase "any value in any field is a configuration or a fault, never an exception" (fun () ->
            let values = [
                "null"
                "-1"
                "0"
                "1"
                "1.5"
                "1e300"
                "\"x\""
                "[]"
                "[1.5]"
                "[1e300]"
                "{}"
                "true"
            ]
            let rope = """{"rope_type":"KIND","factor":VALUE,"original_max_position_embeddings":VALUE}"""

            let fields = [
                yield! (JsonNode.Parse basic).AsObject() |> Seq.map _.Key
                "rope_parameters"
                "rope_scaling"
                "sliding_window"
                "layer_types"
                "attention_bias"
                "tie_word_embeddings"
            ]

            for family in [ "llama"; "mistral"; "qwen2"; "qwen3" ] do
                for value in values do
                    for field in fields do
                        let cases = [
                            ("use_sliding_window", "true")
                            ("model_type", $"\"{family}\"")
                            (field, value)
                        ]
                        read (set cases) |> ignore

                    for kind in [ "linear"; "llama3"; "yarn"; "dynamic" ] do
                        let scaling = rope.Replace("KIND", kind).Replace("VALUE", value)
                        read (set [ "rope_scaling", scaling ]) |> ignore)

        testCase "E is 1 to L - 1" (fun () ->
            for exit in [ -1; 0; 4; 5 ] do
                Expect.isError (ExitLayer.TryCreate(4, exit)) $"E = {exit}"

            Expect.isOk (ExitLayer.TryCreate(4, 3)) "E = 3"
            Expect.isError (ExitLayer.TryCreate(1, 1)) "one layer has no exit")
    ]
