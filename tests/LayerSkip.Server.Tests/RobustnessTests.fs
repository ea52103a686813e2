module LayerSkip.Server.Tests.RobustnessTests

open System
open System.Net.Sockets
open System.Text
open System.Threading
open System.Threading.Tasks
open Expecto
open LayerSkip.Server
open LayerSkip.Server.Tests.ServerSupport

let private path = "/v1/completions"

/// Far more than is written while somebody looks.
let private endless (fields: string) =
    $"""{{"prompt": "Once upon a time", "max_tokens": 490, "temperature": 0, "ignore_eos": true, "n": 64, "stream": true{fields}}}"""

let private isIdle (server: RunningServer) =
    server.Inside = 0 && server.Counts.Running = 0 && server.Counts.Waiting = 0

let private works client =
    let json = good (postTo client path """{"prompt": "The dog", "max_tokens": 5, "temperature": 0}""")
    Expect.equal (text "choices.0.text" json) (offline 5 "The dog").Text.Value "another is served"

/// A client that asks for a stream and reads nothing of it, with as little room as its side may have.
let private deaf (server: RunningServer) (body: string) : TcpClient =
    let place = Uri server.Address
    let connection = new TcpClient(ReceiveBufferSize = 2048)
    connection.Connect(place.Host, place.Port)
    let request = rawHead path $"Content-Length: {body.Length}" + body
    connection.GetStream().Write(Encoding.ASCII.GetBytes request)
    connection

[<Tests>]
let tests =
    testList "robustness" [
        testCase "32 clients that go at random moments leave nothing behind" (fun () ->
            withServer options (fun server client ->
                let random = Random 5

                let visit (after: int) (isStreamed: bool) =
                    task {
                        use gone = new CancellationTokenSource(after)
                        let body =
                            if isStreamed then
                                endless ""
                            else
                                (endless "").Replace("true}", "false}")

                        try
                            use! response = startStream client path body gone.Token
                            let! _ = readEvents response gone.Token
                            ()
                        with :? OperationCanceledException ->
                            ()
                    }

                for _ in 1..3 do
                    let visits = [| for place in 0..31 -> visit (random.Next 400) (place % 4 <> 0) |]
                    waitUnit (Task.WhenAll visits)
                    eventually "they are gone" (fun () -> isIdle server)
                    works client))

        testCase "who does not read holds nobody up, and what waits for it is bounded" (fun () ->
            withServer options (fun server client ->
                use silent = deaf server (endless """, "logprobs": 20, "origins": true""")
                eventually "it writes" (fun () -> server.Counts.GeneratedTokens > 0L)
                works client

                // One text at a time: the next is not begun before all of this one is sent.
                let mutable before = -1L

                eventually "it waits for its reader" (fun () ->
                    let now = server.Counts.GeneratedTokens
                    let stands = now = before && server.Counts.Running = 0
                    before <- now
                    Thread.Sleep 100
                    stands)

                Expect.isLessThan before (64L * 490L / 4L) "far from all of it"
                works client
                silent.Close()
                eventually "its place is free" (fun () -> isIdle server)))

        testCase "who does not read at all is let go of" (fun () ->
            withServer { options with ArrivalTimeout = TimeSpan.FromSeconds 1.0 } (fun server _ ->
                use _silent = deaf server (endless """, "logprobs": 20, "origins": true""")
                eventually "it has begun" (fun () -> server.Inside = 1)
                eventually "its place is free" (fun () -> isIdle server)))

        testCase "a whole answer that nobody reads keeps no place" (fun () ->
            withServer options (fun server client ->
                let ids = String.Join(',', Array.init 500 (fun place -> 1 + place % 1000))
                let prompts = String.Join(',', Array.replicate 32 $"[{ids}]")
                let body = $"""{{"prompt": [{prompts}], "max_tokens": 0, "echo": true, "logprobs": 20}}"""
                use silent = deaf server body
                eventually "it is read" (fun () -> server.Counts.PromptTokens > 0L)
                eventually "its place is free" (fun () ->
                    isIdle server && server.Counts.PromptTokens = 16_000L)
                Expect.isTrue silent.Connected "nobody has gone"
                works client))

        testCase "hundreds of idle connections leave room, and end with the server" (fun () ->
            withServer options (fun server client ->
                let place = Uri server.Address

                let idle = [
                    for _ in 1..300 do
                        let connection = new TcpClient(place.Host, place.Port)
                        connection.GetStream().Write "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"B
                        connection
                ]

                works client
                waitUnit (server.StopAsync())

                for connection in idle do
                    connection.Dispose()))

        testCase "streams that run when the server is to end are each finished" (fun () ->
            withServer options (fun server client ->
                let prompts = [ "The dog"; "Once upon a time"; "Tom had"; "One day"; "Lily"; "The sun" ]

                let streams = [
                    for prompt in prompts ->
                        streamFrom
                            client
                            path
                            $"""{{"prompt": {quoted prompt}, "max_tokens": 200, "temperature": 0, "stream": true}}"""
                ]

                eventually "they run" (fun () -> server.Inside = prompts.Length)
                let ended = server.StopAsync()

                for prompt, stream in List.zip prompts streams do
                    Expect.equal (textOf (wait stream)) (offline 200 prompt).Text.Value prompt

                waitUnit ended))
    ]
