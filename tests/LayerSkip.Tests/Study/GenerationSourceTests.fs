module LayerSkip.Tests.GenerationSourceTests

open System.IO
open System.IO.Compression
open System.Text
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.FileSupport

let private source name = GenerationSources.all |> List.find (fun source -> source.Name = name)

/// What a source reads of a file that holds this text.
let private readAs extension name (text: string) =
    withFolder (fun folder ->
        let path = Path.Combine(folder, "set" + extension)
        File.WriteAllText(path, text)
        (source name).Read path)

let private items name text = readAs ".jsonl" name text |> Check.getOrRaise

let private prompts (question: Question) = question.Item.Turns |> List.map _.Prompt

let private gzip (text: string) =
    use packed = new MemoryStream()

    using (new GZipStream(packed, CompressionLevel.Optimal, true)) (fun stream ->
        stream.Write(Encoding.UTF8.GetBytes text))

    packed.ToArray()

let private humanEvalLine =
    """{"task_id": "HumanEval/7", "prompt": "def f(x):\n", "entry_point": "f", "canonical_solution": "    return x\n", "test": "def check(candidate):\n    assert candidate(1) == 1\n"}"""

let private mbppLine id =
    $$"""{"task_id": {{id}}, "text": "Add.", "code": "def add(a):\r\n  return a", "test_setup_code": "", "test_list": ["assert add(1) == 1", "assert add(2) == 2"], "challenge_test_list": []}"""

let private gsm8kLine = """{"question": "How many?", "answer": "1+1=<<1+1=2>>2\n#### 1,002"}"""

[<Tests>]
let tests =
    testList "generation sources" [
        testCase "HumanEval: the raw prompt, run as its authors run it" (fun () ->
            let question = (items "humaneval" humanEvalLine).Head
            Expect.equal (prompts question) [ "def f(x):\n" ] "prompt"
            Expect.equal question.Item.Id "HumanEval/7" "id"

            match question.Item.Turns.Head.Scorer with
            | Scorer.Program(before, after) ->
                Expect.equal before "def f(x):\n" "before"
                Expect.equal
                    after
                    "\ndef check(candidate):\n    assert candidate(1) == 1\n\ncheck(f)\n"
                    "after"
            | other -> failtest $"%A{other}"

            Expect.equal (source "humaneval").Stops [ "\nclass"; "\ndef"; "\n#"; "\nif"; "\nprint" ] "stops")

        testCase "MBPP: tests in the prompt, ids 2 to 10 are examples and 11 to 510 the test set" (fun () ->
            let lines =
                [ 1; 2; 3; 4; 5; 10; 11; 510; 511 ] |> List.map (string >> mbppLine) |> String.concat "\n"
            let questions = items "mbpp" lines
            let examples, tests = (source "mbpp").Part questions
            let ids = List.map (fun (question: Question) -> question.Item.Id)
            Expect.equal (ids examples) [ "2"; "3"; "4"; "5"; "10" ] "examples"
            Expect.equal (ids tests) [ "11"; "510" ] "tests"

            Expect.equal
                (prompts tests.Head)
                [
                    "You are an expert Python programmer, and here is your task: Add. Your code should pass these tests:\n\nassert add(1) == 1\nassert add(2) == 2\n[BEGIN]\n"
                ]
                "prompt"

            Expect.stringEnds
                examples.Head.Example.Value
                "[BEGIN]\ndef add(a):\n  return a\n[DONE]"
                "example"
            Expect.equal
                (ids (snd ((source "mbpp").Part(items "mbpp" (mbppLine "900")))))
                [ "900" ]
                "a set of one's own")

        testCase "GSM8K: lm-evaluation-harness's template, and LLM-Adapters' file" (fun () ->
            let question = (items "gsm8k" gsm8kLine).Head
            Expect.equal (prompts question) [ "Question: How many?\nAnswer:" ] "prompt"
            Expect.equal question.Item.Turns.Head.Scorer (Scorer.Number "1,002") "number"

            Expect.equal
                question.Example
                (Some "Question: How many?\nAnswer: 1+1=<<1+1=2>>2\n#### 1,002")
                "example"

            let adapters =
                """[{"instruction": "How many? ", "input": "", "output": "\nA: Two. The answer is 576.", "answer": "576.0"}]"""

            let question = (readAs ".json" "gsm8k" adapters |> Check.getOrRaise).Head
            Expect.equal (prompts question) [ "Question: How many?\nAnswer:" ] "the same prompt"
            Expect.equal question.Item.Turns.Head.Scorer (Scorer.Number "576") "a whole number")

        testCase "Spec-Bench: Vicuna's template, MT-bench's categories as one, turns after answers" (fun () ->
            let lines =
                [
                    """{"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]}"""
                    """{"question_id": 161, "category": "translation", "turns": ["Translate."], "reference": ["Done."]}"""
                    """{"question_id": "m1", "category": "math_reasoning", "turns": ["Add."], "reference": ["So 3.\n#### 3"]}"""
                    """{"question_id": 481, "category": "rag", "turns": ["Who?"], "reference": [["He.", "", "She."]]}"""
                ]
                |> String.concat "\n\n"

            let questions = items "spec-bench" lines

            Expect.equal
                (questions |> List.map (fun question -> question.Item.Id, question.Item.Category))
                [
                    "81", "multi-turn"
                    "161", "translation"
                    "m1", "math_reasoning"
                    "481", "rag"
                ]
                "categories"

            Expect.stringEnds (prompts questions.Head).Head "questions. USER: Write. ASSISTANT:" "first turn"
            Expect.equal (List.last (prompts questions.Head)) " USER: Again. ASSISTANT:" "second turn"

            Expect.equal
                (questions |> List.collect _.Item.Turns |> List.map _.Scorer)
                [
                    Scorer.Unscored
                    Scorer.Unscored
                    Scorer.Text [ "Done." ]
                    Scorer.Number "3"
                    Scorer.Text [ "He."; "She." ]
                ]
                "references")

        testCase "CNN/DM: the reference implementation's template" (fun () ->
            let line =
                """{"question_id": 1, "category": "summarization", "turns": ["Summarize: News."], "reference": ["Two\nlines."]}"""

            let question = (items "cnn-dm" line).Head
            Expect.equal (prompts question) [ "Article: News.\nSummary:" ] "prompt"
            Expect.equal question.Example (Some "Article: News.\nSummary: Two lines.") "example"
            Expect.equal question.Item.Turns.Head.Scorer (Scorer.Text [ "Two\nlines." ]) "with its lines")

        testCase "prompts and responses as they stand" (fun () ->
            let found =
                items
                    "jsonl"
                    "{\"prompt\": \"a\", \"response\": \"b\"}\n{\"prompt\": \"c\", \"completion\": \"d\"}\n{\"prompt\": \"e\"}"

            Expect.equal
                (found |> List.collect _.Item.Turns)
                [
                    { Prompt = "a"; Scorer = Scorer.Text [ "b" ] }
                    { Prompt = "c"; Scorer = Scorer.Text [ "d" ] }
                    { Prompt = "e"; Scorer = Scorer.Unscored }
                ]
                "turns")

        testCase "gzip is unpacked, and damaged gzip is told of" (fun () ->
            let packed = gzip (humanEvalLine + "\n" + humanEvalLine)
            Expect.equal
                (withBytes packed (source "humaneval").Read |> Check.getOrRaise).Length
                2
                "two lines"

            for bytes in [ packed[..20]; Array.append [| 0x1Fuy; 0x8Buy |] (Array.create 50 7uy) ] do
                match withBytes bytes (source "humaneval").Read with
                | Ok found -> failtest $"{found.Length} questions of damaged gzip"
                | Error faults ->
                    Expect.stringContains (LayerSkipError.summary faults) "model.bin" "it names the file")

        testCase "a file of another form: which line, what is missing, what there should be" (fun () ->
            for name, text, words in
                [
                    "humaneval", humanEvalLine + "\n" + gsm8kLine, [ "line 2"; "task_id"; "HumanEval" ]
                    "mbpp", humanEvalLine, [ "line 1"; "MBPP"; "test_list" ]
                    "gsm8k", "{\"question\": \"Why?\", \"answer\": \"So.\"}", [ "line 1"; "####" ]
                    "gsm8k", "\n" + mbppLine "1", [ "line 2"; "question" ]
                    "spec-bench", gsm8kLine, [ "line 1"; "question_id"; "turns" ]
                    "questions",
                    "{\"question_id\": 1, \"category\": \"a\", \"turns\": []}",
                    [ "question 1"; "turns" ]
                    "cnn-dm",
                    "{\"question_id\": 1, \"category\": \"a\", \"turns\": \"b\"}",
                    [ "line 1"; "turns"; "list" ]
                    "jsonl", "{\"prompt\": 3}", [ "line 1"; "prompt"; "text" ]
                    "jsonl", "{\"prompt\": \"a\"", [ "line 1"; "JSON"; "\"prompt\" and" ]
                    "jsonl", "[{\"prompt\": \"a\"}, 7]", [ "element 2"; "object" ]
                    "jsonl", "[{\"prompt\"", [ "JSON" ]
                    "jsonl", "\n \n", [ "holds nothing" ]
                    "jsonl", "{\"prompt\": \"\"}", [ "line 1"; "empty" ]
                    "jsonl", "", [ "empty" ]
                    "jsonl", "{\"prompt\": \"\\ud800\"}", [ "Unicode" ]
                ] do
                readAs ".jsonl" name text |> messages |> expectFault words

            (source "jsonl").Read "no such file" |> messages |> expectFault [ "not found"; "prompt" ])

        testProperty
            "items in turn: all of them, and of the first few as many of each category"
            (fun (categories: byte list) ->
                let items = [
                    for index, category in List.indexed categories ->
                        { Id = string index; Category = string (category % 4uy); Turns = [] }
                ]

                let turned = GenerationItem.interleaved items
                Expect.equal (List.sort (turned |> List.map _.Id)) (List.sort (items |> List.map _.Id)) "all"
                let total = items |> List.countBy _.Category |> Map.ofList

                for count in 0 .. items.Length do
                    let first = turned |> List.truncate count |> List.countBy _.Category |> Map.ofList
                    let most = if first.IsEmpty then 0 else Seq.max first.Values

                    for category in total do
                        let here = Map.tryFind category.Key first |> Option.defaultValue 0
                        Expect.isTrue (here >= min category.Value (most - 1)) $"{count}: {first}")

        for name, path, count, categories in
            [
                "humaneval", [ "humaneval"; "HumanEval.jsonl.gz" ], 164, 1
                "mbpp", [ "mbpp"; "mbpp.jsonl" ], 500, 1
                "gsm8k", [ "gsm8k"; "test.jsonl" ], 1319, 1
                "gsm8k", [ "gsm8k"; "train_400.jsonl" ], 400, 1
                "gsm8k", [ "llm-adapters"; "gsm8k.test.json" ], 1319, 1
                "cnn-dm", [ "eagle"; "sum.jsonl" ], 80, 1
                "spec-bench", [ "spec_bench"; "question.jsonl" ], 480, 6
                for set in [ "alpaca"; "gsm8k"; "humaneval"; "mt_bench"; "qa"; "sum" ] do
                    "questions", [ "eagle"; set + ".jsonl" ], 80, 1
            ] do
            let file = String.concat "/" path

            sharedTest $"{name} reads {file}" ("eval" :: path) (fun path ->
                let _, questions = (source name).Read path |> Check.getOrRaise |> (source name).Part
                Expect.equal questions.Length count "questions"

                let groups = questions |> List.countBy _.Item.Category
                Expect.equal groups.Length categories $"%A{groups}"
                Expect.isTrue
                    (groups |> List.forall (fun (_, each) -> each = count / categories))
                    $"%A{groups}"
                Expect.isTrue
                    (questions
                     |> List.forall (fun q -> q.Item.Turns |> List.forall (fun t -> t.Prompt <> "")))
                    "prompts")
    ]
