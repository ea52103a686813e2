/// What the files beside a vocabulary add to it, and what a GGUF's names mean.
module LayerSkip.Tests.TokenizerFilesTests

open System
open System.Diagnostics
open System.IO
open System.Text
open Expecto
open FsCheck
open FsCheck.FSharp
open LayerSkip
open LayerSkip.Tests.TokenizerSupport

let private inFolderOf (model: byte[]) (files: (string * string) list) (body: Tokenizer -> unit) =
    inFolder files (fun folder ->
        File.WriteAllBytes(Path.Combine(folder, "tokenizer.model"), model)
        Tokenizer.tryLoad folder |> Check.getOrRaise |> Option.get |> body)

let private besideSentencePiece = [
    let model = sentencePieceModel [ "\u2581"; "h"; "i" ]

    testCase "added_tokens.json follows the pieces of a tokenizer.model" (fun () ->
        inFolderOf
            model
            [
                "added_tokens.json", """{"<|im_end|>": 6, "<|im_start|>": 7}"""
                "special_tokens_map.json", """{"eos_token": {"content": "<|im_end|>"}}"""
            ]
            (fun tokenizer ->
                let ids = Tokenizer.encode tokenizer "<|im_start|>hi<|im_end|>"
                Expect.equal ids [| 1; 7; 3; 4; 5; 6 |] "parsed"
                Expect.equal
                    (Tokenizer.decode true tokenizer [ 7; 4; 6 ])
                    "<|im_start|>h<|im_end|>"
                    "and back"
                Expect.isTrue (Tokenizer.isSpecial tokenizer 6) "what is named is special"
                Expect.isFalse (Tokenizer.isSpecial tokenizer 7) "what is not is text"))

    testCase "added_tokens_decoder does, and takes the place of pieces" (fun () ->
        inFolderOf
            model
            [
                "tokenizer_config.json",
                """{"added_tokens_decoder": {"5": {"content": "<|x|>", "special": true}, "6": {"content": "<|im_end|>", "special": true}},
                    "eos_token": "<|im_end|>", "add_bos_token": false}"""
            ]
            (fun tokenizer ->
                Expect.equal (Tokenizer.encode tokenizer "<|x|><|im_end|>") [| 5; 6 |] "parsed"
                Expect.equal (Tokenizer.eos tokenizer) (Some 6) "the end"))
]

let private vocabAndMerges = [
    let loadWith config = inFolder (gpt2Files @ config) Tokenizer.tryLoad |> Result.map Option.get
    let fromJson = loadOk (byteJson [ $"\"pre_tokenizer\": {byteStage}" ] [])

    testProperty "vocab.json with merges.txt alone is GPT-2's tokenizer"
    <| (let tokenizer = loadWith [] |> Check.getOrRaise

        Prop.forAll wellFormed (fun text ->
            Tokenizer.encodeWith false false tokenizer text = Tokenizer.encodeWith false false fromJson text
            && Tokenizer.decode true tokenizer (Tokenizer.encodeWith false true tokenizer text) = text))

    testCase "its special tokens are those that tokenizer_config.json names" (fun () ->
        let tokenizer =
            loadWith [
                "tokenizer_config.json",
                """{"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|end|>", "added_tokens_decoder":
                    {"268": {"content": "<|im_end|>", "special": true}}}"""
            ]
            |> Check.getOrRaise

        let last = byteTokens.Length
        let ids = Tokenizer.encode tokenizer "hello<|end|>"
        Expect.equal (Array.last ids) (last - 1) "the end"
        Expect.equal (Tokenizer.eos tokenizer) (Some(last - 1)) "named"
        Expect.equal (Tokenizer.encode tokenizer "<|im_end|>") [| 268 |] "added"
        // e and an accent, one character in form C.
        Expect.equal
            (Tokenizer.encode tokenizer "e\u0301")
            (Tokenizer.encode tokenizer "\u00E9")
            "Qwen's form C")

    testCase "the words of another class are not GPT-2's" (fun () ->
        loadWith [ "tokenizer_config.json", """{"tokenizer_class": "CLIPTokenizer"}""" ]
        |> failsWith isUnsupported)

    testCase "merges of pieces that are none are a fault of merges.txt" (fun () ->
        match inFolder [ gpt2Files[0]; "merges.txt", "h e\nx\n" ] Tokenizer.tryLoad with
        | Error [ LayerSkipError.BadFile(path, _) ] -> Expect.stringEnds path "merges.txt" "where"
        | other -> failtest $"%A{other}")
]

let private bosRules = [
    let template =
        $"""{{"type": "TemplateProcessing", "single": [{{"SpecialToken": {{"id": "<|begin|>", "type_id": 0}}}}, {{"Sequence": {{"id": "A"}}}}],
            "special_tokens": {{"<|begin|>": {{"id": "<|begin|>", "ids": [{byteTokens.Length - 2}]}}}}}}"""

    let adds processor config =
        let json =
            byteJson [
                $"\"pre_tokenizer\": {byteStage}"
                if processor then
                    $"\"post_processor\": {template}"
            ] []

        let tokenizer =
            inFolder [ "tokenizer.json", json; "tokenizer_config.json", config ] Tokenizer.tryLoad
            |> Check.getOrRaise
            |> Option.get

        Expect.equal
            (Tokenizer.addsBos tokenizer)
            (Tokenizer.encode tokenizer "h" |> Array.length > 1)
            "says it"
        Tokenizer.addsBos tokenizer

    let config kind rule = $"""{{"tokenizer_class": "{kind}", "bos_token": "<|begin|>"{rule}}}"""
    let no, yes = ", \"add_bos_token\": false", ", \"add_bos_token\": true"

    for kind in [ "LlamaTokenizer"; "LlamaTokenizerFast"; "CodeLlamaTokenizer" ] do
        testCase $"{kind} makes a post-processor of its own: the configuration's word stands" (fun () ->
            Expect.isFalse (adds true (config kind no)) "none against the file's"
            Expect.isTrue (adds false (config kind yes)) "one where the file has none"
            Expect.isTrue (adds false (config kind "")) "one where nothing is said"
            Expect.isFalse (adds false (config kind no)) "none")

    testCase "other tokenizers keep the file's post-processor, where it has one" (fun () ->
        let kind = "PreTrainedTokenizerFast"
        Expect.isTrue (adds true (config kind no)) "the file's"
        Expect.isFalse (adds false (config kind "")) "none"
        Expect.isTrue (adds false (config kind yes)) "the configuration's")

    testCase "a text that has BOS and gets another begins twice" (fun () ->
        let begins text = Tokenizer.beginsTwice sentencePiece (Tokenizer.encode sentencePiece text)
        Expect.isTrue (begins "<s>hello") "twice"
        Expect.isFalse (begins "hello") "once"
        Expect.isFalse (begins "") "alone"
        Expect.isFalse
            (Tokenizer.beginsTwice byteLevel (Tokenizer.encode byteLevel "<|begin|>h"))
            "none is put before")
]

let private ggufNames = [
    testCase "deepseek-r1-qwen is qwen2's rule" (fun () ->
        let ids pre = Tokenizer.encode (ofGguf (byteGguf pre)) GgufTokenizerExport.probe
        Expect.equal (ids "deepseek-r1-qwen") (ids "qwen2") "ids")

    testCase "an unknown name is unsupported, not a damaged file" (fun () ->
        Tokenizer.ofGguf "m.gguf" (byteGguf "nonsense") |> failsWith isUnsupported)

    testCase "a text ends at the tokens that llama.cpp ends it at" (fun () ->
        let named pieces = StopTokens.named (Array.ofList pieces)
        Expect.equal (named [ "<|endoftext|>"; "a"; "<|im_end|>"; "<|im_start|>" ]) [ 0; 2 ] "by their names"
        Expect.equal (named [ "<|end|>"; "<|return|>" ]) [ 0; 1 ] "both"
        Expect.equal
            (named [ "<|end|>"; "<|return|>"; "<|call|>" ])
            [ 1; 2 ]
            "an end of a message is none of a text"
        Expect.equal (named [ "</s>"; "<|tool_response>" ]) [ 1 ] "nor is this")

    testProperty "the stop ids of a file are those that were written, in their order"
    <| fun (ids: byte list) ->
        let ids = ids |> List.map int |> List.distinct |> Array.ofList
        let metadata =
            Map(("tokenizer.ggml.tokens", GgufValue.Texts [| "<|im_end|>" |]) :: StopTokens.metadata ids)
        StopTokens.ofMetadata 256 [ 7 ] metadata = Ok ids

    testCase "ids outside the vocabulary are a fault" (fun () ->
        Expect.isError (StopTokens.ofMetadata 5 [] (Map(StopTokens.metadata [| 5 |]))) "outside")
]

let private normalForm = [
    testCase "form C keeps the order of marks of one class" (fun () ->
        for text, expected in
            [
                "\u1EBF\u0323", "\u1EC7\u0301"
                "a\u0302\u0301\u0323", "\u1EAD\u0301"
                "\u03B0\u0327", "\u03B0\u0327"
                "a\u0315\u0300\u05AE\u0327\u0062", "\u00E0\u0327\u05AE\u0315b"
            ] do
            Expect.equal (Nfc.normalize text) expected $"%A{text}")
]
[<Tests>]
let tests =
    testList "tokenizer files" [
        testList "beside tokenizer.model" besideSentencePiece
        testList "vocab.json and merges.txt" vocabAndMerges
        testList "BOS" bosRules
        testList "GGUF" ggufNames
        testList "form C" normalForm
    ]
