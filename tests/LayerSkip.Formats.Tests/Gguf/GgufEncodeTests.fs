module LayerSkip.Tests.GgufEncodeTests

open System
open System.IO
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.GgufBlockSupport

let private ok result = Check.getOrRaise result

let private encode (format: BlockFormat) (values: float32[]) : byte[] =
    GgufQuants.pack format (ReadOnlyMemory values)

let private through (format: BlockFormat) (values: float32[]) = decode format (encode format values)

let private normal (random: Random) =
    sqrt (-2.0 * log (1.0 - random.NextDouble())) * cos (2.0 * Math.PI * random.NextDouble())

/// What weights look like, and what they had better not.
let private shapes: (string * (Random -> int -> float32)) list = [
    "normal", (fun random _ -> float32 (0.02 * normal random))
    "zeros", (fun _ _ -> 0.0f)
    "a constant", (fun _ _ -> 0.3f)
    "a negative constant", (fun _ _ -> -0.3f)
    "one outlier",
    (fun random index ->
        if index % 256 = 77 then
            -9.0f
        else
            float32 (0.01 * normal random))
    "all negative", (fun random _ -> float32 (-1.0 - random.NextDouble()))
    "all positive", (fun random _ -> float32 (1.0 + random.NextDouble()))
    "far from 0", (fun random _ -> float32 (100.0 + 0.01 * normal random))
    "subnormal", (fun random _ -> float32 (1e-40 * normal random))
    "as small as float16", (fun random _ -> float32 (1e-6 * normal random))
    "the largest", (fun random _ -> (if random.Next 2 = 0 then -1.0f else 1.0f) * 65504.0f)
    "two values", (fun random _ -> if random.Next 2 = 0 then 0.25f else -0.125f)
]

/// The largest error, as a share of a block's largest value: a step, and what clipping the ends may add to it.
let private share (format: BlockFormat) =
    match GgufFormat.name format.Kind with
    | "Q8_0" -> 0.01f
    | "Q6_K" -> 0.06f
    | "Q5_0"
    | "Q5_1"
    | "Q5_K" -> 0.1f
    | "Q3_K" -> 0.4f
    | "Q2_K" -> 0.7f
    | _ -> 0.2f

let private squares (values: float32[]) = values |> Array.sumBy (fun value -> float value * float value)

/// Of groups, in a few bits.
let private hasMinima (format: BlockFormat) = [ 10u; 12u; 13u ] |> List.contains format.Kind

/// Root mean square error, as a share of the values' own root mean square.
let private distance (values: float32[]) (found: float32[]) =
    sqrt (squares (Array.map2 (-) values found) / max 1e-300 (squares values))

/// llama.cpp's file of a mix, and the tensors that it was made from.
let private withPair (file: string) (body: GgufFile -> Map<string, StoredTensor> -> unit) =
    use quantised = Gguf.openFile file |> ok
    let sources = Safetensors.openFolder (sharedPath [ "quants"; "source" ]) |> ok

    try
        body quantised (Map [ for source in sources |> List.collect _.Tensors -> source.Name, source ])
    finally
        sources |> List.iter (fun source -> (source :> IDisposable).Dispose())

let private floats stored = StoredTensor.toFloats stored |> Array.map float32

[<Tests>]
let tests =
    testList "gguf encoding" [
        for name, format, _ in formats do
            testProperty $"{name}: no value is further off than a step, whatever the values"
            <| fun (seed: int) (PositiveInt count) ->
                for shape, make in shapes do
                    let random = Random seed
                    let values = Array.init (format.Values * (1 + count % 4)) (make random)
                    let found = through format values

                    for values, found in
                        Seq.zip
                            (Array.chunkBySize format.Values values)
                            (Array.chunkBySize format.Values found) do
                        let largest = values |> Array.map abs |> Array.max
                        let worst = Array.map2 (fun (a: float32) b -> abs (a - b)) values found |> Array.max
                        // What float16 does not tell from 0, times what its numbers go up to.
                        let least = 1e-5f

                        Expect.isTrue
                            (worst <= share format * largest + min least largest)
                            $"{shape}: {worst} of {largest}"

            testProperty $"{name}: what blocks hold is found again"
            <| fun (seed: int) (PositiveInt count) ->
                let random = Random seed
                let make = snd shapes[0]
                let values = Array.init (format.Values * (1 + count % 9)) (make random)
                let once = through format values
                // Scales and minima of a few bits can say the same in two ways.
                let slack =
                    if hasMinima format then
                        0.5 * distance values once
                    else
                        0.005
                Expect.isLessThan (distance once (through format once)) slack "nearly nothing is lost"

            testProperty $"{name}: a block is made alone as among others"
            <| fun (seed: int) (PositiveInt count) ->
                let random = Random seed
                let values = Array.init (format.Values * (2 + count % 5)) (snd shapes[0] random)
                let alone = Array.chunkBySize format.Values values |> Array.collect (encode format)
                Expect.equal alone (encode format values) "the same bytes"

            testCase $"{name}: rows in several threads are the rows in one"
            <| fun () ->
                let random = Random 3
                let values = Array.init (1 <<< 19) (snd shapes[0] random)
                let parts = Array.chunkBySize (1 <<< 16) values |> Array.collect (encode format)
                Expect.isTrue (parts = encode format values) "the same bytes"

        for name in quantFiles do
            sharedTest
                $"{name}: no more error than llama.cpp's own file"
                [ "quants"; $"{name}.gguf" ]
                (fun file ->
                    withPair file (fun quantised sources ->
                        for kind, tensors in quantised.Tensors |> List.groupBy _.Format do
                            match formats |> List.tryFind (fun (format, _, _) -> format = kind) with
                            | None -> ()
                            | Some(_, format, _) ->
                                let values = tensors |> List.map (fun tensor -> floats sources[tensor.Name])
                                let values = Array.concat values
                                let theirs = tensors |> List.map floats |> Array.concat |> distance values
                                let ours = distance values (through format values)
                                Expect.isLessThan ours theirs $"{kind}: {ours} against {theirs}"))

            sharedTest
                $"{name}: every tensor has llama.cpp's format"
                [ "quants"; $"{name}.gguf" ]
                (fun file ->
                    withPair file (fun quantised _ ->
                        let mix = (GgufMix.tryFind (name.ToLowerInvariant())).Value
                        let rename = GgufName.ggml (Architecture.ofFamily quantised.Config.Family).Gguf
                        let number key = quantised.Metadata[key]
                        Expect.equal (number "general.file_type") (GgufValue.Int mix.FileType) "file type"
                        Expect.equal (number "general.quantization_version") (GgufValue.Int 2L) "version"

                        for tensor in quantised.Tensors do
                            let format =
                                GgufMix.format mix quantised.Config (rename tensor.Name) tensor.Shape
                            // These files were made with the option that leaves the head alone.
                            if tensor.Name <> "lm_head.weight" then
                                Expect.equal
                                    (GgufFormat.name (GgufFormat.kind format))
                                    tensor.Format
                                    tensor.Name))
    ]

/// A model's shape as the mixes see it.
let private config layers heads kvHeads tied : LlamaConfig = {
    LlamaConfig.Llama(64, layers, 512, 1024, heads, kvHeads, 64) with
        TiedHead = tied
}

let private formatOf mix config name columns =
    GgufMix.format (GgufMix.tryFind mix).Value config name [| 8L; columns |]
    |> GgufFormat.kind
    |> GgufFormat.name

[<Tests>]
let mixTests =
    testList "gguf mixes" [
        testCase "rows that 256 does not divide fall back, and those of no block stay float16" (fun () ->
            let model = config 8 8 8 true

            for mix, expected in
                [
                    "q2_k", "IQ4_NL"
                    "q3_k_m", "IQ4_NL"
                    "q4_k_m", "Q5_0"
                    "q5_k_m", "Q5_1"
                    "q6_k", "Q8_0"
                    "iq4_xs", "IQ4_NL"
                    "q4_0", "Q4_0"
                    "q8_0", "Q8_0"
                ] do
                Expect.equal (formatOf mix model "blk.2.ffn_up.weight" 576L) expected mix
                Expect.equal (formatOf mix model "blk.2.ffn_up.weight" 100L) "F16" mix
                Expect.equal (formatOf mix model "token_embd.weight" 576L) "Q8_0" mix)

        testCase
            "a head, or an embedding that is the head, is Q6_K; another embedding is of the mix"
            (fun () ->
                for mix, embedding in
                    [ "q4_k_m", "Q4_K"; "q2_k", "Q2_K"; "iq4_xs", "IQ4_XS"; "q4_0", "Q4_0" ] do
                    Expect.equal (formatOf mix (config 8 8 8 true) "token_embd.weight" 512L) "Q6_K" mix
                    Expect.equal (formatOf mix (config 8 8 8 false) "token_embd.weight" 512L) embedding mix
                    Expect.equal (formatOf mix (config 8 8 8 false) "output.weight" 512L) "Q6_K" mix

                Expect.equal
                    (formatOf "q8_0" (config 8 8 8 false) "output.weight" 512L)
                    "Q8_0"
                    "the best already")

        testCase "q4_k_m of 30 layers: the first and last eighth, and every third between, in Q6_K" (fun () ->
            let favoured = [ 0; 1; 2; 5; 8; 11; 14; 17; 20; 23; 26; 27; 28; 29 ]

            for layer in 0..29 do
                for part in [ "attn_v"; "ffn_down" ] do
                    let found = formatOf "q4_k_m" (config 30 9 3 true) $"blk.{layer}.{part}.weight" 1536L
                    let expected = if List.contains layer favoured then "Q6_K" else "Q4_K"
                    Expect.equal found expected $"{part} of layer {layer}")

        testCase "many heads over one of keys and values buy better values" (fun () ->
            let found mix layers heads =
                formatOf mix (config layers heads 8 false) "blk.40.attn_v.weight" 512L

            Expect.equal (found "q2_k" 64 32, found "q2_k" 64 16) ("Q4_K", "Q3_K") "q2_k"
            Expect.equal (found "iq4_xs" 64 32, found "iq4_xs" 64 16) ("Q5_K", "IQ4_XS") "iq4_xs"
            Expect.equal (found "q4_k_s" 80 64) "Q5_K" "a model of 80 layers")

        testCase "vectors are float32" (fun () ->
            for mix in GgufMix.all do
                Expect.equal
                    (GgufMix.format mix (config 8 8 8 true) "blk.0.attn_q.bias" [| 512L |])
                    GgufFormat.F32
                    mix.Name)
    ]
