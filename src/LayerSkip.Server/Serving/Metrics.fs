namespace LayerSkip.Server

open LayerSkip

/// How long requests took; any thread may count. With what the engine counts, this is what /metrics tells, in vLLM's names.
[<Sealed>]
type internal Metrics(modelName: string) =
    // 1, 2.5 and 5 of each decade.
    let decades first last = [|
        for power in first..last do
            for step in [ 1.0; 2.5; 5.0 ] -> System.Math.Round(step * 10.0 ** float power, -min power 0 + 1)
    |]

    let histogram first last = Histogram(decades first last)
    let firstToken, betweenTokens = histogram -3 2, histogram -4 0
    let whole, queued = histogram -3 2, histogram -3 2

    /// The first token came, so many seconds after the request.
    member _.FirstToken(seconds: float) : unit = firstToken.Add(seconds, 1)

    /// Tokens came together, so many seconds after those before them.
    member _.Tokens(count: int, seconds: float) : unit =
        if count > 0 then
            betweenTokens.Add(seconds / float count, count)

    /// A text came to its end, so many seconds after the request; of those it waited so many.
    member _.Finished(seconds: float, waited: float) : unit =
        whole.Add(seconds, 1)
        queued.Add(waited, 1)

    /// Prometheus' text.
    member _.Text(counts: EngineCounts) : string =
        let text = PrometheusText [ "model_name", modelName; "engine", "0" ]
        text.Gauge("vllm:num_requests_running", "Texts that are being written.", float counts.Running)
        text.Gauge("vllm:num_requests_waiting", "Requests that wait for a place.", float counts.Waiting)
        text.Gauge(
            "vllm:kv_cache_usage_perc",
            "Share of the memory for caches in use, 0 to 1.",
            counts.KvUsage
        )
        text.Counter("vllm:prompt_tokens_total", "Tokens of prompts.", counts.PromptTokens)
        text.Counter("vllm:generation_tokens_total", "New tokens.", counts.GeneratedTokens)
        text.Counter(
            "vllm:prefix_cache_queries_total",
            "Tokens looked for in kept caches.",
            counts.PromptTokens
        )
        text.Counter("vllm:prefix_cache_hits_total", "Tokens found in kept caches.", counts.ReusedTokens)

        text.Counters(
            "vllm:request_success_total",
            "Texts by how they ended.",
            [
                [ "finished_reason", "stop" ], counts.Stopped
                [ "finished_reason", "length" ], counts.Exhausted
                [ "finished_reason", "abort" ], counts.Cancelled
                [ "finished_reason", "error" ], counts.Failed
            ]
        )

        text.Counter(
            "layerskip:requests_refused_total",
            "Requests for which the queue had no place.",
            counts.Refused
        )
        text.Histogram("vllm:time_to_first_token_seconds", "From the request to its first token.", firstToken)
        text.Histogram("vllm:inter_token_latency_seconds", "From a token to the next.", betweenTokens)
        text.Histogram("vllm:e2e_request_latency_seconds", "From the request to the end of its text.", whole)
        text.Histogram(
            "vllm:request_queue_time_seconds",
            "To the first token, without the work on it.",
            queued
        )
        text.Counter("vllm:spec_decode_num_drafts_total", "Rounds that drafted.", counts.Drafts)
        text.Counter("vllm:spec_decode_num_draft_tokens_total", "Tokens drafted.", counts.DraftTokens)
        text.Counter(
            "vllm:spec_decode_num_accepted_tokens_total",
            "Drafted tokens kept.",
            counts.AcceptedTokens
        )

        text.Counters(
            "vllm:spec_decode_num_accepted_tokens_per_pos_total",
            "Drafted tokens kept, by their place in the draft.",
            counts.AcceptedPerPosition
            |> Seq.mapi (fun place kept -> [ "position", string place ], kept)
        )

        text.ToString()
