module LayerSkip.Tests.CliOutputTests

open System.Diagnostics
open System.IO
open System.Threading
open System.Threading.Tasks
open Expecto
open LayerSkip
open LayerSkip.Tests.CliSupport

/// Runs `generate` with an output; what it gives.
let private writeTo (file: string) (folder: string) =
    cli ([ "generate"; "--model"; folder; "--output"; file ] @ ids @ count 5)

/// Standard output, where all is well.
let private written file folder =
    let outcome = writeTo file folder
    Expect.equal outcome.Code 0 outcome.Error
    Expect.isEmpty
        (Directory.GetFiles(folder, "*.tmp", SearchOption.AllDirectories))
        "nothing unfinished stays"
    outcome.Out

let private makeFifo (path: string) =
    use made = Process.Start("mkfifo", [ path ])
    made.WaitForExit()
    Expect.equal made.ExitCode 0 "a FIFO"

/// How many descriptors of this process are open on a file.
let private openings (path: string) =
    Directory.GetFiles "/proc/self/fd"
    |> Array.filter (fun descriptor -> FileInfo(descriptor).LinkTarget = path)
    |> Array.length

[<Tests>]
let files =
    testList "command line: --output" [
        testCase "a symbolic link stays, and what it names is written" (fun () ->
            withModel (fun folder ->
                let inside name = Path.Combine(folder, name)
                Directory.CreateDirectory(inside "sub") |> ignore
                let real, link, second = inside "sub/real.txt", inside "link.txt", inside "second.txt"
                File.CreateSymbolicLink(link, "sub/real.txt") |> ignore
                File.CreateSymbolicLink(second, link) |> ignore

                // First a link to nothing.
                for name in [ link; link; second ] do
                    let out = written name folder
                    Expect.equal (File.ReadAllText real) out "the target"
                    Expect.equal
                        (FileInfo(link).LinkTarget, FileInfo(second).LinkTarget)
                        ("sub/real.txt", link)
                        "links"
                    File.WriteAllText(real, "old and longer than what is new, whatever that may be")))

        testCase "a file keeps its mode" (fun () ->
            withModel (fun folder ->
                let file = Path.Combine(folder, "made.txt")
                File.WriteAllText(file, "old")

                for mode in [ UnixFileMode.UserRead ||| UnixFileMode.UserWrite; enum<UnixFileMode> 0o755 ] do
                    File.SetUnixFileMode(file, mode)
                    Expect.equal (written file folder) (File.ReadAllText file) "written"
                    Expect.equal (File.GetUnixFileMode file) mode "its mode"))

        testCase "a FIFO, or a link to one, is written into and stays" (fun () ->
            withModel (fun folder ->
                let fifo, link = Path.Combine(folder, "fifo"), Path.Combine(folder, "link")
                makeFifo fifo
                File.CreateSymbolicLink(link, fifo) |> ignore

                for name in [ fifo; link ] do
                    let reading = Task.Run(fun () -> File.ReadAllText fifo)
                    let out = written name folder
                    Expect.isTrue (reading.Wait 10_000) "the text came through the FIFO"
                    Expect.equal reading.Result out "all of it"
                    Expect.equal (FileInfo(link).LinkTarget) fifo "the link stays"))

        testCase "a FIFO whose reader goes is a failure with its name" (fun () ->
            withModel (fun folder ->
                let fifo = Path.Combine(folder, "fifo")
                makeFifo fifo
                let opening = Task.Run(fun () -> File.OpenRead fifo)

                // It is full: what is written waits, until the reader goes.
                using
                    (new FileStream(fifo, FileMode.Append, FileAccess.Write, FileShare.ReadWrite))
                    (fun filling -> filling.Write(Array.zeroCreate<byte> 65536))

                let reader = opening.Result

                let going =
                    Task.Run(fun () ->
                        while openings fifo < 2 do
                            Thread.Sleep 5

                        reader.Dispose())

                let outcome = writeTo fifo folder
                Expect.isTrue (going.Wait 10_000) "it went"
                Expect.equal outcome.Code 1 outcome.Error
                Expect.stringContains outcome.Error $"{fifo}: cannot be written" "named"))

        testCase "links in a circle, and no path, are bad input" (fun () ->
            withModel (fun folder ->
                let a, b = Path.Combine(folder, "a"), Path.Combine(folder, "b")
                File.CreateSymbolicLink(a, b) |> ignore
                File.CreateSymbolicLink(b, a) |> ignore

                for path, words in [ a, $"{a}: cannot be written"; "", "--output is empty" ] do
                    let outcome = writeTo path folder
                    Expect.equal outcome.Code 2 outcome.Error
                    Expect.stringContains outcome.Error words "said"))
    ]

let private generate = "layerskip generate --model . --prompt-ids 3,4,5 --max-new-tokens 5"

[<Tests>]
let streams =
    testSequenced
    <| testList "command line: standard streams" [
        testCase "a standard error that cannot be written changes nothing" (fun () ->
            withModel (fun folder ->
                let sound = shell folder generate
                Expect.equal sound.Code 0 sound.Error

                for broken in [ "2>/dev/full"; "2>&-" ] do
                    let outcome = shell folder $"{generate} {broken}"
                    Expect.equal (outcome.Code, outcome.Out) (0, sound.Out) broken
                    Expect.equal
                        (shell folder $"layerskip info --model none {broken}").Code
                        2
                        $"bad input, {broken}"))

        testCase "a standard output that cannot be written is a failure with one line" (fun () ->
            withModel (fun folder ->
                TokenFile.write (Path.Combine(folder, "data.tokens")) [
                    for i in 0..40 -> [| for j in 0..19 -> (i + 5 * j) % 24 |]
                ]
                |> Check.getOrRaise
                |> ignore

                File.WriteAllText(Path.Combine(folder, "prompts"), "3,4,5")
                let both, full = [ ">/dev/full"; ">&-" ], [ ">/dev/full" ]

                for command, ways in
                    [
                        "layerskip generate --help", both
                        generate, both
                        "layerskip info --model . --json", both
                        "layerskip certify --model . --prompts prompts --exit-layers 2 --draft-lengths 2 --max-new-tokens 2",
                        full
                        "layerskip bench --model . --runs 1 --max-new-tokens 2", full
                        "rm -rf made; layerskip export --model . --output made", full
                        "rm -rf run; layerskip train --model . --data data.tokens --output run --steps 1 --batch-size 2 --sequence-length 8 --validation-tokens 14",
                        full
                    ] do
                    for broken in ways do
                        let outcome = shell folder $"{command} {broken}"
                        let lines = outcome.Error.Split('\n') |> Array.filter _.StartsWith("layerskip: ")
                        Expect.equal
                            (outcome.Code, lines.Length)
                            (1, 1)
                            $"{command} {broken}: {outcome.Error}"
                        Expect.stringContains lines[0] "standard output" broken))

        testCase "both broken: the code alone" (fun () ->
            withModel (fun folder ->
                for broken in [ ">/dev/full 2>/dev/full"; ">&- 2>&-" ] do
                    Expect.equal (shell folder $"{generate} {broken}").Code 1 broken))

        testCase "on a terminal, --json writes no control characters" (fun () ->
            withModel (fun folder ->
                if (shell folder "command -v script").Code <> 0 then
                    skiptest "there is no `script`"

                let on command =
                    shell
                        folder
                        $"TERM=xterm script -qec \"dotnet $PROGRAM {command}\" /dev/null </dev/null"
                let outcome =
                    on "generate --model . --prompt-ids 3 --max-new-tokens 3 --exit-layer 2 --json"
                Expect.equal outcome.Code 0 outcome.Out
                Expect.isFalse (outcome.Out.Contains '\u001b') (outcome.Out.Replace('\u001b', '^'))
                let coloured = on "generate --model . --prompt-ids 3 --max-new-tokens 9 --exit-layer 2"
                Expect.stringContains coloured.Out "\u001b[3" "colours without it"
                Expect.isFalse (coloured.Out.Contains "\u001b[?") "and nothing else"))
    ]
