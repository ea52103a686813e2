namespace LayerSkip

open System

/// A cache between two texts: what it has read stays read, for a prompt that begins with the same ids.
[<NoEquality; NoComparison>]
type ReadText = {
    /// The ids that its positions were read from, the first one first: as many as the early layers have read.
    Ids: int[]
    Cache: Cache
    /// Who finds the hidden states in it that it looks at, of every position (`Watch.Past`); "": nobody.
    Watcher: string
}

/// Whose cache a decoding reads into: it is taken when the decoding begins, and given back when that ends, however it ends.
[<NoEquality; NoComparison>]
type CacheLoan = {
    /// A cache that fits the strategy (`ReadText.empty`, `take` or `copy`), which has read a beginning of the prompt (`ReadText.usable`).
    Take: unit -> Cache
    /// The same cache, with all that it has read since, up to the last round that came to an end.
    Return: ReadText -> unit
}

/// What a text left behind, for the next: with the products of every row exact (`Prefill.Exact`), the next one's tokens are to the bit those
/// of a cache that reads the whole prompt. With `Prefill.Auto` that holds where what was read before was a long prompt too, and as much is
/// left, or nothing (an exit's last id is read again): tokens that were written, and few ones, are read exactly, and the next are the whole
/// model's after what was read so.
[<RequireQualifiedAccess>]
module ReadText =
    let private watched (strategy: Strategy) =
        strategy.Drafter
        |> Option.map (_.Watch.Exits >> List.distinct >> List.sort)
        |> Option.defaultValue []

    /// Others keep states of some positions only.
    let private watcher (strategy: Strategy) =
        match strategy.Drafter with
        | Some drafter when drafter.Watch.Past -> drafter.Name + " " + String.Join(',', watched strategy)
        | _ -> ""

    /// An empty cache for a strategy's texts of up to `capacity` positions.
    let empty (capacity: int) (weights: Weights) (strategy: Strategy) : Cache =
        Cache.createKeeping (watched strategy) weights (weights.Config.LayersTo strategy.Exit) capacity

    /// What a cache holds when a text has ended that a strategy wrote.
    let internal left (strategy: Strategy) (struct (text: ReadOnlyMemory<int>, cache: Cache)) : ReadText = {
        Ids = text.Slice(0, cache.Early.Length).ToArray()
        Cache = Cache.rest cache
        Watcher = watcher strategy
    }

    /// Whether a text is as good for everybody after the strategy has gone on from it.
    let internal isTakenWhole (strategy: Strategy) (text: ReadText) : bool =
        text.Watcher = "" || text.Watcher = watcher strategy

    /// How many of a prompt's first ids a strategy need not read again. 0: the cache is no use to it: of other weights, read by fewer layers, or
    /// without the states that its drafter looks at.
    let usable (weights: Weights) (strategy: Strategy) (prompt: ReadOnlySpan<int>) (text: ReadText) : int =
        let cache = text.Cache
        let wanted = watcher strategy

        let fits =
            obj.ReferenceEquals(cache.Slab.Weights, weights)
            && (wanted = "" || wanted = text.Watcher)
            && prompt.Length <= cache.Slab.Capacity

        // What only the layers up to an exit have read is of use to a text of that exit's alone.
        let read =
            match strategy.Depth with
            | Some exit when exit.Layers = cache.Early.Count -> cache.Early.Length
            | _ -> cache.Late.Length

        // The first token comes from the last position's states: those after the last layer stay, an exit's may be another exit's.
        let most =
            match strategy.Depth with
            | Some _ -> prompt.Length - 1
            | None -> prompt.Length

        if fits then
            prompt.Slice(0, most).CommonPrefixLength(text.Ids.AsSpan(0, min read text.Ids.Length))
        else
            0

    let private fitted (weights: Weights) (strategy: Strategy) (cache: Cache) : Cache =
        try
            cache
            |> Cache.keeping (watched strategy)
            |> Cache.splitAt (weights.Config.LayersTo strategy.Exit)
        with _ ->
            (cache.Slab :> IDisposable).Dispose()
            reraise ()

    /// The cache, with the first `length` positions alone, at most as many as are `usable`. The text is then of no more use.
    let take (strategy: Strategy) (length: int) (text: ReadText) : Cache =
        Cache.truncate length text.Cache |> fitted text.Cache.Slab.Weights strategy

    /// The same of a cache of its own: the text stays what it is.
    let copy (strategy: Strategy) (length: int) (text: ReadText) : Cache =
        Cache.copyFrontKeeping (Array.ofList (watched strategy)) length text.Cache
        |> fitted text.Cache.Slab.Weights strategy

    /// The same text, in memory of its own size where it takes much more, as what is left of a long prompt does; the text that was given is then gone.
    let internal compact (text: ReadText) : ReadText =
        if text.Cache.Slab.Room <= 2 * text.Ids.Length + 128 then
            text
        else
            try
                let small = { text with Cache = Cache.copyFront text.Ids.Length text.Cache }
                (text.Cache.Slab :> IDisposable).Dispose()
                small
            with :? LayerSkipException ->
                text

    /// Bytes that a position of a strategy's text takes.
    let bytesPerPosition (weights: Weights) (strategy: Strategy) : int64 =
        watched strategy |> List.length |> Storage.bytesPerPosition weights

    /// Bytes that its cache holds.
    let bytes (text: ReadText) : int64 = text.Cache.Slab.Bytes

    /// Frees its cache.
    let dispose (text: ReadText) : unit = (text.Cache.Slab :> IDisposable).Dispose()
