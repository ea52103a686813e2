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
    }

    let private scale (costs: LearnedCosts) : float =
        if costs.Predicted > 0.0 then
            costs.Taken / costs.Predicted
        else
            1.0

    let private draftScale (costs: LearnedCosts) : float =
        if costs.DraftPredicted > 0.0 then
            costs.DraftTaken / costs.DraftPredicted
        else
            scale costs

    let private ofRows (scale: float) (costs: LearnedCosts) (index: int) : float =
        (costs.Seen[index] + weight * scale * costs.Profile.Rows[index])
        / (costs.Count[index] + weight)

    /// What passes take now.
    let now (costs: LearnedCosts) : PassCosts =
        let scale, draftScale = scale costs, draftScale costs

        {
            Rows =
                Array.init costs.Profile.Rows.Length (ofRows scale costs)
                |> Array.scan max 0.0
                |> Array.tail
            DraftBase = draftScale * costs.Profile.DraftBase
            DraftLayer = draftScale * costs.Profile.DraftLayer
        }

    /// `PassCosts.pass` of now, which most rounds ask for one row alone.
    let pass (costs: LearnedCosts) (rows: int) : float =
        if rows > costs.Profile.Rows.Length then
            PassCosts.pass (now costs) rows
        else
            let scale = scale costs
            let mutable most = 0.0

            for index in 0 .. rows - 1 do
                most <- max most (ofRows scale costs index)

            most

    /// `PassCosts.draft` of now.
    let draft (costs: LearnedCosts) (exit: int) : float =
        draftScale costs * PassCosts.draft costs.Profile exit

    /// After a round of so many drafts by an exit, and a pass over so many rows.
    let learn (exit: int) (steps: int) (rows: int) (seen: RoundSeen) (costs: LearnedCosts) : LearnedCosts =
        let profile = costs.Profile
        // One slow round, of a machine that does something else, says little.
        let within (ms: float) (now: float) = min ms (2.0 * now)
        let ms = within (seen.Ms - seen.DraftMs) (pass costs rows)
        let index = min rows profile.Rows.Length - 1

        let draftTaken, draftPredicted =
            if steps = 0 then
                costs.DraftTaken, costs.DraftPredicted
            else
                let step = within (seen.DraftMs / float steps) (draft costs exit)

                decay * costs.DraftTaken + step, decay * costs.DraftPredicted + PassCosts.draft profile exit

        {
            costs with
                Seen = Array.updateAt index (decay * costs.Seen[index] + ms) costs.Seen
                Count = Array.updateAt index (decay * costs.Count[index] + 1.0) costs.Count
                Taken = decay * costs.Taken + ms
                Predicted = decay * costs.Predicted + PassCosts.pass profile rows
                DraftTaken = draftTaken
                DraftPredicted = draftPredicted
        }
