module LayerSkip.Tests.OutputRightsTests

open System
open System.IO
open Expecto
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport

let private denied (arguments: string list) =
    let outcome = asNobody (fun () -> cli arguments)
    Expect.equal (outcome.Code, outcome.Out) (2, "") $"%A{arguments}: {outcome.Error}"
    Expect.equal (outcome.Error.TrimEnd().Split('\n').Length) 1 outcome.Error
    Expect.stringContains outcome.Error $"{List.last arguments}: cannot be " "where"
    Expect.stringContains outcome.Error "access is denied" "why"

[<Tests>]
let tests =
    testSequenced
    <| testList "output rights" [
        testCase "where the user may not write is bad input in one line, whatever writes" (fun () ->
            if OperatingSystem.IsLinux() then
                withModel (fun model ->
                    let inside name = Path.Combine(model, name)
                    let text = inside "text.txt"
                    File.WriteAllText(text, "some text")
                    let reading = enum<UnixFileMode> 0o555
                    File.SetUnixFileMode(model, reading)
                    use _writable = {
                        new IDisposable with
                            member _.Dispose() = File.SetUnixFileMode(model, enum<UnixFileMode> 0o755)
                    }

                    let folders = [
                        [ "export"; "--model"; model; "--output" ]
                        [ "train"; "--model"; model; "--data"; text; "--output" ]
                        [ "tokenizer"; "train"; "--text"; text; "--vocab-size"; "260"; "--output" ]
                    ]

                    let files = [
                        [ "generate"; "--model"; model; "--prompt-ids"; "3"; "--output" ]
                        [ "info"; "--model"; model; "--output" ]
                        [ "certify"; "--model"; model; "--output" ]
                        [ "bench"; "--model"; model; "--output" ]
                        [ "export"; "--model"; model; "--dtype"; "f32"; "--format"; "gguf"; "--output" ]
                    ]

                    for command in folders @ files do
                        denied (command @ [ inside "new" ])

                    withFolder (fun shut ->
                        File.SetUnixFileMode(shut, UnixFileMode.None)

                        for command in folders @ [ [ "train"; "--resume" ] ] do
                            denied (command @ [ shut ])

                        for command in folders @ files do
                            denied (command @ [ Path.Combine(shut, "new") ])

                        File.SetUnixFileMode(shut, enum<UnixFileMode> 0o700))))
    ]
