/// `layerskip train --recipe adapter` on the tiny model.
module LayerSkip.Tests.AdapterCliTests

open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.TrainCliSupport

let private adapter (folder: string) =
    command folder
    @ typed "--recipe=adapter --exit-layer=2 --steps=6 --batch-size=2 --sequence-length=8 --validate-every=3"

let private bytes (folder: string) (name: string) = File.ReadAllBytes(Path.Combine(folder, name))

[<Tests>]
let tests =
    testSequenced
    <| testList "adapter command" [
        testCase
            "learns from given texts: the model stays, the adapter is in the run's folder, and the object says how near it is"
            (fun () ->
                withData (fun folder ->
                    let model = Path.Combine(folder, "model")

                    leavesAlone model (fun () ->
                        let made = json (adapter folder)

                        made
                        |> hasFields [
                            "output", S
                            "finish_reason", S
                            "adapter", S
                            "exit_layer", N
                            "parameters", N
                            "step", N
                            "steps", N
                            "tokens", N
                            "seconds", N
                            "tokens_per_second", N
                            "peak_memory_bytes", N
                            "kl", N
                            "validation_exit", O
                            "validation", O
                            "checkpoint", S
                        ]

                        let kl name = ((made.GetProperty(name: string)).GetProperty "kl").GetDouble()
                        Expect.isLessThan
                            (kl "validation")
                            (kl "validation_exit")
                            "nearer than the exit alone")

                    use weights =
                        Weights.random 5L 0.8 Dtype.F32 Device.Cpu (Tiny.config 24 layers 4 2 false)
                    use read =
                        AdapterFile.load weights (Path.Combine(folder, "run", AdapterFile.name))
                        |> Check.getOrRaise
                    Expect.equal read.Form AdapterForm.Block "the default form"
                    Expect.equal read.Exit.Layers 2 "behind its exit"))

        testCase
            "goes on from the beginnings of texts by itself, and its own texts are data for another run"
            (fun () ->
                withData (fun folder ->
                    let own =
                        adapter folder
                        @ typed "--adapter=lowrank --rank=3 --self-tokens=200 --opening=4 --at-once=8"
                    Expect.equal (cli own).Code 0 "its own texts"
                    let self = Path.Combine(folder, "run", "self.tokens")
                    use written = TokenFile.openRead 24 self |> Check.getOrRaise
                    Expect.isGreaterThanOrEqual written.Count 200L "as many as were asked for"
                    Expect.equal (written.EndOf 0) 8L "as long as a sample"
                    // The texts of `withData` begin so.
                    Expect.equal (written.Read(0L, 4)) [| 0; 5; 10; 15 |] "from a beginning"

                    let again =
                        cli (
                            typed
                                $"train --recipe=adapter --adapter=norm --exit-layer=1 --model {folder}/model --data {self} --output {folder}/again --steps=2 --sequence-length=8"
                        )

                    Expect.equal again.Code 0 again.Error))

        testCase "a run that was extended goes on from its checkpoint, with its own model" (fun () ->
            withData (fun folder ->
                Expect.equal (cli (adapter folder)).Code 0 "a run"
                let before = bytes (Path.Combine(folder, "run")) AdapterFile.name
                let outcome = cli (typed $"train --resume {folder}/run --extend --steps=9")
                Expect.equal outcome.Code 0 outcome.Error
                Expect.notEqual
                    (bytes (Path.Combine(folder, "run")) AdapterFile.name)
                    before
                    "three steps on"
                let log = File.ReadAllLines(Path.Combine(folder, "run", "log.jsonl"))
                let last = JsonDocument.Parse(Array.last log).RootElement
                Expect.equal ((last.GetProperty "step").GetInt32()) 9 "the last line"))

        testCase
            "generate drafts with it, certify checks its drafts, and export writes it with the model or into a draft model"
            (fun () ->
                withData (fun folder ->
                    Expect.equal (cli (adapter folder)).Code 0 "a run"
                    let file = Path.Combine(folder, "run", AdapterFile.name)
                    let model = Path.Combine(folder, "model")
                    let using = typed $"--drafter adapter --adapter-file {file}"
                    let plain = generate model (ids @ count 12 @ [ "--strategy=autoregressive" ])
                    let own = generate model (ids @ count 12 @ using)
                    Expect.equal (tokenIds own) (tokenIds plain) "the same text"
                    let inFolder =
                        generate
                            model
                            (ids @ count 12 @ typed $"--drafter adapter --adapter-file {folder}/run")

                    Expect.equal (roundsOf inFolder) (roundsOf own) "by its folder, the same drafts"
                    let stats = own.GetProperty "stats"
                    Expect.isGreaterThan ((stats.GetProperty "num_draft_tokens").GetInt32()) 0 "drafts"
                    Expect.stringContains (stats.GetRawText()) "\"adapter\"" "their source"

                    let report =
                        json (
                            typed
                                $"certify --model {model} --adapter-file {file} --exit-layers=1 --draft-lengths=3 --max-new-tokens=8"
                        )

                    let checks (report: JsonElement) = [
                        for test in (report.GetProperty "tests").EnumerateArray() ->
                            (test.GetProperty "checks").GetInt32()
                    ]

                    let without =
                        json (
                            typed
                                $"certify --model {model} --exit-layers=1 --draft-lengths=3 --max-new-tokens=8"
                        )
                    Expect.equal ((report.GetProperty "violation").GetInt32()) 0 "certified"
                    Expect.isGreaterThan
                        (List.sum (checks report))
                        (List.sum (checks without))
                        "it is checked too"

                    Expect.equal
                        (cli (typed $"export --model {model} --adapter-file {file} --output {folder}/whole"))
                            .Code
                        0
                        "whole"
                    let found = generate $"{folder}/whole" (ids @ count 12 @ typed "--drafter adapter")
                    Expect.equal (tokenIds found) (tokenIds plain) "by its folder's own"
                    Expect.equal
                        (cli (
                            typed
                                $"export --model {model} --adapter-file {file} --layers 2 --output {folder}/draft"
                        ))
                            .Code
                        0
                        "a draft model"
                    let ofModel =
                        generate
                            model
                            (ids @ count 12 @ typed $"--drafter adapter --adapter-file {folder}/whole")

                    Expect.equal (roundsOf ofModel) (roundsOf own) "by a model's folder"
                    let draft = json (typed $"info --model {folder}/draft")
                    Expect.stringContains (draft.GetRawText()) "3" "two layers and a block"))

        testList "bad drafters" [
            for option, words in
                [
                    "--drafter adapter", "has no adapter"
                    "--drafter adapter --adapter-file nowhere.safetensors", "nowhere.safetensors: not found"
                    "--drafter adapter --adapter-file .", "adapter.safetensors: not found"
                    "--adapter-file nowhere.safetensors", "--adapter-file goes with --drafter adapter"
                    "--drafter wide", "drafter"
                    "--drafter lookup --exit-layer 1",
                    "--exit-layer is 1, it must be left out with drafter lookup"
                    "--drafter exit --strategy autoregressive", "exclude each other"
                    "--drafter adapter --strategy early-exit", "exclude each other"
                ] do
                testCase option (fun () ->
                    withModel (fun folder ->
                        refuses ([ "generate"; "--model"; folder ] @ ids @ typed option) words))

            testCase "a file that is no adapter" (fun () ->
                withModel (fun folder ->
                    let file = Path.Combine(folder, "model.safetensors")
                    refuses
                        ([ "generate"; "--model"; folder ]
                         @ ids
                         @ typed $"--drafter adapter --adapter-file {file}")
                        "is no adapter"
                    refuses
                        (typed $"export --model {folder} --adapter-file {file} --output {folder}/out")
                        "is no adapter"
                    refuses (typed $"certify --model {folder} --adapter-file {file}") "is no adapter"))
        ]

        testList "bad input" [
            for option, words in
                [
                    "--exit-layer=4", "--exit-layer is 4"
                    "--exit-layer=0", "--exit-layer is 0"
                    "--adapter=wide", "norm, lowrank or block"
                    "--adapter=lowrank --rank=17", "rank is 17"
                    "--rank=3", "--rank goes with --adapter lowrank"
                    "--source-layer=5", "source-layer is 5"
                    "--adapter=norm --source-layer=1", "--source-layer goes with --adapter block"
                    "--dropout=0.1", "--dropout is for recipes that train a model"
                    "--exits=all", "--exits is for recipes that train a model"
                    "--self-tokens=0", "self-tokens is 0"
                    "--temperature=0.5", "give --self-tokens"
                    "--self-tokens=9 --temperature=-1", "temperature is -1"
                    "--self-tokens=9 --opening=0", "opening is 0"
                    "--self-tokens=9 --at-once=0", "at-once is 0"
                    "--data=nowhere.txt", "nowhere.txt: not found"
                    "--steps=0", "--steps is 0"
                    "--dtype=f16", "training in f16 is not supported"
                ] do
                testCase option (fun () ->
                    withData (fun folder ->
                        // The last of two is no error of its own here.
                        let given =
                            adapter folder
                            |> List.filter (fun word ->
                                not (word.Contains '=' && option.StartsWith(word.Split('=')[0] + "=")))
                        refuses (given @ typed option) words
                        Expect.isFalse (Directory.Exists(Path.Combine(folder, "run"))) "nothing is written"))

            testCase "options of adapters with another recipe" (fun () ->
                withData (fun folder ->
                    refuses (command folder @ [ "--adapter=norm" ]) "go with --recipe adapter"))

            testCase "a checkpoint that is not as it was written" (fun () ->
                withData (fun folder ->
                    Expect.equal (cli (adapter folder)).Code 0 "a run"
                    let file = Path.Combine(folder, "run", "checkpoint-6", AdapterFile.name)
                    let whole = File.ReadAllBytes file
                    File.WriteAllBytes(file, whole[.. whole.Length - 3])
                    refuses (typed $"train --resume {folder}/run") "its checksum is another"))
        ]
    ]
