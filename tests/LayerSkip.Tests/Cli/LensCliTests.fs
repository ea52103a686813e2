module LayerSkip.Tests.LensCliTests

open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Cli
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.Support

Backend.ensure ()

let private lens folder options = [ "lens"; "--model"; folder ] @ options

let private fieldsOf (names: (string * JsonValueKind) list) (e: JsonElement) = hasFields names e

[<Tests>]
let tests =
    testSequenced
    <| testList "lens command" [
        testCase "--json has every exit and position, and the logits where they are asked for" (fun () ->
            withModel (fun folder ->
                let report = json (lens folder (ids @ [ "--top-k"; "2"; "--logits" ]))

                report
                |> fieldsOf [
                    "model", S
                    "dtype", S
                    "compute", JsonValueKind.Null
                    "kv", S
                    "prefill", S
                    "layers", N
                    "vocabulary", N
                    "top_k", N
                    "tokens", A
                    "final_tokens", A
                    "settled_layers", A
                    "exits", A
                    "exit_logits", A
                ]

                let exits = [ for exit in (report.GetProperty "exits").EnumerateArray() -> exit ]
                Expect.equal
                    [ for exit in exits -> (exit.GetProperty "layer").GetInt32() ]
                    [ 1..layers ]
                    "layers"
                exits[0]
                |> fieldsOf [
                    "layer", N
                    "agreement", N
                    "mean_kl", N
                    "mean_entropy", N
                    "cross_entropy", N
                    "positions", A
                ]
                let position = (exits[0].GetProperty "positions")[0]

                position
                |> fieldsOf [
                    "top", A
                    "entropy", N
                    "kl", N
                    "final_rank", N
                    "final_probability", N
                    "next_rank", N
                    "next_log_probability", N
                ]

                Expect.equal ((position.GetProperty "top").GetArrayLength()) 2 "as many as asked for"
                (position.GetProperty "top")[0]
                |> fieldsOf [ "id", N; "text", JsonValueKind.Null; "probability", N ]
                let last = (exits[0].GetProperty "positions")[2]
                Expect.equal
                    (last.GetProperty "next_rank").ValueKind
                    JsonValueKind.Null
                    "no token follows the last"
                let logits = report.GetProperty "exit_logits"
                Expect.equal
                    [ for row in logits.EnumerateArray() -> row.GetArrayLength() ]
                    (List.replicate layers 24)
                    "[layer][vocabulary]"
                // What the last layer says is what is generated.
                let next = tokenIds (generate folder (ids @ count 1))
                let final = ((report.GetProperty "final_tokens").[2].GetProperty "id").GetInt32()
                Expect.equal [| final |] next "the next token"))

        testCase
            "the table: a line for each layer that is asked for, the last positions, and what was left out"
            (fun () ->
                withModel (fun folder ->
                    let many = String.concat "," [ for i in 1..40 -> string (i % 24) ]
                    let outcome = cli (lens folder [ "--prompt-ids"; many; "--layers"; "2,1" ])
                    Expect.equal outcome.Code 0 outcome.Error
                    let lines = outcome.Out.TrimEnd().Split '\n'
                    let first = [ for line in lines -> line.TrimStart().Split(' ')[0] ]
                    Expect.equal
                        (List.truncate 7 first)
                        [ "layer"; "1"; "2"; "4"; "settled"; "text"; "" ]
                        "rows"

                    for line in lines do
                        Expect.isLessThan line.Length 121 "120 columns where no terminal tells"

                    Expect.stringContains outcome.Out "of 40 positions" "what was left out"
                    Expect.isFalse (outcome.Out.Contains '\u001b') "no colour"))

        testCase "--output has what standard output has, --html the page" (fun () ->
            withModel (fun folder ->
                withFolder (fun other ->
                    let file name = Path.Combine(other, name)
                    let outcome =
                        cli (
                            lens
                                folder
                                (ids @ [ "--output"; file "table.txt"; "--html"; file "page.html" ])
                        )
                    Expect.equal
                        (outcome.Out, outcome.Code)
                        (File.ReadAllText(file "table.txt"), 0)
                        outcome.Error
                    let page = File.ReadAllText(file "page.html")
                    Expect.stringStarts page "<!doctype html>" "a page"
                    Expect.stringContains page "\"settled_layers\":[" "with its data"
                    let outcome = cli (lens folder (ids @ [ "--json"; "--output"; file "report.json" ]))
                    Expect.equal outcome.Out (File.ReadAllText(file "report.json")) "the object")))

        testCase "bad input is one line and exit code 2" (fun () ->
            withModel (fun folder ->
                let long = String.concat "," (List.replicate 96 "1")

                leavesAlone folder (fun () ->
                    for options, words in
                        [
                            [], [ "no prompt"; "--prompt-ids" ]
                            [ "--prompt-ids"; "" ], [ "empty" ]
                            [ "--prompt-ids"; long ], [ "96 tokens"; "context of 96" ]
                            [ "--prompt-ids"; "24" ], [ "token id 24"; "0 to 23" ]
                            [ "--prompt"; "text" ], [ "tokenizer"; "--prompt-ids" ]
                            [ "--prompt"; "text"; "--prompt-ids"; "1" ], [ "exclude each other" ]
                            [ "--prompt-file"; Path.Combine(folder, "none.txt") ],
                            [ "none.txt"; "not found" ]
                            ids @ [ "--layers"; "5" ], [ "--layers is 5"; "1 to 4" ]
                            ids @ [ "--layers"; "0" ], [ "--layers is 0" ]
                            ids @ [ "--layers"; "x" ], [ "--layers holds \"x\"" ]
                            ids @ [ "--top-k"; "0" ], [ "--top-k is 0" ]
                            ids @ [ "--top-k"; "25" ], [ "--top-k is 25"; "1 to 24" ]
                            ids @ [ "--logits" ], [ "--logits"; "--json" ]
                            ids @ [ "--html"; "" ], [ "--html is empty" ]
                            ids @ [ "--html"; Path.Combine(folder, "none", "page.html") ],
                            [ "page.html"; "cannot be written"; "--html" ]
                            ids @ [ "--html"; Path.Combine(folder, "config.json") ],
                            [ "--html"; "which this command reads" ]
                            ids
                            @ [
                                "--html"
                                Path.Combine(folder, "a")
                                "--output"
                                Path.Combine(folder, "a")
                            ],
                            [ "--html and --output" ]
                        ] do
                        lens folder options |> refuses words)))

        testCase "on a terminal, green is where the answer has settled" (fun () ->
            withModel (fun folder ->
                use out = new StringWriter()
                let coloured: Terminal = {
                    Out = out
                    Error = TextWriter.Null
                    Colour = true
                    Shown = Printable.text
                    Status = StatusLine(TextWriter.Null, false)
                    OnInterrupt =
                        fun _ -> {
                            new System.IDisposable with
                                member _.Dispose() = ()
                        }
                }

                let report = json (lens folder ids)
                let settled = ints (report.GetProperty "settled_layers")
                Expect.equal (Program.runWith coloured (Array.ofList (lens folder ids))) 0 "done"
                let table, legend = out.ToString().Split "\n\n" |> fun parts -> parts[0], parts[1]
                let greens = settled |> Array.sumBy (fun layer -> layers - layer + 1)
                Expect.equal
                    (table.Split("\u001b[32m").Length - 1)
                    greens
                    "a green cell for each layer from the settled one on"
                Expect.stringContains legend "green" "what it means"
                let plain =
                    table.Replace("\u001b[32m", "").Replace("\u001b[33m", "").Replace("\u001b[0m", "")
                Expect.isFalse (plain.Contains '\u001b') "nothing else steers"
                let trimmed = [ for line in plain.Split '\n' -> line.TrimEnd() ] |> String.concat "\n"
                Expect.stringContains (cli (lens folder ids)).Out trimmed "the same table"))

        testCase "a text fits its columns, whatever its characters take" (fun () ->
            for text, shown in
                [
                    "·the", "·the    "
                    "", "        "
                    "abcdefgh", "abcdefgh"
                    "abcdefghi", "abcdefg…"
                    "日本語", "日本語  "
                    "日本語日本語", "日本語… "
                    "e\u0301", "e\u0301       "
                    "\uD83D\uDE00", "\uD83D\uDE00      "
                ] do
                Expect.equal (Columns.fit 8 text) shown $"%A{text}")

        sharedTest
            "stories260K's exit logits are the reference's, within 1e-4"
            [ "stories260K" ]
            (fun folder ->
                let reference =
                    JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "logits.json"))).RootElement
                let report =
                    json (lens folder [ "--prompt"; "Once upon a time"; "--logits"; "--dtype"; "f32" ])
                let ids (e: JsonElement) = [ for x in e.EnumerateArray() -> x.GetInt32() ]
                let tokens = [
                    for token in (report.GetProperty "tokens").EnumerateArray() ->
                        (token.GetProperty "id").GetInt32()
                ]
                Expect.equal tokens (ids (reference.GetProperty "ids")) "the same text"

                for found, expected in
                    Seq.zip
                        ((report.GetProperty "exit_logits").EnumerateArray())
                        ((reference.GetProperty "exit_logits_last_pos").EnumerateArray()) do
                    for a, b in Seq.zip (found.EnumerateArray()) (expected.EnumerateArray()) do
                        Expect.isLessThan (abs (a.GetDouble() - b.GetDouble())) 1e-4 "a logit")
    ]
