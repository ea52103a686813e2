module LayerSkip.Tests.SourceFileTests

open System
open System.IO
open System.Runtime.InteropServices
open System.Text
open System.Threading
open System.Threading.Tasks
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.GgufWriter

[<DllImport("libc", SetLastError = true)>]
extern int private mkfifo(string path, uint32 mode)

[<DllImport("libc")>]
extern int private setfsuid(uint32 user)

let private config = { Tiny.config 24 2 2 1 true with StopIds = [| 2 |] }

/// A folder of a small model, with files of raw bytes in place of some of its own.
let private withModel (others: (string * byte[]) list) (body: string -> 'T) : 'T =
    withFolder (fun folder ->
        let inside name = Path.Combine(folder, name)
        use weights = Weights.random 1L 0.8 Dtype.F32 Device.Cpu config
        File.WriteAllBytes(inside "config.json", ConfigJsonExport.bytes Dtype.F32 [] config)
        File.WriteAllText(inside "generation_config.json", """{"eos_token_id": 5}""")

        TensorWriter.safetensors (inside "model.safetensors") Map.empty (Weights.named weights)
        |> Check.getOrRaise

        for name, bytes in others do
            File.WriteAllBytes(inside name, bytes)

        body folder)

/// A load that would wait for ever is a fault of the test.
let private load (path: string) =
    let loading = Task.Run(fun () -> Checkpoint.load path None Device.Cpu)

    if not (loading.Wait(TimeSpan.FromSeconds 60.0)) then
        failtest $"{path} was waited for"

    loading.Result

/// What is read of a model's folder where it is there.
let private files = [
    "config.json"
    "generation_config.json"
    "model.safetensors"
    "tokenizer.json"
    "tokenizer_config.json"
    "chat_template.jinja"
]

let private utf8 (text: string) = Encoding.UTF8.GetBytes text
let private bom = [| 0xEFuy; 0xBBuy; 0xBFuy |]

let private pointer =
    utf8
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"

let private pages = [
    utf8 "<!DOCTYPE html>\n<html><head><title>429 Too Many Requests</title></head></html>"
    utf8 "\n  <html lang=\"en\"><body>Sign in</body></html>"
    Array.append bom (utf8 "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>")
]

/// tokenizer_config.json is read beside a tokenizer.
let private besideTokenizer name =
    if name = "tokenizer_config.json" || name = "chat_template.jinja" then
        [ "tokenizer.json", utf8 "{}" ]
    else
        []

let private json (fields: string) = utf8 $$"""{"model_type":"llama",{{fields}}}"""

[<Tests>]
let tests =
    testSequenced
    <| testList "source files" [
        testCase "a Git-LFS pointer or a web page in a file's place is named as what it is, with advice"
        <| fun () ->
            for name in "model.safetensors.index.json" :: files do
                for bytes, parts in
                    (pointer, [ "Git-LFS"; "git lfs pull" ])
                    :: [ for page in pages -> page, [ "web page"; "again" ] ] do
                    withModel (besideTokenizer name @ [ name, bytes ]) (fun folder ->
                        if name.EndsWith "index.json" then
                            File.Delete(Path.Combine(folder, "model.safetensors"))

                        load folder |> messages |> expectFault (name :: parts))

            for bytes, part in [ pointer, "Git-LFS"; pages[0], "web page" ] do
                withModel [ "model.gguf", bytes ] (fun folder ->
                    load (Path.Combine(folder, "model.gguf"))
                    |> messages
                    |> expectFault [ "model.gguf"; part ])

                withModel [ "tokenizer.model", bytes ] (fun folder ->
                    load folder |> messages |> expectFault [ "tokenizer.model"; part ])

        testCase "a pipe, a device, a socket or a folder in a file's place is refused at once, by one line"
        <| fun () ->
            let places: (string * (string -> unit)) list = [
                "pipe", (fun path -> mkfifo (path, 0o644u) |> ignore)
                "device", (fun path -> File.CreateSymbolicLink(path, "/dev/zero") |> ignore)
                "folder", (Directory.CreateDirectory >> ignore)
                "folder", (fun path -> Directory.CreateSymbolicLink(path, "/tmp") |> ignore)
            ]

            if OperatingSystem.IsLinux() then
                for name in "m.gguf" :: "tokenizer.model" :: files do
                    for word, make in places do
                        // A folder of a name is no file of it, where none is needed.
                        if word <> "folder" || name = "config.json" || name = "m.gguf" then
                            withModel (besideTokenizer name) (fun folder ->
                                let path = Path.Combine(folder, name)
                                File.Delete path
                                make path
                                let model = if name = "m.gguf" then path else folder
                                // A folder may be a model's.
                                let parts =
                                    if word = "folder" && name = "m.gguf" then
                                        []
                                    else
                                        [ name; word ]
                                load model |> messages |> expectFault parts)

        testCase "what the user may not read is access denied, whether file or folder"
        <| fun () ->
            if OperatingSystem.IsLinux() then
                let nobody, denied = 65534u, UnixFileMode.None
                let all = UnixFileMode.UserRead ||| UnixFileMode.UserWrite ||| UnixFileMode.UserExecute
                // nobody, in root's group.
                let others = UnixFileMode.GroupRead ||| UnixFileMode.GroupExecute

                for part, mode in
                    [
                        "", denied
                        // Its names, and no more.
                        "", UnixFileMode.GroupRead
                        "config.json", denied
                        "model.safetensors", denied
                        "generation_config.json", denied
                    ] do
                    withModel [] (fun folder ->
                        File.SetUnixFileMode(folder, all ||| others)
                        let path = Path.Combine(folder, part)
                        File.SetUnixFileMode(path, mode)
                        let mutable found = []

                        // The file system's user is the thread's: root's rights are not this thread's.
                        let thread =
                            Thread(fun () ->
                                // Libraries load while they may.
                                Checkpoint.load folder None Device.Cpu |> isFault |> ignore
                                setfsuid nobody |> ignore
                                found <- Checkpoint.load folder None Device.Cpu |> messages)

                        thread.Start()
                        thread.Join()
                        File.SetUnixFileMode(path, all)
                        expectFault [ part; "access is denied" ] found)

        testCase "a byte-order mark in front of a JSON file changes nothing"
        <| fun () ->
            withModel [] (fun folder ->
                let inside name = Path.Combine(folder, name)

                for name in [ "config.json"; "generation_config.json" ] do
                    File.WriteAllBytes(inside name, Array.append bom (File.ReadAllBytes(inside name)))

                let names =
                    using
                        (Safetensors.openFile (inside "model.safetensors") |> Check.getOrRaise)
                        (fun file ->
                            [ for tensor in file.Tensors -> $"\"{tensor.Name}\":\"model-1.safetensors\"" ]
                            |> String.concat ",")

                File.Move(inside "model.safetensors", inside "model-1.safetensors")
                let index = utf8 ("{\"weight_map\":{" + names + "}}")
                File.WriteAllBytes(inside "model.safetensors.index.json", Array.append bom index)
                use model = load folder |> Check.getOrRaise
                Expect.equal model.StopIds [| 5 |] "generation_config.json's"
                Expect.equal model.Config.Layers 2 "config.json's")

        testCase "text that is no Unicode is a fault of its file, wherever in it"
        <| fun () ->
            let bad = [
                json "\"hidden_act\":\"\\ud800\""
                json "\"torch_dtype\":\"a\\\\\\udc00b\""
                json "\"any\":[\"\\uD83D\\uD83D\"]"
                json "\"\\udfff\":1"
                Array.concat [ utf8 "{\"model_type\":\"llama"; [| 0xFFuy |]; utf8 "\"}" ]
                Array.concat [ utf8 "{\"a"; [| 0xC0uy; 0xAFuy |]; utf8 "\":\"b\"}" ]
            ]

            for name in
                [
                    "config.json"
                    "generation_config.json"
                    "model.safetensors.index.json"
                    "tokenizer.json"
                ] do
                for bytes in bad do
                    withModel [ name, bytes ] (fun folder ->
                        if name.EndsWith "index.json" then
                            File.Delete(Path.Combine(folder, "model.safetensors"))

                        load folder |> messages |> expectFault [ name; "not valid Unicode" ])

            for name in [ "config.json"; "generation_config.json" ] do
                withModel [ name, Encoding.Unicode.GetPreamble() ] (fun folder ->
                    load folder |> messages |> expectFault [ name; "UTF-16" ])

        testCase "escapes of whole characters are text"
        <| fun () ->
            let fields = "\"a\":\"\\ud83d\\ude00 \\\\ud800 \\u00e9 \\\\\\\\ud800\""

            match Json.parse (json fields) with
            | Error fault -> failtest fault
            | Ok document ->
                use document = document

                Expect.equal
                    (document.RootElement.GetProperty("a").GetString())
                    "\U0001f600 \\ud800 \u00e9 \\\\ud800"
                    "the text"

        testCase "a file that is cut while it is open is an error that names it, never the end of the process"
        <| fun () ->
            Backend.ensure ()

            let cut (path: string) (length: int64) =
                using
                    (new FileStream(path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
                    (fun file -> file.SetLength length)

            withModel [] (fun folder ->
                let path = Path.Combine(folder, "model.safetensors")
                use file = Safetensors.openFile path |> Check.getOrRaise
                cut path 2000L

                StoredWeights.load Dtype.F32 Device.Cpu config file.Tensors
                |> messages
                |> expectFault [ "model.safetensors"; "shorter" ])

            for kind, width in [ 0u, 128; 2u, 18; 8u, 34 ] do
                let bytes = Array.zeroCreate<byte>(64 * 64 / 32 * width)

                withBytes
                    (gguf 3u (model "llama") (placed [ "blk.0.attn_q.weight", [ 64UL; 64UL ], kind, bytes ]))
                    (fun path ->
                        use file = Gguf.openFile path |> Check.getOrRaise
                        use tensor = torch.zeros (64L, 64L)
                        cut path 1200L

                        Check.guard (fun () -> Ok(Tensors.read (List.exactlyOne file.Tensors) tensor))
                        |> messages
                        |> expectFault [ "model.bin"; "shorter" ])

        testCase "150,000 tensors that overlap are told of in time that grows with their number"
        <| fun () ->
            let entries = [
                for i in 1..150_000 -> $$""""t{{i}}":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"""
            ]

            let header = utf8 ("{" + String.concat "," entries + "}")
            let bytes =
                Array.concat [ BitConverter.GetBytes(uint64 header.Length); header; Array.zeroCreate 4 ]

            withModel [ "model.safetensors", bytes ] (fun folder ->
                match load folder with
                | Ok _ -> failtest "it was read"
                | Error faults ->
                    let summary = LayerSkipError.summary faults
                    Expect.stringContains summary "overlap" "what"
                    Expect.isLessThan summary.Length 1000 "one short line")

        testCase "numbers, names and texts as long as the file are cut in what is said of them"
        <| fun () ->
            let long = String('9', 200_000)
            let name = String('n', 100_000)

            let safetensors =
                let header =
                    utf8 ("{\"" + name + "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}")
                Array.concat [ BitConverter.GetBytes(uint64 header.Length); header; Array.zeroCreate 4 ]

            for file, bytes in
                [
                    "config.json", json $"\"hidden_size\":{long},\"hidden_act\":\"{name}\""
                    "config.json", utf8 $$"""{"model_type":"{{name}}"}"""
                    "generation_config.json", utf8 $$"""{"assistant_early_exit":{{long}}}"""
                    "model.safetensors", safetensors
                ] do
                withModel [ file, bytes ] (fun folder ->
                    match load folder with
                    | Ok _ -> failtest "it was read"
                    | Error faults ->
                        Expect.isLessThan (LayerSkipError.summary faults).Length 2500 "its length")
    ]
