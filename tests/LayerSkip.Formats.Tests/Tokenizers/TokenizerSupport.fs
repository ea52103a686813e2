/// Small tokenizers of both families, made here.
module LayerSkip.Tests.TokenizerSupport

open System
open System.IO
open System.Text
open Expecto
open FsCheck.FSharp
open LayerSkip

let texts (values: string list) = GgufValue.Texts(Array.ofList values)
let numbers (values: int list) = GgufValue.Ints(values |> List.map int64 |> Array.ofList)

let byteCharacters = [
    for b in 0..255 ->
        if (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174 then
            string (char b)
        else
            // The unprintable bytes take the characters from U+0100 in order.
            let before =
                if b <= 32 then b
                elif b <= 160 then b - 127 + 33
                else 67
            string (char (256 + before))
]

let merged = [
    "h", "e"
    "l", "l"
    "he", "ll"
    "hell", "o"
    "Ġ", "w"
    "1", "2"
    "12", "3"
    "a", "a"
    "aa", "aa"
]
let specials = [ "<|begin|>"; "<|end|>" ]

let byteTokens = byteCharacters @ [ for left, right in merged -> left + right ] @ specials

let byteGguf pre =
    Map [
        "tokenizer.ggml.model", GgufValue.Text "gpt2"
        "tokenizer.ggml.pre", GgufValue.Text pre
        "tokenizer.ggml.tokens", texts byteTokens
        "tokenizer.ggml.merges", texts [ for left, right in merged -> $"{left} {right}" ]
        "tokenizer.ggml.token_type",
        numbers [ for token in byteTokens -> if List.contains token specials then 3 else 1 ]
        "tokenizer.ggml.bos_token_id", GgufValue.Int(int64 byteTokens.Length - 2L)
        "tokenizer.ggml.eos_token_id", GgufValue.Int(int64 byteTokens.Length - 1L)
    ]

let spaced = [
    "▁"
    "h"
    "e"
    "l"
    "o"
    "w"
    "é"
    "he"
    "ll"
    "hell"
    "hello"
    "▁hello"
    "▁w"
]
let sentenceTokens = [ "<unk>"; "<s>"; "</s>" ] @ [ for b in 0..255 -> $"<0x%02X{b}>" ] @ spaced

let sentenceGguf =
    Map [
        "tokenizer.ggml.model", GgufValue.Text "llama"
        "tokenizer.ggml.tokens", texts sentenceTokens
        "tokenizer.ggml.scores", GgufValue.Floats [| for id in 0 .. sentenceTokens.Length - 1 -> -float id |]
        "tokenizer.ggml.token_type",
        numbers [
            for id in 0 .. sentenceTokens.Length - 1 ->
                if id = 0 then 2
                elif id < 3 then 3
                elif id < 259 then 6
                else 1
        ]
        "tokenizer.ggml.bos_token_id", GgufValue.Int 1L
        "tokenizer.ggml.eos_token_id", GgufValue.Int 2L
    ]

let ofGguf metadata = Tokenizer.ofGguf "test.gguf" metadata |> Check.getOrRaise |> Option.get
let byteLevel = ofGguf (byteGguf "gpt-2")
let sentencePiece = ofGguf sentenceGguf
let families = [ "byte-level BPE", byteLevel; "SentencePiece BPE", sentencePiece ]

let inFolder (files: (string * string) list) (body: string -> 'T) : 'T =
    let folder = Directory.CreateTempSubdirectory "layerskip"

    try
        for name, content in files do
            File.WriteAllText(Path.Combine(folder.FullName, name), content)

        body folder.FullName
    finally
        folder.Delete true

let serialize (value: 'T) = System.Text.Json.JsonSerializer.Serialize value

/// A tokenizer.json over the byte alphabet, with further fields, and fields of its model.
let byteJson (fields: string list) (modelFields: string list) =
    let vocabulary = serialize (dict [ for id, token in List.indexed byteTokens -> token, id ])
    let added =
        [
            for token in specials ->
                $"""{{"id": {List.findIndex ((=) token) byteTokens}, "content": "{token}", "special": true, "normalized": false}}"""
        ]
        |> String.concat ", "
    let merges = serialize [| for left, right in merged -> [| left; right |] |]
    let model =
        $"\"type\": \"BPE\""
        :: $"\"vocab\": {vocabulary}"
        :: $"\"merges\": {merges}"
        :: modelFields
        |> String.concat ", "
    let fields =
        $"\"added_tokens\": [{added}]" :: $"\"model\": {{{model}}}" :: fields
        |> String.concat ", "
    $"{{{fields}}}"

let load json = inFolder [ "tokenizer.json", json ] (fun folder -> Tokenizer.tryLoad folder)
let loadOk json = load json |> Check.getOrRaise |> Option.get
let byteStage = """{"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}"""
let bareStage = """{"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}"""
let pieces tokenizer text =
    Tokenizer.encode tokenizer text
    |> Array.map (Tokenizer.tokenText tokenizer)
    |> List.ofArray

/// Any text: ASCII, the basic plane, beyond it.
let wellFormed =
    ArbMap.defaults
    |> ArbMap.generate<int list>
    |> Gen.map (fun values ->
        let builder = StringBuilder()
        // Surrogates alone are no text.
        for value in values do
            let value = abs value
            let point =
                match value % 4 with
                | 0 -> value % 0x80
                | 1 -> value * 7919 % 0x3000
                | 2 -> value * 7919 % 0xD800
                | _ -> 0x10000 + value * 7919 % 0x20000
            builder.Append((Rune(abs point)).ToString()) |> ignore
        builder.ToString())
    |> Arb.fromGen

let streamed stream ids =
    let texts, last =
        ids
        |> List.mapFold
            (fun stream id -> let struct (text, next) = TextStream.push id stream in text, next)
            stream
    String.concat "" texts + TextStream.finish last

let failsWith isWanted result =
    match result with
    | Ok _ -> failtest "an error was wanted"
    | Error faults -> Expect.exists faults isWanted $"%A{faults}"

let isBad =
    function
    | LayerSkipError.BadFile _ -> true
    | _ -> false
let isUnsupported =
    function
    | LayerSkipError.Unsupported(_, hint) -> hint <> ""
    | _ -> false
let isMissing =
    function
    | LayerSkipError.NotFound _ -> true
    | _ -> false

/// A SentencePiece model of its kind BPE: <unk>, <s>, </s>, then pieces.
let sentencePieceModel (pieces: string list) : byte[] =
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

let gpt2Files = [
    "vocab.json", serialize (dict [ for id, token in List.indexed byteTokens -> token, id ])
    "merges.txt",
    "#version: 0.2\n"
    + String.concat "\n" [ for left, right in merged -> $"{left} {right}" ]
    + "\n"
]
