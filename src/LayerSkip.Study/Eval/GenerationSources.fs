namespace LayerSkip

/// The kinds of questions that there are. To add one: make a value of `GenerationSource`, and put it into `all`.
[<RequireQualifiedAccess>]
module internal GenerationSources =
    let private asked (question: string) = $"Question: {question}\nAnswer:"

    /// lm-evaluation-harness's gsm8k: its template, its two ways to read a number. Files of LLM-Adapters have "instruction" and a number as "answer".
    let gsm8k: GenerationSource =
        // "576.0"
        let whole (answer: string) =
            if answer.EndsWith ".0" then
                answer.Substring(0, answer.Length - 2)
            else
                answer

        let read (line: JsonPart) =
            match line.TryText "instruction" with
            | Some instruction ->
                let answer = whole (line.Field "answer").Text
                let prompt = asked (instruction.Trim())


                let worked =
                    line.TryText "output"
                    |> Option.map (fun output ->
                        let steps = output.Replace("\nA: ", "").Trim()
                        $"{prompt} {steps}\n#### {answer}")

                prompt, answer, worked
            | None ->
                let prompt, answer = asked (line.Field "question").Text, (line.Field "answer").Text

                match Answers.strict answer with
                | Some number -> prompt, number, Some $"{prompt} {answer}"
                | None -> (line.Field "answer").Fault "has no \"#### \" with a number behind it"

        let numbered index (prompt, number, example) =
            GenerationSource.question (string index) "gsm8k" prompt (Scorer.Number number) example

        {
            GenerationSource.none with
                Name = "gsm8k"
                About =
                    "the number that an answer ends with, on GSM8K's .jsonl or LLM-Adapters' gsm8k.test.json"
                Stops = [ "Question:" ]
                MaxNewTokens = 256
                Shots = 8
                Read =
                    fun path ->
                        Records.read
                            path
                            "GSM8K's lines have \"question\" and \"answer\", LLM-Adapters' objects \"instruction\" and \"answer\""
                            read
                        |> Result.map (List.mapi numbered)
        }

    /// Prompts as they stand, with answers to compare with.
    let responses: GenerationSource =
        let read (line: JsonPart) =
            let response = line.TryText "response" |> Option.orElseWith (fun () -> line.TryText "completion")

            match (line.Field "prompt").Text with
            | "" -> (line.Field "prompt").Fault "is empty"
            | prompt -> prompt, response

        let numbered index (prompt: string, response: string option) =
            GenerationSource.question
                (string index)
                "jsonl"
                prompt
                (response
                 |> Option.map (List.singleton >> Scorer.Text)
                 |> Option.defaultValue Scorer.Unscored)
                (response |> Option.map (fun response -> prompt + response))

        {
            GenerationSource.none with
                Name = "jsonl"
                About = "exact match, edit distance and ROUGE on lines of \"prompt\" and \"response\""
                Read =
                    fun path ->
                        Records.read path "lines have \"prompt\" and, to be compared, \"response\"" read
                        |> Result.map (List.mapi numbered)
        }

    /// All of them, in the order in which they are told.
    let all: GenerationSource list = [
        CodeSources.humanEval
        CodeSources.mbpp
        gsm8k
        ChatSources.summaries
        ChatSources.specBench
        ChatSources.questions
        responses
    ]
