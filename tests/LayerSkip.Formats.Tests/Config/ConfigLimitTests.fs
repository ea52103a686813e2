module LayerSkip.Tests.ConfigLimitTests

open System
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.GgufWriter

/// A config.json of a model of two layers with other fields, each raw JSON, first of two where a name is there twice.
let private json (fields: (string * string) list) =
    let basic = [
        "model_type", "\"llama\""
        "hidden_size", "16"
        "intermediate_size", "24"
        "num_hidden_layers", "2"
        "num_attention_heads", "2"
        "num_key_value_heads", "1"
        "vocab_size", "24"
        "max_position_embeddings", "96"
    ]

    fields @ basic
    |> List.distinctBy fst
    |> List.map (fun (name, value) -> $"\"{name}\":{value}")
    |> String.concat ","
    |> sprintf "{%s}"

let private read (fields: (string * string) list) =
    use document = JsonDocument.Parse(json fields)
    LlamaConfig.ofJson "config.json" document.RootElement

let private scaling (kind: string) (name: string) (value: string) =
    read [
        "rope_scaling", $$"""{"rope_type":"{{kind}}","factor":4.0,"{{name}}":{{value}}}"""
    ]

/// The least GGUF model with other numbers under some keys, and a table of rotary divisors where one is given.
let private openGguf (numbers: (string * int) list) (table: (uint64 list * byte[]) option) =
    let isOther (entry: byte[]) =
        numbers
        |> List.forall (fun (key, _) -> not (entry.AsSpan().StartsWith(ReadOnlySpan(text key))))

    let entries =
        List.map (fun (key, value) -> entryInt key value) numbers
        @ List.filter isOther (model "llama")

    let items =
        Option.toList table
        |> List.map (fun (dims, values) -> "rope_freqs.weight", dims, 0u, values)

    withBytes (gguf 3u entries (placed items)) (Gguf.openFile >> messages)

/// Sizes whose product has 32 bits or more, each of which `int` would hold.
let private tooManyRows = [
    65537, 65536, 65537
    536870913, 16, 1
    268435458, 16, 268435458
    4096, 65536, 1
]

[<Tests>]
let tests =
    testList "limits of a configuration" [
        testCase "heads whose rows are more than 32 bits count are a fault of config.json"
        <| fun () ->
            for heads, dim, kvHeads in tooManyRows do
                read [
                    "num_attention_heads", string heads
                    "head_dim", string dim
                    "num_key_value_heads", string kvHeads
                ]
                |> messages
                |> expectFault [ "config.json"; "num_attention_heads" ]

        testCase "and of a GGUF file's metadata, by its own keys"
        <| fun () ->
            for heads, dim, kvHeads in tooManyRows do
                let numbers = [
                    "llama.attention.head_count", heads
                    "llama.attention.head_count_kv", kvHeads
                    "llama.attention.key_length", dim
                    "llama.attention.value_length", dim
                    "llama.rope.dimension_count", dim
                ]

                openGguf numbers None |> expectFault [ "llama.attention.head_count" ]

        testCase "every size that no model has is refused before anything is made of that size"
        <| fun () ->
            for name in
                [
                    "hidden_size"
                    "intermediate_size"
                    "vocab_size"
                    "num_hidden_layers"
                    "num_attention_heads"
                    "num_key_value_heads"
                    "head_dim"
                ] do
                read [ name, "2147483647" ] |> messages |> expectFault [ name ]

        testCase "numbers that a model computes with are finite, and positive where they must be"
        <| fun () ->
            let all = [ "1e999"; "-1e999"; "-1.0"; "0.0"; "1e-300"; "1e300"; "\"NaN\"" ]

            for value in all do
                read [ "rms_norm_eps", value ] |> messages |> expectFault [ "rms_norm_eps" ]
                read [ "rope_theta", value ] |> messages |> expectFault [ "rope_theta" ]

                for kind in [ "linear"; "dynamic"; "llama3"; "yarn" ] do
                    scaling kind "factor" value |> messages |> expectFault [ "factor" ]

                for name in [ "low_freq_factor"; "high_freq_factor" ] do
                    scaling "llama3" name value |> messages |> expectFault [ name ]

                for name in [ "beta_fast"; "beta_slow"; "attention_factor" ] do
                    scaling "yarn" name value |> messages |> expectFault [ name ]

            for value in [ "1e999"; "-1e999"; "\"NaN\"" ] do
                for name in [ "mscale"; "mscale_all_dim" ] do
                    scaling "yarn" name value |> messages |> expectFault [ name ]

        testCase "an original context of none is a fault of every scaling that has one"
        <| fun () ->
            for kind in [ "dynamic"; "llama3"; "yarn" ] do
                for value in [ "0"; "-1" ] do
                    scaling kind "original_max_position_embeddings" value
                    |> messages
                    |> expectFault [ "original_max_position_embeddings" ]

        testProperty "whatever numbers are in it: a fault, or angles and scale that are finite"
        <| fun (a: float) (b: float) (c: float) (theta: float) (original: int) ->
            let number (value: float) =
                if Double.IsFinite value then
                    value.ToString "R"
                else
                    "1e999"

            [ "linear"; "dynamic"; "llama3"; "yarn" ]
            |> List.forall (fun kind ->
                let fields =
                    $$"""{"rope_type":"{{kind}}","factor":{{number a}},"low_freq_factor":{{number b}},
                          "high_freq_factor":{{number c}},"beta_fast":{{number b}},"beta_slow":{{number c}},
                          "mscale":{{number b}},"mscale_all_dim":{{number c}},
                          "original_max_position_embeddings":{{original}}}"""

                match read [ "rope_theta", number (10.0 * theta); "rope_scaling", fields ] with
                | Error _ -> true
                | Ok config ->
                    let struct (angles, scale) = RopeAngles.frequencies config
                    Double.IsFinite scale && Array.forall Double.IsFinite angles)

        testCase "a table of rotary divisors of another shape, or with a dimension of 0, is refused by name"
        <| fun () ->
            let all (value: float32) = Array.collect f32 (Array.create 16 value)

            for dims, values in
                [
                    [ 0UL ], [||]
                    [ 0UL; uint64 Int64.MaxValue ], [||]
                    [ 1UL <<< 63; 0UL ], [||]
                    [ 16UL; 1UL ], all 1f
                    [ 16UL ], all 0f
                    [ 16UL ], all -1f
                    [ 16UL ], all nanf
                    [ 16UL ], all infinityf
                ] do
                openGguf [] (Some(dims, values)) |> expectFault [ "rope_freqs.weight" ]

            let good = all 2f
            Array.blit (f32 nanf) 0 good 32 4
            openGguf [] (Some([ 16UL ], good)) |> expectFault [ "rope_freqs.weight" ]

        testCase "100,000 layers claimed by a small GGUF file are refused by their number"
        <| fun () ->
            openGguf [ "llama.block_count", 100_000 ] None
            |> expectFault [ "llama.block_count"; "100000" ]

        testCase "a beginning or an end of text outside the vocabulary is a fault of the GGUF file"
        <| fun () ->
            for name in [ "bos"; "eos"; "eot" ] do
                openGguf [ $"tokenizer.ggml.{name}_token_id", 10 ] None
                |> expectFault [ $"{name}_token_id"; "0 to 9" ]

        testCase "dynamic scaling is read, changes nothing within the context, and is written again"
        <| fun () ->
            let config = scaling "dynamic" "original_max_position_embeddings" "48" |> Check.getOrRaise
            Expect.equal config.RopeScaling (RopeScaling.Dynamic(4.0, Some 48)) "read"

            let plain = { config with RopeScaling = RopeScaling.Default }
            Expect.equal (RopeAngles.frequencies config) (RopeAngles.frequencies plain) "the angles"

            use again = JsonDocument.Parse(ReadOnlyMemory<byte>(ConfigJsonExport.bytes Dtype.F32 [] config))

            let again = LlamaConfig.ofJson "config.json" again.RootElement |> Check.getOrRaise
            Expect.equal again.RopeScaling config.RopeScaling "written and read"
    ]
