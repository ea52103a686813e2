module LayerSkip.Tests.TokenizerTests

open System.Diagnostics
open System.IO
open System.Text
open Expecto
open FsCheck
open FsCheck.FSharp
open LayerSkip
open LayerSkip.Tests.TokenizerSupport

let private streams = [
    for name, tokenizer in families do
        let anyIds = Gen.choose (0, Tokenizer.vocabularySize tokenizer - 1) |> Gen.listOf |> Arb.fromGen

        for showSpecial in [ true; false ] do
            testProperty $"{name}: all that is pushed is what decode gives, special tokens {showSpecial}"
            <| Prop.forAll anyIds (fun ids ->
                streamed (TextStream.create showSpecial tokenizer) ids =
                    Tokenizer.decode showSpecial tokenizer ids
                && streamed (TextStream.continuing showSpecial tokenizer) ids =
                    Tokenizer.decodeContinuing showSpecial tokenizer ids)

        testProperty $"{name}: a text streams back whatever characters it has"
        <| Prop.forAll wellFormed (fun text ->
            let ids = Tokenizer.encodeWith false false tokenizer text |> List.ofArray
            Tokenizer.decode true tokenizer ids = text
            && streamed (TextStream.create true tokenizer) ids = text)

        testProperty $"{name}: what is pushed is never half a character"
        <| Prop.forAll wellFormed (fun text ->
            let step stream id = let struct (text, next) = TextStream.push id stream in text, next
            let ids = Tokenizer.encodeWith false false tokenizer text |> List.ofArray
            let pushed, _ = List.mapFold step (TextStream.create true tokenizer) ids
            text.Contains '\uFFFD' || pushed |> List.forall (fun part -> not (part.Contains '\uFFFD')))
]

let private normalization =
    testList "NFC" [
        for name, text, expected in
            [
                "composes", "cafe\u0301", "caf\u00E9"
                "reorders marks", "s\u0307\u0323", "\u1E69"
                "a mark of the same class blocks", "a\u0315\u0301\u0315", "\u00E1\u0315\u0315"
                "composes Hangul", "\u1112\u1161\u11AB", "\uD55C"
                "decomposes Hangul and composes it again", "\uD55C\uD558\u11AB", "\uD55C\uD55C"
                "replaces singletons", "\u212B\u2126", "\u00C5\u03A9"
                "leaves excluded compositions apart", "\u0958", "\u0915\u093C"
                "beyond the basic plane", "\U0001D15E", "\U0001D157\U0001D165"
                "a starter between blocks", "e\u0327x\u0301", "\u0229x\u0301"
            ] do
            testCase name (fun () -> Expect.equal (Nfc.normalize text) expected "form C")
    ]

let private stages = [
    testCase "Digits and ByteLevel in sequence" (fun () ->
        let sequence =
            """{"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, """
            + byteStage
            + "]}"
        let tokenizer = loadOk (byteJson [ $"\"pre_tokenizer\": {sequence}" ] [])
        Expect.equal (pieces tokenizer "12 hello") [ "1"; "2"; "Ġ"; "hello" ] "single digits"
        let together =
            loadOk (byteJson [ "\"pre_tokenizer\": " + sequence.Replace("true}, ", "false}, ") ] [])
        Expect.equal (pieces together "123") [ "123" ] "digits together")

    testCase "ByteLevel puts a space in front where it says so" (fun () ->
        let stage = bareStage.Replace("\"add_prefix_space\": false", "\"add_prefix_space\": true")
        let tokenizer = loadOk (byteJson [ $"\"pre_tokenizer\": {stage}" ] [])
        Expect.equal (pieces tokenizer "w") [ "Ġw" ] "with a space"
        Expect.equal (pieces tokenizer " w") [ "Ġw" ] "one is enough")

    testCase "ByteLevel without its regular expression merges over words" (fun () ->
        let bare = loadOk (byteJson [ $"\"pre_tokenizer\": {bareStage}" ] [])
        let usual = loadOk (byteJson [ $"\"pre_tokenizer\": {byteStage}" ] [])
        Expect.equal (pieces bare "a1a1aa") [ "a"; "1"; "a"; "1"; "aa" ] "no merge of a1"
        Expect.equal (pieces usual "hello w") [ "hello"; "Ġw" ] "words")

    testCase "merges go by rank, equals from the left" (fun () ->
        Expect.equal (pieces byteLevel "aaaaaaa") [ "aaaa"; "aa"; "a" ] "seven a"
        Expect.equal (pieces byteLevel "hellx") [ "hell"; "x" ] "a prefix")

    testCase "ignore_merges takes a whole word that is a piece" (fun () ->
        let build flag =
            loadOk (
                (byteJson [ $"\"pre_tokenizer\": {byteStage}" ] [ $"\"ignore_merges\": {flag}" ])
                    .Replace("[\"hell\",\"o\"],", "")
            )
        Expect.equal (pieces (build "true") "hello") [ "hello" ] "the piece"
        Expect.equal (pieces (build "false") "hello") [ "hell"; "o" ] "by merges alone")

    for behavior, expected in
        [
            "Isolated", [ "h"; "-"; "-"; "h" ]
            "Removed", [ "h"; "h" ]
            "MergedWithPrevious", [ "h-"; "-"; "h" ]
            "MergedWithNext", [ "h"; "-"; "-h" ]
            "Contiguous", [ "h"; "--"; "h" ]
        ] do
        testCase $"Split {behavior}" (fun () ->
            // Words show in what merges cannot cross: every pair of these characters would merge.
            let vocabulary = """{"h": 0, "-": 1, "h-": 2, "-h": 3, "--": 4}"""
            let merges = """["h -", "- -", "- h"]"""
            let split =
                $"""{{"type": "Split", "pattern": {{"String": "-"}}, "behavior": "{behavior}", "invert": false}}"""
            let tokenizer =
                loadOk
                    $"""{{"model": {{"vocab": {vocabulary}, "merges": {merges}}}, "pre_tokenizer": {split}}}"""
            Expect.equal (pieces tokenizer "h--h") expected "words")

    testCase "words are made of code points, also beyond the basic plane" (fun () ->
        // Deseret letters are letters: one word with the space before it, so the space merges with nothing else.
        let words = PreTokenizer.split (PreTokenizer.known PreTokenizer.gpt2) SplitBehavior.Isolated false
        let split text =
            words { Text = text; Place = Place.First }
            |> Array.map (fun piece -> piece.Text)
            |> List.ofArray
        Expect.equal (split "a\U00010428b \U00010428") [ "a\U00010428b"; " \U00010428" ] "letters"
        Expect.equal (split "\U0001D7CE1x") [ "\U0001D7CE1"; "x" ] "digits"
        Expect.equal (split "x\U0001F600\U0001F600!") [ "x"; "\U0001F600\U0001F600!" ] "symbols")

    testCase "NFC comes before words" (fun () ->
        let tokenizer =
            loadOk (byteJson [ $"\"pre_tokenizer\": {byteStage}"; "\"normalizer\": {\"type\": \"NFC\"}" ] [])
        Expect.equal
            (Tokenizer.encode tokenizer "e\u0301")
            (Tokenizer.encode tokenizer "\u00E9")
            "the same ids")

    testCase "Metaspace puts a space in front always, first or never" (fun () ->
        let build scheme =
            let vocabulary =
                serialize (dict [ for id, token in List.indexed ("<s>" :: spaced) -> token, id ])
            let stage =
                $"""{{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "{scheme}", "split": true}}"""
            loadOk
                $"""{{"model": {{"vocab": {vocabulary}, "merges": ["h e", "l l", "he ll", "hell o", "▁ hello", "▁ w"]}},
                "added_tokens": [{{"id": 0, "content": "<s>", "special": true}}], "pre_tokenizer": {stage}, "decoder": {stage}}}"""
        Expect.equal (pieces (build "always") "hello<s>w") [ "▁hello"; "<s>"; "▁w" ] "always"
        Expect.equal (pieces (build "first") "hello<s>w") [ "▁hello"; "<s>"; "w" ] "first"
        Expect.equal (pieces (build "never") "hello<s>w") [ "hello"; "<s>"; "w" ] "never"
        let always = build "always"
        Expect.equal
            (Tokenizer.decode false always (Tokenizer.encode always "hello w"))
            "hello w"
            "decodes back")
]

let private special = [
    testCase "special tokens are parsed or spelled out, as asked" (fun () ->
        let ends = Tokenizer.eos byteLevel |> Option.get
        Expect.equal (Tokenizer.encode byteLevel "x<|end|>") [| 120 - 33 + 33; ends |] "parsed"
        Expect.isFalse
            (Tokenizer.encodeWith false false byteLevel "x<|end|>" |> Array.contains ends)
            "spelled out"
        Expect.isTrue (Tokenizer.isSpecial byteLevel ends) "is special"
        Expect.equal (Tokenizer.decode false byteLevel [ ends ]) "" "left out"
        Expect.equal (Tokenizer.decode true byteLevel [ ends ]) "<|end|>" "shown")

    testCase "BOS comes where the tokenizer adds one, or on request" (fun () ->
        Expect.equal (Tokenizer.encode sentencePiece "") [| 1 |] "SentencePiece adds it"
        Expect.equal (Tokenizer.encodeWith false true sentencePiece "") [||] "not wanted"
        Expect.equal (Tokenizer.encode byteLevel "") [||] "GPT-2 does not"
        Expect.equal (Tokenizer.encodeWith true true byteLevel "") [| byteTokens.Length - 2 |] "wanted")

    testCase "a template says which token begins" (fun () ->
        let template =
            $"""{{"type": "TemplateProcessing", "single": [{{"SpecialToken": {{"id": "<|begin|>", "type_id": 0}}}}, {{"Sequence": {{"id": "A"}}}}],
                "special_tokens": {{"<|begin|>": {{"id": "<|begin|>", "ids": [{byteTokens.Length - 2}]}}}}}}"""
        let json = byteJson [ $"\"pre_tokenizer\": {byteStage}"; $"\"post_processor\": {template}" ] []
        Expect.equal (pieces (loadOk json) "hello") [ "<|begin|>"; "hello" ] "BOS first"
        Expect.equal (Tokenizer.bos (loadOk json)) (Some(byteTokens.Length - 2)) "is BOS")

    testCase "tokenizer_config.json says it where the template does not" (fun () ->
        let config =
            """{"add_bos_token": true, "bos_token": {"content": "<|begin|>"}, "eos_token": "<|end|>", "chat_template": "{{ messages }}"}"""
        let json = byteJson [ $"\"pre_tokenizer\": {byteStage}" ] []
        inFolder [ "tokenizer.json", json; "tokenizer_config.json", config ] (fun folder ->
            let tokenizer = Tokenizer.tryLoad folder |> Check.getOrRaise |> Option.get
            Expect.equal (pieces tokenizer "hello") [ "<|begin|>"; "hello" ] "BOS first"
            Expect.equal (Tokenizer.eos tokenizer) (Some(byteTokens.Length - 1)) "EOS"
            Expect.equal (Tokenizer.chatTemplate tokenizer) (Some "{{ messages }}") "template"))

    testCase "added tokens take the white space that they claim" (fun () ->
        let cut =
            AddedToken.splitter [
                { AddedToken.plain 7 "<m>" true with TakesLeft = true; TakesRight = true }
            ]
        Expect.equal
            (cut "a  <m> b")
            [ Segment.Text "a"; Segment.Token(7, "  <m> "); Segment.Text "b" ]
            "both sides"
        let word = AddedToken.splitter [ { AddedToken.plain 7 "in" false with SingleWord = true } ]
        Expect.equal (word "inn in") [ Segment.Text "inn "; Segment.Token(7, "in") ] "whole words only"
        let longest = AddedToken.splitter [ AddedToken.plain 1 "<a" true; AddedToken.plain 2 "<a>" true ]
        Expect.equal (longest "<a><a") [ Segment.Token(2, "<a>"); Segment.Token(1, "<a") ] "the longest")

    testCase "characters without a piece become bytes" (fun () ->
        Expect.equal
            (pieces sentencePiece "hello é ö")
            [ "<s>"; "▁hello"; "▁"; "é"; "▁"; "<0xC3>"; "<0xB6>" ]
            "é is a piece, ö is not")

    testCase "an id beyond the vocabulary is no text" (fun () ->
        Expect.equal
            (Tokenizer.decode true byteLevel [ 104; 99999; -1 ])
            (Tokenizer.decode true byteLevel [ 104 ])
            "nothing added"
        Expect.equal (Tokenizer.tokenText byteLevel 99999) "" "no piece")

    testCase "a continuation keeps its first space" (fun () ->
        let ids = Tokenizer.encodeWith false true sentencePiece "hello"
        Expect.equal (Tokenizer.decode false sentencePiece ids) "hello" "at the start"
        Expect.equal (Tokenizer.decodeContinuing false sentencePiece ids) " hello" "after a prompt")

    testCase "bytes that cannot become a character come out as soon as that is certain" (fun () ->
        let struct (first, stream) = TextStream.push (3 + 0xE2) (TextStream.create false sentencePiece)
        let struct (second, stream) = TextStream.push (3 + 0x82) stream
        let struct (third, stream) = TextStream.push (3 + 0x41) stream
        Expect.equal
            [ first; second; third; TextStream.finish stream ]
            [ ""; ""; "\uFFFDA"; "" ]
            "held, then replaced")
]

let private faults = [
    for name, json in
        [
            "broken JSON", "{"
            "a list", "[]"
            "no model", "{}"
            "a model of the wrong kind", """{"model": 5}"""
            "a vocabulary of texts", """{"model": {"vocab": {"a": "b"}, "merges": []}}"""
            "an id that would ask for gigabytes", """{"model": {"vocab": {"a": 2000000000}, "merges": []}}"""
            "a merge of unknown pieces", """{"model": {"vocab": {"a": 0}, "merges": ["a b"]}}"""
            "a merge without a space", """{"model": {"vocab": {"a": 0}, "merges": ["a"]}}"""
            "a merge of one", """{"model": {"vocab": {"a": 0}, "merges": [["a"]]}}"""
            "merges that are missing", """{"model": {"vocab": {"a": 0}}}"""
            "an added token without id",
            """{"model": {"vocab": {"a": 0}, "merges": []}, "added_tokens": [{"content": "x"}]}"""
            "a negative added id",
            """{"model": {"vocab": {"a": 0}, "merges": []}, "added_tokens": [{"id": -4, "content": "x"}]}"""
            "an id past 32 bits", """{"model": {"vocab": {"a": 99999999999}, "merges": []}}"""
            "a normalizer that is a text",
            """{"model": {"vocab": {"a": 0}, "merges": []}, "normalizer": "NFC"}"""
        ] do
        testCase $"{name} is a bad file" (fun () -> load json |> failsWith isBad)

    for name, json in
        [
            "WordPiece", """{"model": {"type": "WordPiece", "vocab": {"a": 0}}}"""
            "Unigram", """{"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}"""
            "an unknown normalizer", byteJson [ """"normalizer": {"type": "Precompiled"}""" ] []
            "an unknown pre-tokenizer", byteJson [ """"pre_tokenizer": {"type": "BertPreTokenizer"}""" ] []
            "an unknown decoder", byteJson [ """"decoder": {"type": "CTC"}""" ] []
            "a pattern of a property that we do not know",
            byteJson [
                """"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\p{Latin}+"}}"""
            ] []
        ] do
        testCase $"{name} is unsupported, with a hint" (fun () -> load json |> failsWith isUnsupported)

    testCase "every unsupported part is named at once" (fun () ->
        match
            load (byteJson [ """"normalizer": {"type": "NFKC"}"""; """"decoder": {"type": "CTC"}""" ] [])
        with
        | Error faults -> Expect.hasLength faults 2 "both"
        | Ok _ -> failtest "an error was wanted")

    testCase "a broken tokenizer_config.json is a bad file" (fun () ->
        inFolder [ "tokenizer.json", byteJson [] []; "tokenizer_config.json", "{" ] Tokenizer.tryLoad
        |> failsWith isBad)

    testCase "a folder without a tokenizer has none" (fun () ->
        Expect.isNone (inFolder [] Tokenizer.tryLoad |> Check.getOrRaise) "none")

    testCase "files that are not there are not found" (fun () ->
        Tokenizer.ofJson "nowhere/tokenizer.json" |> failsWith isMissing
        Tokenizer.ofSentencePiece "nowhere/tokenizer.model" |> failsWith isMissing)

    testProperty "bytes that are no SentencePiece model are an error, not an exception"
    <| fun (bytes: byte[]) ->
        inFolder [] (fun folder ->
            let path = Path.Combine(folder, "tokenizer.model")
            File.WriteAllBytes(path, bytes)
            Result.isError (Tokenizer.ofSentencePiece path))

    Support.sharedTest
        "a truncated tokenizer.model is a bad file"
        [ "stories260K"; "tokenizer.model" ]
        (fun whole ->
            let bytes = File.ReadAllBytes whole

            for length in [ 1; 5; 100; 3000; bytes.Length - 1 ] do
                inFolder [] (fun folder ->
                    let path = Path.Combine(folder, "tokenizer.model")
                    File.WriteAllBytes(path, bytes[.. length - 1])
                    Tokenizer.ofSentencePiece path
                    |> failsWith (fun fault -> isBad fault || isUnsupported fault)))

    for key, value in
        [
            "tokenizer.ggml.tokens", GgufValue.Int 3L
            "tokenizer.ggml.merges", texts [ "nothing known" ]
            "tokenizer.ggml.token_type", numbers [ 1 ]
            "tokenizer.ggml.bos_token_id", GgufValue.Int 100000L
            "tokenizer.ggml.model", GgufValue.Int 1L
        ] do
        testCase $"a GGUF whose {key} is wrong is a bad file" (fun () ->
            Tokenizer.ofGguf "test.gguf" (Map.add key value (byteGguf "gpt-2")) |> failsWith isBad)

    testCase "a GGUF without scores or pieces is a bad file" (fun () ->
        Tokenizer.ofGguf "test.gguf" (Map.remove "tokenizer.ggml.scores" sentenceGguf)
        |> failsWith isBad
        Tokenizer.ofGguf "test.gguf" (Map.remove "tokenizer.ggml.tokens" sentenceGguf)
        |> failsWith isBad)

    testCase "unknown GGUF models and pre-tokenizers are unsupported" (fun () ->
        Tokenizer.ofGguf "test.gguf" (byteGguf "runic") |> failsWith isUnsupported
        let bert = Map [ "tokenizer.ggml.model", GgufValue.Text "bert" ]
        Tokenizer.ofGguf "test.gguf" bert |> failsWith isUnsupported)

    testCase "a GGUF without a tokenizer has none" (fun () ->
        Expect.isNone (Tokenizer.ofGguf "test.gguf" Map.empty |> Check.getOrRaise) "none")
]

let private speed = [
    for name, tokenizer in families do
        testCase $"{name}: a word of 100,000 letters takes no quadratic time" (fun () ->
            let watch = Stopwatch.StartNew()
            let ids = Tokenizer.encode tokenizer (System.String('h', 50_000) + System.String('a', 50_000))
            Expect.isNonEmpty ids "ids"
            // Quadratic time would be minutes.
            Expect.isLessThan watch.Elapsed.TotalSeconds 5.0 "seconds")
]

[<Tests>]
let tests =
    testList "tokenizer" [
        normalization
        testList "streams" streams
        testList "stages" stages
        testList "special tokens" special
        testList "faults" faults
        testList "speed" speed
    ]
