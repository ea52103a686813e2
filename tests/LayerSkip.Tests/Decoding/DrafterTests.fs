module LayerSkip.Tests.DrafterTests

open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.Tiny

/// Proposes what followed the first place of the text's last two tokens (prompt lookup, Saxena 2023). Written as
/// a user of the library would write it.
let private promptLookup: Drafter =
    Drafter.stateless "prompt-lookup" None (fun request reading ->
        let text = request.Text.ToArray()
        let ending = text[max 0 (text.Length - 2) ..]

        let drafts =
            seq { 0 .. text.Length - ending.Length - 1 }
            |> Seq.tryFind (fun at -> text[at .. at + ending.Length - 1] = ending)
            |> Option.map (fun at -> text[at + ending.Length ..] |> Array.truncate request.Ahead)
            |> Option.defaultValue [||]

        struct (Array.map Draft.certain drafts, reading))

/// Twice as many after a round that kept all, one after another.
let private doubling: LengthPolicy =
    LengthPolicy.Adaptive(function
        | latest :: _ when latest.Accepted = latest.Drafted -> 2 * max 1 latest.Drafted
        | _ -> 1)

/// Reads the text with the early layers at every other round only, as a cascade does.
let rec private alternating (exit: ExitLayer) (first: Drafter) (second: Drafter) : Drafter = {
    new Drafter with
        member _.Name = "alternating"
        member _.Exit = Some exit
        member _.Watch = Watch.nothing

        member _.Draft(request, reading) =
            let struct (drafts, reading, _) = first.Draft(request, reading)
            struct (drafts, reading, alternating exit second first)

        member this.Learn _ = this
}

let private drafters layers exit =
    let exit = Tiny.exit layers exit

    [
        promptLookup
        Drafter.promptLookup PromptLookup.defaultNgram
        Drafter.promptLookup 1
        Drafter.suffixLookup None
        Drafter.suffixLookup (Some(PastTexts 1000))
        Drafter.earlyExit exit
        alternating exit promptLookup (Drafter.earlyExit exit)
    ]

let private lengths = [
    LengthPolicy.Fixed 3
    doubling
    LengthPolicy.Adaptive(fun rounds -> rounds.Length % 3)
]

[<Tests>]
let tests =
    testSequenced
    <| testList "drafters" [
        for dtype in [ Dtype.F32; Dtype.F64 ] do
            testPropertyWithConfig
                (Tiny.settings 15)
                $"{dtype}: whatever drafts, however many, the text is the whole model's"
            <| fun (case: Case) ->
                use weights = Tiny.weights dtype case.Model
                let text strategy = complete weights (options strategy 24) case.Prompt
                let plain = text Strategy.Autoregressive

                for drafter in drafters case.Model.Config.Layers case.Exit do
                    for length in lengths do
                        let made = text (Strategy.Speculative(drafter, length))
                        Expect.equal made.TokenIds plain.TokenIds drafter.Name

        testCase "a loop is drafted by lookup, and the policy sees the rounds" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 24 3 4 2 true; Seed = 5L }
            // Random models soon repeat themselves.
            let made =
                complete weights (options (Strategy.Speculative(promptLookup, doubling)) 200) [| 1; 2 |]
            let drafted = made.Stats.Rounds |> Array.map fst
            Expect.isGreaterThan made.Stats.NumAcceptedDraftTokens 30 "accepted"
            Expect.isGreaterThan (Array.max drafted) 8 "long rounds")

        testProperty "lookup proposes what followed the first place of the longest ending"
        <| fun (tokens: byte[]) (PositiveInt longest) (PositiveInt ahead) ->
            // Few tokens, so that they repeat.
            let text = tokens |> Array.map (fun token -> int token % 3)
            let longest, ahead = 1 + longest % 5, 1 + ahead % 6
            let last = text.Length - 1

            let expected =
                seq {
                    for length in min longest last .. -1 .. 1 do
                        for place in 0 .. last - length do
                            if text[place .. place + length - 1] = text[text.Length - length ..] then
                                text[place + length ..] |> Array.truncate ahead
                }
                |> Seq.tryHead
                |> Option.defaultValue [||]

            Expect.equal (PromptLookup.find longest ahead (System.ReadOnlySpan text)) expected $"%A{text}"

        testCase "lookup in a long text takes less than a pass of the smallest model" (fun () ->
            // Its last token and the two before are everywhere, all three nowhere.
            let text = Array.init 200_000 (fun i -> [| 7; 1; 7; 2 |][i % 4])
            Array.blit [| 2; 1; 7 |] 0 text (text.Length - 3) 3

            let times = [
                for _ in 1..9 do
                    let started = System.Diagnostics.Stopwatch.GetTimestamp()
                    PromptLookup.find 3 8 (System.ReadOnlySpan text) |> ignore
                    System.Diagnostics.Stopwatch.GetElapsedTime(started).TotalMilliseconds
            ]

            Expect.isLessThan (List.min times) 5.0 "milliseconds")

        testCase "a drafter's fault is said with its name" (fun () ->
            use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 24 3 4 2 true; Seed = 5L }

            let proposing (drafts: Draft[]) : Drafter =
                Drafter.stateless "wrong" None (fun _ reading -> struct (drafts, reading))

            for drafts, part in
                [
                    [| Draft.certain 24 |], "proposed the id 24; ids run from 0 to 23"
                    [| Draft.certain -1 |], "proposed the id -1"
                    [| Draft.drawn [| 0.5; 0.5 |] 1 |], "a law of 2 probabilities"
                    null, "returned null"
                ] do
                let strategy = Strategy.Speculative(proposing drafts, LengthPolicy.Fixed 2)

                let message =
                    try
                        complete weights (options strategy 8) [| 1 |] |> ignore
                        "nothing"
                    with :? System.InvalidOperationException as e ->
                        e.Message

                Expect.stringContains message part "named")

        testPropertyWithConfig
            (Tiny.settings 15)
            "sampled drafts of a certain token keep the whole model's law"
        <| fun (NonNegativeInt seed) ->
            let draw part = 0.01 + abs (sin (float (seed % 1000 * 7 + part)))
            let law = Array.init 5 draw
            let p = law |> Array.map (fun share -> share / Array.sum law)
            let draft = Draft.certain (seed % 5)

            // Kept below p, refused above it: the two laws, each by its chance.
            let after uniform =
                let struct (kept, next) = Acceptance.sampled [| uniform |] [| p |] [| draft |]
                kept, next

            let chance = p[draft.Token]
            Expect.equal (fst (after (chance * 0.999))) 1 "kept"
            let kept, rest = after (min 0.999999 (chance * 1.001))
            Expect.equal kept 0 "refused"

            for id in 0..4 do
                let written = (if id = draft.Token then chance else 0.0) + (1.0 - chance) * rest.Value[id]
                Expect.floatClose Accuracy.high written p[id] "the law"
    ]
