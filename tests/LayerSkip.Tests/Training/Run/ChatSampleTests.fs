/// What a run makes of conversations: the ids that a chat would have seen, of which the assistant's answers are learned.
module LayerSkip.Tests.ChatSampleTests

open System
open Expecto
open FsCheck
open FsCheck.FSharp
open LayerSkip
open LayerSkip.Tests.ChatSupport
open LayerSkip.Tests.ChatSampleSupport

/// Words that forge turns, run over borders, or say little.
let private content =
    let pieces = [|
        "<|im_end|>"
        "<|im_start|>system\n"
        "</s>"
        "[/INST]"
        "<|eot_id|>"
        "yes"
        " yes"
        "Yes, that is it."
        "\n"
        "é😀"
        "{{ 1 }}"
        "<"
        "|>"
    |]

    Gen.choose (0, 6)
    |> Gen.bind (fun count -> Gen.listOfLength count (Gen.elements pieces))
    |> Gen.map (String.concat "")

let private conversation =
    gen {
        let! turns = Gen.choose (1, 3)
        let! contents = Gen.listOfLength (2 * turns) content

        return
            contents
            |> List.mapi (fun i said ->
                // Some templates refuse a question of nothing.
                if i % 2 = 0 then "user", "q" + said else "assistant", said)
    }

let private spelled =
    templates.Value
    @ [
        "chatml", chatml
        "without tokens",
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
        "with a space before the answer",
        "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
        "with a thought in the prompt alone",
        chatml.Replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    ]

let private controls (ids: int[]) = ids |> Array.filter (Tokenizer.isControl tokenizer.Value) |> Array.length

/// Each answer follows its own prompt, id for id, says what was said, and ends as a turn does; false where the template refuses.
let private isTold (model: Checkpoint) (messages: (string * string) list) : bool =
    let words = wordsOf true model
    let ends = Array.append words.Ends (Option.toArray words.Closing)
    let lesson = lessonOf messages
    // What the template itself puts into each turn.
    let plain = messages |> List.map (fun (role, _) -> role, "ok") |> lessonOf

    match samplesOf model lesson, samplesOf model plain with
    | Error [ LayerSkipError.ChatRefused _ ], _
    | Error [ LayerSkipError.BadFile _ ], _ -> false
    | Ok samples, Ok plain ->
        let found, plain = stretches samples, stretches plain
        Expect.equal found.Length lesson.Learned.Length "each answer"

        for (before, learned), (_, simple), number in List.zip3 found plain lesson.Learned do
            Expect.equal before (promptOf model lesson number) $"prompt {number}"
            Expect.contains ends (Array.last learned) "its end"
            Expect.equal (controls learned) (controls simple) "none is typed"
            let said, own = lesson.Messages[number].Content.Trim(), told simple

            if own = "ok" then
                Expect.equal (told learned) said $"answer {number}"
            else
                // As an empty thought.
                let dense = String.filter (Char.IsWhiteSpace >> not)
                Expect.stringEnds own "ok" "its words come last"
                Expect.equal (dense (told learned)) (dense (own[.. own.Length - 3] + said)) $"answer {number}"

        true
    | other -> failtest $"%A{other}"

let private properties =
    testList "properties" [
        for name, source in spelled do
            testCase
                $"{name}: an answer follows its own prompt, id for id, and ends with what ends a turn"
                (fun () ->
                    speaking source (fun model ->
                        let accepted = ref 0

                        let holds messages =
                            if isTold model messages then
                                accepted.Value <- accepted.Value + 1

                        Check.One(
                            Config.QuickThrowOnFailure.WithMaxTest(30).WithReplay(7UL, 9UL),
                            Prop.forAll (Arb.fromGen conversation) holds
                        )

                        // Of the published ones one speaks only where functions come first.
                        if accepted.Value = 0 && name <> "firefunction-v1" then
                            failtest "the template refuses plain conversations"))

        testCase "a conversation is one sample, in which later answers see earlier ones" (fun () ->
            let lesson =
                lessonOf [ "user", "a"; "assistant", "yes"; "user", "b"; "assistant", "no"; "user", "c" ]

            speaking chatml (fun model ->
                match samplesOf model lesson with
                | Ok [ entries ] ->
                    let whole =
                        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\nno<|im_end|>"

                    let expected = Tokenizer.encodeWith false true tokenizer.Value whole
                    Expect.equal
                        (Array.map idOf entries)
                        expected
                        "what follows the last answer is not read"
                | other -> failtest $"%A{other}"))

        testCase
            "where a template drops earlier thoughts, each answer that lost its own is a sample"
            (fun () ->
                let thought said = "<think>\nhm\n</think>\n\n" + said
                let messages = [
                    "user", "a"
                    "assistant", thought "yes"
                    "user", "b"
                    "assistant", thought "no"
                ]

                speaking (templateOf "qwen3-0.6b") (fun model ->
                    match samplesOf model (lessonOf messages) with
                    | Ok samples ->
                        Expect.equal samples.Length 2 "two samples"

                        for (_, learned), said in List.zip (stretches samples) [ "yes"; "no" ] do
                            Expect.equal (told learned) (thought said) "with the thought"

                        let second = Tokenizer.decode true tokenizer.Value (Array.map idOf samples[1])
                        Expect.equal (second.Split("hm").Length) 2 "the first thought is told no more"
                    | Error faults -> failtest $"{LayerSkipError.summary faults}"))

        testCase "an answer that is left out is read by later ones" (fun () ->
            let lesson = lessonOf [ "user", "a"; "assistant", "yes"; "user", "b"; "assistant", "no" ]

            speaking chatml (fun model ->
                match samplesOf model { lesson with Learned = [ 3 ] } with
                | Ok [ entries ] ->
                    Expect.equal (stretches [ entries ] |> List.map (snd >> told)) [ "no" ] "the last alone"
                    Expect.equal (fst (stretches [ entries ]).Head) (promptOf model lesson 3) "its prompt"
                | other -> failtest $"%A{other}"))

        testCase "calls of tools are learned as the template writes them" (fun () ->
            let call = { Id = None; Name = "look"; Arguments = """{"at": "x"}""" }
            let tool = { Name = "look"; Description = None; Parameters = """{"type": "object"}""" }

            let lesson: ChatLesson = {
                Place = "line 1"
                Messages = [
                    ChatMessage.user "Look!"
                    { ChatMessage.assistant "" with ToolCalls = [ call ] }
                    ChatMessage.ofRole "tool" "a cat"
                    ChatMessage.assistant "A cat."
                ]
                Learned = [ 1; 3 ]
                Tools = [ tool ]
            }

            speaking (templateOf "qwen2.5-7b-instruct") (fun model ->
                match samplesOf model lesson with
                | Ok [ entries ] ->
                    match stretches [ entries ] with
                    | [ first, asked; second, answer ] ->
                        Expect.equal first (promptOf model lesson 1) "with the tools"
                        Expect.equal second (promptOf model lesson 3) "and what was found"
                        Expect.equal (told answer) "A cat." "the answer"
                        let found, calls = Chat.toolCalls (told asked)
                        Expect.equal (found, calls.Length, calls.Head.Name) ("", 1, "look") "the call"
                    | other -> failtest $"%A{other}"
                | other -> failtest $"%A{other}"))
    ]

[<Tests>]
let tests = testList "conversations to learn from" [ properties ]
