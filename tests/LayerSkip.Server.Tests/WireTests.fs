module LayerSkip.Server.Tests.WireTests

open System
open Expecto
open LayerSkip.Server
open LayerSkip.Server.Tests.ServerSupport

/// What an answer on the wire is, as others read one.
let private answerOf (wire: string) : Answer =
    match wire.IndexOf "\r\n\r\n" with
    | -1 -> failtest $"no answer: {wire}"
    | at ->
        let lines = wire[.. at - 1].Split "\r\n"

        let header (name: string) =
            lines
            |> Array.tryPick (fun line ->
                if line.StartsWith(name + ": ", StringComparison.OrdinalIgnoreCase) then
                    Some line[name.Length + 2 ..]
                else
                    None)
            |> Option.defaultValue ""

        let body = wire[at + 4 ..]
        Expect.equal (header "Content-Length") (string body.Length) $"the length is the body's: {wire}"
        use none = new Net.Http.HttpResponseMessage()

        {
            Status = lines[0].Split ' ' |> Array.item 1 |> int
            Text = body
            Headers = none.Headers
            Type = header "Content-Type"
        }

let private get (more: string) = $"GET /health HTTP/1.1\r\n{more}\r\n\r\n"
let private chunked = rawHead "/v1/completions" "Transfer-Encoding: chunked"

/// Name, what is written, the status of the answer.
let private refused = [
    "no HTTP at all", "hello\r\n\r\n", 400
    "a method alone", "GET\r\n\r\n", 400
    "a method of signs", "G@T / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400
    "no path", "GET  HTTP/1.1\r\nHost: localhost\r\n\r\n", 400
    "another protocol", "\u0016\u0003\u0001\u0002\u0000\u0001\u0000\r\n\r\n", 400
    "a version that is not there", "GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 505
    "a zero in a path", "GET /%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400
    "a first line of a megabyte",
    "GET /" + String('a', 1_000_000) + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
    414
    "no host", get "Accept: */*", 400
    "two hosts", get "Host: localhost\r\nHost: localhost", 400
    "a host that is none", get "Host: local host", 400
    "a header of a megabyte", get ("Host: localhost\r\nA: " + String('b', 1_000_000)), 431
    "a thousand headers", get ("Host: localhost" + String.replicate 1000 "\r\nA: b"), 431
    "a header without a colon", get "Host: localhost\r\nnonsense", 400
    "a space in a header's name", rawHead "/v1/completions" "Con tent: 1\r\nContent-Length: 0", 400
    "a zero in a header", get "Host: localhost\r\nA: \u0000", 400
    "a length that is no number", rawHead "/v1/completions" "Content-Length: many", 400
    "two lengths", rawHead "/v1/completions" "Content-Length: 2\r\nContent-Length: 3" + "{}", 400
    "a negative length", rawHead "/v1/completions" "Content-Length: -1", 400
    "a length beyond all numbers", rawHead "/v1/completions" "Content-Length: 99999999999999999999", 400
    "a transfer that is not known", rawHead "/v1/completions" "Transfer-Encoding: gzip", 400
    "a chunk that is no number", chunked + "zz\r\nhello\r\n0\r\n\r\n", 400
    "a chunk longer than it says", chunked + "3\r\nhello\r\n0\r\n\r\n", 400
    "a body without a length in HTTP/1.0",
    "POST /v1/completions HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\r\n{}",
    400
    "a place of nowhere in HTTP/1.0", "GET /nowhere HTTP/1.0\r\nHost: localhost\r\n\r\n", 404
    "another machine's name", get "Host: evil.example\r\nConnection: close", 403
]

[<Tests>]
let tests =
    testList "the wire" [
        testCase "whatever is refused on it is told in OpenAI's form" (fun () ->
            withServer options (fun server client ->
                for name, sent, status in refused do
                    let answer = raw server.Address [ sent, 0 ] false |> answerOf
                    Expect.equal answer.Status status $"{name}: {answer.Text}"
                    Expect.equal answer.Type "application/json; charset=utf-8" name
                    refusal status answer |> ignore

                good (postTo client "/v1/completions" """{"prompt": "x", "max_tokens": 1}""") |> ignore))

        testCase "who is refused while it still writes gets the answer all the same" (fun () ->
            withServer options (fun server _ ->
                let parts = String('a', 20_000) |> List.replicate 8

                for opening, status in [ "GET /", 414; "GET / HTTP/1.1\r\nHost: localhost\r\nA: ", 431 ] do
                    let wire = raw server.Address ((opening, 0) :: [ for part in parts -> part, 60 ]) false
                    refusal status (answerOf wire) |> ignore))

        testCase "a head and a body that do not come are told so" (fun () ->
            withServer { options with ArrivalTimeout = TimeSpan.FromSeconds 1.0 } (fun server _ ->
                for sent in
                    [
                        "GET / HTTP/1.1\r\nHost: localhost\r\nA: b"
                        rawHead "/v1/completions" "Content-Length: 500" + "{"
                    ] do
                    let answer = raw server.Address [ sent, 0 ] false |> answerOf
                    Expect.equal (text "code" (refusal 408 answer)) "request_timeout" sent))

        testCase "what a client is told of its first line and its headers has a code" (fun () ->
            let codeOf name =
                let _, sent, status = refused |> List.find (fun (known, _, _) -> known = name)
                let wire = raw (fst (shared.Force())).Address [ sent, 0 ] false
                text "code" (refusal status (answerOf wire))

            Expect.equal (codeOf "a first line of a megabyte") "uri_too_long" "414"
            Expect.equal (codeOf "a header of a megabyte") "headers_too_large" "431"
            Expect.equal (codeOf "a version that is not there") "http_version_not_supported" "505")

        testCase "what is no refusal without a body passes as it is" (fun () ->
            for head in
                [
                    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
                    "HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\n"
                    "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
                    "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nDate"
                    ""
                ] do
                let bytes = Text.Encoding.ASCII.GetBytes head
                Expect.isNull (Rejections.tryAnswer (ReadOnlySpan bytes)) head)
    ]
