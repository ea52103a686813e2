module LayerSkip.Server.Tests.NodeTests

open System
open System.Diagnostics
open System.IO
open System.Text.Json
open Expecto
open LayerSkip.Server.Tests.ServerSupport
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.Support

let private folder = Path.Combine(root, "tests", "LayerSkip.Server.Tests", "node")

/// What a program writes, and its exit code; None where there is no such program.
let private run (program: string) (arguments: string list) : (int * string * string) option =
    let start =
        ProcessStartInfo(program, arguments, RedirectStandardOutput = true, RedirectStandardError = true)
    start.WorkingDirectory <- folder

    try
        use running = Process.Start start
        let error = running.StandardError.ReadToEndAsync()
        let out = running.StandardOutput.ReadToEndAsync()

        if not (running.WaitForExit(TimeSpan.FromMinutes 4.0)) then
            running.Kill true
            failtest $"{program} does not end"

        Some(running.ExitCode, wait out, wait error)
    with :? ComponentModel.Win32Exception ->
        None

/// The clients that package-lock.json names, put beside it once; why not, where that cannot be.
let private clients: Lazy<string option> =
    lazy
        (if Directory.Exists(Path.Combine(folder, "node_modules", "openai")) then
             None
         else
             match run "npm" [ "ci"; "--ignore-scripts"; "--no-audit"; "--no-fund" ] with
             | Some(0, _, _) -> None
             | Some(_, _, error) -> Some $"npm ci fails: {error}"
             | None -> Some "no npm")

/// What a script tells of a server, as JSON.
let private node (script: string) (arguments: string list) : JsonElement =
    clients.Force() |> Option.iter skiptest

    match run "node" (script :: arguments) with
    | Some(0, out, _) -> JsonDocument.Parse(out).RootElement
    | Some(_, _, error) -> failtest $"{script}: {error}"
    | None -> skiptest "no node"

let private texts path json = [ for each in (at path json).EnumerateArray() -> each.GetString() ]
let private numbers path json = [ for each in (at path json).EnumerateArray() -> each.GetInt32() ]

/// A folder for a browser's pictures while `body` runs; LAYERSKIP_PICTURES: where to leave them, for somebody to look at.
let private withPictures (body: string -> unit) : unit =
    if not (File.Exists "/usr/bin/chromium") then
        skiptest "no /usr/bin/chromium"

    withFolder (fun folder ->
        Environment.GetEnvironmentVariable "LAYERSKIP_PICTURES"
        |> Option.ofObj
        |> Option.defaultValue folder
        |> body)

[<Tests>]
let tests =
    testList "clients" [
        testCase "OpenAI's own client lists, completes, streams, breaks off, and reads errors" (fun () ->
            withServer { options with ApiKey = Some "secret" } (fun server _ ->
                let found = node "openai.mjs" [ server.Address; server.ModelName; "secret" ]
                let expected = (offline 40 "Once upon a time").Text.Value
                Expect.equal
                    (texts "models" found, text "model" found)
                    ([ "stories-10m" ], "stories-10m")
                    "models"
                Expect.equal (text "whole" found) expected "whole"
                Expect.equal (text "finish" found) "length" "finish"
                Expect.equal (number "usage.completion_tokens" found) 40 "usage"
                Expect.equal (text "streamed" found) expected "streamed"
                Expect.isGreaterThan (number "chunks" found) 2 "in chunks"
                Expect.equal (number "streamedUsage.completion_tokens" found) 40 "usage of the stream"
                Expect.equal
                    (text "badOption.type" found, text "badOption.param" found)
                    ("BadRequestError", "temperature")
                    "400"
                Expect.equal
                    (text "badModel.type" found, text "badModel.code" found)
                    ("NotFoundError", "model_not_found")
                    "404"
                Expect.equal (text "badKey.type" found) "AuthenticationError" "401"
                eventually "what was broken off frees its place" (fun () -> server.Counts.Running = 0)
                Expect.isGreaterThanOrEqual server.Counts.Cancelled 1L "it was cancelled"))

        testCase
            "a person types, watches coloured tokens come, moves sliders and stops, in a browser"
            (fun () ->
                withPictures (fun pictures ->
                    withServer options (fun server _ ->
                        let found = node "playground.mjs" [ server.Address; pictures ]
                        Expect.isEmpty (texts "faults" found) "no fault in the page"
                        Expect.equal (texts "hosts" found) [ server.Address ] "nothing from elsewhere"
                        Expect.stringContains (text "facts" found) "24 layers" "the model's facts"

                        let prompt = "The dog and the <b>cat</b>"
                        let expected = (offline 200 prompt).Text.Value
                        Expect.equal (text "given" found) prompt "the prompt as it was typed"
                        Expect.equal (number "markup" found) 0 "and no markup of it"
                        Expect.equal (text "text" found) expected "the text"
                        Expect.equal (text "again" found) expected "whatever drafts"

                        let counts = numbers "counts" found
                        Expect.equal (List.sort counts) counts "tokens come"
                        Expect.isGreaterThan (List.distinct counts).Length 1 "one after another"
                        Expect.containsAll
                            (texts "kinds" found)
                            [ "drafted"; "corrected"; "plain" ]
                            "coloured by origin"
                        Expect.stringContains
                            (text "title" found)
                            "drafted by the early layers"
                            "with a story"
                        Expect.isGreaterThanOrEqual
                            (List.sum (numbers "legend" found))
                            (List.last counts)
                            "counted in the legend"
                        Expect.all (texts "figures" found) (fun figure -> figure <> "–") "figures"
                        Expect.equal
                            (number "asked.exit_layer" found, number "asked.draft_length" found)
                            (5, 9)
                            "sliders count"
                        Expect.equal (text "said" found) "stopped" "stop"
                        Expect.isLessThan (number "stopped" found) 480 "on its way"
                        Expect.equal (number "overflow" found) 0 "a phone shows its whole width"

                        for name in [ "light"; "dark"; "phone" ] do
                            let picture = FileInfo(Path.Combine(pictures, name + ".png"))
                            Expect.isGreaterThan picture.Length 20_000L name)))

        testCase "a person sees where to write, types a key, and follows a conversation to its end" (fun () ->
            withPictures (fun pictures ->
                let locked = { options with ApiKey = Some "secret" }

                withServerOf (ChatTests.chatting.Force()) locked (fun server _ ->
                    let found = node "chat.mjs" [ server.Address; pictures; "secret" ]
                    let all path json = List.ofSeq ((at path json: JsonElement).EnumerateArray())
                    Expect.isEmpty (texts "faults" found) "no fault in the page"
                    Expect.hasLength (all "opened" found) 4 "windows"

                    for opened in all "opened" found do
                        let name, height = text "name" opened, number "height" opened
                        Expect.isLessThanOrEqual
                            (number "prompt" opened)
                            height
                            $"{name}: the prompt is in sight"
                        Expect.isLessThanOrEqual (number "write" opened) height $"{name}: Write is"
                        Expect.equal (text "focus" opened) "prompt" $"{name}: who types writes"

                    Expect.hasLength (all "talks" found) 2 "conversations"

                    for talked in all "talks" found do
                        let name = text "name" talked

                        for told in [ "locked"; "refused" ] do
                            Expect.stringContains (text told talked) "field “API key”" $"{name}: {told}"
                            Expect.isFalse ((text told talked).Contains "Bearer") "nothing of headers"

                        Expect.equal (text "kept" talked) "Tell me of a dog." "what had no answer stays"
                        Expect.equal (text "focus" talked) "key" "where the key goes"
                        Expect.equal (number "empty.requests" talked) 0 "an empty box sends nothing"
                        Expect.isEmpty (texts "empty.turns" talked) "and says nothing"

                        Expect.equal
                            (texts "turns" talked)
                            (List.concat (List.replicate 3 [ "user"; "assistant" ]))
                            "turns"

                        for place in all "places" talked do
                            Expect.isLessThanOrEqual (number "left" place) 1 $"{name}: the end is in sight"

                        Expect.isTrue
                            ((at "isLonger" (List.last (all "places" talked))).GetBoolean())
                            $"{name}: though the text is longer than its box")))
    ]
