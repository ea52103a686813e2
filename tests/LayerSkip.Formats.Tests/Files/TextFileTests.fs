/// Numbers and text files, as whoever types and edits them spells them.
module LayerSkip.Tests.TextFileTests

open System
open System.IO
open System.Text
open Expecto
open FsCheck
open FsCheck.FSharp
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.TokenizerSupport

let private withFile (bytes: byte[]) (body: string -> 'T) : 'T =
    withFolder (fun folder ->
        let path = Path.Combine(folder, "x.txt")
        File.WriteAllBytes(path, bytes)
        body path)

let private numbers =
    testList "numbers" [
        testProperty "whole ones are read as they are written"
        <| fun (number: int) -> Number.tryWhole (string number) = Some number

        testProperty "real ones are read as they are written"
        <| fun (NormalFloat number) -> Number.tryReal (number.ToString "R") = Some number

        testCase "whole ones have digits and a sign, and nothing else" (fun () ->
            for text, expected in [ "1000", Some 1000; "-3", Some -3; "+5", Some 5; "007", Some 7 ] do
                Expect.equal (Number.tryWhole text) expected text

            for text in
                [
                    ""
                    " "
                    " 5"
                    "5 "
                    "1,000"
                    "1.000"
                    "1 000"
                    "1_000"
                    "1'000"
                    "1e3"
                    "5.0"
                    "0x10"
                    "１"
                    "٣"
                    "--5"
                    "5-"
                    "(5)"
                    "99999999999"
                    "5\n"
                    "five"
                ] do
                Expect.equal (Number.tryWhole text) None $"\"{text}\"")

        testCase "real ones have a point and an exponent too" (fun () ->
            for text, expected in
                [ "0.5", 0.5; ".5", 0.5; "5", 5.0; "1e-3", 1e-3; "-2E+2", -200.0; "+1", 1.0 ] do
                Expect.equal (Number.tryReal text) (Some expected) text

            for text in
                [
                    ""
                    "0,1"
                    "1,000"
                    "1,000.5"
                    " 0.5"
                    "0.5 "
                    "0.5x"
                    "1_0"
                    "0x1p3"
                    "NaN"
                    "nan"
                    "Infinity"
                    "-∞"
                    "1e999"
                    "½"
                    "1e"
                    "$1"
                ] do
                Expect.equal (Number.tryReal text) None $"\"{text}\"")
    ]

/// Texts longer than the reader's piece of 65,536 bytes, with characters of one to four bytes and all ends of lines.
let private longTexts =
    gen {
        let! parts =
            Gen.elements [ "a"; "é"; "中"; "😀"; "\r\n"; "\r"; "\n"; "\r\r\n"; " " ]
            |> Gen.nonEmptyListOf

        let! spare = Gen.choose (0, 6)
        let! mark = Gen.elements [ ""; "\uFEFF" ]
        let part = String.concat "" parts
        let times = 70_000 / Encoding.UTF8.GetByteCount part
        return mark, String('x', spare) + String.replicate times part
    }
    |> Arb.fromGen

let private raises (words: string) (work: unit -> unit) =
    Expect.throwsC work (fun e ->
        Expect.isTrue (e :? LayerSkipException) $"a fault of the file, not {e.GetType().Name}"
        Expect.stringContains e.Message words "what is wrong")

let private reading =
    testList "text files" [
        testPropertyWithConfig
            { FsCheckConfig.defaultConfig with maxTest = 40 }
            "are read without mark, with \\n for \\r\\n, wherever the reader's pieces end"
        <| Prop.forAll longTexts (fun (mark, text) ->
            withFile (Encoding.UTF8.GetBytes(mark + text)) (fun path ->
                TextFile.readAll 1 path = text.Replace("\r\n", "\n")))

        testPropertyWithConfig
            { FsCheckConfig.defaultConfig with maxTest = 40 }
            "have lines that end in \\n, \\r\\n or \\r"
        <| Prop.forAll longTexts (fun (mark, text) ->
            withFile (Encoding.UTF8.GetBytes(mark + text)) (fun path ->
                let lines = text.Replace("\r\n", "\n").Split('\r', '\n') |> List.ofArray
                // What follows the last end is no line where nothing does.
                let expected =
                    if List.last lines = "" then
                        List.take (lines.Length - 1) lines
                    else
                        lines
                let found = [ for struct (_, line) in TextFile.lines path -> line ]
                found = expected))

        testCase "that are none are named as what they are" (fun () ->
            let ascii (text: string) = Encoding.ASCII.GetBytes text

            for bytes, words in
                [
                    Encoding.Unicode.GetPreamble(), "is UTF-16 or UTF-32 text"
                    Array.append [| 0xFEuy; 0xFFuy |] (Encoding.BigEndianUnicode.GetBytes "text"),
                    "is UTF-16 or UTF-32 text"
                    Encoding.Unicode.GetBytes "text", "is no text: it holds NUL bytes"
                    ascii "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
                    "is a Git-LFS pointer, not the file that it stands for; run `git lfs pull`"
                    Array.append (ascii "one\ntwo\n") [| 0xE9uy; 0x20uy |],
                    "is not UTF-8 text: byte 0xE9 in line 3"
                    Array.append (ascii (String.replicate 40_000 "ab\n")) [| 0xC3uy |],
                    "is not UTF-8 text: byte 0xC3 in line 40001"
                ] do
                withFile bytes (fun path ->
                    raises $"{path}: {words}" (fun () -> TextFile.readAll 1 path |> ignore)))

        testCase "are read up to a limit" (fun () ->
            withFile (Array.create ((1 <<< 20) + 1) 65uy) (fun path ->
                raises "has more than 1 Mi characters" (fun () -> TextFile.readAll 1 path |> ignore)
                Expect.equal (TextFile.readAll 2 path).Length ((1 <<< 20) + 1) "below it"))

        testCase "of JSON may begin with a mark, and pointers are named" (fun () ->
            let config = File.ReadAllText(Path.Combine(Support.root, "models", "stories-10m", "config.json"))

            withFolder (fun folder ->
                let path = Path.Combine(folder, "config.json")
                File.WriteAllText(path, "\uFEFF" + config)
                Expect.isOk (LlamaConfig.load path) "a mark"
                File.WriteAllText(path, "version https://git-lfs.github.com/spec/v1\n")
                LlamaConfig.load path |> messages |> expectFault [ path; "Git-LFS pointer" ]))

        testCase "of a tokenizer may begin with a mark, and have Windows' ends of lines" (fun () ->
            let vocabulary = serialize (dict [ for id, token in List.indexed byteTokens -> token, id ])
            let merges = "#version: 0.2" :: [ for left, right in merged -> $"{left} {right}" ]

            let load mark (ending: string) =
                inFolder
                    [
                        "vocab.json", mark + vocabulary
                        "merges.txt", mark + String.concat ending merges + ending
                        "tokenizer_config.json", mark + """{"tokenizer_class": "GPT2Tokenizer"}"""
                        "chat_template.jinja", mark + "{{ x }}"
                    ]
                    (fun folder ->
                        let tokenizer = Tokenizer.tryLoad folder |> Check.getOrRaise |> Option.get
                        pieces tokenizer "hello wo123", Tokenizer.chatTemplate tokenizer)

            Expect.equal (load "" "\n" |> snd) (Some "{{ x }}") "the template"
            Expect.equal (load "" "\n" |> fst |> List.contains "hello") true "merged"
            Expect.equal (load "\uFEFF" "\r\n") (load "" "\n") "the same")

        testCase "of no space are cut in blocks all the same, and never within a character" (fun () ->
            let text = String.replicate 1_500_000 "😀"
            let blocks = TextBlocks.ofText [] text |> List.ofSeq
            Expect.isGreaterThan blocks.Length 1 "several"
            Expect.equal (String.concat "" blocks) text "all of it"
            Expect.isTrue (blocks |> List.forall (fun block -> block.Length % 2 = 0)) "whole pairs")

        testProperty "long texts have the ids of the whole text, in blocks"
        <| fun (PositiveInt seed) ->
            let random = Random seed
            let words = [|
                "hello"
                "he"
                " "
                "\n"
                "!"
                "w"
                "123"
                "é"
                "<|end|>"
                "</s>"
                "😀"
                "\n\n"
                "aaaa"
            |]

            let text =
                String.concat "" [
                    for _ in 0..400 ->
                        words[random.Next words.Length] + (if random.Next 3 = 0 then " " else "")
                ]

            families
            |> List.forall (fun (_, tokenizer) ->
                let specials = [ "<|begin|>"; "<|end|>"; "<s>"; "</s>"; "<unk>" ]
                use reader = new StringReader(text)

                let parted =
                    TextBlocks.ofReader 50 specials reader
                    |> Seq.mapi (fun number block ->
                        if number = 0 then
                            Tokenizer.encodeWith false true tokenizer block
                        else
                            Tokenizer.encodeContinuing true tokenizer block)
                    |> Array.concat

                parted = Tokenizer.encodeWith false true tokenizer text)
    ]

[<Tests>]
let tests = testList "input" [ numbers; reading ]
