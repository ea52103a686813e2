/// What chat and serving ask of a GPU: rules, log-probabilities, kept caches and many texts at once. In float64 the texts are the CPU's.
module LayerSkip.Tests.CudaServingTests

open System
open System.Threading
open Expecto
open LayerSkip
open LayerSkip.Tests.TensorSupport
open LayerSkip.Tests.Tiny
open LayerSkip.Tests.CudaSupport
open LayerSkip.Tests.RulesSupport

Backend.ensure ()

let private ok result = Check.getOrRaise result

let private model = { Config = { Tiny.config 24 4 4 2 true with Context = 512 }; Seed = 5L }

let private withBoth (model: Model) (body: Weights -> Weights -> unit) =
    use cpu = on Device.Cpu Dtype.F64 model
    use gpu = on Device.Cuda Dtype.F64 model
    body cpu gpu

/// Texts of many lengths by every strategy, all at once, of which a third is cancelled; the others are the CPU's.
let private serve (cpu: Weights) (gpu: Weights) =
    let checkpoint = Checkpoint.ofWeights "tiny" gpu None
    use engine = new Engine(checkpoint, { EngineOptions.defaults with Slots = 6 })
    let random = Random 7
    let strategies = strategies gpu 2 3
    let shared = Array.init 30 (fun i -> (5 * i + 1) % 24)

    let asked = [
        for index, (name, strategy) in List.indexed (strategies @ strategies) do
            let options = options strategy (1 + random.Next 24)
            let prompt = [|
                if index % 2 = 0 then
                    yield! shared
                for _ in 0 .. random.Next 12 do
                    random.Next 24
            |]
            let source = new CancellationTokenSource()
            let request = { EngineRequest.create options prompt with Cancelled = source.Token }

            match engine.Submit request with
            | Ok ticket -> struct (name, options, prompt, ticket, source)
            | Error refusal -> failtest $"%A{refusal}"
    ]

    asked
    |> List.iteri (fun index (struct (_, _, _, _, source)) ->
        if index % 3 = 0 then
            source.Cancel())

    asked
    |> List.iteri (fun index (struct (name, options, prompt, ticket, _)) ->
        if index % 3 <> 0 then
            let plain = { options with Strategy = Strategy.Autoregressive }
            Expect.equal ticket.Completed.Result.TokenIds (complete cpu plain prompt).TokenIds name)

[<Tests>]
let tests =
    testSequenced
    <| testList "CUDA, serving" [
        cudaProperty
            "under any rules, whatever drafts, the text is the CPU's"
            12
            (fun (case: Case, seed: int) ->
                withBoth case.Model (fun cpu gpu ->
                    let options strategy = {
                        options strategy 14 with
                            Rules = rulesOf 24 [ 9 ] seed
                            StopIds = [| 9 |]
                    }

                    let expected = (complete cpu (options Strategy.Autoregressive) case.Prompt).TokenIds

                    for name, strategy in
                        ("plain", Strategy.Autoregressive) :: strategies gpu case.Exit case.Draft do
                        Expect.equal
                            (complete gpu (options strategy) case.Prompt).TokenIds
                            expected
                            $"{name}, {seed}"))

        cudaProperty "log-probabilities are the CPU's" 12 (fun (case: Case) ->
            withBoth case.Model (fun cpu gpu ->
                let told (weights: Weights) =
                    let strategy =
                        Strategy.SelfSpeculative(exit case.Model.Config.Layers case.Exit, case.Draft)
                    let options = { options strategy 12 with LogProbs = Some 5 }
                    (complete weights options case.Prompt).LogProbs

                let expected, found = told cpu, told gpu
                Expect.equal found.Length expected.Length "one of each"

                for expected, found in Array.zip expected found do
                    Expect.floatClose Accuracy.high found.LogProb expected.LogProb "a token's"

                    for expected, found in Array.zip expected.Top found.Top do
                        Expect.floatClose Accuracy.high found.LogProb expected.LogProb "a likely one's"))

        cudaProperty
            "every turn over a kept cache writes what the CPU writes anew"
            12
            (fun (case: Case, seed: int) ->
                withBoth case.Model (fun cpu gpu ->
                    use conversation = Conversation.start (Checkpoint.ofWeights "tiny" gpu None)
                    let random = Random seed
                    let strategies = strategies gpu case.Exit case.Draft |> Array.ofList
                    let mutable prompt = case.Prompt

                    for turn in 1..5 do
                        let name, strategy = strategies[random.Next strategies.Length]
                        let options = options strategy (1 + random.Next 10)
                        let start = Conversation.continued options prompt conversation |> ok
                        let made = start CancellationToken.None |> Generation.result
                        let plain = { options with Strategy = Strategy.Autoregressive }
                        Expect.equal
                            made.TokenIds
                            (complete cpu plain prompt).TokenIds
                            $"turn {turn}, {name}"

                        if turn > 1 && random.Next 3 > 0 then
                            prompt <-
                                Array.truncate
                                    60
                                    (Array.concat [ prompt; made.TokenIds; [| random.Next 24 |] ])))

        cudaTest
            "many texts at once, some cancelled: the others are the CPU's, and all that was made is freed"
            (fun () ->
                withBoth model (fun cpu gpu ->
                    serve cpu gpu
                    let before = liveTensors ()
                    serve cpu gpu
                    Expect.equal (liveTensors ()) before "live tensors"))
    ]
