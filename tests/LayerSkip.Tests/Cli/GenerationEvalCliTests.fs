module LayerSkip.Tests.GenerationEvalCliTests

open System.IO
open System.Text.Json
open Expecto
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.Support

let private stories = Path.Combine(root, "models", "stories-10m")

let private lines =
    """{"prompt": "Once upon a time", "response": "there was"}
{"prompt": "The dog", "response": "ran"}
"""

/// A command line over a file of prompts with answers.
let private evaluate (text: string) (options: string) (body: string list -> 'T) : 'T =
    withFolder (fun folder ->
        let data = Path.Combine(folder, "set.jsonl")
        File.WriteAllText(data, text)
        body ([ "eval"; "--model"; stories; "--data"; data ] @ typed options))

[<Tests>]
let tests =
    testList "eval of generated answers" [
        testCase "a question is no example for itself, also where examples are of the same file" (fun () ->
            evaluate lines "--task jsonl --max-new-tokens 4 --exit-layers 24" (fun arguments ->
                let data = arguments[4]
                [ yield! arguments; "--shots-from"; data; "--shots"; "2" ]
                |> refuses [ "shots is 2"; "0 to 1" ]
                Expect.equal (cli [ yield! arguments; "--shots-from"; data; "--shots"; "1" ]).Code 0 "one"))

        testCase "one JSON object, in vLLM's names" (fun () ->
            evaluate lines "--task jsonl --max-new-tokens 12 --exit-layers 2,24" (fun arguments ->
                let result = json arguments
                let groups = [ for group in (result.GetProperty "groups").EnumerateArray() -> group ]
                Expect.equal groups.Length 1 "one category"
                let all = groups.Head

                all
                |> hasFields [
                    "name", S
                    "items", N
                    "scored", N
                    "exits", A
                    "rates", A
                    "speculation", O
                    "speed_up", O
                    "compared", N
                    "different", N
                ]

                Expect.equal (all.GetProperty("different").GetInt32()) 0 "the same texts"
                Expect.equal (all.GetProperty("compared").GetInt32()) 2 "compared"

                all.GetProperty "speculation"
                |> hasFields [
                    "num_spec_steps", N
                    "num_draft_tokens", N
                    "num_accepted_draft_tokens", N
                    "draft_acceptance_rate", N
                    "mean_acceptance_length", N
                    "acceptance_histogram", A
                    "acceptance_histogram_by_draft_length", O
                    "per_position_acceptance_rate", A
                ]

                all.GetProperty "speed_up" |> hasFields [ "of_times", O; "of_rates", O; "texts", N ]

                let ways = [
                    for rate in all.GetProperty("rates").EnumerateArray() ->
                        rate.GetProperty("strategy").GetString()
                ]
                Expect.equal ways [ "autoregressive"; "early-exit 2"; "self-speculative" ] "ways"

                let exits = [ for exit in all.GetProperty("exits").EnumerateArray() -> exit ]
                Expect.equal (exits |> List.map _.GetProperty("exit_layer").GetInt32()) [ 2; 24 ] "exits"
                Expect.contains (exits |> List.last |> fields |> List.map fst) "rougeL" "scores"))

        testCase "a table, and what scores are worth" (fun () ->
            evaluate lines "--task jsonl --max-new-tokens 8" (fun arguments ->
                let outcome = cli arguments
                Expect.equal outcome.Code 0 outcome.Error

                for word in [ "tokens a round"; "by rates"; "exact_match"; "are chance"; "2 items" ] do
                    Expect.stringContains outcome.Out word "the table"))

        testCase "a run that ended goes on to the same file, and merges" (fun () ->
            evaluate lines "--task jsonl --max-new-tokens 8 --output" (fun arguments ->
                withFolder (fun folder ->
                    let path = Path.Combine(folder, "run.jsonl")
                    Expect.equal (cli (arguments @ [ path ])).Code 0 "a run"
                    let whole = File.ReadAllText path
                    File.WriteAllText(path, whole[.. whole.Length - 20])
                    Expect.equal (cli (arguments @ [ path ])).Code 0 "the rest of it"
                    let again = File.ReadAllLines path
                    Expect.equal again.Length 3 "a line for each item"
                    Expect.equal
                        (Array.item 1 again)
                        (whole.Split '\n' |> Array.item 1)
                        "what stood there stays"

                    let merged = json [ "merge"; path ]
                    let groups = merged.GetProperty "groups"
                    Expect.equal (groups[0].GetProperty("items").GetInt32()) 2 "items")))

        testCase "bad input is told of in a line" (fun () ->
            let code =
                """{"task_id": "a/1", "prompt": "def f():\n", "entry_point": "f", "test": "def check(f): pass"}"""

            for text, options, words in
                [
                    code, "--task humaneval", [ "--allow-code-execution"; "nobody has read" ]
                    lines, "--task jsonl --allow-code-execution", [ "--allow-code-execution"; "jsonl" ]
                    lines, "--task jsonl --samples 3", [ "samples is 3"; "temperature" ]
                    lines, "--task jsonl --samples 0", [ "samples is 0" ]
                    lines, "--task jsonl --temperature hot", [ "--temperature"; "hot" ]
                    lines, "--task jsonl --temperature -1", [ "temperature is -1" ]
                    lines, "--task jsonl --shots 2", [ "shots is 2"; "0 to 1" ]
                    lines, "--task jsonl --exit-layer 24", [ "exit-layer is 24"; "1 to 23" ]
                    lines, "--task jsonl --exit-layers 2,25", [ "25"; "24" ]
                    lines, "--task jsonl --draft-length 0", [ "draft-length is 0" ]
                    lines, "--task jsonl --max-new-tokens 0", [ "max-new-tokens is 0" ]
                    lines, "--task jsonl --strategy fast", [ "--strategy"; "fast" ]
                    lines, "--task jsonl --documents", [ "--documents"; "jsonl" ]
                    lines, "--task perplexity --max-new-tokens 3", [ "--max-new-tokens"; "perplexity" ]
                    lines, "--task gsm8k", [ "set.jsonl"; "line 1"; "question" ]
                    lines, "--task spec-bench", [ "set.jsonl"; "line 1"; "question_id" ]
                    lines, "--task humaneval --allow-code-execution", [ "line 1"; "HumanEval" ]
                    "no json\n", "--task jsonl", [ "line 1"; "JSON" ]
                    lines, "--task jsonl --shots-from nowhere.jsonl", [ "nowhere.jsonl"; "not found" ]
                    lines, "--task jsonl --shard 3/2", [ "1 <= i <= n" ]
                ] do
                evaluate text options (fun arguments ->
                    leavesAlone (Path.GetDirectoryName arguments[4]) (fun () -> refuses words arguments)))
    ]
