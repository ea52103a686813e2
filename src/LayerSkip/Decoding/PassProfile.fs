namespace LayerSkip

open System.Collections.Generic
open System.Diagnostics

/// A short look at what a model's passes take on the machine at hand.
[<RequireQualifiedAccess>]
module PassProfile =
    /// Milliseconds that it may take, but for what the first pass takes beside the second.
    let budgetMs = 300.0

    // Positions before the timed ones.
    let private context = 1
    // What a look at a plain pass may take, but for the first: a process waits for it.
    let private checkPasses, checkMs = 3, 15.0
    // Once so many turns were had, more would tell little: code is compiled by then.
    let private turns = 100

    /// Ids of which hardly two are the same, for passes that are timed.
    let internal ids (weights: Weights) (count: int) : int[] =
        Array.init count (fun i -> (i * 131 + 1) % weights.Config.Vocabulary)

    /// What is timed.
    [<RequireQualifiedAccess>]
    type private Kind =
        | Rows of int
        | Draft of exit: int

    let private choose vocabulary hidden =
        Scope.free (fun () -> DraftChoice.choices vocabulary hidden |> ignore)

    /// Every layer reads so many rows, and the head says what follows each.
    let private read (weights: Weights) count cache : Cache =
        let struct (hidden, next) = Model.forwardRemainder weights count (ids weights count) cache
        choose None hidden
        next

    let private timed body : float =
        let started = Stopwatch.GetTimestamp()
        Scope.free body
        Stopwatch.GetElapsedTime(started).TotalMilliseconds

    /// `measure`, where drafts are chosen from a vocabulary in context, full as it gets; None: from all ids. And whether it saw the machine
    /// undisturbed (`PassCosts.ofSamples`).
    let internal trial (plan: ContextVocabulary option) (weights: Weights) : struct (PassCosts * bool) =
        use _noGrad = Scope.noGrad ()
        let layers = weights.Config.Layers
        let longest = 17
        let room = min weights.Config.Context (context + longest)
        let few = max 1 (layers / 8)
        let some = max (few + 1) (layers / 3)

        // Those of a group are timed a few times before the next group is begun: of a model whose pass takes long there is time for one.
        let groups = [
            [
                Kind.Rows 1
                Kind.Rows 5
                if layers > 1 then
                    Kind.Draft few
            ]
            [
                Kind.Rows 2
                Kind.Rows 3
                if some < layers then
                    Kind.Draft some
            ]
            [ Kind.Rows 9 ]
            [ Kind.Rows longest ]
            [ Kind.Rows 4; Kind.Rows 7 ]
        ]

        let mutable cache = Cache.create weights layers (max 2 room)
        use _storage = cache.Slab

        let vocabulary =
            plan
            |> Option.map (fun plan ->
                DraftVocabulary.create plan.Capacity cache
                |> DraftVocabulary.add (FrequencyList.firstIds plan.Capacity weights.Config.Vocabulary))

        let pass kind =
            let ms =
                match kind with
                | Kind.Rows rows -> timed (fun () -> cache <- read weights rows cache)
                | Kind.Draft exit ->
                    cache <- Cache.splitAt exit cache

                    timed (fun () ->
                        let struct (hidden, next) = Model.forwardEarly weights (ids weights 1) cache
                        choose vocabulary hidden
                        cache <- next)

            cache <- Cache.truncate context cache
            ms

        let fits =
            function
            | Kind.Rows rows -> context + rows <= room
            | Kind.Draft _ -> context + 1 <= room

        let groups = groups |> List.map (List.filter fits)

        if List.forall List.isEmpty groups then
            struct (PassCosts.ofShares layers weights.Config.HeadInLayers 1.0, false)
        else
            Scope.free (fun () ->
                let struct (_, next) = Model.forward weights 1 (ids weights context) cache
                cache <- next)

            let samples = Dictionary<Kind, ResizeArray<float>>()
            let mutable plainMs, spent = infinity, 0.0

            let sample kind =
                let ms = pass kind

                if not (samples.ContainsKey kind) then
                    samples[kind] <- ResizeArray()

                samples[kind].Add ms
                spent <- spent + ms

                if kind = Kind.Rows 1 then
                    plainMs <- min plainMs ms

            // What the first takes beside the second is code that is compiled, or a GPU's that is loaded: any decoding has to wait for it.
            sample (Kind.Rows 1)

            if spent <= budgetMs then
                sample (Kind.Rows 1)
                spent <- 2.0 * plainMs

                let estimate kind =
                    match kind with
                    | Kind.Rows rows -> plainMs * (1.0 + 0.15 * float (rows - 1))
                    | Kind.Draft exit -> plainMs * float (exit + 1) / float layers

                seq {
                    for group in groups do
                        for _ in 1 .. PassCosts.enough do
                            yield! group

                    for _ in 1..turns do
                        yield! List.concat groups
                }
                |> Seq.takeWhile (fun kind -> spent + estimate kind <= budgetMs)
                |> Seq.iter sample

            let times = [ for kind in samples -> kind.Key, List.ofSeq kind.Value ]

            let rows =
                times
                |> List.choose (function
                    | Kind.Rows rows, ms -> Some(rows, ms)
                    | _ -> None)
            let drafts =
                times
                |> List.choose (function
                    | Kind.Draft exit, ms -> Some(exit, ms)
                    | _ -> None)
            PassCosts.ofSamples layers weights.Config.HeadInLayers rows drafts

    /// `measure`, where drafts are chosen from a vocabulary in context, full as it gets; None: from all ids.
    let measureWithin (plan: ContextVocabulary option) (weights: Weights) : PassCosts =
        let struct (costs, _) = trial plan weights
        costs

    /// Milliseconds of a plain pass: the least of a few, or of one that takes long.
    let internal plain (weights: Weights) : float =
        use _noGrad = Scope.noGrad ()
        let empty = Cache.create weights weights.Config.Layers 1
        use _storage = empty.Slab
        let began = Stopwatch.StartNew()

        let rec least (passes: int) (found: float) (cache: Cache) =
            let mutable next = cache
            let found = min found (timed (fun () -> next <- read weights 1 cache))

            if passes > 1 && began.Elapsed.TotalMilliseconds < checkMs then
                least (passes - 1) found (Cache.truncate 0 next)
            else
                found

        least checkPasses infinity empty

    /// Whether what was measured some time ago fits what a plain pass takes now. It may have been faster: this may be a busy moment. That it
    /// was much slower means that that one was.
    let internal fits (plainMs: float) (costs: PassCosts) : bool =
        costs.Rows[0] <= 1.7 * plainMs && plainMs <= 50.0 * costs.Rows[0]

    /// Passes of the whole model over 1 to 17 rows, and drafts of two exits, turn by turn while the budget lasts; of a model whose pass
    /// takes long only some. Of each the least counts: what else the machine does, and code that is not compiled yet, only adds. Shares of weights
    /// stand for times where the machine was too busy, and for a context with no room for two positions.
    let measure (weights: Weights) : PassCosts = measureWithin None weights
