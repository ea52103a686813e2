/// Sound models of every kind that is read, small, made here: what the fuzzer starts from.
module LayerSkip.Tests.FuzzCorpus

open System
open System.IO
open System.Text
open System.Text.Json.Nodes
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.GgufBlockSupport

/// The files of a model by name, and which of them is the model: the folder (""), or a .gguf.
type Sound = { Name: string; Files: Map<string, byte[]>; Model: string }

let private filesOf (folder: string) =
    Map [
        for path in Directory.GetFiles folder -> Path.GetFileName path, File.ReadAllBytes path
    ]

let private prose =
    String.replicate
        3
        "Once upon a time, there was a little girl named Lily. It's 12345 o'clock; she said: hello world!\n"

let private byteLevel =
    lazy
        (withFolder (fun folder ->
            BpeTrainer.train (BpeOptions.ofVocabulary 300) [ prose ]
            |> Result.bind (BpeTrainer.write folder)
            |> Check.getOrRaise

            filesOf folder))

/// The same pieces behind what Llama 3's tokenizer.json has in front of them, and more that others have.
let private staged =
    lazy
        (let json = JsonNode.Parse(byteLevel.Value["tokenizer.json"]).AsObject()

         let pattern =
             "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

         json["normalizer"] <- JsonNode.Parse """{"type":"Sequence","normalizers":[{"type":"NFC"}]}"""

         json["pre_tokenizer"] <-
             JsonNode.Parse
                 $$"""{"type":"Sequence","pretokenizers":[
                        {"type":"Split","pattern":{"Regex":{{JsonValue.Create(pattern).ToJsonString()}}},"behavior":"Isolated","invert":false},
                        {"type":"Digits","individual_digits":true},
                        {"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]}"""

         byteLevel.Value.Add("tokenizer.json", Encoding.UTF8.GetBytes(json.ToJsonString())))

let private pieces =
    [ "<unk>"; "<s>"; "</s>" ]
    @ [ for b in 0..255 -> $"<0x%02X{b}>" ]
    @ List.map string ("▁helowrdOncupatimsbgfyk,.'!:" |> Seq.distinct |> List.ofSeq)
    @ [ "he"; "ll"; "hell"; "hello"; "▁hello"; "▁w"; "▁t"; "on"; "▁a"; "in"; "at" ]

let private typeOf id =
    if id = 0 then 2
    elif id < 3 then 3
    elif id < 259 then 6
    else 1

/// A SentencePiece model of those pieces, as protobuf.
let private sentencePiece =
    let rec varint (value: int) =
        if value < 128 then
            [ byte value ]
        else
            byte (value &&& 127 ||| 128) :: varint (value >>> 7)

    let tagged field kind = varint (field <<< 3 ||| kind)
    let text field (bytes: byte list) = tagged field 2 @ varint bytes.Length @ bytes
    let whole field value = tagged field 0 @ varint value

    let piece id (piece: string) =
        text
            1
            (text 1 (List.ofArray (Encoding.UTF8.GetBytes piece))
             @ tagged 2 5
             @ List.ofArray (BitConverter.GetBytes(float32 -id))
             @ whole 3 (typeOf id))

    [
        yield! List.mapi piece pieces |> List.concat
        yield! text 2 (whole 3 2 @ whole 35 1 @ whole 40 0 @ whole 41 1 @ whole 42 2)
        yield! text 3 (whole 3 1 @ whole 4 0 @ whole 5 1)
    ]
    |> Array.ofList

let private sentenceFiles = Map [ "tokenizer.model", sentencePiece ]

let private loadTokenizer (files: Map<string, byte[]>) =
    withFolder (fun folder ->
        for KeyValue(name, bytes) in files do
            File.WriteAllBytes(Path.Combine(folder, name), bytes)

        Tokenizer.tryLoad folder |> Check.getOrRaise)

let private config vocabulary = { Tiny.config vocabulary 3 4 2 false with Context = 64; StopIds = [| 2 |] }

let private checkpoint dtype tokenizer (config: LlamaConfig) = {
    ExportSupport.checkpoint (Weights.random 3L 0.8 dtype Device.Cpu config) with
        Tokenizer = tokenizer
        Recommended = Some(1, 2)
}

/// As `export` writes it, with these files over its own.
let private exported format (over: Map<string, byte[]>) (source: Checkpoint) =
    use source = source

    withFolder (fun folder ->
        let output = Path.Combine(folder, "m.gguf")
        Export.write format source.Config.Layers output source |> Check.getOrRaise |> ignore

        match format with
        | ExportFormat.Gguf -> filesOf folder
        | ExportFormat.HuggingFace ->
            Map.fold (fun files name bytes -> Map.add name bytes files) (filesOf output) over)

let private sharded (files: Map<string, byte[]>) =
    withFolder (fun folder ->
        let whole = Path.Combine(folder, "model.safetensors")
        File.WriteAllBytes(whole, files["model.safetensors"])
        use _scope = TorchSharp.torch.NewDisposeScope()
        use file = Safetensors.openFile whole |> Check.getOrRaise
        let names = [ "model-00001-of-00002.safetensors"; "model-00002-of-00002.safetensors" ]
        let parts = file.Tensors |> List.splitInto 2 |> List.zip names
        let map = JsonObject()

        for name, tensors in parts do
            TensorWriter.safetensors (Path.Combine(folder, name)) Map.empty [
                for tensor in tensors -> tensor.Name, Tensors.ofStored tensor
            ]
            |> Check.getOrRaise

            for tensor in tensors do
                map[tensor.Name] <- JsonValue.Create name

        let index = JsonObject()
        index["metadata"] <- JsonObject()
        index["weight_map"] <- map
        File.WriteAllText(Path.Combine(folder, "model.safetensors.index.json"), index.ToJsonString())
        File.Delete whole
        Map.fold
            (fun all name bytes -> Map.add name bytes all)
            (files.Remove "model.safetensors")
            (filesOf folder))

/// Every kind, named. Takes a second.
let sound () : Sound[] =
    let bytes = loadTokenizer byteLevel.Value
    let stagedTokenizer = loadTokenizer staged.Value
    let sentences = loadTokenizer sentenceFiles
    let inFolder name files = { Name = name; Files = files; Model = "" }
    let inFile name files = { Name = name; Files = files; Model = "m.gguf" }
    let hf = exported ExportFormat.HuggingFace
    let gguf = exported ExportFormat.Gguf Map.empty

    let yarn = {
        config 300 with
            Family = Family.Qwen3
            QkNorm = true
            TiedHead = true
            RopeScaling = RopeScaling.Linear 2.0
    }

    let mistral = { config pieces.Length with Family = Family.Mistral; Windows = Array.create 3 (Some 8) }
    let phi3 = { config pieces.Length with Family = Family.Phi3 }
    let llama3 = { config 300 with RopeScaling = RopeScaling.Llama3(8.0, 1.0, 4.0, 16) }

    let vocabulary =
        let model = JsonNode.Parse(byteLevel.Value["tokenizer.json"])["model"]
        let merges = [ for merge in model["merges"].AsArray() -> merge.GetValue<string>() ]

        Map [
            "vocab.json", Encoding.UTF8.GetBytes(model["vocab"].ToJsonString())
            "merges.txt", Encoding.UTF8.GetBytes(String.Join('\n', "#version: 0.2" :: merges))
        ]

    [|
        inFolder "byte-level folder" (hf byteLevel.Value (checkpoint Dtype.F32 bytes (config 300)))
        inFolder "llama3 folder" (hf staged.Value (checkpoint Dtype.F32 stagedTokenizer llama3))
        inFolder
            "sharded qwen3 folder"
            (sharded (hf staged.Value (checkpoint Dtype.BF16 stagedTokenizer yarn)))
        inFolder
            "SentencePiece folder"
            ((hf sentenceFiles (checkpoint Dtype.F16 None mistral))
                .Add("added_tokens.json", "{\"<|x|>\": 5}"B))
        inFolder "SentencePiece as JSON" (hf Map.empty (checkpoint Dtype.F32 sentences phi3))
        inFolder "vocabulary and merges" (hf vocabulary (checkpoint Dtype.F32 None (config 300)))
        inFile "byte-level file" (gguf (checkpoint Dtype.F32 stagedTokenizer llama3))
        inFile "SentencePiece file" (gguf (checkpoint Dtype.F16 sentences phi3))
        inFile "quantised file" (Map [ "m.gguf", quantisedModel 64 96 mixed ])
        for name, format, _ in formats do
            inFile $"{name} file" (Map [ "m.gguf", modelOfFormat format.Kind ])
    |]
