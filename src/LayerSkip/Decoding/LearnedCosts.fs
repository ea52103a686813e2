namespace LayerSkip

/// What passes take, as rounds turn out: a profile's times, scaled to them, and for each number of rows those that were seen.
[<NoEquality; NoComparison>]
type internal LearnedCosts = {
    Profile: PassCosts
    /// By rows, [rows - 1]: milliseconds of passes that were seen, and how many; older ones count less.
    Seen: float[]
    Count: float[]
    /// Milliseconds of all passes, and those that the profile has for them; of drafts too.
    Taken: float
    Predicted: float
    DraftTaken: float
    DraftPredicted: float
    Now: PassCosts
}

[<RequireQualifiedAccess>]
module internal LearnedCosts =
    // What an older pass counts of a newer one.
    let private decay = 0.9
    // Passes that the profile counts for.
    let private weight = 2.0

    let start (profile: PassCosts) : LearnedCosts = {
        Profile = profile
        Seen = Array.zeroCreate profile.Rows.Length
        Count = Array.zeroCreate profile.Rows.Length
        Taken = 0.0
        Predicted = 0.0
        DraftTaken = 0.0
        DraftPredicted = 0.0
        Now = profile
    }

    /// After a round of so many drafts by an exit, and a pass over so many rows.
    let learn (exit: int) (steps: int) (rows: int) (seen: RoundSeen) (costs: LearnedCosts) : LearnedCosts =
        let profile = costs.Profile
        // One slow round, of a machine that does something else, says little.
        let within (ms: float) (now: float) = min ms (2.0 * now)
        let ms = within (seen.Ms - seen.DraftMs) (PassCosts.pass costs.Now rows)
        let index = min rows profile.Rows.Length - 1
        let sums = Array.updateAt index (decay * costs.Seen[index] + ms) costs.Seen
        let counts = Array.updateAt index (decay * costs.Count[index] + 1.0) costs.Count
        let taken = decay * costs.Taken + ms
        let predicted = decay * costs.Predicted + PassCosts.pass profile rows

        let draftTaken, draftPredicted =
            if steps = 0 then
                costs.DraftTaken, costs.DraftPredicted
            else
                let step = within (seen.DraftMs / float steps) (PassCosts.draft costs.Now exit)

                decay * costs.DraftTaken + step, decay * costs.DraftPredicted + PassCosts.draft profile exit

        let scale = taken / predicted
        let draftScale =
            if draftPredicted > 0.0 then
                draftTaken / draftPredicted
            else
                scale

        let times =
            profile.Rows
            |> Array.mapi (fun index ms -> (sums[index] + weight * scale * ms) / (counts[index] + weight))

        {
            costs with
                Seen = sums
                Count = counts
                Taken = taken
                Predicted = predicted
                DraftTaken = draftTaken
                DraftPredicted = draftPredicted
                Now = {
                    Rows = Array.scan max 0.0 times |> Array.tail
                    DraftBase = draftScale * profile.DraftBase
                    DraftLayer = draftScale * profile.DraftLayer
                }
        }
