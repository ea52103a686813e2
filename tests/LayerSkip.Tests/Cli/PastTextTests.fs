/// Past texts in files, and what they are worth.
module LayerSkip.Tests.PastTextTests

open System
open System.IO
open System.Text.Json
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.Support

let private stories = Path.Combine(root, "models", "stories-10m")
let private tokenizer = lazy (Tokenizer.tryLoad stories |> Check.getOrRaise |> Option.get)

/// A model that reads texts, whatever its weights.
let private withReader (body: Checkpoint -> 'T) : 'T =
    use weights = Weights.random 1L 0.5 Dtype.F32 Device.Cpu (Tiny.config 8 2 4 2 true)
    body (Checkpoint.ofWeights "tiny" weights (Some tokenizer.Value))

let private load limit paths = withReader (fun checkpoint -> PastTextFiles.load limit checkpoint paths)

/// The texts that files hold, whose words come back with spaces between.
let private held (paths: string list) : string list =
    let past, _ = load PastTexts.DefaultLimit paths |> Check.getOrRaise
    past.Texts |> Array.map (Tokenizer.decodeContinuing true tokenizer.Value) |> List.ofArray

let private write (folder: string) (name: string) (text: string) : string =
    let path = Path.Combine(folder, name)
    Directory.CreateDirectory(Path.GetDirectoryName path) |> ignore
    File.WriteAllText(path, text)
    path

let private faultOf result = result |> Check.faults |> LayerSkipError.summary

/// A draft, and the same story edited: what an editor is asked for repeats most of it.
let private story =
    "Once upon a time, there was a little girl named Lily. She loved to play in the park with her red ball."

let private told = generate stories

let private accepted (made: JsonElement) =
    ((made.GetProperty "stats").GetProperty "num_accepted_draft_tokens").GetInt32()

let private sources (made: JsonElement) = [
    for source in ((made.GetProperty "stats").GetProperty "sources").EnumerateArray() ->
        (source.GetProperty "source").GetString(), source
]

let private ofSource name field made =
    sources made
    |> List.sumBy (fun (source, counts) ->
        if source = name then
            (counts.GetProperty(field: string)).GetInt32()
        else
            0)

[<Tests>]
let tests =
    testSequenced
    <| testList "past texts" [
        testProperty "every string of more than a word in a .jsonl file is a text, however deep it lies"
        <| fun (numbers: byte list) ->
            let texts = numbers |> List.map (fun number -> $"word {number} and another")

            let object (place: int) (text: string) =
                match place % 4 with
                | 0 -> JsonSerializer.Serialize(dict [ "text", text ])
                | 1 -> JsonSerializer.Serialize(dict [ "role", box "user"; "parts", box [| text |] ])
                | 2 -> JsonSerializer.Serialize [| [| text |] |]
                | _ -> JsonSerializer.Serialize(dict [ "messages", [| dict [ "content", text ] |] ])

            withFolder (fun folder ->
                let file = write folder "a.jsonl" (String.Join("\n", List.mapi object texts))

                if texts.IsEmpty then
                    (faultOf (load 100 [ file ])).Contains "holds no text"
                else
                    held [ file ] = texts)

        testCase
            "a folder's files at any depth are texts in their order, hidden ones and no texts aside"
            (fun () ->
                withFolder (fun folder ->
                    write folder "b.md" "the second text" |> ignore
                    write folder "a.txt" "the first text" |> ignore
                    write folder "in/it/c.py" "the third text" |> ignore
                    write folder ".git/d" "not a text" |> ignore
                    write folder "e.json" """{"messages": [{"role": "user", "content": "what was said"}]}"""
                    |> ignore
                    File.WriteAllBytes(Path.Combine(folder, "f.png"), [| 0x89uy; 0x50uy; 0uy; 1uy; 2uy |])

                    Expect.equal
                        (held [ folder ])
                        [ "the first text"; "the second text"; "what was said"; "the third text" ]
                        "texts"

                    let _, remarks = load 1000 [ folder ] |> Check.getOrRaise

                    match remarks with
                    | [ one ] -> Expect.stringContains one "1 of 5 files" one
                    | others -> failtest $"%A{others}"))

        testCase "where there are more tokens than may stay, the last ones do, and it is said" (fun () ->
            withFolder (fun folder ->
                let file = write folder "a.txt" (String.replicate 40 "a cat and a dog ")
                let past, remarks = load 30 [ file ] |> Check.getOrRaise
                Expect.isLessThanOrEqual past.Count 30 "at most"
                Expect.stringContains (String.concat "" remarks) $"the last {past.Count} are kept" "said"))

        testCase "what cannot be read is one line" (fun () ->
            withFolder (fun folder ->
                let named name text = faultOf (load 100 [ write folder name text ])
                Expect.stringContains (named "a.txt" " \n") "holds no text" "blank"
                Expect.stringContains
                    (named "b.jsonl" "{\"text\": \"a b\"}\n{")
                    "line 2 is not valid JSON"
                    "JSON"
                Expect.stringContains
                    (faultOf (load 100 [ Path.Combine(folder, "none") ]))
                    "not found"
                    "none"
                Directory.CreateDirectory(Path.Combine(folder, "empty")) |> ignore
                Expect.stringContains
                    (faultOf (load 100 [ Path.Combine(folder, "empty") ]))
                    "holds no text"
                    "a folder"))

        testCase "an edit of a past text is drafted from it: the same text, in fewer rounds" (fun () ->
            withFolder (fun folder ->
                let common = [ "--prompt"; story ] @ count 100 @ typed "--threads 1"
                let plain = told (common @ typed "--strategy autoregressive")
                let text = (plain.GetProperty "text").GetString()
                let file = write folder "draft.txt" (story + text.Replace("Lily", "Anna"))

                for way in
                    [
                        "--policy static --drafter lookup"
                        "--policy static --drafter cascade"
                        "--policy static"
                        "--policy auto"
                    ] do
                    let alone = told (common @ typed way)
                    let made = told (common @ typed $"{way} --past-texts {file}")
                    Expect.equal (tokenIds made) (tokenIds plain) $"{way}: the same text"
                    Expect.equal (ofSource "past" "draft_tokens" alone) 0 $"{way}: no past"
                    let kept = ofSource "past" "accepted_draft_tokens" made

                    // What auto drafts depends on time.
                    if way <> "--policy auto" then
                        Expect.isGreaterThan kept 10 $"{way}: from the past"

                    if way.EndsWith "lookup" then
                        Expect.isGreaterThan (accepted made) (2 * accepted alone + 10) $"{way}: accepted"

                    let tokens = (made.GetProperty "past_tokens").GetInt32()
                    Expect.isGreaterThan tokens 100 "how many there are"

                let person =
                    cli (
                        [ "generate"; "--model"; stories ]
                        @ common
                        @ typed $"--policy static --past-texts {file}"
                    )
                Expect.stringContains person.Error "past texts of" "before"
                Expect.isMatch person.Error "past( kept)? [0-9]+ of [0-9]+" "and after"))

        testCase "only what leaves after an exit has a mean exit layer" (fun () ->
            let made way = told ([ "--prompt"; story ] @ count 60 @ typed way)

            let kinds way = [
                for source, fields in sources (made way) ->
                    source, (fields.GetProperty "mean_exit_layer").ValueKind
            ]

            Expect.equal (kinds "--policy static --drafter lookup") [ "lookup", JsonValueKind.Null ] "lookup"
            Expect.equal (kinds "--drafter exit --exit-layer 3") [ "exit", JsonValueKind.Number ] "an exit")

        testCase "bench looks up in past texts too" (fun () ->
            withFolder (fun folder ->
                let text = told ([ "--prompt"; "Once upon a time" ] @ count 60)
                let file = write folder "a.txt" ("Once upon a time" + (text.GetProperty "text").GetString())

                let report =
                    json (
                        typed
                            $"bench --model {stories} --runs 1 --max-new-tokens 40 --policy static --drafter lookup --past-texts {file} --threads 1"
                    )

                let own = report.GetProperty "self_speculative"
                Expect.isGreaterThan (ofSource "past" "accepted_draft_tokens" own) 10 "drafts"
                Expect.isTrue ((report.GetProperty "same_text").GetBoolean()) "the same text"))

        testList "refused" [
            for options, words in
                [
                    "--past-texts nowhere.txt", [ "nowhere.txt"; "not found" ]
                    "--past-texts=", [ "--past-texts is empty" ]
                    "--strategy autoregressive --past-texts .",
                    [ "--past-texts"; "autoregressive"; "exclude" ]
                    "--strategy early-exit --past-texts .", [ "--past-texts"; "early-exit"; "exclude" ]
                    "--drafter exit --past-texts CHANGELOG.md", [ "--past-texts is given"; "drafter exit" ]
                    "--policy del --past-texts CHANGELOG.md", [ "--past-texts is given"; "policy del" ]
                    "--drafter layers --layers-kept 1-3 --past-texts CHANGELOG.md",
                    [ "--past-texts is given"; "drafter layers" ]
                ] do
                let here (word: string) = word.Replace("CHANGELOG.md", Path.Combine(root, "CHANGELOG.md"))

                testCase options (fun () ->
                    refuses
                        words
                        ([ "generate"; "--model"; stories; "--prompt"; "Once" ] @ typed (here options)))

            testCase "a model without a tokenizer" (fun () ->
                withModel (fun folder ->
                    refuses
                        [ "no tokenizer" ]
                        ([ "generate"; "--model"; folder ]
                         @ ids
                         @ [ "--past-texts"; Path.Combine(root, "CHANGELOG.md") ])))

            testCase "an output over a past text" (fun () ->
                withFolder (fun folder ->
                    let file = write folder "a.txt" "a text"

                    leavesAlone folder (fun () ->
                        refuses
                            [ "a.txt" ]
                            ([ "generate"; "--model"; stories; "--prompt"; "Once" ]
                             @ [ "--past-texts"; file; "--output"; file ]))))
        ]
    ]
