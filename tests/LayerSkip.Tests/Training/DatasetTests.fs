module LayerSkip.Tests.DatasetTests

open System
open System.IO
open System.Text
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.FileSupport

let private ok result = Check.getOrRaise result

let private fault result =
    match result with
    | Ok _ -> failtest "it was taken"
    | Error faults -> LayerSkipError.summary faults

/// A file of these texts of ids, gone after `body`.
let private withTokens (texts: int[][]) (body: TokenFile -> 'T) : 'T =
    withFolder (fun folder ->
        let path = Path.Combine(folder, "x.tokens")
        TokenFile.write path texts |> ok |> ignore
        use tokens = TokenFile.openRead 100000 path |> ok
        body tokens)

let private dataset layout rows seed tokens = Dataset.create layout rows seed tokens |> ok

/// Texts of ids that never repeat, some of them not learned.
let private textsOf (sizes: PositiveInt[]) =
    let sizes = sizes |> Array.map (fun (PositiveInt size) -> 1 + size % 40)
    let starts = Array.scan (+) 0 sizes
    Array.map2 (fun start size -> Array.init size (fun i -> start + i)) starts[.. sizes.Length - 1] sizes

let private writeLines (folder: string) (name: string) (lines: string list) =
    let path = Path.Combine(folder, name)
    File.WriteAllText(path, String.concat "\n" lines)
    path

let private files =
    testList "files" [
        testProperty "come back as they were written"
        <| fun (texts: int[][]) ->
            let written = texts |> Array.filter (fun text -> text.Length > 0)
            let inRange = written |> Array.map (Array.map (fun entry -> entry % 1000))

            inRange.Length = 0
            || withTokens inRange (fun tokens ->
                tokens.Read(0L, int tokens.Count) = Array.concat inRange
                && tokens.Starts =
                    (inRange
                     |> Array.scan (fun at text -> at + int64 text.Length) 0L
                     |> Array.truncate inRange.Length))

        testCase ".bin files are uint16 ids" (fun () ->
            withFolder (fun folder ->
                let path = Path.Combine(folder, "x.bin")
                File.WriteAllBytes(path, [| 1uy; 0uy; 255uy; 1uy; 7uy; 0uy |])
                use tokens = TokenFile.openRead 512 path |> ok
                Expect.equal (tokens.Read(0L, 3)) [| 1; 511; 7 |] "ids"
                Expect.stringContains (fault (TokenFile.openRead 511 path)) "id 511" "outside"))

        testCase "damaged ones are refused with a line" (fun () ->
            withFolder (fun folder ->
                let path = Path.Combine(folder, "x.tokens")
                TokenFile.write path [ [| 1; 2; 3 |]; [| 4 |] ] |> ok |> ignore
                let whole = File.ReadAllBytes path

                let refused (bytes: byte[]) (words: string) =
                    File.WriteAllBytes(path, bytes)
                    Expect.stringContains (fault (TokenFile.openRead 100 path)) words "what is wrong"

                refused whole[.. whole.Length - 2] "damaged"
                refused (Encoding.ASCII.GetBytes "hello") "no token file"
                refused (Array.append (Array.create 8 65uy) whole[8..]) "no token file"
                let swapped = Array.copy whole
                swapped[whole.Length - 8] <- 200uy
                refused swapped "out of order"
                refused [| 1uy |] "no token file"))
    ]

let private samples =
    testList "samples" [
        testProperty "an epoch of windows reads every id once, but for the border of its start"
        <| fun (sizes: NonEmptyArray<PositiveInt>) (PositiveInt rows) (seed: int64) ->
            let rows = 2 + rows % 9
            let texts = textsOf sizes.Get

            withTokens texts (fun tokens ->
                if tokens.Count <= int64 rows then
                    true
                else
                    let data = dataset Layout.Packed rows (Some seed) tokens
                    let count = Dataset.samples data
                    let batch = Dataset.reader data 0L count
                    // The last of a window is the first that another one reads.
                    let learned = batch.Ids |> Array.collect (fun ids -> ids[1..])
                    Array.distinct learned = learned && learned.Length = count * (rows - 1))

        testProperty "a sample is the same however the epoch is cut up"
        <| fun (sizes: NonEmptyArray<PositiveInt>) (PositiveInt first) (PositiveInt count) (seed: int64) ->
            withTokens (textsOf sizes.Get) (fun tokens ->
                if tokens.Count < 4L then
                    true
                else
                    let data = dataset Layout.Packed 4 (Some seed) tokens
                    let first, count = int64 (first % 50), 1 + count % 20
                    let together = (Dataset.reader data first count).Ids
                    let oneByOne =
                        Array.init count (fun i -> (Dataset.reader data (first + int64 i) 1).Ids[0])
                    together = oneByOne)

        testProperty "alone, each text is a sample once an epoch, cut and filled up"
        <| fun (sizes: NonEmptyArray<PositiveInt>) (seed: int64) ->
            let texts = textsOf sizes.Get

            withTokens texts (fun tokens ->
                let data = dataset Layout.Each 16 (Some seed) tokens
                let batch = Dataset.reader data 0L (Dataset.samples data)

                let found =
                    Array.map2
                        (fun (ids: int[]) labels ->
                            let size = labels |> Array.filter ((<>) Batch.ignored) |> Array.length
                            ids[.. size - 1])
                        batch.Ids
                        batch.Labels

                Array.sort found = Array.sort (texts |> Array.map (Array.truncate 16)))

        testCase "epochs differ in their order, and seeds too" (fun () ->
            withTokens [| [| 0..999 |] |] (fun tokens ->
                let ids seed first =
                    (Dataset.reader (dataset Layout.Packed 11 (Some seed) tokens) first 20).Ids

                let epoch = 99L
                Expect.notEqual (ids 1L 0L) (ids 1L epoch) "epochs"
                Expect.notEqual (ids 1L 0L) (ids 2L 0L) "seeds"
                Expect.equal (ids 1L 0L) (ids 1L 0L) "the same again"))

        testCase "too few ids for one sample are an error" (fun () ->
            withTokens [| [| 1; 2; 3 |] |] (fun tokens ->
                Expect.stringContains
                    (fault (Dataset.create Layout.Packed 5 None tokens))
                    "too few for one sample of 5"
                    "what is wrong"))

        testCase "the held-out share is what was asked for, within 4 sigma" (fun () ->
            let n, share = 20000, 0.1
            let held = Seq.init n (Dataset.isHeldOut 5L share) |> Seq.filter id |> Seq.length
            let sigma = sqrt (float n * share * (1.0 - share))
            Expect.isLessThan (abs (float held - share * float n)) (4.0 * sigma) $"{held} of {n}")
    ]

let private lessons =
    testList "texts" [
        testProperty "separators part them, wherever the reader's pieces end"
        <| fun (parts: NonEmptyArray<PositiveInt>) ->
            withFolder (fun folder ->
                // Longer than a piece of 65536 characters, in all.
                let texts =
                    parts.Get
                    |> Array.mapi (fun i (PositiveInt n) -> $"text {i} " + String('x', 1 + n * 997 % 70000))

                let path = writeLines folder "x.txt" [ String.Join(Texts.separator + "\n", texts) ]

                let read =
                    Texts.read path
                    |> Seq.map (fun lesson ->
                        match lesson with
                        | Lesson.Text text -> text
                        | Lesson.Pair _
                        | Lesson.Chat _ -> failtest "no pair")
                    |> Array.ofSeq

                read = texts)

        testCase "lines of JSON are texts and pairs; a bad one is named by its number" (fun () ->
            withFolder (fun folder ->
                let good =
                    writeLines folder "good.jsonl" [
                        """{"text": "a"}"""
                        ""
                        """{"prompt": "b", "response": "c", "id": 7}"""
                        """{"prompt": "d", "completion": "e"}"""
                    ]

                Expect.equal
                    (List.ofSeq (Texts.read good))
                    [ Lesson.Text "a"; Lesson.Pair("b", "c"); Lesson.Pair("d", "e") ]
                    "lessons"

                for line, words in
                    [
                        "{\"text\": 1}", "line 2 must be an object with"
                        "{\"prompt\": \"a\"}", "line 2 must be an object with"
                        "{\"text\": ", "line 2 is not valid JSON"
                        "[1]", "line 2 is not a JSON object"
                    ] do
                    let bad = writeLines folder "bad.jsonl" [ """{"text": "a"}"""; line ]

                    Expect.throwsC (fun () -> Seq.length (Texts.read bad) |> ignore) (fun e ->
                        Expect.stringContains e.Message words "what is wrong")))

        testCase "a prompt is read and not learned" (fun () ->
            let batch =
                withTokens [| [| ~~~5; ~~~6; 7; 8 |] |] (fun tokens ->
                    Dataset.reader (dataset Layout.Each 8 None tokens) 0L 1)

            Expect.equal batch.Ids [| [| 5; 6; 7; 8 |] |] "read"
            Expect.equal batch.Labels [| [| Batch.ignored; Batch.ignored; 7; 8 |] |] "learned")
    ]

[<Tests>]
let tests = testList "dataset" [ files; samples; lessons ]
