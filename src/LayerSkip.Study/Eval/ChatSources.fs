namespace LayerSkip

open System.IO
open System.Text.Json

/// Questions of one turn or more, in the form of MT-bench's files; docs/evaluation.md has each template with its source.
[<RequireQualifiedAccess>]
module internal ChatSources =
    /// As text, whether it is written as one or as a whole number.
    let private idOf (part: JsonPart) =
        if part.Kind = JsonValueKind.String then
            part.Text
        else
            string part.Int

    /// What MT-bench's files, and those of Spec-Bench and EAGLE, are made of.
    type private Conversation = {
        Id: string
        Category: string
        Turns: string list
        References: string list list
    }

    let private conversations (path: string) =
        let texts (part: JsonPart) = part.Items |> Seq.map _.Text |> List.ofSeq

        // Of a turn one, or a list of those that are right.
        let right (part: JsonPart) =
            if part.Kind = JsonValueKind.Array then
                texts part
            else
                [ part.Text ]

        let references (part: JsonPart) = part.Items |> Seq.map (right >> List.filter ((<>) "")) |> List.ofSeq

        let read (line: JsonPart) = {
            Id = idOf (line.Field "question_id")
            Category = (line.Field "category").Text
            Turns = texts (line.Field "turns")
            References = line.TryField "reference" |> Option.map references |> Option.defaultValue []
        }

        Records.read path "lines of questions have \"question_id\", \"category\" and \"turns\"" read
        |> Result.bind (fun found ->
            match found |> List.tryFind (fun line -> line.Turns.IsEmpty) with
            | Some line -> Check.bad path $"question {line.Id} has no \"turns\"; give it one"
            | None -> Ok found)

    /// How an answer is compared with the references that it may have.
    let private scorer (references: string list option) =
        match references |> Option.defaultValue [] with
        | [] -> Scorer.Unscored
        | [ text ] ->
            Answers.strict text
            |> Option.map Scorer.Number
            |> Option.defaultValue (Scorer.Text [ text ])
        | texts -> Scorer.Text texts

    let private vicuna =
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions."

    /// Vicuna's own template without its end-of-text token, which Spec-Bench and EAGLE use.
    let private chat (category: string) (line: Conversation) : Question = {
        Item = {
            Id = line.Id
            Category = category
            Turns =
                line.Turns
                |> List.mapi (fun turn text -> {
                    Prompt = (if turn = 0 then vicuna else "") + $" USER: {text} ASSISTANT:"
                    Scorer = scorer (List.tryItem turn line.References)
                })
        }
        Example = None
    }

    let private ofChats category path =
        conversations path
        |> Result.map (List.map (fun line -> chat (category path line.Category) line))

    /// MT-bench's eight categories, of two turns each, are one of Spec-Bench's six (Xia et al. 2024, section 4.1).
    let specBench: GenerationSource =
        let others = set [ "translation"; "summarization"; "qa"; "math_reasoning"; "rag" ]

        {
            GenerationSource.none with
                Name = "spec-bench"
                About = "acceptance and speed by category on Spec-Bench's question.jsonl"
                MaxNewTokens = 1024
                Read = ofChats (fun _ category -> if others.Contains category then category else "multi-turn")
        }

    /// Each file is a category.
    let questions: GenerationSource = {
        GenerationSource.none with
            Name = "questions"
            About = "acceptance and speed by file on lines of questions with turns, as EAGLE's sets"
            MaxNewTokens = 1024
            Read = ofChats (fun path _ -> Path.GetFileNameWithoutExtension path)
    }

    /// LayerSkip's own template for CNN/DM and XSUM.
    let summaries: GenerationSource =
        let ofLine (line: Conversation) =
            let article = line.Turns.Head
            let order = "Summarize: "

            let article =
                if article.StartsWith order then
                    article.Substring order.Length
                else
                    article

            let prompt = $"Article: {article}\nSummary:"
            let reference = line.References |> List.tryHead |> Option.bind List.tryHead

            GenerationSource.question
                line.Id
                "summarization"
                prompt
                (scorer (Option.map List.singleton reference))
                (reference |> Option.map (fun text -> $"""{prompt} {text.Replace("\n", " ")}"""))

        {
            GenerationSource.none with
                Name = "cnn-dm"
                About = "ROUGE of summaries of news on EAGLE's sum.jsonl"
                Stops = [ "\nArticle:" ]
                MaxNewTokens = 512
                Read = fun path -> conversations path |> Result.map (List.map ofLine)
        }
