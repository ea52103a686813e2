/// Adapters beside their models: in folders, beside GGUF files, in what is exported.
module LayerSkip.Tests.AdapterModelTests

open System
open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.Tiny

let private ok result = Check.getOrRaise result
let private config = Tiny.config 24 4 4 2 false
let private fault result = Check.faults result |> LayerSkipError.summary

let private write (folder: string) name form exit (weights: Weights) : string =
    let path = Path.Combine(folder, name)
    use adapter = Adapter.initial 5L 4 form (Tiny.exit 4 exit) weights
    AdapterFile.write path weights adapter |> ok
    path

/// A model in memory with adapters behind layers 1 (a norm) and 2 (a block) in files.
let private withModel (body: string -> Checkpoint -> unit) =
    withFolder (fun folder ->
        use weights = Weights.random 3L 0.8 Dtype.F32 Device.Cpu config
        let norm = write folder "norm.safetensors" AdapterForm.Norm 1 weights
        let block = write folder "block.safetensors" AdapterForm.Block 2 weights
        body folder { Checkpoint.ofWeights folder weights None with Adapters = [ block; norm ] })

let private exitOf exit checkpoint =
    use adapter = Adapters.load exit checkpoint |> ok
    adapter.Exit.Layers

let private drafted (checkpoint: Checkpoint) exit =
    use adapter = Adapters.load exit checkpoint |> ok
    let strategy = Strategy.Speculative(AdapterDrafter.create adapter, LengthPolicy.Fixed 3)
    (Tiny.complete checkpoint.Weights (options strategy 20) [| 3; 4; 5 |]).Stats.Rounds

[<Tests>]
let tests =
    testSequenced
    <| testList "adapters of models" [
        for format, name in [ ExportFormat.HuggingFace, "out"; ExportFormat.Gguf, "out.gguf" ] do
            testCase $"go with a model that is exported ({name}), and are found again" (fun () ->
                withModel (fun folder model ->
                    let output = Path.Combine(folder, name)
                    Export.writeIn Dtype.F32 format 4 output model |> ok |> ignore
                    use again = Checkpoint.load output None Device.Cpu |> ok
                    Expect.equal again.Adapters.Length 2 "both"
                    Expect.equal (exitOf None again) 2 "the first first"
                    Expect.equal (exitOf (Some 1) again) 1 "by its layer"
                    Expect.equal (drafted again (Some 2)) (drafted model (Some 2)) "it drafts as it did"
                    Expect.isEmpty (Adapters.remarks (Some 2) again) "its own base"

                    // The first layers alone have none.
                    let first = Path.Combine(folder, "first-" + name)
                    Export.writeIn Dtype.F32 format 3 first again |> ok |> ignore
                    use part = Checkpoint.load first None Device.Cpu |> ok
                    Expect.isEmpty part.Adapters "none"))

        testCase "generation_config.json names them, and keeps what else it had" (fun () ->
            withModel (fun folder model ->
                let output = Path.Combine(folder, "out")
                let kept = { model.Kept with OfGeneration = [ "temperature", "0.5" ] }
                Export.writeIn Dtype.F32 ExportFormat.HuggingFace 4 output { model with Kept = kept }
                |> ok
                |> ignore
                use file =
                    JsonDocument.Parse(File.ReadAllText(Path.Combine(output, "generation_config.json")))
                let names = [
                    for name in (file.RootElement.GetProperty "layerskip_adapters").EnumerateArray() ->
                        name.GetString()
                ]
                Expect.equal names [ "adapter.safetensors"; "adapter2.safetensors" ] "names"
                Expect.equal ((file.RootElement.GetProperty "temperature").GetDouble()) 0.5 "the rest"))

        testCase "a name that is none, and a file that is gone" (fun () ->
            withModel (fun folder model ->
                let output = Path.Combine(folder, "out")
                Export.writeIn Dtype.F32 ExportFormat.HuggingFace 4 output model |> ok |> ignore
                let write (value: string) =
                    File.WriteAllText(
                        Path.Combine(output, "generation_config.json"),
                        $"""{{"layerskip_adapters": {value}}}"""
                    )

                for value in [ "\"adapter.safetensors\""; "[1]"; "[\"../norm.safetensors\"]"; "[\"\"]" ] do
                    write value
                    Expect.stringContains
                        (fault (Checkpoint.load output None Device.Cpu))
                        "layerskip_adapters"
                        value

                write "[\"gone.safetensors\", \"adapter.safetensors\"]"
                use loaded = Checkpoint.load output None Device.Cpu |> ok
                Expect.equal loaded.Adapters.Length 1 "the one that is there"
                Expect.exists loaded.Remarks _.Contains("gone.safetensors") "a remark"))

        testCase "none, none behind a layer, one of another base, one of another size" (fun () ->
            withModel (fun _ model ->
                Expect.stringContains
                    (fault (Adapters.load None { model with Adapters = [] }))
                    "has no adapter"
                    "none"
                Expect.stringContains
                    (fault (Adapters.load (Some 3) model))
                    "exit-layer is 3, it must be 2 or 1"
                    "no such layer"
                use other = Weights.random 9L 0.8 Dtype.F32 Device.Cpu config
                let beside = { model with Weights = other }
                Expect.equal (Adapters.remarks None beside).Length 1 "a remark"
                use _adapter = Adapters.load None beside |> ok
                use small = Weights.random 9L 0.8 Dtype.F32 Device.Cpu (Tiny.config 24 3 4 2 false)
                Expect.stringContains
                    (fault (Adapters.load None { model with Weights = small }))
                    "another model"
                    "sizes"))

        for form in [ AdapterForm.Norm; AdapterForm.Block ] do
            testCase
                $"a {AdapterForm.name form} and the layers before it are a plain model that says what the adapter drafts"
                (fun () ->
                    withModel (fun folder model ->
                        let layers = 2 + (if form = AdapterForm.Block then 1 else 0)
                        use adapter = Adapter.initial 5L 4 form (Tiny.exit 4 2) model.Weights
                        let draft = Adapters.asModel adapter model |> ok
                        let output = Path.Combine(folder, "draft")
                        Export.writeIn Dtype.F32 ExportFormat.HuggingFace layers output draft
                        |> ok
                        |> ignore
                        use read = Checkpoint.load output None Device.Cpu |> ok
                        Expect.equal read.Config.Layers layers "layers"
                        let prompt = [| 3; 4; 5 |]
                        let plain = Tiny.complete read.Weights (options Strategy.Autoregressive 4) prompt
                        use kernels = Adapter.withKernels adapter
                        // What the draft model writes is what the adapter drafts in the first round, if it starts alike.
                        let text =
                            Array.append
                                prompt
                                (Tiny.complete model.Weights (options Strategy.Autoregressive 1) prompt)
                                    .TokenIds
                        let own = Tiny.complete read.Weights (options Strategy.Autoregressive 3) text
                        let strategy =
                            Strategy.Speculative(AdapterDrafter.create kernels, LengthPolicy.Fixed 3)
                        let drafts = ResizeArray<int>()

                        let listening = {
                            new Drafter with
                                member _.Name = "listening"
                                member _.Exit = strategy.Exit
                                member _.Watch = strategy.Drafter.Value.Watch
                                member this.Draft(request, reading) =
                                    let struct (made, reading, _) =
                                        strategy.Drafter.Value.Draft(request, reading)
                                    if drafts.Count = 0 then
                                        drafts.AddRange(made |> Array.map _.Token)
                                    struct (made, reading, this)
                                member this.Learn _ = this
                        }

                        let heard = Strategy.Speculative(listening, LengthPolicy.Fixed 3)
                        Tiny.complete model.Weights (options heard 8) prompt |> ignore
                        Expect.equal (drafts.ToArray()) own.TokenIds "drafts"
                        Expect.isNonEmpty plain.TokenIds "it writes"))

        testCase "a low-rank map is no layer of a plain model" (fun () ->
            withModel (fun _ model ->
                use adapter = Adapter.initial 5L 4 (AdapterForm.LowRank 2) (Tiny.exit 4 2) model.Weights
                Expect.stringContains (fault (Adapters.asModel adapter model)) "low-rank" "refused"))

        testCase "a model that is trained on has the adapters of none" (fun () ->
            withModel (fun folder model ->
                let output = Path.Combine(folder, "out")
                Export.writeIn Dtype.F32 ExportFormat.HuggingFace 4 output model |> ok |> ignore
                TokenFile.write (Path.Combine(folder, "data.tokens")) rhythm |> ok |> ignore
                let options = { TrainingSupport.options with Steps = 2 }
                let data = TrainingSupport.dataOf (Path.Combine(folder, "data.tokens"))
                let loaded = Checkpoint.load output (Some Dtype.F32) Device.Cpu |> ok
                let run = Path.Combine(folder, "run")
                TrainingSession.start run options Ranks.alone loaded data
                |> ok
                |> TrainingSupport.finish
                |> ignore
                use trained = Checkpoint.load run None Device.Cpu |> ok
                Expect.isEmpty trained.Adapters "none"))
    ]
