module LayerSkip.Tests.TrainCliTests

open System
open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport

/// A folder with a tiny model, `model`, and something to learn, `data.tokens`.
let private withData (body: string -> 'T) : 'T =
    withFolder (fun folder ->
        let model = Path.Combine(folder, "model")
        Directory.CreateDirectory model |> ignore
        writeModel model id

        TokenFile.write (Path.Combine(folder, "data.tokens")) [
            for i in 0..40 -> [| for j in 0..19 -> (i + 5 * j) % 24 |]
        ]
        |> Check.getOrRaise
        |> ignore

        body folder)

/// The loss of a log's line, where it is a step's.
let private lossOf (line: string) : float option =
    match JsonDocument.Parse(line).RootElement.TryGetProperty "loss" with
    | true, loss -> Some(loss.GetDouble())
    | _ -> None

let private quick = [
    "--steps=6"
    "--batch-size=2"
    "--sequence-length=8"
    "--validate-every=3"
    "--validation-tokens=14"
]

let private command (folder: string) = [
    "train"
    "--model"
    Path.Combine(folder, "model")
    "--data"
    Path.Combine(folder, "data.tokens")
    "--output"
    Path.Combine(folder, "run")
]

let private refuses (arguments: string list) (words: string) =
    let outcome = cli arguments
    Expect.equal (outcome.Code, outcome.Out) (2, "") outcome.Error
    Expect.stringStarts outcome.Error "layerskip: " "it says who speaks"
    Expect.equal (outcome.Error.Split('\n').Length) 2 $"one line: {outcome.Error}"
    Expect.stringContains outcome.Error words "helpful words"

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
                "--save-every=0", "--save-every is 0"
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
                        "\"save_every\": 200", "\"save_every\": 0", "save-every is 0"
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

/// Steps that take a while: as many as fit before a signal.
let private long = [
    "--steps=60"
    "--batch-size=2"
    "--sequence-length=8"
    "--save-every=5"
    "--keep=100"
    "--validate-every=0"
    "--dropout=0.3"
]

let private processes =
    testSequenced
    <| testList "processes" [
        testCase "60 steps are 25, kill -9 and the rest, bit for bit" (fun () ->
            withData (fun folder ->
                let options = String.concat " " long
                let train = $"train --model model --data data.tokens {options}"

                let outcome =
                    shell
                        folder
                        $"(layerskip {train} --output straight) 2>/dev/null >/dev/null || exit 3
                          layerskip {train} --output parted 2>/dev/null >/dev/null & job=$!
                          for i in $(seq 600); do test -e parted/checkpoint-25 && break; sleep 0.02; done
                          kill -9 $job; wait $job 2>/dev/null
                          ls -d parted/checkpoint-60 2>/dev/null && echo 'not killed in time'
                          (layerskip train --resume parted) 2>error; code=$?; cat error >&2; exit $code"

                Expect.equal outcome.Code 0 outcome.Error
                Expect.stringContains outcome.Out "60 of 60 steps" "all of them"

                for file in [ "model.safetensors"; "optimizer.safetensors" ] do
                    let read run = File.ReadAllBytes(Path.Combine(folder, run, "checkpoint-60", file))
                    Expect.equal (read "parted") (read "straight") file

                let losses run =
                    File.ReadAllLines(Path.Combine(folder, run, "log.jsonl")) |> Array.choose lossOf

                Expect.equal (losses "parted") (losses "straight") "the log forgets what was lost"
                Expect.isEmpty
                    (Directory.GetDirectories(Path.Combine(folder, "parted"), "*.tmp"))
                    "nothing unfinished"))

        for name, code in [ "INT", 130; "TERM", 143 ] do
            testCase
                $"SIG{name} saves, says how to go on, and what goes on ends as if nothing had been"
                (fun () ->
                    withData (fun folder ->
                        let outcome =
                            shell
                                folder
                                $"set -m
                              layerskip train --model model --data data.tokens --output run --steps=100000 --batch-size=1 --sequence-length=8 --save-every=100000 2>error & job=$!
                              for i in $(seq 600); do test -s run/log.jsonl && break; sleep 0.05; done
                              kill -{name} $job; wait $job; code=$?; cat error >&2; exit $code"

                        Expect.equal outcome.Code code outcome.Error
                        let said = outcome.Error.Split('\n') |> Array.filter _.StartsWith("layerskip:")
                        Expect.equal said.Length 1 outcome.Error
                        Expect.stringContains said[0] "go on with `layerskip train --resume run`" "how"
                        let checkpoints = TrainingCheckpoint.all (Path.Combine(folder, "run"))
                        Expect.equal checkpoints.Length 1 "one checkpoint"
                        let lines = File.ReadAllLines(Path.Combine(folder, "run", "log.jsonl"))
                        let steps = lines |> Array.choose lossOf
                        Expect.equal (fst checkpoints.Head) steps.Length "of the last step"))
    ]

let private hasMpi = File.Exists "/usr/bin/mpirun"

let private rankTest name (body: string -> unit) =
    testCase name (fun () ->
        if hasMpi then
            withData body
        else
            skiptest "no mpirun: install Open MPI")

let private mpirun n = $"mpirun --allow-run-as-root --oversubscribe --bind-to none -n {n} dotnet $PROGRAM"

/// Each step's loss in a run's log.
let private lossesOf (folder: string) (run: string) =
    File.ReadAllLines(Path.Combine(folder, run, "log.jsonl")) |> Array.choose lossOf

let private ranks =
    testSequenced
    <| testList "mpirun" [
        rankTest "two ranks learn what one process learns from twice the batch" (fun folder ->
            let train batch output =
                $"train --model model --data data.tokens --steps 20 --sequence-length 8 --dropout 0 --exits all:0.5 --validate-every 0 --threads 1 --batch-size {batch} --output {output} --json"

            let two, one = train 3 "two", train 6 "one"
            let outcome = shell folder $"{mpirun 2} {two} && (layerskip {one})"
            Expect.equal outcome.Code 0 outcome.Error
            Expect.stringContains outcome.Out "\"ranks\":2" "two of them"

            for a, b in Array.zip (lossesOf folder "two") (lossesOf folder "one") do
                Expect.isLessThan (abs (a - b)) 1e-5 $"{a} and {b}"

            Expect.equal (lossesOf folder "two").Length 20 "20 steps")

        rankTest "a run of two ranks goes on as two ranks, bit for bit, and not as one" (fun folder ->
            let options =
                "--batch-size 2 --sequence-length 8 --dropout 0.3 --save-every 5 --keep 9 --validate-every 0 --threads 1"
            let train steps output =
                $"train --model model --data data.tokens --rate-floor 1 --steps {steps} {options} --output {output}"

            let whole = train 12 "whole"

            let outcome =
                shell
                    folder
                    $"{mpirun 2} {whole} >/dev/null 2>&1 || exit 3
                      cp -r whole parted; rm -r parted/checkpoint-10 parted/checkpoint-12
                      {mpirun 2} train --resume parted --threads 1 >/dev/null 2>&1 || exit 4
                      (layerskip train --resume whole)"

            Expect.equal outcome.Code 2 outcome.Error
            Expect.stringContains outcome.Error "it must be 2, as the run began" "one line"
            let read run =
                File.ReadAllBytes(Path.Combine(folder, run, "checkpoint-12", "optimizer.safetensors"))
            Expect.equal (read "parted") (read "whole") "moments")

        rankTest "a killed rank ends the run, with a line and a checkpoint that goes on" (fun folder ->
            let outcome =
                shell
                    folder
                    $"{mpirun 2} train --model model --data data.tokens --output run --steps 100000 --batch-size 1 --sequence-length 8 --save-every 20 --validate-every 0 --threads 1 >out 2>error & job=$!
                      for i in $(seq 600); do test -e run/checkpoint-20 && break; sleep 0.05; done
                      victim=$(pgrep -f 'output run --steps 100000' | while read p; do tr '\0' '\n' < /proc/$p/environ | grep -q '^OMPI_COMM_WORLD_RANK=1$' && echo $p; done | head -1)
                      kill -9 $victim; wait $job; code=$?; cat error out >&2; exit $code"

            Expect.notEqual outcome.Code 0 "it says so"
            Expect.stringContains outcome.Error "a rank has ended, and with it the run" outcome.Error
            Expect.stringContains
                outcome.Error
                "go on with `mpirun -n 2 layerskip train --resume run`"
                outcome.Error
            let step, latest = TrainingCheckpoint.all (Path.Combine(folder, "run")) |> List.head
            Expect.isTrue (File.Exists(Path.Combine(latest, "training_state.json"))) "a checkpoint"
            Expect.isGreaterThanOrEqual step 20 "whole")
    ]

[<Tests>]
let tests = testList "command line: train" [ badInput; runs; processes; ranks ]
