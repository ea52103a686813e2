namespace LayerSkip

/// What a model's passes take on a machine, in milliseconds; heads and the choice of tokens included.
type PassCosts = {
    /// Of the whole model over 1, 2, 3 .. rows, [rows - 1]; at least one.
    Rows: float[]
    /// Of the first layers over one row, as a draft: what any number of them takes, and what each layer adds.
    DraftBase: float
    DraftLayer: float
}

[<RequireQualifiedAccess>]
module PassCosts =
    // Where nothing was measured, of many machines the order of it.
    let private rowShare = 0.1

    /// A pass of the whole model; beyond the rows that are known, on the line through the first and the last.
    let pass (costs: PassCosts) (rows: int) : float =
        let last = costs.Rows.Length

        if rows <= last then
            costs.Rows[max 0 (rows - 1)]
        else
            let slope =
                if last = 1 then
                    rowShare * costs.Rows[0]
                else
                    (costs.Rows[last - 1] - costs.Rows[0]) / float (last - 1)

            costs.Rows[last - 1] + slope * float (rows - last)

    /// One draft of the first `exit` layers.
    let draft (costs: PassCosts) (exit: int) : float = costs.DraftBase + costs.DraftLayer * float exit

    /// A round: its drafts, and the pass over them and the token before.
    let round (costs: PassCosts) : RoundCost =
        fun exit drafted -> float drafted * draft costs exit + pass costs (drafted + 1)

    /// By what weights are read: a row more for a tenth of the first, drafts for their layers' share. For who measures nothing.
    let ofShares (layers: int) (headInLayers: float) (plainMs: float) : PassCosts =
        let layer = plainMs / (float layers + headInLayers)

        {
            Rows = Array.init 17 (fun more -> plainMs * (1.0 + rowShare * float more))
            DraftBase = layer * headInLayers
            DraftLayer = layer
        }

    /// From times of passes by rows, one of them of a single row, and of drafts by exit layer. Rows between those that were timed lie on the
    /// lines between them; more rows never take less.
    let ofTimes (rows: (int * float) list) (drafts: (int * float) list) : PassCosts =
        let known = rows |> List.distinctBy fst |> List.sortBy fst

        let between =
            known
            |> List.pairwise
            |> List.collect (fun ((low, less), (high, more)) -> [
                for count in low + 1 .. high ->
                    less + (more - less) * float (count - low) / float (high - low)
            ])

        let constant, slope =
            match drafts |> List.distinctBy fst |> List.sortBy fst with
            | [] -> 0.0, snd known.Head
            | [ exit, ms ] -> 0.0, ms / float exit
            | several ->
                let (low, less), (high, more) = List.head several, List.last several
                let slope = max 0.0 ((more - less) / float (high - low))
                max 0.0 (less - slope * float low), slope

        {
            Rows = between |> List.scan max (snd known.Head) |> Array.ofList
            DraftBase = constant
            DraftLayer = slope
        }

    /// What the second of three samples and more may take over the least, on a machine that does nothing else.
    let private steadiness = 1.3

    /// Samples of a kind that tell what it takes: the first of a process may wait for code to be compiled, and a GPU's to be loaded.
    let internal enough = 3
    // Of passes that take so many milliseconds one less tells it too.
    let private longMs = 20.0

    /// From samples of each kind of pass, by rows and by exit layer, the least of each; and whether they are to be trusted. A kind is not told by less
    /// than `enough`, nor where the machine was busy: where its two least are far apart, or it takes longer than so many plain passes would.
    /// Where a plain pass is among those, or every draft, or a third of all, then shares of weights stand for everything, with a plain pass as
    /// it was seen: rounds will tell.
    let ofSamples
        (layers: int)
        (headInLayers: float)
        (rows: (int * float list) list)
        (drafts: (int * float list) list)
        : struct (PassCosts * bool) =
        let plain = rows |> List.find (fun (count, _) -> count = 1) |> snd |> List.min

        let isEnough (_, taken: float list) = taken.Length >= (if plain >= longMs then enough - 1 else enough)

        let isSound passes (kind, taken: float list) =
            (List.sort taken)[1] <= steadiness * List.min taken
            && List.min taken <= steadiness * passes kind * plain

        let least = List.map (fun (kind, taken: float list) -> kind, List.min taken)
        let timed, timedDrafts = List.filter isEnough rows, List.filter isEnough drafts
        let sound = timed |> List.filter (isSound float)
        let soundDrafts = timedDrafts |> List.filter (isSound (fun _ -> 1.0))

        let isSteady =
            List.exists (fun (count, _) -> count = 1) sound
            && (sound.Length > 1 || rows.Length = 1)
            && (soundDrafts.Length > 0 || layers = 1)
            && 3 * (sound.Length + soundDrafts.Length) > 2 * (timed.Length + timedDrafts.Length)

        struct ((if isSteady then
                     ofTimes (least sound) (least soundDrafts)
                 else
                     ofShares layers headInLayers plain),
                isSteady)
