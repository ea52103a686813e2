module LayerSkip.Tests.ExportTokenizerTests

open System.IO
open System.Text.Json
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.Support

let private export vocabulary tokenizer = GgufTokenizerExport.ofTokenizer vocabulary [||] tokenizer

/// The tokenizer that the metadata of another one make.
let private through (tokenizer: Tokenizer) : Tokenizer =
    export (Tokenizer.vocabularySize tokenizer) tokenizer
    |> Result.bind (Map.ofList >> Tokenizer.ofGguf "made")
    |> Check.getOrRaise
    |> Option.get

/// The tokenizer that the files of another one make.
let private throughFiles (tokenizer: Tokenizer) : Tokenizer =
    FileSupport.withFolder (fun folder ->
        Expect.equal (TokenizerJsonExport.tryWrite folder tokenizer) (Ok true) "written"
        Tokenizer.tryLoad folder |> Check.getOrRaise |> Option.get)

let private pre (tokenizer: Tokenizer) =
    match export (Tokenizer.vocabularySize tokenizer) tokenizer |> Check.getOrRaise |> Map with
    | metadata when metadata.ContainsKey "tokenizer.ggml.pre" -> metadata["tokenizer.ggml.pre"]
    | _ -> GgufValue.Text ""

/// One that no file describes.
let private twiceTheWords (source: Tokenizer) =
    let words = source.Parts.Words >> Array.collect (fun word -> [| word; word |])
    source.With { source.Parts with Words = words }

let private folder parts = sharedPath parts |> Tokenizer.tryLoad |> Check.getOrRaise |> Option.get

let private sample (name: string) = File.ReadAllText(sharedPath [ "text"; name ]).Substring(0, 40_000)

let private describe (tokenizer: Tokenizer) =
    Tokenizer.bos tokenizer,
    Tokenizer.eos tokenizer,
    Tokenizer.chatTemplate tokenizer,
    Tokenizer.vocabularySize tokenizer,
    Tokenizer.kind tokenizer

/// Encodes and decodes as its source does.
let private agrees (through: Tokenizer -> Tokenizer) (source: Tokenizer) (texts: string list) =
    let made = through source
    Expect.equal (describe made) (describe source) "special tokens, template and size"

    for text in texts do
        let ids = Tokenizer.encode source text
        Expect.equal (Tokenizer.encode made text) ids "ids"
        Expect.equal (Tokenizer.decode false made ids) (Tokenizer.decode false source ids) "text"

    for id in 0 .. Tokenizer.vocabularySize source - 1 do
        Expect.equal (Tokenizer.isSpecial made id) (Tokenizer.isSpecial source id) $"special {id}"

let private whole name path expected tokenizer =
    sharedTest $"{name}: encodes and decodes prose alike" path (fun _ ->
        let source = tokenizer ()
        Expect.equal (pre source) (GgufValue.Text expected) "llama.cpp's name of the pre-tokenizer"
        let texts = [ sample "wikitext2_test.txt"; sample "tinyshakespeare.txt"; "  a\n\n b  "; "" ]
        agrees through source texts
        agrees throughFiles (through source) texts)

/// A GGUF file's own tokenizer as files.
let private alone name path =
    sharedTest $"{name}: its own tokenizer as Hugging Face's files" path (fun file ->
        let source =
            Gguf.readMetadata file
            |> Result.bind (Tokenizer.ofGguf "x")
            |> Check.getOrRaise
            |> Option.get
        agrees throughFiles source [ sample "wikitext2_test.txt"; " 12345 it's\n\n  x"; "" ])

let private tiny name =
    let file = sharedPath [ "tiny-llama"; name ]
    Tokenizer.ofJson file |> Check.getOrRaise

[<Tests>]
let tests =
    testList "export: tokenizers" [
        testProperty "a pair's key gives the pair back"
        <| fun (left: int) (right: int) -> Pair.halves (Pair.key left right) = struct (left, right)

        whole "stories260K" [ "stories260K" ] "default" (fun () -> folder [ "stories260K" ])
        whole "SmolLM2" [ "smollm2-135m-instruct" ] "smollm" (fun () -> folder [ "smollm2-135m-instruct" ])
        whole "Llama 2" [ "tokenizers"; "llama2" ] "default" (fun () -> folder [ "tokenizers"; "llama2" ])
        whole "Llama 3" [ "tokenizers"; "llama3" ] "llama-bpe" (fun () -> folder [ "tokenizers"; "llama3" ])

        whole "a 4,096-piece model" [ "tokenizers"; "tok4096" ] "default" (fun () ->
            sharedPath [ "tokenizers"; "tok4096"; "tok4096.model" ]
            |> Tokenizer.ofSentencePiece
            |> Check.getOrRaise)

        alone "SmolLM2" [ "smollm2-135m-instruct"; "model.gguf" ]

        for name in [ "gpt-2"; "llama-spm"; "phi-3"; "starcoder" ] do
            alone name [ "tokenizers"; "llama.cpp"; $"ggml-vocab-{name}.gguf" ]

        testCase "a tokenizer that no file describes is not written" (fun () ->
            FileSupport.withFolder (fun folder ->
                let path = Path.Combine(root, "models", "stories-10m")
                let source = Tokenizer.tryLoad path |> Check.getOrRaise |> Option.get
                let odd = twiceTheWords source
                Expect.equal (TokenizerJsonExport.tryWrite folder odd) (Ok false) "not written"
                Expect.isEmpty (Directory.GetFiles folder) "nothing left"))

        whole "a small byte-level one" [ "tiny-llama" ] "gpt-2" (fun () ->
            tiny "tiny_bpe_bytelevel_tokenizer.json")

        sharedTest "stories260K's cases" [ "stories260K"; "tokenizer_cases.json" ] (fun path ->
            let made = through (folder [ "stories260K" ])

            for case in JsonDocument.Parse(File.ReadAllBytes path).RootElement.EnumerateObject() do
                let ids = [| for id in case.Value.EnumerateArray() -> id.GetInt32() |]
                Expect.equal (Tokenizer.encode made case.Name) ids case.Name)

        sharedTest "SmolLM2's cases" [ "smollm2-135m-instruct"; "tokenizer_cases.json" ] (fun path ->
            let made = through (folder [ "smollm2-135m-instruct" ])

            for case in JsonDocument.Parse(File.ReadAllBytes path).RootElement.EnumerateArray() do
                let ids = [| for id in case.GetProperty("ids").EnumerateArray() -> id.GetInt32() |]
                let text = case.GetProperty("text").GetString()
                Expect.equal (Tokenizer.encode made text) ids text)

        sharedTest "SmolLM2's metadata are its GGUF file's own" [ "smollm2-135m-instruct" ] (fun path ->
            let own = Gguf.readMetadata (Path.Combine(path, "model.gguf")) |> Check.getOrRaise
            let made = export 49152 (folder [ "smollm2-135m-instruct" ]) |> Check.getOrRaise |> Map

            for part in
                [
                    "model"
                    "pre"
                    "tokens"
                    "token_type"
                    "merges"
                    "bos_token_id"
                    "eos_token_id"
                ] do
                let key = "tokenizer.ggml." + part
                Expect.equal made[key] own[key] key)

        sharedTest "Llama 2's scores are its own" [ "tokenizers"; "llama2" ] (fun _ ->
            let made = export 32000 (folder [ "tokenizers"; "llama2" ]) |> Check.getOrRaise |> Map

            match made["tokenizer.ggml.scores"], made["tokenizer.ggml.token_type"] with
            | GgufValue.Floats scores, GgufValue.Ints types ->
                Expect.equal
                    (scores[260..262], types[0..4])
                    ([| -1.0; -2.0; -3.0 |], [| 2L; 3L; 3L; 6L; 6L |])
                    "merges"
            | other -> failtest $"%A{other}")

        sharedTest "a vocabulary is padded to the model's, and never cut" [ "stories260K" ] (fun _ ->
            let source = folder [ "stories260K" ]
            let padded = export 520 source |> Check.getOrRaise |> Map

            match padded["tokenizer.ggml.tokens"], padded["tokenizer.ggml.token_type"] with
            | GgufValue.Texts tokens, GgufValue.Ints types ->
                Expect.equal (tokens.Length, tokens[519], types[519]) (520, "[PAD519]", 5L) "padded"
            | other -> failtest $"%A{other}"

            export 511 source
            |> FileSupport.messages
            |> FileSupport.expectFault [ "512 tokens"; "511"; "Hugging Face folder" ])

        sharedTest "a tokenizer that llama.cpp cannot follow" [ "tiny-llama" ] (fun _ ->
            let source = tiny "tiny_bpe_bytelevel_tokenizer.json"
            let odd = twiceTheWords source
            export (Tokenizer.vocabularySize source) odd
            |> FileSupport.messages
            |> FileSupport.expectFault [ "pre-tokenizers"; "Hugging Face folder" ])

        testCase "stop ids have a key each" (fun () ->
            let keys stops = [
                for key, value in GgufTokenizerExport.none (Some 1) stops ->
                    key.Replace("tokenizer.ggml.", ""), value
            ]
            let id name (number: int64) = name + "_token_id", GgufValue.Int number
            let front = [ "model", GgufValue.Text "no_vocab"; id "bos" 1L ]
            Expect.equal (keys [||]) front "none"
            Expect.equal (keys [| 2 |]) (front @ [ id "eos" 2L ]) "one"
            Expect.equal (keys [| 2; 5 |]) (front @ [ id "eos" 2L; id "eot" 5L ]) "two"
            Expect.equal (keys [| 2; 4; 5 |]) (front @ [ id "eos" 2L; id "eom" 4L; id "eot" 5L ]) "Llama 3.1")
    ]
