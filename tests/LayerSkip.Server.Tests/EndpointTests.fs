module LayerSkip.Server.Tests.EndpointTests

open System.Net.Http
open System.Text.Json
open System.Text.RegularExpressions
open Expecto
open LayerSkip
open LayerSkip.Server.Tests.ServerSupport

let private ids (path: string) json = [| for id in (at path json).EnumerateArray() -> id.GetInt32() |]

/// The samples of Prometheus' text: name with labels, and value.
let samples (text: string) : Map<string, float> =
    text.Split('\n', System.StringSplitOptions.RemoveEmptyEntries)
    |> Seq.filter (fun line -> not (line.StartsWith '#'))
    |> Seq.map (fun line ->
        let at = line.LastIndexOf ' '
        line[.. at - 1], float line[at + 1 ..])
    |> Map.ofSeq

let private labels = "{model_name=\"stories-10m\",engine=\"0\""

[<Tests>]
let tests =
    testList "endpoints" [
        testCase "the model is listed under its name, alone, and with what it recommends" (fun () ->
            let json = good (get "/v1/models")
            Expect.equal (text "object" json, text "data.0.id" json) ("list", "stories-10m") "list"
            Expect.equal (text "data.0.object" json) "model" "object"
            let model = good (get "/v1/models/stories-10m")
            Expect.equal (text "id" model, number "max_model_len" model) ("stories-10m", 512) "model"
            let checkpoint = checkpoint.Force()
            Expect.equal
                (number "layerskip.exit_layer" model, number "layerskip.draft_length" model)
                (Checkpoint.exitAndDraft checkpoint)
                "recommended"
            Expect.equal (text "code" (refusal 404 (get "/v1/models/other"))) "model_not_found" "another")

        testCase "texts become ids and come back" (fun () ->
            let tokenizer = (checkpoint.Force()).Tokenizer.Value
            let written = "Once upon a time, “Lily” saw 日本."
            let json =
                good (post "/tokenize" $"""{{"prompt": {quoted written}, "add_special_tokens": false}}""")
            let expected = Tokenizer.encodeWith false true tokenizer written
            Expect.equal (ids "tokens" json) expected "ids"
            Expect.equal (number "count" json, number "max_model_len" json) (expected.Length, 512) "count"
            let given = System.String.Join(',', expected)
            Expect.equal
                (text "prompt" (good (post "/detokenize" $"""{{"tokens": [{given}]}}""")))
                written
                "text"
            let withStart =
                good (post "/tokenize" $"""{{"prompt": {quoted written}, "return_token_strs": true}}""")
            Expect.equal
                (ids "tokens" withStart)
                (Tokenizer.encode tokenizer written)
                "as the model is prompted"
            Expect.equal ((at "token_strs" withStart).GetArrayLength()) (number "count" withStart) "pieces")

        testCase "faults of tokenize and detokenize have their names" (fun () ->
            Expect.equal (text "param" (refusal 400 (post "/tokenize" "{}"))) "prompt" "missing"
            Expect.equal (text "param" (refusal 400 (post "/tokenize" """{"prompt": 1}"""))) "prompt" "wrong"
            Expect.equal
                (text "param" (refusal 400 (post "/detokenize" """{"tokens": "x"}""")))
                "tokens"
                "wrong"
            Expect.equal
                (text "param" (refusal 400 (post "/detokenize" """{"tokens": [99999]}""")))
                "tokens"
                "unknown")

        testCase "the tokenizer tells its special tokens" (fun () ->
            let json = good (get "/tokenizer_info")
            let tokenizer = (checkpoint.Force()).Tokenizer.Value
            let eos = Tokenizer.tokenText tokenizer (Tokenizer.eos tokenizer).Value
            Expect.equal (text "eos_token" json) eos "eos"
            Expect.equal (number "vocab_size" json) 1024 "vocabulary")

        testCase "health answers, to HEAD too" (fun () ->
            Expect.equal (text "status" (good (get "/health"))) "ok" "well"
            let head = wait ((client ()).SendAsync(new HttpRequestMessage(HttpMethod.Head, "/health")))
            Expect.equal (int head.StatusCode) 200 "head")

        testCase "metrics count in vLLM's names what a request did" (fun () ->
            withServer options (fun _ client ->
                let json =
                    good (
                        postTo
                            client
                            "/v1/completions"
                            """{"prompt": "Once upon a time", "max_tokens": 30, "temperature": 0, "exit_layer": 2, "draft_length": 4}"""
                    )

                let answer = wait (client.GetAsync "/metrics") |> read
                Expect.stringStarts answer.Type "text/plain; version=0.0.4" "type"
                let samples = samples answer.Text
                let sample name more = samples[$"vllm:{name}{labels}{more}}}"]
                let stats = at "metrics.speculative_decoding" json
                let whole name = float (number name stats)
                Expect.equal (sample "generation_tokens_total" "") 30.0 "new tokens"
                Expect.equal
                    (sample "prompt_tokens_total" "")
                    (float (number "usage.prompt_tokens" json))
                    "prompt"
                Expect.equal (sample "request_success_total" ",finished_reason=\"length\"") 1.0 "finished"
                Expect.equal (sample "spec_decode_num_drafts_total" "") (whole "num_spec_steps") "drafts"
                Expect.equal
                    (sample "spec_decode_num_draft_tokens_total" "")
                    (whole "num_draft_tokens")
                    "drafted"
                Expect.equal
                    (sample "spec_decode_num_accepted_tokens_total" "")
                    (whole "num_accepted_draft_tokens")
                    "accepted"

                let perPosition =
                    samples
                    |> Map.filter (fun name _ -> name.Contains "accepted_tokens_per_pos_total")
                    |> Map.values
                    |> Seq.sum

                Expect.equal perPosition (whole "num_accepted_draft_tokens") "by place"

                for name in
                    [
                        "time_to_first_token_seconds"
                        "e2e_request_latency_seconds"
                        "request_queue_time_seconds"
                    ] do
                    Expect.equal (sample $"{name}_count" "") 1.0 name

                Expect.equal (sample "inter_token_latency_seconds_count" "") 29.0 "between 30 tokens"
                Expect.equal
                    (sample "num_requests_running" "", sample "num_requests_waiting" "")
                    (0.0, 0.0)
                    "idle"

                for line in answer.Text.Split '\n' do
                    if line <> "" && not (line.StartsWith '#') then
                        Expect.isTrue (Regex.IsMatch(line, "^[a-z0-9_:]+{[^{}]*} [-+0-9.eE]+$")) line))

        testCase "the page asks for nothing but this server" (fun () ->
            let answer = get "/"
            Expect.equal (answer.Status, answer.Type) (200, "text/html; charset=utf-8") "page"
            let policy = Seq.head (answer.Headers.GetValues "Content-Security-Policy")
            Expect.stringContains policy "default-src 'none'" "policy"
            Expect.isFalse (policy.Contains "unsafe") policy
            Expect.isFalse (Regex.IsMatch(answer.Text, "(src|href)=\"(?!data:)")) "no other resource"
            Expect.isFalse
                (Regex.IsMatch(answer.Text, "innerHTML|insertAdjacentHTML|document.write|eval\\("))
                "text only")

        testCase "what lm-evaluation-harness asks of a generation is answered" (fun () ->
            let json =
                good (
                    post
                        "/v1/completions"
                        """{"model": "stories-10m", "prompt": "Once upon a time", "max_tokens": 32, "temperature": 0, "stop": ["\n\n", "<|endoftext|>"], "seed": 1234}"""
                )
            Expect.stringStarts
                (offline 32 "Once upon a time").Text.Value
                (text "choices.0.text" json)
                "text")
    ]
