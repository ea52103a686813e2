/// What the files beside a vocabulary add to it, what a GGUF's names mean, and files that are not what they must be.
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

/// A SentencePiece model of its kind BPE: <unk>, <s>, </s>, then pieces.
let private sentencePieceModel (pieces: string list) : byte[] =
    use stream = new MemoryStream()
    let field (stream: Stream) number (bytes: byte[]) =
        stream.WriteByte(byte (number * 8 + 2))
        let mutable length = bytes.Length
        while length >= 128 do
            stream.WriteByte(byte (length % 128 + 128))
            length <- length / 128
        stream.WriteByte(byte length)
        stream.Write(ReadOnlySpan bytes)

    [ "<unk>", 2; "<s>", 3; "</s>", 3 ] @ [ for piece in pieces -> piece, 1 ]
    |> List.iteri (fun id (piece, kind) ->
        use inner = new MemoryStream()
        field inner 1 (Encoding.UTF8.GetBytes piece)
        inner.WriteByte(byte (2 * 8 + 5))
        inner.Write(ReadOnlySpan(BitConverter.GetBytes(-float32 id)))
        inner.Write(ReadOnlySpan [| byte (3 * 8); byte kind |])
        field stream 1 (inner.ToArray()))

    // The trainer's model type: BPE.
    field stream 2 [| byte (3 * 8); 2uy |]
    stream.ToArray()

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

let private gpt2Files = [
    "vocab.json", serialize (dict [ for id, token in List.indexed byteTokens -> token, id ])
    "merges.txt",
    "#version: 0.2\n"
    + String.concat "\n" [ for left, right in merged -> $"{left} {right}" ]
    + "\n"
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
        testList "malformed" malformed
        testList "bounded" bounded
        testList "form C" normalForm
    ]
