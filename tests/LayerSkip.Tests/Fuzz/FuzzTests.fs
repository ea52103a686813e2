module LayerSkip.Tests.FuzzTests

open System
open System.Diagnostics
open System.IO
open System.Reflection
open Expecto
open LayerSkip.Tests.FileSupport

let private variable (name: string) (fallback: string) =
    match Environment.GetEnvironmentVariable name with
    | null
    | "" -> fallback
    | value -> value

/// LAYERSKIP_FUZZ_SECONDS and LAYERSKIP_FUZZ_SEED make a longer run, or another.
let private seconds, private seed = variable "LAYERSKIP_FUZZ_SECONDS" "60", variable "LAYERSKIP_FUZZ_SEED" "1"

let private fuzz (folder: string) : string * int =
    let start =
        ProcessStartInfo(
            "dotnet",
            [
                Assembly.GetExecutingAssembly().Location
                FuzzProgram.word
                seed
                "0"
                seconds
                folder
            ]
        )

    start.RedirectStandardOutput <- true
    start.RedirectStandardError <- true
    use running = Process.Start start
    let error = running.StandardError.ReadToEndAsync()
    let out = running.StandardOutput.ReadToEnd()
    running.WaitForExit()
    (if running.ExitCode = 0 then out else out + error.Result), running.ExitCode

[<Tests>]
let tests =
    testList "fuzz" [
        testCase "whatever is in a model's files, it decodes or says in a line why not" (fun () ->
            let folder = Directory.CreateTempSubdirectory "layerskip-fuzz-"
            let report, code = fuzz folder.FullName
            let lines = report.Split('\n', StringSplitOptions.RemoveEmptyEntries)

            let again case =
                $"seed {seed}, case {case}; its files are in {folder.FullName}; again: dotnet LayerSkip.Tests.dll {FuzzProgram.word} {seed} {case} 1 FOLDER"

            if code <> 0 then
                let at = File.ReadAllText(Path.Combine(folder.FullName, "at"))
                failtest $"the process ended with {code}: {again at}\n{report}"

            printfn $"fuzz: {lines[0]}"

            if lines.Length > 1 then
                failtest $"""{String.concat "\n" lines[1..]}\n{again "N"}"""

            // As many that load as not: otherwise only the first check of each reader is tried.
            Expect.stringContains lines[0] "decoded" "some cases decode"
            Expect.stringContains lines[0] "refused" "some cases are refused"
            folder.Delete true)

        testCase "what the fuzzer starts from is sound" (fun () ->
            for sound in FuzzCorpus.sound () do
                withFolder (fun folder ->
                    for KeyValue(name, bytes) in sound.Files do
                        File.WriteAllBytes(Path.Combine(folder, name), bytes)

                    use model = ExportSupport.load None (Path.Combine(folder, sound.Model))
                    Expect.isGreaterThan model.Config.Layers 0 sound.Name))
    ]
