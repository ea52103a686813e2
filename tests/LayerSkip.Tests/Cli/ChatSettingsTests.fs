module LayerSkip.Tests.ChatSettingsTests

open System
open System.IO
open Expecto
open FsCheck
open LayerSkip.Cli
open LayerSkip.Tests.ChatTests
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport

/// What somebody says through a pipe to the project's model.
let private saying (folder: string) (options: string) (said: string) : Outcome =
    shell folder $"printf '{said}' | layerskip chat --model . --max-new-tokens 3 --threads 1 {options}"

/// What a terminal shows after a text, that knows a carriage return and nothing else: its line, and the cursor's column.
let private shownBy (written: string) : string * int =
    let columns = Array.create 200 ' '
    let mutable at = 0

    for letter in written do
        if letter = '\r' then
            at <- 0
        else
            columns[at] <- letter
            at <- at + 1

    String(columns).TrimEnd(), at

[<Tests>]
let tests =
    testSequenced
    <| testList "chat: settings" [
        testProperty "a dumb terminal gets no escapes, and shows the line with the cursor in its place"
        <| fun (words: NonEmptyString list) (place: byte) (longer: bool) ->
            let text =
                String.Join(' ', words |> List.map _.Get)
                |> String.filter (fun letter -> letter >= ' ' && letter <= '~')

            let line = { LineEditor.start [] with Text = text; Cursor = int place % (text.Length + 1) }
            let struct (window, cursor) = LineEditor.window (40 - 2 - 1) line
            let before = if longer then "\r> " + String('x', 37) else ""
            let written = LineEditor.drawn true 40 "> " 2 line
            let shown, column = shownBy (before + written)
            not (written.Contains '\u001b')
            && shown = ("> " + window).TrimEnd()
            && column = 2 + cursor

        testCase "all that is set is told, and what can be" (fun () ->
            withTemplate (fun folder ->
                let outcome =
                    saying
                        folder
                        "--min-p 0.1"
                        "/set stop .\n/set stop !\n/set min-p 0.2\n/set special\n/set logit-bias 5=-1\n/set seed 7\n/set\n/unset stop\n"

                Expect.equal outcome.Code 0 outcome.Error
                let lines = outcome.Error.Split('\n', StringSplitOptions.RemoveEmptyEntries)
                let settings = lines |> Array.filter _.StartsWith("temperature ")
                Expect.stringContains settings[0] "min-p 0.1, stop .," "at once"

                for told in [ "stop ."; "stop !"; "min-p 0.2"; "special"; "logit-bias 5=-1"; "seed 7" ] do
                    Expect.stringContains settings[6] $"{told}," told

                Expect.isFalse (settings[6].Contains "min-p 0.1") "what was said before"
                let takes = lines |> Array.find _.StartsWith("/set takes ")

                for name in [ "temperature"; "stop-ids"; "special"; "seed"; "regex"; "exit-layer" ] do
                    Expect.stringContains takes name "it can be set"

                Expect.isFalse (takes.Contains "past-texts") "it cannot"
                Expect.isFalse ((Array.last settings).Contains "stop ") "taken back"))

        testCase "what cannot be set is told with what can, in the chat's words" (fun () ->
            withTemplate (fun folder ->
                for said, words in
                    [
                        "/set foo 3", [ "foo cannot be set here"; "temperature, top-k" ]
                        "/set model x", [ "model cannot be set here" ]
                        "/set top-k x", [ "top-k is \"x\"" ]
                        "/save nowhere/x.json", [ "nowhere/x.json"; "name another file" ]
                    ] do
                    let outcome = saying folder "" $"{said}\n"
                    Expect.equal (outcome.Code, outcome.Out) (2, "") said

                    for word in words do
                        Expect.stringContains outcome.Error word said

                    Expect.isFalse (outcome.Error.Contains "--") outcome.Error))

        testCase "a message that has no room in any case is told of alone" (fun () ->
            withTemplate (fun folder ->
                let long = String.replicate 150 "a cat and a dog "
                let outcome = saying folder "--json" $"One.\nTwo.\n{long}\n"
                Expect.equal outcome.Code 2 outcome.Error
                Expect.stringContains outcome.Error "leaves no room" "why"
                Expect.isFalse (outcome.Error.Contains "oldest turn") outcome.Error))

        testCase "--system in place of a file's own is told" (fun () ->
            withTemplate (fun folder ->
                let said = saying folder "--system Short." "One.\n/save said.json\n"
                Expect.equal said.Code 0 said.Error

                for system, isTold in [ "Long.", true; "Short.", false ] do
                    let outcome = saying folder $"--load said.json --system {system}" "/system\n"
                    Expect.equal outcome.Code 0 outcome.Error
                    Expect.stringContains outcome.Error (system + "\n") "it counts"
                    Expect.equal (outcome.Error.Contains "takes the place") isTold outcome.Error))

        testCase "where there is nothing to talk with, a model that is one can be typed" (fun () ->
            withModel (fun folder ->
                refuses [ $"--model {DefaultModel.chatting}"; "generate" ] [ "chat"; "--model"; folder ])

            refuses [ $"--model {DefaultModel.chatting}" ] [ "generate"; "--chat"; "--prompt=a" ]
            refuses [ "org/name" ] [ "chat"; "--model"; "nosuch" ]
            Expect.stringContains
                (cli [ "chat"; "--help" ]).Out
                $"--model {DefaultModel.chatting}"
                "the manual"

            match DefaultModel.find "/" with
            | Error message ->
                for word in [ "--model"; "org/name"; "folder"; DefaultModel.chatting ] do
                    Expect.stringContains message word "outside a clone"
            | Ok path -> failtest path)

        testCase "a dumb terminal, or one that nobody names, gets no escapes" (fun () ->
            if not (File.Exists "/usr/bin/script") then
                skiptest "there is no `script` to make a terminal"

            withTemplate (fun folder ->
                for term in [ "export TERM=dumb"; "unset TERM" ] do
                    let outcome =
                        shell
                            folder
                            $"mkfifo keys; touch seen
                             script -qefc \"{term}; dotnet $PROGRAM chat --model . --max-new-tokens 6 --threads 1\" seen <keys >/dev/null & job=$!
                             exec 4>keys
                             after() {{ for i in $(seq 600); do grep -q \"$1\" seen && break; sleep 0.1; done; sleep 0.3; printf \"$2\" >&4; }}
                             after 'Ctrl-D leaves' 'A catt\\177 sat.\\r'
                             after 'of context' '\\004'
                             wait $job; code=$?; cat seen; rm keys seen; exit $code"

                    Expect.equal outcome.Code 0 outcome.Out
                    Expect.stringContains outcome.Out "A cat sat." "as edited"
                    Expect.isFalse (outcome.Out.Contains '\u001b') $"{term}: {outcome.Out}"))
    ]
