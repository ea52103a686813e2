module LayerSkip.Server.Tests.GuardTests

open System
open System.Net.Http
open System.Text.Json
open System.Threading
open Expecto
open LayerSkip
open LayerSkip.Server
open LayerSkip.Server.Tests.ServerSupport

let private send
    (client: HttpClient)
    (method: string)
    (path: string)
    (headers: (string * string) list)
    (body: string option)
    =
    let request = new HttpRequestMessage(HttpMethod method, path)
    body |> Option.iter (fun body -> request.Content <- jsonBody body)

    for name, value in headers do
        request.Headers.TryAddWithoutValidation(name, value) |> ignore

    wait (client.SendAsync request) |> read

let private body = """{"prompt": "The dog", "max_tokens": 2, "temperature": 0}"""

let private header (name: string) (answer: Answer) =
    match answer.Headers.TryGetValues name with
    | true, values -> Seq.tryHead values
    | _ -> None

[<Tests>]
let tests =
    testList "guard" [
        testCase "with a key, nothing but health and the page is served without it" (fun () ->
            withServer { options with ApiKey = Some "a secret" } (fun _ client ->
                let ask path key =
                    send client "GET" path [ for key in Option.toList key -> "Authorization", key ] None

                for key in
                    [
                        None
                        Some "a secret"
                        Some "Bearer"
                        Some "Bearer wrong"
                        Some "Bearer a secre"
                        Some "Basic a secret"
                    ] do
                    for path in [ "/v1/models"; "/metrics"; "/tokenizer_info"; "/nowhere" ] do
                        let answer = ask path key
                        Expect.equal (text "code" (refusal 401 answer)) "invalid_api_key" path
                        Expect.equal (string answer.Headers.WwwAuthenticate) "Bearer" "how to ask"

                    refusal
                        401
                        (send
                            client
                            "POST"
                            "/v1/completions"
                            [ for key in Option.toList key -> "Authorization", key ]
                            (Some body))
                    |> ignore

                for path in [ "/health"; "/" ] do
                    Expect.equal (ask path None).Status 200 path

                for key in [ "Bearer a secret"; "bearer a secret" ] do
                    good (ask "/v1/models" (Some key)) |> ignore
                    good (send client "POST" "/v1/completions" [ "Authorization", key ] (Some body))
                    |> ignore))

        testCase "a server of this machine answers to this machine's names only" (fun () ->
            for host in [ "localhost"; "127.0.0.1"; "localhost:8000"; "[::1]:80" ] do
                Expect.equal (send (client ()) "GET" "/health" [ "Host", host ] None).Status 200 host

            for host in [ "evil.example"; "localhost.evil.example"; "10.0.0.1:8000" ] do
                refusal 403 (send (client ()) "GET" "/health" [ "Host", host ] None) |> ignore)

        testCase "pages of no other origin may read, unless one is named" (fun () ->
            let asked = [ "Origin", "https://a.example"; "Access-Control-Request-Method", "POST" ]
            let allowed = header "Access-Control-Allow-Origin"
            Expect.isNone (allowed (send (client ()) "OPTIONS" "/v1/completions" asked None)) "a question"
            Expect.isNone (allowed (send (client ()) "GET" "/v1/models" asked None)) "an answer"

            withServer
                { options with CorsOrigins = [ "https://a.example" ]; ApiKey = Some "k" }
                (fun _ client ->
                    let question = send client "OPTIONS" "/v1/completions" asked None
                    Expect.equal (question.Status, allowed question) (204, Some "https://a.example") "may"
                    Expect.equal
                        (header "Access-Control-Allow-Headers" question)
                        (Some "authorization, content-type")
                        "with"
                    let other =
                        send
                            client
                            "OPTIONS"
                            "/v1/completions"
                            [ "Origin", "https://b.example"; "Access-Control-Request-Method", "POST" ]
                            None
                    Expect.isNone (allowed other) "another origin"
                    // A page that may ask may read why it is refused.
                    let refused = send client "GET" "/v1/models" asked None
                    Expect.equal (refused.Status, allowed refused) (401, Some "https://a.example") "refused"))

        testCase "more requests than may wait are told to come again" (fun () ->
            let engine = { EngineOptions.defaults with Slots = 1; Queue = 1 }

            withServer { options with Engine = engine } (fun server client ->
                use gone = new CancellationTokenSource()
                let long =
                    """{"prompt": "Once upon a time", "max_tokens": 490, "temperature": 0, "ignore_eos": true, "stream": true, "n": 60}"""
                let running = startStream client "/v1/completions" long gone.Token |> wait
                let waiting = client.PostAsync("/v1/completions", jsonBody long, gone.Token)
                eventually "one waits" (fun () -> server.Counts.Waiting = 1)
                let answer = postTo client "/v1/completions" body
                Expect.equal (text "code" (refusal 429 answer)) "server_busy" "busy"
                Expect.equal (header "Retry-After" answer) (Some "1") "when"
                gone.Cancel()
                running.Dispose()
                Expect.throws (fun () -> waiting.Wait()) "gone"
                eventually "they are gone" (fun () -> server.Counts.Running + server.Counts.Waiting = 0)
                good (postTo client "/v1/completions" body) |> ignore))

        testCase "a request that takes too long is ended" (fun () ->
            withServer { options with RequestTimeout = TimeSpan.FromMilliseconds 60.0 } (fun server client ->
                let long =
                    """{"prompt": "Once upon a time", "max_tokens": 490, "temperature": 0, "ignore_eos": true, "n": 60"""
                Expect.equal
                    (text "code" (refusal 503 (postTo client "/v1/completions" (long + "}"))))
                    "timeout"
                    "whole"
                let events = streamFrom client "/v1/completions" (long + ", \"stream\": true}") |> wait
                Expect.equal (text "error.code" (List.last events)) "timeout" "the stream says so"
                eventually "its place is free" (fun () -> server.Counts.Running = 0)))

        testCase "prompts and bodies have limits" (fun () ->
            let limits = { options with MaxPromptTokens = Some 4; MaxBodyBytes = 1000L }

            withServer limits (fun _ client ->
                let ask ids = postTo client "/v1/completions" $"""{{"prompt": {ids}, "max_tokens": 1}}"""
                good (ask "[1,2,3,4]") |> ignore
                Expect.equal
                    (text "code" (refusal 400 (ask "[1,2,3,4,5]")))
                    "context_length_exceeded"
                    "prompt"
                let error = refusal 413 (ask (quoted (String('x', 2000))))
                Expect.equal (text "code" error) "request_too_large" "body"))

        testCase "one text is always written, however little memory caches may take" (fun () ->
            withServer { options with Engine.KvBytes = Some 1L } (fun server client ->
                good (postTo client "/v1/completions" body) |> ignore
                Expect.equal server.Counts.PrefixTexts 0 "and nothing is kept"))

        testCase "only what says that it is JSON is read" (fun () ->
            for kind in [ "text/plain"; "application/x-www-form-urlencoded"; "multipart/form-data" ] do
                let content = new StringContent(body, Text.Encoding.UTF8, kind)
                refusal 415 (wait ((client ()).PostAsync("/v1/completions", content)) |> read) |> ignore)

        testCase "origins as browsers send them are taken, and the longest prompt that there is" (fun () ->
            let origins = [
                "https://a.example"
                "http://localhost:3000"
                "http://[::1]:8080"
                "http://10.0.0.1"
                "chrome-extension://abcdef"
                "*"
            ]

            withServer { options with CorsOrigins = origins; MaxPromptTokens = Some 511 } (fun _ client ->
                good (postTo client "/v1/completions" body) |> ignore))

        testCase "options out of range are told before anything listens" (fun () ->
            let faults options =
                match Server.start options (checkpoint.Force()) |> wait with
                | Ok server ->
                    waitUnit (server.StopAsync())
                    failtest "it started"
                | Error faults -> LayerSkipError.summary faults

            Expect.stringContains (faults { options with Host = "no address" }) "host" "host"
            Expect.stringContains (faults { options with Port = 70000 }) "port" "port"
            Expect.stringContains (faults { options with Engine.Slots = 0 }) "slots" "slots"
            Expect.stringContains
                (faults { options with Drafting.Drafting.ExitLayer = Some 99 })
                "exit layer"
                "drafting"

            for origin in
                [
                    "foo"
                    ""
                    "null"
                    "example.org"
                    "https://"
                    "https://a.example/"
                    "https://a.example/page"
                    "https://A.example"
                    "https://a.example:443"
                    "https://me@a.example"
                    "https://*.example"
                ] do
                let told = faults { options with CorsOrigins = [ "*"; origin ] }
                Expect.stringContains told "cors-origin" origin
                Expect.stringContains told "scheme://host" origin

            for most in [ 0; 512; 600 ] do
                let told = faults { options with MaxPromptTokens = Some most }
                Expect.stringContains told $"max-prompt-tokens is {most}" "prompt"
                Expect.stringContains told "1 to 511" "what may be"

            for name in [ ""; "  " ] do
                Expect.stringContains
                    (faults { options with ModelName = Some name })
                    "served-model-name"
                    "name"

            let port = Uri((fst (shared.Force())).Address).Port
            Expect.stringContains (faults { options with Port = port }) (string port) "a port in use")
    ]
