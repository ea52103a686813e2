module LayerSkip.Tests.EvalCliTests

open System.IO
open System.Text.Json
open Expecto
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.Support

let private stories = [
    "Once upon a time there was a little cat. It sat on a mat."
    "Lily wanted to play. Her mom said yes, and they ran to the park."
    "The sun was hot. Max the dog slept under a tree."
    "Tom had a red ball. He lost it, and was sad."
    "A bird sang in the tree all day."
    "Mia made a cake for her friend Ben."
]

let private piqa =
    """{"goal": "How do I keep milk cold?", "sol1": "Put it in the fridge.", "sol2": "Put it in the sun."}
{"goal": "How do I dry a shirt?", "sol1": "Put it in water.", "sol2": "Hang it up in the sun."}
{"goal": "ball", "sol1": "can be thrown", "sol2": "can be drunk"}
"""

/// A folder with texts and questions; `path` is of a file in it.
let private withFiles (body: (string -> string) -> 'T) : 'T =
    withFolder (fun folder ->
        let path name = Path.Combine(folder, name)
        File.WriteAllText(path "stories.txt", String.concat "\n<|endoftext|>\n" stories)
        File.WriteAllText(path "questions.jsonl", piqa)
        File.WriteAllText(path "questions-labels.lst", "0\n1\n0\n")
        body path)

let private texts (path: string -> string) = [
    "eval"
    "--task=perplexity"
    "--documents"
    "--data"
    path "stories.txt"
]

let private questions (path: string -> string) = [ "eval"; "--task=piqa"; "--data"; path "questions.jsonl" ]

let private exits (result: JsonElement) = [
    for exit in (result.GetProperty "exits").EnumerateArray() ->
        (exit.GetProperty "exit_layer").GetInt32(), exit
]

let private number (name: string) (exit: JsonElement) = (exit.GetProperty name).GetDouble()

[<Tests>]
let tests =
    testList "layerskip eval" [
        testCase "perplexity of every exit, and what follows from the cross entropy" (fun () ->
            withFiles (fun path ->
                let result = json (texts path)
                Expect.equal (List.map fst (exits result)) [ 1..24 ] "every layer of the default model"
                let counts = result.GetProperty "counts"
                let tokens, bytes = number "tokens" counts, number "bytes" counts
                let letters = stories |> List.sumBy _.Length
                Expect.equal
                    bytes
                    (float letters)
                    "BOS stands before each, so that every character is predicted"

                for exit, metrics in exits result do
                    let loss = number "cross_entropy" metrics
                    let near name expected =
                        Expect.floatClose Accuracy.high (number name metrics) expected $"{exit}: {name}"

                    near "perplexity" (exp loss)
                    near "bits_per_byte" (loss * tokens / bytes / log 2.0)
                    near "byte_perplexity" (exp (loss * tokens / bytes))

                let agreement exit = number "agreement" (exits result |> List.find (fst >> (=) exit) |> snd)
                Expect.equal (agreement 24) 1.0 "the last layer agrees with itself"
                Expect.isLessThan (agreement 1) 1.0 "the first with less of it"

                let bare = json (texts path @ [ "--exit-layers=24"; "--no-bos" ])
                let fewer = number "tokens" (bare.GetProperty "counts")
                Expect.equal
                    fewer
                    (tokens - float stories.Length)
                    "without BOS the first token of each is not predicted"

                let some = json (texts path @ [ "--exit-layers"; "24,2" ])
                Expect.equal (List.map fst (exits some)) [ 2; 24 ] "those asked for"

                for exit, metrics in exits some do
                    let all = exits result |> List.find (fst >> (=) exit) |> snd
                    Expect.equal (string metrics) (string all) "the same whatever others there are"))

        testCase "windows read a file as one text, with newlines between the stories" (fun () ->
            withFiles (fun path ->
                let ask options =
                    json (
                        [
                            "eval"
                            "--task=perplexity"
                            "--exit-layers=24"
                            "--data"
                            path "stories.txt"
                        ]
                        @ options
                    )

                let counts (result: JsonElement) = result.GetProperty "counts"
                let whole = ask []
                let parts = ask [ "--window"; "16" ]
                Expect.equal
                    (number "tokens" (counts parts))
                    (number "tokens" (counts whole))
                    "each token, once"
                Expect.isGreaterThan (number "items" parts) (number "items" whole) "in more windows"
                let text = String.concat "\n\n\n" stories
                Expect.equal (number "bytes" (counts whole)) (float text.Length) "newlines are text"
                let cut = ask [ "--max-chars"; "40" ]
                Expect.equal (number "bytes" (counts cut)) 40.0 "the first characters"

                let first = ask [ "--window"; "16"; "--limit"; "1" ]
                Expect.equal (number "tokens" (counts first)) 16.0 "a window predicts as many as it reads"))

        testCase "a table says what chance is, and what cannot be told from it" (fun () ->
            withFiles (fun path ->
                let outcome = cli (questions path @ [ "--exit-layers"; "2,24"; "--shots"; "1" ])
                Expect.equal outcome.Code 0 outcome.Error
                let lines = outcome.Out.TrimEnd().Split '\n'
                Expect.equal lines.Length 5 outcome.Out
                Expect.equal
                    (lines[0].Split("  ", System.StringSplitOptions.RemoveEmptyEntries)
                     |> Array.map _.Trim())
                    [| "exit"; "acc"; "acc_norm"; "acc against chance" |]
                    "columns"
                Expect.stringEnds (lines[1].TrimEnd()) "chance" "three questions say nothing"
                Expect.stringContains
                    lines[4]
                    "3 questions, 0 cut, 0 left_out; chance is 0.5000"
                    "what was counted"
                let result = json (questions path @ [ "--exit-layers"; "2,24"; "--shots"; "1" ])
                Expect.equal (number "chance" result) 0.5 "one of two"
                Expect.equal ((result.GetProperty "shots").GetInt32()) 1 "settings"
                Expect.equal
                    (((snd (exits result).Head).GetProperty "against_chance").GetString())
                    "chance"
                    "so"))

        testCase
            "more shards than items: those without one have nothing to do, and merge like the others"
            (fun () ->
                withFiles (fun path ->
                    let run part =
                        json (
                            questions path
                            @ [ "--exit-layers=2"; "--output"; path $"part{part}"; "--shard"; $"{part}/4" ]
                        )

                    for part in 1..3 do
                        Expect.isTrue (fst ((run part).TryGetProperty "exits")) "an item each"

                    let empty = run 4
                    Expect.equal ((empty.GetProperty "items").GetInt32()) 0 "none"
                    let merged = json ("merge" :: [ for part in 1..4 -> path $"part{part}" ])
                    Expect.equal (exits merged |> List.map fst) [ 2 ] "merged"))

        testCase "shards merge to what one run writes and says" (fun () ->
            withFiles (fun path ->
                let run options output =
                    json (texts path @ [ "--exit-layers=2,24"; "--output"; path output ] @ options)

                let whole = run [] "whole"

                for part in 1..4 do
                    run [ "--shard"; $"{part}/4" ] $"part{part}" |> ignore

                let files = [ for part in [ 3; 1; 4; 2 ] -> path $"part{part}" ]
                let merged = json ([ "merge" ] @ files @ [ "--output"; path "merged" ])
                Expect.equal (string merged) (string whole) "the same numbers"
                Expect.equal
                    (File.ReadAllText(path "merged"))
                    (File.ReadAllText(path "whole"))
                    "the same file"
                let table = cli ("merge" :: files)
                Expect.equal table.Code 0 table.Error
                Expect.stringContains table.Out "6 items" "a table without --json"

                [ "merge"; path "part1"; path "part2"; path "part4" ]
                |> refuses [ "shard 3/4 is not given" ]

                [
                    "merge"
                    path "part1"
                    path "part1"
                    path "part2"
                    path "part3"
                    path "part4"
                ]
                |> refuses [ "give each once" ]

                run [ "--seed"; "8"; "--shard"; "2/4" ] "other" |> ignore

                [
                    "merge"
                    path "part1"
                    path "other"
                    path "part3"
                    path "part4"
                    "--output"
                    path "wrong"
                ]
                |> refuses [ "of another run"; "seed" ]

                Expect.isFalse (File.Exists(path "wrong")) "nothing is written"
                [ "merge"; path "stories.txt" ] |> refuses [ "not a run's file" ]
                [ "merge"; path "absent" ] |> refuses [ "not found" ]
                [ "merge" ] |> refuses [ "no file to merge" ]

                leavesAlone (Path.GetDirectoryName(path "x")) (fun () ->
                    "merge" :: files @ [ "--output"; path "part2" ]
                    |> refuses [ "which this command reads" ])))

        testCase "a killed run goes on to the same file; a second one beside it is refused" (fun () ->
            withFiles (fun path ->
                let options = [ "--exit-layers=2,24"; "--output" ]
                File.WriteAllText(
                    path "stories.txt",
                    String.concat "\n<|endoftext|>\n" (List.replicate 20 stories |> List.concat)
                )
                let outcome = cli (texts path @ options @ [ path "whole" ])
                Expect.equal outcome.Code 0 outcome.Error

                let outcome =
                    shell
                        (Path.GetDirectoryName(path "x"))
                        $"""
eval="eval --model {Path.Combine(root, "models", "stories-10m")} --task perplexity --documents --data stories.txt --exit-layers 2,24 --output run"
layerskip $eval >/dev/null 2>&1 &
while [ $(cat run 2>/dev/null | wc -l) -lt 3 ]; do sleep 0.01; done
kill -STOP $!
(layerskip $eval); echo "second $?"
kill -9 $!; wait $! 2>/dev/null; echo "first $?"
wc -l < run
(layerskip $eval >/dev/null 2>&1); echo "third $?"
"""

                Expect.stringContains outcome.Error "another process is writing this run" "the second"
                let said = outcome.Out.Split('\n', System.StringSplitOptions.RemoveEmptyEntries)
                Expect.equal
                    [ said[0]; said[1]; said[3] ]
                    [ "second 2"; "first 137"; "third 0" ]
                    outcome.Out
                Expect.isLessThan (int said[2]) 121 "it was killed before its end"
                Expect.equal (File.ReadAllText(path "run")) (File.ReadAllText(path "whole")) "the same file"))

        testCase "a question that is longer than the context is cut from the left, and said" (fun () ->
            withFiles (fun path ->
                let long = String.replicate 400 "a little cat sat on a mat and "
                let ask (goal: string) (first: string) =
                    File.WriteAllText(
                        path "questions.jsonl",
                        JsonSerializer.Serialize {| goal = goal; sol1 = first; sol2 = "no"; label = 1 |}
                    )
                    File.Delete(path "questions-labels.lst")
                    json (questions path @ [ "--exit-layers=24" ])

                let cut = ask long "yes"
                Expect.equal (number "cut" (cut.GetProperty "counts")) 1.0 "counted"
                Expect.stringContains (string (cut.GetProperty "remarks")) "cut from the left" "said"
                let left = ask "short" long
                Expect.equal (number "left_out" (left.GetProperty "counts")) 1.0 "counted"
                Expect.isEmpty (exits left) "nothing is scored"
                Expect.stringContains (string (left.GetProperty "remarks")) "left out" "said"))

        testCase "bad input is one line, exit code 2, and nothing is written" (fun () ->
            withFiles (fun path ->
                File.WriteAllText(path "empty.txt", "")
                File.WriteAllText(path "blank.txt", " \n")
                File.WriteAllText(path "letter.txt", "a letter")

                let perplexity options = texts path @ options
                let piqa options = questions path @ options

                leavesAlone (Path.GetDirectoryName(path "x")) (fun () ->
                    for arguments, words in
                        [
                            [ "eval" ], [ "no --task"; "perplexity"; "piqa" ]
                            [ "eval"; "--task=chess"; "--data=x" ],
                            [ "\"chess\""; "perplexity, piqa, boolq" ]
                            [ "eval"; "--task=piqa" ], [ "no --data" ]
                            [ "eval"; "--task=piqa"; "--data=" ], [ "--data is empty" ]
                            [ "eval"; "--task=piqa"; "--data"; path "absent" ], [ "absent: not found" ]
                            [ "eval"; "--task=perplexity"; "--data"; path "absent" ],
                            [ "absent: not found" ]
                            [ "eval"; "--task=perplexity"; "--data"; path "empty.txt" ],
                            [ "holds no text" ]
                            [ "eval"; "--task=perplexity"; "--documents"; "--data"; path "blank.txt" ],
                            [ "holds no text" ]
                            [ "eval"; "--task=piqa"; "--data"; path "stories.txt" ],
                            [ "line 1 is not valid JSON" ]
                            [ "eval"; "--task=boolq"; "--data"; path "questions.jsonl" ],
                            [ "holds no question of this task's form" ]
                            perplexity [ "--shard"; "5/4" ], [ "--shard is \"5/4\""; "1 <= i <= n" ]
                            perplexity [ "--shard"; "0/4" ], [ "1 <= i <= n" ]
                            perplexity [ "--exit-layers"; "0,25" ],
                            [ "--exit-layers is 0"; "1 to 24"; "is 25" ]
                            perplexity [ "--exit-layers"; "two" ], [ "--exit-layers holds \"two\"" ]
                            perplexity [ "--limit"; "0" ], [ "--limit is 0" ]
                            perplexity [ "--window"; "1" ], [ "--window is 1"; "2 to" ]
                            perplexity [ "--window"; "100000" ], [ "--window is 100000" ]
                            perplexity [ "--max-chars"; "9" ], [ "max-chars" ]
                            perplexity [ "--shots"; "1" ],
                            [ "--shots is nothing that task perplexity heeds" ]
                            piqa [ "--window"; "9"; "--documents" ], [ "--window, --documents"; "piqa" ]
                            piqa [ "--shots"; "3" ], [ "--shots is 3"; "0 to 2" ]
                            piqa [ "--shots"; "-1" ], [ "--shots is -1" ]
                            piqa [ "--shots-from"; path "stories.txt"; "--shots"; "1" ], [ "stories.txt" ]
                            piqa [ "--output"; path "letter.txt" ], [ "not a run's file" ]
                            piqa [ "--output"; path "questions.jsonl" ], [ "not a run's file" ]
                            piqa [ "--output="; "--limit=1" ], [ "--output is empty" ]
                        ] do
                        refuses words arguments)))

        testCase "a model without a tokenizer has no texts" (fun () ->
            withModel (fun folder ->
                withFiles (fun path ->
                    texts path @ [ "--model"; folder ] |> refuses [ "no tokenizer beside the model" ]
                    questions path @ [ "--model"; folder ] |> refuses [ "no tokenizer beside the model" ])))
    ]
