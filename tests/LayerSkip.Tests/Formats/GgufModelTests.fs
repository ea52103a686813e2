module LayerSkip.Tests.GgufModelTests

open System
open System.IO
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.GgufWriter

let private ok result = Check.getOrRaise result

let bits (values: float32[]) = values |> Array.map BitConverter.SingleToInt32Bits

let private half (bytes: byte[]) at = float32 (BitConverter.ToHalf(bytes, at))

/// ggml's dequantize_row functions, a value at a time.
let naive (kind: uint32) (bytes: byte[]) : float32[] =
    let size =
        match kind with
        | 2u -> 18
        | 3u -> 20
        | _ -> 34

    let value block index =
        let at = block * size
        let nibble front = int (bytes[at + front + index % 16] >>> (4 * (index / 16))) &&& 15

        match kind with
        | 2u -> float32 (nibble 2 - 8) * half bytes at
        | 3u -> float32 (nibble 4) * half bytes at + half bytes (at + 2)
        | _ -> float32 (sbyte bytes[at + 2 + index]) * half bytes at

    Array.init (bytes.Length / size * 32) (fun index -> value (index / 32) (index % 32))

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
