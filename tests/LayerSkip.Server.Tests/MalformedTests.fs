module LayerSkip.Server.Tests.MalformedTests

open System
open System.Net.Http
open System.Net.Http.Headers
open System.Text
open Expecto
open LayerSkip.Server.Tests.ServerSupport
open LayerSkip.Server.Tests.MalformedRequests

let private send (client: HttpClient) (request: Malformed) : Answer =
    let message = new HttpRequestMessage(HttpMethod request.Method, request.Path)

    if request.Method = "POST" || request.Body.Length > 0 then
        message.Content <- new ByteArrayContent(request.Body)
        message.Content.Headers.ContentType <- MediaTypeHeaderValue.Parse request.Type

    wait (client.SendAsync message) |> read

let private works (client: HttpClient) =
    let body = """{"prompt": "The dog", "max_tokens": 3, "temperature": 0}"""
    let json = good (postTo client "/v1/completions" body)
    Expect.equal
        (text "choices.0.text" json)
        (offline 3 "The dog").Text.Value
        "a good request right after succeeds"

let private completions = rawHead "/v1/completions"

/// On the wire: name, what is written, whether the client then closes its half, and whether an answer in JSON must come.
let private wires = [
    "a body shorter than it says",
    [ completions "Content-Length: 500" + """{"prompt": "x"}""", 0 ],
    true,
    false
    "no body at all", [ completions "Content-Length: 500", 0 ], true, false
    "a chunk that is no number",
    [ completions "Transfer-Encoding: chunked" + "zz\r\nhello\r\n0\r\n\r\n", 0 ],
    false,
    true
    "a chunk longer than it says",
    [ completions "Transfer-Encoding: chunked" + "3\r\nhello\r\n0\r\n\r\n", 0 ],
    false,
    true
    "chunks without an end", [ completions "Transfer-Encoding: chunked" + "5\r\nhello\r\n", 0 ], true, false
    "a chunk of a terabyte",
    [ completions "Transfer-Encoding: chunked" + "10000000000\r\nhello", 0 ],
    true,
    false
    "a length that is no number", [ completions "Content-Length: many", 0 ], false, false
    "two lengths", [ completions "Content-Length: 2\r\nContent-Length: 3" + "{}", 0 ], false, false
    "a negative length", [ completions "Content-Length: -1", 0 ], false, false
    "a space in a header's name", [ completions "Con tent: 1\r\nContent-Length: 0", 0 ], false, false
    "no HTTP at all", [ "hello\r\n\r\n", 0 ], false, false
    "another protocol", [ "\u0016\u0003\u0001\u0002\u0000\u0001\u0000", 0 ], true, false
    "a version that is not there", [ "GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 0 ], false, false
    "a zero in a path", [ "GET /%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 0 ], false, false
    "no host", [ "GET /health HTTP/1.1\r\n\r\n", 0 ], false, false
    "headers without an end", [ "GET / HTTP/1.1\r\n" + String.replicate 2000 "A: b\r\n", 0 ], true, false
    "a line of a megabyte", [ "GET /" + String('a', 1_000_000) + " HTTP/1.1\r\n", 0 ], true, false
]

[<Tests>]
let tests =
    testList "malformed requests" [
        testCase "each is a 4xx of OpenAI's form, and a good request right after succeeds" (fun () ->
            Expect.isGreaterThanOrEqual all.Length 200 "so many"

            withServer options (fun server client ->
                for place, request in List.indexed all do
                    let answer = send client request

                    if answer.Status < 400 || answer.Status > 499 then
                        failtest $"{request.Name}: {answer.Status}: {answer.Text}"

                    if not (answer.Text.StartsWith "{\"error\":") then
                        failtest $"{request.Name}: {answer.Status}: {answer.Text}"

                    refusal answer.Status answer |> ignore

                    if place % 20 = 0 then
                        works client

                works client
                Expect.equal (server.Counts.Running, server.Counts.Waiting) (0, 0) "nothing is left"))

        testCase "what is wrong on the wire ends its connection, and nothing else" (fun () ->
            withServer { options with ArrivalTimeout = TimeSpan.FromSeconds 1.0 } (fun server client ->
                for name, parts, isHalfClosed, hasAnswer in wires do
                    let answer = raw server.Address parts isHalfClosed

                    if answer <> "" then
                        // 505 is what HTTP has for a version that is not there.
                        Expect.isTrue
                            (answer.StartsWith "HTTP/1.1 4" || answer.StartsWith "HTTP/1.1 505")
                            $"{name}: {answer}"

                    if hasAnswer then
                        Expect.stringContains answer "\"error\":{\"message\":" name

                    works client))

        testCase "who sends slowly is told so, and holds nobody up" (fun () ->
            withServer { options with ArrivalTimeout = TimeSpan.FromSeconds 1.0 } (fun server client ->
                let drip (text: string) = [ for letter in text -> string letter, 100 ]
                // A body letter by letter, and a head that never ends.
                let body =
                    [ completions "Content-Length: 5000", 0 ] @ drip """{"prompt": "once upon a time", """
                let slow = System.Threading.Tasks.Task.Run(fun () -> raw server.Address body false)
                let heads =
                    System.Threading.Tasks.Task.Run(fun () ->
                        raw server.Address (drip "GET / HTTP/1.1\r\nHost: localhost\r\nA: bbbbbbbb") false)
                works client
                let answer = wait slow

                if answer <> "" then
                    Expect.stringStarts answer "HTTP/1.1 408" "in time"

                wait heads |> ignore
                works client))

        testCase "a body far beyond the limit is answered before all of it has come" (fun () ->
            withServer { options with MaxBodyBytes = 100_000L } (fun _ client ->
                let huge = "{\"prompt\": \"" + String('x', 3_000_000) + "\"}"
                Expect.equal
                    (text "code" (refusal 413 (postTo client "/v1/completions" huge)))
                    "request_too_large"
                    "told"
                works client))
    ]
