module LayerSkip.Tests.CliGenerateTests

open System.IO
open System.Text.Json
open System.Text.RegularExpressions
open Expecto
open LayerSkip.Tests.CliSupport

let private inRounds (result: JsonElement) =
    roundsOf result |> Array.sumBy (fun (_, accepted) -> accepted + 1)

[<Tests>]
let generating =
    testList "command line: generate" [
        testCase "--json writes the contract's object" (fun () ->
            withModel (fun folder ->
                let made = generate folder (ids @ count 20 @ [ "--exit-layer"; "2" ])

                made
                |> hasFields [
                    "prompt_ids", A
                    "token_ids", A
                    "text", JsonValueKind.Null
                    "finish_reason", S
                    "stats", O
                    "timings", O
                ]

                Expect.equal (ints (made.GetProperty "prompt_ids")) [| 3; 4; 5 |] "the prompt"

                made.GetProperty "stats"
                |> hasFields [
                    "num_spec_steps", N
                    "num_draft_tokens", N
                    "num_accepted_draft_tokens", N
                    "draft_acceptance_rate", N
                    "mean_acceptance_length", N
                    "acceptance_histogram", A
                    "rounds", A
                    "sources", A
                    "acceptance_histogram_by_draft_length", O
                    "per_position_acceptance_rate", A
                ]

                for name in [ "ttft_ms"; "decode_ms"; "tokens_per_second" ] do
                    Expect.isGreaterThan
                        (((made.GetProperty "timings").GetProperty name).GetDouble())
                        0.0
                        name))

        testCase "penalties and biases hold in every strategy, and change the text" (fun () ->
            withModel (fun folder ->
                let with' options strategy =
                    ids @ count 20 @ [ "--ignore-eos"; "--strategy"; strategy ] @ options
                    |> generate folder
                    |> tokenIds

                let plain = with' [] "autoregressive"

                for options in
                    [
                        [ "--repetition-penalty"; "1.8" ]
                        [ "--presence-penalty=1.5"; "--frequency-penalty=0.5" ]
                        [ "--logit-bias"; $"{plain[0]}=-100"; $"--logit-bias={plain[1]}=-100" ]
                    ] do
                    let made = with' options "autoregressive"
                    Expect.notEqual made plain $"%A{options}"
                    Expect.equal (with' options "self-speculative") made $"%A{options}: drafted"

                Expect.equal
                    (with' [ "--logit-bias"; "7=100" ] "self-speculative")
                    (Array.create 20 7)
                    "nothing else"))

        testCase "--logprobs tells the log-probability of each token, and of the likeliest" (fun () ->
            withModel (fun folder ->
                let asked = ids @ count 6 @ [ "--ignore-eos" ]
                let without = generate folder asked
                Expect.isFalse (without.TryGetProperty "logprobs" |> fst) "only where they are asked for"
                let made = generate folder (asked @ [ "--logprobs"; "2" ])
                let told = (made.GetProperty "logprobs").EnumerateArray() |> Array.ofSeq
                Expect.equal
                    (told |> Array.map (fun one -> (one.GetProperty "id").GetInt32()))
                    (tokenIds made)
                    "of each"

                for one in told do
                    let top = (one.GetProperty "top").EnumerateArray() |> Array.ofSeq
                    let number (of': JsonElement) = (of'.GetProperty "logprob").GetDouble()
                    Expect.equal top.Length 2 "two of the likeliest"
                    Expect.equal
                        ((top[0].GetProperty "id").GetInt32())
                        ((one.GetProperty "id").GetInt32())
                        "greedy"
                    Expect.equal (number top[0]) (number one) "one number"
                    Expect.isTrue (number top[1] <= number one && number one < 0.0) "in order"

                refuses
                    [ "--logprobs"; "--json" ]
                    ([ "generate"; "--model"; folder; "--logprobs=2" ] @ asked)))

        testCase "--logprobs tells the texts of tokens, which are the text" (fun () ->
            let made = json (typed "generate --prompt Once --max-new-tokens 12 --threads 1 --logprobs 2")

            let token (one: JsonElement) = (one.GetProperty "token").GetString()
            let told = (made.GetProperty "logprobs").EnumerateArray() |> List.ofSeq
            let text = (made.GetProperty "text").GetString()
            Expect.equal (told |> List.map token |> String.concat "") text "together"

            for one in told do
                let first = (one.GetProperty "top").EnumerateArray() |> Seq.head
                Expect.equal (token first) (token one) "of the likeliest too")

        testCase "accepted + 1 over the rounds is the tokens less one, whatever E, d and the limit" (fun () ->
            withModel (fun folder ->
                for exit in 1 .. layers - 1 do
                    for length in [ 1; 3; 4 ] do
                        for limit in [ 1; 2; 5; 19 ] do
                            let made =
                                generate
                                    folder
                                    (ids
                                     @ count limit
                                     @ [ "--ignore-eos" ]
                                     @ [ "--exit-layer"; string exit ]
                                     @ [ "--draft-length"; string length ])

                            Expect.equal (tokenIds made).Length limit "as many as asked for"
                            Expect.equal
                                (inRounds made)
                                (limit - 1)
                                $"E = {exit}, d = {length}, {limit} tokens"

                            if limit = 1 then
                                Expect.isEmpty (roundsOf made) "one token is prefill's"))

        testCase
            "self-speculation writes the autoregressive ids at every E, and early exit does not"
            (fun () ->
                withModel (fun folder ->
                    let with' strategy options =
                        generate
                            folder
                            (ids @ count 60 @ [ "--ignore-eos"; "--strategy"; strategy ] @ options)

                    let plain = with' "autoregressive" []
                    Expect.isEmpty (roundsOf plain) "no rounds without drafts"
                    Expect.equal ((plain.GetProperty "strategy").GetString()) "autoregressive" "named"

                    for exit in 1 .. layers - 1 do
                        let at = [ "--exit-layer"; string exit ]
                        Expect.equal
                            (tokenIds (with' "self-speculative" at))
                            (tokenIds plain)
                            $"self-speculative, E = {exit}"
                        Expect.notEqual
                            (tokenIds (with' "early-exit" at))
                            (tokenIds plain)
                            $"early exit, E = {exit}"))

        testCase "stop ids cut the text, in the model's card, the options, or neither" (fun () ->
            withModel (fun folder ->
                let all = generate folder (ids @ count 30 @ [ "--ignore-eos" ]) |> tokenIds
                let stop = all[7]
                let cut = Array.takeWhile ((<>) stop) all

                let stopped options =
                    let made = generate folder (ids @ count 30 @ options)
                    tokenIds made, (made.GetProperty "finish_reason").GetString()

                for speculate in [ []; [ "--exit-layer"; "2" ] ] do
                    Expect.equal
                        (stopped ([ "--stop-ids"; $"{stop}" ] @ speculate))
                        (cut, "stop")
                        "--stop-ids"

                    editConfig "\"eos_token_id\": 2" $"\"eos_token_id\": [{stop}]" folder
                    Expect.equal (stopped speculate) (cut, "stop") "the card's"
                    Expect.equal (stopped ("--ignore-eos" :: speculate)) (all, "length") "ignored"))

        testCase "a model that recommends an exit speculates with it" (fun () ->
            withModel (fun folder ->
                let chosen options =
                    let made = generate folder (ids @ count 4 @ options)
                    (made.GetProperty "strategy").GetString(),
                    [ "exit_layer"; "draft_length" ]
                    |> List.map (fun name -> (made.GetProperty name).ToString())

                Expect.equal (chosen []) ("autoregressive", [ ""; "" ]) "none recommended"
                Expect.equal (chosen [ "--draft-length"; "2" ]) ("self-speculative", [ "1"; "2" ]) "L/3"

                File.WriteAllText(
                    Path.Combine(folder, "generation_config.json"),
                    "{\"assistant_early_exit\": 3, \"num_assistant_tokens\": 5}"
                )

                Expect.equal (chosen []) ("self-speculative", [ "3"; "" ]) "recommended, of whatever length"
                Expect.equal
                    (chosen [ "--strategy"; "self-speculative" ])
                    ("self-speculative", [ "3"; "5" ])
                    "the strategy itself is named"
                Expect.equal
                    (chosen [ "--policy"; "static" ])
                    ("self-speculative", [ "3"; "5" ])
                    "the recommended length too"
                Expect.equal
                    (chosen [ "--exit-layer"; "2" ])
                    ("self-speculative", [ "2"; "5" ])
                    "overridden"))

        testCase "sampling repeats with its seed, and not with another" (fun () ->
            withModel (fun folder ->
                let sampled seed =
                    generate
                        folder
                        (ids @ count 40 @ [ "--ignore-eos"; "--temperature"; "1.5"; "--seed"; seed ])
                    |> tokenIds

                Expect.equal (sampled "7") (sampled "7") "the same"
                Expect.notEqual (sampled "7") (sampled "8") "another"))

        testCase "without a tokenizer the ids are the text, as --prompt-ids takes them" (fun () ->
            withModel (fun folder ->
                let made = tokenIds (generate folder (ids @ count 9))
                let outcome = cli ([ "generate"; "--model"; folder ] @ ids @ count 9)
                Expect.equal outcome.Out ((made |> Array.map string |> String.concat ",") + "\n") "ids"
                Expect.stringContains outcome.Error "cpu" "the device is named"))

        testCase "one token is one, and has no rate" (fun () ->
            withModel (fun folder ->
                let remarks limit =
                    let options = [
                        "generate"
                        "--model"
                        folder
                        "--exit-layer"
                        "2"
                        "--ignore-eos"
                        "--threads"
                        "1"
                    ]
                    (cli (options @ ids @ count limit)).Error.Split('\n')[1]

                Expect.isTrue (Regex.IsMatch(remarks 1, @"^1 token after \d+ ms$")) (remarks 1)
                Expect.stringContains (remarks 2) "2 tokens, first after" "two"
                Expect.isTrue (Regex.IsMatch(remarks 3, @"; 1 round kept [01] of 1 draft \(")) (remarks 3)))

        testCase "the text ends where the context is full" (fun () ->
            withModel (fun folder ->
                let made = generate folder (ids @ count 500 @ [ "--ignore-eos" ])
                Expect.equal (tokenIds made).Length 93 "96 less the prompt"
                Expect.equal ((made.GetProperty "finish_reason").GetString()) "length" "length"))

        testCase "--output has what standard output has" (fun () ->
            withModel (fun folder ->
                let file = Path.Combine(folder, "made.txt")

                for format in [ []; [ "--json" ] ] do
                    let outcome =
                        cli ([ "generate"; "--model"; folder; "--output"; file ] @ ids @ count 5 @ format)

                    Expect.equal (File.ReadAllText file) outcome.Out "the same"

                Expect.isEmpty (Directory.GetFiles(folder, "*.tmp")) "nothing unfinished stays"))
    ]
