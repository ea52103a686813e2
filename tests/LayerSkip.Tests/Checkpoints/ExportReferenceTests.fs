module LayerSkip.Tests.ExportReferenceTests

open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.ExportSupport

let private ints (element: JsonElement) = [| for item in element.EnumerateArray() -> item.GetInt32() |]

let private families =
    match sharedPath [ "hf-tiny" ] with
    | folder when Directory.Exists folder ->
        Directory.GetDirectories folder
        |> Array.map Path.GetFileName
        |> Array.sort
        |> List.ofArray
    | _ -> [ "llama" ]

/// What transformers decodes greedily.
let private expectGreedy (folder: string) (made: Checkpoint) =
    let expected = JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "expected.json"))).RootElement

    for case in (expected.GetProperty "cases").EnumerateArray() do
        let found = greedy Strategy.Autoregressive 30 (ints (case.GetProperty "prompt_ids")) made.Weights
        Expect.equal found (ints (case.GetProperty "greedy_ids")) "greedy ids"

[<Tests>]
let tests =
    testList "export: references" [
        for family in families do
            for format, dtype in
                [
                    ExportFormat.HuggingFace, Dtype.F64
                    ExportFormat.HuggingFace, Dtype.F32
                    ExportFormat.Gguf, Dtype.F32
                ] do
                sharedTest
                    $"{family}: %A{format} {Dtype.name dtype} decodes as the source"
                    [ "hf-tiny"; family ]
                    (fun folder ->
                        use source = load (Some dtype) folder

                        exported format source.Config.Layers source (fun _ made ->
                            expectSameWeights source.Weights made.Weights
                            Expect.equal made.StopIds source.StopIds "stop ids"
                            expectGreedy folder made))

            for dtype in [ Dtype.F16; Dtype.BF16 ] do
                sharedTest
                    $"{family}: {Dtype.name dtype} weights bit for bit"
                    [ "hf-tiny"; family ]
                    (fun folder ->
                        use source = load (Some dtype) folder

                        for format, _ in formats do
                            exported format source.Config.Layers source (fun _ made ->
                                expectSameWeights source.Weights made.Weights))

        sharedTest "stories260K: both formats, whole and as a draft model" [ "stories260K" ] (fun folder ->
            use source = load None folder
            let early = Strategy.EarlyExit(Tiny.exit 5 3)

            for format, _ in formats do
                exported format 5 source (fun _ made ->
                    let reference =
                        JsonDocument
                            .Parse(File.ReadAllText(Path.Combine(folder, "greedy.json")))
                            .RootElement
                    let found = greedy Strategy.Autoregressive 256 [| 1 |] made.Weights
                    Expect.equal
                        (Array.append [| 1 |] found)
                        (ints (reference.GetProperty "ids"))
                        "reference ids"
                    let text = "Once upon a time, there was a dog."
                    let encode (checkpoint: Checkpoint) = Tokenizer.encode checkpoint.Tokenizer.Value text
                    Expect.equal (encode made) (encode source) "tokenizer"
                    Expect.equal (plain made.Config) (plain source.Config) "configuration")

                exported format 3 source (fun _ made ->
                    let found = greedy Strategy.Autoregressive 100 [| 1 |] made.Weights
                    Expect.equal found (greedy early 100 [| 1 |] source.Weights) "early exit"))

        sharedTest
            "SmolLM2's GGUF file: a GGUF source in both formats"
            [ "smollm2-135m-instruct" ]
            (fun folder ->
                use source = load (Some Dtype.F16) (Path.Combine(folder, "model.gguf"))
                let part = Export.firstLayers 2 source
                let own = Gguf.readMetadata source.Path |> Check.getOrRaise
                let tokens =
                    JsonDocument
                        .Parse(File.ReadAllText(Path.Combine(folder, "tokenizer_cases.json")))
                        .RootElement

                for format, _ in formats do
                    exported format 2 source (fun report made ->
                        expectSameWeights part.Weights made.Weights
                        Expect.isEmpty report.Remarks "nothing to remark"

                        for case in tokens.EnumerateArray() do
                            let text = case.GetProperty("text").GetString()
                            Expect.equal
                                (Tokenizer.encode made.Tokenizer.Value text)
                                (ints (case.GetProperty "ids"))
                                text

                        if format = ExportFormat.Gguf then
                            let metadata = Gguf.readMetadata made.Path |> Check.getOrRaise

                            for KeyValue(key, value) in own do
                                if key.StartsWith "tokenizer." then
                                    Expect.equal metadata[key] value key))

        sharedTest "a GGUF file alone becomes a folder with a tokenizer" [ "stories260K" ] (fun folder ->
            use source = load None folder

            exported ExportFormat.Gguf 1 source (fun _ alone ->
                exported ExportFormat.HuggingFace 1 alone (fun report made ->
                    expectSameWeights alone.Weights made.Weights
                    Expect.isEmpty report.Remarks "nothing is missing"
                    let text = "Once upon a time, there was"

                    Expect.equal
                        (Tokenizer.encode made.Tokenizer.Value text)
                        (Tokenizer.encode source.Tokenizer.Value text)
                        "its tokenizer")))
    ]
