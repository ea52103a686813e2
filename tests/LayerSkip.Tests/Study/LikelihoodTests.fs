module LayerSkip.Tests.LikelihoodTests

open System
open System.IO
open Expecto
open LayerSkip
open LayerSkip.Tests.Support

Backend.ensure ()

let private adapters name = [ "eval"; "llm-adapters"; name ]

/// Each set: its task, its file, and how many questions the file holds.
let private sets = [
    "piqa", [ "eval"; "piqa"; "valid.jsonl" ], 1838
    "piqa", adapters "piqa.test.json", 1838
    "boolq", adapters "boolq.test.json", 3270
    "social_iqa", adapters "social_i_qa.test.json", 1954
    "winogrande", adapters "winogrande.test.json", 1267
    "arc_easy", adapters "ARC-Easy.test.json", 2376
    "arc_challenge", adapters "ARC-Challenge.test.json", 1172
    "openbookqa", adapters "openbookqa.test.json", 500
    "mathqa", adapters "mathqa.test.json", 2985
]

/// What the model reads of a question, as the reference's task definitions have it, written again.
let private prompts task (asked: ChoiceQuestion) : (string * string) list =
    let each context = asked.Options |> List.map (fun option -> context, " " + option)
    let question = asked.Question

    match task with
    | "boolq" -> each ("Question: " + question + "?\nAnswer:")
    | "social_iqa" -> each ("Q: " + question + "\nA:")
    | "openbookqa" -> each question
    | "winogrande" ->
        let parts = question.Split('_', 2)
        asked.Options |> List.map (fun option -> parts[0] + option, " " + parts[1].Trim())
    | _ -> each ("Question: " + question + "\nAnswer:")

let private byName name = EvalTasks.find name |> Check.getOrRaise

let private formsOf name = (ChoiceTasks.sets |> List.find (fun set -> set.Name = name)).Forms

/// The scores of the first `count` items.
let private scores (checkpoint: Checkpoint) task file count : EvalScore list =
    let options = { EvalOptions.ofData [ file ] with Limit = Some count }
    let plan = Eval.plan checkpoint (byName task) options Shard.whole |> Check.getOrRaise

    Eval.run (fun _ _ -> ()) None plan
    |> Check.getOrRaise
    |> List.map (EvalCell.read "" >> Check.getOrRaise)

[<Tests>]
let tests =
    testList "likelihoods" [
        for task, file, _ in sets do
            sharedTest $"{task} of {List.last file}: 20 questions by a pass of another hand" file (fun path ->
                let folder = sharedPath [ "stories260K" ]
                let plain = PlainLlama.load folder
                let questions = (ChoiceFile.read (formsOf task) path |> Check.getOrRaise).Questions

                let inDtype dtype =
                    use checkpoint = Checkpoint.load folder (Some dtype) Device.Cpu |> Check.getOrRaise
                    checkpoint.Tokenizer.Value, scores checkpoint task path 20

                let tokenizer, wide = inDtype Dtype.F64
                let _, narrow = inDtype Dtype.F32

                for asked, (wide, narrow) in Seq.zip questions (Seq.zip wide narrow) do
                    let expected = [
                        for context, continuation in prompts task asked do
                            let ids = Tokenizer.encode tokenizer (context + continuation)
                            let scored = ids.Length - (Tokenizer.encode tokenizer context).Length
                            let kept = ids[max 0 (ids.Length - 513) ..]

                            PlainLlama.logLikelihoods plain kept
                            |> Array.map (fun said -> Array.sum said[said.Length - scored ..])
                    ]

                    for score, slack in
                        [ wide, (fun _ -> 1e-7); narrow, (fun value -> 1e-5 * max 1.0 (abs value)) ] do
                        Expect.equal (List.map fst score.Exits) [ 1..5 ] "every exit"

                        for index, (exit, fields) in List.indexed score.Exits do
                            for option, value in List.indexed (EvalFields.numbers "loglikelihood" fields) do
                                let expected = expected[option][index]

                                Expect.isLessThan
                                    (abs (value - expected))
                                    (slack expected)
                                    $"exit {exit}, option {option}: {value}, {expected}")

        for task, file, count in sets do
            sharedTest $"every question of {List.last file} is read" file (fun path ->
                let found = ChoiceFile.read (formsOf task) path |> Check.getOrRaise
                Expect.equal (found.Questions.Length, found.Unread) (count, []) "all of the file")

        testPropertyWithConfig
            (Tiny.settings 20)
            "one-token continuations share out a probability of 1, at each exit"
        <| fun (case: Tiny.Case) ->
            Tiny.withWeights Dtype.F64 case.Model (fun weights ->
                let exits = [ 1 .. weights.Config.Layers ]

                let each = [
                    for id in 0 .. weights.Config.Vocabulary - 1 ->
                        { Ids = Array.append case.Prompt [| id |]; Scored = 1; IsCut = false }
                ]

                for exit, values in MultipleChoice.likelihoods weights exits each do
                    Expect.floatClose Accuracy.high (values |> List.sumBy exp) 1.0 $"exit {exit}")

        testPropertyWithConfig
            (Tiny.settings 20)
            "answers over one cache are worth what each is alone, to the bit"
        <| fun (case: Tiny.Case) (lengths: byte list) ->
            Tiny.withWeights Dtype.F32 case.Model (fun weights ->
                let exits = [ 1 .. weights.Config.Layers ]

                let prompts =
                    1uy :: List.truncate 4 lengths
                    |> List.mapi (fun index length ->
                        let answer = Array.init (1 + int length % 5) (fun i -> (7 * index + 3 * i) % 24)

                        { Ids = Array.append case.Prompt answer; Scored = answer.Length; IsCut = false })

                let together = MultipleChoice.likelihoods weights exits prompts

                let apart =
                    prompts |> List.map (fun prompt -> MultipleChoice.likelihoods weights exits [ prompt ])

                for index, (exit, values) in List.indexed together do
                    Expect.equal values [ for one in apart -> (snd one[index]).Head ] $"exit {exit}")

        testProperty
            "what all prompts begin with, and none scores, is shared"
            (fun (ids: byte[]) (cuts: byte list) ->
                let ids = Array.append [| 0; 1 |] (Array.map int ids)

                let prompts =
                    0uy :: cuts
                    |> List.mapi (fun index cut ->
                        let scored = 1 + int cut % (ids.Length - 1)
                        let own = Array.copy ids
                        own[ids.Length - 1] <- 1000 + index
                        { Ids = own; Scored = scored; IsCut = false })

                let shared = ChoiceIds.shared prompts
                let most =
                    prompts |> List.map (fun prompt -> prompt.Ids.Length - prompt.Scored - 1) |> List.min
                Expect.equal shared most "all that may be")
    ]
