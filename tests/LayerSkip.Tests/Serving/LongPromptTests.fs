/// Prompts that are read piece after piece.
module LayerSkip.Tests.LongPromptTests

open System
open System.Collections.Concurrent
open System.Threading
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.Tiny
open LayerSkip.Tests.DraftingSupport
open LayerSkip.Tests.ServingSupport

Backend.ensure ()

let private model = { Config = { Tiny.config 24 4 4 2 true with Context = 2048 }; Seed = 5L }

let private promptOf (seed: int) length =
    let random = Random seed
    Array.init length (fun _ -> random.Next model.Config.Vocabulary)

/// Forbids nothing, and tells of each token.
type private Teller(tell: unit -> unit) =
    interface TokenConstraint with
        member _.Allows(mask) = mask.Fill UInt64.MaxValue

        member this.Advance _ =
            tell ()
            this

/// An engine's order of tokens: of requests that are there when it begins, by name, each with as many tokens.
let private order (checkpoint: Checkpoint) (requests: (string * int[] * int) list) : string =
    use engine = new Engine(checkpoint, EngineOptions.defaults)
    let written = ConcurrentQueue<string>()
    use go = new ManualResetEventSlim()

    let wait =
        engine.Run((fun _ -> go.Wait()), CancellationToken.None)
        |> Result.defaultWith (fun refusal -> failtest $"%A{refusal}")

    let tickets = [
        for name, prompt, limit in requests do
            let rules = { TokenRules.none with Constraint = Some(Teller(fun () -> written.Enqueue name)) }

            let options = { options Strategy.Autoregressive limit with Rules = rules }

            match engine.Submit(EngineRequest.create options prompt) with
            | Ok ticket -> options, prompt, ticket
            | Error refusal -> failtest $"%A{refusal}"
    ]

    go.Set()
    wait.Wait()

    for _, _, ticket in tickets do
        ticket.Completed.Wait()

    let told = String.Join("", written)

    for options, prompt, ticket in tickets do
        Expect.equal
            ticket.Completed.Result.TokenIds
            (fresh checkpoint options prompt).TokenIds
            "each text is its own"

    told

[<Tests>]
let tests =
    testSequenced
    <| testList "long prompts" [
        testCase "one is read between the rounds of others, and before the next one" (fun () ->
            withWeights Dtype.F32 model (fun weights ->
                let checkpoint = over 2 3 weights

                let told =
                    order checkpoint [
                        "a", promptOf 1 20, 6
                        "B", promptOf 2 1300, 3
                        "C", promptOf 3 1400, 3
                        "d", promptOf 4 500, 6
                    ]

                // Three pieces each; d's prompt is one.
                Expect.equal told "aadadaBdaBdaBdCdCC" "in turn"))

        testCase "somebody writes between two prompts" (fun () ->
            withWeights Dtype.F32 model (fun weights ->
                let told =
                    order (over 2 3 weights) [
                        "a", promptOf 1 20, 5
                        for index, name in List.indexed [ "d"; "e"; "f" ] do
                            name, promptOf index 100, 3
                    ]

                Expect.equal told "adaedfaedfaefa" "in turn"))

        testPropertyWithConfig (settings 10) "pulls that read bring nothing, and the text is that of one pass"
        <| fun (seed: int) (PositiveInt more) ->
            withWeights Dtype.BF16 { model with Seed = int64 seed } (fun weights ->
                let prompt = promptOf seed (500 + more * 37 % 1200)

                for strategy in
                    [
                        Strategy.Autoregressive
                        Strategy.EarlyExit(exit 4 2)
                        Strategy.SelfSpeculative(exit 4 2, 3)
                    ] do
                    use prefixes = new PrefixCache(weights, 2, 1L <<< 30)
                    let options = { options strategy 5 with LogProbs = Some 1 }
                    let events = pulls prefixes weights options prompt |> List.ofSeq
                    let empty = events |> List.takeWhile List.isEmpty |> List.length
                    Expect.equal empty ((prompt.Length + 511) / 512 - 1) "pieces but the last"
                    let made = events |> List.concat |> Generation.result

                    let cache = Cache.create weights (weights.Config.LayersTo strategy.Depth) prompt.Length
                    use _storage = cache.Slab :> IDisposable

                    Scope.free (fun () ->
                        let struct (hidden, _) = Model.forwardEarly weights prompt cache

                        let first = Model.logits hidden |> TokenLogProbs.ofRows 1 [| made.TokenIds[0] |]

                        Expect.equal made.LogProbs[0] first[0] "bit for bit"
                        Expect.equal first[0].Top[0].Id made.TokenIds[0] "the likeliest"))

        testCase "what was read of one that is left in the middle stays read" (fun () ->
            withWeights Dtype.F32 model (fun weights ->
                let checkpoint = over 2 3 weights
                let prompt = promptOf 6 1300
                let options = options (Strategy.SelfSpeculative(exit 4 2, 3)) 6
                use prefixes = new PrefixCache(weights, 2, 1L <<< 30)
                pulls prefixes weights options prompt |> Seq.head |> ignore
                let each = ReadText.bytesPerPosition weights options.Strategy
                Expect.isLessThan prefixes.Bytes (800L * each) "in memory of its own size"
                let made = pulls prefixes weights options prompt |> Seq.concat |> Generation.result
                Expect.equal made.ReusedIds 434 "a piece"

                Expect.equal made.TokenIds (fresh checkpoint options prompt).TokenIds "the text"))
    ]
