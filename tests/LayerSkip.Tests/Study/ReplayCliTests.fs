module LayerSkip.Tests.ReplayCliTests

open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport

let private replay folder options = json ([ "replay"; "--model"; folder ] @ ids @ options)

let private pointOf (grid: JsonElement) exit length =
    grid.EnumerateArray()
    |> Seq.find (fun point ->
        (point.GetProperty "exit_layer").GetInt32() = exit
        && (point.GetProperty "draft_length").GetInt32() = length)

[<Tests>]
let tests =
    testSequenced
    <| testList "replay command" [
        testCase "--json has what the contract names, and each point is what generate does" (fun () ->
            withModel (fun folder ->
                let report = replay folder (count 20)
                hasFields [ "prompt_ids", A; "token_ids", A; "grid", A; "policies", A ] report

                let grid = report.GetProperty "grid"
                Expect.equal (grid.GetArrayLength()) ((layers - 1) * 8) "every exit layer, 1 to 8 drafts"

                let finish (result: JsonElement) = (result.GetProperty "finish_reason").GetString()

                for point in grid.EnumerateArray() do
                    hasFields
                        [
                            "exit_layer", N
                            "draft_length", N
                            "num_spec_steps", N
                            "num_draft_tokens", N
                            "num_accepted_draft_tokens", N
                            "predicted_ms_per_token", N
                            "predicted_ratio", N
                        ]
                        point

                for exit, length in [ 1, 1; 2, 3; 3, 8 ] do
                    let live =
                        generate
                            folder
                            (ids
                             @ count 20
                             @ [ "--exit-layer"; string exit; "--draft-length"; string length ])

                    Expect.equal (tokenIds report, finish report) (tokenIds live, finish live) "the text"
                    let stats, point = live.GetProperty "stats", pointOf grid exit length

                    for name in [ "num_spec_steps"; "num_accepted_draft_tokens" ] do
                        Expect.equal
                            ((point.GetProperty name).GetInt32())
                            ((stats.GetProperty name).GetInt32())
                            name

                let policies = [ for policy in (report.GetProperty "policies").EnumerateArray() -> policy ]
                Expect.equal ((policies.Head.GetProperty "name").GetString()) "oracle" "the oracle first"

                for policy in policies do
                    hasFields
                        [
                            "name", S
                            "num_spec_steps", N
                            "num_draft_tokens", N
                            "num_accepted_draft_tokens", N
                            "num_draft_tokens_at_least", N
                            "predicted_ms_per_token", N
                            "predicted_ratio", N
                            "oracle_regret", N
                            "static_regret", N
                        ]
                        policy

                let ms (point: JsonElement) = (point.GetProperty "predicted_ms_per_token").GetDouble()
                let least = grid.EnumerateArray() |> Seq.map ms |> Seq.min
                Expect.isLessThanOrEqual (ms policies.Head) least "no fixed plan is better than the oracle"
                Expect.equal (ms (report.GetProperty "best")) least "the best of the grid"))

        testCase "the grid narrows, and table, trace and output say the same" (fun () ->
            withModel (fun folder ->
                let page = Path.Combine(folder, "page.html")
                let trace, output = Path.Combine(folder, "trace.txt"), Path.Combine(folder, "output.txt")
                let options = [
                    "--exit-layers=2,1,2"
                    "--draft-lengths"
                    "4,2"
                    "--max-new-tokens=12"
                    "--ignore-eos"
                ]
                let report =
                    replay folder (options @ [ "--trace"; trace; "--output"; output; "--html"; page ])

                Expect.equal
                    [
                        for point in (report.GetProperty "grid").EnumerateArray() ->
                            (point.GetProperty "exit_layer").GetInt32(),
                            (point.GetProperty "draft_length").GetInt32()
                    ]
                    [ 2, 4; 2, 2; 1, 4; 1, 2 ]
                    "as asked, each once"

                Expect.equal
                    (JsonDocument.Parse(File.ReadAllText output).RootElement |> tokenIds)
                    (tokenIds report)
                    "the file"

                let drawn = File.ReadAllText page

                for word in
                    [
                        "plotly"
                        "Speed of self-speculation"
                        "exit layer"
                        "What policies lose"
                        "oracle"
                    ] do
                    Expect.stringContains drawn word "the page"

                let traced = JsonDocument.Parse(File.ReadAllText trace).RootElement
                Expect.equal (tokenIds traced) (tokenIds report) "the trace"
                let rows = [ for row in (traced.GetProperty "rows").EnumerateArray() -> row ]
                Expect.equal rows.Length 11 "a row for each token but the last"

                for row in rows do
                    Expect.equal ((row.GetProperty "choices").GetArrayLength()) layers "layers"
                    Expect.equal ((row.GetProperty "confidences").GetArrayLength()) layers "layers"

                let told = cli ([ "replay"; "--model"; folder ] @ ids @ options)
                Expect.equal told.Code 0 told.Error

                for word in
                    [
                        "12 new tokens after 3"
                        "d = 4"
                        "exit layer"
                        "oracle"
                        "follow-the-leader"
                        "best: exit layer"
                    ] do
                    Expect.stringContains told.Out word "table"

                Expect.stringContains told.Error "near ties" "float64 is libtorch's"))

        testCase "bad input is one line and exit code 2" (fun () ->
            withModel (fun folder ->
                let refused words options = [ "replay"; "--model"; folder ] @ options |> refuses words
                let long = String.concat "," (List.replicate 96 "3")
                refused [ "there is no prompt" ] []
                refused [ "exclude each other" ] [ "--prompt-ids=1"; "--prompt=a" ]
                refused [ "96"; "context" ] [ "--prompt-ids"; long ]
                refused [ "24" ] [ "--prompt-ids=1,24" ]
                refused [ "24" ] (ids @ [ "--stop-ids=24" ])
                refused [ "exit-layers is 4"; "1 to 3" ] (ids @ [ "--exit-layers=1,4" ])
                refused [ "exit-layers is 0"; "1 to 3" ] (ids @ [ "--exit-layers=0" ])
                refused [ "draft-lengths"; "1 or more" ] (ids @ [ "--draft-lengths=0,2" ])
                refused [ "draft-lengths"; "\"x\"" ] (ids @ [ "--draft-lengths=x" ])
                refused [ "exit-layers" ] (ids @ [ "--exit-layers=" ])
                refused [ "max-new-tokens" ] (ids @ [ "--max-new-tokens=0" ])
                refused [ "same file" ] (ids @ [ "--trace=x"; "--html=x" ])
                refused [ "--html is empty" ] (ids @ [ "--html=" ])
                refused [ "--trace is empty" ] (ids @ [ "--trace="; "--max-new-tokens=2" ])))
    ]
