module LayerSkip.Server.Tests.LoadTests

open System.Threading.Tasks
open Expecto
open LayerSkip.Server.Tests.ServerSupport

let private prompts = [
    "Once upon a time"
    "The dog"
    "One day, a little girl"
    "Tom had a red ball"
    "It was raining and"
    "The sun"
    "Lily and Ben"
    "In the garden"
]

let private drafts = [
    ""
    """, "strategy": "autoregressive" """
    """, "exit_layer": 2, "draft_length": 6"""
    """, "drafter": "lookup" """
]

[<Tests>]
let tests =
    testList "load" [
        testCase "32 clients that stream at once get each its own greedy text" (fun () ->
            let expected =
                prompts |> List.map (fun prompt -> prompt, (offline 60 prompt).Text.Value) |> Map.ofList

            let ask place =
                task {
                    let prompt = prompts[place % prompts.Length]
                    let drafting = drafts[place / prompts.Length % drafts.Length]

                    let body =
                        $"""{{"prompt": {quoted prompt}, "max_tokens": 60, "temperature": 0, "stream": true{drafting}}}"""

                    let! events = streamFrom (client ()) "/v1/completions" body
                    return prompt, textOf events
                }

            let answers = Task.WhenAll [| for place in 0..31 -> ask place |] |> wait

            for prompt, text in answers do
                Expect.equal text expected[prompt] prompt)

        testCase "sampled texts of a seed are the same in company" (fun () ->
            let ask seed =
                task {
                    let body =
                        $"""{{"prompt": "The dog", "max_tokens": 30, "temperature": 0.8, "top_p": 0.9, "seed": {seed}, "stream": true}}"""
                    let! events = streamFrom (client ()) "/v1/completions" body
                    return textOf events
                }

            let alone = [ for seed in 1..6 -> wait (ask seed) ]
            let together = Task.WhenAll [| for seed in 1..6 -> ask seed |] |> wait |> List.ofArray
            Expect.equal together alone "texts")
    ]
