module LayerSkip.Tests.GenerationTests

open System
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.Tiny

Backend.ensure ()

let private speculate (case: Case) =
    Strategy.SelfSpeculative(exit case.Model.Config.Layers case.Exit, case.Draft)

[<Tests>]
let tests =
    testSequenced
    <| testList "generation" [
        testPropertyWithConfig (settings 60) "self-speculative text is autoregressive text (T1, float64)"
        <| fun (case: Case) (stop: byte) (count: byte) ->
            withWeights Dtype.F64 case.Model (fun weights ->
                let count = 1 + int count % 30
                let whole = complete weights (options Strategy.Autoregressive count) case.Prompt

                // Half of the time a token of the text itself stops it, so that stops fall inside drafts.
                let stops =
                    if stop < 128uy then
                        [||]
                    else
                        [| whole.TokenIds[int stop % whole.TokenIds.Length] |]

                let run strategy =
                    complete weights { options strategy count with StopIds = stops } case.Prompt

                let plain, speculative = run Strategy.Autoregressive, run (speculate case)
                let rounds = speculative.Stats.Rounds
                let tokens = speculative.TokenIds.Length

                plain.TokenIds = speculative.TokenIds
                && plain.Finish = speculative.Finish
                && rounds
                   |> Array.forall (fun (drafted, accepted) -> accepted <= drafted && drafted <= case.Draft)
                && (plain.Finish = FinishReason.Stop
                    || (rounds |> Array.sumBy (fun (_, accepted) -> accepted + 1)) = tokens - 1))

        testPropertyWithConfig (settings 30) "the certificate finds no violation in any dtype"
        <| fun (case: Case) ->
            for dtype in [ Dtype.F64; Dtype.F32; Dtype.BF16 ] do
                withWeights dtype case.Model (fun weights ->
                    let checkpoint = Checkpoint.ofWeights "tiny" weights None

                    let report =
                        Certify.run checkpoint {
                            Certify.options with
                                Prompts = [| case.Prompt |]
                                ExitLayers = [ case.Exit ]
                                DraftLengths = [ case.Draft ]
                                MaxNewTokens = 10
                        }

                    Expect.equal report.Violation 0 $"{report}"
                    Expect.equal
                        (report.Tests |> List.map _.Name)
                        [ "T1"; "T2"; "T3"; "T4"; "T5" ]
                        "every test"
                    // Only the kernels promise equal bits, and they have no float64.
                    let bitwise, others = report.Tests |> List.partition (fun test -> test.Name = "T3")
                    Expect.equal (bitwise.Head.Checks > 0) (dtype <> Dtype.F64) "equal bits"
                    Expect.all others (fun test -> test.Checks > 0) "every test checked something")

        testPropertyWithConfig (settings 20) "a draft of the whole model is accepted entirely"
        <| fun (case: Case) ->
            // Late layers that add nothing: the exit says what the last layer says.
            withWeights Dtype.F64 case.Model (fun weights ->
                Scope.free (fun () ->
                    for layer in weights.Layers[case.Exit ..] do
                        for tensor in
                            [ Some layer.Output; layer.OutputBias; Some layer.Down; layer.DownBias ] do
                            tensor |> Option.iter (fun t -> t.Tensor.zero_ () |> ignore))

                let made = complete weights (options (speculate case) 20) case.Prompt
                made.Stats.NumAcceptedDraftTokens = made.Stats.NumDraftTokens)

        testCase
            "events are the tokens in order, rounds, and one end; each enumeration starts anew"
            (fun () ->
                withWeights Dtype.F32 { Config = Tiny.config 24 4 4 2 true; Seed = 3L } (fun weights ->
                    let events =
                        Generation.run weights None (options (Strategy.SelfSpeculative(exit 4 2, 3)) 21) [|
                            1
                            2
                            3
                        |]
                        |> Check.getOrRaise

                    let list = List.ofSeq events

                    let tokens =
                        list
                        |> List.choose (function
                            | GenerationEvent.Token token -> Some(token.Id, token.Origin)
                            | _ -> None)

                    let rounds =
                        list
                        |> List.choose (function
                            | GenerationEvent.Round round -> Some round
                            | _ -> None)

                    match List.last list with
                    | GenerationEvent.End(_, completion) ->
                        Expect.equal (Array.ofList (List.map fst tokens)) completion.TokenIds "the tokens"
                        Expect.equal completion.TokenIds.Length 21 "as many as asked for"
                        Expect.equal
                            (rounds |> List.collect (fun r -> List.ofArray r.Tokens))
                            (List.map fst tokens.Tail)
                            "rounds"
                        Expect.equal completion.Text None "no tokenizer, no text"
                        Expect.equal (snd tokens.Head) Origin.Prefill "the first comes from the prompt"

                        let kept =
                            tokens
                            |> List.filter (fun (_, origin) -> origin = Origin.Drafted)
                            |> List.length
                        Expect.equal kept completion.Stats.NumAcceptedDraftTokens "drafted and kept"
                    | other -> failtest $"{other}"

                    Expect.equal
                        (List.ofSeq events
                         |> List.choose (function
                             | GenerationEvent.Token token -> Some(token.Id, token.Origin)
                             | _ -> None))
                        tokens
                        "the same again"))

        testCase "early exit runs the early layers alone: E layers zeroed after it change nothing" (fun () ->
            withWeights Dtype.F64 { Config = Tiny.config 24 4 2 2 false; Seed = 9L } (fun weights ->
                let early = complete weights (options (Strategy.EarlyExit(exit 4 2)) 12) [| 4; 5 |]

                Scope.free (fun () ->
                    for layer in weights.Layers[2..] do
                        layer.Output.Tensor.zero_ () |> ignore
                        layer.Down.Tensor.zero_ () |> ignore)

                let whole = complete weights (options Strategy.Autoregressive 12) [| 4; 5 |]
                Expect.equal early.TokenIds whole.TokenIds "the model of two layers"))

        testCase "the context ends a text with length, and a prompt must leave room" (fun () ->
            withWeights Dtype.F32 { Config = Tiny.config 24 3 2 1 true; Seed = 2L } (fun weights ->
                let prompt = Array.create 90 3
                let strategy = Strategy.SelfSpeculative(exit 3 1, 4)
                let made = complete weights (options strategy 50) prompt
                Expect.equal (made.TokenIds.Length, made.Finish) (6, FinishReason.Length) "96 positions"

                let faults =
                    Generation.run weights None (options strategy 50) (Array.create 96 3) |> Check.faults
                Expect.equal faults [ LayerSkipError.PromptTooLong(96, 96) ] "no room"))

        testCase "no native tensor is left after 50 generations" (fun () ->
            withWeights Dtype.F32 { Config = Tiny.config 24 3 4 2 false; Seed = 4L } (fun weights ->
                let once seed =
                    for sampling in [ Sampling.Greedy; Sampling.Filtered(0.8, 5, 0.9, 0.0) ] do
                        for strategy in
                            [
                                Strategy.Autoregressive
                                Strategy.EarlyExit(exit 3 1)
                                Strategy.SelfSpeculative(exit 3 1, 3)
                            ] do
                            complete weights { options strategy 12 with Sampling = sampling; Seed = seed } [|
                                1
                                2
                                3
                            |]
                            |> ignore

                once 0L
                let before = TensorSupport.liveTensors ()

                for seed in 1L .. 50L do
                    once seed

                // A consumer that stops early gives everything back too.
                Generation.run weights None (options Strategy.Autoregressive 12) [| 1 |]
                |> Check.getOrRaise
                |> Seq.truncate 3
                |> Seq.iter ignore

                Expect.equal torch.Tensor.TotalCount before "as many tensors as before"))

        testCase "2,000 tokens take no memory beyond the preallocated cache" (fun () ->
            let config = { Tiny.config 24 3 4 2 false with Context = 2200 }

            withWeights Dtype.F32 { Config = config; Seed = 4L } (fun weights ->
                TensorSupport.liveTensors () |> ignore

                let counts =
                    Generation.run weights None (options (Strategy.SelfSpeculative(exit 3 1, 4)) 2000) [|
                        1
                        2
                    |]
                    |> Check.getOrRaise
                    |> Seq.choose (function
                        | GenerationEvent.Round _ -> Some torch.Tensor.TotalCount
                        | _ -> None)
                    |> Array.ofSeq

                Expect.isGreaterThan counts.Length 300 "many rounds"
                Expect.equal (Array.distinct counts).Length 1 "the same number of tensors after each"))
    ]
