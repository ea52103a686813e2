module LayerSkip.Tests.ChatTests

open System
open System.IO
open System.Text.Json
open Expecto
open FsCheck
open LayerSkip.Cli
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.Support

let private key (letter: char) = ConsoleKeyInfo(letter, ConsoleKey.None, false, false, false)
let private special (key: ConsoleKey) = ConsoleKeyInfo('\000', key, false, false, false)
let private control (key: ConsoleKey) = ConsoleKeyInfo('\000', key, false, false, true)

let private press (keys: ConsoleKeyInfo list) (line: EditedLine) : EditedLine =
    keys
    |> List.fold
        (fun line key ->
            match LineEditor.press key line with
            | Edit.Going line -> line
            | other -> failtest $"%A{other}")
        line

let private words (line: string) = CliSupport.typed line
let private typed (text: string) = text |> Seq.map key |> List.ofSeq
let private empty = LineEditor.start []

/// Keys that go on with a line, of which any sequence may come.
let private anyKey (number: int) =
    let keys = [
        ConsoleKey.LeftArrow
        ConsoleKey.RightArrow
        ConsoleKey.Home
        ConsoleKey.End
        ConsoleKey.UpArrow
        ConsoleKey.DownArrow
        ConsoleKey.Backspace
        ConsoleKey.Delete
    ]

    let controls = [
        ConsoleKey.A
        ConsoleKey.E
        ConsoleKey.K
        ConsoleKey.U
        ConsoleKey.W
        ConsoleKey.LeftArrow
    ]

    match abs (number % 40) with
    | place when place < 8 -> special keys[place]
    | place when place < 14 -> control controls[place - 8]
    | place when place < 18 -> key ' '
    | place when place < 20 -> key '界'
    | place -> key (char (int 'a' + place))

let private stories = Path.Combine(root, "models", "stories-10m")

/// The project's model, with a template of its own.
let withTemplate (body: string -> unit) =
    withFolder (fun folder ->
        for file in
            [
                "config.json"
                "tokenizer.json"
                "tokenizer_config.json"
                "model.safetensors"
            ] do
            File.CreateSymbolicLink(Path.Combine(folder, file), Path.Combine(stories, file)) |> ignore

        File.WriteAllText(
            Path.Combine(folder, "chat_template.jinja"),
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
        )

        body folder)

let private objects (outcome: Outcome) = [
    for line in outcome.Out.Split('\n', StringSplitOptions.RemoveEmptyEntries) ->
        JsonDocument.Parse(line).RootElement
]

let private text (name: string) (answer: JsonElement) = (answer.GetProperty name).GetString()
let private number (name: string) (answer: JsonElement) = (answer.GetProperty name).GetInt32()

[<Tests>]
let tests =
    testSequenced
    <| testList "chat" [
        testProperty "whatever keys come, the cursor is in the line, and what is shown fits"
        <| fun (numbers: int list) (PositiveInt columns) ->
            let columns = 2 + columns % 30
            let line = press (List.map anyKey numbers) (LineEditor.start [ "one"; "two 界" ])
            let struct (shown, cursor) = LineEditor.window columns line

            line.Cursor >= 0
            && line.Cursor <= line.Text.Length
            && Columns.count shown <= columns
            && cursor >= 0
            && cursor < columns

        testProperty "what is typed is what is entered"
        <| fun (words: NonEmptyString list) ->
            let text =
                String.Join(' ', words |> List.map _.Get)
                |> String.filter (fun letter -> not (Char.IsControl letter))

            match LineEditor.press (special ConsoleKey.Enter) (press (typed text) empty) with
            | Edit.Entered entered -> entered = text
            | _ -> false

        testCase "keys do what they do in shells" (fun () ->
            let line = press (typed "one two three") empty
            let after keys = (press keys line).Text
            Expect.equal (after [ control ConsoleKey.W ]) "one two " "a word"
            Expect.equal
                (after [ special ConsoleKey.Home; special ConsoleKey.Delete ])
                "ne two three"
                "delete"
            Expect.equal (after [ control ConsoleKey.A; control ConsoleKey.K ]) "" "all of it"
            Expect.equal
                (after [ control ConsoleKey.LeftArrow; control ConsoleKey.U ])
                "three"
                "to the start"
            Expect.equal (after [ special ConsoleKey.LeftArrow; key 'x' ]) "one two threxe" "in the middle"

            match
                LineEditor.press (control ConsoleKey.D) empty, LineEditor.press (control ConsoleKey.C) line
            with
            | Edit.Ended, Edit.Abandoned -> ()
            | other -> failtest $"%A{other}")

        testCase "the arrow goes back through what was said, and comes again to what was begun" (fun () ->
            let up, down = special ConsoleKey.UpArrow, special ConsoleKey.DownArrow
            let line = LineEditor.start [ "second"; "first" ] |> press (typed "third")
            Expect.equal (press [ up ] line).Text "second" "the latest"
            Expect.equal (press [ up; up; up ] line).Text "first" "no further"
            Expect.equal (press [ up; up; down; down; down ] line).Text "third" "what was begun")

        testCase "messages, commands and messages over lines" (fun () ->
            for message, expected in
                [
                    " /help ", ChatWord.Help
                    "/quit", ChatWord.Exit
                    "/system be brief", ChatWord.System(Some "be brief")
                    "/set temperature 0.7", ChatWord.Set(Some("temperature", Some "0.7"))
                    "/set --top-p=0.9", ChatWord.Set(Some("top-p", Some "0.9"))
                    "/set json-object", ChatWord.Set(Some("json-object", None))
                    "/set --json-schema {\"a\": 1}", ChatWord.Set(Some("json-schema", Some "{\"a\": 1}"))
                    "/unset --choices", ChatWord.Unset "choices"
                    "/save a b.json", ChatWord.Save "a b.json"
                    "//etc/passwd", ChatWord.Say "/etc/passwd"
                    "/two\nlines", ChatWord.Say "/two\nlines"
                    "  ", ChatWord.Nothing
                ] do
                Expect.equal (ChatWord.parse message) expected message

            for wrong in [ "/nonsense"; "/set temperature"; "/unset"; "/save"; "/undo it" ] do
                match ChatWord.parse wrong with
                | ChatWord.Wrong _ -> ()
                | other -> failtest $"{wrong}: %A{other}"

            match ChatWord.begin' "\"\"\"one" with
            | ChatLines.Open(lines, true) ->
                match ChatWord.continue' "two" lines true with
                | ChatLines.Open(lines, true) ->
                    Expect.equal
                        (ChatWord.continue' "\"\"\"" lines true)
                        (ChatLines.Whole "one\ntwo")
                        "quoted"
                | other -> failtest $"%A{other}"
            | other -> failtest $"%A{other}"

            match ChatWord.begin' "one\\" with
            | ChatLines.Open(lines, false) ->
                Expect.equal (ChatWord.continue' "two" lines false) (ChatLines.Whole "one\ntwo") "continued"
            | other -> failtest $"%A{other}")

        testCase "a model without a chat template is a line that says so" (fun () ->
            withModel (fun folder -> refuses [ "chat template"; "generate" ] [ "chat"; "--model"; folder ]))

        testCase "a bad option is a line before anything is asked" (fun () ->
            refuses [ "--temperature"; "0 (greedy) or more" ] (words "chat --temperature -1")
            refuses [ "nothing.json"; "not found" ] (words "chat --load nothing.json"))

        testCase "a line of a pipe is a turn, and each goes on from what was read" (fun () ->
            withTemplate (fun folder ->
                let outcome =
                    shell
                        folder
                        "printf 'Once there was a cat.\\n/set max-new-tokens 5\\nIt was red.\\n\\n/undo\\nIt was blue.' | layerskip chat --model . --max-new-tokens 12 --threads 1 --json"

                Expect.equal outcome.Code 0 outcome.Error

                match objects outcome with
                | [ first; second; third ] ->
                    Expect.equal (text "user" first) "Once there was a cat." "the first"
                    Expect.equal (tokenIds first).Length 12 "as long as it may be"
                    Expect.equal (tokenIds second).Length 5 "as /set has it"
                    Expect.equal (text "user" third, number "turn" third) ("It was blue.", 2) "in its place"
                    Expect.equal (number "reused_tokens" first) 0 "new"
                    let before = number "prompt_tokens" first
                    Expect.isGreaterThan (number "reused_tokens" second) before "the first turn's"
                    Expect.isGreaterThan (number "reused_tokens" third) before "again"
                | others -> failtest $"%A{others}"))

        testCase "an answer follows the grammar that is set, until it is taken back" (fun () ->
            withTemplate (fun folder ->
                let outcome =
                    shell
                        folder
                        "printf 'Go.\n/set choices yes,no\nIs it red?\n/unset choices\nAnd now?\n/set json-object\nTell.' | layerskip chat --model . --max-new-tokens 40 --threads 1 --regex '[A-Z]{2}[0-9]' --json"

                Expect.equal outcome.Code 0 outcome.Error

                match objects outcome |> List.map (text "assistant") with
                | [ pattern; choice; free; object ] ->
                    Expect.isMatch pattern "^[A-Z]{2}[0-9]$" "the option"
                    Expect.contains [ "yes"; "no" ] choice "in its place, the last one that was set"
                    Expect.isGreaterThan free.Length 20 "none"
                    Expect.stringStarts object "{" "an object"
                | others -> failtest $"%A{others}"

                Expect.stringContains outcome.Error "choices yes,no" "what is set is told"))

        testCase "generate writes an answer to a message under a grammar" (fun () ->
            withTemplate (fun folder ->
                let schema =
                    "{\"type\":\"object\",\"properties\":{\"red\":{\"type\":\"boolean\"}},\"required\":[\"red\"],\"additionalProperties\":false}"

                let made options =
                    generate
                        folder
                        ([ "--chat"; "--prompt"; "Is the ball red?"; "--json-schema"; schema ]
                         @ count 60
                         @ options)

                let own = made []
                use document = JsonDocument.Parse(text "text" own)
                let kind = (document.RootElement.GetProperty "red").ValueKind
                Expect.contains [ JsonValueKind.True; JsonValueKind.False ] kind "as the schema has it"
                Expect.equal (text "finish_reason" own) "stop" "it ends"

                Expect.equal
                    (tokenIds (made [ "--strategy"; "autoregressive" ]))
                    (tokenIds own)
                    "and is plain decoding's"))

        testCase
            "what no answer could follow is a line, before anything is asked or where it is set"
            (fun () ->
                withTemplate (fun folder ->
                    let chat options = [ "chat"; "--model"; folder ] @ options
                    refuses [ "JSON schema"; "not valid JSON" ] (chat [ "--json-schema"; "{" ])
                    refuses
                        [ "--json-object"; "--regex"; "exclude" ]
                        (chat [ "--json-object"; "--regex"; "a" ])
                    refuses [ "nowhere.json"; "not found" ] (chat [ "--json-schema"; "nowhere.json" ])

                    for said, words in
                        [
                            "/set regex (?=a)b", "look-around"
                            "/unset temperature", "temperature is not set"
                            "/set past-texts a.txt", "cannot be set here"
                        ] do
                        let outcome = shell folder $"printf '{said}\n' | layerskip chat --model ."
                        Expect.equal (outcome.Code, outcome.Out) (2, "") said
                        Expect.stringContains outcome.Error words said))

        testCase "an answer is looked up when it is written again, and texts of files are" (fun () ->
            withTemplate (fun folder ->
                let chat options said =
                    let outcome =
                        shell
                            folder
                            $"printf '{said}' | layerskip chat --model . --max-new-tokens 40 --threads 1 --policy static --drafter lookup --json {options}"

                    Expect.equal outcome.Code 0 outcome.Error
                    objects outcome

                let fromPast (answer: JsonElement) =
                    ((answer.GetProperty "stats").GetProperty "sources").EnumerateArray()
                    |> Seq.filter (fun source -> text "source" source = "past")
                    |> Seq.sumBy (number "accepted_draft_tokens")

                match chat "" "Once there was a cat.\n/regenerate\n" with
                | [ first; again ] ->
                    Expect.equal (tokenIds again) (tokenIds first) "the same answer"
                    Expect.equal (fromPast first) 0 "new"
                    Expect.isGreaterThan (fromPast again) 10 "known"

                    File.WriteAllText(Path.Combine(folder, "past.txt"), text "assistant" first)

                    match chat "--past-texts past.txt" "Once there was a cat." with
                    | [ other ] ->
                        Expect.equal (tokenIds other) (tokenIds first) "the same"
                        Expect.isGreaterThan (fromPast other) 10 "of the file"
                    | others -> failtest $"%A{others}"
                | others -> failtest $"%A{others}"))

        testCase
            "a conversation is saved and loaded; a full context says so, and tells no more of the oldest"
            (fun () ->
                withTemplate (fun folder ->
                    let outcome =
                        shell
                            folder
                            "printf 'One.\\n/save said.json\\n/save config.json\\n' | layerskip chat --model . --max-new-tokens 4 --system 'Be brief.'"

                    Expect.equal outcome.Code 2 "config.json is no conversation"
                    Expect.stringContains outcome.Error "is no conversation" "and stays"
                    let said =
                        JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "said.json"))).RootElement

                    let roles = [
                        for message in (said.GetProperty "messages").EnumerateArray() -> text "role" message
                    ]

                    Expect.equal roles [ "system"; "user"; "assistant" ] "messages"
                    let long = String.replicate 40 "a cat and a dog "

                    let outcome =
                        shell
                            folder
                            $"printf 'Two.\\n{long}\\n{long}\\n{long}\\n' | layerskip chat --model . --load said.json --max-new-tokens 8 --json"

                    Expect.equal outcome.Code 0 outcome.Error
                    let answers = objects outcome
                    Expect.equal (answers |> List.map (number "turn")) [ 2; 3; 4; 5 ] "turns"
                    Expect.stringContains outcome.Error "oldest turn" "what is told no more"
                    Expect.isLessThanOrEqual (number "prompt_tokens" (List.last answers)) 512 "it fits"))

        testCase "on a terminal lines are edited, tokens coloured, and Ctrl-D leaves" (fun () ->
            if not (File.Exists "/usr/bin/script") then
                skiptest "there is no `script` to make a terminal"

            withTemplate (fun folder ->
                // Keys come when they are waited for.
                let outcome =
                    shell
                        folder
                        "mkfifo keys; touch seen; export TERM=xterm
                         script -qefc \"dotnet $PROGRAM chat --model . --max-new-tokens 6 --exit-layer 2\" seen <keys >/dev/null & job=$!
                         exec 4>keys
                         after() { for i in $(seq 600); do grep -q \"$1\" seen && break; sleep 0.1; done; sleep 0.3; printf \"$2\" >&4; }
                         after 'Ctrl-D leaves' 'A catt\\177 sat.\\r'
                         after 'of context' '\\004'
                         wait $job; code=$?; cat seen; exit $code"

                Expect.equal outcome.Code 0 outcome.Out
                Expect.stringContains outcome.Out "/help lists commands" "what there is"
                Expect.stringContains outcome.Out "A cat sat." "as edited"
                Expect.stringContains outcome.Out "tokens of context" "what it took"))
    ]
