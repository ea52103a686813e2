/// Conversations in a run: what it learns of them, counts, and holds out.
module LayerSkip.Tests.ChatRunTests

open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.ChatSupport
open LayerSkip.Tests.ChatSampleSupport
open LayerSkip.Tests.FileSupport

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
let tests = testList "conversations to learn from" [ testSequenced runs ]
