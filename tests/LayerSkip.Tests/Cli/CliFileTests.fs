module LayerSkip.Tests.CliFileTests

open System
open System.IO
open Expecto
open LayerSkip
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport

/// What lies in a folder, but for the files of the test itself.
let private entries (folder: string) =
    Directory.GetFileSystemEntries(folder, "*", SearchOption.AllDirectories)
    |> Array.map (fun path -> Path.GetRelativePath(folder, path))
    |> Array.filter (fun path -> path <> "error")
    |> Array.sort
    |> List.ofArray

let private lines (outcome: Outcome) = outcome.Error.Split('\n') |> Array.filter _.StartsWith("layerskip:")

/// A failure in one line with these words, that leaves nothing unfinished.
let private fails (folder: string) (outcome: Outcome) (words: string list) =
    Expect.equal (outcome.Code, (lines outcome).Length) (1, 1) outcome.Error

    for word in words do
        Expect.stringContains (Array.head (lines outcome)) word "what and why"

    Expect.isEmpty (entries folder |> List.filter _.EndsWith(".tmp")) "nothing unfinished"

let private modelAnd body = withModel (fun model -> withFolder (fun folder -> body model folder))

let private exportTo model output = cli [ "export"; "--model"; model; "--dtype"; "f32"; "--output"; output ]

[<Tests>]
let tests =
    testList "command line: files" [
        testCase "export writes into a FIFO or a device, and follows a link, as generate does" (fun () ->
            modelAnd (fun model folder ->
                let inside name = Path.Combine(folder, name)
                let plain = exportTo model (inside "plain.gguf")
                Expect.equal plain.Code 0 plain.Error
                let expected = File.ReadAllBytes(inside "plain.gguf")

                let made =
                    shell
                        folder
                        $"mkfifo fifo.gguf; ln -s fifo.gguf link.gguf; ln -s /dev/null null.gguf; ln -s real.gguf new.gguf
                          cat fifo.gguf >read & reader=$!
                          export=\"export --model {model} --dtype f32 --json --output\"
                          (layerskip $export link.gguf) && wait $reader && (layerskip $export null.gguf) && (layerskip $export new.gguf)"

                Expect.equal made.Code 0 made.Error
                let bytes = $"\"bytes\":{expected.Length}"
                Expect.equal (made.Out.Split(bytes).Length - 1) 3 "how many were written"
                Expect.equal (File.ReadAllBytes(inside "read")) expected "through the FIFO"
                Expect.equal (File.ReadAllBytes(inside "real.gguf")) expected "the link's target"

                Expect.equal
                    [
                        for name in [ "link"; "null"; "new" ] -> FileInfo(inside $"{name}.gguf").LinkTarget
                    ]
                    [ "fifo.gguf"; "/dev/null"; "real.gguf" ]
                    "the links stay"

                Expect.equal (PathKind.find (inside "fifo.gguf")) PathKind.Special "the FIFO stays"))

        testCase "export into an empty folder, the current one or a linked one, fills it" (fun () ->
            modelAnd (fun model folder ->
                let made =
                    shell
                        folder
                        $"mkdir here real; ln -s real link; inode=$(stat -c %%i here real)
                          (cd here; layerskip export --model {model} --output .) && (layerskip export --model {model} --output link)
                          test \"$inode\" = \"$(stat -c %%i here real)\""

                Expect.equal made.Code 0 made.Error

                for name in [ "here"; "real" ] do
                    Expect.isTrue (File.Exists(Path.Combine(folder, name, "model.safetensors"))) name

                Expect.equal (DirectoryInfo(Path.Combine(folder, "link")).LinkTarget) "real" "the link"))

        testCase "a full disk is a failure with one line, whatever is written" (fun () ->
            modelAnd (fun model folder ->
                let full name =
                    let link = Path.Combine(folder, name)
                    File.CreateSymbolicLink(link, "/dev/full") |> ignore
                    link

                let gguf, text = full "made.gguf", full "made.txt"
                fails folder (exportTo model gguf) [ gguf; "No space left" ]

                fails folder (cli ([ "generate"; "--model"; model; "--output"; text ] @ ids)) [
                    text
                    "No space left"
                ]

                fails folder (cli [ "info"; "--model"; model; "--output"; text ]) [ text; "No space left" ]))
    ]

/// With `limit` KiB for a file. .NET's own start needs the variable where files are limited.
let private limited (limit: int) folder command =
    shell folder $"export DOTNET_EnableWriteXorExecute=0; ulimit -f {limit}; layerskip {command}"

[<Tests>]
let limits =
    testSequenced
    <| testList "command line: files beyond ulimit -f" [
        testCase "are a failure with one line, and nothing unfinished stays" (fun () ->
            modelAnd (fun model folder ->
                File.WriteAllText(Path.Combine(folder, "text.txt"), "some text, some text")

                for command, words in
                    [
                        $"generate --model {model} --prompt-ids 3 --output out",
                        [ "out: cannot be written" ]
                        $"info --model {model} --output out", [ "out: cannot be written" ]
                        $"export --model {model} --output out", [ "out/"; "cannot be written" ]
                        $"export --model {model} --dtype f32 --output out.gguf",
                        [ "out.gguf: cannot be written" ]
                        "tokenizer train --text text.txt --vocab-size 258 --output out",
                        [ "out/"; "cannot be written" ]
                        $"info --model {model} >shown", [ "standard output" ]
                    ] do
                    fails folder (limited 0 folder command) words

                fails folder (limited 1 folder $"export --model {model} --output out") [
                    "model.safetensors"
                ]
                Expect.equal (entries folder) [ "shown"; "text.txt" ] "standard output's file alone"))
    ]

/// What a signal ends while `command` runs and `condition` holds; nothing unfinished stays.
let private interrupted (folder: string) (name: string) (command: string) (condition: string) =
    let outcome =
        shell
            folder
            $"set -m
              layerskip {command} 2>error >&2 & job=$!
              for i in $(seq 600); do {condition} && break; sleep 0.05; done
              kill -{name} $job; wait $job; code=$?; cat error >&2; exit $code"

    Expect.equal (lines outcome) [| "layerskip: interrupted" |] outcome.Error
    Expect.isEmpty (entries folder |> List.filter _.EndsWith(".tmp")) "nothing unfinished"
    outcome

[<Tests>]
let signals =
    testSequenced
    <| testList "command line: files and signals" [
        for name, code in [ "INT", 130; "TERM", 143; "HUP", 129 ] do
            testCase $"SIG{name} ends export, and nothing of it stays" (fun () ->
                modelAnd (fun model folder ->
                    // To copy it, export waits for ever for its writer.
                    let made = shell model "mkfifo chat_template.jinja"
                    Expect.equal made.Code 0 made.Error

                    let outcome =
                        interrupted
                            folder
                            name
                            $"export --model {model} --output made"
                            "ls made.*.tmp/*.json 2>/dev/null"

                    Expect.equal outcome.Code code outcome.Error
                    Expect.equal (entries folder) [] "nothing"))

            testCase $"SIG{name} ends train while it encodes, and nothing unfinished stays" (fun () ->
                withFolder (fun folder ->
                    let inside name = Path.Combine(folder, name)
                    let words = String.concat " " [ for i in 0..99999 -> $"word{i * i} other{i % 7} thing" ]
                    File.WriteAllText(inside "small.txt", words[..9999])
                    File.WriteAllText(
                        inside "large.txt",
                        String.concat "<|endoftext|>" (List.replicate 20 words)
                    )

                    let tokenizer =
                        cli [
                            "tokenizer"
                            "train"
                            "--text"
                            inside "small.txt"
                            "--vocab-size=300"
                            "--output"
                            inside "tokenizer"
                        ]

                    Expect.equal tokenizer.Code 0 tokenizer.Error

                    let outcome =
                        interrupted
                            folder
                            name
                            "train --shape hidden=16,layers=2,heads=2,kv-heads=2,intermediate=16 --tokenizer tokenizer --data large.txt --output run --steps 1"
                            "ls run/train.tokens.*.tmp 2>/dev/null"

                    Expect.equal outcome.Code code outcome.Error))

        testCase "a command that was told to live on after a hang-up does" (fun () ->
            modelAnd (fun model folder ->
                let outcome =
                    shell
                        folder
                        $"set -m; mkfifo fifo
                          (trap '' HUP; exec dotnet \"$PROGRAM\" info --model {model} --output fifo) & job=$!
                          sleep 1; kill -HUP $job; sleep 0.2; cat fifo >/dev/null; wait $job"

                Expect.equal outcome.Code 0 outcome.Error))
    ]
