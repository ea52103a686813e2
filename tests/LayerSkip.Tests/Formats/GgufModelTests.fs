module LayerSkip.Tests.GgufModelTests

open System.IO
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.GgufWriter
open LayerSkip.Tests.GgufBlockSupport

let private ok result = Check.getOrRaise result

let private tiny (format: string) (round: Tensor -> Tensor) =
    sharedTest
        $"tiny-llama's {format} file holds what its safetensors file holds"
        [ "tiny-llama" ]
        (fun folder ->
            Backend.ensure ()
            use _scope = torch.NewDisposeScope()
            use weights = Safetensors.openFile (Path.Combine(folder, "tiny_llama.safetensors")) |> ok
            use file = Gguf.openFile (Path.Combine(folder, $"tiny_llama_{format}.gguf")) |> ok
            let found = Map [ for tensor in file.Tensors -> tensor.Name, tensor ]
            Expect.equal (set found.Keys) (set [ for tensor in weights.Tensors -> tensor.Name ]) "names"

            for expected in weights.Tensors do
                let tensor = found[expected.Name]
                Expect.equal tensor.Shape expected.Shape expected.Name
                let values = Tensors.ofStored expected
                // llama.cpp keeps norms in float32.
                let values = if tensor.Format = "F32" then values else round values
                Expect.equal
                    (Tensors.toFloats (Tensors.ofStored tensor))
                    (Tensors.toFloats values)
                    expected.Name

            let config = LlamaConfig.load (Path.Combine(folder, "tiny_llama_config.json")) |> ok
            let plain (config: LlamaConfig) = { config with StoredDtype = None; Bos = None; StopIds = [||] }
            Expect.equal (plain file.Config) (plain config) "configuration")

[<Tests>]
let golden =
    testList "gguf models" [
        tiny "f32" id
        tiny "f16" (fun values -> values.to_type torch.ScalarType.Float16)

        sharedTest "SmolLM2 opens with its configuration, whole" [ "smollm2-135m-instruct" ] (fun folder ->
            Backend.ensure ()
            let path = Path.Combine(folder, "model.gguf")
            let config = LlamaConfig.load (Path.Combine(folder, "config.json")) |> ok
            use file = Gguf.openFile path |> ok

            for tensor in file.Tensors do
                use values = Tensors.ofStored tensor
                Expect.isTrue (Tensors.isFinite values) tensor.Name

            // By llama.cpp's rules a text ends at <|endoftext|> and <reponame> too.
            Expect.equal file.Config.StopIds [| 2; 0; 4 |] "stop ids"

            Expect.equal
                { file.Config with StoredDtype = config.StoredDtype; StopIds = config.StopIds }
                config
                "configuration"

            Expect.equal file.Config.StoredDtype (Some "Q4_1") "format"
            Expect.equal file.Tensors.Length (2 + 30 * 9) "tensors"
            let total = List.sum [ for tensor in file.Tensors -> Array.fold (*) 1L tensor.Shape ]
            Expect.equal total 134515008L "parameters")

        sharedTest
            "SmolLM2's blocks are those of the formula"
            [ "smollm2-135m-instruct"; "model.gguf" ]
            (fun path ->
                Backend.ensure ()
                use _scope = torch.NewDisposeScope()
                use file = Gguf.openFile path |> ok
                let bytes = File.ReadAllBytes path

                let check kind size (theirs: string) (name: string) =
                    let stored = file.Tensors |> List.find (fun tensor -> tensor.Name = name)
                    let start = startOf bytes "token_embd.weight" theirs
                    let values = (Tensors.ofStored stored).flatten().narrow(0, 0, 3200L)
                    Expect.equal stored.Format (if kind = 3u then "Q4_1" else "Q8_0") "format"
                    Expect.equal
                        (bits (Tensors.toFloat32s values))
                        (bits (naive kind bytes[start .. start + 100 * size - 1]))
                        name

                check 8u 34 "token_embd.weight" "model.embed_tokens.weight"
                check 3u 20 "blk.7.ffn_up.weight" "model.layers.7.mlp.up_proj.weight")
    ]
