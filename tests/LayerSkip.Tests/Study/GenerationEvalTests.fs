module LayerSkip.Tests.GenerationEvalTests

open System
open System.IO
open System.Text.Json
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.FileSupport

let private folder = Path.Combine(root, "models", "stories-10m")

let private model =
    lazy
        (Backend.ensure ()
         Checkpoint.load folder None Device.Cpu |> Check.getOrRaise)

let private conversation =
    [
        """{"question_id": 1, "category": "writing", "turns": ["Tell a story.", "Go on."]}"""
        """{"question_id": 2, "category": "translation", "turns": ["Once upon a time"], "reference": ["there was a cat"]}"""
        """{"question_id": 3, "category": "math_reasoning", "turns": ["Add."], "reference": ["#### 3"]}"""
        """{"question_id": 4, "category": "translation", "turns": ["Lily wanted to"], "reference": ["play"]}"""
    ]
    |> String.concat "\n"

/// The options over a file of conversations, changed.
let private withData
    name
    (text: string)
    (change: EvalOptions -> EvalOptions)
    (body: EvalTask -> EvalOptions -> 'T)
    : 'T =
    withFolder (fun folder ->
        let path = Path.Combine(folder, "set.jsonl")
        File.WriteAllText(path, text)
        let task = EvalTasks.find name |> Check.getOrRaise

        let options = {
            EvalOptions.ofData [ path ] with
                Generation = { GenerationEvalOptions.defaults with MaxNewTokens = Some 24 }
        }

        body task (change options))

let private plan task options shard =
    Eval.plan model.Value task options (Shard.tryParse shard |> Check.getOrRaise)

let private run name text change : EvalReport * EvalScore list =
    withData name text change (fun task options ->
        let plan = plan task options "1/1" |> Check.getOrRaise
        let cells = Eval.run (fun _ _ -> ()) None plan |> Check.getOrRaise

        Eval.report EvalTasks.all "run" plan.Header cells |> Check.getOrRaise,
        cells |> List.map (EvalCell.read "run" >> Check.getOrRaise))

let private fieldsAt exit (score: EvalScore) = score.Exits |> List.find (fst >> (=) exit) |> snd
let private own name (score: EvalScore) = EvalFields.numbers name score.Item
let private at exit name (score: EvalScore) = EvalFields.numbers name (fieldsAt exit score)

let private textAt exit name (score: EvalScore) =
    (fieldsAt exit score).Texts |> List.find (fst >> (=) name) |> snd

let private refused name text change (words: string list) =
    withData name text change (fun task options -> plan task options "1/1" |> messages |> expectFault words)

let private isPythonThere = lazy (OperatingSystem.IsLinux() && (Sandbox.find Sandbox.defaults |> Result.isOk))

[<Tests>]
let tests =
    testSequenced
    <| testList "generated answers" [
        testProperty
            "a prompt leaves room for its answer, and keeps its right end"
            (fun (PositiveInt words) (PositiveInt most) ->
                let tokenizer = model.Value.Tokenizer.Value
                let text = String.replicate (words * 7 % 300) "a cat sat " + "at last"
                let most, context = 1 + most % 100, 64
                let ids = Tokenizer.encode tokenizer text
                let struct (kept, cut) = GenerationRun.prompt tokenizer context most text
                Expect.equal (kept.Length + cut) ids.Length "what is cut is counted"
                Expect.isLessThanOrEqual (kept.Length + min most (context / 2)) context "room"
                Expect.equal kept[0] ids[0] "the token that begins a text"
                Expect.equal kept[1..] ids[ids.Length - kept.Length + 1 ..] "the right end"

                if cut > 0 then
                    Expect.equal kept.Length (context - min most (context / 2)) "no more than needed")

        testCase "each way decodes each turn; self-speculation writes the plain text" (fun () ->
            let report, scores =
                run "spec-bench" conversation (fun options -> { options with ExitLayers = [ 2; 5; 24 ] })

            Expect.equal
                (scores |> List.map (fun s -> List.map fst s.Exits |> List.sort))
                (List.replicate 4 [ 2; 5; 24 ])
                "exits"
            Expect.equal report.Summary.Exits.Length 3 "a curve over exits"

            let groups = report.Summary.Groups
            Expect.equal
                (groups |> List.map (fun group -> group.Name, group.Items, group.Scored))
                [ "multi-turn", 1, 0; "translation", 2, 2; "math_reasoning", 1, 1; "all", 4, 3 ]
                "by category, and of all"

            let all = List.last groups
            Expect.equal (all.Compared, all.Different) (5, 0) "five turns, equal both ways"
            Expect.equal
                (all.Rates |> List.map _.Way)
                [ "autoregressive"; "early-exit 5"; "early-exit 2"; "self-speculative" ]
                "ways"

            for score in scores do
                let plain, fast = at 24 "tokens" score, own "self_speculative_tokens" score
                Expect.equal fast plain "as many tokens"
                Expect.equal (own "same_text" score) (List.replicate plain.Length 1.0) "the same"

                // The first token comes from the prompt; a round brings what it kept and one more.
                let rounds = own "self_speculative_rounds" score |> List.chunkBySize 2
                let made = rounds |> List.sumBy (fun pair -> pair[1] + 1.0)
                Expect.isGreaterThanOrEqual
                    (made + float plain.Length)
                    (List.sum plain)
                    "rounds make the text"

                Expect.equal
                    (own "num_draft_tokens" score)
                    [ rounds |> List.sumBy List.head ]
                    "of the question"
                let histogram = own "acceptance_histogram" score
                Expect.equal (own "num_spec_steps" score) [ List.sum histogram ] "a round is in one place"

            let speculation = all.Speculation.Value
            Expect.equal
                speculation.NumDraftTokens
                (scores
                 |> List.collect (fun s -> own "self_speculative_rounds" s |> List.chunkBySize 2)
                 |> List.sumBy (List.head >> int))
                "drafted in all"
            Expect.isGreaterThan speculation.DraftAcceptanceRate 0.2 "this model drafts well"
            Expect.equal all.SpeedUp.Value.Texts 4 "questions are what is paired"
            Expect.isGreaterThan all.SpeedUp.Value.OfTimes.Value 0.0 "a ratio"

            // In chance's place: the model has 10 million parameters.
            Expect.exists
                report.Summary.Remarks
                (fun remark -> remark.Contains "chance")
                "it says what scores are worth"
            Expect.exists
                report.Summary.Remarks
                (fun remark -> remark.Contains "1 items have no reference")
                "and what has none")

        testCase "the second turn goes on from the first one's answer" (fun () ->
            let _, scores = run "spec-bench" conversation (fun options -> { options with Limit = Some 1 })
            let score = scores.Head
            let tokenizer = model.Value.Tokenizer.Value
            let task = GenerationSources.all |> List.find (fun source -> source.Name = "spec-bench")

            let turns =
                withFolder (fun folder ->
                    let path = Path.Combine(folder, "set.jsonl")
                    File.WriteAllText(path, conversation)
                    (task.Read path |> Check.getOrRaise).Head.Item.Turns |> List.map _.Prompt)

            let answer = textAt 24 "text" score
            Expect.isNonEmpty answer "an answer"

            Expect.equal
                (own "prompt_tokens" score)
                [
                    float (Tokenizer.encode tokenizer turns[0]).Length
                    float (Tokenizer.encode tokenizer (turns[0] + answer + turns[1])).Length
                ]
                "prompts"

            let ids = Tokenizer.encode tokenizer (turns[0] + answer + turns[1])

            let expected =
                Generation.complete
                    model.Value.Weights
                    (Some tokenizer)
                    {
                        GenerationOptions.greedy Strategy.Autoregressive 24 with
                            StopIds = model.Value.StopIds
                    }
                    ids
                |> Check.getOrRaise

            Expect.equal (textAt 24 "text_2" score) expected.Text.Value "what generation writes")

        testCase "each way goes on from its own answers" (fun () ->
            let _, scores =
                run "spec-bench" conversation (fun options -> {
                    options with
                        ExitLayers = [ 1 ]
                        Limit = Some 1
                        Generation.Strategies = [ GenerationWay.EarlyExit ]
                })

            Expect.equal (scores.Head.Exits |> List.map fst) [ 1 ] "the exit alone"
            Expect.isEmpty (own "self_speculative_tokens" scores.Head) "nothing is drafted")

        testCase "self-speculation alone has the scores" (fun () ->
            let report, scores =
                run "spec-bench" conversation (fun options -> {
                    options with
                        Generation.Strategies = [ GenerationWay.SelfSpeculative ]
                })

            Expect.isNonEmpty (at 24 "rouge1" scores[1]) "scores of its texts"
            let all = List.last report.Summary.Groups
            Expect.equal (all.Rates |> List.map _.Way) [ "self-speculative" ] "one way"
            Expect.isNone all.SpeedUp "over nothing")

        testCase "samples of a seed are the same whatever was decoded before" (fun () ->
            let warm = Sampling.create 1.0 0 1.0 |> Check.getOrRaise

            let sampled (options: EvalOptions) = {
                options with
                    Generation.Sampling = warm
                    Generation.Samples = 3
            }

            let all =
                run
                    "jsonl"
                    "{\"prompt\": \"Once\"}\n{\"prompt\": \"The dog\", \"response\": \"ran\"}"
                    sampled
                |> snd
            let texts (score: EvalScore) = (fieldsAt 24 score).Texts
            Expect.equal (at 24 "rouge1" all[1]).Length 3 "three scores"
            Expect.isEmpty (own "same_text" all[1]) "sampled texts are not compared"
            Expect.isGreaterThan (texts all[1] |> List.distinctBy snd).Length 2 "different samples"

            withData
                "jsonl"
                "{\"prompt\": \"Once\"}\n{\"prompt\": \"The dog\", \"response\": \"ran\"}"
                sampled
                (fun task options ->
                    let plan = plan task options "2/2" |> Check.getOrRaise
                    let cell = (Eval.run (fun _ _ -> ()) None plan |> Check.getOrRaise).Head
                    Expect.equal
                        (texts (EvalCell.read "run" cell |> Check.getOrRaise))
                        (texts all[1])
                        "in a shard of its own"))

        testCase "shards merged count what one run counts" (fun () ->
            withFolder (fun folder ->
                let file name = Path.Combine(folder, name)

                withData "spec-bench" conversation id (fun task options ->
                    let run shard name =
                        let plan = plan task options shard |> Check.getOrRaise
                        Eval.run (fun _ _ -> ()) (Some(file name)) plan |> Check.getOrRaise |> ignore

                    run "1/1" "whole"

                    for index in 1..4 do
                        run $"{index}/4" $"part{index}"

                    let report (header, cells) =
                        Eval.report EvalTasks.all "run" header cells |> Check.getOrRaise
                    let whole = RunFile.read (file "whole") |> Check.getOrRaise |> report
                    let merged =
                        RunFile.merge [ for index in 4..-1..1 -> file $"part{index}" ]
                        |> Check.getOrRaise
                        |> report
                    Expect.equal merged.Summary.Exits whole.Summary.Exits "scores"
                    Expect.equal merged.Summary.Counts whole.Summary.Counts "counts"

                    let counts (report: EvalReport) =
                        report.Summary.Groups
                        |> List.map (fun group ->
                            group.Name, SpeculationMetrics.counts group.Speculation.Value)

                    Expect.equal (counts merged) (counts whole) "rounds")))

        testCase "examples stand before the question, and never its own answer" (fun () ->
            let line number = $$"""{"question": "Q{{number}}?", "answer": "so\n#### {{number}}"}"""
            let text = [ 1..4 ] |> List.map line |> String.concat "\n"
            let count shots =
                run "gsm8k" text (fun options -> { options with Shots = Some shots; Limit = Some 2 })
                |> snd
                |> List.map (own "prompt_tokens" >> List.head)

            let ids (text: string) = float (Tokenizer.encode model.Value.Tokenizer.Value text).Length
            let example number = $"Question: Q{number}?\nAnswer: so\n#### {number}\n\n"

            Expect.equal (count 0) [ ids "Question: Q1?\nAnswer:"; ids "Question: Q2?\nAnswer:" ] "none"

            Expect.equal
                (count 2)
                [
                    ids (example 2 + example 3 + "Question: Q1?\nAnswer:")
                    ids (example 1 + example 3 + "Question: Q2?\nAnswer:")
                ]
                "two"

            refused "gsm8k" text (fun options -> { options with Shots = Some 4 }) [ "shots is 4"; "0 to 3" ])

        testCase "options that do not fit" (fun () ->
            let refused = refused "jsonl" "{\"prompt\": \"a\"}"
            let generation change (options: EvalOptions) = {
                options with
                    Generation = change options.Generation
            }
            refused (generation (fun own -> { own with Samples = 3 })) [ "samples is 3"; "temperature" ]
            refused (generation (fun own -> { own with Samples = 0 })) [ "samples is 0" ]
            refused (generation (fun own -> { own with MaxNewTokens = Some 0 })) [ "max-new-tokens is 0" ]
            refused (generation (fun own -> { own with DraftLength = Some 0 })) [ "draft-length is 0" ]
            refused (generation (fun own -> { own with Exit = Some 24 })) [ "exit layer is 24"; "1 to 23" ]
            refused (fun options -> { options with ExitLayers = [ 25 ] }) [ "25" ]
            refused (fun options -> { options with Shots = Some 1 }) [ "shots is 1"; "0 to 0" ])

        testCase "no code is run without being allowed to" (fun () ->
            let line =
                """{"task_id": "a/1", "prompt": "def f():\n", "entry_point": "f", "test": "def check(f): pass"}"""

            refused "humaneval" line id [ "Python"; "allow" ])

        testCase "programs are run, and pass@k told of them" (fun () ->
            if not isPythonThere.Value then
                skiptest "no python3 on Linux"

            // Whatever the answer is, as a comment it passes; and as code it does not.
            let line prompt =
                $$"""{"task_id": "a/1", "prompt": "{{prompt}}", "entry_point": "f", "test": "def check(f): pass"}"""

            let report, scores =
                run
                    "humaneval"
                    ([ "def f(): pass\\n#"; "def f( (" ] |> List.map line |> String.concat "\n")
                    (fun options -> {
                        options with
                            Generation.RunCode = true
                            Generation.MaxNewTokens = Some 4
                    })

            Expect.equal (scores |> List.map (at 24 "passed")) [ [ 1.0 ]; [ 0.0 ] ] "verdicts"
            Expect.equal (textAt 24 "verdict" scores[0]) "passed" "in words"
            Expect.stringContains (textAt 24 "verdict" scores[1]) "SyntaxError" "and why"
            let name, value = report.Summary.Exits.Head |> snd |> List.head |> (fun m -> m.Name, m.Value)
            Expect.equal (name, value) ("pass@1", 0.5) "pass@1"
            let low, high = (report.Summary.Exits.Head |> snd |> List.head).Interval.Value
            Expect.isTrue (0.0 < low && low < 0.5 && 0.5 < high && high < 1.0) "an interval of a share")

        sharedTest "MBPP's own solutions pass its tests" [ "eval"; "mbpp"; "mbpp.jsonl" ] (fun path ->
            if not isPythonThere.Value then
                skiptest "no python3 on Linux"

            let sandbox = Sandbox.find Sandbox.defaults |> Check.getOrRaise
            let source = GenerationSources.all |> List.find (fun source -> source.Name = "mbpp")
            let _, tests = source.Part(source.Read path |> Check.getOrRaise)

            for question in List.truncate 40 tests do
                let parts = question.Example.Value.Split "[BEGIN]\n"
                let code = parts[1].Replace("\n[DONE]", "")

                let score =
                    GenerationScore.ofAnswer (Sandbox.run sandbox) question.Item.Turns.Head.Scorer code

                Expect.equal score.Verdict (Some Verdict.Passed) question.Item.Id)
    ]
