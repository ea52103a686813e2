/// Models that cannot be used: what the command says of them.
module LayerSkip.Tests.CliBadModelTests

open System
open System.IO
open System.Text.RegularExpressions
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport

/// How often a text stands in another.
let private occurrences (part: string) (text: string) = text.Split(part).Length - 1

let private line folder options = [ "generate"; "--model"; folder ] @ options

/// A tiny model with something broken.
let private badModel (name: string) (spoil: string -> unit) (words: string list) =
    testCase name (fun () ->
        withModel (fun folder ->
            spoil folder
            line folder ids |> refuses words))

let private badTensors name change words = badModel name (fun folder -> writeModel folder change) words

let private queries = "model.layers.1.self_attn.q_proj.weight"

let private replace (name: string) (make: Tensor -> Tensor) (tensors: (string * Tensor) list) =
    tensors |> List.map (fun (n, tensor) -> n, (if n = name then make tensor else tensor))

/// In a header, what stands of one tensor.
let private editEntry (pattern: string) (replacement: string) (header: string, data: byte[]) =
    let changed =
        Regex.Replace(header, $"(\"{Regex.Escape queries}\":\\{{[^}}]*){pattern}", "$1" + replacement)
    Expect.notEqual changed header "the header changed"
    changed, data

let private truncated (path: string) =
    let bytes = File.ReadAllBytes path
    File.WriteAllBytes(path, bytes[.. bytes.Length / 2])

let private weightsIn folder = Path.Combine(folder, "model.safetensors")

[<Tests>]
let models =
    testList "command line: bad models" [
        badTensors "a missing tensor" (List.filter (fst >> (<>) queries)) [ queries; "missing" ]
        badTensors "every missing tensor, to a point" (List.filter (fst >> _.Contains("self_attn"))) [
            "is missing"
            "and "
            " more"
        ]
        testCase "missing tensors: the folder once, and what to do" (fun () ->
            withModel (fun folder ->
                writeModel folder (List.filter (fst >> _.Contains("self_attn")))
                let outcome = cli (line folder ids)
                Expect.equal (outcome.Code, occurrences folder outcome.Error) (2, 1) outcome.Error
                Expect.isLessThan (outcome.Error.Length - folder.Length) 320 outcome.Error
                Expect.stringContains outcome.Error "the configuration and the weights do not match" "why"))
        testCase "several faults of a file: its path once" (fun () ->
            withModel (fun folder ->
                editConfig "\"vocab_size\": 24, \"hidden_size\": 16" "\"vocab_size\": 0" folder
                let outcome = cli (line folder ids)
                Expect.equal (outcome.Code, occurrences folder outcome.Error) (2, 1) outcome.Error
                Expect.stringContains outcome.Error "\"vocab_size\" is 0" "one"
                Expect.stringContains outcome.Error "\"hidden_size\" is missing" "another"))
        badTensors "a wrong shape" (replace queries (fun tensor -> tensor.narrow (0L, 0L, 8L))) [
            queries
            "[8, 16]"
            "[16, 16]"
        ]
        badTensors
            "an unknown tensor"
            (fun tensors -> ("model.layers.0.extra.weight", snd tensors.Head) :: tensors)
            [ "model.layers.0.extra.weight"; "not part of this model" ]
        badTensors "NaN among the weights" (replace queries (fun t -> t * nan)) [ queries; "NaN" ]
        badModel "a truncated safetensors file" (weightsIn >> truncated) [ "model.safetensors" ]
        badModel "an empty safetensors file" (fun folder -> File.WriteAllBytes(weightsIn folder, [||])) [
            "model.safetensors"
        ]
        badModel
            "a header that is no JSON"
            (editWeights (fun (header, data) -> "?" + header.Substring 1, data))
            [ "model.safetensors"; "header" ]
        testCase "a header that is no JSON: the parser's own words are left out" (fun () ->
            withModel (fun folder ->
                for header in [ "?"; "" ] do
                    editWeights (fun (_, data) -> header, data) folder
                    let outcome = cli (line folder ids)
                    Expect.equal outcome.Code 2 outcome.Error

                    for word in [ "LineNumber"; "isFinalBlock" ] do
                        Expect.isFalse (outcome.Error.Contains word) outcome.Error))
        badModel
            "a header longer than its file"
            (fun folder ->
                let bytes = File.ReadAllBytes(weightsIn folder)
                BitConverter.GetBytes(1L <<< 40).CopyTo(bytes, 0)
                File.WriteAllBytes(weightsIn folder, bytes))
            [ "model.safetensors"; "header" ]
        badModel
            "overlapping offsets"
            (editWeights (editEntry "\"data_offsets\":\\[\\d+,\\d+\\]" "\"data_offsets\":[0,2048]"))
            [ "model.safetensors"; "overlap" ]
        badModel "an integer tensor" (editWeights (editEntry "\"dtype\":\"F64\"" "\"dtype\":\"I64\"")) [
            queries
            "I64"
        ]
        badModel "no weights" (weightsIn >> File.Delete) [ "model.safetensors"; "not found" ]
        badModel "no config.json" (fun f -> File.Delete(Path.Combine(f, "config.json"))) [
            "config.json"
            "not found"
        ]
        badModel "a config.json that is no JSON" (editConfig "{" "{{") [
            "config.json"
            "not valid JSON: fault at line 1, byte 2; repair it"
        ]
        badModel "an empty config.json" (fun f -> File.WriteAllText(Path.Combine(f, "config.json"), "")) [
            "config.json"
            "the file is empty"
        ]
        for key in [ "eos"; "bos" ] do
            let id = if key = "eos" then 2 else 1
            badModel
                $"{key} outside the vocabulary"
                (editConfig $"\"{key}_token_id\": {id}" $"\"{key}_token_id\": 24")
                [ "config.json"; $"\"{key}_token_id\" names 24"; "0 to 23" ]
            badModel
                $"{key} outside the vocabulary in generation_config.json"
                (fun f ->
                    File.WriteAllText(
                        Path.Combine(f, "generation_config.json"),
                        $"{{\"{key}_token_id\": [1, -1]}}"
                    ))
                [ "generation_config.json"; $"\"{key}_token_id\" names -1"; "0 to 23" ]
        for number in [ "2000000000"; "99999999999" ] do
            badModel
                $"a model of {number} layers"
                (editConfig "\"num_hidden_layers\": 4" $"\"num_hidden_layers\": {number}")
                [
                    "config.json"
                    $"\"num_hidden_layers\" is {number}, which is too big"
                    "at most"
                ]
        badModel "a size that is no number" (editConfig "\"hidden_size\": 16" "\"hidden_size\": \"big\"") [
            "hidden_size"
            "whole number"
        ]
        badModel "an unknown model_type" (editConfig "\"llama\"" "\"gpt2\"") [
            "gpt2"
            "llama, mistral, qwen2, qwen3 and phi3"
        ]
        badModel
            "an unsupported rope type"
            (editConfig
                "\"rope_theta\""
                "\"rope_scaling\": {\"rope_type\": \"longrope\", \"factor\": 2.0}, \"rope_theta\"")
            [ "longrope"; "yarn" ]
        badModel
            "a broken generation_config.json"
            (fun f -> File.WriteAllText(Path.Combine(f, "generation_config.json"), "[1]"))
            [ "generation_config.json" ]
        badModel
            "a recommended exit that the model lacks"
            (fun f ->
                File.WriteAllText(Path.Combine(f, "generation_config.json"), "{\"assistant_early_exit\": 4}"))
            [ "assistant_early_exit"; "1 to 3" ]
        badModel
            "a broken tokenizer.json"
            (fun f -> File.WriteAllText(Path.Combine(f, "tokenizer.json"), "{"))
            [ "tokenizer.json" ]

        let gguf name (bytes: byte[]) words =
            testCase name (fun () ->
                withFolder (fun folder ->
                    let path = Path.Combine(folder, "model.gguf")
                    File.WriteAllBytes(path, bytes)
                    line path ids |> refuses ("model.gguf" :: words)))

        let sound = GgufWriter.gguf 3u (GgufWriter.model "llama") []
        gguf "a GGUF file with another magic" (Array.append "GGML"B sound[4..]) [ "GGUF" ]
        gguf "a truncated GGUF file" sound[.. sound.Length / 2] []
        gguf "an empty GGUF file" [||] []
        gguf "a GGUF file of version 1" (GgufWriter.gguf 1u (GgufWriter.model "llama") []) [ "version" ]

        let blocks (kind: uint32) (columns: int) (bytes: int) =
            GgufWriter.placed [ "token_embd.weight", [ uint64 columns; 1UL ], kind, Array.zeroCreate bytes ]
            |> GgufWriter.gguf 3u (GgufWriter.model "llama")

        gguf "blocks of a type that is not read" (blocks 16u 256 66) [ "token_embd.weight"; "IQ2_XXS" ]
        gguf "blocks of a type that nobody knows" (blocks 99u 256 66) [ "token_embd.weight"; "ggml type 99" ]
        gguf "rows that cut a block" (blocks 12u 128 144) [ "token_embd.weight"; "Q4_K"; "multiple of 256" ]
        gguf "a truncated block" (blocks 14u 256 209) [ "token_embd.weight"; "truncated" ]

        testCase "a missing part of a model" (fun () ->
            withFolder (fun folder ->
                let path = Path.Combine(folder, "m-00001-of-00002.gguf")
                let entries = GgufWriter.entryInt "split.count" 2 :: GgufWriter.model "llama"
                File.WriteAllBytes(path, GgufWriter.gguf 3u entries [])
                line path ids |> refuses [ "m-00002-of-00002.gguf"; "not found"; "2 files" ]

                [ "info"; "--model"; path; "--output"; path.Replace("00001-", "00002-") ]
                |> refuses [ "--output is"; "which this command reads" ]))

        testCase "a path that is not there" (fun () ->
            line "/nowhere/model" ids |> refuses [ "/nowhere/model"; "not found"; ".gguf" ])
        testCase "a file that is no model" (fun () ->
            withBytes [| 1uy |] (fun path -> line path ids |> refuses [ path; ".gguf" ]))
    ]
