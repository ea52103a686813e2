/// `layerskip train` on texts, with the tokenizers that read them.
module LayerSkip.Tests.TrainTextCliTests

open System
open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport

[<Tests>]
let tests =
    testList "command line: train" [
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

                let files =
                    typed
                        $"""--model {inside "m.gguf"} --data {inside "text.txt"} --output {inside "run"}"""
                let trained = cli ("train" :: files @ options)

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
                        typed
                            $"tokenizer train --text {inside text} --vocab-size=290 --special=<pad> --special=<|im_start|> --output {inside output}"
                        |> json
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

                let text, tokenizer = inside "chat.txt", inside "tokenizer"

                typed
                    $"tokenizer train --text {text} --vocab-size=270 --special=<s> --special=<|im_start|> --output {tokenizer}"
                |> json
                |> ignore

                let specials output options =
                    typed
                        $"train --shape=hidden=8,layers=2,heads=2,kv-heads=1,intermediate=8,context=32 --tokenizer {tokenizer}
                          --data {text} --valid-share=0 --steps=1 --batch-size=1 --sequence-length=8 --output {inside output}"
                    @ options
                    |> json
                    |> ignore

                    use tokens =
                        TokenFile.openRead 270 (Path.Combine(inside output, "train.tokens"))
                        |> Check.getOrRaise

                    tokens.Read(0L, int tokens.Count) |> Array.filter ((=) 1) |> Array.length

                Expect.equal (specials "parsed" []) 9 "as generate reads them"
                Expect.equal (specials "spelled" [ "--no-special" ]) 0 "as characters"))

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

                let text, pairs, run = inside "text.txt", inside "pairs.jsonl", inside "run"
                let trained =
                    json (typed $"tokenizer train --text {text} --vocab-size=280 --output {tokenizer}")
                Expect.equal ((trained.GetProperty "vocabulary").GetInt32()) 280 "a tokenizer"

                let made =
                    json (
                        typed
                            $"train --shape=hidden=16,layers=3,heads=2,kv-heads=1,intermediate=24,context=64 --tokenizer {tokenizer}
                              --data {pairs} --recipe=fine-tune --output {run} --steps=4 --batch-size=3 --save-every=1"
                    )

                Expect.equal ((made.GetProperty "step").GetInt32()) 4 "steps"
                let text = json [ "generate"; "--model"; run; "--prompt"; "Cat 3?"; "--max-new-tokens=5" ]
                Expect.equal ((text.GetProperty "text").ValueKind) S "it speaks"

                // The run's own copy of the tokenizer may be gone, and its latest checkpoint.
                Directory.Delete(Path.Combine(inside "run", "tokenizer"), true)
                Directory.Delete(Path.Combine(inside "run", "checkpoint-4"), true)
                Expect.equal (cli [ "train"; "--resume"; inside "run" ]).Code 0 "it goes on"

                Expect.isTrue
                    (File.Exists(Path.Combine(inside "run", "checkpoint-4", "tokenizer.json")))
                    "with its tokenizer"))
    ]
