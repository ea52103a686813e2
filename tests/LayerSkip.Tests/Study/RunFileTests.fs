module LayerSkip.Tests.RunFileTests

open System
open System.IO
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.FileSupport

let private header cells shard : RunHeader = {
    Kind = "sweep"
    Config = """{"model":"m","exit_layers":[1,2]}"""
    Cells = cells
    Shard = Shard.tryParse shard |> Check.getOrRaise
}

let private fields (cell: int) (json: Text.Json.Utf8JsonWriter) = json.WriteNumber("square", cell * cell)

let private openRun path header = RunWriter.Open(path, header) |> Check.getOrRaise

/// Computes what is left, up to `most` cells.
let private run path header most =
    use writer = openRun path header

    for cell in List.truncate most writer.Left do
        writer.Add(cell, fields cell) |> Check.getOrRaise

let private message (result: Result<'T, LayerSkipError list>) =
    match result with
    | Ok _ -> failtest "there is a fault"
    | Error faults -> LayerSkipError.summary faults

[<Tests>]
let tests =
    testList "runs" [
        testProperty "shards share the cells out, each to one" (fun (PositiveInt cells) (PositiveInt count) ->
            let count = 1 + count % 9
            let shards = [
                for index in 1..count -> Shard.tryParse $"{index}/{count}" |> Check.getOrRaise
            ]

            for cell in 0 .. cells - 1 do
                Expect.equal (shards |> List.filter (Shard.owns cell) |> List.length) 1 $"cell {cell}")

        testCase "a shard is i of n" (fun () ->
            for text in
                [
                    "0/4"
                    "5/4"
                    "1/0"
                    "-1/4"
                    "1"
                    "a/b"
                    "1/2/3"
                    ""
                    "1/ 2"
                    "99999999999/99999999999"
                ] do
                Expect.stringContains (message (Shard.tryParse text)) "1 <= i <= n" text)

        testProperty "a run that a kill ends anywhere goes on to the same file" (fun (NonNegativeInt cut) ->
            withFolder (fun folder ->
                let whole, killed = Path.Combine(folder, "whole"), Path.Combine(folder, "killed")
                run whole (header 5 "1/1") 5
                let bytes = File.ReadAllBytes whole
                File.WriteAllBytes(killed, bytes[.. cut % (bytes.Length + 1) - 1])
                run killed (header 5 "1/1") 5
                Expect.equal (File.ReadAllText killed) (File.ReadAllText whole) "the same lines"))

        testProperty "shards merge to what one run writes" (fun (PositiveInt cells) (PositiveInt count) ->
            withFolder (fun folder ->
                let cells, count = cells % 12, 1 + count % 4
                let whole = Path.Combine(folder, "whole")
                run whole (header cells "1/1") cells

                let parts = [
                    for index in 1..count do
                        let path = Path.Combine(folder, $"part{index}")
                        run path (header cells $"{index}/{count}") cells
                        path
                ]

                let merged, found = RunFile.merge (List.rev parts) |> Check.getOrRaise
                let target = Path.Combine(folder, "merged")
                RunFile.write target merged found |> Check.getOrRaise
                Expect.equal (File.ReadAllText target) (File.ReadAllText whole) "the same file"))

        testCase "what does not belong together is not merged" (fun () ->
            withFolder (fun folder ->
                let path name = Path.Combine(folder, name)
                run (path "a") (header 8 "1/2") 8
                run (path "b") (header 8 "2/2") 8
                run (path "half") (header 8 "2/2") 1
                run (path "three") (header 8 "2/3") 8
                run
                    (path "other")
                    { header 8 "2/2" with Config = """{"model":"n","exit_layers":[1,2]}""" }
                    8
                run (path "eval") { header 8 "2/2" with Kind = "eval" } 8
                File.WriteAllText(path "text", "no run\n")
                File.WriteAllText(path "damaged", File.ReadAllText(path "b") + "{\"cell\":7,\n{}\n")

                for names, expected in
                    [
                        [ "a" ], "shard 2/2 is not given"
                        [ "a"; "a" ], "give each once"
                        [ "a"; "half" ], "3 of its cells are to come"
                        [ "a"; "three" ], "shards is 3 and not 2"
                        [ "a"; "other" ], "model is \"n\" and not \"m\""
                        [ "a"; "eval" ], "kind is \"eval\" and not \"sweep\""
                        [ "a"; "text" ], "not a run's file"
                        [ "a"; "damaged" ], "line 6 is no JSON"
                        [ "a"; "nothing" ], "not found"
                    ] do
                    let said = message (RunFile.merge (List.map path names))
                    Expect.stringContains said expected (String.concat " " names)
                    Expect.isFalse (said.Contains '\n') "one line"))

        testCase "another run, another shard and a second writer are refused, and nothing is lost" (fun () ->
            withFolder (fun folder ->
                let path = Path.Combine(folder, "run")
                run path (header 6 "1/2") 2
                let before = File.ReadAllText path
                let refused header = message (RunWriter.Open(path, header))
                Expect.stringContains (refused (header 7 "1/2")) "cells is 6 and not 7" "another run"
                Expect.stringContains (refused (header 6 "2/2")) "shard 1/2" "another shard"

                using (openRun path (header 6 "1/2")) (fun _ ->
                    Expect.stringContains (refused (header 6 "1/2")) "another process" "a second writer")

                let text = Path.Combine(folder, "text")
                File.WriteAllText(text, "a letter")
                Expect.stringContains
                    (message (RunWriter.Open(text, header 6 "1/2")))
                    "not a run's file"
                    "no run"
                Expect.equal (File.ReadAllText text) "a letter" "kept"
                Expect.equal (File.ReadAllText path) before "kept"))
    ]
