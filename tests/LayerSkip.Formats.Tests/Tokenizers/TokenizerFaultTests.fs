/// Tokenizers' files that are not what they must be, or that would take time and memory without end.
module LayerSkip.Tests.TokenizerFaultTests

open System
open System.Diagnostics
open System.IO
open System.Text
open Expecto
open FsCheck
open FsCheck.FSharp
open LayerSkip
open LayerSkip.Tests.TokenizerSupport

/// The JSON values of a tokenizer.json that has everything, one after the other in place of another value.
let private mutants: Lazy<string list> =
    lazy
        (let whole =
            """{"added_tokens": [{"id": 6, "content": "<s>", "special": true, "lstrip": false, "rstrip": false, "single_word": false, "normalized": true}],
                "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "x"}, {"type": "Replace", "pattern": {"String": " "}, "content": "y"}]},
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "a+"}, "behavior": "Isolated", "invert": false},
                    {"type": "Digits", "individual_digits": true}, {"type": "Metaspace", "replacement": "z", "prepend_scheme": "first", "split": true},
                    {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}]},
                "post_processor": {"type": "Sequence", "processors": [{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
                    "special_tokens": {"<s>": {"id": "<s>", "ids": [6]}}}]},
                "decoder": {"type": "Sequence", "decoders": [{"type": "Replace"}, {"type": "Strip", "start": 1}]},
                "model": {"type": "BPE", "unk_token": "a", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                    "continuing_subword_prefix": "", "end_of_word_suffix": "", "vocab": {"a": 0, "b": 1, "ab": 2, "abb": 3}, "merges": ["a b", ["ab", "b"]]}}"""

         let root = Text.Json.Nodes.JsonNode.Parse whole

         // Every value's path.
         let rec paths (node: Text.Json.Nodes.JsonNode) (path: obj list) : obj list list = [
             if not path.IsEmpty then
                 List.rev path

             match node with
             | :? Text.Json.Nodes.JsonObject as node ->
                 for entry in node do
                     yield! paths entry.Value (box entry.Key :: path)
             | :? Text.Json.Nodes.JsonArray as node ->
                 for i in 0 .. node.Count - 1 do
                     yield! paths node[i] (box i :: path)
             | _ -> ()
         ]

         let values = [
             "null"
             "0"
             "-1"
             "2147483647"
             "1e300"
             "true"
             "\"\""
             "\"\\ud800\""
             "[]"
             "{}"
             "[null]"
             "{\"\": null}"
             "{\"\\udc00\": 1}"
         ]

         [
             for path in paths root [] do
                 for value in values do
                     let root = Text.Json.Nodes.JsonNode.Parse whole

                     let parent =
                         path[.. path.Length - 2]
                         |> List.fold
                             (fun (node: Text.Json.Nodes.JsonNode) step ->
                                 match step with
                                 | :? string as name -> node[name]
                                 | step -> node[unbox<int> step])
                             root

                     let mark = Text.Json.Nodes.JsonValue.Create "@HERE@"

                     match List.last path with
                     | :? string as name -> parent[name] <- mark
                     | step -> parent[unbox<int> step] <- mark

                     root.ToJsonString().Replace("\"@HERE@\"", value)
         ])

let private isOneLine (outcome: Result<'T, LayerSkipError list>) =
    match outcome with
    | Ok _ -> ()
    | Error faults -> Expect.isFalse ((LayerSkipError.summary faults).Contains '\n') "one line"

/// A tokenizer that was loaded encodes and decodes, or says in a line why not.
let private use' (outcome: Result<Tokenizer option, LayerSkipError list>) =
    isOneLine outcome

    match outcome with
    | Ok(Some tokenizer) ->
        try
            let ids = Tokenizer.encode tokenizer "ab 12 <s>\u00E9\U0001F600"
            Tokenizer.decode true tokenizer ids |> ignore
        with :? LayerSkipException ->
            ()
    | _ -> ()

let private malformed = [
    testCase
        "a value of another kind anywhere in tokenizer.json is an error that says where, or a tokenizer"
        (fun () ->
            for json in mutants.Value do
                use' (load json)

            match load (mutants.Value |> List.find (fun json -> json.Contains "\"content\":null")) with
            | Error faults ->
                Expect.stringContains (LayerSkipError.summary faults) "added_tokens[0].content" "where"
            | Ok _ -> failtest "it was read")

    testCase "so is one in the files beside it" (fun () ->
        for name in [ "tokenizer_config.json"; "special_tokens_map.json"; "added_tokens.json" ] do
            for field in
                [
                    "add_bos_token"
                    "bos_token"
                    "chat_template"
                    "added_tokens_decoder"
                    "additional_special_tokens"
                    "tokenizer_class"
                    "a"
                ] do
                for value in
                    [
                        "null"
                        "1"
                        "2147483647"
                        "[]"
                        "[null]"
                        "{}"
                        "{\"x\": 1}"
                        "{\"1\": null}"
                        "\"\\ud800\""
                    ] do
                    inFolder
                        [
                            "tokenizer.json", byteJson [ $"\"pre_tokenizer\": {byteStage}" ] []
                            name, $"{{\"{field}\": {value}}}"
                        ]
                        (Tokenizer.tryLoad >> use'))

    testProperty "a tokenizer.model with a byte changed or cut off is an error or a tokenizer"
    <| fun (places: (uint16 * byte) list) (cut: uint16) ->
        let model = sentencePieceModel [ "\u2581"; "h"; "i"; "hi"; "\u2581hi" ]

        for place, value in places do
            model[int place % model.Length] <- value

        inFolder [] (fun folder ->
            let whole =
                Array.truncate
                    (if cut % 2us = 0us then
                         model.Length
                     else
                         int cut % model.Length)
                    model
            File.WriteAllBytes(Path.Combine(folder, "tokenizer.model"), whole)
            Tokenizer.tryLoad folder |> use')

    testProperty "so are a vocab.json and a merges.txt"
    <| fun (places: (uint16 * byte) list) ->
        let changed (text: string) =
            let bytes = Encoding.UTF8.GetBytes text
            for place, value in places do
                bytes[int place % bytes.Length] <- value
            bytes

        inFolder [] (fun folder ->
            for name, text in gpt2Files do
                File.WriteAllBytes(Path.Combine(folder, name), changed text)
            Tokenizer.tryLoad folder |> use')

    testCase "ids far beyond the pieces ask for no memory" (fun () ->
        for id in [ 16_777_215; 2_147_483_647 ] do
            load $"""{{"model": {{"vocab": {{"a": 0, "b": {id}}}, "merges": []}}}}"""
            |> failsWith isBad

        let tokenizer = loadOk """{"model": {"vocab": {"a": 0, "b": 90000}, "merges": []}}"""
        Expect.equal (Tokenizer.encode tokenizer "ab") [| 0; 90000 |] "but a hole is a hole")
]

/// Runs within so many seconds, which are many times what it takes, and many times less than it took.
let private within (seconds: float) (body: unit -> unit) =
    let started = Stopwatch.GetTimestamp()
    body ()
    Expect.isLessThan (Stopwatch.GetElapsedTime started).TotalSeconds seconds "it took long"

let private bounded = [
    testCase "normalizers that multiply a text are stopped" (fun () ->
        let doubling = """{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}"""
        let steps = List.replicate 40 doubling |> String.concat ", "
        let sequence = $"""{{"type": "Sequence", "normalizers": [{steps}]}}"""
        let tokenizer =
            loadOk $"""{{"model": {{"vocab": {{"a": 0}}, "merges": []}}, "normalizer": {sequence}}}"""
        let fault = Expect.throwsC (fun () -> Tokenizer.encode tokenizer (String('a', 48)) |> ignore) id
        Expect.stringContains fault.Message "normalizer" "says what"
        Expect.stringContains fault.Message "tokenizer.json" "says where")

    testCase "so are one that makes much of little, and sequences without end" (fun () ->
        let long = String('x', 100_000)
        let step = $"""{{"type": "Replace", "pattern": {{"String": "a"}}, "content": "{long}"}}"""
        let tokenizer =
            loadOk $"""{{"model": {{"vocab": {{"a": 0}}, "merges": []}}, "normalizer": {step}}}"""
        Expect.throwsT<LayerSkipException>
            (fun () -> Tokenizer.encode tokenizer (String('a', 100_000)) |> ignore)
            "one"
        let many = List.replicate 10_000 """{"type": "NFC"}""" |> String.concat ", "
        let sequence = $"""{{"type": "Sequence", "normalizers": [{many}]}}"""
        load $"""{{"model": {{"vocab": {{"a": 0}}, "merges": []}}, "normalizer": {sequence}}}"""
        |> failsWith isBad)

    testCase "a long piece of a SentencePiece vocabulary takes no square of its length" (fun () ->
        within 20.0 (fun () ->
            let tokens = sentenceTokens @ [ String('h', 200_000); String('e', 200_001) ]

            let tokenizer =
                sentenceGguf
                |> Map.add "tokenizer.ggml.tokens" (texts tokens)
                |> Map.add
                    "tokenizer.ggml.scores"
                    (GgufValue.Floats(Array.init tokens.Length (fun id -> -float id)))
                |> Map.add
                    "tokenizer.ggml.token_type"
                    (numbers [
                        for id in 0 .. tokens.Length - 1 ->
                            if id = 0 then 2
                            elif id < 3 then 3
                            elif id < 259 then 6
                            else 1
                    ])
                |> ofGguf

            Expect.equal
                (Tokenizer.encode tokenizer "hello")
                (Tokenizer.encode sentencePiece "hello")
                "as without it"))

    testCase "cuts of a piece are all found" (fun () ->
        // By every cut, as before.
        let tokenizer = sentencePiece
        let pieces =
            tokenizer.Pieces
            |> Array.mapi (fun id piece -> piece, id)
            |> Array.filter (fun (_, id) -> id >= 259)
        let symbol (text: string) =
            match pieces |> Array.tryFind (fun (piece, _) -> piece = text) with
            | Some(_, id) -> Some id
            | None when text.Length = 1 -> Some(-1 - int text[0])
            | None -> None

        let expected =
            set [
                for piece, id in pieces do
                    for cut in 1 .. piece.Length - 1 do
                        match symbol piece[.. cut - 1], symbol piece[cut..] with
                        | Some left, Some right -> Pair.key left right, id
                        | _ -> ()
            ]

        let found =
            set [
                for entry in tokenizer.Parts.Bpe.Merges ->
                    let struct (_, id) = entry.Value
                    entry.Key, id
            ]

        Expect.equal found expected "merges")

    testCase "long words are merged, and many added tokens found, in little time" (fun () ->
        within 30.0 (fun () ->
            Tokenizer.encode sentencePiece (String('l', 400_000)) |> ignore
            Tokenizer.encode byteLevel (String('a', 400_000)) |> ignore

            let added =
                [
                    for i in 0..9_999 ->
                        $"""{{"id": {i + 1}, "content": "<{String('x', i % 50)}{i}>", "special": true}}"""
                ]
                |> String.concat ", "

            let tokenizer =
                loadOk $"""{{"added_tokens": [{added}], "model": {{"vocab": {{"a": 0}}, "merges": []}}}}"""
            let text = String.replicate 20_000 "<xxa" + "<xx2>"
            Expect.equal (Array.last (Tokenizer.encode tokenizer text)) 3 "the last"))

    testCase "the longest of the added tokens that begin at a place is taken" (fun () ->
        let cut =
            AddedToken.splitter [
                AddedToken.plain 1 "ab" true
                AddedToken.plain 2 "abc" true
                AddedToken.plain 3 "bcd" true
            ]
        Expect.equal (cut "abcd") [ Segment.Token(2, "abc"); Segment.Text "d" ] "longest"
        Expect.equal (cut "xabd") [ Segment.Text "x"; Segment.Token(1, "ab"); Segment.Text "d" ] "leftmost")
]
[<Tests>]
let tests = testList "tokenizer files" [ testList "malformed" malformed; testList "bounded" bounded ]
