namespace LayerSkip

open System.Diagnostics

/// What forward passes take: medians, in milliseconds, of passes taken in turn after one round to warm up.
[<RequireQualifiedAccess>]
module internal PassTimes =
    let private median (samples: float seq) = (Spread.ofSamples samples).Median
    let private elapsed (since: int64) = Stopwatch.GetElapsedTime(since).TotalMilliseconds

    let private timed (body: unit -> unit) : float =
        let started = Stopwatch.GetTimestamp()
        use _noGrad = Scope.noGrad ()
        Scope.free body
        elapsed started

    /// What some passes say they took, of each pass: one time after another, each pass once in turn, after one turn to warm up.
    let private turns times (passes: (unit -> 'T) list) : 'T list list =
        let turn () = passes |> List.map (fun pass -> pass ())
        turn () |> ignore
        List.init times (fun _ -> turn ()) |> List.transpose

    let private interleaved times (passes: (unit -> float) list) : float list =
        turns times passes |> List.map median

    let private ids = PassProfile.ids

    let private choose hidden = Model.logits hidden |> Sampling.verdicts Sampling.Greedy |> ignore

    /// A cache that has read `length` positions, for `room` more.
    let private filled (weights: Weights) exit length room : Cache =
        let cache = Cache.create weights exit (length + room)
        use _inference = Scope.inference ()
        let struct (_, cache) = Model.forward weights 1 (ids weights length) cache
        cache

    /// Whole passes, head included, by their number of rows, at a context of `length`.
    let ofRows (weights: Weights) length times (rows: int list) : (int * float) list =
        let mutable cache = filled weights weights.Config.Layers length (List.max rows)
        use _storage = cache.Slab

        let pass count () =
            let struct (hidden, next) = Model.forwardRemainder weights count (ids weights count) cache
            choose hidden
            cache <- Cache.truncate length next

        List.zip rows (interleaved times (rows |> List.map (fun count () -> timed (pass count))))

    /// Whole passes in two, by their number of rows, at a context of `length`: all layers, and norm, head and the choice of tokens.
    let parts (weights: Weights) length times (rows: int list) : (float * float) list =
        let mutable cache = filled weights weights.Config.Layers length (List.max rows)
        use _storage = cache.Slab

        let pass count () =
            let mutable headMs = 0.0

            let ms =
                timed (fun () ->
                    let struct (hidden, next) =
                        Model.forwardRemainder weights count (ids weights count) cache

                    let started = Stopwatch.GetTimestamp()
                    choose hidden
                    headMs <- elapsed started
                    cache <- Cache.truncate length next)

            ms - headMs, headMs

        turns times (List.map pass rows)
        |> List.map (fun samples -> median (List.map fst samples), median (List.map snd samples))

    /// One draft pass, 0 where there is none, and the verification of `drafted` tokens for each of some numbers, heads
    /// included, at a context of `length`.
    let ofRounds (weights: Weights) (exit: ExitLayer) length times drafted : float * Map<int, float> =
        let mutable cache = filled weights exit.Layers length (List.max drafted + 1)
        use _storage = cache.Slab
        let draftMs = ResizeArray<float>()

        let draft () =
            let started = Stopwatch.GetTimestamp()
            let struct (hidden, next) = Model.forwardEarly weights [| 1 |] cache
            choose hidden
            cache <- next
            draftMs.Add(elapsed started)

        let verify count () =
            use _noGrad = Scope.noGrad ()
            let tokens = ids weights (count + 1)

            for _ in 1..count do
                Scope.free draft

            timed (fun () ->
                let struct (hidden, next) = Model.forwardRemainder weights tokens.Length tokens cache
                choose hidden
                cache <- Cache.truncate length next)

        let verifyMs = interleaved times (List.map verify drafted)
        let warmedUp = Seq.skip (List.sum drafted) draftMs |> List.ofSeq
        (if warmedUp.IsEmpty then 0.0 else median warmedUp), Map.ofList (List.zip drafted verifyMs)

    /// One pass over a prompt of so many ids.
    let prefillOnce (weights: Weights) tokens : float =
        timed (fun () ->
            let cache = Cache.create weights weights.Config.Layers tokens
            use _storage = cache.Slab
            let struct (hidden, _) = Model.forwardRemainder weights 1 (ids weights tokens) cache
            choose hidden)

    /// The pass over a prompt of up to 512 ids: how many, and its time.
    let prefill (weights: Weights) : int * float =
        let tokens = min 512 (weights.Config.Context - 1)
        tokens, List.head (interleaved 3 [ fun () -> prefillOnce weights tokens ])
