module LayerSkip.Server.Tests.CompletionTests

open System
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Server.Tests.ServerSupport

let private path = "/v1/completions"
let private prompt = "Once upon a time"

let private idsOf (text: string) = Tokenizer.encode (checkpoint.Force()).Tokenizer.Value text

let private shown (ids: int[]) = $"[{String.Join(',', ids)}]"

let private ask (fields: string) =
    post path $"""{{"prompt": {quoted prompt}, "max_tokens": 24, "temperature": 0{fields}}}"""

[<Tests>]
let tests =
    testList "completions" [
        testCase "a greedy text is the one that is written without a server" (fun () ->
            let json = good (ask "")
            let expected = offline 24 prompt
            Expect.equal (text "choices.0.text" json) expected.Text.Value "text"
            Expect.equal (text "object" json) "text_completion" "object"
            Expect.equal (text "choices.0.finish_reason" json) "length" "finish"
            Expect.equal (number "choices.0.index" json) 0 "index"
            Expect.equal (number "usage.prompt_tokens" json) expected.PromptIds.Length "prompt tokens"
            Expect.equal (number "usage.completion_tokens" json) 24 "new tokens"
            Expect.equal (number "usage.total_tokens" json) (24 + expected.PromptIds.Length) "sum"
            Expect.equal (text "model" json) "stories-10m" "the folder's name")

        testCase "whatever drafts, the text is the same" (fun () ->
            let expected = (offline 24 prompt).Text.Value

            for fields in
                [
                    """, "strategy": "autoregressive" """
                    """, "strategy": "self-speculative" """
                    """, "exit_layer": 1, "draft_length": 7"""
                    """, "exit_layer": 20, "draft_length": 1, "stop_rule": "confidence:0.5" """
                    """, "policy": "auto" """
                    """, "policy": "del" """
                    """, "drafter": "lookup" """
                    """, "drafter": "cascade", "draft_length": 3, "policy": "static" """
                    """, "drafter": "layers", "layers_kept": "1-4,24" """
                    """, "draft_vocabulary": 100"""
                    """, "draft_vocabulary": "all" """
                ] do
                Expect.equal (text "choices.0.text" (good (ask fields))) expected fields)

        testCase "early exit writes what the first layers write" (fun () ->
            let checkpoint = checkpoint.Force()
            let exit = ExitLayer.TryCreate(checkpoint.Config.Layers, 12) |> Check.getOrRaise

            let expected =
                Generation.complete
                    checkpoint.Weights
                    checkpoint.Tokenizer
                    {
                        GenerationOptions.greedy (Strategy.EarlyExit exit) 24 with
                            StopIds = checkpoint.StopIds
                    }
                    (idsOf prompt)
                |> Check.getOrRaise

            let json = good (ask """, "strategy": "early-exit", "exit_layer": 12""")
            Expect.equal (text "choices.0.text" json) expected.Text.Value "text"
            Expect.equal (number "metrics.speculative_decoding.exit_layer" json) 12 "exit")

        testCase "statistics of speculation come with the text" (fun () ->
            let json = good (ask """, "exit_layer": 3, "draft_length": 5""")
            let stats = at "metrics.speculative_decoding" json
            Expect.equal (text "strategy" stats) "self-speculative" "strategy"
            Expect.equal (text "policy" stats) "static" "policy"
            Expect.equal (text "drafter" stats) "exit" "drafter"
            Expect.equal (number "exit_layer" stats, number "draft_length" stats) (3, 5) "E and d"
            let rounds, accepted = number "num_spec_steps" stats, number "num_accepted_draft_tokens" stats
            let histogram = [
                for count in (at "acceptance_histogram" stats).EnumerateArray() -> count.GetInt32()
            ]
            Expect.equal (List.sum histogram) rounds "the histogram has every round"
            Expect.equal (histogram |> List.mapi (*) |> List.sum) accepted "and every accepted draft")

        testCase "every form of a prompt gives its texts, in order" (fun () ->
            let other = "The dog"
            let first, second = (offline 8 prompt).Text.Value, (offline 8 other).Text.Value
            let ask (form: string) =
                good (post path $"""{{"prompt": {form}, "max_tokens": 8, "temperature": 0}}""")
            let texts json = [
                for choice in (at "choices" json).EnumerateArray() ->
                    number "index" choice, text "text" choice
            ]

            Expect.equal (texts (ask $"[{quoted prompt}]")) [ 0, first ] "a list of one text"
            Expect.equal
                (texts (ask $"[{quoted prompt}, {quoted other}]"))
                [ 0, first; 1, second ]
                "a list of texts"
            Expect.equal (texts (ask (shown (idsOf prompt)))) [ 0, first ] "ids"
            Expect.equal
                (texts (ask $"[{shown (idsOf prompt)}, {shown (idsOf other)}]"))
                [ 0, first; 1, second ]
                "a list of lists of ids"

            let json = ask $"[{quoted prompt}, {quoted other}]"
            Expect.equal
                (number "usage.prompt_tokens" json)
                ((idsOf prompt).Length + (idsOf other).Length)
                "tokens of both")

        testCase "n texts of a seed are one request's, and the same again" (fun () ->
            let ask (seed: string) =
                let body =
                    $"""{{"prompt": {quoted prompt}, "max_tokens": 12, "temperature": 1.0, "n": 3{seed}}}"""
                let json = good (post path body)
                [ for choice in (at "choices" json).EnumerateArray() -> text "text" choice ]

            let texts = ask """, "seed": 7"""
            Expect.equal texts.Length 3 "three"
            Expect.isGreaterThan (List.distinct texts).Length 1 "drawn apart"
            Expect.equal (ask """, "seed": 7""") texts "again"
            Expect.notEqual (ask "") (ask "") "without a seed they differ")

        testCase "the temperature is 1 where none is named, as OpenAI has it" (fun () ->
            let ask () =
                text
                    "choices.0.text"
                    (good (post path $"""{{"prompt": {quoted prompt}, "max_tokens": 24}}"""))
            let texts = List.init 4 (fun _ -> ask ())
            Expect.isGreaterThan (List.distinct texts).Length 1 "they are drawn")

        testCase "stop texts end it before them" (fun () ->
            let whole = (offline 24 prompt).Text.Value
            let word = whole.Split(' ', StringSplitOptions.RemoveEmptyEntries)[3]
            let expected = whole.Substring(0, whole.IndexOf word)

            for stop in [ quoted word; $"[{quoted word}]"; $"""["no such words", {quoted word}]""" ] do
                let json = good (ask $""", "stop": {stop}""")
                Expect.equal (text "choices.0.text" json) expected stop
                Expect.equal (text "choices.0.finish_reason" json) "stop" stop)

        testCase "stop ids end it, and ignore_eos goes past the model's own" (fun () ->
            let completion = offline 24 prompt
            let json = good (ask $""", "stop_token_ids": [{completion.TokenIds[5]}]""")
            Expect.isLessThan (number "usage.completion_tokens" json) 6 "ended"
            Expect.equal (text "choices.0.finish_reason" json) "stop" "stopped"

            let json =
                good (
                    post
                        path
                        $"""{{"prompt": {quoted prompt}, "max_tokens": 400, "temperature": 0, "ignore_eos": true}}"""
                )

            Expect.equal (number "usage.completion_tokens" json) 400 "to the limit")

        testCase "a prompt is echoed where that is asked for" (fun () ->
            let json = good (ask """, "echo": true""")
            Expect.equal (text "choices.0.text" json) (prompt + (offline 24 prompt).Text.Value) "both")

        testCase "null is as good as nothing" (fun () ->
            let json =
                good (
                    ask
                        """, "stop": null, "n": null, "seed": null, "logit_bias": null, "suffix": null, "stream": null"""
                )
            Expect.equal (text "choices.0.text" json) (offline 24 prompt).Text.Value "text")

        testCase "what clients send along, and what nobody knows, is ignored" (fun () ->
            let json =
                good (
                    ask
                        """, "user": "me", "store": true, "metadata": {"a": "b"}, "service_tier": "auto", "no_such_field": [1, {}]"""
                )
            Expect.equal (text "choices.0.text" json) (offline 24 prompt).Text.Value "text")

        testCase "what is known and not served is refused by its name" (fun () ->
            for field, value in
                [
                    "suffix", "\"end\""
                    "best_of", "3"
                    "prediction", "{}"
                    "min_tokens", "4"
                    "use_beam_search", "true"
                ] do
                let error = refusal 400 (ask $""", "{field}": {value}""")
                Expect.equal (text "param" error) field "param"
                Expect.stringContains (text "message" error) field "message")

        testCase "all faults of a request come in one message" (fun () ->
            let error =
                refusal
                    400
                    (post
                        path
                        """{"prompt": 5, "max_tokens": "many", "temperature": -1, "exit_layer": 0, "stream": 1, "stop": [1]}""")

            let message = text "message" error

            for name in [ "prompt"; "max_tokens"; "temperature"; "exit_layer"; "stream"; "stop" ] do
                Expect.stringContains message $"\"{name}\"" message

            Expect.equal (text "param" error) "prompt" "the first")

        testCase "the model's own limits are told by name" (fun () ->
            for fields, param in
                [
                    """, "exit_layer": 24""", "exit_layer"
                    """, "strategy": "autoregressive", "draft_length": 2""", "draft_length"
                    """, "drafter": "lookup", "exit_layer": 3""", "exit_layer"
                    """, "drafter": "layers", "layers_kept": "99" """, "layers_kept"
                    """, "stop_rule": "no such rule" """, "stop_rule"
                    """, "draft_vocabulary": "/etc/passwd" """, "draft_vocabulary"
                    """, "logit_bias": {"1024": 1}""", "logit_bias"
                    """, "stop_token_ids": [-1]""", "stop_token_ids"
                    """, "top_p": 0""", "top_p"
                ] do
                Expect.equal (text "param" (refusal 400 (ask fields))) param fields)

        testCase "a prompt that does not fit, or is no prompt of this model, is refused" (fun () ->
            let ask (prompt: string) = post path $"""{{"prompt": {prompt}, "max_tokens": 1}}"""
            let long = shown (Array.replicate 512 5)
            let error = refusal 400 (ask long)
            Expect.equal
                (text "code" error, text "param" error)
                ("context_length_exceeded", "prompt")
                "too long"
            Expect.equal (text "param" (refusal 400 (ask "[1024]"))) "prompt" "no such id"
            Expect.equal (text "param" (refusal 400 (ask "[[1], [-1]]"))) "prompt" "no such id"
            Expect.equal (text "param" (refusal 400 (ask "[]"))) "prompt" "none")

        testCase "an empty prompt is the beginning of a text" (fun () ->
            let json = good (post path """{"prompt": "", "max_tokens": 6, "temperature": 0}""")
            Expect.equal (number "usage.prompt_tokens" json) 1 "BOS"
            Expect.isNonEmpty (text "choices.0.text" json) "a text")

        testCase "another model is not found" (fun () ->
            let error = refusal 404 (ask """, "model": "gpt-9" """)
            Expect.equal
                (text "code" error, text "param" error)
                ("model_not_found", "model")
                "as OpenAI says it"
            good (ask """, "model": "stories-10m" """) |> ignore)
    ]
