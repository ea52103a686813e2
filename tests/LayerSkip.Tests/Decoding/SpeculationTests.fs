module LayerSkip.Tests.SpeculationTests

open Expecto
open FsCheck
open LayerSkip

// A model of two functions over int lists: what the whole model says after a text, and what its draft says.
// The state is all that has been read, so a rewind that is off by one changes every later answer.

let private mix (salt: int) (text: int list) =
    text
    |> List.fold (fun hash token -> (hash * 31 + token * 7 + salt) &&& 0xFFFFFF) (salt + 17)

let private vocabulary = 11

/// After a text (latest first), the whole model's next token.
let private whole salt text = mix salt text % vocabulary

/// The draft agrees with it most of the time.
let private drafted draftSalt salt text =
    if mix draftSalt text % 4 = 0 then
        mix (draftSalt + 1) text % vocabulary
    else
        whole salt text

let private isStop stop token = (token = stop)

let private greedy salt stop count first =
    let rec go text count =
        match text with
        | last :: _ when count > 0 && (last <> stop || List.length text = 1) ->
            let next = whole salt text
            go (next :: text) (count - 1)
        | _ -> List.rev text

    go [ first ] count

/// All that has been read, latest first, and how much of it only the drafter has.
type private State = { Read: int list; Pending: int }

let private fresh = { Read = []; Pending = 0 }

let private draft draftSalt salt stop : Propose<State> =
    Speculation.oneByOne (isStop stop) (fun token state ->
        let read = token :: state.Read

        struct (Draft.certain (drafted draftSalt salt read), { Read = read; Pending = state.Pending + 1 }))

/// Continues from what the drafter has read, as the late layers do.
let private verify salt : Verifier<State, int[]> =
    fun ids state ->
        let before = List.skip state.Pending state.Read
        let rows = List.ofArray ids |> List.scan (fun text token -> token :: text) before |> List.tail
        struct (rows |> List.map (whole salt) |> Array.ofList, { Read = List.last rows; Pending = 0 })

let private judge (drafts: Draft[]) (verdicts: int[]) (state: State) =
    let struct (agreed, next) = Acceptance.greedy verdicts (drafts |> Array.map _.Token)
    struct (agreed, next, state)

let private rewind count (state: State) =
    if state.Pending > 0 then
        invalidOp "rewound before it was verified"

    { state with Read = List.skip count state.Read }

/// Rounds of `ahead` until `count` tokens are there, or a stop token.
let private speculative (drafter: Propose<State>) salt stop ahead count first =
    let rec go (text: int list) state remaining =
        match text with
        | last :: _ when remaining > 0 && (last <> stop || text.Length = 1) ->
            let ahead = min ahead (remaining - 1)
            let struct (round, state) =
                Speculation.step (isStop stop) drafter (verify salt) judge rewind ahead last state
            go (List.rev (List.ofArray round.Tokens) @ text) state (remaining - round.Tokens.Length)
        | _ -> List.rev text

    go [ first ] fresh count

type private Drawn = { DraftSalt: int; Salt: int; Stop: int; Ahead: int; Count: int; First: int }

let private drawn
    (draftSalt: byte)
    (salt: byte)
    (stop: byte)
    (PositiveInt ahead)
    (NonNegativeInt count)
    (NonNegativeInt first)
    = {
    DraftSalt = int draftSalt
    Salt = int salt
    // Half of the time no token stops.
    Stop = int stop % (2 * vocabulary)
    Ahead = ahead % 9
    Count = count % 40
    First = first % vocabulary
}

let private many = { FsCheckConfig.defaultConfig with maxTest = 10_000 }

[<Tests>]
let tests =
    testList "speculation" [
        testPropertyWithConfig many "writes what greedy decoding writes, whatever the draft says"
        <| fun a b c d e f ->
            let x = drawn a b c d e f
            let written = speculative (draft x.DraftSalt x.Salt x.Stop) x.Salt x.Stop x.Ahead x.Count x.First
            written = greedy x.Salt x.Stop x.Count x.First

        testPropertyWithConfig
            many
            "so it does with a drafter that reads nothing, and with one that runs past a stop token"
        <| fun a b c d e f ->
            let x = drawn a b c d e f

            let lookup: Propose<State> =
                fun ahead last state ->
                    let guess, _ =
                        List.mapFold
                            (fun text _ ->
                                let next = drafted x.DraftSalt x.Salt text
                                next, next :: text)
                            (last :: state.Read)
                            [ 1..ahead ]

                    struct (guess |> List.map (fun token -> Draft.certain token) |> Array.ofList, state)

            speculative lookup x.Salt x.Stop x.Ahead x.Count x.First = greedy x.Salt x.Stop x.Count x.First

        testPropertyWithConfig many "after each round the state has read all but the last token"
        <| fun a b c d e f ->
            let x = drawn a b c d e f
            let first, ahead = x.First, 1 + x.Ahead

            let struct (round, state) =
                Speculation.step
                    (isStop -1)
                    (draft x.DraftSalt x.Salt -1)
                    (verify x.Salt)
                    judge
                    rewind
                    ahead
                    first
                    fresh

            List.rev state.Read = first :: List.ofArray round.Tokens[.. round.Tokens.Length - 2]
            && round.Tokens.Length = round.Accepted + 1
            && round.Drafted = ahead

        testCase "a round of no drafts is a plain step" (fun () ->
            let struct (round, state) =
                Speculation.step (isStop -1) (draft 1 2 -1) (verify 2) judge rewind 0 5 {
                    Read = [ 4; 3 ]
                    Pending = 0
                }

            let expected = { Tokens = [| whole 2 [ 5; 4; 3 ] |]; Drafted = 0; Accepted = 0; Sources = [||] }
            Expect.equal round expected "one token"
            Expect.equal state.Read [ 5; 4; 3 ] "read the last token")

        testCase "a stop token inside the draft ends the round: nothing follows it" (fun () ->
            let says: Propose<State> =
                fun _ _ state ->
                    struct ([| 7; 0; 8 |] |> Array.map (fun token -> Draft.certain token), state)

            let agree: Verifier<State, int[]> =
                fun ids state ->
                    Expect.equal ids [| 3; 7 |] "the stop token is not read"
                    struct ([| 7; 0 |], { state with Read = List.rev (List.ofArray ids) })

            let struct (round, _) = Speculation.step (isStop 0) says agree judge rewind 4 3 fresh
            let sources = Array.replicate 2 DraftSource.Unnamed
            let expected = { Tokens = [| 7; 0 |]; Drafted = 2; Accepted = 2; Sources = sources }
            Expect.equal round expected "no bonus")

        testCase "a refused draft is replaced by the model's own token" (fun () ->
            let struct (agreed, next) = Acceptance.greedy [| 5; 6; 7; 8 |] [| 5; 9; 7 |]
            Expect.equal (agreed, next) (1, ValueSome 6) "not filtered: the third does not count")

        testCase "statistics have vLLM's meaning" (fun () ->
            let stats =
                SpeculationStats.ofRounds [|
                    for drafted, accepted in [ 4, 4; 4, 1; 2, 0; 0, 0 ] ->
                        { Tokens = [||]; Drafted = drafted; Accepted = accepted; Sources = [||] }
                |]
            Expect.equal stats.NumSpecSteps 3 "rounds that drafted"
            Expect.equal (stats.NumDraftTokens, stats.NumAcceptedDraftTokens) (10, 5) "totals"
            Expect.floatClose Accuracy.high stats.DraftAcceptanceRate 0.5 "rate"
            Expect.floatClose
                Accuracy.high
                stats.MeanAcceptanceLength
                (1.0 + 5.0 / 3.0)
                "with the model's own"
            Expect.equal stats.AcceptanceHistogram [| 1; 1; 0; 0; 1 |] "by accepted"
            Expect.equal
                (SpeculationStats.ofRounds [||]).DraftAcceptanceRate
                0.0
                "nothing drafted is no error")
    ]

let private scan (stops: string list) (pieces: string list) =
    let out, state =
        pieces
        |> List.fold
            (fun (out, state: StopText) piece ->
                if state.Matched then
                    out, state
                else
                    let struct (text, state) = StopText.push piece state
                    out + text, state)
            ("", StopText.create stops)

    if state.Matched then out else out + state.Held

[<Tests>]
let stopTexts =
    testList "stop strings" [
        testProperty "cut where the whole text would be cut, however it is split"
        <| fun (cuts: bool list) (text: bool list) (stop: bool list) ->
            // Two letters only, so that stop strings often occur and often nearly occur.
            let spell (bits: bool list) =
                bits |> List.map (fun bit -> if bit then "a" else "b") |> String.concat ""

            let text, stop = spell text, spell stop

            let pieces =
                (text |> Seq.mapi (fun i c -> i < cuts.Length && cuts[i], string c))
                |> Seq.fold
                    (fun pieces (cut, c) ->
                        match cut, pieces with
                        | false, latest :: rest -> (latest + c) :: rest
                        | _ -> c :: pieces)
                    []
                |> List.rev

            let expected =
                match stop with
                | "" -> text
                | stop ->
                    match text.IndexOf(stop, System.StringComparison.Ordinal) with
                    | -1 -> text
                    | at -> text.Substring(0, at)

            scan [ stop ] pieces = expected

        testCase "the earliest of several cuts" (fun () ->
            Expect.equal (scan [ "end"; "b" ] [ "a b"; " end" ]) "a " "b comes first")
    ]
