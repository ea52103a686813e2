module LayerSkip.Tests.TokenizerVectorTests

open System
open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.Support

type private Case = { Text: string; Ids: int[]; Decoded: string option }

let private json (path: string) = JsonDocument.Parse(File.ReadAllBytes path).RootElement
let private ids (element: JsonElement) = [| for id in element.EnumerateArray() -> id.GetInt32() |]

let private gguf path =
    Gguf.readMetadata path
    |> Result.bind (Tokenizer.ofGguf path)
    |> Check.getOrRaise
    |> Option.get

/// The cases of a list of {text, ids, decoded}.
let private cases (element: JsonElement) = [
    for case in element.EnumerateArray() ->
        {
            Text = case.GetProperty("text").GetString()
            Ids = ids (case.GetProperty "ids")
            Decoded =
                match case.TryGetProperty "decoded" with
                | true, decoded -> Some(decoded.GetString())
                | _ -> None
        }
]

let private expectCases showSpecial encode tokenizer cases =
    Expect.isNonEmpty cases "cases were found"

    for case in cases do
        Expect.equal (encode tokenizer case.Text) case.Ids $"ids of {case.Text}"

        case.Decoded
        |> Option.iter (fun text ->
            Expect.equal (Tokenizer.decode showSpecial tokenizer case.Ids) text $"text of {case.Text}")

/// GPT-2's two files as one tokenizer.json, its merges as the text that vocab.bpe holds.
let private gpt2Json (folder: string) =
    let merges =
        File.ReadAllLines(Path.Combine(folder, "vocab.bpe"))
        |> Array.skip 1
        |> Array.filter (fun line -> line <> "")

    let path = Path.Combine(Directory.CreateTempSubdirectory("layerskip").FullName, "tokenizer.json")
    let vocabulary = File.ReadAllText(Path.Combine(folder, "encoder.json"))
    let stage = """{"type": "ByteLevel", "add_prefix_space": false}"""
    let merges = JsonSerializer.Serialize merges
    let model = $"""{{"type": "BPE", "vocab": {vocabulary}, "merges": {merges}}}"""
    File.WriteAllText(path, $"""{{"model": {model}, "pre_tokenizer": {stage}, "decoder": {stage}}}""")
    path

let private llamaCpp name load =
    let file suffix = [ "tokenizers"; "llama.cpp"; $"ggml-vocab-{name}.gguf{suffix}" ]

    sharedTest $"encodes llama.cpp's vectors of {name}" (file ".inp") (fun path ->
        let texts = File.ReadAllText(path).Split("\n__ggml_vocab_test__\n")
        let lines = File.ReadAllLines(sharedPath (file ".out"))
        let tokenizer = load (path.Replace(".inp", ""))
        // The last separator has nothing behind it.
        Expect.equal (texts.Length - 1) lines.Length "a line of ids for each text"

        for text, line in Seq.zip texts lines do
            let expected = line.Split(' ', StringSplitOptions.RemoveEmptyEntries) |> Array.map int
            Expect.equal (Tokenizer.encodeWith false false tokenizer text) expected $"ids of %A{text}"

            if Tokenizer.kind tokenizer = "byte-level BPE" then
                Expect.equal (Tokenizer.decode true tokenizer expected) text $"text of %A{text}")

let private llama3 _ =
    Tokenizer.ofJson (sharedPath [ "tokenizers"; "llama3"; "tokenizer.json" ])
    |> Check.getOrRaise

let private tiny name file =
    sharedTest $"encodes and decodes {name}" [ "tiny-llama"; "hf_tokenizer_cases.json" ] (fun path ->
        let tokenizer = Tokenizer.ofJson (sharedPath [ "tiny-llama"; file ]) |> Check.getOrRaise
        cases ((json path).GetProperty(name: string).GetProperty "cases")
        |> expectCases false Tokenizer.encode tokenizer)

let private absent (set: string) why = testCase set (fun () -> skiptest why)

/// What transformers' clean_up_tokenization_spaces does to a decoded text; we leave texts as they are.
let private cleanUp (text: string) =
    [
        " .", "."
        " ?", "?"
        " !", "!"
        " ,", ","
        " ' ", "'"
        " n't", "n't"
        " 'm", "'m"
        " 's", "'s"
        " 've", "'ve"
        " 're", "'re"
    ]
    |> List.fold (fun (text: string) (from, into) -> text.Replace(from, into)) text

let private swift name file bos (tokenizer: string -> Tokenizer) clean =
    sharedTest $"encodes and decodes {name}" [ "tokenizers"; "swift_tokenizer_tests.json" ] (fun path ->
        let tokenizer = tokenizer (sharedPath ("tokenizers" :: file))

        for case in (json path).GetProperty(name: string).EnumerateArray() do
            let text = case.GetProperty("input").GetString()
            let expected = ids (case.GetProperty("encoded").GetProperty "input_ids")
            Expect.equal (Tokenizer.encodeWith bos true tokenizer text) expected $"ids of {text}"

            for showSpecial, field in [ true, "decoded_with_special"; false, "decoded_without_special" ] do
                let decoded = Tokenizer.decode showSpecial tokenizer expected |> clean
                Expect.equal decoded (case.GetProperty(field).GetString()) $"{field} of {text}")

[<Tests>]
let tests =
    testList "tokenizer vectors" [
        sharedTest
            "encodes and decodes stories260K's cases"
            [ "stories260K"; "tokenizer_cases.json" ]
            (fun path ->
                let tokenizer =
                    Tokenizer.tryLoad (Path.GetDirectoryName path) |> Check.getOrRaise |> Option.get

                for case in (json path).EnumerateObject() do
                    Expect.equal
                        (Tokenizer.encode tokenizer case.Name)
                        (ids case.Value)
                        $"ids of {case.Name}"
                    Expect.equal (Tokenizer.decode false tokenizer (ids case.Value)) case.Name "decodes back")

        sharedTest
            "encodes and decodes SmolLM2's cases"
            [ "smollm2-135m-instruct"; "tokenizer_cases.json" ]
            (fun path ->
                let folder = Path.GetDirectoryName path
                let fromJson = Tokenizer.ofJson (Path.Combine(folder, "tokenizer.json")) |> Check.getOrRaise
                let fromGguf = gguf (Path.Combine(folder, "model.gguf"))
                let cases = cases (json path)
                cases |> expectCases true Tokenizer.encode fromJson
                cases |> expectCases true Tokenizer.encode fromGguf
                let describe t =
                    Tokenizer.bos t, Tokenizer.eos t, Tokenizer.chatTemplate t, Tokenizer.vocabularySize t
                Expect.equal (describe fromGguf) (describe fromJson) "BOS, EOS, template and size")

        sharedTest
            "SmolLM2's tokenizer.json and GGUF agree on Wikipedia"
            [ "text"; "wikitext2_test.txt" ]
            (fun path ->
                let text = File.ReadAllText(path).Substring(0, 200_000)
                let fromJson =
                    Tokenizer.ofJson (sharedPath [ "smollm2-135m-instruct"; "tokenizer.json" ])
                    |> Check.getOrRaise
                let fromGguf = gguf (sharedPath [ "smollm2-135m-instruct"; "model.gguf" ])
                Expect.equal (Tokenizer.encode fromGguf text) (Tokenizer.encode fromJson text) "ids")

        llamaCpp "gpt-2" gguf
        llamaCpp "llama-spm" gguf
        llamaCpp "phi-3" gguf
        llamaCpp "starcoder" gguf
        llamaCpp "llama-bpe" llama3

        tiny "byte_level" "tiny_bpe_bytelevel_tokenizer.json"
        tiny "metaspace" "tiny_bpe_metaspace_tokenizer.json"

        for set in
            [
                "split_qwen2"
                "split_cl100k"
                "split_deepseek"
                "split_o200k"
                "split_o200k_harmony"
                "split_qwen35"
                "split_qwen35_ascii"
                "digits_bytelevel"
                "bytelevel_noregex"
                "falcon_seq"
                "metaspace_pretok"
                "spm_model"
                "spm_bytefallback"
                "spm_bpe_model"
            ] do
            absent $"tiny-llama {set}" "its tokenizer file is not among the data"

        for set in [ "wordpiece"; "unigram" ] do
            absent $"tiny-llama {set}" "only BPE is in scope"

        swift "distilgpt2" [ "gpt2" ] false (gpt2Json >> Tokenizer.ofJson >> Check.getOrRaise) cleanUp

        swift
            "coreml-projects/Llama-2-7b-chat-coreml"
            [ "llama2"; "tokenizer.model" ]
            true
            (Tokenizer.ofSentencePiece >> Check.getOrRaise)
            id

        swift "pcuenq/Llama-3.2-1B-Instruct-tokenizer" [ "llama3"; "tokenizer.json" ] true llama3 cleanUp

        for set in
            [
                "tiiuae/falcon-7b"
                "pcuenq/gemma-tokenizer"
                "openai/whisper-tiny.en"
                "openai/whisper-large-v2"
            ] do
            absent set "its tokenizer file is not among the data"

        for set in
            [
                "bert-base-uncased"
                "google-bert/bert-base-uncased"
                "distilbert/distilbert-base-multilingual-cased"
                "t5-base"
            ] do
            absent set "only BPE is in scope"

        sharedTest
            "gives ML.NET's GPT-2 ids of a source file"
            [ "tokenizers"; "gpt2"; "mlnet"; "tokens_gpt2.json" ]
            (fun path ->
                let folder = sharedPath [ "tokenizers"; "gpt2" ]
                let tokenizer = gpt2Json folder |> Tokenizer.ofJson |> Check.getOrRaise
                let expected = ids (json path)
                // The file itself is not among the data: its text is what the ids decode to.
                let text = Tokenizer.decode true tokenizer expected
                Expect.equal (Tokenizer.encode tokenizer text) expected "ids")

        absent "ML.NET's tokens_gpt4o.json" "the o200k vocabulary is not among the data"

        sharedTest "a 4,096-piece model round trips" [ "tokenizers"; "tok4096"; "tok4096.model" ] (fun path ->
            let tokenizer = Tokenizer.ofSentencePiece path |> Check.getOrRaise
            let stories = sharedPath [ "text"; "tinystories-valid.txt" ]
            let text = File.ReadAllText(stories).Substring(0, 50_000)
            let ids = Tokenizer.encode tokenizer text
            Expect.equal (Tokenizer.vocabularySize tokenizer) 4096 "pieces"
            Expect.isLessThan ids.Length (text.Length / 3) "whole words, not characters"
            Expect.equal (Tokenizer.decode false tokenizer ids) text "text")

        sharedTest
            "agrees with Microsoft.ML.Tokenizers on Llama 2"
            [ "tokenizers"; "llama2"; "tokenizer.model" ]
            (fun path ->
                let ours = Tokenizer.ofSentencePiece path |> Check.getOrRaise
                use stream = File.OpenRead path
                let theirs = Microsoft.ML.Tokenizers.LlamaTokenizer.Create(stream, true, false)

                for file in [ "tinyshakespeare.txt"; "wikitext2_test.txt"; "tinystories-valid.txt" ] do
                    let text = File.ReadAllText(sharedPath [ "text"; file ]).Substring(0, 60_000)
                    let theirs = theirs.EncodeToIds text |> Array.ofSeq
                    Expect.equal (Tokenizer.encodeWith true false ours text) theirs file)
    ]
