module LayerSkip.Tests.DefaultModelTests

open System.IO
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.Support

Backend.ensure ()

let private folder = Path.Combine(root, "models", "stories-10m")

let private prompts = [
    "Once upon a time"
    "Lily wanted to"
    "One day, a dog named Max"
    "The sun was hot. The cat"
]

let private withModel (body: Checkpoint -> 'T) : 'T =
    use model = Checkpoint.load folder None Device.Cpu |> Check.getOrRaise
    body model

let private decode (model: Checkpoint) strategy (prompt: string) =
    let ids = Tokenizer.encode model.Tokenizer.Value prompt

    Generation.complete
        model.Weights
        model.Tokenizer
        { GenerationOptions.greedy strategy 100 with StopIds = model.StopIds }
        ids
    |> Check.getOrRaise

[<Tests>]
let tests =
    testList "default model" [
        testCase "is small, 16-bit, and recommends its exit" (fun () ->
            let bytes = DirectoryInfo(folder).GetFiles() |> Array.sumBy _.Length
            Expect.isLessThan bytes 25_000_000L "under 25 MB"

            withModel (fun model ->
                Expect.equal model.Weights.Dtype Dtype.BF16 "bfloat16"
                Expect.isSome model.Recommended "E and d"
                Expect.isGreaterThanOrEqual model.Config.Layers 12 "deep"))

        testCase "drafts what it would write, in words" (fun () ->
            withModel (fun model ->
                let exit, draft = model.Recommended.Value
                let early = ExitLayer.TryCreate(model.Config.Layers, exit) |> Check.getOrRaise

                let made = [
                    for prompt in prompts do
                        let plain = decode model Strategy.Autoregressive prompt
                        let fast = decode model (Strategy.SelfSpeculative(early, draft)) prompt
                        Expect.equal fast.TokenIds plain.TokenIds "the same text"
                        Expect.isGreaterThan (plain.Text.Value.Split(' ').Length) 20 "words"
                        fast
                ]

                let drafted = made |> List.sumBy (fun completion -> completion.Stats.NumDraftTokens)
                let accepted =
                    made |> List.sumBy (fun completion -> completion.Stats.NumAcceptedDraftTokens)
                Expect.isGreaterThan (float accepted / float drafted) 0.5 $"{accepted} of {drafted}"))
    ]
