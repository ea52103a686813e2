/// Where a text comes from: a regular file, or a pipe that is open already; anything else is refused, and never waited for.
module LayerSkip.Tests.TextSourceTests

open System
open System.IO
open System.Runtime.InteropServices
open System.Threading.Tasks
open Expecto
open LayerSkip
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport

[<DllImport("libc", SetLastError = true)>]
extern int private mkfifo(string path, uint32 mode)

/// Each command that reads a text, with an option to read it from.
let private readers (model: string) (path: string) = [
    [ "generate"; "--model"; model; "--prompt-file"; path ]
    [ "certify"; "--model"; model; "--max-new-tokens"; "2"; "--prompts"; path ]
    [
        "train"
        "--model"
        model
        "--output"
        model + "/run"
        "--steps"
        "1"
        "--data"
        path
    ]
    [
        "train"
        "--model"
        model
        "--output"
        model + "/run"
        "--data"
        Path.Combine(Support.root, "README.md")
        "--validation"
        path
    ]
    [
        "tokenizer"
        "train"
        "--vocab-size"
        "300"
        "--output"
        model + "/made"
        "--text"
        path
    ]
]

/// Bad input in one line with these words, at once: to wait for ever is a fault of the test.
let private refuses (words: string list) (arguments: string list) =
    let running = Task.Run(fun () -> cli arguments)

    if not (running.Wait(TimeSpan.FromSeconds 60.0)) then
        failtest $"%A{arguments} waits"

    let outcome = running.Result
    Expect.equal (outcome.Code, outcome.Out) (2, "") $"%A{arguments}: {outcome.Error}"
    Expect.equal (outcome.Error.TrimEnd().Split('\n').Length) 1 outcome.Error

    for word in words do
        Expect.stringContains outcome.Error word "what and where"

let private places: (string * (string -> unit)) list = [
    "is a pipe, a socket or a device; give", (fun path -> mkfifo (path, 0o644u) |> ignore)
    "is a pipe, a socket or a device; give",
    (fun path -> File.CreateSymbolicLink(path, "/dev/zero") |> ignore)
    "is a pipe, a socket or a device; give",
    (fun path -> File.CreateSymbolicLink(path, "/dev/null") |> ignore)
    "is a folder; give", (Directory.CreateDirectory >> ignore)
    "not found; give", ignore
]

[<Tests>]
let tests =
    testSequenced
    <| testList "text sources" [
        testCase
            "a FIFO, a device, a folder or nothing is bad input in one line, whatever reads it"
            (fun () ->
                if OperatingSystem.IsLinux() then
                    for words, make in places do
                        withModel (fun model ->
                            let path = Path.Combine(model, "text")
                            make path
                            readers model path |> List.iter (refuses [ $"{path}: {words}" ])))

        testCase "what the user may not read is access denied, file or folder" (fun () ->
            if OperatingSystem.IsLinux() then
                withFolder (fun folder ->
                    let path = Path.Combine(folder, "text")
                    File.WriteAllText(path, "some text")
                    let all = UnixFileMode.UserRead ||| UnixFileMode.UserWrite ||| UnixFileMode.UserExecute
                    let others = UnixFileMode.OtherExecute ||| UnixFileMode.GroupExecute

                    for folderMode, fileMode in
                        [ all ||| others, UnixFileMode.None; UnixFileMode.None, all ] do
                        File.SetUnixFileMode(path, fileMode)
                        File.SetUnixFileMode(folder, folderMode)

                        let found =
                            asNobody (fun () ->
                                TextFile.check "a text" path
                                @ (try
                                    TextFile.readAll 1 path |> ignore
                                    []
                                   with :? LayerSkipException as e ->
                                       e.Errors))

                        File.SetUnixFileMode(folder, all)
                        Expect.equal (List.map LayerSkipError.message found).Length 2 $"%A{found}"

                        for fault in found do
                            expectFault [ path; "access is denied" ] [ LayerSkipError.message fault ]))

        testCase "a pipe that is open already is read, whatever became of its writer" (fun () ->
            withModel (fun model ->
                let certify = $"layerskip certify --model {model} --max-new-tokens 2 --json --prompts"

                let outcome =
                    shell
                        model
                        $"printf '3,4\\n5,6\\n' >text; mkfifo fifo; cat text >fifo & exec 3<fifo; wait
                          ({certify} text) >first && ({certify} <(cat text)) >second && (cat text | {certify} /dev/stdin) >third &&
                          (timeout 60 dotnet \"$PROGRAM\" certify --model {model} --max-new-tokens 2 --json --prompts /dev/fd/3) >fourth &&
                          ({certify} /dev/stdin <text) >fifth &&
                          for one in second third fourth fifth; do cmp first $one || exit 9; done"

                Expect.equal outcome.Code 0 outcome.Error))
    ]
