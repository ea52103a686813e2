namespace LayerSkip

open System

/// Hidden states of the last `Rows` positions that a pass has read, where it left them. Later passes and truncations
/// overtake them: they are then an InvalidOperationException to read.
[<NoEquality; NoComparison>]
type Hidden = internal {
    Slab: Slab
    Stamp: int
    Place: StatePlace
    Start: int
    Rows: int
} with

    member internal this.During(body: Slab -> 'T) : 'T =
        this.Slab.During(fun () ->
            this.Slab.Check this.Stamp
            body this.Slab)

    /// A copy, [1; rows; hidden].
    member this.Read() : Tensor =
        this.During(fun slab ->
            let states = Storage.states this.Place slab.Storage
            Scope.one (fun () -> states.narrow(1L, int64 this.Start, int64 this.Rows).clone()))

/// The decoder's forward pass over a cache: the early layers alone, the late layers over what they left, or all of them
/// (LayerSkip, sections 4.2 and 4.3). Every pass returns the cache to go on with; the one that it was given is then stale.
/// A cache of other weights, an id outside the vocabulary or no id is an ArgumentException, more positions than the
/// cache's capacity an InvalidOperationException, too little memory a LayerSkipException.
[<RequireQualifiedAccess>]
module Model =
    // What libtorch would refuse somewhere within, and the kernels would read beside their memory.
    let private check (weights: Weights) (ids: int[]) (cache: Cache) =
        if not (obj.ReferenceEquals(cache.Slab.Weights, weights)) then
            invalidArg (nameof cache) "this cache was made for other weights: create one for these"

        if ids.Length = 0 then
            invalidArg (nameof ids) "there is no id to read"

        let vocabulary = weights.Config.Vocabulary

        match ids |> Array.tryFind (fun id -> id < 0 || id >= vocabulary) with
        | Some id ->
            invalidArg (nameof ids) (LayerSkipError.message (LayerSkipError.UnknownToken(id, vocabulary)))
        | None -> ()

    let private checkRows rows (ids: int[]) =
        if rows < 1 || rows > ids.Length then
            invalidArg (nameof rows) $"the last {rows} rows of {ids.Length}"

    let private checkNothingWaits (cache: Cache) =
        if cache.Pending <> 0 then
            invalidOp $"{cache.Pending} positions wait to be verified: forwardRemainder continues from them"

    let private run place (half: CacheHalf) rows (cache: Cache) : CacheHalf =
        if half.Count > 0 then
            let prefill =
                if half.Length = cache.PromptStart then
                    cache.Slab.Weights.Prefill
                else
                    Prefill.Exact

            let slab = cache.Slab
            let last = half.First + half.Count

            let stops =
                if not cache.Keeps then
                    [| last |]
                else
                    slab.KeptLayers
                    |> Array.filter (fun layer -> layer > half.First && layer < last)
                    |> fun inner -> Array.append inner [| last |]

            let mutable first = half.First

            for stop in stops do
                slab.Sequence.Run(place, first, stop - first, half.Length, rows, prefill, cache.Cancelled)

                if cache.Keeps then
                    Storage.keep place stop half.Length rows slab.Storage

                first <- stop

        { half with Length = half.Length + rows }

    /// The early layers over new ids: their exit states stay in the slab.
    let private readEarly (ids: int[]) (cache: Cache) : Cache =
        let stamp = cache.Slab.ClaimFor(ids.Length, cache.Stamp, cache.Early, cache.Late)

        if ids.Length = 0 then
            { cache with Stamp = stamp }
        else
            cache.Slab.Sequence.Embed(ids, cache.Early.Length)
            { cache with Stamp = stamp; Early = run StatePlace.Exit cache.Early ids.Length cache }

    let private at place start rows (cache: Cache) : Hidden = {
        Slab = cache.Slab
        Stamp = cache.Stamp
        Place = place
        Start = start
        Rows = rows
    }

    let private lastOf place rows (cache: Cache) : Hidden = at place (cache.Early.Length - rows) rows cache

    /// Reads `ids` with the early layers, and keeps what they make of them for the verification.
    /// Returns the last row's hidden state after the exit layer.
    let forwardEarly weights (ids: int[]) (cache: Cache) : struct (Hidden * Cache) =
        check weights ids cache

        cache.Slab.During(fun () ->
            let read = readEarly ids cache
            struct (lastOf StatePlace.Exit 1 read, read))

    /// `forwardEarly`, and on through chosen ones of the later layers: of each run of them the first, counted from 0, and how many.
    /// Returns the hidden states of the last `rows` ids after them. What these layers read of the ids lies where the verification
    /// writes its own. Positions that wait already must have been read by the same layers.
    let internal forwardLayers
        weights
        (later: struct (int * int) list)
        rows
        (ids: int[])
        (cache: Cache)
        : struct (Hidden * Cache) =
        check weights ids cache
        checkRows rows ids

        cache.Slab.During(fun () ->
            let start = cache.Early.Length
            let read = readEarly ids cache
            let slab = read.Slab
            Storage.carry start ids.Length slab.Storage

            for struct (first, count) in later do
                slab.Sequence.Run(
                    StatePlace.Last,
                    first,
                    count,
                    start,
                    ids.Length,
                    Prefill.Exact,
                    cache.Cancelled
                )

            struct (lastOf StatePlace.Last rows read, read))

    /// What one layer, counted from 0, makes of states [1; rows; hidden] at the positions after those that the cache holds, which it
    /// goes on to hold alone.
    let internal layerOver (layer: int) (states: Tensor) (cache: Cache) : struct (Tensor * Cache) =
        let rows = int states.shape[1]

        cache.Slab.During(fun () ->
            let stamp = cache.Slab.ClaimFor(rows, cache.Stamp, cache.Early, cache.Late)
            let start = cache.Early.Length
            let slab = cache.Slab
            let place = slab.Storage.Lasts.narrow (1L, int64 start, int64 rows)
            place.copy_ states |> ignore

            slab.Sequence.Run(StatePlace.Last, layer, 1, start, rows, Prefill.Exact, cache.Cancelled)
            struct (place.clone (), { cache with Stamp = stamp }))

    /// An adapter reads what its exit's layer made of `rows` positions of its base's cache, from `start` on, which that cache keeps: the last
    /// row's hidden state before the adapter's norm, and its cache to go on with.
    let internal forwardAdapter
        (adapter: Adapter)
        (start: int)
        (rows: int)
        (source: Cache)
        (cache: Cache)
        : struct (Hidden * Cache) =
        source.Slab.During(fun () ->
            source.Slab.Check source.Stamp

            cache.Slab.During(fun () ->
                let stamp = cache.Slab.ClaimFor(rows, cache.Stamp, cache.Early, cache.Late)
                let at, storage = cache.Early.Length, cache.Slab.Storage
                Storage.copyKept adapter.Exit.Layers start rows source.Slab.Storage at storage
                Adapter.mapInPlace adapter (int64 at) (int64 rows) storage.Exits
                let read = { cache with Stamp = stamp; Early = run StatePlace.Exit cache.Early rows cache }
                struct (lastOf StatePlace.Exit 1 read, read)))

    /// Brings the late layers up to the early ones in one pass. `ids` are all that the late layers have not read:
    /// the first `cache.Pending` of them wait as exit states, the rest go through the early layers first.
    /// Returns the hidden states of the last `rows` of them after the last layer.
    let forwardRemainder weights (rows: int) (ids: int[]) (cache: Cache) : struct (Hidden * Cache) =
        check weights ids cache

        if ids.Length < cache.Pending then
            invalidArg (nameof ids) $"{ids.Length} ids, of which {cache.Pending} wait to be verified"

        checkRows rows ids

        cache.Slab.During(fun () ->
            let read = readEarly ids[cache.Pending ..] cache
            Storage.carry read.Late.Length ids.Length read.Slab.Storage
            let verified = { read with Late = run StatePlace.Last read.Late ids.Length read }
            struct (lastOf StatePlace.Last rows verified, verified))

    /// Reads `ids` with every layer: hidden states of the last `rows` of them.
    let forward weights rows (ids: int[]) (cache: Cache) : struct (Hidden * Cache) =
        checkNothingWaits cache
        forwardRemainder weights rows ids cache

    /// `forward`, a layer at a time, to the same bits: `visit` gets each layer, counted from 1, and the hidden states after it of
    /// the last `rows` ids, which the next layer writes over.
    let forwardEach
        weights
        rows
        (ids: int[])
        (visit: int -> Hidden -> unit)
        (cache: Cache)
        : struct (Hidden * Cache) =
        check weights ids cache
        checkNothingWaits cache
        checkRows rows ids

        cache.Slab.During(fun () ->
            let stamp = cache.Slab.ClaimFor(ids.Length, cache.Stamp, cache.Early, cache.Late)
            let read (half: CacheHalf) = { half with Length = half.Length + ids.Length }
            let after = { cache with Stamp = stamp; Early = read cache.Early; Late = read cache.Late }

            let layers place (half: CacheHalf) =
                for layer in half.First .. half.First + half.Count - 1 do
                    run place { half with First = layer; Count = 1 } ids.Length cache |> ignore
                    visit (layer + 1) (lastOf place rows after)

            cache.Slab.Sequence.Embed(ids, cache.Early.Length)
            layers StatePlace.Exit cache.Early
            Storage.carry cache.Late.Length ids.Length cache.Slab.Storage
            layers StatePlace.Last cache.Late
            struct (lastOf StatePlace.Last rows after, after))

    /// The hidden states after each layer that the cache keeps, of `rows` positions from `start`, as so many rows: all layers of a
    /// position, in order of depth, then those of the next.
    let kept start rows (cache: Cache) : Hidden =
        let each = cache.Slab.KeptLayers.Length

        if start < 0 || rows < 1 || start + rows > cache.Late.Length || each = 0 then
            invalidArg
                (nameof rows)
                $"{rows} positions from {start} of {cache.Late.Length}, {each} layers kept of each"

        at StatePlace.Kept (start * each) (rows * each) cache

    /// The hidden states after the last layer of `rows` positions from `start`, which every layer has read.
    let last start rows (cache: Cache) : Hidden =
        if start < 0 || rows < 1 || start + rows > cache.Late.Length then
            invalidArg (nameof rows) $"{rows} positions from {start} of {cache.Late.Length}"

        at StatePlace.Last start rows cache

    /// The hidden states after the exit layer of `rows` positions from `start`, which the early layers have read.
    let early start rows (cache: Cache) : Hidden =
        if start < 0 || rows < 1 || start + rows > cache.Early.Length then
            invalidArg (nameof rows) $"{rows} positions from {start} of {cache.Early.Length}"

        at StatePlace.Exit start rows cache

    /// What the shared norm and head say of hidden states: [rows; vocabulary].
    let logits (hidden: Hidden) : Logits =
        hidden.During(fun slab -> slab.Sequence.Head(hidden.Place, hidden.Start, hidden.Rows))

    /// The same of a draft vocabulary's ids alone, to the bits that all logits have there: [rows; count], in the order of its
    /// places. The hidden states are of the cache that the vocabulary is of; an ArgumentException else.
    let narrowLogits (vocabulary: DraftVocabulary) (hidden: Hidden) : Logits =
        hidden.During(fun slab ->
            let head = DraftVocabulary.head slab vocabulary
            head.Head(hidden.Place, hidden.Start, hidden.Rows, vocabulary.Count))
