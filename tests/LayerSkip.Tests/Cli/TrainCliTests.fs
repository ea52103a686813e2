module LayerSkip.Tests.TrainCliTests

open System
open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.TrainCliSupport

let private runs =
    testList "runs" [
        testCase "what was perhaps not meant is said" (fun () ->
            withData (fun folder ->
                let said arguments =
                    let outcome = cli arguments
                    Expect.equal outcome.Code 0 outcome.Error
                    outcome.Error

                let cut = said (command folder @ quick @ [ "--layout=each"; "--valid-share=0" ])
                Expect.stringContains cut "41 of 41 texts are longer than --sequence-length 8" "cut"
                // 19 of a text's 20 ids have one before them, 7 of which are in the sample.
                Expect.stringContains cut "63.2 % of what could be learned" "how much"
                let run name options =
                    (command folder
                     |> List.map (fun word -> if word.EndsWith "run" then word + name else word))
                    @ quick
                    @ options

                let dull = "learns nothing by this recipe"
                Expect.stringContains (said (run "1" [ "--exit-layer=1" ])) dull "the paper's e(l)"
                Expect.stringContains (said (run "2" [ "--exit-layer=2"; "--recipe=plain" ])) dull "none"
                let emphasis = said (run "3" [ "--exit-layer=1"; "--recipe=emphasis" ])
                Expect.isFalse (emphasis.Contains dull) "emphasis"))

        testCase "a seed that no float holds" (fun () ->
            withData (fun folder ->
                let run = Path.Combine(folder, "run")
                let options = quick @ [ "--seed=9007199254740993"; "--save-every=3"; "--dropout=0.5" ]
                Expect.equal (cli (command folder @ options)).Code 0 "the run"
                let whole = File.ReadAllBytes(Path.Combine(run, "model.safetensors"))
                Directory.Delete(Path.Combine(run, "checkpoint-6"), true)
                Expect.equal (cli [ "train"; "--resume"; run ]).Code 0 "again"
                Expect.equal
                    (File.ReadAllBytes(Path.Combine(run, "model.safetensors")))
                    whole
                    "the same bits"))

        testCase "a .gguf file's own tokenizer goes with the model" (fun () ->
            withFolder (fun folder ->
                let inside name = Path.Combine(folder, name)
                let shipped = Path.Combine(Support.root, "models", "stories-10m")
                let layers = "--layers=3"
                let made = cli [ "export"; "--model"; shipped; "--output"; inside "m.gguf"; layers ]
                Expect.equal made.Code 0 made.Error
                File.WriteAllText(
                    inside "text.txt",
                    "Once upon a time, there was a boy. He had a dog and a cat."
                )

                let options = [ "--steps=1"; "--batch-size=1"; "--sequence-length=8"; "--valid-share=0" ]

                let trained =
                    cli (
                        [
                            "train"
                            "--model"
                            inside "m.gguf"
                            "--data"
                            inside "text.txt"
                            "--output"
                            inside "run"
                        ]
                        @ options
                    )

                Expect.equal trained.Code 0 trained.Error

                let encode folder =
                    let tokenizer = Tokenizer.tryLoad folder |> Check.getOrRaise |> Option.get
                    Tokenizer.encode tokenizer "Once upon a time, there was", Tokenizer.eos tokenizer

                Expect.equal (encode (inside "run")) (encode shipped) "the same ids"))

        testCase
            "from scratch, BOS and EOS are the tokenizer's, and no folder's files come along uncalled"
            (fun () ->
                withFolder (fun folder ->
                    let inside name = Path.Combine(folder, name)
                    let words = [ for i in 0..199 -> $"The cat number {i} sat on mat {i % 9}." ]
                    File.WriteAllText(inside "text.txt", "\uFEFF" + String.concat " " words)

                    File.WriteAllLines(
                        inside "text.jsonl",
                        [ JsonSerializer.Serialize {| text = String.concat " " words |} ]
                    )

                    let tokenizer text output =
                        json [
                            "tokenizer"
                            "train"
                            "--text"
                            inside text
                            "--vocab-size=290"
                            "--special=<pad>"
                            "--special=<|im_start|>"
                            "--output"
                            inside output
                        ]
                        |> ignore

                    tokenizer "text.txt" "tokenizer"
                    tokenizer "text.jsonl" "same"

                    Expect.equal
                        (File.ReadAllText(Path.Combine(inside "same", "tokenizer.json")))
                        (File.ReadAllText(Path.Combine(inside "tokenizer", "tokenizer.json")))
                        "a tokenizer learns from the texts of a file, whatever its form"

                    let config = configJson.Replace("\"vocab_size\": 24", "\"vocab_size\": 290")
                    File.WriteAllText(
                        inside "config.json",
                        config.Replace("_token_id\": ", "_token_id\": 20")
                    )

                    let train output options =
                        let made =
                            shell
                                (inside "tokenizer")
                                $"layerskip train --steps=1 --batch-size=1 --sequence-length=8 --valid-share=0 --threads=1 --validate-every=0 --output {inside output} {options}"

                        Expect.equal made.Code 0 made.Error
                        use config =
                            JsonDocument.Parse(File.ReadAllText(Path.Combine(inside output, "config.json")))

                        [
                            for key in [ "bos_token_id"; "eos_token_id" ] ->
                                match config.RootElement.TryGetProperty key with
                                | true, id -> Some(id.ToString())
                                | _ -> None
                        ]

                    let text = inside "text.txt"
                    let given = train "a" $"--config ../config.json --tokenizer . --data {text}"
                    Expect.equal given [ Some "0"; Some "0" ] "the tokenizer's, not 201 and 202"

                    TokenFile.write (inside "data.tokens") [ Array.init 60 (fun i -> i % 24) ]
                    |> Check.getOrRaise
                    |> ignore

                    let own = train "b" "--config ../config.json --data ../data.tokens"
                    Expect.equal
                        own
                        [ Some "201"; Some "202" ]
                        "the configuration's own, without a tokenizer"
                    Expect.isEmpty
                        (Directory.GetFiles(inside "b", "tokenizer*"))
                        "of the current folder, nothing"

                    let sizes = "hidden=8,layers=2,heads=2,kv-heads=1,intermediate=8,vocab=24,context=32"
                    train "c" $"--shape {sizes} --data ../data.tokens" |> ignore
                    Expect.isEmpty (Directory.GetFiles(inside "c", "tokenizer*")) "nor with --shape"))

        testCase "--no-special spells what else is a special token" (fun () ->
            withFolder (fun folder ->
                let inside name = Path.Combine(folder, name)
                File.WriteAllText(inside "chat.txt", String.replicate 9 "<|im_start|>user hello\n")

                [
                    "tokenizer"
                    "train"
                    "--text"
                    inside "chat.txt"
                    "--vocab-size=270"
                    "--special=<s>"
                    "--special=<|im_start|>"
                    "--output"
                    inside "tokenizer"
                ]
                |> json
                |> ignore

                let specials output options =
                    [
                        "train"
                        "--shape=hidden=8,layers=2,heads=2,kv-heads=1,intermediate=8,context=32"
                        "--tokenizer"
                        inside "tokenizer"
                        "--data"
                        inside "chat.txt"
                        "--valid-share=0"
                        "--steps=1"
                        "--batch-size=1"
                        "--sequence-length=8"
                        "--output"
                        inside output
                    ]
                    @ options
                    |> json
                    |> ignore

                    use tokens =
                        TokenFile.openRead 270 (Path.Combine(inside output, "train.tokens"))
                        |> Check.getOrRaise

                    tokens.Read(0L, int tokens.Count) |> Array.filter ((=) 1) |> Array.length

                Expect.equal (specials "parsed" []) 9 "as generate reads them"
                Expect.equal (specials "spelled" [ "--no-special" ]) 0 "as characters"))

        testCase "a model of eight ids is probed" (fun () ->
            withData (fun folder ->
                json [
                    "train"
                    "--shape=hidden=8,layers=2,heads=2,kv-heads=1,intermediate=8,vocab=24,context=8"
                    "--data"
                    Path.Combine(folder, "data.tokens")
                    "--output"
                    Path.Combine(folder, "run")
                    "--steps=2"
                    "--batch-size=2"
                    "--exit-layer=1"
                ]
                |> fun made ->
                    Expect.equal (fields (made.GetProperty "acceptance") |> List.map fst) [ "1" ] "probed"))

        testCase "weights that are no numbers are not saved" (fun () ->
            withData (fun folder ->
                let options = [ "--learning-rate=1e38"; "--warmup=0"; "--save-every=1"; "--clip-norm=0" ]
                let outcome = cli (command folder @ quick @ options)
                Expect.equal outcome.Code 1 outcome.Error

                for checkpoint in Directory.GetDirectories(Path.Combine(folder, "run"), "checkpoint-*") do
                    use made = Checkpoint.load checkpoint None Device.Cpu |> Check.getOrRaise
                    Expect.equal made.Config.Layers 4 "a checkpoint that can be read"))

        testCase "--json is the contract's object" (fun () ->
            withData (fun folder ->
                let made = json (command folder @ quick @ [ "--exit-layer=2"; "--draft-length=3" ])

                made
                |> hasFields [
                    "output", S
                    "finish_reason", S
                    "step", N
                    "steps", N
                    "ranks", N
                    "tokens", N
                    "seconds", N
                    "tokens_per_second", N
                    "peak_memory_bytes", N
                    "loss", N
                    "validation", O
                    "acceptance", O
                    "checkpoint", S
                ]

                Expect.equal ((made.GetProperty "finish_reason").GetString()) "finished" "the end"
                Expect.equal ((made.GetProperty "tokens").GetInt32()) (6 * 2 * 8) "ids read"
                Expect.equal
                    (fields (made.GetProperty "validation") |> List.map fst)
                    [ "1"; "2"; "3"; "4" ]
                    "exits"
                Expect.equal
                    (fields (made.GetProperty "acceptance") |> List.map fst)
                    [ "2" ]
                    "the probed exit"
                let run = Path.Combine(folder, "run")
                let info = json [ "info"; "--model"; run ]
                Expect.stringContains (info.ToString()) "3" "it loads"
                use generation =
                    JsonDocument.Parse(File.ReadAllText(Path.Combine(run, "generation_config.json")))
                Expect.equal ((generation.RootElement.GetProperty "assistant_early_exit").GetInt32()) 2 "E"
                Expect.equal ((generation.RootElement.GetProperty "num_assistant_tokens").GetInt32()) 3 "d"))

        testCase "pairs in .jsonl fine-tune a model with a tokenizer that was trained for it" (fun () ->
            withFolder (fun folder ->
                let inside name = Path.Combine(folder, name)
                let stories = [ for i in 0..199 -> $"The cat number {i} sat on mat {i % 9}." ]
                File.WriteAllText(inside "text.txt", String.concat " " stories)

                File.WriteAllLines(
                    inside "pairs.jsonl",
                    [
                        for i in 0..29 -> $$"""{"prompt": "Cat {{i}}?", "response": " On mat {{i % 9}}."}"""
                    ]
                )

                let tokenizer = inside "tokenizer"

                json [
                    "tokenizer"
                    "train"
                    "--text"
                    inside "text.txt"
                    "--vocab-size=280"
                    "--output"
                    tokenizer
                ]
                |> ignore

                let made =
                    json [
                        "train"
                        "--shape=hidden=16,layers=3,heads=2,kv-heads=1,intermediate=24,context=64"
                        "--tokenizer"
                        tokenizer
                        "--data"
                        inside "pairs.jsonl"
                        "--recipe=fine-tune"
                        "--output"
                        inside "run"
                        "--steps=4"
                        "--batch-size=3"
                        "--save-every=1"
                    ]

                Expect.equal ((made.GetProperty "step").GetInt32()) 4 "steps"
                let text =
                    json [
                        "generate"
                        "--model"
                        inside "run"
                        "--prompt"
                        "Cat 3?"
                        "--max-new-tokens=5"
                    ]
                Expect.equal ((text.GetProperty "text").ValueKind) S "it speaks"

                // The run's own copy of the tokenizer may be gone, and its latest checkpoint.
                Directory.Delete(Path.Combine(inside "run", "tokenizer"), true)
                Directory.Delete(Path.Combine(inside "run", "checkpoint-4"), true)
                Expect.equal (cli [ "train"; "--resume"; inside "run" ]).Code 0 "it goes on"

                Expect.isTrue
                    (File.Exists(Path.Combine(inside "run", "checkpoint-4", "tokenizer.json")))
                    "with its tokenizer"))

        testCase
            "a loss that is no number: exit code 1, a line with step and samples, and the latest checkpoint"
            (fun () ->
                withData (fun folder ->
                    let outcome =
                        cli (
                            command folder
                            @ quick
                            @ [ "--learning-rate=1e30"; "--warmup=4"; "--save-every=1"; "--clip-norm=0" ]
                        )

                    Expect.equal outcome.Code 1 outcome.Error
                    let said = outcome.Error.Split('\n') |> Array.filter _.StartsWith("layerskip:")
                    Expect.equal said.Length 1 outcome.Error
                    Expect.stringContains said[0] "samples" "which"
                    Expect.stringContains said[0] "checkpoint-" "where to go on"))
    ]

[<Tests>]
let tests = testList "command line: train" [ runs ]
