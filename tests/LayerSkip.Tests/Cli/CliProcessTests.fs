module LayerSkip.Tests.CliProcessTests

open System
open System.Diagnostics
open System.Text
open System.Text.Json
open Expecto
open LayerSkip.Tests.CliSupport

/// The built program, as a process of its own.
let private start (arguments: string list) =
    Process.Start(
        ProcessStartInfo(
            "dotnet",
            program :: arguments,
            RedirectStandardOutput = true,
            RedirectStandardError = true
        )
    )

let private finish (running: Process) =
    if not (running.WaitForExit(TimeSpan.FromMinutes 2.0)) then
        running.Kill()
        failtest "the program does not end"

    running.ExitCode

/// A model with room for a text that takes a while.
let private withLongModel body =
    withModel (fun folder ->
        editConfig "\"max_position_embeddings\": 96" "\"max_position_embeddings\": 20000" folder
        body [
            yield! [ "generate"; "--model"; folder; "--prompt-ids"; "3,4"; "--ignore-eos" ]
            yield! [ "--max-new-tokens"; "19000" ]
        ])

/// What standard output gives first.
let private read (running: Process) =
    let buffer = Array.zeroCreate 4096
    let count = running.StandardOutput.BaseStream.Read(buffer, 0, buffer.Length)
    Encoding.UTF8.GetString(buffer, 0, count)

[<Tests>]
let tests =
    testSequenced
    <| testList "command line: process" [
        testCase "--json puts one object and nothing else on standard output" (fun () ->
            withModel (fun folder ->
                use running =
                    start [
                        "generate"
                        "--model"
                        folder
                        "--prompt-ids"
                        "3"
                        "--max-new-tokens"
                        "6"
                        "--json"
                    ]

                let out = running.StandardOutput.ReadToEnd()
                Expect.equal (finish running) 0 (running.StandardError.ReadToEnd())
                let result = JsonDocument.Parse(out).RootElement
                Expect.equal (tokenIds result).Length 6 "tokens"
                Expect.equal (out.Split('\n').Length) 2 "one line"))

        testCase "bad input is 2, and one line without a trace" (fun () ->
            use running = start [ "generate"; "--model"; "/nowhere"; "--prompt"; "x" ]
            let error = running.StandardError.ReadToEnd()
            Expect.equal (finish running) 2 error
            Expect.equal (running.StandardOutput.ReadToEnd()) "" "nothing"
            Expect.equal (error.Split('\n').Length) 2 error)

        testCase "the text streams, and Ctrl-C keeps what is there" (fun () ->
            withLongModel (fun arguments ->
                use running = start arguments
                let first = read running
                Expect.isLessThan first.Length 2000 "tokens come as they are made"
                Expect.isFalse running.HasExited "the rest is still to come"
                use kill = Process.Start("kill", [ "-INT"; string running.Id ])
                kill.WaitForExit()
                let rest = running.StandardOutput.ReadToEnd()
                let code = finish running
                let error = running.StandardError.ReadToEnd()
                Expect.equal code 130 error
                Expect.stringEnds (first + rest) "\n" "the line ends"
                Expect.stringContains error "interrupted" "it says so"))

        testCase "a closed pipe ends the work quietly" (fun () ->
            withLongModel (fun arguments ->
                use running = start arguments
                read running |> ignore
                running.StandardOutput.Dispose()
                let error = running.StandardError.ReadToEnd()
                Expect.equal (finish running) 0 error
                Expect.equal (error.Split('\n').Length) 2 "the device, and no error"))
    ]
