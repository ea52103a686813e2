module LayerSkip.Tests.AtomicFileTests

open System
open System.Diagnostics
open System.IO
open System.Threading.Tasks
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport

let private makeFifo (path: string) =
    use made = Process.Start("mkfifo", [ path ])
    made.WaitForExit()
    Expect.equal made.ExitCode 0 "a FIFO"

let private entries folder =
    [
        for path in Directory.GetFileSystemEntries(folder, "*", SearchOption.AllDirectories) ->
            Path.GetRelativePath(folder, path)
    ]
    |> List.sort

let private put path (text: string) = AtomicFile.writeBytes path (Text.Encoding.UTF8.GetBytes text)

let private putInside name folder = put (Path.Combine(folder, name)) name

[<Tests>]
let tests =
    testList "the one way to write" [
        testCase "a link stays and what it names is written, be it there or not" (fun () ->
            withFolder (fun folder ->
                let real, link = Path.Combine(folder, "real"), Path.Combine(folder, "link")
                File.CreateSymbolicLink(link, "real") |> ignore

                for text in [ "new"; "newer" ] do
                    Expect.equal (put link text) (Ok()) "written"
                    Expect.equal (File.ReadAllText real) text "the target"
                    Expect.equal (FileInfo(link).LinkTarget) "real" "the link"))

        testCase "a FIFO is written into, and stays" (fun () ->
            withFolder (fun folder ->
                let fifo, link = Path.Combine(folder, "fifo"), Path.Combine(folder, "link")
                makeFifo fifo
                File.CreateSymbolicLink(link, fifo) |> ignore
                let reading = Task.Run(fun () -> File.ReadAllText fifo)
                Expect.equal (put link "through") (Ok()) "written"
                Expect.isTrue (reading.Wait 10_000) "read"
                Expect.equal reading.Result "through" "what came"
                Expect.equal (PathKind.find fifo) PathKind.Special "still a FIFO"))

        testCase "a device that is full is a failure that names it, and its folder stays as it was" (fun () ->
            withFolder (fun folder ->
                let link = Path.Combine(folder, "link")
                File.CreateSymbolicLink(link, "/dev/full") |> ignore

                match put link "x" with
                | Error [ LayerSkipError.NotWritten(path, _) as fault ] ->
                    Expect.equal path link "the name that was given"
                    Expect.isTrue (LayerSkipError.isFailure fault) "no bad input"
                | other -> failtest $"%A{other}"

                Expect.equal (entries folder) [ "link" ] "nothing else"))

        testCase "whatever goes wrong, the old file is whole and nothing unfinished stays" (fun () ->
            withFolder (fun folder ->
                let file = Path.Combine(folder, "file")
                File.WriteAllText(file, "old")

                let failing (e: exn) =
                    AtomicFile.write file (fun stream ->
                        stream.Write "half"B
                        raise e)

                Expect.isError (failing (IOException "No space left on device")) "told"
                Expect.throws (fun () -> failing (InvalidOperationException "a bug") |> ignore) "thrown"
                Expect.equal (File.ReadAllText file) "old" "the old file"
                Expect.equal (entries folder) [ "file" ] "alone"))

        testCase "a name as long as the system allows is written" (fun () ->
            withFolder (fun folder ->
                for name in [ String('a', 255); String('é', 127) ] do
                    let file = Path.Combine(folder, name)
                    Expect.equal (put file "x") (Ok()) "written"
                    Expect.equal (File.ReadAllText file) "x" "read"))

        testCase "an unfinished folder goes, and a finished one has what was put into it" (fun () ->
            withFolder (fun folder ->
                let made = Path.Combine(folder, "made")
                let fault = [ LayerSkipError.NoText ]

                AtomicFile.writeFolder made (fun unfinished ->
                    putInside "a" unfinished |> Result.bind (fun () -> Error fault))
                |> fun result -> Expect.equal result (Error fault: Result<unit, _>) "the fault"

                Expect.equal (entries folder) [] "nothing"
                Expect.equal (AtomicFile.writeFolder made (putInside "a")) (Ok()) "made"
                Expect.equal (entries folder) [ "made"; "made/a" ] "whole"
                Expect.equal (AtomicFile.writeFolder made (putInside "b")) (Ok()) "made again"
                Expect.equal (entries folder) [ "made"; "made/b" ] "the older one is gone"))

        testCase
            "an empty folder that is there is filled, not replaced: it may be a mount, or have other rights"
            (fun () ->
                withFolder (fun folder ->
                    let real, link = Path.Combine(folder, "real"), Path.Combine(folder, "link")
                    Directory.CreateDirectory(real, enum<UnixFileMode> 0o700) |> ignore
                    Directory.CreateSymbolicLink(link, "real") |> ignore
                    let fill inside =
                        Directory.CreateDirectory(Path.Combine(inside, "sub")) |> ignore
                        putInside "a" inside
                    Expect.equal (AtomicFile.writeFolder link fill) (Ok()) "made"
                    Expect.equal (FileInfo(link).LinkTarget) "real" "the link"
                    Expect.equal (File.GetUnixFileMode real) (enum<UnixFileMode> 0o700) "its mode"
                    Expect.equal (entries real) [ "a"; "sub" ] "what was put into it"))

        testCase "what cannot be written is told before, and leaves nothing" (fun () ->
            withFolder (fun folder ->
                let file, fifo = Path.Combine(folder, "file"), Path.Combine(folder, "fifo")
                File.WriteAllText(file, "")
                makeFifo fifo

                for check, path, words in
                    [
                        AtomicFile.check, folder, "it is a folder"
                        AtomicFile.check, Path.Combine(folder, "none", "x"), "its folder is not there"
                        AtomicFile.check, "/proc/x", "cannot be written"
                        AtomicFile.checkFolder, file, "it is a file"
                        AtomicFile.checkFolder, fifo, "it is a device or a FIFO"
                        AtomicFile.checkFolder, Path.Combine(folder, "none", "x"), "its folder is not there"
                        AtomicFile.checkFolder, Path.Combine(file, "x"), "cannot be written"
                    ] do
                    expectFault [ path; words ] (messages (check path))

                Expect.equal (AtomicFile.check (Path.Combine(folder, "new"))) (Ok()) "a new file"
                Expect.equal (AtomicFile.checkFolder folder) (Ok()) "a folder"
                Expect.equal (entries folder) [ "fifo"; "file" ] "nothing new"))
    ]
