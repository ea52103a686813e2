/// `layerskip train` on conversations, and what the model then answers.
module LayerSkip.Tests.TrainChatCliTests

open System
open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport

let private template =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

let private specials = "--special=<|endoftext|> --special=<|im_start|> --special=<|im_end|>"

let private line (messages: (string * string) list) =
    JsonSerializer.Serialize {|
        messages = [ for role, content in messages -> {| role = role; content = content |} ]
    |}

let private questions = [
    "Who are you?", "I am a small model."
    "<|im_end|> Who is he?", "He is <|im_start|> a cat."
]

let private conversations = [
    line [
        "user", fst questions[0]
        "assistant", snd questions[0]
        "user", "And who else?"
        "assistant", "Nobody, I fear."
    ]
    line [ "user", fst questions[1]; "assistant", snd questions[1] ]
]

let private shape = "--shape=hidden=32,layers=3,heads=2,kv-heads=1,intermediate=48,context=160"

/// A folder with a tokenizer that has a chat template, `tokenizer`, and conversations, `chats.jsonl`.
let private withChats (body: (string -> string) -> unit) =
    withFolder (fun folder ->
        let inside name = Path.Combine(folder, name)
        File.WriteAllLines(inside "chats.jsonl", conversations)
        File.WriteAllText(inside "text.txt", String.concat " " [ for _, answer in questions -> answer ])

        typed
            $"""tokenizer train --text {inside "text.txt"} --vocab-size=280 {specials} --output {inside "tokenizer"}"""
        |> json
        |> ignore

        File.WriteAllText(Path.Combine(inside "tokenizer", "chat_template.jinja"), template)
        body inside)

let private train (inside: string -> string) (output: string) (options: string) =
    typed
        $"""train {shape} --tokenizer {inside "tokenizer"} --data {inside "chats.jsonl"} --output {inside output} --sequence-length=128 --threads=1 {options}"""

let private number (name: string) (part: JsonElement) = (part.GetProperty name).GetInt32()

let private weights (folder: string) = File.ReadAllBytes(Path.Combine(folder, "model.safetensors"))

[<Tests>]
let tests =
    testSequenced
    <| testList "command line: train on conversations" [
        testCase "what was learned by heart is what generate --chat answers, token for token" (fun () ->
            withChats (fun inside ->
                let made =
                    train
                        inside
                        "run"
                        "--steps=150 --batch-size=2 --valid-share=0 --validate-every=0 --learning-rate=0.01 --warmup=10 --exits=all:0.5 --exit-layer=1 --dropout=0"
                    |> json

                let count = made.GetProperty "conversations"
                Expect.equal
                    (number "count" count, number "samples" count, number "cut" count)
                    (2, 2, 0)
                    "both"
                let answers = number "learned_tokens" count
                Expect.equal answers (number "answer_tokens" count) "all of them"
                Expect.equal
                    (number "learned_tokens" made)
                    (150 * answers)
                    "those and no others, every step"

                for strategy in [ "autoregressive"; "self-speculative" ] do
                    for question, answer in questions do
                        let said =
                            [ "generate"; "--chat"; "--prompt"; question; "--strategy"; strategy ]
                            @ typed $"""--model {inside "run"} --max-new-tokens=60 --threads=1"""
                            |> json

                        Expect.equal
                            ((said.GetProperty "text").GetString())
                            answer
                            $"{strategy}, {question}"
                        Expect.equal ((said.GetProperty "finish_reason").GetString()) "stop" "and ends"))

        testCase "a run that goes on is the same to the bit, and knows its conversations" (fun () ->
            withChats (fun inside ->
                let options =
                    "--batch-size=1 --save-every=3 --validate-every=3 --exits=rotational:1:0.5 --dropout=0.2 --dtype=f32"

                train inside "whole" $"--steps=6 {options}" |> json |> ignore

                let made = json (train inside "parts" $"--steps=6 {options}")
                let count = made.GetProperty "conversations"
                // The second validates.
                Expect.equal (number "count" count) 1 "what is learned"
                Expect.equal (made.GetProperty("validation").ValueKind) JsonValueKind.Object "what is not"
                Directory.Delete(Path.Combine(inside "parts", "checkpoint-6"), true)
                File.Delete(inside "chats.jsonl")
                let again = json (typed $"""train --resume {inside "parts"} --threads=1""")
                Expect.equal ((again.GetProperty "conversations").ToString()) (count.ToString()) "the same"
                Expect.equal (weights (inside "parts")) (weights (inside "whole")) "weights"))

        testCase "a file of their own validates, and texts are learned beside conversations" (fun () ->
            withChats (fun inside ->
                File.WriteAllLines(inside "valid.jsonl", [ conversations[1] ])
                let options = "--steps=2 --batch-size=3 --validate-every=1 --validation-tokens=5"
                let files = typed $"""--validation {inside "valid.jsonl"} --data {inside "text.txt"}"""
                let made = json (train inside "run" options @ files)
                Expect.equal (number "count" (made.GetProperty "conversations")) 2 "those to learn"
                Expect.equal (made.GetProperty("validation").ValueKind) JsonValueKind.Object "graded"))

        testCase "an adapter learns its base's law where the assistant speaks" (fun () ->
            withChats (fun inside ->
                train inside "base" "--steps=1 --valid-share=0 --validate-every=0" |> json |> ignore

                let made =
                    typed
                        $"""train --recipe adapter --model {inside "base"} --data {inside "chats.jsonl"} --output {inside "run"} --exit-layer=1 --adapter=norm --steps=2 --batch-size=2 --sequence-length=128 --valid-share=0 --validate-every=0 --threads=1"""
                    |> json

                Expect.equal (number "count" (made.GetProperty "conversations")) 2 "both"))

        testCase "cut conversations are told of, and no layout lets them see one another" (fun () ->
            withChats (fun inside ->
                let told =
                    cli (
                        train
                            inside
                            "run"
                            "--steps=1 --sequence-length=80 --valid-share=0 --validate-every=0"
                        |> List.filter ((<>) "--sequence-length=128")
                    )

                Expect.equal told.Code 0 told.Error
                Expect.stringContains told.Error "2 conversations, 1 of them cut" "how many"
                Expect.stringContains
                    told.Error
                    "are longer than --sequence-length 80 and cut"
                    "and what is lost"

                refuses
                    [ "--layout is packed"; "each" ]
                    (train inside "other" "--steps=1 --valid-share=0 --layout=packed")))

        testCase "bad lines are a line with the file and the number, and leave no run" (fun () ->
            withChats (fun inside ->
                for bad, words in
                    [
                        "{\"messages\": ", "is not valid JSON"
                        "{\"messages\": []}", "\"messages\" is empty"
                        "{\"message\": []}", "it has \"message\""
                        line [ "user", "a" ], "no answer of the assistant's"
                        """{"messages": [{"role": "user", "content": 7}]}""", "must be a text"
                        """{"text": "a", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}""",
                        "leave one or the other"
                    ] do
                    File.WriteAllLines(inside "chats.jsonl", [ conversations[1]; bad ])
                    refuses
                        [ "chats.jsonl"; "line 2"; words ]
                        (train inside "run" "--steps=1 --valid-share=0")
                    Expect.isFalse
                        (File.Exists(Path.Combine(inside "run", "train.tokens")))
                        "nothing is left"

                File.WriteAllLines(inside "chats.jsonl", conversations)
                let jinja = Path.Combine(inside "tokenizer", "chat_template.jinja")
                File.WriteAllText(
                    jinja,
                    "{% if messages[0].role == 'user' %}{{ raise_exception('users come later') }}{% endif %}"
                )
                refuses [ "chats.jsonl"; "line 1"; "users come later" ] (train inside "run" "--steps=1")
                File.Delete jinja
                refuses [ "chats.jsonl"; "line 1"; "no chat template" ] (train inside "run" "--steps=1")))

        testCase "a tokenizer learns from what is said, and no document is a conversation" (fun () ->
            withChats (fun inside ->
                let trained =
                    typed
                        $"""tokenizer train --text {inside "chats.jsonl"} --vocab-size=270 --output {inside "other"}"""
                    |> cli

                Expect.equal trained.Code 0 trained.Error
                train inside "run" "--steps=1 --valid-share=0 --validate-every=0" |> json |> ignore

                refuses
                    [ "chats.jsonl"; "line 1 holds a conversation" ]
                    (typed
                        $"""eval --task perplexity --model {inside "run"} --data {inside "chats.jsonl"} --documents""")))
    ]
