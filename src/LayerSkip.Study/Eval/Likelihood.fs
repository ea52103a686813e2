namespace LayerSkip

/// What exits say of tokens that are given: one full-depth pass holds all of them.
[<RequireQualifiedAccess>]
module internal Likelihood =
    /// Reads `ids` over a cache; the targets are what follows each of the last ids, one for each. What each of `exits` says
    /// at these rows, in their order, and the cache to go on with.
    let read
        (weights: Weights)
        (exits: int list)
        (targets: int[])
        (ids: int[])
        (cache: Cache)
        : struct ((int * ExitRow[]) list * Cache) =
        let ask: ReadoutAsk = { Top = 0; Targets = targets |> Array.map Array.singleton }
        let found = ResizeArray<int * ExitRow[]>()

        let visit layer hidden =
            if List.contains layer exits then
                Scope.free (fun () ->
                    found.Add((layer, ExitStates.ofHidden layer hidden |> Readout.rows weights ask)))

        let struct (_, after) = Model.forwardEach weights targets.Length ids visit cache
        struct (List.ofSeq found, after)

    /// ln p of the targets of rows, summed.
    let sum (rows: ExitRow[]) : float = rows |> Array.sumBy (fun row -> row.Targets[0].LogProbability)
