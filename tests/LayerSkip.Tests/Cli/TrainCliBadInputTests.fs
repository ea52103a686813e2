module LayerSkip.Tests.TrainCliBadInputTests

open System
open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.TrainCliSupport

let private badInput =
    testList "bad input" [
        for option, words in
            [
                "--steps=0", "--steps is 0"
                "--batch-size=0", "--batch-size is 0"
                "--accumulate=0", "--accumulate is 0"
                "--sequence-length=1", "--sequence-length is 1"
                "--sequence-length=97", "2 to 96"
                "--learning-rate=0", "--learning-rate is 0"
                "--learning-rate=x", "--learning-rate is \"x\""
                "--warmup=-1", "--warmup is -1"
                "--rate-floor=2", "--rate-floor is 2"
                "--weight-decay=-1", "--weight-decay is -1"
                "--beta1=1", "--beta1 is 1"
                "--beta2=-0.1", "--beta2 is -0.1"
                "--epsilon=0", "--epsilon is 0"
                "--clip-norm=-1", "--clip-norm is -1"
                "--dropout=1.5", "--dropout is 1.5"
                "--exits=sometimes", "--exits is \"sometimes\""
                "--exits=all:2", "0 to 1"
                "--exits=emphasis:4=1", "for exit 4"
                "--exits=emphasis:1=0.5:2", "1 to 1 groups"
                "--exits=emphasis:1=0,2=0", "without any weight"
                "--exits=rotational:0", "rotational:0"
                "--probe-every=3", "--probe-every needs exits"
                "--shape=hidden=8,layers=2,heads=2,kv-heads=1,intermediate=8,vocab=24", "exclude each other"
                "--exits=emphasis:1=1,1=2", "given twice for 1"
                "--exit-labels=0 --exit-last-layer=0", "not both 0"
                "--recipe=best", "recipe is best"
                "--exit-layer=4", "--exit-layer is 4"
                "--draft-length=0 --exit-layer=1", "--draft-length is 0"
                "--draft-length=3", "--draft-length needs --exit-layer"
                "--probe-exits=0", "--probe-exits is 0"
                "--probe-exits=x", "--probe-exits"
                "--save-every=-1", "--save-every is -1"
                "--keep=0", "--keep is 0"
                "--valid-share=1", "--valid-share is 1"
                "--validation=nowhere.txt", "nowhere.txt: not found"
                "--valid-share=0.1 --validation=nowhere.txt", "exclude each other"
                "--data=nowhere.txt", "nowhere.txt: not found"
                "--dtype=f16", "training in f16 is not supported"
                "--tokenizer=.", "--tokenizer goes with --shape"
            ] do
            testCase option (fun () ->
                withData (fun folder ->
                    refuses (command folder @ List.ofArray (option.Split ' ')) words
                    Expect.isFalse (Directory.Exists(Path.Combine(folder, "run"))) "nothing is written"))

        testCase "no data, no output, a file for the output" (fun () ->
            withData (fun folder ->
                let model = [ "train"; "--model"; Path.Combine(folder, "model") ]
                refuses (model @ [ "--output"; Path.Combine(folder, "x") ]) "no --data"
                refuses (model @ [ "--data"; "x" ]) "no --output"
                let file = Path.Combine(folder, "data.tokens")
                refuses (model @ [ "--data"; file; "--output"; file ]) "is a file"))

        testCase "a shape that lacks sizes, a tokenizer that is not there" (fun () ->
            withData (fun folder ->
                let scratch = command folder |> List.filter (fun word -> not (word.EndsWith "model"))
                refuses (scratch @ [ "--shape=hidden=8" ]) "--shape lacks"

                let shape = "--shape=hidden=8,layers=2,heads=2,kv-heads=1,intermediate=8,context=96"
                refuses (scratch @ [ shape; "--tokenizer=nowhere" ]) "nowhere: not found"
                let text = Path.Combine(folder, "x.txt")
                File.WriteAllText(text, "some text")
                refuses (scratch @ [ shape + ",vocab=24"; "--data"; text ]) "by --tokenizer"))

        testCase "a model is not trained over itself, nor a tokenizer over" (fun () ->
            withData (fun folder ->
                let model = Path.Combine(folder, "model")
                let before = File.ReadAllBytes(Path.Combine(model, "model.safetensors"))

                for output in [ model; model + "/" ] do
                    refuses
                        [
                            "train"
                            "--model"
                            model
                            "--data"
                            Path.Combine(folder, "data.tokens")
                            "--output"
                            output
                        ]
                        "holds a model or a tokenizer"

                Expect.equal
                    (File.ReadAllBytes(Path.Combine(model, "model.safetensors")))
                    before
                    "as it was"))

        testCase "bytes that are no text are the file's fault" (fun () ->
            withFolder (fun folder ->
                let inside name = Path.Combine(folder, name)
                File.WriteAllText(inside "text.txt", String.replicate 50 "The cat sat on the mat. ")
                File.WriteAllBytes(inside "bytes.txt", [| 0xB1uy; 0xFFuy; 0x41uy |])
                File.WriteAllText(
                    inside "pairs.jsonl",
                    $$"""{"prompt": "{{String.replicate 99 "cat "}}", "response": "mat"}"""
                )

                cli [
                    "tokenizer"
                    "train"
                    "--text"
                    inside "text.txt"
                    "--vocab-size=270"
                    "--output"
                    inside "t"
                ]
                |> ignore

                let train data = [
                    "train"
                    "--shape=hidden=8,layers=2,heads=2,kv-heads=1,intermediate=8,context=32"
                    "--tokenizer"
                    inside "t"
                    "--data"
                    inside data
                    "--output"
                    inside data + ".run"
                    "--valid-share=0"
                ]

                refuses (train "bytes.txt") "bytes.txt: is not UTF-8 text"
                refuses (train "pairs.jsonl") "nothing to learn within 32 ids"))

        testCase "ids outside the vocabulary, text without a tokenizer, an empty file" (fun () ->
            withData (fun folder ->
                let write (name: string) (bytes: byte[]) =
                    let file = Path.Combine(folder, name)
                    File.WriteAllBytes(file, bytes)
                    [ "--data"; file ]

                refuses
                    (command folder @ write "x.bin" [| 24uy; 0uy; 1uy; 0uy |])
                    "outside the model's vocabulary"
                refuses (command folder @ write "x.txt" [| 65uy |]) "no tokenizer"
                refuses (command folder @ write "y.txt" [||]) "is empty"))

        testCase "one text cannot be parted" (fun () ->
            withData (fun folder ->
                let one = Path.Combine(folder, "one.tokens")
                TokenFile.write one [ Array.init 40 id |> Array.map (fun i -> i % 24) ]
                |> Check.getOrRaise
                |> ignore

                refuses
                    [
                        "train"
                        "--model"
                        Path.Combine(folder, "model")
                        "--data"
                        one
                        "--output"
                        Path.Combine(folder, "x")
                    ]
                    "--valid-share 0"))

        testCase "a run's folder is not written over, and --resume takes nothing else" (fun () ->
            withData (fun folder ->
                let run = Path.Combine(folder, "run")
                Expect.equal (cli (command folder @ quick)).Code 0 "the run"
                refuses (command folder @ quick) "holds a run already"
                refuses
                    [ "train"; "--resume"; run; "--steps=9" ]
                    "--resume goes on with the run's own options"
                refuses [ "train"; "--resume"; folder ] "checkpoint-*"
                refuses [ "train"; "--resume"; Path.Combine(run, "checkpoint-6") ] "is one checkpoint"
                refuses [ "train"; "--resume"; "" ] "--resume is empty"))

        testCase "a damaged checkpoint is named" (fun () ->
            withData (fun folder ->
                Expect.equal (cli (command folder @ quick)).Code 0 "the run"
                let run = Path.Combine(folder, "run")
                let file name = Path.Combine(run, "checkpoint-6", name)
                let state = File.ReadAllText(file "training_state.json")
                File.WriteAllText(file "training_state.json", state.Replace("\"packed\"", "\"loose\""))
                refuses [ "train"; "--resume"; run ] "\"layout\" is \"loose\""

                for found, other, words in
                    [
                        "\"beta1\": 0.9", "\"beta1\": 7", "beta1 is 7"
                        "\"save_every\": 200", "\"save_every\": -1", "save-every is -1"
                        "\"step\": 6", "\"step\": 80", "step is 80"
                        "\"sequence_length\": 8", "\"sequence_length\": 999", "sequence-length is 999"
                    ] do
                    Expect.stringContains state found "the test's own assumption"
                    File.WriteAllText(file "training_state.json", state.Replace(found, other))
                    refuses [ "train"; "--resume"; run ] words

                File.WriteAllText(file "training_state.json", state)
                File.Delete(file "optimizer.safetensors")
                refuses [ "train"; "--resume"; run ] "optimizer.safetensors"))

        testCase "of a damaged checkpoint, the one before is named" (fun () ->
            withData (fun folder ->
                Expect.equal (cli (command folder @ quick @ [ "--save-every=3" ])).Code 0 "the run"
                let run = Path.Combine(folder, "run")
                let damaged = Path.Combine(run, "checkpoint-6")
                File.WriteAllText(Path.Combine(damaged, "model.safetensors"), "cut")
                refuses [ "train"; "--resume"; run ] "remove it, and the run goes on from checkpoint-3"
                Directory.Delete(damaged, true)
                Expect.equal (cli [ "train"; "--resume"; run ]).Code 0 "and it does"))
    ]

[<Tests>]
let tests = testList "command line: train" [ badInput ]
