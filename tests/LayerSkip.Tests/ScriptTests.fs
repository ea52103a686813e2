module LayerSkip.Tests.ScriptTests

open System.IO
open Expecto
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport

[<Tests>]
let tests =
    testSequenced
    <| testList "scripts" [
        testCase
            "--help tells what there is where no library can be built, and a mistake is one line"
            (fun () ->
                withFolder (fun folder ->
                    // What --help may need, and nothing that a library could be made of.
                    for name in
                        [
                            "scripts/large.fsx"
                            "scripts/options.fsx"
                            "scripts/build.fsx"
                            "src/LayerSkip/Number.fs"
                        ] do
                        let copy = Path.Combine(folder, name)
                        Directory.CreateDirectory(Path.GetDirectoryName copy) |> ignore
                        File.Copy(Path.Combine(Support.root, name), copy)

                    let help = shell folder "dotnet fsi scripts/large.fsx -- --help"
                    Expect.equal (help.Code, help.Error) (0, "") "no fault"

                    for part in
                        [
                            "Loads a model of real size"
                            "dotnet fsi scripts/large.fsx --folder DIR\n"
                            "--layers N "
                            "151936\n"
                        ] do
                        Expect.stringContains help.Out part "what it is, an example, options, defaults"

                    let wrong = shell folder "dotnet fsi scripts/large.fsx --layer 3"
                    Expect.equal (wrong.Code, wrong.Out) (2, "") wrong.Error
                    Expect.stringContains
                        wrong.Error
                        "large: unknown option --layer; the options are"
                        "named"
                    Expect.equal (wrong.Error.TrimEnd().Split('\n').Length) 1 wrong.Error))
    ]
