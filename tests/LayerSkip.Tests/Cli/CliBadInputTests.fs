module LayerSkip.Tests.CliBadInputTests

open System
open System.IO
open System.Text.RegularExpressions
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport

/// Exit code 2, nothing on standard output, and one line on standard error that holds these words.
let private refuses (words: string list) (arguments: string list) =
    let outcome = cli arguments
    Expect.equal outcome.Code 2 outcome.Error
    Expect.equal outcome.Out "" "nothing on standard output"
    Expect.stringStarts outcome.Error "layerskip: " "it says who speaks"
    Expect.stringEnds outcome.Error "\n" "a whole line"
    Expect.equal (outcome.Error.Split('\n').Length) 2 outcome.Error

    // A line that can be read: paths and tensor names are long, so no word count.
    Expect.isLessThan outcome.Error.Length 400 outcome.Error

    for word in words do
        Expect.stringContains outcome.Error word "helpful words"

/// How often a text stands in another.
let private occurrences (part: string) (text: string) = text.Split(part).Length - 1

let private line folder options = [ "generate"; "--model"; folder ] @ options

/// A sound tiny model, and options that it cannot serve.
let private badOption (name: string) (options: string list) (words: string list) =
    testCase name (fun () -> withModel (fun folder -> line folder options |> refuses words))

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

        testCase "a path that is not there" (fun () ->
            line "/nowhere/model" ids |> refuses [ "/nowhere/model"; "not found"; ".gguf" ])
        testCase "a file that is no model" (fun () ->
            withBytes [| 1uy |] (fun path -> line path ids |> refuses [ path; ".gguf" ]))
    ]

[<Tests>]
let options =
    testList "command line: bad options" [
        badOption "a prompt longer than the context" [
            "--prompt-ids"
            String.Join(',', Seq.replicate 96 "3")
        ] [ "96 tokens"; "context of 96"; "95" ]
        badOption "an id outside the vocabulary" [ "--prompt-ids"; "3,24" ] [ "24"; "0 to 23" ]
        badOption "a negative id" [ "--prompt-ids=-1" ] [ "-1"; "0 to 23" ]
        badOption "ids that are no numbers" [ "--prompt-ids"; "1,x" ] [ "prompt-ids"; "\"x\""; "1,2,3" ]
        badOption "ids with nothing between commas" [ "--prompt-ids"; "1,,2" ] [ "prompt-ids" ]
        badOption "no ids and no tokenizer" [ "--prompt-ids"; "" ] [ "prompt is empty" ]
        badOption "text without a tokenizer" [ "--prompt"; "Once" ] [ "tokenizer"; "--prompt-ids" ]
        badOption "an empty text without a tokenizer" [ "--prompt"; "" ] [ "tokenizer" ]
        badOption "no prompt" [] [ "no prompt"; "--prompt-file" ]
        badOption "two prompts" (ids @ [ "--prompt"; "x" ]) [ "--prompt"; "--prompt-ids"; "exclude" ]
        badOption "a prompt file that is not there" [ "--prompt-file"; "/nowhere/p.txt" ] [
            "/nowhere/p.txt"
            "not found"
        ]
        badOption "a folder as prompt file" [ "--prompt-file"; "/" ] [ "folder" ]

        for options, words in
            [
                [ "--exit-layer"; "0" ], [ "--exit-layer is 0"; "1 to 3" ]
                [ "--exit-layer"; "4" ], [ "--exit-layer is 4"; "4 layers" ]
                [ "--exit-layer"; "2"; "--strategy"; "autoregressive" ],
                [ "--exit-layer and --strategy autoregressive exclude" ]
                [ "--draft-length"; "2"; "--strategy"; "autoregressive" ],
                [ "--draft-length and --strategy autoregressive exclude" ]
                [ "--draft-length"; "2"; "--strategy"; "early-exit" ],
                [ "--draft-length and --strategy early-exit exclude" ]
                [ "--exit-layer"; "-1"; "--strategy"; "early-exit" ], [ "--exit-layer is -1" ]
                [ "--exit-layer"; "two" ], [ "--exit-layer is \"two\", it must be a whole number" ]
                [ "--exit-layer=1e3" ], [ "--exit-layer is \"1e3\", it must be a whole number" ]
                [ "--max-new-tokens"; "1,000" ], [ "--max-new-tokens is \"1,000\"" ]
                [ "--draft-length"; "0" ], [ "--draft-length is 0"; "1 or more" ]
                [ "--draft-length"; "-1" ], [ "draft-length is -1" ]
                [ "--temperature"; "-1" ], [ "--temperature is -1" ]
                [ "--temperature"; "nan" ], [ "--temperature is \"nan\""; "0 (greedy) or more" ]
                [ "--temperature"; "inf" ], [ "--temperature is \"inf\""; "0 (greedy) or more" ]
                [ "--temperature"; "1e999" ], [ "--temperature is \"1e999\""; "0 (greedy) or more" ]
                [ "--top-p"; "Infinity" ], [ "--top-p is \"Infinity\""; "above 0 and at most 1" ]
                [ "--temperature"; "0,5" ], [ "temperature"; "0.5" ]
                [ "--top-p"; "1.5" ], [ "top-p is 1.5"; "at most 1" ]
                [ "--top-p"; "0" ], [ "top-p is 0"; "above 0" ]
                [ "--top-k"; "-1" ], [ "top-k is -1" ]
                [ "--temperature"; "-1"; "--top-k"; "-2" ], [ "temperature is -1"; "top-k is -2" ]
                [ "--max-new-tokens"; "0" ], [ "max-new-tokens is 0"; "1 or more" ]
                [ "--max-new-tokens"; "99999999999" ],
                [
                    "--max-new-tokens is 99999999999, which is too big; it must be 1 to 2147483647"
                ]
                [ "--max-new-tokens=99999999999" ], [ "--max-new-tokens is 99999999999, which is too big" ]
                [ "--threads"; "99999999999" ],
                [ "--threads is 99999999999, which is too big; it must be 1 to 1024" ]
                [ "--seed"; "-99999999999999999999" ],
                [ "--seed is -99999999999999999999, which is too small" ]
                [ "--threads"; "0" ], [ "threads is 0"; "1 to 1024" ]
                [ "--seed"; "x" ], [ "--seed" ]
                [ "--stop-ids"; "24" ], [ "24"; "0 to 23" ]
                [ "--stop-ids"; "a" ], [ "stop-ids" ]
                [ "--stop"; "x" ], [ "stop string"; "--stop-ids" ]
                [ "--stop"; "" ], [ "stop is empty" ]
                [ "--dtype"; "f8" ], [ "--dtype"; "f16"; "'f8'" ]
                [ "--device"; "tpu" ], [ "--device"; "cpu|cuda"; "'tpu'" ]
                [ "--strategy"; "fast" ], [ "--strategy"; "self-speculative"; "'fast'" ]
                [ "--output"; "/nowhere/x.txt" ], [ "/nowhere"; "cannot be written" ]
                [ "--output"; "/" ], [ "cannot be written"; "folder" ]
                [ "--output"; "" ], [ "--output is empty" ]
                [ "--nope" ], [ "--nope"; "layerskip generate --help" ]
                [ "--seed"; "1"; "--seed"; "2" ], [ "--seed"; "more than once" ]
                [ "extra" ], [ "extra"; "--help" ]
            ] do
            badOption (String.concat " " options) (ids @ options) words

        testCase "--device cuda where libtorch is for CPUs" (fun () ->
            Backend.ensure ()

            if torch.cuda.is_available () then
                skiptest "there is a GPU"

            withModel (fun folder -> line folder (ids @ [ "--device"; "cuda" ]) |> refuses [ "cuda"; "cpu" ]))

        testCase "an empty --model" (fun () -> line "" ids |> refuses [ "--model is empty" ])
        testCase "an unknown sub-command" (fun () ->
            [ "dream" ] |> refuses [ "\"dream\""; "generate"; "info"; "certify" ])
        testCase "no sub-command" (fun () -> [] |> refuses [ "generate"; "info"; "certify"; "--help" ])
        testCase "options without a sub-command" (fun () -> [ "--json" ] |> refuses [ "sub-command" ])

        let certify name options words =
            testCase name (fun () ->
                withModel (fun folder -> [ "certify"; "--model"; folder ] @ options |> refuses words))

        certify "certify: exits that are not there" [ "--exit-layers"; "1,4,7" ] [
            "--exit-layers is 4"
            "--exit-layers is 7"
        ]
        certify "certify: a draft length of 0" [ "--draft-lengths"; "0" ] [ "--draft-lengths is 0" ]
        certify "certify: a prompts file that is not there" [ "--prompts"; "/nowhere/p" ] [ "/nowhere/p" ]
        testCase "certify: prompts that are no ids" (fun () ->
            withModel (fun folder ->
                let prompts = Path.Combine(folder, "prompts.txt")
                File.WriteAllText(prompts, "1,2\nOnce\n")

                [ "certify"; "--model"; folder; "--prompts"; prompts ]
                |> refuses [ prompts; "line 2 holds \"Once\"" ]

                File.WriteAllText(prompts, "1\r\n\r\n2,99,3\n")

                [ "certify"; "--model"; folder; "--prompts"; prompts ]
                |> refuses [ prompts; "line 3: token id 99"; "0 to 23" ]

                File.WriteAllText(prompts, "1,-2\n" + String.Join(',', Seq.replicate 96 "3") + "\n")

                [ "certify"; "--model"; folder; "--prompts"; prompts ]
                |> refuses [
                    $"{prompts}: line 1: token id -2 is outside"
                    "; line 2: the prompt has 96 tokens"
                    "95 or fewer"
                ]))
        testCase "certify: more lines than are read" (fun () ->
            withModel (fun folder ->
                let prompts = Path.Combine(folder, "prompts.txt")
                File.WriteAllText(prompts, String.replicate 100_001 "1\n")

                [ "certify"; "--model"; folder; "--prompts"; prompts ]
                |> refuses [ prompts; "has more than 100,000 lines" ]))
        testCase "a prompt that has no end" (fun () ->
            withModel (fun folder ->
                for command in [ [ "generate"; "--prompt-file" ]; [ "certify"; "--prompts" ] ] do
                    command @ [ "/dev/zero"; "--model"; folder ]
                    |> refuses [ "/dev/zero: is a pipe, a socket or a device" ]))
        testCase "an output in place of what is read" (fun () ->
            withModel (fun folder ->
                let inside name = System.IO.Path.Combine(folder, name)
                System.IO.File.WriteAllText(inside "prompt.txt", "3,4")
                let config = System.IO.File.ReadAllText(inside "config.json")
                let link = inside "link"
                System.IO.File.CreateSymbolicLink(link, inside "model.safetensors") |> ignore
                let refused = [ "--output is"; "which this command reads" ]

                for output in [ inside "config.json"; link; folder ] do
                    [ "generate"; "--model"; folder; "--output"; output ] @ ids |> refuses refused
                    [ "info"; "--model"; folder; "--output"; output ] |> refuses refused
                    [ "certify"; "--model"; folder; "--output"; output ] |> refuses refused
                    [ "bench"; "--model"; folder; "--output"; output ] |> refuses refused

                [
                    "generate"
                    "--model"
                    folder
                    "--prompt-file"
                    inside "prompt.txt"
                    "--output"
                    inside "prompt.txt"
                ]
                |> refuses refused
                Expect.equal (System.IO.File.ReadAllText(inside "config.json")) config "nothing was written"))
        testCase "memory that libtorch cannot have is told as such" (fun () ->
            Backend.ensure ()

            try
                TorchSharp.torch.empty ([| 1L <<< 45 |]) |> ignore
                failtest "it could be had"
            with e when Memory.isShort e ->
                ())
        badOption "no prompt file" [ "--prompt-file"; "" ] [ "--prompt-file is empty" ]
        testCase "info: a path that is not there" (fun () ->
            [ "info"; "--model"; "/nowhere" ] |> refuses [ "/nowhere"; "not found" ])
    ]
