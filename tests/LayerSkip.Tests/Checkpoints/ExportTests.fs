module LayerSkip.Tests.ExportTests

open System
open System.IO
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.ExportSupport

/// A tiny model as its family has it: with the biases, norms and windows that config.json can name.
let private asFamily (family: Family) (config: LlamaConfig) : LlamaConfig =
    let window = Array.tryPick id config.Windows

    {
        config with
            Family = family
            QkvBias = (family = Family.Qwen2 || (family = Family.Llama && config.QkvBias))
            OutputBias = (family = Family.Llama && config.OutputBias)
            MlpBias = (family = Family.Llama && config.MlpBias)
            QkNorm = (family = Family.Qwen3)
            Windows =
                match family with
                | Family.Llama -> Array.create config.Layers None
                | Family.Mistral
                | Family.Phi3 -> Array.create config.Layers window
                | Family.Qwen2
                | Family.Qwen3 -> config.Windows
            StopIds = [| 2; 5 |]
    }

let private families = [ Family.Llama; Family.Mistral; Family.Qwen2; Family.Qwen3; Family.Phi3 ]

let private yarn: YarnScaling = {
    Factor = 4.0
    Original = 24
    BetaFast = 16.0
    BetaSlow = 2.0
    AttentionFactor = 1.25
    Truncate = true
}

let private scalings = [
    RopeScaling.Default
    RopeScaling.Linear 4.0
    RopeScaling.Yarn yarn
    RopeScaling.Yarn { yarn with AttentionFactor = 0.1 * log 4.0 + 1.0 }
]

let private llama3 = RopeScaling.Llama3(8.0, 1.0, 4.0, 32)

let private underArchitecture (config: LlamaConfig) =
    if config.Family = Family.Mistral then
        { config with Family = Family.Llama }
    else
        config

let private angles (config: LlamaConfig) =
    let struct (angles, _) = RopeAngles.frequencies config
    angles

/// A tiny model in memory, gone after `body`.
let private withTiny dtype (config: LlamaConfig) (body: Checkpoint -> 'T) : 'T =
    use weights = Tiny.weights dtype { Config = config; Seed = 3L }
    body (checkpoint weights)

let private llama = Tiny.config 24 4 4 2 false

let private refuses format layers (words: string list) (source: Checkpoint) =
    withFolder (fun folder ->
        let path = Path.Combine(folder, "made")
        Export.write format layers path source |> messages |> expectFault words
        Expect.isEmpty (Directory.GetFileSystemEntries folder) "nothing is written")

[<Tests>]
let properties =
    testList "export: weights" [
        testPropertyWithConfig
            (Tiny.settings 12)
            "a folder loads as the same model, in every dtype and family"
        <| fun (model: Tiny.Model) (choice: byte) ->
            for family in families do
                for dtype in [ Dtype.F64; Dtype.F32; Dtype.F16; Dtype.BF16 ] do
                    let scaling =
                        if family = Family.Phi3 then
                            RopeScaling.Default
                        else
                            (llama3 :: scalings)[int choice % 5]

                    let config = { asFamily family model.Config with RopeScaling = scaling }

                    withTiny dtype config (fun source ->
                        exported ExportFormat.HuggingFace config.Layers source (fun report made ->
                            expectSameWeights source.Weights made.Weights
                            Expect.equal (plain made.Config) config "configuration"
                            Expect.equal made.StopIds config.StopIds "stop ids"
                            Expect.equal report.Tensors (Weights.named source.Weights).Length "tensors"))

        testPropertyWithConfig
            (Tiny.settings 12)
            "a GGUF file loads as the same model, in every dtype and family"
        <| fun (model: Tiny.Model) (choice: byte) ->
            for family in families do
                for dtype in [ Dtype.F32; Dtype.F16; Dtype.BF16 ] do
                    let scaling = scalings[int choice % 4]
                    let config = { asFamily family model.Config with RopeScaling = scaling }

                    withTiny dtype config (fun source ->
                        exported ExportFormat.Gguf config.Layers source (fun report made ->
                            expectSameWeights source.Weights made.Weights
                            let found = { made.Config with RopeScaling = scaling }
                            Expect.equal (plain found) (underArchitecture config) "configuration"
                            Expect.equal made.StopIds config.StopIds "stop ids"

                            match scaling, made.Config.RopeScaling with
                            | RopeScaling.Yarn expected, RopeScaling.Yarn found ->
                                let factor = found.AttentionFactor
                                Expect.floatClose Accuracy.medium factor expected.AttentionFactor "factor"

                                Expect.equal
                                    { found with AttentionFactor = expected.AttentionFactor }
                                    expected
                                    "yarn"
                            | expected, found -> Expect.equal found expected "scaling"

                            Expect.equal report.Bytes (FileInfo report.Output).Length "bytes"))

        testPropertyWithConfig (Tiny.settings 20) "the first E layers write what early exit writes"
        <| fun (case: Tiny.Case) ->
            let config = asFamily Family.Llama case.Model.Config

            withTiny Dtype.F32 config (fun source ->
                let early = Strategy.EarlyExit(Tiny.exit config.Layers case.Exit)
                let expected = greedy early 20 case.Prompt source.Weights

                for format, _ in formats do
                    exported format case.Exit source (fun report made ->
                        Expect.equal (report.Layers, made.Config.Layers) (case.Exit, case.Exit) "layers"
                        let found = greedy Strategy.Autoregressive 20 case.Prompt made.Weights
                        Expect.equal found expected $"%A{format}"))

        testCase
            "llama3's divisors go through a GGUF file, and are Meta's numbers again in a folder"
            (fun () ->
                let config = { llama with HeadDim = 16; RopeScaling = llama3 }

                withTiny Dtype.F32 config (fun source ->
                    exported ExportFormat.Gguf 4 source (fun report made ->
                        Expect.equal
                            report.Tensors
                            (1 + (Weights.named source.Weights).Length)
                            "with the table"

                        for found, expected in Array.zip (angles made.Config) (angles config) do
                            Expect.floatClose Accuracy.medium found expected "angles"

                        exported ExportFormat.HuggingFace 4 made (fun _ again ->
                            expectSameWeights source.Weights again.Weights
                            Expect.equal (plain again.Config) config "configuration"))))

        testCase "the recommendation goes with the whole model only" (fun () ->
            withTiny Dtype.F32 llama (fun source ->
                let source = { source with Recommended = Some(2, 5) }
                exported ExportFormat.HuggingFace 4 source (fun _ made ->
                    Expect.equal made.Recommended (Some(2, 5)) "the whole")
                exported ExportFormat.HuggingFace 3 source (fun _ made ->
                    Expect.equal made.Recommended None "a draft model")))

        testCase "one layer is a model; an empty folder may be filled" (fun () ->
            withTiny Dtype.BF16 llama (fun source ->
                withFolder (fun folder ->
                    let report =
                        Export.write ExportFormat.HuggingFace 1 (folder + "/") source |> Check.getOrRaise

                    Expect.equal (report.Tensors, report.Dtype) (12, "bf16") "report"
                    let sizes = DirectoryInfo(folder).GetFiles() |> Array.sumBy _.Length
                    Expect.equal report.Bytes sizes "bytes"
                    use made = load None folder
                    Expect.equal made.Config.Layers 1 "layers")))

        testCase "no tensor is left behind" (fun () ->
            withTiny Dtype.F16 llama (fun source ->
                withFolder (fun folder ->
                    let run round =
                        for format, name in formats do
                            Export.write format 3 (Path.Combine(folder, $"{round} {name}")) source
                            |> Check.getOrRaise
                            |> ignore

                    run 0
                    let before = TensorSupport.liveTensors ()

                    for round in 1..5 do
                        run round

                    Expect.equal torch.Tensor.TotalCount before "tensors")))
    ]

[<Tests>]
let faults =
    testList "export: faults" [
        testCase "layers outside the model" (fun () ->
            withTiny Dtype.F32 llama (fun source ->
                for layers in [ -1; 0; 5 ] do
                    for format, _ in formats do
                        refuses format layers [ "layers"; "1 to 4" ] source))

        testCase "float64 in GGUF" (fun () ->
            withTiny Dtype.F64 llama (refuses ExportFormat.Gguf 4 [ "f64"; "use dtype f32" ]))

        testCase "what a format has no words for" (fun () ->
            let hf (words: string list) config =
                withTiny Dtype.F32 config (refuses ExportFormat.HuggingFace 4 words)
            let gguf (words: string list) config =
                withTiny Dtype.F32 config (refuses ExportFormat.Gguf 4 words)
            let windows = [| Some 3; None; None; Some 5 |]
            hf [ "norms"; "GGUF file" ] { llama with QkNorm = true }
            gguf [ "norms"; "Hugging Face folder" ] { llama with QkNorm = true }
            hf [ "q, k and v" ] { llama with QkvBias = true }
            gguf [ "q, k and v" ] { asFamily Family.Qwen3 llama with QkvBias = true }
            hf [ "output" ] { asFamily Family.Qwen2 llama with OutputBias = true }
            gguf [ "output" ] { asFamily Family.Qwen2 llama with OutputBias = true }
            hf [ "MLP" ] { asFamily Family.Mistral llama with MlpBias = true }
            gguf [ "MLP" ] { asFamily Family.Qwen2 llama with MlpBias = true }
            hf [ "windows" ] { asFamily Family.Qwen3 llama with Windows = windows }
            gguf [ "windows" ] { asFamily Family.Qwen3 llama with Windows = windows }
            gguf [ "rotary" ] { asFamily Family.Qwen3 llama with RopeScaling = llama3 }
            gguf [ "YaRN" ] { llama with RopeScaling = RopeScaling.Yarn { yarn with Truncate = false } }
            hf [ "divisors" ] { llama with RopeScaling = RopeScaling.Divided [| 7.25; 1.0 |] })

        testCase "a value that the dtype cannot hold" (fun () ->
            use weights = Tiny.weights Dtype.F16 { Config = llama; Seed = 1L }
            weights.Layers[1].Down.Tensor.fill_(Scalars.ofFloat infinity) |> ignore

            for format, _ in formats do
                refuses format 4 [ "down_proj"; "f16"; "bf16" ] (checkpoint weights))

        testCase "an output that is there, or cannot be" (fun () ->
            withTiny Dtype.F32 llama (fun source ->
                withFolder (fun folder ->
                    let file = Path.Combine(folder, "file")
                    File.WriteAllText(file, "mine")

                    let refused format (path: string) (words: string list) =
                        Export.write format 4 path source |> messages |> expectFault words

                    refused ExportFormat.HuggingFace folder [ folder; "not empty"; "another place" ]
                    refused ExportFormat.HuggingFace file [ file; "another place" ]
                    refused ExportFormat.Gguf file [ file; "there already"; "another place" ]
                    refused ExportFormat.Gguf folder [ folder; "is a folder" ]

                    for format, _ in formats do
                        refused format (Path.Combine(folder, "none", "made")) [ "its folder is not there" ]
                        refused format "" [ "another place" ]
                        refused format "/proc/made" [ "cannot be written" ]

                    Expect.equal (File.ReadAllText file) "mine" "untouched"
                    Expect.equal (Directory.GetFileSystemEntries folder) [| file |] "nothing else")))

        testCase "windows in a GGUF file that fit no model" (fun () ->
            let opened entries =
                withBytes (GgufWriter.gguf 3u (GgufWriter.model "llama" @ entries) []) (fun path ->
                    Gguf.openFile path |> messages)

            let window size =
                GgufWriter.entry "llama.attention.sliding_window" 5u (BitConverter.GetBytes(size: int))

            let pattern flags =
                GgufWriter.entryArray "llama.attention.sliding_window_pattern" 7u [
                    for flag in flags -> [| flag |]
                ]

            opened [ window -3 ] |> expectFault [ "sliding_window is -3" ]
            opened [ window 8; pattern [ 1uy; 0uy ] ]
            |> expectFault [ "sliding_window_pattern"; "1 flags" ])

        testCase "a folder that vanishes on the way" (fun () ->
            withTiny Dtype.F32 llama (fun source ->
                let gone = Path.Combine(Path.GetTempPath(), $"layerskip-{Guid.NewGuid():N}", "made")
                Expect.isError
                    (GgufExport.write "tiny" (GgufExport.Target.Dtype Dtype.F32) gone source)
                    "an error, no exception"))
    ]
