module LayerSkip.Server.Tests.StreamTests

open System.Text.Json
open System.Threading
open Expecto
open LayerSkip.Server.Tests.ServerSupport

let private path = "/v1/completions"

let private body (prompt: string) (tokens: int) (fields: string) =
    $"""{{"prompt": {quoted prompt}, "max_tokens": {tokens}, "temperature": 0, "stream": true{fields}}}"""

let private choices (events: JsonElement list) =
    events |> List.collect (fun event -> List.ofSeq ((at "choices" event).EnumerateArray()))

[<Tests>]
let tests =
    testList "streams" [
        testCase "the pieces of a stream are the whole text, and the last says why it ended" (fun () ->
            let expected = offline 40 "The dog"
            let events = stream path (body "The dog" 40 "")
            Expect.equal (textOf events) expected.Text.Value "text"
            Expect.isGreaterThan events.Length 1 "it came in pieces"
            let ends = choices events |> List.map (fun choice -> (at "finish_reason" choice).ValueKind)
            Expect.equal (List.last ends) JsonValueKind.String "a reason at the end"
            Expect.allEqual (List.truncate (ends.Length - 1) ends) JsonValueKind.Null "and none before"
            Expect.hasLength (events |> List.distinctBy (text "id")) 1 "one id"
            Expect.isFalse
                (events |> List.exists (fun event -> fst (event.TryGetProperty "usage")))
                "no usage unasked")

        testCase "with include_usage the last chunk has it, and no choice" (fun () ->
            let events =
                stream
                    path
                    (body "The dog" 20 """, "draft_length": 4, "stream_options": {"include_usage": true}""")
            let last, others = List.last events, List.truncate (events.Length - 1) events
            Expect.equal ((at "choices" last).GetArrayLength()) 0 "no choice"
            Expect.equal (number "usage.completion_tokens" last) 20 "tokens"
            Expect.isGreaterThan (number "metrics.speculative_decoding.num_spec_steps" last) 0 "statistics"

            for event in others do
                Expect.equal (at "usage" event).ValueKind JsonValueKind.Null "null before")

        testCase "origins tell every token and every round" (fun () ->
            let events =
                stream
                    path
                    (body
                        "Once upon a time"
                        60
                        """, "origins": true, "exit_layer": 2, "draft_length": 4, "stream_options": {"include_usage": true}""")

            let tokens =
                choices events
                |> List.collect (fun choice -> List.ofSeq ((at "tokens" choice).EnumerateArray()))

            let rounds =
                choices events
                |> List.collect (fun choice -> List.ofSeq ((at "rounds" choice).EnumerateArray()))
                |> List.map (fun round -> round[0].GetInt32(), round[1].GetInt32())

            let count origin =
                tokens |> List.filter (fun token -> text "origin" token = origin) |> List.length
            let stats = at "metrics.speculative_decoding" (List.last events)
            Expect.hasLength tokens 60 "every token"
            Expect.equal (count "prefill") 1 "the first"
            Expect.equal (List.sumBy snd rounds) (number "num_accepted_draft_tokens" stats) "accepted"
            Expect.equal (List.sumBy fst rounds) (number "num_draft_tokens" stats) "drafted"
            Expect.isGreaterThan (count "drafted") 0 "drafts are seen"
            Expect.isLessThanOrEqual (count "drafted") (List.sumBy snd rounds) "no more than were kept")

        testCase "several prompts stream one after another, each under its index" (fun () ->
            let events =
                stream
                    path
                    """{"prompt": ["The dog", "Once upon a time"], "max_tokens": 10, "temperature": 0, "stream": true, "echo": true}"""

            for place, prompt in List.indexed [ "The dog"; "Once upon a time" ] do
                let own =
                    choices events
                    |> List.filter (fun choice -> number "index" choice = place)
                    |> List.map (text "text")
                    |> System.String.Concat

                Expect.equal own (prompt + (offline 10 prompt).Text.Value) prompt)

        testCase "a request that is refused answers with its status, not with a stream" (fun () ->
            refusal 400 (post path (body "x" 0 "")) |> ignore
            refusal 400 (post path """{"prompt": [2000], "stream": true}""") |> ignore
            refusal 400 (post path """{"prompt": "x", "stream_options": {"include_usage": true}}""")
            |> ignore)

        testCase "a client that goes away frees its place within a round" (fun () ->
            withServer options (fun server client ->
                // Far more than is written before the client goes.
                let body = body "Once upon a time" 490 """, "ignore_eos": true, "n": 60"""

                for _ in 1..5 do
                    use gone = new CancellationTokenSource()
                    let response = startStream client path body gone.Token |> wait
                    eventually "it writes" (fun () -> server.Counts.Running = 1)
                    gone.Cancel()
                    response.Dispose()
                    eventually "its place is free" (fun () ->
                        server.Inside = 0 && server.Counts.Running = 0)

                let counts = server.Counts
                Expect.isGreaterThanOrEqual counts.Cancelled 1L "they were cancelled"
                Expect.isLessThan counts.GeneratedTokens (5L * 60L * 490L) "and not written to their ends"))

        testCase "a prompt that is being read is left off too" (fun () ->
            // One text of many prompts: it takes long, and the client waits for the first byte.
            withServer { options with MaxBodyBytes = 1_000_000_000L } (fun server client ->
                use gone = new CancellationTokenSource()
                let ids = System.String.Join(',', Array.init 500 (fun id -> 1 + id % 1000))
                let prompts = String.replicate 63 $"[{ids}]," + $"[{ids}]"
                let body = $"""{{"prompt": [{prompts}], "max_tokens": 1}}"""
                let sent = client.PostAsync(path, jsonBody body, gone.Token)
                eventually "it reads" (fun () -> server.Counts.Running = 1)
                gone.Cancel()
                Expect.throws (fun () -> sent.Wait()) "the client went"
                eventually "its place is free" (fun () -> server.Counts.Running + server.Counts.Waiting = 0)))
    ]
