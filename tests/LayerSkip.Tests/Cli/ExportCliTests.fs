module LayerSkip.Tests.ExportCliTests

open System.IO
open Expecto
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport

let private export model options = [ "export"; "--model"; model ] @ options

/// Bad input, and nothing written.
let private refuses (folder: string) (options: string list) (words: string list) =
    leavesAlone folder (fun () -> export folder options |> refuses words)

[<Tests>]
let tests =
    testList "export: command line" [
        testCase "--json writes the contract's object; the written model decodes as the source" (fun () ->
            withModel (fun model ->
                withFolder (fun folder ->
                    let expected = tokenIds (generate model (ids @ count 12 @ [ "--dtype"; "f32" ]))

                    for format, name, tensors in [ "hf", "made", 39; "gguf", "made.gguf", 39 ] do
                        let path = Path.Combine(folder, name)
                        // The format follows from the name.
                        let made = json (export model [ "--output"; path; "--dtype"; "f32" ])

                        let kinds = [
                            "model", S
                            "format", S
                            "dtype", S
                            "layers", N
                            "tensors", N
                            "formats", O
                            "bytes", N
                            "output", S
                        ]
                        Expect.equal (fields made) kinds "fields"
                        let text (field: string) = made.GetProperty(field).GetString()
                        let number (field: string) = made.GetProperty(field).GetInt32()
                        Expect.equal (text "model", text "output") (model, path) "paths"
                        Expect.equal (text "format", text "dtype") (format, "f32") "format"
                        Expect.equal (number "layers", number "tensors") (4, tensors) "counts"
                        Expect.equal (tokenIds (generate path (ids @ count 12))) expected "the same text")))

        testCase "the first E layers write what early exit writes" (fun () ->
            withModel (fun model ->
                withFolder (fun folder ->
                    let early = [ "--strategy"; "early-exit"; "--exit-layer"; "2"; "--dtype"; "f32" ]
                    let expected = tokenIds (generate model (ids @ count 12 @ early))

                    for format in [ "hf"; "gguf" ] do
                        let path = Path.Combine(folder, $"{format}.gguf")
                        let options = [
                            "--output"
                            path
                            "--format"
                            format
                            "--layers"
                            "2"
                            "--dtype"
                            "f32"
                        ]
                        let outcome = cli (export model options)
                        Expect.equal outcome.Code 0 outcome.Error
                        Expect.stringContains
                            outcome.Out
                            $"2 layers of {model} as {format} in f32"
                            "a line"
                        Expect.equal (outcome.Out.Split('\n').Length) 2 "one"
                        Expect.equal
                            (outcome.Error.Contains "no tokenizer")
                            (format = "gguf")
                            outcome.Error
                        Expect.equal (tokenIds (generate path (ids @ count 12))) expected "the same text")))

        testCase "auto is the dtype that the model is loaded in" (fun () ->
            withModel (fun model ->
                withFolder (fun folder ->
                    let made = json (export model [ "--output"; Path.Combine(folder, "made") ])
                    Expect.equal (made.GetProperty("dtype").GetString()) "f64" "the file's"

                    let gguf = [ "--output"; Path.Combine(folder, "made.gguf") ]
                    let outcome = cli (export model gguf)
                    Expect.equal outcome.Code 2 outcome.Error
                    Expect.stringContains outcome.Error "--dtype f32" "what to do")))

        testCase
            "--dtype names quantised formats: --json counts them, info reads them, the model runs"
            (fun () ->
                withModel (fun model ->
                    withFolder (fun folder ->
                        let path = Path.Combine(folder, "made.gguf")
                        let made = json (export model [ "--output"; path; "--dtype"; "q4_k_m" ])
                        Expect.equal (made.GetProperty("dtype").GetString()) "q4_k_m" "as given"

                        let counts (element: System.Text.Json.JsonElement) =
                            Map [
                                for format in element.GetProperty("formats").EnumerateObject() ->
                                    format.Name, format.Value.GetInt32()
                            ]

                        let written = counts made
                        Expect.equal
                            (Seq.sum written.Values)
                            (made.GetProperty("tensors").GetInt32())
                            "all"
                        Expect.isTrue (written.ContainsKey "F32") "norms"
                        let info = json [ "info"; "--model"; path ]
                        Expect.equal (counts (info.GetProperty "model")) written "the file's"
                        let table = cli [ "info"; "--model"; path ]
                        Expect.stringContains table.Out $"""{written["F32"]} F32""" "a line"
                        Expect.equal (tokenIds (generate path (ids @ count 12))).Length 12 "tokens")))

        testCase "bad input" (fun () ->
            withModel (fun model ->
                let inside name = Path.Combine(model, name)
                let output = [ "--output"; inside "made" ]
                refuses model [] [ "--output" ]
                refuses model (output @ [ "--format"; "onnx" ]) [ "onnx"; "layerskip export --help" ]
                refuses model (output @ [ "--dtype"; "q4" ]) [ "q4" ]
                refuses model (output @ [ "--dtype"; "q4" ]) [ "must be auto, f64"; "q4_0" ]
                refuses model (output @ [ "--dtype"; "q4_0" ]) [
                    "Hugging Face folder in q4_0"
                    "--format gguf"
                ]
                refuses model (output @ [ "--format"; "gguf"; "--dtype"; "q4_0"; "--layers"; "9" ]) [
                    "1 to 4"
                ]
                let other = cli [ "info"; "--model"; model; "--dtype"; "q4_0" ]
                Expect.equal other.Code 2 other.Error
                Expect.stringContains other.Error "--dtype q4_0 is for export" "no dtype to load in"
                refuses model (output @ [ "--dtype"; "f64"; "--format"; "gguf" ]) [
                    "f64"
                    "f32, f16 or bf16"
                ]
                refuses model (output @ [ "--layers"; "0" ]) [ "layers is 0"; "1 to 4" ]
                refuses model (output @ [ "--layers"; "5" ]) [ "layers is 5"; "1 to 4" ]
                refuses model [ "--output"; model ] [ model; "not empty"; "name another with --output" ]
                refuses model [ "--output"; inside "config.json" ] [ "config.json"; "a file already" ]
                refuses model [
                    "--output"
                    inside "model.safetensors"
                    "--format"
                    "gguf"
                    "--dtype"
                    "f32"
                ] [ "there already" ]
                refuses model [ "--output"; inside "none/made" ] [ "its folder is not there" ]
                refuses model [ "--output"; "/proc/made" ] [ "cannot be written" ]
                let outcome = cli [ "export"; "--model"; inside "none"; "--output"; inside "made" ]
                Expect.equal outcome.Code 2 outcome.Error
                Expect.stringContains outcome.Error "not found" "a missing model"))
    ]
