module LayerSkip.Tests.ChoiceFileTests

open System.IO
open System.Text.Json
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.Support

let private set name = ChoiceTasks.sets |> List.find (fun set -> set.Name = name)

let private readAs name path = ChoiceFile.read (set name).Forms path |> Check.getOrRaise

let private adapters name = [ "eval"; "llm-adapters"; name ]

let private instruction (text: string) (answer: string) =
    JsonSerializer.Serialize {| instruction = text; input = ""; output = ""; answer = answer |}

let private withText (name: string) (text: string) (body: string -> 'T) =
    withFolder (fun folder ->
        let path = Path.Combine(folder, name)
        File.WriteAllText(path, text)
        body path)

/// The prompts of a set's first question, as context and continuation.
let private first name path =
    (set name).Template.Prompts (readAs name path).Questions[0]
    |> List.map (fun prompt -> prompt.Context, prompt.Continuation)

[<Tests>]
let tests =
    testList "files of questions" [
        sharedTest
            "PIQA's own file and LLM-Adapters' hold the same questions"
            (adapters "piqa.test.json")
            (fun path ->
                let own = readAs "piqa" (sharedPath [ "eval"; "piqa"; "valid.jsonl" ])
                Expect.equal (readAs "piqa" path).Questions own.Questions "question by question")

        for name, file, expected in
            [
                "piqa",
                "piqa.test.json",
                [
                    "Question: How do I ready a guinea pig cage for it's new occupants?\nAnswer:",
                    " Provide the guinea pig with a cage full of a few inches of bedding made of ripped paper strips, you will also need to supply it with a water bottle and a food dish."
                    "Question: How do I ready a guinea pig cage for it's new occupants?\nAnswer:",
                    " Provide the guinea pig with a cage full of a few inches of bedding made of ripped jeans material, you will also need to supply it with a water bottle and a food dish."
                ]
                "boolq",
                "boolq.test.json",
                [
                    "Question: does ethanol take more energy make that produces?\nAnswer:", " no"
                    "Question: does ethanol take more energy make that produces?\nAnswer:", " yes"
                ]
                "social_iqa",
                "social_i_qa.test.json",
                [
                    for answer in [ "make a new plan"; "Go home and see Riley"; "Find somewhere to go" ] ->
                        "Q: Tracy didn't go home that evening and resisted Riley's attacks. What does Tracy need to do before this?\nA:",
                        " " + answer
                ]
                "winogrande",
                "winogrande.test.json",
                [
                    for who in [ "Sarah"; "Maria" ] ->
                        "Sarah was a much better surgeon than Maria so " + who,
                        " always got the easier cases."
                ]
                "arc_easy",
                "ARC-Easy.test.json",
                [
                    for answer in
                        [
                            "Sunlight is the source of energy for nearly all ecosystems."
                            "Most ecosystems are found on land instead of in water."
                            "Carbon dioxide is more available than other gases."
                            "The producers in all ecosystems are plants."
                        ] ->
                        "Question: Which statement best explains why photosynthesis is the foundation of most food webs?\nAnswer:",
                        " " + answer
                ]
                "openbookqa",
                "openbookqa.test.json",
                [
                    for answer in
                        [
                            "make more phone calls"
                            "quit eating lunch out"
                            "buy less with monopoly money"
                            "have lunch with friends"
                        ] ->
                        "A person wants to start saving money so that they can afford a nice vacation at the end of the year. After looking over their budget and expenses, they decide the best way to save money is to",
                        " " + answer
                ]
                "mathqa",
                "mathqa.test.json",
                [
                    for answer in [ "38"; "27.675"; "30"; "DAtA inADEquAtE"; "nonE oF thEsE" ] ->
                        "Question: a shopkeeper sold an article offering a discount of 5 % and earned a profit of 31.1 % . what would have been the percentage of profit earned if no discount had been offered ?\nAnswer:",
                        " " + answer
                ]
            ] do
            sharedTest $"the first question of {name}, as the model reads it" (adapters file) (fun path ->
                Expect.equal (first name path) expected "prompts")

        sharedTest "MathQA's lists of Python are read too" (adapters "mathqa.test.json") (fun path ->
            let asked = (readAs "mathqa" path).Questions[82]
            Expect.equal asked.Options [ "2 : 3"; "4 : 5"; "16 : 9"; "7 : 9"; "8 : 5" ] "element 83"
            Expect.equal asked.Answer 2 "C")

        testProperty "an instruction gives back the options that were put into it"
        <| fun (answers: NonEmptyArray<byte>) (NonNegativeInt right) ->
            let options = [
                for number, length in Seq.indexed answers.Get |> Seq.truncate 9 ->
                    $"option {number} " + String.replicate (1 + int length % 9) "x"
            ]

            let options = "a first" :: options
            let right = right % options.Length
            let names = [ for number in 1 .. options.Length -> $"answer{number}" ]
            let listed =
                options |> List.mapi (fun i option -> $"Answer{i + 1}: {option}") |> String.concat " "

            let text =
                $"""Please choose the correct answer to the question: Why?{"\n\n"}{listed}{"\n\n"}Answer format: {String.concat "/" names}"""

            withText "q.json" $"[{instruction text names[right]}]" (fun path ->
                Expect.equal
                    (readAs "arc_easy" path).Questions
                    [| { Question = "Why?"; Options = options; Answer = right } |]
                    text)

        testCase
            "what is of another form is counted and told of; where nothing is a question, that is an error"
            (fun () ->
                let asked =
                    "Please answer the following question with true or false, question: is it?\n\nAnswer format: true/false"
                let good = instruction asked "true"
                let odd = [ instruction "Is it?" "true"; "{}"; "[]"; instruction asked "maybe" ]
                let mixed = String.concat "," (odd @ [ good ])

                withText "mixed.json" $"[{mixed}]" (fun path ->
                    let found = readAs "boolq" path
                    Expect.equal found.Questions.Length 1 "one is a question"
                    Expect.equal
                        found.Unread
                        [ "element 1"; "element 2"; "element 3"; "element 4" ]
                        "four are not")

                withText "mixed.jsonl" ("\uFEFF" + good + "\r\n\n{}\n") (fun path ->
                    Expect.equal (readAs "boolq" path).Unread [ "line 3" ] "lines are counted as they stand")

                for name, text, words in
                    [
                        "none.json", "[{}]", "holds no question of this task's form"
                        "empty.json", "[]", "holds no question"
                        "cut.json", "[" + good, "not valid JSON"
                        "text.jsonl", "a letter\n", "line 1 is not valid JSON"
                        "nothing.json", "", "is empty"
                    ] do
                    withText name text (fun path ->
                        ChoiceFile.read (set "boolq").Forms path |> messages |> expectFault [ words ]))

        testCase "a sentence without a gap, or with two, is none of WinoGrande's" (fun () ->
            let sentence (text: string) =
                instruction
                    $"""Please choose the correct answer to fill in the blank to complete the given sentence: {text}{"\n\n"}Option1: a Option2: b Answer format: option1/option2"""
                    "option2"

            let texts = [ "It _ so."; "It is so."; "It _ so _." ] |> List.map sentence |> String.concat ","

            withText "gaps.json" $"[{texts}]" (fun path ->
                let found = readAs "winogrande" path
                Expect.equal
                    found.Questions
                    [| { Question = "It _ so."; Options = [ "a"; "b" ]; Answer = 1 } |]
                    "one"
                Expect.equal found.Unread [ "element 2"; "element 3" ] "two are not"))

        testCase "PIQA's labels stand in a file beside it or in the objects, one for each" (fun () ->
            let goal = """{"goal": "g", "sol1": "a", "sol2": "b"}"""

            withFolder (fun folder ->
                let path = Path.Combine(folder, "dev.jsonl")
                let labels = Path.Combine(folder, "dev-labels.lst")
                let read () = ChoiceFile.read (set "piqa").Forms path
                File.WriteAllText(path, goal + "\n" + goal + "\n")
                read () |> messages |> expectFault [ "labels" ]
                File.WriteAllText(labels, "1\n0\n")
                let found = read () |> Check.getOrRaise
                Expect.equal [ for asked in found.Questions -> asked.Answer ] [ 1; 0 ] "line by line"
                Expect.equal found.Labels [ labels ] "it decides the scores"
                File.WriteAllText(labels, "1\n0\n1\n")
                read () |> messages |> expectFault [ "2 questions"; "3 labels" ]
                File.WriteAllText(labels, "1\nsecond\n")
                read () |> messages |> expectFault [ "whole number" ]
                File.WriteAllText(labels, "1\n2\n")
                Expect.equal (read () |> Check.getOrRaise).Unread [ "line 2" ] "there are two solutions"
                File.Delete labels
                File.WriteAllText(path, goal.Replace("}", ", \"label\": 1}"))
                Expect.equal (read () |> Check.getOrRaise).Questions[0].Answer 1 "in the object"))

        testCase "examples stand before the question with their answers, an empty line after each" (fun () ->
            let asked = { Question = "Why"; Options = [ "so"; "no" ]; Answer = 1 }
            let template = (set "boolq").Template
            let example = ChoiceTemplate.example template { asked with Question = "How"; Answer = 0 }
            let prompt = (template.Prompts asked).Head |> ChoiceTemplate.withExamples [ example ]
            Expect.equal prompt.Context "Question: How?\nAnswer: so\n\nQuestion: Why?\nAnswer:" "context"
            Expect.equal prompt.Continuation " so" "continuation"
            let gap = { Question = "It _ here."; Options = [ "is"; "was" ]; Answer = 1 }
            Expect.equal (ChoiceTemplate.example ChoiceTemplate.gap gap) "It was here." "a gap is filled")
    ]
