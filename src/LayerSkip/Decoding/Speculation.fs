namespace LayerSkip

/// One round of self-speculation: what it adds to the text, how much of the draft it kept, and who proposed each draft.
type Round = { Tokens: int[]; Drafted: int; Accepted: int; Sources: DraftSource[] }

/// Proposes up to `ahead` tokens (at least 1) after `last`. It may stop early, and must not read a stop token.
type Propose<'State> = int -> int -> 'State -> struct (Draft[] * 'State)

/// Reads tokens that the whole model has not read, the last emitted one first: a verdict after each.
type Verifier<'State, 'Verdicts> = int[] -> 'State -> struct ('Verdicts * 'State)

/// How many drafts to keep, and the whole model's own token after them where there is a verdict for it.
type Judge<'State, 'Verdicts> = Draft[] -> 'Verdicts -> 'State -> struct (int * int voption * 'State)

/// Draft, verify, accept (LayerSkip, section 4.3; Leviathan et al. 2023), over any state: no tensor is known here.
[<RequireQualifiedAccess>]
module Speculation =
    /// Drafts token by token with `propose`, which gets the drafts made, the latest first, reads the token that it is given, the latest
    /// of them or the one before them all, and proposes the next; a stop token ends the draft, and so does `isEnough` of the drafts made.
    let untilEnough
        (isEnough: Draft list -> bool)
        (isStop: int -> bool)
        (propose: Draft list -> int -> 'State -> struct (Draft * 'State))
        : Propose<'State> =
        let rec draft made ahead last state =
            match made with
            | latest :: _ when ahead = 0 || isStop latest.Token || isEnough made ->
                struct (Array.ofList (List.rev made), state)
            | _ ->
                let struct (next, state) = propose made last state
                draft (next :: made) (ahead - 1) next.Token state

        draft []

    /// `untilEnough`, where only the length and stop tokens end a draft.
    let oneByOne isStop (propose: int -> 'State -> struct (Draft * 'State)) : Propose<'State> =
        untilEnough (fun _ -> false) isStop (fun _ -> propose)

    /// One round: drafts up to `ahead` tokens (0: a plain step), verifies them in one pass, keeps the agreeing
    /// ones and one of the whole model's own, and rewinds past the rest. Afterwards the state has read all of
    /// the text but its last token. A stop token inside the draft ends the round: nothing follows it.
    let step
        (isStop: int -> bool)
        (propose: Propose<'State>)
        (verify: Verifier<'State, 'Verdicts>)
        (judge: Judge<'State, 'Verdicts>)
        (rewind: int -> 'State -> 'State)
        (ahead: int)
        (last: int)
        (state: 'State)
        : struct (Round * 'State) =
        let struct (drafts, drafted) =
            if ahead = 0 then
                struct ([||], state)
            else
                propose ahead last state

        // What stands after a stop token is never asked for, so the stop token itself is not read.
        let drafts, read =
            match drafts |> Array.tryFindIndex (fun draft -> isStop draft.Token) with
            | Some stop -> drafts[..stop], drafts[.. stop - 1]
            | None -> drafts, drafts

        let toRead = Array.append [| last |] (read |> Array.map _.Token)

        let struct (verdicts, verified) = verify toRead drafted
        let struct (accepted, next, judged) = judge drafts verdicts verified
        let kept = drafts[.. accepted - 1] |> Array.map _.Token

        let round = {
            Tokens = Array.append kept (ValueOption.toArray next)
            Drafted = drafts.Length
            Accepted = accepted
            Sources = drafts |> Array.map _.Source
        }

        struct (round, rewind (max 0 (toRead.Length - accepted - 1)) judged)
