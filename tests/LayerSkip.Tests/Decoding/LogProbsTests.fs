/// Log-probabilities of new tokens and of a prompt's, against their definition.
module LayerSkip.Tests.LogProbsTests

open System
open System.Threading
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.Tiny
open LayerSkip.Tests.RulesSupport

Backend.ensure ()

/// ln softmax, as it is written down.
let private logSoftmax (logits: float[]) : float[] =
    let most = Array.max logits
    let total = logits |> Array.sumBy (fun logit -> exp (logit - most))
    logits |> Array.map (fun logit -> logit - most - log total)

let private close (expected: float) (found: float) = abs (expected - found) <= 1e-12 * max 1.0 (abs expected)

let private holds top (weights: Weights) exit (before: int[]) (token: int) (told: TokenLogProbs) why =
    let expected = logitsAfter weights exit before |> logSoftmax
    Expect.isTrue (close expected[token] told.LogProb) $"{why}: {expected[token]}, {told.LogProb}"

    let likeliest =
        [| 0 .. expected.Length - 1 |]
        |> Array.sortBy (fun id -> struct (-expected[id], id))
        |> Array.truncate top

    Expect.equal (told.Top |> Array.map _.Id) likeliest $"{why}: the likeliest"

    for likely in told.Top do
        Expect.isTrue (close expected[likely.Id] likely.LogProb) $"{why}: {likely}"

        if likely.Id = token then
            Expect.equal likely.LogProb told.LogProb $"{why}: one number, to the bit"

[<Tests>]
let tests =
    testList "log-probabilities" [
        testPropertyWithConfig
            (settings 30)
            "of new tokens are the raw law's, whatever drafts and whatever the rules"
        <| fun (case: Case) (seed: int) (top: byte) ->
            let top = int top % 21

            withWeights Dtype.F32 case.Model (fun weights ->
                for rules in [ TokenRules.none; rulesOf 24 [] seed ] do
                    let told strategy =
                        let options = {
                            GenerationOptions.greedy strategy 12 with
                                Rules = rules
                                LogProbs = Some top
                        }

                        let events =
                            Generation.run weights None options case.Prompt |> Check.getOrRaise |> List.ofSeq
                        let made = Generation.result events

                        let streamed = [|
                            for event in events do
                                match event with
                                | GenerationEvent.Token token -> token.LogProbs.Value
                                | _ -> ()
                        |]

                        Expect.equal streamed made.LogProbs "as they came"
                        Expect.equal made.LogProbs.Length made.TokenIds.Length "one of each"
                        made

                    let plain = told Strategy.Autoregressive

                    for place, token in Array.indexed plain.TokenIds do
                        let before = Array.append case.Prompt plain.TokenIds[.. place - 1]
                        holds top weights None before token plain.LogProbs[place] $"{place}"

                        if TokenRules.isNone rules && top > 0 then
                            Expect.equal
                                plain.LogProbs[place].Top[0].LogProb
                                plain.LogProbs[place].LogProb
                                "greedy"

                    for name, strategy in strategies weights case.Exit case.Draft do
                        Expect.equal (told strategy).LogProbs plain.LogProbs $"{name}: the same, to the bit")

        testPropertyWithConfig
            (settings 30)
            "of a prompt are those of its tokens after what stands before them, in pieces or at once"
        <| fun (case: Case) (PositiveInt piece) ->
            withWeights Dtype.F32 case.Model (fun weights ->
                let told =
                    PromptLogProbs.run weights 3 CancellationToken.None case.Prompt |> Check.getOrRaise
                Expect.equal told.Length case.Prompt.Length "one of each"
                Expect.isNone told[0] "nothing stands before the first"

                for place in 1 .. told.Length - 1 do
                    holds
                        3
                        weights
                        None
                        case.Prompt[.. place - 1]
                        case.Prompt[place]
                        told[place].Value
                        $"{place}"

                let pieces =
                    use _inference = Scope.inference ()
                    let cache = Cache.create weights case.Exit case.Prompt.Length
                    use _storage = cache.Slab
                    let struct (_, cache) = Model.forward weights 1 case.Prompt cache
                    PromptLogProbs.inPieces (1 + piece % 5) None 3 case.Prompt cache

                Expect.equal pieces told "to the bit"

                for name, strategy in strategies weights case.Exit case.Draft do
                    let options = { options strategy 3 with PromptLogProbs = Some 3 }
                    let made = complete weights options case.Prompt
                    Expect.equal made.PromptLogProbs told $"{name}: with a text after it"
                    Expect.isEmpty made.LogProbs "the new tokens' are another question"

                let exit = Tiny.exit weights.Config.Layers case.Exit
                let early =
                    complete
                        weights
                        { options (Strategy.EarlyExit exit) 3 with PromptLogProbs = Some 3 }
                        case.Prompt

                for place in 1 .. told.Length - 1 do
                    let told = early.PromptLogProbs[place].Value
                    holds
                        3
                        weights
                        (Some exit)
                        case.Prompt[.. place - 1]
                        case.Prompt[place]
                        told
                        $"exit: {place}")

        testPropertyWithConfig
            (settings 20)
            "over a cache that another text left they are a fresh one's, under rules too"
        <| fun (case: Case) (seed: int) ->
            withWeights Dtype.F32 case.Model (fun weights ->
                let exit = Tiny.exit weights.Config.Layers case.Exit
                let speculative = Strategy.SelfSpeculative(exit, case.Draft)
                let ways = [ Strategy.Autoregressive; Strategy.EarlyExit exit; speculative ]

                for before in ways do
                    for strategy in ways do
                        let kept = ref ValueNone

                        let through (options: GenerationOptions) (prompt: int[]) =
                            let take () =
                                match kept.Value with
                                | ValueNone -> ReadText.empty 90 weights options.Strategy
                                | ValueSome text ->
                                    match
                                        ReadText.usable weights options.Strategy (ReadOnlySpan prompt) text
                                    with
                                    | 0 ->
                                        ReadText.dispose text
                                        ReadText.empty 90 weights options.Strategy
                                    | length -> ReadText.take options.Strategy length text

                            let loan = { Take = take; Return = fun text -> kept.Value <- ValueSome text }

                            Generation.prepareOver loan weights None options prompt
                            |> Check.getOrRaise
                            |> fun start -> start CancellationToken.None |> Seq.concat |> Generation.result

                        let first = through (options before 6) case.Prompt
                        let prompt = Array.concat [ first.PromptIds; first.TokenIds; [| 5; 3 |] ]

                        let asked = {
                            options strategy 6 with
                                Rules = rulesOf 24 [] seed
                                LogProbs = Some 2
                                PromptLogProbs = Some 2
                        }

                        let made, fresh = through asked prompt, complete weights asked prompt
                        ReadText.dispose kept.Value.Value
                        let name = $"{before.Name}, then {strategy.Name}"
                        Expect.equal made.TokenIds fresh.TokenIds $"{name}: the text"
                        Expect.equal made.LogProbs fresh.LogProbs $"{name}: of the text"
                        Expect.equal made.PromptLogProbs fresh.PromptLogProbs $"{name}: of the prompt"

                        if strategy.Depth.IsNone && before.Depth.IsNone then
                            Expect.isGreaterThan made.ReusedIds 0 $"{name}: what was read")

        testCase
            "numbers that nobody is told, and texts that do not fit, are errors; a full context is none"
            (fun () ->
                withWeights Dtype.F32 { Config = Tiny.config 24 2 2 1 false; Seed = 3L } (fun weights ->
                    let run top ids = PromptLogProbs.run weights top CancellationToken.None ids
                    Expect.isOk (run 0 (Array.create 96 1)) "a full context"
                    Expect.isOk (run 20 [| 1 |]) "one token"

                    for top, ids in
                        [
                            21, [| 1 |]
                            -1, [| 1 |]
                            1, [||]
                            1, Array.create 97 1
                            1, [| 24 |]
                            1, [| -1 |]
                        ] do
                        Expect.hasLength (run top ids |> Check.faults) 1 $"{top}, {ids.Length} ids"

                    for options in
                        [
                            { options Strategy.Autoregressive 3 with LogProbs = Some 21 }
                            { options Strategy.Autoregressive 3 with PromptLogProbs = Some -1 }
                        ] do
                        Expect.isError (Generation.run weights None options [| 1 |]) "out of range"

                    let none = complete weights (options Strategy.Autoregressive 3) [| 1; 2 |]
                    Expect.isTrue
                        (none.LogProbs.Length = 0 && none.PromptLogProbs.Length = 0)
                        "none where none are asked for"

                    use cancelled = new CancellationTokenSource()
                    cancelled.Cancel()

                    Expect.throwsT<System.OperationCanceledException>
                        (fun () -> PromptLogProbs.run weights 1 cancelled.Token [| 1; 2; 3 |] |> ignore)
                        "cancelled"))
    ]
