module LayerSkip.Tests.TrainCliTests

open System
open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.TrainCliSupport

[<Tests>]
let tests =
    testList "command line: train" [
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

        testCase "a model of eight ids is probed" (fun () ->
            withData (fun folder ->
                typed
                    $"train --shape=hidden=8,layers=2,heads=2,kv-heads=1,intermediate=8,vocab=24,context=8
                      --data {folder}/data.tokens --output {folder}/run --steps=2 --batch-size=2 --exit-layer=1"
                |> json
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
