module LayerSkip.Server.Tests.ScoreTests

open System
open System.Text.Json
open System.Threading
open Expecto
open LayerSkip
open LayerSkip.Server.Tests.ServerSupport

let private path = "/v1/completions"
let private story = "Once upon a time, there was a little girl named Lily. She"
let private ids text = Tokenizer.encode (checkpoint.Force()).Tokenizer.Value text
let private shown (ids: int[]) = $"[{String.Join(',', ids)}]"
let private items path json = List.ofSeq ((at path json: JsonElement).EnumerateArray())

let private numbers path json =
    items path json
    |> List.map (fun item ->
        if item.ValueKind = JsonValueKind.Null then
            None
        else
            Some(item.GetDouble()))

let private top path json =
    items path json
    |> List.map (fun item ->
        if item.ValueKind = JsonValueKind.Null then
            []
        else
            [ for field in item.EnumerateObject() -> field.Name, field.Value.GetDouble() ])

/// As lm-evaluation-harness' local-completions asks for likelihoods.
let private harness (prompts: int[] list) =
    let prompts = prompts |> List.map shown |> String.concat ", "

    good (
        post
            path
            $"""{{"model": "stories-10m", "prompt": [{prompts}], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": true}}"""
    )

[<Tests>]
let tests =
    testList "scores" [
        testCase
            "lm-evaluation-harness reads the prompt's log-probabilities as they are without a server"
            (fun () ->
                let checkpoint = checkpoint.Force()
                let prompt = ids story

                let expected =
                    PromptLogProbs.run checkpoint.Weights 1 CancellationToken.None prompt
                    |> Check.getOrRaise
                    |> Array.map (Option.map _.LogProb)
                    |> List.ofArray

                // It sends a list of lists even for one, and slices what it is given: [context length : -1].
                let json = harness [ prompt ]
                let logProbs = numbers "choices.0.logprobs.token_logprobs" json
                let top = top "choices.0.logprobs.top_logprobs" json
                Expect.hasLength logProbs (prompt.Length + 1) "the prompt and one token more"
                Expect.equal (List.truncate prompt.Length logProbs) expected "the prompt's, to the bit"
                Expect.equal (List.head logProbs, List.head top) (None, []) "the first follows nothing"
                Expect.hasLength top logProbs.Length "the likeliest of each"

                for logProb, top in List.zip (List.tail logProbs) (List.tail top) do
                    let best = top |> List.map snd |> List.max
                    Expect.isTrue (best >= logProb.Value) "the largest is no smaller"
                    Expect.isTrue
                        (List.exists (fun (_, other) -> other = logProb.Value) top)
                        "the token's own is there"

                // The greedy token is the likeliest: equal as floats, which is how the harness knows it.
                Expect.equal
                    (Some(top |> List.last |> List.map snd |> List.max))
                    (List.last logProbs)
                    "greedy")

        testCase "several prompts of a batch are each its own" (fun () ->
            let prompts = [ ids "The dog"; ids story; ids "Tom" ]
            let together = harness prompts

            for place, prompt in List.indexed prompts do
                let alone = harness [ prompt ]
                Expect.equal (number $"choices.{place}.index" together) place "index"
                Expect.equal
                    (numbers $"choices.{place}.logprobs.token_logprobs" together)
                    (numbers "choices.0.logprobs.token_logprobs" alone)
                    "log-probabilities")

        testCase "no token more where none is wanted" (fun () ->
            let prompt = ids story
            let json =
                good (
                    post
                        path
                        $"""{{"prompt": {shown prompt}, "max_tokens": 0, "echo": true, "logprobs": 2}}"""
                )
            Expect.hasLength
                (numbers "choices.0.logprobs.token_logprobs" json)
                prompt.Length
                "the prompt's alone"
            Expect.equal (number "usage.completion_tokens" json) 0 "none"
            Expect.equal
                (text "choices.0.text" json)
                (Tokenizer.decode true (checkpoint.Force()).Tokenizer.Value prompt)
                "text")

        testCase "new tokens have scores, the same whole and streamed, whatever drafts" (fun () ->
            let body fields =
                $"""{{"prompt": {quoted story}, "max_tokens": 20, "temperature": 0, "logprobs": 3{fields}}}"""

            let whole = good (post path (body """, "strategy": "autoregressive" """))
            let expected = numbers "choices.0.logprobs.token_logprobs" whole
            Expect.hasLength expected 20 "each"
            Expect.equal
                (String.Concat(items "choices.0.logprobs.tokens" whole |> List.map _.GetString()))
                (text "choices.0.text" whole)
                "tokens make the text"
            let offsets = items "choices.0.logprobs.text_offset" whole |> List.map _.GetInt32()
            Expect.equal (List.head offsets, List.sort offsets) (0, offsets) "places"

            for fields in [ """, "exit_layer": 3, "draft_length": 5"""; """, "drafter": "lookup" """ ] do
                let json = good (post path (body fields))
                Expect.equal (numbers "choices.0.logprobs.token_logprobs" json) expected fields

            let events = stream path (body """, "stream": true""")
            let streamed = events |> List.collect (numbers "choices.0.logprobs.token_logprobs")
            Expect.equal streamed expected "streamed"
            let places =
                events |> List.collect (items "choices.0.logprobs.text_offset") |> List.map _.GetInt32()
            Expect.equal places offsets "places of the stream")

        testCase "rules hold over HTTP as they do without" (fun () ->
            let checkpoint = checkpoint.Force()
            let banned = (offline 6 story).TokenIds[2]

            let rules = {
                TokenRules.none with
                    RepetitionPenalty = 1.3
                    PresencePenalty = 0.5
                    FrequencyPenalty = 0.25
                    LogitBias = [ banned, -100.0 ]
            }

            let options = {
                GenerationOptions.greedy Strategy.Autoregressive 40 with
                    StopIds = checkpoint.StopIds
                    Rules = rules
            }

            let expected =
                Generation.complete checkpoint.Weights checkpoint.Tokenizer options (ids story)
                |> Check.getOrRaise

            let ask fields =
                post
                    path
                    $"""{{"prompt": {quoted story}, "max_tokens": 40, "temperature": 0, "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.25, "logit_bias": {{"{banned}": -100}}{fields}}}"""

            for fields in
                [
                    ""
                    """, "exit_layer": 2, "draft_length": 4"""
                    """, "strategy": "autoregressive" """
                ] do
                Expect.equal (text "choices.0.text" (good (ask fields))) expected.Text.Value fields

            Expect.isFalse (Array.contains banned expected.TokenIds) "the banned token never comes"
            Expect.equal (text "param" (refusal 400 (ask """, "top_k": 1.5"""))) "top_k" "a fault among them")

        testCase "min_p of 1 leaves the likeliest token alone" (fun () ->
            let json =
                good (
                    post
                        path
                        $"""{{"prompt": {quoted story}, "max_tokens": 20, "temperature": 1.5, "min_p": 1.0}}"""
                )
            Expect.equal (text "choices.0.text" json) (offline 20 story).Text.Value "greedy")

        testCase "echoed scores stream: the prompt's first, then each token's, as they come whole" (fun () ->
            let prompt = ids story

            for tokens, drafting in [ 12, ""; 12, """, "exit_layer": 2, "draft_length": 4"""; 0, "" ] do
                let body more =
                    $"""{{"prompt": [{shown prompt}, {shown (ids "The dog")}], "max_tokens": {tokens}, "temperature": 0, "logprobs": 3, "echo": true{drafting}{more}}}"""

                let whole = good (post path (body ""))
                let events = stream path (body """, "stream": true""")

                for place in 0..1 do
                    let pieces =
                        events
                        |> List.collect (items "choices")
                        |> List.filter (fun choice -> number "index" choice = place)

                    let whole = at $"choices.{place}" whole

                    for field in [ "tokens"; "token_logprobs"; "top_logprobs"; "text_offset" ] do
                        let raw json = items $"logprobs.{field}" json |> List.map _.GetRawText()
                        Expect.equal (List.collect raw pieces) (raw whole) $"{field} {drafting}"

                    Expect.equal (String.Concat(pieces |> List.map (text "text"))) (text "text" whole) "text"

                    let first = List.head pieces
                    Expect.hasLength
                        (items "logprobs.tokens" first)
                        (if place = 0 then prompt else ids "The dog").Length
                        "the prompt's come first"
                    Expect.equal (at "finish_reason" first).ValueKind JsonValueKind.Null "and end nothing")

        testCase "text_offset is a place in the text that is returned" (fun () ->
            let ask prompt fields =
                let json =
                    good (
                        post
                            path
                            $"""{{"prompt": {prompt}, "temperature": 0, "logprobs": 0, "echo": true{fields}}}"""
                    )

                let strings = items "choices.0.logprobs.tokens" json |> List.map _.GetString()
                let places = items "choices.0.logprobs.text_offset" json |> List.map _.GetInt32()
                text "choices.0.text" json, List.zip strings places

            let offsets prompt fields = snd (ask prompt fields) |> List.map snd
            Expect.equal
                (offsets "\"a\"" """, "max_tokens": 0""")
                [ 0; 0 ]
                "what the tokenizer adds has no width"

            Expect.equal
                (offsets "\"a\"" """, "max_tokens": 0, "add_special_tokens": false""")
                [ 0 ]
                "what it does not add"

            let bos = (Tokenizer.bos (checkpoint.Force()).Tokenizer.Value).Value
            let asIds = shown (Array.append [| bos |] (ids "a" |> Array.filter ((<>) bos)))
            Expect.equal (offsets asIds """, "max_tokens": 0""") [ 0; 13 ] "what was sent, and is shown"

            for prompt in [ "a"; story; "naïve ☃ 😀 étés"; ""; "<|endoftext|>Tom"; " Two  spaces " ] do
                let whole, tokens =
                    ask (quoted prompt) """, "max_tokens": 12, "skip_special_tokens": false"""
                Expect.stringStarts whole prompt "echoed"
                Expect.equal (List.map snd tokens |> List.sort) (List.map snd tokens) "one after another"
                Expect.equal tokens[0] ("<|endoftext|>", 0) "the tokenizer's own"

                for token, place in List.tail tokens do
                    if not (token.Contains '\uFFFD') then
                        Expect.stringStarts (whole.Substring place) token $"{prompt} at {place}")

        testCase "no more of the likeliest than there may be" (fun () ->
            Expect.equal
                (text "param" (refusal 400 (post path """{"prompt": "x", "logprobs": 21}""")))
                "logprobs"
                "too many")
    ]
