namespace LayerSkip

/// Questions whose answers are Python, which is run with tests; docs/evaluation.md has each template with its source.
[<RequireQualifiedAccess>]
module internal CodeSources =
    /// Prompts are heads of functions, answers are their bodies: the raw prompt and the stop strings of Chen et al. 2021, section
    /// 3.2. What is run is theirs too: prompt, answer, test, check(entry_point).
    let humanEval: GenerationSource =
        let read (line: JsonPart) =
            let text (name: string) = (line.Field name).Text
            let prompt, test, entry = text "prompt", text "test", text "entry_point"
            let scorer = Scorer.Program(prompt, $"\n{test}\ncheck({entry})\n")
            GenerationSource.question (text "task_id") "humaneval" prompt scorer None

        {
            GenerationSource.none with
                Name = "humaneval"
                About = "pass@k of generated Python on HumanEval.jsonl(.gz)"
                Stops = [ "\nclass"; "\ndef"; "\n#"; "\nif"; "\nprint" ]
                MaxNewTokens = 512
                IsCode = true
                Read =
                    fun path ->
                        Records.read
                            path
                            "HumanEval's lines have \"task_id\", \"prompt\", \"entry_point\" and \"test\""
                            read
        }

    /// Austin et al. 2021, "Program synthesis with large language models", section 3: the prompt of three examples (task ids 2, 3
    /// and 4, of the ten that serve as such) with all tests of the task; 11 to 510 are the test set.
    let mbpp: GenerationSource =
        let lines (text: string) = text.Replace("\r\n", "\n").TrimEnd()

        let read (line: JsonPart) =
            let text (name: string) = lines (line.Field name).Text
            let tests = (line.Field "test_list").Items |> Seq.map _.Text |> String.concat "\n"

            let task, code = text "text", text "code"

            let prompt =
                $"You are an expert Python programmer, and here is your task: {task} Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"

            let setup = line.TryText "test_setup_code" |> Option.defaultValue ""

            GenerationSource.question
                (string (line.Field "task_id").Int)
                "mbpp"
                prompt
                (Scorer.Program($"{lines setup}\n", $"\n{tests}\n"))
                (Some $"{prompt}{code}\n[DONE]")

        let numbered first last (questions: Question list) =
            questions
            |> List.filter (fun question -> first <= int question.Item.Id && int question.Item.Id <= last)

        let part (questions: Question list) =
            match numbered 11 510 questions with
            | [] -> [], questions
            | tests -> numbered 2 10 questions, tests

        {
            GenerationSource.none with
                Name = "mbpp"
                About = "pass@k of generated Python on mbpp.jsonl"
                Stops = [ "[DONE]" ]
                MaxNewTokens = 512
                IsCode = true
                Shots = 3
                Read =
                    fun path ->
                        Records.read
                            path
                            "MBPP's lines have \"task_id\", \"text\", \"code\" and \"test_list\""
                            read
                Part = part
        }
