/// Special tokens in a text, and texts that go on from others.
module LayerSkip.Tests.SpecialTokenTests

open Expecto
open FsCheck
open FsCheck.FSharp
open LayerSkip
open LayerSkip.Tests.TokenizerSupport

let private metaspace scheme =
    let vocabulary = serialize (dict [ for id, token in List.indexed ("<s>" :: spaced) -> token, id ])
    let stage =
        $"""{{"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "{scheme}", "split": true}}"""
    loadOk
        $"""{{"model": {{"vocab": {vocabulary}, "merges": ["h e", "l l", "he ll", "hell o", "\u2581 hello", "\u2581 w"]}},
        "added_tokens": [{{"id": 0, "content": "<s>", "special": true}}], "pre_tokenizer": {stage}, "decoder": {stage}}}"""

/// Tokenizers that put a space before a text, each by another field of its file.
let private prefixing = [
    "SentencePiece", sentencePiece
    "Metaspace always", metaspace "always"
    "Metaspace first", metaspace "first"
    "ByteLevel",
    loadOk (byteJson [ "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true}" ] [])
    "Prepend",
    loadOk
        """{"model": {"vocab": {"\u2581": 0, "h": 1, "w": 2}, "merges": []},
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}}"""
]

/// Texts of the characters of special tokens, so that these occur.
let private tokenTexts =
    Gen.elements [
        "<s>"
        "</s>"
        "<unk>"
        "<|begin|>"
        "<|end|>"
        "<"
        "|"
        ">"
        "end"
        "s"
        " "
        "h"
    ]
    |> Gen.listOf
    |> Gen.map (String.concat "")
    |> Arb.fromGen

[<Tests>]
let tests =
    testList "special tokens" [
        for name, tokenizer in prefixing do
            testCase $"{name}: a text that goes on gets no space in front" (fun () ->
                let front = (Tokenizer.encodeWith false true tokenizer "h")[0]
                Expect.isTrue
                    (Tokenizer.decodeContinuing true tokenizer [ front ] |> _.StartsWith(' '))
                    "a text does"
                let ids = Tokenizer.encodeContinuing true tokenizer "h"
                Expect.equal (Tokenizer.decodeContinuing true tokenizer ids) "h" "what goes on does not"
                let spaced = Tokenizer.encodeContinuing true tokenizer " w"
                Expect.equal (Tokenizer.decodeContinuing true tokenizer spaced) " w" "its own space stays")

        testCase "a text that goes on never begins with BOS" (fun () ->
            Expect.equal (Tokenizer.encode sentencePiece "") [| 1 |] "a text does"
            Expect.equal (Tokenizer.encodeContinuing true sentencePiece "") [||] "what goes on does not")

        testCase "a text that goes on has special tokens where they are parsed" (fun () ->
            Expect.equal (Tokenizer.encodeContinuing true sentencePiece "</s>") [| 2 |] "parsed"
            Expect.isFalse
                (Tokenizer.encodeContinuing false sentencePiece "</s>" |> Array.contains 2)
                "spelled")

        for name, tokenizer in families do
            testProperty $"{name}: no text gives a special token where none is parsed"
            <| Prop.forAll tokenTexts (fun text ->
                let isSpecial id = Tokenizer.isSpecial tokenizer id && tokenizer.Parts.Bpe.Unknown <> Some id

                Seq.append
                    (Tokenizer.encodeWith false false tokenizer text)
                    (Tokenizer.encodeContinuing false tokenizer text)
                |> Seq.exists isSpecial
                |> not)

        testCase "neither merges nor whole words make a special token where none is parsed" (fun () ->
            let build ignoreMerges =
                loadOk
                    $"""{{"model": {{"vocab": {{"E": 0, "O": 1, "T": 2, "EO": 3, "EOT": 4}}, "merges": ["E O", "EO T"], "ignore_merges": {ignoreMerges}}},
                    "added_tokens": [{{"id": 4, "content": "EOT", "special": true}}]}}"""

            for ignoreMerges in [ "true"; "false" ] do
                let tokenizer = build ignoreMerges
                Expect.equal (Tokenizer.encodeWith false true tokenizer "EOT") [| 4 |] "parsed"
                Expect.equal (Tokenizer.encodeWith false false tokenizer "EOT") [| 3; 2 |] "spelled")
    ]
