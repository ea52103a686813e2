namespace LayerSkip

/// A round as a trace has it.
type ReplayedRound = {
    Plan: DraftPlan
    /// New tokens before the round, less the one that it begins with: the first row of the trace that it has to do with.
    Row: int
    /// How many tokens were drafted, at most and at least. They differ where a draft went on after a wrong one, in a context
    /// that the trace has not seen, and a stop token or little confidence could have ended it there.
    Drafted: int
    DraftedAtLeast: int
    /// Exact.
    Accepted: int
    /// Rows of the trace that the round dealt with, which are the tokens that it brought.
    Rows: int
}

/// A trace, and for each exit and row how many of its drafts from there on are right, one after another.
type Replay = private {
    trace: Trace
    /// [exit - 1][row]
    runs: int[][]
} with

    member this.Trace = this.trace

/// What self-speculation does, round for round, read from a trace: accepted lengths are exact under greedy decoding, for every
/// exit layer, draft length and policy. That needs exits that are prefixes of the model, one head for all of them, and a model
/// whose rows do not depend on the rows beside them, which the CPU kernels keep to the bit; elsewhere near ties may differ.
[<RequireQualifiedAccess>]
module Replay =
    let ofTrace (trace: Trace) : Replay =
        let runsOf exit =
            let runs = Array.zeroCreate (trace.Rows.Length + 1)

            for row in trace.Rows.Length - 1 .. -1 .. 0 do
                runs[row] <-
                    if trace.Rows[row].Matches exit then
                        runs[row + 1] + 1
                    else
                        0

            runs

        { trace = trace; runs = Array.init (trace.Layers - 1) (fun index -> runsOf (index + 1)) }

    /// The round that begins at a row, under a plan. What it drafts is cut as decoding cuts it: it never writes past the
    /// limit (d' = min(d, remaining - 1)), and a stop token ends a draft.
    let round (plan: DraftPlan) (row: int) (replay: Replay) : ReplayedRound =
        let trace = replay.trace
        let exit = plan.Exit.Layers
        let ahead = max 0 (min plan.Length (trace.Limit - row - 2))
        let right = replay.runs[exit - 1][row]
        let isStop id = Array.contains id trace.StopIds

        /// Whether the draft made at a row is the round's last.
        let ends (at: int) =
            isStop trace.Rows[at].Choices[exit - 1]
            || trace.Rows[at].Confidences[exit - 1] < plan.StopBelow

        // Drafts whose context is the text: the right ones, and the first wrong one.
        let mutable made = 0
        let mutable goesOn = made < ahead

        while goesOn do
            made <- made + 1
            goesOn <- made < ahead && made <= right && not (ends (row + made - 1))

        let accepted = min made right
        let isUnseen = made > right && made < ahead && not (ends (row + made - 1))
        // The last draft is the stop token: nothing of the whole model's follows.
        let isOver = accepted > 0 && trace.Stopped && row + accepted = trace.Rows.Length

        {
            Plan = plan
            Row = row
            Drafted = if isUnseen then ahead else made
            DraftedAtLeast =
                if not isUnseen then
                    made
                elif plan.StopBelow > 0.0 || trace.StopIds.Length > 0 then
                    made + 1
                else
                    ahead
            Accepted = accepted
            Rows = if isOver then accepted else accepted + 1
        }

    /// A round as decoding reports it.
    let asDecoded (replay: Replay) (round: ReplayedRound) : Round = {
        Tokens = Array.sub replay.trace.Written (round.Row + 1) round.Rows
        Drafted = round.Drafted
        Accepted = round.Accepted
        Sources = Array.replicate round.Drafted (DraftSource.Exit round.Plan.Exit.Layers)
    }

    /// The drafts of a round that the whole model looked at.
    let private drafts exit (round: ReplayedRound) (rows: JudgedRow[]) : Draft[] =
        rows
        |> Array.truncate (min round.Drafted (round.Accepted + 1))
        |> Array.map (fun row -> {
            Draft.certain row.Choices[exit - 1] with
                Confidence = ValueSome row.Confidences[exit - 1]
                Source = DraftSource.Exit exit
        })

    /// Rounds from the first token to the end of the text; `next` plans one from what it is given, and learns from the round.
    let private fold
        (next: 'State -> DraftPlan)
        (learn: ReplayedRound -> 'State -> 'State)
        start
        (replay: Replay)
        =
        (0, start)
        |> Array.unfold (fun (row, state) ->
            if row >= replay.trace.Rows.Length then
                None
            else
                let round = round (next state) row replay
                Some(round, (row + round.Rows, learn round state)))

    /// Every round of a fixed plan.
    let rounds (plan: DraftPlan) (replay: Replay) : ReplayedRound[] =
        fold (fun () -> plan) (fun _ () -> ()) () replay

    /// What a round costs: of the drafts that were made at most.
    let ms (cost: RoundCost) (round: ReplayedRound) : float = cost round.Plan.Exit.Layers round.Drafted

    /// Every round of a policy, which is told of each what decoding would tell it.
    let follow (cost: RoundCost) (policy: DraftPolicy) (replay: Replay) : ReplayedRound[] =
        let learn (round: ReplayedRound) (policy: DraftPolicy) =
            let rows = Array.sub replay.trace.Rows round.Row round.Rows
            let exit = round.Plan.Exit.Layers

            policy.Learn {
                IsPrompt = false
                Round = asDecoded replay round
                Drafts = drafts exit round rows
                Rows = lazy rows
                Ms = ms cost round
                DraftMs = 0.0
            }

        fold (fun (policy: DraftPolicy) -> policy.Next) learn policy replay

    /// The rounds of the least total time, known from the end of the text backwards: at each round the best of the plans, or a
    /// plain step, whichever rounds come after it (dynamic programming over the rows).
    let oracle (cost: RoundCost) (plans: DraftPlan list) (replay: Replay) : ReplayedRound[] =
        let last = replay.trace.Rows.Length
        let plans = plans @ (plans |> List.truncate 1 |> List.map (fun plan -> { plan with Length = 0 }))
        let rest = Array.zeroCreate<float>(last + 1)
        let best = Array.zeroCreate<ReplayedRound> last

        for row in last - 1 .. -1 .. 0 do
            rest[row] <- infinity

            for plan in plans do
                let round = round plan row replay
                let total = ms cost round + rest[row + round.Rows]

                if total < rest[row] then
                    rest[row] <- total
                    best[row] <- round

        0
        |> Array.unfold (fun row ->
            if row >= last then
                None
            else
                Some(best[row], row + best[row].Rows))
