module LayerSkip.Tests.BpeTrainerTests

open System
open System.Collections.Generic
open System.IO
open System.Security.Cryptography
open System.Text
open System.Text.RegularExpressions
open Expecto
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.FileSupport

let eot = "<|endoftext|>"

let train options texts = BpeTrainer.train options texts |> Check.getOrRaise

/// Trains, writes, reads back.
let writtenBy (trained: TrainedBpe) : Tokenizer =
    withFolder (fun folder ->
        BpeTrainer.write folder trained |> Check.getOrRaise
        Tokenizer.tryLoad folder |> Check.getOrRaise |> Option.get)

let mergesOf (trained: TrainedBpe) = [
    for struct (left, right) in trained.Merges -> trained.Pieces[left], trained.Pieces[right]
]

let sample =
    "The cat sat on the mat, the hat and the cat's bat. It's 2024: naïve café, 😀😀!\n\n\tthe cat  the cat"

let private worked = [
    // ab 8 times, bb, cd and ee 4 (ee overlaps itself), then abab 3 and eee 2.
    let texts =
        [ "abab", 3; "ab", 2; "bb", 4; "cd", 4; "eee", 2 ]
        |> List.collect (fun (text, count) -> List.replicate count text)

    let expected = [ "a", "b"; "b", "b"; "c", "d"; "e", "e"; "ab", "ab"; "ee", "e" ]

    testCase "a small example by hand" (fun () ->
        let trained = train (BpeOptions.ofVocabulary 263) texts
        Expect.equal (mergesOf trained) expected "the most frequent first, then the smaller ids"
        Expect.equal trained.Pieces[0] eot "the special token"
        Expect.equal trained.Pieces[1..3] [| "!"; "\""; "#" |] "bytes in the order of their characters"
        Expect.equal trained.Pieces[257..] [| "ab"; "bb"; "cd"; "ee"; "abab"; "eee" |] "pieces"
        Expect.equal (trained.Bytes, trained.Tokens) (38L, 15L) "bytes and tokens"
        Expect.isEmpty trained.Remarks "nothing to say")

    testCase "a text that is too small for the vocabulary gives a smaller one, and a remark" (fun () ->
        let trained = train (BpeOptions.ofVocabulary 1000) texts
        Expect.equal (mergesOf trained) expected "all there are"

        Expect.equal
            trained.Remarks
            [
                "the vocabulary has 263 tokens, not 1000: no other pair occurs 2 times in the text"
            ]
            "the remark")

    testCase "pairs that are rarer than the least frequency stay apart" (fun () ->
        let trained = train { BpeOptions.ofVocabulary 1000 with MinFrequency = 4 } texts
        Expect.equal (mergesOf trained) (List.truncate 4 expected) "four times or more")

    testCase "special tokens are cut out of the text, and take the first ids" (fun () ->
        let options = { BpeOptions.ofVocabulary 300 with SpecialTokens = [ eot; "<b>" ]; MinFrequency = 1 }
        let apart = train options [ "xy"; "yx"; "x" ]
        Expect.equal (train options [ $"xy{eot}yx<b>{eot}x" ]) apart "separators"
        Expect.equal apart.Pieces[..1] [| eot; "<b>" |] "ids 0 and 1"
        Expect.equal apart.Bytes 5L "no text")

    testCase "no merge makes a piece that is spelled as a special token" (fun () ->
        // "Ġa" spells a space and an a.
        let options = { BpeOptions.ofVocabulary 300 with SpecialTokens = [ "Ġa" ]; MinFrequency = 1 }
        let trained = train options [ " ab ab ab" ]
        Expect.equal (mergesOf trained) [ "a", "b"; "Ġ", "ab" ] "another way"
        Expect.equal (HashSet trained.Pieces).Count trained.Pieces.Length "distinct")

    testCase "the first special token begins a text where asked for, and ends it" (fun () ->
        let options = {
            BpeOptions.ofVocabulary 300 with
                SpecialTokens = [ "<s>"; "<x>" ]
                ModelMaxLength = Some 64
        }

        for addsBos in [ true; false ] do
            let tokenizer = train { options with AddsBos = addsBos } [ sample ] |> writtenBy
            let front = if addsBos then [| 0 |] else [||]
            Expect.equal (Tokenizer.encode tokenizer "") front "front"
            Expect.equal (Tokenizer.encode tokenizer "<x><s>") (Array.append front [| 1; 0 |]) "parsed"
            Expect.equal (Tokenizer.encodeWith true true tokenizer "") [| 0 |] "on request"
            Expect.equal (Tokenizer.bos tokenizer, Tokenizer.eos tokenizer) (Some 0, Some 0) "both"
            Expect.isTrue (Tokenizer.isSpecial tokenizer 1) "special"
            Expect.equal (Tokenizer.kind tokenizer) "byte-level BPE" "kind"

        let none = train { options with SpecialTokens = [] } [ sample ] |> writtenBy
        Expect.equal (Tokenizer.encode none "", Tokenizer.bos none) ([||], None) "none")

    testCase "what is written is what Hugging Face's libraries ask for" (fun () ->
        withFolder (fun folder ->
            let options = { BpeOptions.ofVocabulary 300 with ModelMaxLength = Some 64 }
            BpeTrainer.write folder (train options [ sample ]) |> Check.getOrRaise
            let read name =
                Json.JsonDocument.Parse(File.ReadAllBytes(Path.Combine(folder, name))).RootElement
            let config, root = read "tokenizer_config.json", read "tokenizer.json"

            let kinds = [
                for name in [ "pre_tokenizer"; "post_processor"; "decoder"; "model" ] ->
                    root.GetProperty(name).GetProperty("type").GetString()
            ]

            Expect.equal kinds [ "ByteLevel"; "Sequence"; "ByteLevel"; "BPE" ] "stages"
            Expect.equal (root.GetProperty("normalizer").ValueKind) Json.JsonValueKind.Null "normalizer"
            Expect.equal
                (config.GetProperty("tokenizer_class").GetString())
                "PreTrainedTokenizerFast"
                "class"
            Expect.equal (config.GetProperty("model_max_length").GetInt32()) 64 "length"
            Expect.equal (Directory.GetFileSystemEntries(folder).Length) 2 "no other file"))

    testCase "a long text without white space is trained on" (fun () ->
        let trained = train (BpeOptions.ofVocabulary 280) [ String('x', 100_000) ]
        Expect.equal trained.Merges.Length 16 "halves, down to two"
        Expect.isLessThan trained.Tokens 16L "tokens")
]

let private faults = [
    let options = BpeOptions.ofVocabulary 300
    let refuses name options texts parts =
        testCase name (fun () -> BpeTrainer.train options texts |> messages |> expectFault parts)

    refuses "a vocabulary below the bytes" { options with Vocabulary = 256 } [ sample ] [
        "vocab-size is 256"
        "257 to"
        "256 bytes and 1 special token"
    ]
    refuses "a vocabulary beyond all sense" { options with Vocabulary = Int32.MaxValue } [ sample ] [
        "vocab-size is 2147483647"
        "16777216"
    ]
    refuses "no text" options [] [ "no text to train on" ]
    refuses "empty texts" options [ ""; "" ] [ "no text to train on" ]
    refuses "nothing but special tokens" options [ eot + eot ] [ "no text to train on" ]
    refuses "an empty special token" { options with SpecialTokens = [ "" ] } [ sample ] [ "special is empty" ]
    refuses "a special token twice" { options with SpecialTokens = [ "<a>"; "<b>"; "<a>" ] } [ sample ] [
        "special is given 2 times as \"<a>\""
    ]
    refuses "a special token that is a byte" { options with SpecialTokens = [ "x" ] } [ sample ] [
        "special is x"
        "the piece of a byte"
    ]
    refuses
        "a special token that is no text"
        { options with SpecialTokens = [ String [| '<'; '\uD800'; '>' |] ] } [ sample ] [
            "special"
            "UTF-16"
        ]
    refuses "no frequency" { options with MinFrequency = 0 } [ sample ] [ "min-frequency is 0" ]
    refuses "no length" { options with ModelMaxLength = Some 0 } [ sample ] [ "model-max-length is 0" ]

    testCase "all faults of the options at once" (fun () ->
        let bad = { options with Vocabulary = 1; MinFrequency = 0; SpecialTokens = [ "" ] }
        Expect.hasLength (BpeTrainer.check bad |> messages) 3 "three")

    testCase "a folder that cannot be written" (fun () ->
        withBytes [| 1uy |] (fun file ->
            BpeTrainer.write file (train options [ sample ])
            |> messages
            |> expectFault [ file; "cannot be written" ]))
]

let private references = [
    sharedTest
        "the 21,271 merges of Hugging Face's trainer on tinyshakespeare's lines"
        [ "text"; "tinyshakespeare.txt" ]
        (fun path ->
            // tokenizers 0.23.2, with its trainer's defaults: until no pair is left.
            let options = { BpeOptions.ofVocabulary 30_000 with SpecialTokens = []; MinFrequency = 1 }
            let trained = train options (Regex.Split(File.ReadAllText path, "(?<=\n)"))
            let merges = mergesOf trained |> List.map (fun (left, right) -> $"{left} {right}")
            let hash =
                String.Join('\n', merges)
                |> Encoding.UTF8.GetBytes
                |> SHA256.HashData
                |> Convert.ToHexStringLower
            Expect.hasLength merges 21_271 "merges"
            Expect.equal hash "4ebd9681dd26100711f45c8c0c269a11c372a3f4b6adace59d0fa8a6457ff4c0" "SHA-256")

    sharedTest "1,024 tokens for TinyStories" [ "text"; "tinystories-valid.txt" ] (fun path ->
        let options = BpeOptions.ofVocabulary 1024
        let trained = TextBlocks.ofFile options.SpecialTokens path |> train options
        let rate = float trained.Bytes / float trained.Tokens
        Expect.isTrue (2.8 < rate && rate < 3.6) $"{rate} bytes per token"
        Expect.equal trained.Pieces.Length 1024 "size"
        Expect.contains trained.Pieces "Ġ" "bytes"
        Expect.contains trained.Pieces "Ġthe" "a word"

        let tokenizer = writtenBy trained
        let text = File.ReadAllText path
        let ids = Tokenizer.encode tokenizer text
        let isText id = not (Tokenizer.isSpecial tokenizer id)
        Expect.equal (Tokenizer.decode true tokenizer ids[1..]) text "decodes"
        Expect.equal (int64 (Array.filter isText ids).Length) trained.Tokens "tokens")
]

[<Tests>]
let tests =
    testList "tokenizer training" [
        testList "examples" worked
        testList "faults" faults
        testList "references" references
    ]
