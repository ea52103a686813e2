namespace LayerSkip

/// What DEL remembers of each exit: sums that an older round has ever less part in, [exit - 1].
type DelState = {
    Matches: float[]
    Misses: float[]
    /// Of the confidences where the exit matched, and where it did not.
    MatchConfidence: float[]
    MissConfidence: float[]
}

/// Policies that learn from matches, at exits 1 to L-1, from what each round shows of all of them.
[<RequireQualifiedAccess>]
module AdaptivePolicies =
    /// DEL's decay of what it remembers, and the most tokens that it drafts.
    let delDecay, delLongest = 0.95, 18

    /// DEL (Entezari Zarch et al. 2025, arXiv 2504.05598): every exit's share of matches alpha and mean confidences as decaying sums; the
    /// exit and length of the most tokens per layer, sum of alpha^j for j = 0..d, over L + d E. As its published code does, the
    /// length only chooses the exit (`honoursLength` false), and drafts go on, to `delLongest`, until the confidence is under the
    /// mean of the exit's mean confidences with and without a match; or the length limits drafts too, of which there is always
    /// one. It starts at exit 1 with one draft, or from evidence: the prompt's last rows (32 in the paper).
    let del (honoursLength: bool) (layers: int) (evidence: JudgedRow[]) : DraftPolicy =
        let exits = Array.ofList (ExitLayer.All layers)
        let zeros () = Array.zeroCreate<float> exits.Length

        let learn (rows: JudgedRow[]) (state: DelState) =
            let sum (old: float[]) (value: JudgedRow -> int -> float) =
                old
                |> Array.mapi (fun index before ->
                    delDecay * before + (rows |> Array.sumBy (fun row -> value row (index + 1))))

            let where (wanted: bool) (value: float) (row: JudgedRow) exit =
                if row.Matches exit = wanted then value else 0.0

            let confidence wanted (row: JudgedRow) exit = where wanted row.Confidences[exit - 1] row exit

            {
                Matches = sum state.Matches (where true 1.0)
                Misses = sum state.Misses (where false 1.0)
                MatchConfidence = sum state.MatchConfidence (confidence true)
                MissConfidence = sum state.MissConfidence (confidence false)
            }

        let plan (state: DelState) : DraftPlan =
            let share index =
                match state.Matches[index] + state.Misses[index] with
                | 0.0 -> 0.0
                | all -> state.Matches[index] / all

            if state.Matches[0] + state.Misses[0] = 0.0 then
                DraftPlan.fixed' exits[0] 1
            else
                let mutable best, index, length = -1.0, 0, 0

                for candidate in 0 .. exits.Length - 1 do
                    let alpha = share candidate
                    let mutable tokens, power = 0.0, 1.0

                    for drafts in 0..delLongest do
                        tokens <- tokens + power
                        power <- power * alpha
                        let rate = tokens / float (layers + drafts * (candidate + 1))

                        if rate > best then
                            best <- rate
                            index <- candidate
                            length <- drafts

                let mean (sums: float[]) (counts: float[]) =
                    if counts[index] > 0.0 then
                        Some(sums[index] / counts[index])
                    else
                        None

                let threshold =
                    match
                        mean state.MatchConfidence state.Matches, mean state.MissConfidence state.Misses
                    with
                    | Some right, Some wrong -> (right + wrong) / 2.0
                    // With nothing on one side there is no middle.
                    | _ -> 0.0

                {
                    Exit = exits[index]
                    Length = if honoursLength then max 1 length else delLongest
                    StopBelow = threshold
                }

        let start = {
            Matches = zeros ()
            Misses = zeros ()
            MatchConfidence = zeros ()
            MissConfidence = zeros ()
        }

        (if evidence.Length = 0 then start else learn evidence start)
        |> DraftPolicy.folded (if honoursLength then "del-length" else "del") plan (fun seen state ->
            learn seen.Rows.Value state)

    /// Follow the leader with full information: every plan's time for the last `window` positions, exactly as it would have gone
    /// (each exit's matches are known at every position of the text, whichever exit drafted), and the plan of the most tokens a
    /// millisecond; with it 0 drafts compete, a plain step. Until there are as many positions as the longest draft, `start`.
    let followTheLeader
        (window: int)
        (cost: RoundCost)
        (start: DraftPlan)
        (candidates: DraftPlan list)
        : DraftPolicy =
        let candidates = Array.ofList ({ start with Length = 0 } :: candidates)
        let longest = candidates |> Array.map _.Length |> Array.max
        let exits = candidates |> Array.map _.Exit.Layers |> Array.distinct

        let timed = candidates |> Array.map (fun plan -> struct (plan, cost plan.Exit.Layers plan.Length))

        /// Tokens a millisecond over positions that an exit matched or not, of rounds that take so many; a round that the positions
        /// end within does not count.
        let rate (right: bool[]) (plan: DraftPlan) (round: float) : float =
            let mutable row, tokens, ms = 0, 0, 0.0

            while row + plan.Length < right.Length do
                let mutable kept = 0

                while kept < plan.Length && right[row + kept] do
                    kept <- kept + 1

                row <- row + kept + 1
                tokens <- tokens + kept + 1
                ms <- ms + round

            if ms = 0.0 then 0.0 else float tokens / ms

        let plan (rows: JudgedRow[]) : DraftPlan =
            if rows.Length <= longest then
                start
            else
                let right = exits |> Array.map (fun exit -> exit, rows |> Array.map _.Matches(exit)) |> dict
                let struct (best, _) =
                    timed
                    |> Array.maxBy (fun (struct (plan, round)) -> rate right[plan.Exit.Layers] plan round)

                best

        let learn (seen: RoundSeen) (rows: JudgedRow[]) =
            let all = Array.append rows seen.Rows.Value
            all[max 0 (all.Length - window) ..]

        DraftPolicy.folded $"follow-the-leader {window}" plan learn [||]

    /// UCB1 (Auer et al. 2002) over plans, one arm each: the mean reward and sqrt(2 ln t / n) of the arm's own n pulls. The reward is
    /// tokens a millisecond, as a share of the most that any arm could have brought by its cost (BanditSpec, arXiv 2505.15141, rewards
    /// tokens a second).
    let ucb (cost: RoundCost) (arms: DraftPlan list) : DraftPolicy =
        let arms = Array.ofList arms

        let most =
            arms
            |> Array.map (fun arm -> float (arm.Length + 1) / cost arm.Exit.Layers arm.Length)
            |> Array.max

        let index (pulls: int[], rewards: float[]) : int =
            match Array.tryFindIndex ((=) 0) pulls with
            | Some untried -> untried
            | None ->
                let log = 2.0 * System.Math.Log(float (Array.sum pulls))

                Seq.init arms.Length id
                |> Seq.maxBy (fun arm -> rewards[arm] / float pulls[arm] + sqrt (log / float pulls[arm]))

        let learn (seen: RoundSeen) (pulls: int[], rewards: float[]) =
            if seen.IsPrompt then
                pulls, rewards
            else
                let arm = index (pulls, rewards)
                let reward = float (seen.Round.Accepted + 1) / seen.Ms / most

                Array.updateAt arm (pulls[arm] + 1) pulls, Array.updateAt arm (rewards[arm] + reward) rewards

        DraftPolicy.folded
            "ucb lengths"
            (fun state -> arms[index state])
            learn
            (Array.zeroCreate arms.Length, Array.zeroCreate arms.Length)
