namespace LayerSkip

open System
open System.Numerics

/// What lookup proposes, and how much of it is expected to be kept.
type SuffixProposal = {
    Draft: SuffixDraft
    /// From a text of the past; else from the text itself.
    FromPast: bool
    /// Of each token, the chance that it is kept where those before it are.
    Chances: float[]
} with

    /// Whose drafts they are.
    member this.Source: DraftSource =
        if this.FromPast then
            DraftSource.Past
        else
            DraftSource.Lookup

    /// How many of the first `length` tokens are expected to be kept.
    member this.ExpectedOf(length: int) : float =
        Odds.expected (min length this.Chances.Length) (Array.get this.Chances)

    /// How many of its tokens are expected to be kept.
    member this.Expected: float = this.ExpectedOf this.Chances.Length

    /// How many of the first tokens are all kept with a chance of at least this.
    member this.LengthAbove(least: float) : int =
        this.Chances
        |> Seq.scan (*) 1.0
        |> Seq.skip 1
        |> Seq.takeWhile (fun chance -> chance >= least)
        |> Seq.length

/// Lookup in a text and in past ones, and how much of what it proposed so far was right. It is a value: whoever decodes goes on with
/// what `propose` and `learn` return.
[<NoEquality; NoComparison>]
type SuffixLookup = private {
    index: SuffixIndex
    past: PastTexts option
    /// By source, match and share: proposals that were right, and all that could be judged, older ones counting less.
    right: float[]
    judged: float[]
}

/// Lookup whose scores are honest: a share of 1 of few places promises more than a text keeps.
[<RequireQualifiedAccess>]
module SuffixLookup =
    // Matches of 1, 2, 3-4, 5-8, 9-16 and more tokens; shares below a half, below 1, and 1.
    let private matches, shares = 6, 3

    /// What is expected before anything was seen, [match][share]: about what the two models of docs/drafting.md keep. It weighs as
    /// much as `priorWeight` judged tokens.
    let private prior = [|
        [| 0.15; 0.25; 0.30 |]
        [| 0.15; 0.30; 0.50 |]
        [| 0.20; 0.30; 0.60 |]
        [| 0.30; 0.50; 0.80 |]
        [| 0.40; 0.60; 0.90 |]
        [| 0.50; 0.65; 0.97 |]
    |]

    let private priorWeight = 3.0

    /// Where nothing is known of what a row more costs, a draft goes on while this is the chance that all of it is kept: as replays of the
    /// texts of docs/drafting.md have it, that loses 3 % where rows are nearly free and gains as much where one costs a third of a pass.
    let leastChance = 0.3

    /// What an older judgement counts against the next one of its kind.
    let private decay = 0.98

    let private cell (fromPast: bool) (matched: int) (share: float) : struct (int * int * int) =
        let matched = min (matches - 1) (BitOperations.Log2(uint32 (2 * matched - 1)))

        let share =
            if share < 0.5 then 0
            elif share < 1.0 then 1
            else 2

        struct ((if fromPast then 1 else 0), matched, share)

    let private place (struct (source, matched, share)) = (source * matches + matched) * shares + share

    /// A token's place among judgements: it continues a match that those before it made longer.
    let private cellOf (fromPast: bool) (draft: SuffixDraft) (token: int) =
        cell fromPast (draft.Matched + token) draft.Shares[token]

    /// Nothing read yet. The past texts may be other threads' too, and grow meanwhile.
    let create (past: PastTexts option) : SuffixLookup = {
        index = SuffixIndex.empty
        past = past
        right = Array.zeroCreate (2 * matches * shares)
        judged = Array.zeroCreate (2 * matches * shares)
    }

    let private estimated (fromPast: bool) (lookup: SuffixLookup) (draft: SuffixDraft) : SuffixProposal =
        let chance token =
            let struct (_, matched, share) as cell = cellOf fromPast draft token
            let at = place cell
            (lookup.right[at] + priorWeight * prior[matched][share])
            / (lookup.judged[at] + priorWeight)

        { Draft = draft; FromPast = fromPast; Chances = Array.init draft.Tokens.Length chance }

    /// Up to `ahead` tokens after a text, from itself or from a past one, whichever has the more that are expected to be kept; and the
    /// lookup of the texts that go on from it.
    let propose
        (ahead: int)
        (text: ReadOnlyMemory<int>)
        (lookup: SuffixLookup)
        : struct (SuffixProposal * SuffixLookup) =
        let index = SuffixIndex.ofText text lookup.index
        let own = SuffixIndex.lookup ahead index |> estimated false lookup

        let best =
            match lookup.past with
            | None -> own
            | Some past ->
                let other = past.Lookup(ahead, text.Span) |> estimated true lookup
                if other.Expected > own.Expected then other else own

        struct (best, { lookup with index = index })

    /// After the text went on with `written`, whoever drafted it: a proposal is right up to the first token that is another.
    let learn (proposal: SuffixProposal) (written: int[]) (lookup: SuffixLookup) : SuffixLookup =
        let tokens = proposal.Draft.Tokens
        let compared = min tokens.Length written.Length
        let mutable kept = 0

        while kept < compared && tokens[kept] = written[kept] do
            kept <- kept + 1

        if compared = 0 then
            lookup
        else
            let right, judged = Array.copy lookup.right, Array.copy lookup.judged

            for token in 0 .. min kept (compared - 1) do
                let at = place (cellOf proposal.FromPast proposal.Draft token)
                right[at] <- decay * right[at] + (if token < kept then 1.0 else 0.0)
                judged[at] <- decay * judged[at] + 1.0

            { lookup with right = right; judged = judged }
