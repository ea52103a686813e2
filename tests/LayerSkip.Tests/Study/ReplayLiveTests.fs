module LayerSkip.Tests.ReplayLiveTests

open System.IO
open Expecto
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.Tiny

Backend.ensure ()

let private prompts = [
    "Once upon a time"
    "Lily wanted to"
    "One day, a dog named Max"
    "The sun was hot. The cat"
    "Tom and his mom went to the park."
]

/// Every round of every exit layer and of draft lengths 1 to 8, live and replayed: how many there were.
let private compare (model: Checkpoint) (newTokens: int) (stopIds: int[]) (prompt: string) : int =
    let layers = model.Config.Layers
    let ids = Tokenizer.encode model.Tokenizer.Value prompt
    let asked = { GenerationOptions.defaults with MaxNewTokens = newTokens; StopIds = stopIds }

    let live strategy =
        Generation.complete model.Weights None { asked with Strategy = strategy } ids
        |> Check.getOrRaise

    let trace =
        Trace.run model.Weights { MaxNewTokens = newTokens; StopIds = stopIds; PromptRows = 0 } ids
        |> Check.getOrRaise

    let replay = Replay.ofTrace trace
    Expect.equal trace.TokenIds (live Strategy.Autoregressive).TokenIds "the text"

    List.sum [
        for layer in 1 .. layers - 1 do
            for length in 1..8 do
                let exit = exit layers layer
                let replayed = Replay.rounds (DraftPlan.fixed' exit length) replay
                let rounds = (live (Strategy.SelfSpeculative(exit, length))).Stats.Rounds

                Expect.equal
                    (Array.map _.Accepted replayed)
                    (Array.map snd rounds)
                    $"accepted at E = {layer}, d = {length}"

                for found, (drafted, _) in Array.zip replayed rounds do
                    Expect.isTrue
                        (found.DraftedAtLeast <= drafted && drafted <= found.Drafted)
                        $"drafted at E = {layer}, d = {length}"

                if stopIds.Length = 0 then
                    Expect.equal
                        (Array.map _.Drafted replayed)
                        (Array.map fst rounds)
                        $"drafted at E = {layer}, d = {length}"

                rounds.Length
    ]

[<Tests>]
let tests =
    testList "replay against live" [
        testCase
            "the default model: every round of every exit layer and draft length of 1 to 8, over five prompts"
            (fun () ->
                use model =
                    Checkpoint.load (Path.Combine(root, "models", "stories-10m")) None Device.Cpu
                    |> Check.getOrRaise

                let rounds =
                    prompts
                    |> List.mapi (fun index prompt ->
                        // With the model's own stop token too, once to the end of a story.
                        compare model 48 (if index % 2 = 0 then [||] else model.StopIds) prompt)

                Expect.isGreaterThan (List.sum rounds) 5000 "rounds"

                // A token that the texts have: it stops within drafts.
                let ids = Tokenizer.encode model.Tokenizer.Value prompts.Head
                let text =
                    Trace.run model.Weights { Trace.options with MaxNewTokens = 40 } ids |> Check.getOrRaise
                compare model 40 [| text.Written[20] |] prompts.Head |> ignore)

        sharedTest "stories260K: the same" [ "stories260K" ] (fun folder ->
            use model = Checkpoint.load folder None Device.Cpu |> Check.getOrRaise
            let rounds = prompts |> List.map (compare model 128 [||])
            Expect.isGreaterThan (List.sum rounds) 3000 "rounds"
            let ids = Tokenizer.encode model.Tokenizer.Value prompts.Head
            let text = Trace.run model.Weights Trace.options ids |> Check.getOrRaise
            compare model 128 [| text.Written[50] |] prompts.Head |> ignore)
    ]
