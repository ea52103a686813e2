module LayerSkip.Tests.CheckpointTests

open System.IO
open System.Text.Json
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.ExportSupport

let private untied = { Tiny.config 24 4 2 1 false with StopIds = [| 2 |] }
let private tied = { untied with TiedHead = true }

/// A model's folder: tensors under other names, and fields put before those of its config.json.
let private withModel
    (config: LlamaConfig)
    (rename: string -> string)
    (fields: string)
    (body: string -> 'T)
    : 'T =
    withFolder (fun folder ->
        use weights = Weights.random 1L 0.8 Dtype.F32 Device.Cpu config
        let inside name = Path.Combine(folder, name)
        let json = System.Text.Encoding.UTF8.GetString(ConfigJsonExport.bytes Dtype.F32 [] config)
        File.WriteAllText(inside "config.json", "{" + fields + json.TrimStart().Substring 1)

        Weights.named weights
        |> List.map (fun (name, tensor) -> rename name, tensor)
        |> TensorWriter.safetensors (inside "model.safetensors") Map.empty
        |> Check.getOrRaise

        body folder)

let private generation (folder: string) (text: string) =
    File.WriteAllText(Path.Combine(folder, "generation_config.json"), text)

let private fieldsOf (path: string) =
    use document = JsonDocument.Parse(File.ReadAllBytes path)
    [
        for field in document.RootElement.EnumerateObject() -> field.Name, field.Value.GetRawText()
    ]

let private sampling =
    """{"do_sample":true,"temperature":0.6,"top_p":0.9,"pad_token_id":3,"bos_token_id":4,"eos_token_id":[2,5],
        "assistant_early_exit":2,"num_assistant_tokens":6,"transformers_version":"4.46.3","x":{"y":[1,null]}}"""

let private expectSampling (path: string) =
    let fields = fieldsOf path

    for name, value in
        [
            "do_sample", "true"
            "temperature", "0.6"
            "top_p", "0.9"
            "pad_token_id", "3"
            "bos_token_id", "4"
            "assistant_early_exit", "2"
            "num_assistant_tokens", "6"
            "transformers_version", "\"4.46.3\""
            "x", "{\"y\":[1,null]}"
        ] do
        Expect.equal
            [
                for field in fields do
                    if fst field = name then
                        snd field
            ]
            [ value ]
            name

[<Tests>]
let tests =
    testSequenced
    <| testList "checkpoint" [
        testCase "tensors under a wrapper's prefix, or without the model's, are the model's"
        <| fun () ->
            use expected = Weights.random 1L 0.8 Dtype.F32 Device.Cpu untied

            let spellings: (string -> string) list = [
                (fun name -> "_orig_mod." + name)
                (fun name -> "module." + name)
                (fun name -> "module._orig_mod." + name)
                (fun name -> if name.StartsWith "model." then name.Substring 6 else name)
                (fun name ->
                    if name.StartsWith "model." then
                        "module." + name.Substring 6
                    else
                        "module." + name)
                (fun name -> name.Replace(".mlp.", "._orig_mod.mlp."))
            ]

            for spelling in spellings do
                withModel untied spelling "" (fun folder ->
                    use model = load None folder
                    expectSameWeights expected model.Weights)

        testCase "info shows a file's own words without what steers a terminal"
        <| fun () ->
            withModel tied id "\"dtype\":\"\\u001b[2Jx\"," (fun folder ->
                use out = new StringWriter()
                use error = new StringWriter()
                let code = LayerSkip.Cli.Program.run out error [| "info"; "--model"; folder |]
                Expect.equal (code, string error) (0, "") "it runs"
                Expect.isFalse ((string out).Contains '\u001b') "no escape"
                Expect.stringContains (string out) "stored as \\u001b[2Jx" "shown")

        testCase "two tensors that would have one name keep their own, and are faults"
        <| fun () ->
            let rename (name: string) =
                if name = "model.layers.0.mlp.up_proj.weight" then
                    "model.norm.weight"
                elif name = "model.norm.weight" then
                    "module.norm.weight"
                else
                    name

            withModel untied rename "" (fun folder ->
                Checkpoint.load folder None Device.Cpu |> messages |> expectFault [ "module.norm.weight" ])

        testCase "a head beside tied embeddings is told of where it is another, and only there"
        <| fun () ->
            for change, remarks in [ 0.0, 0; 0.25, 1 ] do
                withModel tied id "" (fun folder ->
                    let path = Path.Combine(folder, "model.safetensors")

                    let tensors =
                        using (Safetensors.openFile path |> Check.getOrRaise) (fun file -> [
                            for tensor in file.Tensors -> tensor.Name, Tensors.ofStored tensor
                        ])

                    let embedding = tensors |> List.find (fst >> (=) "model.embed_tokens.weight") |> snd
                    use head = embedding.add (change.ToScalar())

                    TensorWriter.safetensors path Map.empty (("lm_head.weight", head) :: tensors)
                    |> Check.getOrRaise

                    for dtype in [ Dtype.F32; Dtype.BF16 ] do
                        use model = load (Some dtype) folder
                        Expect.hasLength model.Remarks remarks $"%A{dtype}"

                        for remark in model.Remarks do
                            Expect.stringContains remark "tie_word_embeddings" "what decides"

                    for _, tensor in tensors do
                        tensor.Dispose())

        testCase
            "what generation_config.json says of sampling, and config.json of padding, goes through an export"
        <| fun () ->
            withModel tied id "\"pad_token_id\":-1," (fun folder ->
                generation folder sampling
                use model = load None folder

                withFolder (fun out ->
                    let path = Path.Combine(out, "made")
                    Export.write ExportFormat.HuggingFace 4 path model |> Check.getOrRaise |> ignore
                    expectSampling (Path.Combine(path, "generation_config.json"))

                    Expect.contains
                        (fieldsOf (Path.Combine(path, "config.json")))
                        ("pad_token_id", "-1")
                        "padding"
                    use again = load None path
                    Expect.equal again.Kept model.Kept "read again"
                    Expect.equal
                        (again.StopIds, again.Recommended)
                        ([| 2; 5 |], Some(2, 6))
                        "and what is ours"

                    // A draft model has other exits, and the rest.
                    let draft = Path.Combine(out, "draft")
                    Export.write ExportFormat.HuggingFace 3 draft model |> Check.getOrRaise |> ignore
                    let names = fieldsOf (Path.Combine(draft, "generation_config.json")) |> List.map fst
                    Expect.isFalse (List.contains "assistant_early_exit" names) "no exit"
                    Expect.contains names "temperature" "sampling"))

        testCase "and through training"
        <| fun () ->
            withModel tied id "\"pad_token_id\":7," (fun folder ->
                generation folder sampling
                use model = load None folder

                withFolder (fun out ->
                    HuggingFaceExport.fill out model |> Check.getOrRaise |> ignore
                    expectSampling (Path.Combine(out, "generation_config.json"))
                    Expect.contains
                        (fieldsOf (Path.Combine(out, "config.json")))
                        ("pad_token_id", "7")
                        "padding"))

        testCase "a GGUF file carries the recommended exit and draft length, under keys that are checked"
        <| fun () ->
            use weights = Weights.random 1L 0.8 Dtype.F32 Device.Cpu tied

            exported ExportFormat.Gguf 4 { checkpoint weights with Recommended = Some(3, 7) } (fun _ made ->
                Expect.equal made.Recommended (Some(3, 7)) "read back"
                exported ExportFormat.HuggingFace 4 made (fun _ again ->
                    Expect.equal again.Recommended (Some(3, 7)) "and on to a folder"))

            exported ExportFormat.Gguf 4 (checkpoint weights) (fun _ made ->
                Expect.isNone made.Recommended "none where there is none")

            withFolder (fun out ->
                let path = Path.Combine(out, "m.gguf")
                let wrong = { checkpoint weights with Recommended = Some(9, 0) }
                Export.write ExportFormat.Gguf 4 path wrong |> Check.getOrRaise |> ignore

                let found = Checkpoint.load path None Device.Cpu |> messages
                expectFault [ "layerskip.exit_layer"; "1 to 3" ] found
                expectFault [ "layerskip.draft_length"; "at least 1" ] found)
    ]

[<Tests>]
let recommended =
    testList "generation_config.json" [
        testCase "gives exit layer, draft length and stop ids in transformers' names" (fun () ->
            Backend.ensure ()
            let folder = Directory.CreateTempSubdirectory("layerskip-").FullName

            try
                let config = { Tiny.config 24 4 2 1 true with StopIds = [| 2 |] }
                use weights = Weights.random 1L 0.8 Dtype.F32 Device.Cpu config

                let json =
                    $$"""{"model_type":"llama","hidden_size":16,"intermediate_size":24,"num_hidden_layers":4,
                          "num_attention_heads":2,"num_key_value_heads":1,"head_dim":4,"vocab_size":24,
                          "max_position_embeddings":96,"tie_word_embeddings":true,"eos_token_id":2}"""

                File.WriteAllText(Path.Combine(folder, "config.json"), json)

                TensorWriter.safetensors
                    (Path.Combine(folder, "model.safetensors"))
                    Map.empty
                    (Weights.named weights)
                |> Check.getOrRaise

                let load () = Checkpoint.load folder None Device.Cpu

                do
                    use model = load () |> Check.getOrRaise
                    Expect.equal (Checkpoint.exitAndDraft model) (1, 4) "L / 3 and 4 where nothing is said"
                    Expect.equal model.StopIds [| 2 |] "config.json's"

                let write (text: string) =
                    File.WriteAllText(Path.Combine(folder, "generation_config.json"), text)

                write """{"assistant_early_exit":2,"num_assistant_tokens":6,"eos_token_id":[5,7]}"""

                do
                    use model = load () |> Check.getOrRaise
                    Expect.equal model.Recommended (Some(2, 6)) "recommended"
                    Expect.equal model.StopIds [| 5; 7 |] "its own come first"

                write """{"assistant_early_exit":4}"""
                Expect.isError (load ()) "an exit that the model has not"
            finally
                Directory.Delete(folder, true))
    ]
