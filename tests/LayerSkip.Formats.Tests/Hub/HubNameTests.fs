module LayerSkip.Tests.HubNameTests

open System
open System.IO
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.HubSupport

let private name repository revision file = { Repository = repository; Revision = revision; File = file }

let private variables (given: (string * string) list) (name: string) =
    given |> List.tryFind (fst >> (=) name) |> Option.map snd |> Option.toObj

let private ofVariables given = HubOptions.ofVariables (variables given)

[<Tests>]
let tests =
    testList "hub: names" [
        testCase "a name is a repository, a revision and a file" (fun () ->
            for written, expected in
                [
                    "org/name", name "org/name" "main" None
                    "01-ai/Yi-1.5_b", name "01-ai/Yi-1.5_b" "main" None
                    "org/name@v1.0", name "org/name" "v1.0" None
                    "org/name@refs/pr/1", name "org/name" "refs/pr/1" None
                    "org/name:Q4_K_M", name "org/name" "main" (Some "Q4_K_M")
                    "org/name@main:sub/x.gguf", name "org/name" "main" (Some "sub/x.gguf")
                ] do
                Expect.equal (got (HubName.parse written)) expected written)

        testCase "what is no name is one line that says how to write one" (fun () ->
            for written in
                [
                    "name"
                    "org/name/more"
                    "org/na--me"
                    "org/na..me"
                    "-org/name"
                    "org/name@"
                    "org/name@../main"
                    "org/name@a b"
                    "org/name@main.lock"
                    "org/name:"
                    "org/name:../x.gguf"
                    "org/name:/etc/x.gguf"
                    "org/n\u001bame"
                    ""
                ] do
                HubName.parse written |> refusedWith [ "org/name" ])

        testCase "the address of a model's page, of a branch of it or of a file is its name" (fun () ->
            for written, expected in
                [
                    "https://huggingface.co/org/name", name "org/name" "main" None
                    "http://HuggingFace.co/org/name/?library=x#top", name "org/name" "main" None
                    "https://huggingface.co/org/name/tree/v1.0", name "org/name" "v1.0" None
                    "https://huggingface.co/org/name/tree/refs%2Fpr%2F1", name "org/name" "refs/pr/1" None
                    "https://huggingface.co/org/name/blob/main/sub/x.gguf",
                    name "org/name" "main" (Some "sub/x.gguf")
                    "https://huggingface.co/org/name/resolve/main/x.gguf",
                    name "org/name" "main" (Some "x.gguf")
                ] do
                Expect.equal (got (HubName.parse written)) expected written
                Expect.isTrue (HubName.isMeant written) written

            let mirror = "http://127.0.0.1:81/hf"
            Expect.equal
                (got (HubName.parseAt mirror $"{mirror}/org/name"))
                (name "org/name" "main" None)
                "a mirror's"

            for written in
                [
                    "https://huggingface.co/org/name"
                    "http://127.0.0.1:81/org/name"
                    "http://127.0.0.1/hf/org/name"
                ] do
                HubName.parseAt mirror written |> refusedWith [ written; "write org/name"; mirror ]

            for written in
                [
                    "https://example.com/org/name"
                    "https://huggingface.co/"
                    "https://huggingface.co/org"
                    "https://huggingface.co/datasets/org/name"
                    "https://huggingface.co/org/name/discussions"
                    "https://"
                ] do
                HubName.parse written
                |> refusedWith [ "write org/name"; "https://huggingface.co/org/name" ]

            for written in
                [
                    "https://huggingface.co/org/na--me"
                    "https://huggingface.co/org/name/tree/a%20b"
                ] do
                HubName.parse written |> refusedWith [ "write org/name" ])

        testProperty
            "a name is written as it is read"
            (fun (a: byte) (b: byte) (c: byte) hasRevision hasFile ->
                let part (n: byte) = $"m{n}.x-{n / 7uy}_y"

                let written =
                    name
                        $"{part a}/{part b}"
                        (if hasRevision then $"v{c}/x" else "main")
                        (if hasFile then Some $"{part c}.gguf" else None)

                HubName.parse (HubName.text written) = Ok written)

        testProperty "whatever is read stays inside the cache" (fun (parts: NonNull<string> list) ->
            let text =
                parts |> List.map (fun part -> part.Get) |> String.concat "/" |> fun text -> $"org/{text}"

            let inside (folder: string) (path: string) =
                (Path.GetFullPath path).StartsWith(Path.GetFullPath folder + "/", StringComparison.Ordinal)

            match HubName.parse text, HubName.parse $"org/name@{text}" with
            | Ok name, _ when not (inside "/cache" (Path.Combine("/cache", name.Repository))) -> false
            | _, Ok name when not (inside "/cache/refs" (Path.Combine("/cache/refs", name.Revision))) ->
                false
            | _ -> true)

        testCase "a path that is there wins, and so does one in a folder that is there" (fun () ->
            withFolder (fun folder ->
                let before = Directory.GetCurrentDirectory()
                Directory.SetCurrentDirectory folder

                try
                    Directory.CreateDirectory "models/mine" |> ignore
                    Expect.isFalse (HubName.isMeant "models/mine") "it is there"
                    Expect.isFalse (HubName.isMeant "models/minne") "a folder that is there has it not"
                    Expect.isTrue (HubName.isMeant "org/mine") "nothing is there"
                finally
                    Directory.SetCurrentDirectory before)

            for path in [ "/a/b"; "./a"; "../a"; "a"; "a/b/c"; "a/b.gguf"; "~/a"; "a\\b/c"; "a/" ] do
                Expect.isFalse (HubName.isMeant path) path)

        testCase "a model's path in a cache has its name" (fun () ->
            let path = "/x/hub/models--org--na-me/snapshots/abc"
            Expect.equal (Hub.nameOf path) (Some "org/na-me") "a folder"
            Expect.equal (Hub.nameOf (path + "/q/x.gguf")) (Some "org/na-me:q/x.gguf") "a file"
            Expect.equal (Hub.nameOf "/models/snapshots/abc") None "another's")

        testCase "the cache is where Python has it" (fun () ->
            let cache given = (got (ofVariables given)).Cache
            let home = Environment.GetFolderPath Environment.SpecialFolder.UserProfile
            Expect.equal (cache []) $"{home}/.cache/huggingface/hub" "nothing is set"
            Expect.equal (cache [ "XDG_CACHE_HOME", "/c" ]) "/c/huggingface/hub" "XDG"
            Expect.equal (cache [ "XDG_CACHE_HOME", "/c"; "HF_HOME", "/h" ]) "/h/hub" "HF_HOME"
            Expect.equal (cache [ "HF_HOME", "/h"; "HF_HUB_CACHE", "~/k" ]) $"{home}/k" "HF_HUB_CACHE"
            Expect.equal
                (cache [ "HF_HOME", "" ])
                $"{home}/.cache/huggingface/hub"
                "what is empty is not set")

        testCase "a token is the variable's, else its file's" (fun () ->
            withFolder (fun folder ->
                let file = Path.Combine(folder, "token")
                let token given = (got (ofVariables (("HF_HOME", folder) :: given))).Token
                Expect.equal (token []) None "none"
                File.WriteAllText(file, "hf_file\n")
                Expect.equal (token []) (Some "hf_file") "the file of HF_HOME"
                Expect.equal (token [ "HF_TOKEN", " hf_own " ]) (Some "hf_own") "HF_TOKEN"
                Expect.equal (token [ "HF_HUB_DISABLE_IMPLICIT_TOKEN", "1" ]) None "not wanted"
                let other = Path.Combine(folder, "other")
                File.WriteAllText(other, "hf_other")
                Expect.equal (token [ "HF_TOKEN_PATH", other ]) (Some "hf_other") "HF_TOKEN_PATH"))

        testCase "what a variable cannot be is told with its name, and never the token" (fun () ->
            for variable, value in
                [
                    "HF_ENDPOINT", "huggingface.co"
                    "HF_ENDPOINT", "ftp://x"
                    "HF_HUB_DOWNLOAD_TIMEOUT", "soon"
                    "HF_HUB_DOWNLOAD_TIMEOUT", "0"
                ] do
                ofVariables [ variable, value ] |> refusedWith [ variable; value ]

            match ofVariables [ "HF_TOKEN", "hf_secret\r\nX: y" ] with
            | Ok _ -> failtest "a header would end"
            | Error faults ->
                let line = LayerSkipError.summary faults
                Expect.stringContains line "HF_TOKEN" "which"
                Expect.isFalse (line.Contains "secret") "not what")

        testCase "HF_HUB_OFFLINE, HF_ENDPOINT and the timeout are heeded" (fun () ->
            let found =
                got (
                    ofVariables [
                        "HF_HUB_OFFLINE", "yes"
                        "HF_ENDPOINT", "http://127.0.0.1:1/"
                        "HF_HUB_DOWNLOAD_TIMEOUT", "3"
                    ]
                )

            Expect.equal
                (found.Offline, found.Endpoint, found.Timeout)
                (true, "http://127.0.0.1:1", TimeSpan.FromSeconds 3.0)
                "as they say"

            Expect.equal (got (ofVariables [])).Offline false "else not")
    ]

let private planned file names =
    HubFiles.plan file names
    |> Result.map (fun plan -> List.sort (plan.First @ plan.Rest @ [ plan.Last ]), plan.Last)

[<Tests>]
let files =
    testList "hub: files" [
        testCase "of a folder come its configuration, tokenizer and weights, and config.json last" (fun () ->
            let names = [
                "config.json"
                "generation_config.json"
                "tokenizer.json"
                "README.md"
                "chat_template.jinja"
                "onnx/model.safetensors"
                "training_args.bin"
            ]

            let wanted = [
                "chat_template.jinja"
                "config.json"
                "generation_config.json"
                "tokenizer.json"
            ]

            Expect.equal
                (planned
                    None
                    (names @ [ "model.safetensors"; "model.safetensors.index.json"; "other.safetensors" ]))
                (Ok(List.sort ("model.safetensors" :: wanted), "config.json"))
                "one file of weights"

            Expect.equal
                (planned None (names @ [ "model.safetensors.index.json"; "consolidated.safetensors" ]))
                (Ok(List.sort ("model.safetensors.index.json" :: wanted), "config.json"))
                "the index, which names the others"

            Expect.equal
                (planned None (names @ [ "weights.safetensors" ]))
                (Ok(List.sort ("weights.safetensors" :: wanted), "config.json"))
                "the only one")

        testCase "of several .gguf files comes the one that is named, or Q4_K_M" (fun () ->
            let all = [
                "x-Q4_K_M.gguf"
                "x-Q4_K_S.gguf"
                "x-q8_0.gguf"
                "mmproj-x.gguf"
                "x.imatrix.gguf"
            ]

            let one file = planned file all |> Result.map snd

            for file, expected in
                [
                    None, "x-Q4_K_M.gguf"
                    Some "Q8_0", "x-q8_0.gguf"
                    Some "q4_k_s", "x-Q4_K_S.gguf"
                    Some "x-Q4_K_S.gguf", "x-Q4_K_S.gguf"
                ] do
                Expect.equal (one file) (Ok expected) $"%A{file}"

            for file in [ "Q4_K"; "Q2_K"; "y.gguf" ] do
                match one (Some file) with
                | Ok found -> failtest $"{file}: {found}"
                | Error why -> Expect.stringContains why "x-Q4_K_M.gguf" "what there is")

        testCase "a model in parts comes with all of them, or is refused" (fun () ->
            let part n = $"Q8_0/x-0000{n}-of-00003.gguf"
            let all = [ part 3; part 1; part 2 ]

            for file in [ None; Some "Q8_0"; Some(part 2); Some "x-00002-of-00003.gguf" ] do
                Expect.equal (planned file all) (Ok(List.sort all, part 1)) $"%A{file}"

            match planned None [ part 1; part 3 ] with
            | Ok _ -> failtest "a part is missing"
            | Error why -> Expect.stringContains why (part 2) "which")

        testCase "what is no model says what to take instead" (fun () ->
            for file, names, word in
                [
                    None, [ "config.json"; "pytorch_model.bin" ], "pickles"
                    None, [ "config.json" ], ".safetensors"
                    None, [ "README.md" ], "config.json"
                    None, [], "config.json"
                    None, [ "config.json"; "a.safetensors"; "b.safetensors" ], "index"
                    None, [ "a.gguf"; "b.gguf" ], "a.gguf, b.gguf"
                    Some "Q8_0", [ "config.json"; "model.safetensors" ], "no .gguf"
                ] do
                match planned file names with
                | Ok found -> failtest $"%A{found}"
                | Error why -> Expect.stringContains why word why)

        testCase "no name of a repository leads out of the folder" (fun () ->
            for name in
                [
                    "../x.gguf"
                    "/x.gguf"
                    "a//x.gguf"
                    "a\\..\\x.gguf"
                    ".x.gguf"
                    "a/../x.gguf"
                ] do
                Expect.isError (planned None [ name ]) name)

        testProperty
            "an index names files of the folder itself, whatever it holds"
            (fun (names: NonNull<string> list) (junk: byte[]) ->
                let map = names |> List.mapi (fun i name -> $"t{i}", name.Get) |> dict
                let index = Text.Json.JsonSerializer.SerializeToUtf8Bytes {| weight_map = map |}

                [ index; junk ]
                |> List.collect (HubFiles.named "model.safetensors.index.json")
                |> List.forall (fun name -> Path.GetFileName name = name && name <> ""))
    ]
