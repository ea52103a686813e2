/// What a run makes of conversations: the ids that a chat would have seen, of which the assistant's answers are learned.
module LayerSkip.Tests.ChatSampleTests

open System
open System.IO
open System.Text.Json
open Expecto
open FsCheck
open FsCheck.FSharp
open LayerSkip
open LayerSkip.Tests.ChatSupport
open LayerSkip.Tests.FileSupport

/// A tokenizer with merges that knows every special token of the templates.
let private tokenizer =
    lazy
        (let specials =
            "<s>" :: "</s>" :: (templates.Value |> List.collect (snd >> tokensIn)) |> List.distinct

         let options = {
             BpeOptions.ofVocabulary (256 + specials.Length + 60) with
                 SpecialTokens = specials
                 MinFrequency = 1
         }

         let text = "user\nassistant\n\nsystem\n\nYes, that is it.\n\n Yes:  yes"

         withFolder (fun folder ->
             BpeTrainer.train options [ text ]
             |> Result.bind (BpeTrainer.write folder)
             |> Check.getOrRaise

             let path = Path.Combine(folder, "tokenizer_config.json")
             let config = File.ReadAllText path
             File.WriteAllText(path, config.Replace("\"eos_token\": \"<s>\"", "\"eos_token\": \"</s>\""))
             Tokenizer.tryLoad folder |> Check.getOrRaise |> Option.get))

let private config () = Tiny.config (Tokenizer.vocabularySize tokenizer.Value) 2 2 1 true

/// A model that speaks by a template, for `body`.
let private speaking (template: string) (body: Checkpoint -> 'T) : 'T =
    use weights = Weights.random 1L 0.5 Dtype.F64 Device.Cpu { config () with Context = 4096 }
    let model = Checkpoint.ofWeights "spoken" weights (Some tokenizer.Value)
    body { model with Chat = lazy (Ok(Some(parse template))); StopIds = [| 1 |] }

let private wordsOf (closes: bool) (model: Checkpoint) = {
    (ChatSamples.words closes model |> Check.getOrRaise) with
        Now = now
}

let private lessonOf (messages: (string * string) list) : ChatLesson = {
    Place = "line 1"
    Messages = [ for role, content in messages -> ChatMessage.ofRole role content ]
    Learned = [
        for number, (role, _) in List.indexed messages do
            if number > 0 && role = "assistant" then
                number
    ]
    Tools = []
}

let private samplesOf (model: Checkpoint) (lesson: ChatLesson) =
    ChatSamples.ofLesson (wordsOf true model) lesson

let private promptOf (model: Checkpoint) (lesson: ChatLesson) (number: int) : int[] =
    let request = { ChatRequest.ofMessages (List.truncate number lesson.Messages) with Now = now }
    Chat.prompt { request with Tools = lesson.Tools } model |> Check.getOrRaise

let private idOf (entry: int) = let struct (id, _) = TokenFile.decode entry in id

/// What is learned in samples, stretch by stretch, each with all ids before it.
let private stretches (samples: int[] list) : (int[] * int[]) list = [
    for entries in samples do
        for at in 0 .. entries.Length - 1 do
            if entries[at] >= 0 && (at = 0 || entries[at - 1] < 0) then
                entries[.. at - 1] |> Array.map idOf,
                entries[at..] |> Array.takeWhile (fun entry -> entry >= 0)
]

/// An answer as it is read: without the token that ends it, and the white space that templates trim.
let private told (ids: int[]) =
    (Tokenizer.decodeContinuing false tokenizer.Value ids[.. ids.Length - 2]).Trim()

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

let private chatml =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"

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

let private options = {
    TrainingOptions.standard (Recipe.tryPreset "plain" 2 |> Check.getOrRaise) with
        Layout = Layout.Each
        SequenceLength = 96
}

let private line (messages: (string * string) list) =
    JsonSerializer.Serialize {|
        messages = [ for role, content in messages -> {| role = role; content = content |} ]
    |}

let private dataOf files : TrainingData = {
    Train = files
    Validation = []
    ValidationShare = 0.0
    Bos = true
    Eos = true
    Special = true
}

/// What a run's folder holds of lines of a file, for `body`; or what is said of them.
let private encoded template options change (lines: string list) (body: string -> Checkpoint -> 'T) =
    withFolder (fun folder ->
        let path = Path.Combine(folder, "chats.jsonl")
        File.WriteAllLines(path, lines)

        speaking template (fun model ->
            match RunData.encode folder options model (change (dataOf [ path ])) with
            | Ok() -> Ok(body folder model)
            | Error faults -> Error(LayerSkipError.summary faults)))

let private refusedWith template options lines (words: string list) =
    match encoded template options id lines (fun _ _ -> ()) with
    | Ok() -> failtest "expected an error"
    | Error said ->
        for word in "chats.jsonl" :: words do
            Expect.stringContains said word "what is wrong"
        Expect.isFalse (said.Contains '\n') said

let private turns count =
    List.concat [ for i in 1..count -> [ "user", $"question {i}"; "assistant", $"yes {i}" ] ]

let private runs =
    testList "in runs" [
        testCase
            "the loss is that of each answer alone after its own prompt, whatever is beside it"
            (fun () ->
                let conversations = [
                    turns 3
                    turns 1
                    [ "user", "</s><|im_end|>"; "assistant", "<|im_end|> yes" ]
                ]

                encoded chatml options id (conversations |> List.map line) (fun folder model ->
                    use tokens =
                        TokenFile.openRead model.Config.Vocabulary (Path.Combine(folder, "train.tokens"))
                        |> Check.getOrRaise

                    let dataset = Dataset.create Layout.Each 96 None tokens |> Check.getOrRaise
                    use _scope = Scope.start ()
                    let rope =
                        Rope.table model.Config 96 TorchSharp.torch.ScalarType.Float64 TorchSharp.torch.CPU

                    let measure batch =
                        EarlyExitLoss.measure
                            LossOptions.standard
                            rope
                            model.Weights
                            [| 0.5; 0.5 |]
                            Decoder.plain
                            batch

                    let alone (lesson: ChatLesson) (number: int) =
                        let prompt = promptOf model lesson number
                        let said =
                            Tokenizer.encodeWith false false tokenizer.Value lesson.Messages[number].Content
                        let mark = Tokenizer.encodeWith false true tokenizer.Value "<|im_end|>"
                        let ids = Array.concat [ prompt; said; mark ]
                        let labels =
                            ids |> Array.mapi (fun i id -> if i < prompt.Length then Batch.ignored else id)
                        measure { Ids = [| ids |]; Labels = [| labels |]; Padding = 0 }

                    let expected =
                        conversations
                        |> List.map lessonOf
                        |> List.collect (fun lesson -> lesson.Learned |> List.map (alone lesson))
                        |> List.reduce LossSums.plus

                    let batch = Dataset.reader dataset 0L 3
                    let found = measure batch
                    Expect.equal found.Tokens expected.Tokens "positions"
                    Expect.isGreaterThan batch.Padding 0 "of several lengths"

                    for a, b in Array.zip found.CrossEntropy expected.CrossEntropy do
                        Expect.floatClose Accuracy.high a b "each exit's")
                |> Result.defaultWith failtest)

        testCase "what a conversation comes to is counted, cut ones too, and kept for who resumes" (fun () ->
            let count options =
                encoded chatml options id [ line (turns 1); line (turns 4) ] (fun folder _ ->
                    (ConversationCount.load (RunFolder.conversationsFile folder) |> Check.getOrRaise).Value)
                |> Result.defaultWith failtest

            let whole = count { options with SequenceLength = 4000 }
            Expect.equal (whole.Conversations, whole.Samples, whole.Cut) (2, 2, 0) "whole"
            Expect.equal whole.Learned whole.Wanted "all of it"
            let cut = count { options with SequenceLength = 64 }
            Expect.equal (cut.Conversations, cut.Cut, cut.Wanted) (2, 1, whole.Wanted) "cut"
            Expect.isLessThan cut.Learned whole.Learned "less")

        testCase "a conversation's samples are held out together, or learned" (fun () ->
            let thought said = "<think>\nhm\n</think>\n\n" + said

            let thinking i = [
                "user", $"a{i}"
                "assistant", thought "yes"
                "user", $"b{i}"
                "assistant", thought "no"
            ]

            for count, share in [ 2, 0.0001; 12, 0.4; 3, 0.999 ] do
                let change (data: TrainingData) = { data with ValidationShare = share }
                let lines = [ for i in 1..count -> line (thinking i) ]

                encoded (templateOf "qwen3-0.6b") options change lines (fun folder model ->
                    let texts name =
                        use tokens =
                            TokenFile.openRead model.Config.Vocabulary (Path.Combine(folder, name))
                            |> Check.getOrRaise

                        [
                            for text in 0 .. tokens.Starts.Length - 1 ->
                                tokens.Read(
                                    tokens.Starts[text],
                                    int (tokens.EndOf text - tokens.Starts[text])
                                )
                                |> Array.map idOf
                                |> Tokenizer.decode false tokenizer.Value
                        ]

                    let train, valid = texts "train.tokens", texts "valid.tokens"
                    Expect.equal (train.Length + valid.Length) (2 * count) "all of them"
                    Expect.isTrue (not train.IsEmpty && not valid.IsEmpty) "both"

                    let names (texts: string list) = [
                        for i in 1..count do
                            if texts |> List.exists _.Contains($"a{i}\n") then
                                i
                    ]

                    Expect.isEmpty (Set.intersect (set (names train)) (set (names valid))) "nowhere both"
                    let counted =
                        (ConversationCount.load (RunFolder.conversationsFile folder) |> Check.getOrRaise)
                            .Value
                    Expect.equal counted.Conversations (train.Length / 2) "those that are learned")
                |> Result.defaultWith failtest)

        testCase "one conversation cannot be parted" (fun () ->
            match
                encoded
                    chatml
                    options
                    (fun data -> { data with ValidationShare = 0.5 })
                    [ line (turns 2) ]
                    (fun _ _ -> ())
            with
            | Ok() -> failtest "expected an error"
            | Error said -> Expect.stringContains said "too little text to part some off" "what is wrong")

        testCase "bad input says the file, the line and what is wrong" (fun () ->
            let good = line (turns 1)
            refusedWith (templateOf "mixtral-8x7b-instruct") options [
                good
                line [ "system", "a"; "user", "b"; "assistant", "c" ]
            ] [ "line 2"; "chat template refuses" ]
            refusedWith "{{ messages[0].content | nonsense }}" options [ good ] [ "line 1"; "nonsense" ]

            match encoded chatml { options with Layout = Layout.Packed } id [ good ] (fun _ _ -> ()) with
            | Ok() -> failtest "expected an error"
            | Error said ->
                Expect.stringContains said "layout is packed, it must be each" "conversations stay apart"

            withFolder (fun folder ->
                let path = Path.Combine(folder, "chats.jsonl")
                File.WriteAllLines(path, [ good ])
                use weights = Weights.random 1L 0.5 Dtype.F32 Device.Cpu (config ())
                let model = Checkpoint.ofWeights folder weights (Some tokenizer.Value)

                RunData.encode folder options model (dataOf [ path ])
                |> messages
                |> expectFault [ path; "line 1"; "has no chat template" ]))
    ]

[<Tests>]
let tests = testList "conversations to learn from" [ properties; testSequenced runs ]
