module LayerSkip.Tests.TokenizerTrainCliTests

open System
open System.IO
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport

let private train options = [ "tokenizer"; "train" ] @ options

/// A folder with `text.txt`, which has more than 300 tokens' worth of pairs.
let private withText (body: string -> 'T) : 'T =
    withFolder (fun folder ->
        let words = [ for i in 0..999 -> $"word{i * i} other{i % 7} thing" ]
        File.WriteAllText(Path.Combine(folder, "text.txt"), String.concat " " words)
        body folder)

let private load folder = Tokenizer.tryLoad folder |> Check.getOrRaise |> Option.get

/// Bad input, and nothing written.
let private refuses (folder: string) (options: string list) (words: string list) =
    leavesAlone folder (fun () -> train options |> refuses words)

[<Tests>]
let tests =
    testList "tokenizer training: command line" [
        testCase "--json writes the contract's object, and the folder a tokenizer" (fun () ->
            withText (fun folder ->
                let inside name = Path.Combine(folder, name)
                File.WriteAllText(inside "more.txt", "\uFEFF<|endoftext|>more")
                let output = inside "made"

                let made =
                    json (
                        train [
                            "--text=" + inside "text.txt"
                            "--text=" + inside "more.txt"
                            "--vocab-size=300"
                            $"--output={output}"
                            "--min-frequency=3"
                        ]
                    )

                let kinds = [
                    "output", S
                    "vocabulary", N
                    "merges", N
                    "bytes", N
                    "tokens", N
                    "bytes_per_token", N
                    "seconds", N
                ]

                Expect.equal (fields made) kinds "fields"
                let number (field: string) = made.GetProperty(field).GetDouble()
                Expect.equal (made.GetProperty("output").GetString()) output "output"
                Expect.equal (number "vocabulary", number "merges") (300.0, 43.0) "counts"
                // Neither the byte order mark nor the special token is text.
                let text = File.ReadAllText(inside "text.txt")
                Expect.equal (number "bytes") (float text.Length + 4.0) "bytes"
                Expect.floatClose
                    Accuracy.low
                    (number "bytes_per_token")
                    (number "bytes" / number "tokens")
                    "rate"

                let tokenizer = load output
                let ids = Tokenizer.encode tokenizer text
                Expect.equal ids[0] 0 "BOS"
                Expect.equal (Tokenizer.decode false tokenizer ids) text "the text"
                Expect.equal (Directory.GetFiles(output).Length) 2 "files"))

        testCase "a line tells what was made; a remark that the text was too small" (fun () ->
            withText (fun folder ->
                let text = Path.Combine(folder, "text.txt")
                File.WriteAllText(text, "to be or not to be")
                let output = Path.Combine(folder, "made")
                let outcome = cli (train [ "--text"; text; "--vocab-size"; "512"; "--output"; output ])
                Expect.equal outcome.Code 0 outcome.Error
                Expect.stringStarts outcome.Out $"{output}: 260 tokens; " "the line"
                Expect.equal (outcome.Out.Split('\n').Length) 2 "one"
                Expect.stringContains outcome.Error "260 tokens, not 512" "the remark"))

        testCase "special tokens in their order, with BOS in front or not" (fun () ->
            withText (fun folder ->
                let arguments = [
                    "--text"
                    Path.Combine(folder, "text.txt")
                    "--vocab-size"
                    "260"
                    "--output"
                    folder
                    "--special"
                    "<s>"
                    "--special"
                    "<pad>"
                ]

                json (train arguments) |> ignore
                let tokenizer = load folder
                Expect.equal (Tokenizer.encode tokenizer "<pad><s>") [| 0; 1; 0 |] "in front"
                Expect.equal (Tokenizer.bos tokenizer, Tokenizer.eos tokenizer) (Some 0, Some 0) "the first"

                json (train (arguments @ [ "--no-bos"; "--overwrite" ])) |> ignore
                Expect.equal (Tokenizer.encode (load folder) "<pad>") [| 1 |] "not in front"))

        testCase "bad input" (fun () ->
            withText (fun folder ->
                let inside name = Path.Combine(folder, name)
                let text = [ "--text"; inside "text.txt" ]
                let output = [ "--output"; inside "made" ]
                let size = [ "--vocab-size"; "300" ]
                let all = text @ output @ size
                let refuses = refuses folder
                let ofText file = output @ size @ [ "--text"; file ]

                refuses [] [ "no --text" ]
                refuses (text @ size) [ "no --output" ]
                refuses (text @ output) [ "no --vocab-size" ]
                refuses (ofText "") [ "--text is empty" ]
                refuses (text @ size @ [ "--output"; "" ]) [ "--output is empty" ]
                refuses (ofText (inside "none.txt")) [ "none.txt: not found" ]
                refuses (all @ [ "--text"; inside "none.txt" ]) [ "none.txt: not found" ]
                refuses (ofText folder) [ folder; "is a folder; give a UTF-8 text or .jsonl file" ]
                refuses (ofText "/dev/zero") [ "/dev/zero: is a pipe, a socket or a device" ]
                refuses (text @ output @ [ "--vocab-size"; "256" ]) [ "--vocab-size is 256"; "257 to" ]
                refuses (text @ output @ [ "--vocab-size"; "many" ]) [
                    "--vocab-size"
                    "layerskip tokenizer train --help"
                ]
                refuses (text @ output @ [ "--vocab-size"; "99999999999" ]) [
                    "--vocab-size is 99999999999, which is too big"
                ]
                refuses (all @ [ "--min-frequency"; "0" ]) [ "--min-frequency is 0"; "1 or more" ]
                refuses (all @ [ "--special"; "" ]) [ "--special is empty" ]
                refuses (all @ [ "--special"; "<a>"; "--special"; "<a>" ]) [
                    "--special is given 2 times as \"<a>\""
                ]
                refuses (all @ [ "--nope" ]) [ "--nope"; "layerskip tokenizer train --help" ]
                refuses (text @ size @ [ "--output"; inside "none/made" ]) [ "its folder is not there" ]
                refuses (text @ size @ [ "--output"; inside "text.txt" ]) [ "text.txt"; "it is a file" ]
                refuses (text @ size @ [ "--output"; "/proc/made" ]) [ "/proc/made"; "cannot be written" ]

                for bytes, words in
                    [
                        [| 0xFFuy; 0xFEuy |], "is UTF-16 or UTF-32 text; convert it to UTF-8 first"
                        [| 0x61uy; 0xC3uy |], "is not UTF-8 text: byte 0xC3 in line 1; convert it first"
                        [| 0x0Auy; 0xEDuy; 0xA0uy; 0x80uy |], "is not UTF-8 text: byte 0xED in line 2"
                    ] do
                    File.WriteAllBytes(inside "bad.txt", bytes)
                    refuses (ofText (inside "bad.txt")) [ $"bad.txt: {words}" ]

                for nothing in [ ""; "<|endoftext|>" ] do
                    File.WriteAllText(inside "bad.txt", nothing)
                    refuses (ofText (inside "bad.txt")) [ "no text to train on" ]

                for name in [ "tokenizer_config.json"; "tokenizer.json" ] do
                    File.WriteAllText(inside name, "{}")
                    refuses (text @ size @ [ "--output"; folder ]) [
                        $"{name}: is there already"
                        "--overwrite"
                    ]))

        testCase "bad sub-commands of tokenizer" (fun () ->
            for arguments, words in
                [
                    [], [ "no sub-command of tokenizer"; "train" ]
                    [ "dream" ], [ "dream"; "layerskip tokenizer --help" ]
                ] do
                let outcome = cli ("tokenizer" :: arguments)
                Expect.equal (outcome.Code, outcome.Out) (2, "") outcome.Error
                Expect.equal (outcome.Error.Split('\n').Length) 2 outcome.Error

                for word in words do
                    Expect.stringContains outcome.Error word "helpful words")

        testCase "the manual of tokenizer train" (fun () ->
            let outcome = cli (train [ "--help" ])
            Expect.equal (outcome.Code, outcome.Error) (0, "") "done"

            for option in [ "--text"; "--vocab-size"; "--special"; "--no-bos"; "--json" ] do
                Expect.stringContains outcome.Out option "the manual")
    ]
