module LayerSkip.Tests.QuantModelTests

open System
open System.IO
open System.Text.Json
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.GgufWriter
open LayerSkip.Tests.GgufBlockSupport

let private load dtype path = Checkpoint.load path dtype Device.Cpu |> Check.getOrRaise

/// The logits of the last layer by a weights' kernels, [position][vocabulary].
let private logits (weights: Weights) (ids: int[]) : float[][] =
    Scope.free (fun () ->
        let cache = Cache.create weights 1 ids.Length
        use _storage = cache.Slab :> IDisposable
        let struct (hidden, _) = Model.forward weights ids.Length ids cache
        SharedHead.logits weights (hidden.Read())
        |> Tensors.toFloats
        |> Array.chunkBySize weights.Config.Vocabulary)

let private largest (row: float[]) = row |> Array.map abs |> Array.max
let private argmax (row: float[]) = row |> Array.findIndex ((=) (Array.max row))

let private ints (element: JsonElement) = [| for item in element.EnumerateArray() -> item.GetInt32() |]

/// As shares of a row's largest logit. llama.cpp rounds activations to 8 bits, and so do we, by smaller blocks; in this
/// model the noise of either is 1.4 to 2.8 %, of both together up to 4.2, and float16 weights show what is left without it (0.1 %).
let private tolerance (compute: Compute) (name: string) =
    match compute, name with
    | _, "F16" -> 0.002
    | Compute.Auto, _ -> 0.045
    | _, ("Q5_1" | "Q2_K" | "Q3_K_M" | "Q6_K" | "IQ4_XS") -> 0.035
    | _ -> 0.02

/// The mean of what `q` tells less than `p`, in nats, of rows of logits (Kullback-Leibler).
let private divergence (p: float[][]) (q: float[][]) : float =
    let logShares (row: float[]) =
        let largest = Array.max row
        let total = largest + log (Array.sumBy (fun logit -> exp (logit - largest)) row)
        row |> Array.map (fun logit -> logit - total)

    Array.zip p q
    |> Array.averageBy (fun (p, q) ->
        Array.map2 (fun p q -> exp p * (p - q)) (logShares p) (logShares q) |> Array.sum)

let private likeLlamaCpp (name: string) (source: string) =
    sharedTest $"{name}: llama.cpp's logits and tokens" [ "quants"; source ] (fun path ->
        let answers = sharedPath [ "quants"; $"{name}.json" ]
        use reference = JsonDocument.Parse(File.ReadAllText answers)
        let field (name: string) = reference.RootElement.GetProperty name
        let expected = [| for value in (field "logits_last").EnumerateArray() -> value.GetDouble() |]
        let ids = ints (field "prompt_ids")
        use plain = load (Some Dtype.F32) path
        let plain = logits plain.Weights ids

        for compute in [ Compute.Auto; Compute.Float ] do
            use model = Checkpoint.withCompute compute (load None path)
            let rows = logits model.Weights ids
            let tolerance = tolerance compute name

            Expect.isLessThan (divergence plain rows) 6e-4 "what rounded activations lose"

            if compute = Compute.Float then
                for row, plain in Array.zip rows plain do
                    let worst = Array.map2 (fun (a: float) b -> abs (a - b)) row plain |> Array.max
                    Expect.isLessThan (worst / largest plain) 1e-4 "decoded blocks in float32"

            let worst = Array.map2 (fun (a: float) b -> abs (a - b)) expected (Array.last rows) |> Array.max
            Expect.isLessThan (worst / largest expected) tolerance $"{compute}: last logits"

            // Where the two best are no further apart than the tolerance, either may be the larger.
            for row, best in Array.zip rows (ints (field "argmax")) do
                Expect.isLessThan (Array.max row - row[best]) (tolerance * largest row) $"{compute}: argmax")

[<Tests>]
let quantModels =
    testList "quantised models" [
        likeLlamaCpp "F16" "source"

        for name in quantFiles do
            likeLlamaCpp name $"{name}.gguf"

            sharedTest $"{name}: the configuration says so" [ "quants"; $"{name}.gguf" ] (fun path ->
                use file = Gguf.openFile path |> Check.getOrRaise
                Expect.equal file.Config.StoredDtype (Some name) "as llama.cpp calls the mix")

        for name, format, scales in formats do
            testCase $"{name}: a scale that is no number is found when the file is loaded"
            <| fun () ->
                for odd in [ Half.NaN; Half.NegativeInfinity ] do
                    let file = modelOfFormat format.Kind
                    let start = startOf file "token_embd.weight" "blk.0.ffn_up.weight"
                    BitConverter.GetBytes(odd).CopyTo(file, start + 2 * format.Bytes + List.last scales)

                    withFolder (fun folder ->
                        let path = Path.Combine(folder, "m.gguf")
                        File.WriteAllBytes(path, file)

                        Checkpoint.load path None Device.Cpu
                        |> messages
                        |> expectFault [ "blk.0.ffn_up.weight"; "NaN or infinity" ])
    ]
