/// What a run makes of the texts that it is given: which ids, which of them are learned or held out.
module LayerSkip.Tests.RunDataTests

open System
open System.IO
open System.Text
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.TokenizerSupport

let private text (words: string) : byte[] = Encoding.UTF8.GetBytes words

/// BOS and EOS are id 0 and id 1; `<|im_start|>` is id 2.
let private chat =
    lazy
        (let options = {
            BpeOptions.ofVocabulary 280 with
                SpecialTokens = [ "<s>"; "</s>"; "<|im_start|>" ]
                MinFrequency = 1
         }

         let trained =
             BpeTrainer.train options [ "user assistant hello there, once upon a time" ]
             |> Check.getOrRaise

         withFolder (fun folder ->
             BpeTrainer.write folder trained |> Check.getOrRaise
             let path = Path.Combine(folder, "tokenizer_config.json")
             let config = File.ReadAllText path
             File.WriteAllText(path, config.Replace("\"eos_token\": \"<s>\"", "\"eos_token\": \"</s>\""))
             let tokenizer = Tokenizer.tryLoad folder |> Check.getOrRaise |> Option.get
             if Tokenizer.eos tokenizer <> Some 1 then
                 failtest $"{config}"
             tokenizer))

let private options layout = {
    TrainingOptions.standard (Recipe.tryPreset "plain" 2 |> Check.getOrRaise) with
        Layout = layout
        SequenceLength = 4
}

let private plainly files : TrainingData = {
    Train = files
    Validation = []
    ValidationShare = 0.0
    Bos = true
    Eos = true
    Special = true
}

let private textsIn (path: string) : int list list =
    use tokens = TokenFile.openRead Int32.MaxValue path |> Check.getOrRaise

    [
        for number in 0 .. tokens.Starts.Length - 1 ->
            tokens.Read(tokens.Starts[number], int (tokens.EndOf number - tokens.Starts[number]))
            |> List.ofArray
    ]

/// The texts of ids that a run learns and validates on, of files given by name and content.
let private encoded layout (tokenizer: Tokenizer) change (files: (string * string) list) =
    withFolder (fun folder ->
        let paths = [
            for name, content in files do
                let path = Path.Combine(folder, name)
                File.WriteAllText(path, content)
                path
        ]

        use weights =
            Weights.random
                1L
                0.5
                Dtype.F32
                Device.Cpu
                (Tiny.config (Tokenizer.vocabularySize tokenizer) 1 1 1 true)

        let model: Checkpoint = { Checkpoint.ofWeights folder weights (Some tokenizer) with StopIds = [||] }

        RunData.encode folder (options layout) model (change (plainly paths))
        |> Result.map (fun () ->
            let valid = Path.Combine(folder, "valid.tokens")
            textsIn (Path.Combine(folder, "train.tokens")),
            (if File.Exists valid then textsIn valid else []))
        |> Result.mapError (fun faults ->
            let left = Directory.GetFiles(folder, "*.tokens*")
            LayerSkipError.summary faults + (if left.Length = 0 then "" else $" BUT LEFT %A{left}")))

let private trained layout tokenizer change files =
    match encoded layout tokenizer change files with
    | Ok(texts, _) -> texts
    | Error said -> failtest said

let private line (fields: (string * string) list) = serialize (dict fields) + "\n"
let private pair prompt response = line [ "prompt", prompt; "response", response ]
let private read = List.map (~~~)

let private ids =
    testList "ids" [
        for name, prompt in
            [
                "plain", "hello there"
                "chat", "<|im_start|>user\nhello</s>\n<|im_start|>assistant\n"
                "with its own beginning", "<s>hello"
            ] do
            testCase $"a prompt has the ids that generate reads: {name}" (fun () ->
                let tokenizer = chat.Value
                let found = trained Layout.Each tokenizer id [ "x.jsonl", pair prompt " hello</s>" ]
                // Where a prompt gives its BOS itself, generate says that it comes twice.
                let prompt =
                    if prompt.StartsWith "<s>" then
                        prompt.Substring 3
                    else
                        prompt
                let expected = Tokenizer.encode tokenizer prompt |> List.ofArray |> read
                Expect.equal (found.Head |> List.filter (fun entry -> entry < 0)) expected "read"
                Expect.equal (found.Head |> List.filter (fun entry -> entry >= 0) |> List.last) 1 "EOS"
                Expect.equal (found.Head |> List.filter ((=) 1) |> List.length) 1 "once")

        testCase "without special tokens, those in the texts are characters" (fun () ->
            let tokenizer = chat.Value
            let files = [
                "x.jsonl", pair "<|im_start|>user" "<s>hello</s>" + line [ "text", "<s>a</s>" ]
            ]
            let found = trained Layout.Each tokenizer (fun data -> { data with Special = false }) files
            let spell = Tokenizer.encodeWith false false tokenizer >> List.ofArray
            let expected = [
                read (0 :: spell "<|im_start|>user") @ spell "<s>hello</s>" @ [ 1 ]
                0 :: spell "<s>a</s>" @ [ 1 ]
            ]
            Expect.equal found expected "spelled")

        testCase "a text gets BOS and EOS where it lacks them, and nowhere twice" (fun () ->
            let tokenizer = chat.Value
            let texts = [ "hello"; "<s>hello"; "hello</s>"; "<s>hello</s>" ]
            let inner = Tokenizer.encodeWith false true tokenizer "hello" |> List.ofArray

            for name, content in
                [
                    "x.txt", String.concat Texts.separator texts
                    "x.jsonl", String.concat "" [ for text in texts -> line [ "text", text ] ]
                ] do
                let found = trained Layout.Packed tokenizer id [ name, content ]
                Expect.equal found (List.replicate 4 ([ 0 ] @ inner @ [ 1 ])) name

            let bare =
                trained Layout.Packed tokenizer (fun data -> { data with Bos = false; Eos = false }) [
                    "x.txt", "hello"
                ]
            Expect.equal bare [ inner ] "neither, where they are not wanted")

        testCase "BOS goes before a text where the tokenizer puts it before a prompt" (fun () ->
            let tokenizer = chat.Value.With { chat.Value.Parts with AddsBos = false }
            let found = trained Layout.Packed tokenizer id [ "x.txt", "hello" ]
            let prompt = Tokenizer.encode tokenizer "hello" |> List.ofArray
            Expect.equal found [ prompt @ [ 1 ] ] "as generate reads it")

        for name, tokenizer in families do
            for prompt, response in
                [
                    "hello", " hello"
                    "hello ", "w"
                    "hello", ""
                    "", "hello w"
                    "</s><|end|>", "hello"
                    "hello w</s><|end|>", " w"
                ] do
                testCase $"{name}: \"{prompt}\" and \"{response}\" are the ids of the whole text" (fun () ->
                    let options (data: TrainingData) = { data with Bos = false; Eos = false }
                    let found =
                        trained Layout.Each tokenizer options [
                            "x.jsonl", pair prompt response + pair "hello" "hello"
                        ]
                    let ids =
                        found.Head
                        |> List.map (fun entry -> let struct (id, _) = TokenFile.decode entry in id)
                    // Of a prompt that ends in a space, the response's first word has none.
                    let whole =
                        if prompt.EndsWith ' ' then
                            Array.append
                                (Tokenizer.encodeWith false true tokenizer prompt)
                                (Tokenizer.encodeContinuing true tokenizer response)
                        else
                            Tokenizer.encodeWith false true tokenizer (prompt + response)

                    Expect.equal ids (List.ofArray whole) "ids")

        testCase "the ids of a long text are those of the whole text" (fun () ->
            let whole = String.replicate 30_000 "hello w</s>hello \n é😀 "

            for name, tokenizer in families do
                let options (data: TrainingData) = { data with Bos = false; Eos = false }
                let expected = [ Tokenizer.encodeWith false true tokenizer (whole.Trim()) |> List.ofArray ]
                Expect.equal (trained Layout.Packed tokenizer options [ "x.txt", whole ]) expected name
                let json =
                    trained Layout.Packed tokenizer options [ "x.jsonl", line [ "text", whole.Trim() ] ]
                Expect.equal json expected $"{name}, a line")
    ]

let private share (share: float) (data: TrainingData) = { data with ValidationShare = share }

let private holding =
    testList "held out" [
        testCase "of one text, the end" (fun () ->
            let tokenizer = chat.Value
            let whole = String.replicate 50 "hello there "
            let all = (trained Layout.Packed tokenizer id [ "x.txt", whole ]).Head

            for file in [ "x.txt", whole; "x.jsonl", line [ "text", whole.Trim() ] ] do
                match encoded Layout.Packed tokenizer (share 0.1) [ file ] with
                | Ok([ learned ], [ heldOut ]) ->
                    Expect.equal (learned @ heldOut) all "nothing is lost"
                    Expect.equal heldOut.Length (int (ceil (0.1 * float all.Length))) "a tenth"
                | other -> failtest $"%A{other}")

        testProperty "whatever the texts, each id is learned or held out, once"
        <| fun (sizes: NonEmptyArray<PositiveInt>) (seed: int) ->
            let random = Random seed
            let sizes = sizes.Get |> Array.truncate 12 |> Array.map (fun (PositiveInt size) -> 5 + size % 30)
            let content =
                sizes
                |> Array.map (fun size -> String.replicate size "a ")
                |> String.concat Texts.separator
            let whole = trained Layout.Each chat.Value id [ "x.txt", content ]
            let wanted = [| 0.01; 0.3; 0.9 |][random.Next 3]

            match encoded Layout.Each chat.Value (share wanted) [ "x.txt", content ] with
            | Ok(learned, heldOut) ->
                not learned.IsEmpty
                && not heldOut.IsEmpty
                && List.sort (List.concat learned @ List.concat heldOut) = List.sort (List.concat whole)
            | Error said -> said.Contains "too little text to part some off" && whole.Length = 1

        testCase "of few pairs, the last; one alone cannot be parted" (fun () ->
            let few = pair "hello" " there" + pair "hello" " hello"
            let all = trained Layout.Each chat.Value id [ "x.jsonl", few ]

            match encoded Layout.Each chat.Value (share 0.0001) [ "x.jsonl", few ] with
            | Ok parts -> Expect.equal parts ([ all[0] ], [ all[1] ]) "a pair stays whole"
            | Error said -> failtest said

            match
                encoded Layout.Each chat.Value (share 0.5) [
                    "x.jsonl", pair "hello" (String.replicate 99 " there")
                ]
            with
            | Ok parts -> failtest $"%A{parts}"
            | Error said -> Expect.stringContains said "too little text to part some off" "what is wrong")

        testCase "a file of ids without texts holds out its end" (fun () ->
            withFolder (fun folder ->
                let path = Path.Combine(folder, "x.bin")
                File.WriteAllBytes(
                    path,
                    [|
                        for id in 0..99 do
                            byte id
                            0uy
                    |]
                )
                use weights = Weights.random 1L 0.5 Dtype.F32 Device.Cpu (Tiny.config 100 1 1 1 true)
                let model: Checkpoint = { Checkpoint.ofWeights folder weights None with StopIds = [||] }
                RunData.encode folder (options Layout.Packed) model (share 0.1 (plainly [ path ]))
                |> Check.getOrRaise
                Expect.equal (textsIn (Path.Combine(folder, "train.tokens"))) [ [ 0..89 ] ] "learned"
                Expect.equal (textsIn (Path.Combine(folder, "valid.tokens"))) [ [ 90..99 ] ] "held out"))

        for name, files, words in
            [
                "no text", [ "x.txt", Texts.separator + " \n" ], "has no text; there is nothing to learn from"
                "no pair", [ "x.jsonl", pair "" "" ], "has no text; there is nothing to learn from"
                "a fault in the second file",
                [ "x.txt", "hello"; "y.jsonl", "{" ],
                "y.jsonl: line 1 is not valid JSON"
            ] do
            testCase $"{name}: a line, and no file" (fun () ->
                for share in [ 0.0; 0.1 ] do
                    match
                        encoded
                            Layout.Packed
                            chat.Value
                            (fun data -> { data with ValidationShare = share })
                            files
                    with
                    | Ok parts -> failtest $"%A{parts}"
                    | Error said ->
                        Expect.stringContains said words "what is wrong"
                        Expect.isFalse (said.Contains "BUT LEFT") said)
    ]

/// The numbers of a token file's head and its bytes after that.
let private tokenBytes (count: int64) (texts: int64) (entries: int list) (starts: int64 list) =
    Array.concat [
        Encoding.ASCII.GetBytes "LSTOKEN1"
        BitConverter.GetBytes count
        BitConverter.GetBytes texts
        yield! entries |> List.map (fun (entry: int) -> BitConverter.GetBytes entry)
        yield! starts |> List.map (fun (start: int64) -> BitConverter.GetBytes start)
    ]

let private tokenFiles =
    testList "files of ids" [
        for name, file, bytes, words in
            [
                "no ids", "x.tokens", tokenBytes 0L 0L [] [], "holds no ids"
                "a count that wraps to none", "x.tokens", tokenBytes (1L <<< 62) 1L [] [ 0L ], "damaged"
                "a count that wraps to the length",
                "x.tokens",
                tokenBytes ((1L <<< 62) + 3L) 1L [ 1; 2; 3 ] [ 0L ],
                "damaged"
                "texts that wrap to the length",
                "x.tokens",
                tokenBytes 3L ((1L <<< 61) + 1L) [ 1; 2; 3 ] [ 0L ],
                "damaged"
                "a negative count", "x.tokens", tokenBytes -1L 1L [] [ 0L ], "damaged"
                "more texts than ids", "x.tokens", tokenBytes 1L 2L [ 1 ] [ 0L; 0L ], "damaged"
                "a negative start", "x.tokens", tokenBytes 3L 2L [ 1; 2; 3 ] [ -1L; 1L ], "out of order"
                "starts out of order",
                "x.tokens",
                tokenBytes 4L 3L [ 1; 2; 3; 4 ] [ 0L; 3L; 1L ],
                "out of order"
                "a start twice", "x.tokens", tokenBytes 3L 2L [ 1; 2; 3 ] [ 0L; 0L ], "out of order"
                "a start beyond the end",
                "x.tokens",
                tokenBytes 3L 2L [ 1; 2; 3 ] [ 0L; 1000000000000L ],
                "out of order"
                "an id beyond the vocabulary",
                "x.tokens",
                tokenBytes 2L 1L [ 1; Int32.MaxValue ] [ 0L ],
                "id 2147483647"
                "a read id beyond the vocabulary", "x.tokens", tokenBytes 2L 1L [ ~~~512; 1 ] [ 0L ], "id 512"
                "the least entry", "x.tokens", tokenBytes 2L 1L [ Int32.MinValue; 1 ] [ 0L ], "id 2147483647"
                "another magic", "x.tokens", text "XSTOKEN1................", "no token file of ours"
                "a cut head", "x.tokens", text "LSTOKEN1", "no token file of ours"
                "an odd byte", "x.bin", [| 1uy; 0uy; 2uy |], "odd number of bytes"
                "a wide id", "x.bin", [| 0uy; 2uy |], "id 512"
                "nothing", "x.bin", [||], "is empty"
                "nothing learned",
                "x.tokens",
                tokenBytes 2L 1L [ ~~~1; ~~~2 ] [ 0L ],
                "has nothing to learn: all of it is prompts"
            ] do
            testCase $"not {name}: the file given is named" (fun () ->
                withFolder (fun folder ->
                    let path = Path.Combine(folder, file)
                    File.WriteAllBytes(path, bytes)
                    use weights = Weights.random 1L 0.5 Dtype.F32 Device.Cpu (Tiny.config 512 1 1 1 true)
                    let model: Checkpoint = { Checkpoint.ofWeights folder weights None with StopIds = [||] }

                    RunData.encode folder (options Layout.Packed) model (plainly [ path ])
                    |> messages
                    |> expectFault [ path; words ]))
    ]

[<Tests>]
let tests = testList "run data" [ ids; testSequenced (testList "encoding" [ holding; tokenFiles ]) ]
