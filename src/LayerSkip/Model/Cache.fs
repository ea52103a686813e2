namespace LayerSkip

open System
open System.Threading
open TorchSharp

/// Keys, values and exit states of one sequence, shared by every cache record that grew from it. Their memory grows
/// with the text, up to `capacity` positions.
[<Sealed>]
type Slab internal (weights: Weights, capacity: int, kept: int[], lender: Slab option) =
    let gate = obj ()
    let mutable sequence = Sequence.create weights
    // Between texts its buffers serve others.
    let mutable rests = false
    let mutable storage: Storage option = None
    // What goes with it, and before it.
    let owned = ResizeArray<IDisposable>()
    let mutable stamp = 0
    let mutable disposed = false

    let inUse () =
        ObjectDisposedException.ThrowIf(disposed, typeof<Slab>)

        match storage with
        | Some storage -> storage
        | None -> invalidOp "this cache holds no position yet"

    let roomFor needed =
        let each = Storage.bytesPerPosition weights kept.Length
        let held = weights.Kv |> Option.map (fun kv -> $" in {KvFormat.name kv}") |> Option.defaultValue ""

        let faults room =
            match weights.Device with
            | Device.Cpu ->
                Memory.faults (fun () -> $"a cache for {room} positions{held}") (each * int64 room)
            | Device.Cuda -> []

        // Half as much again, so that a text copies each position a few times at most, however long it gets.
        let ample = int (min (int64 capacity) (int64 needed + max 64L (int64 needed / 2L)))

        match faults ample, faults needed with
        | [], _ -> ample
        | _, [] -> needed
        | _, missing -> raise (LayerSkipException missing)

    let awake () =
        if rests then
            sequence <- Sequence.create weights
            rests <- false
            storage |> Option.iter sequence.Use

        sequence

    let grow needed early late =
        let fresh = Storage.create weights kept (roomFor needed)
        storage |> Option.iter (fun old -> Storage.move early late old fresh)
        storage <- Some fresh
        (awake ()).Use fresh

    let disposeOwned () =
        for part in owned do
            part.Dispose()

        owned.Clear()

    /// The most positions that it may hold.
    member _.Capacity = capacity

    /// Positions that it has memory for at the moment.
    member _.Room = storage |> Option.map _.Room |> Option.defaultValue 0

    /// Bytes of that memory.
    member this.Bytes: int64 = int64 this.Room * Storage.bytesPerPosition weights kept.Length

    /// Whose head it reads with: that of an adapter is its base's.
    member internal _.Lender = lender

    /// Layers, counted from 1, whose hidden states stay at every position.
    member internal _.KeptLayers = kept

    /// It changes when it grows.
    member internal _.Storage = inUse ()

    /// The weights that it is a cache of.
    member internal _.Weights = weights

    /// The forward pass over this memory.
    member internal _.Sequence = awake ()

    /// Runs `body` while nothing else uses or frees the memory.
    member internal _.During(body: unit -> 'T) : 'T =
        lock gate (fun () ->
            ObjectDisposedException.ThrowIf(disposed, typeof<Slab>)
            body ())

    /// Room for some of the head's rows, which lasts as long as this.
    member internal this.Narrow(capacity: int) : NarrowHead =
        this.During(fun () ->
            let head = (awake ()).Narrow capacity
            owned.Add head
            head)

    /// What is to be disposed with this, before it.
    member internal this.Own(part: IDisposable) : unit = this.During(fun () -> owned.Add part)

    /// Throws unless `seen` is the latest stamp: a record that holds an older one has been overtaken.
    member internal _.Check(seen: int) : unit =
        ObjectDisposedException.ThrowIf(disposed, typeof<Slab>)

        if seen <> stamp then
            invalidOp
                $"this cache was overtaken: use the one that the last forward or truncate returned ({seen} < {stamp})"

    /// The next stamp, if `seen` is the latest.
    member internal this.Claim(seen: int) : int =
        lock gate (fun () ->
            this.Check seen
            stamp <- stamp + 1
            stamp)

    /// `Claim`, for `rows` positions more; what the halves hold stays.
    member internal this.ClaimFor(rows: int, seen: int, early: CacheHalf, late: CacheHalf) : int =
        this.Check seen

        if late.Length < 0 || late.Length > early.Length || early.Length > this.Room then
            invalidOp
                $"no pass returned this record: it holds {early.Length} and {late.Length} positions of {this.Room}"

        if rows > capacity - early.Length then
            invalidOp
                $"the cache has room for {capacity} positions: {early.Length} and {rows} more do not fit"

        if early.Length + rows > this.Room then
            // Late layers that draft have read what waits, too.
            grow (early.Length + rows) early { late with Length = early.Length }

        this.Claim seen

    /// Takes memory for so many positions at once, or as many as it may hold, so that what is read piece after piece is not moved.
    member internal this.Reserve(positions: int, seen: int, early: CacheHalf, late: CacheHalf) : unit =
        this.During(fun () ->
            this.Check seen

            if min positions capacity > this.Room then
                grow (min positions capacity) early { late with Length = early.Length })

    /// Gives back what one text needed beside the memory of its positions, until the next pass: whatever was gathered or read with it
    /// is then of no use. Returns the next stamp, whatever a pass that did not end had claimed.
    member internal _.Rest() : int =
        lock gate (fun () ->
            ObjectDisposedException.ThrowIf(disposed, typeof<Slab>)
            disposeOwned ()

            if not rests then
                sequence.Dispose()
                rests <- true

            stamp <- stamp + 1
            stamp)

    /// Copies what halves of another slab hold into this one, which holds nothing yet.
    member internal this.Fill(source: Slab, early: CacheHalf, late: CacheHalf) : unit =
        source.During(fun () ->
            grow early.Length early late
            Storage.copyFront early late source.Storage this.Storage)

    interface IDisposable with
        member _.Dispose() =
            lock gate (fun () ->
                disposed <- true
                disposeOwned ()

                if not rests then
                    sequence.Dispose()

                storage |> Option.iter (Storage.TensorsOf >> Scope.release)
                storage <- None)

/// What each layer remembers of the text so far: an immutable claim on shared storage, in two halves.
/// The early half may be ahead of the late one by the positions whose exit states wait to be verified.
[<NoEquality; NoComparison>]
type Cache = {
    Slab: Slab
    Stamp: int
    /// Layers 1..E.
    Early: CacheHalf
    /// Layers E+1..L.
    Late: CacheHalf
    /// The first position of the prompt: the pass of each half that begins there reads one, as `Weights.Prefill` says. All others are exact,
    /// as verifications must be.
    PromptStart: int
    /// Whether passes keep hidden states after the layers that it was created to keep them of.
    Keeps: bool
    /// Ends the passes of this record, and of those that grow from it: within a part of a layer's work they then throw
    /// OperationCanceledException, and the cache is of no more use.
    Cancelled: CancellationToken
} with

    /// Positions that the early layers have read and the late ones have not.
    member this.Pending = this.Early.Length - this.Late.Length

[<RequireQualifiedAccess>]
module Cache =
    /// Bytes that a position takes: keys and values of every layer, and two hidden states.
    let bytesPerPosition (weights: Weights) : int64 = Storage.bytesPerPosition weights 0

    let private checkLayer (weights: Weights) layer =
        if layer < 1 || layer > weights.Config.Layers then
            invalidArg "exit" $"layer {layer} of {weights.Config.Layers}"

    /// `create`, and the hidden states after each of some layers, counted from 1, stay too: `Model.kept`.
    let createKeeping (kept: int list) (weights: Weights) (exit: int) (capacity: int) : Cache =
        let config = weights.Config
        List.iter (checkLayer weights) (exit :: kept)

        if capacity < 1 then
            invalidArg (nameof capacity) $"a cache for {capacity} positions"

        {
            Slab = new Slab(weights, capacity, kept |> List.distinct |> List.sort |> Array.ofList, None)
            Stamp = 0
            Early = { First = 0; Count = exit; Length = 0 }
            Late = { First = exit; Count = config.Layers - exit; Length = 0 }
            PromptStart = 0
            Keeps = not kept.IsEmpty
            Cancelled = CancellationToken.None
        }

    /// An empty cache of an adapter, for the positions that its base's cache has room for, with which it goes.
    let internal ofAdapter (adapter: Adapter) (source: Cache) : Cache =
        let layers = adapter.Weights.Config.Layers
        let slab = new Slab(adapter.Weights, source.Slab.Capacity, [||], Some source.Slab)
        source.Slab.Own slab

        {
            Slab = slab
            Stamp = 0
            Early = { First = 0; Count = layers; Length = 0 }
            Late = { First = layers; Count = 0; Length = 0 }
            PromptStart = 0
            Keeps = false
            Cancelled = source.Cancelled
        }

    /// An empty cache for up to `capacity` positions; layers up to `exit` are the early half. Memory is taken as the text
    /// grows; where the system has none, LayerSkipException says so.
    /// Its storage, `Slab`, belongs to the caller, who disposes it.
    let create (weights: Weights) (exit: int) (capacity: int) : Cache = createKeeping [] weights exit capacity

    /// Takes memory for the first `length` positions at once.
    let internal reserve (length: int) (cache: Cache) : unit =
        cache.Slab.Reserve(length, cache.Stamp, cache.Early, cache.Late)

    /// What follows is a prompt that begins at its start, of which it holds what it holds: the next pass reads the rest of it.
    let awaitPrompt (length: int) (cache: Cache) : Cache = {
        cache with
            // Where nothing is left to be read, no pass of the prompt is to come: none begins at 0 any more.
            PromptStart =
                if cache.Early.Length < length then
                    cache.Early.Length
                else
                    0
    }

    /// Moves the border between the halves: layers up to `exit` are the early half from now on. Nothing may wait to be verified.
    let splitAt (exit: int) (cache: Cache) : Cache =
        if exit = cache.Early.Count then
            cache
        else
            checkLayer cache.Slab.Weights exit

            if cache.Pending <> 0 then
                invalidOp $"{cache.Pending} positions wait to be verified from layer {cache.Early.Count} on"

            {
                cache with
                    Early.Count = exit
                    Late.First = exit
                    Late.Count = cache.Early.Count + cache.Late.Count - exit
            }

    /// Forgets all but the first `length` positions (what a refused draft left behind). Nothing is
    /// copied, and older records become stale: they throw InvalidOperationException from then on.
    let truncate (length: int) (cache: Cache) : Cache =
        if length < 0 || length > cache.Early.Length then
            invalidArg (nameof length) $"the cache holds {cache.Early.Length} positions, not {length}"

        {
            cache with
                Stamp = cache.Slab.Claim cache.Stamp
                Early = { cache.Early with Length = length }
                Late = { cache.Late with Length = min length cache.Late.Length }
        }

    /// What a record holds, once the text that was read on from it has ended, whatever ended it: passes write behind the positions of the record
    /// that they are given. Records that grew from it are stale, and what was gathered for the text's drafts is gone.
    let internal rest (cache: Cache) : Cache = {
        cache with
            Stamp = cache.Slab.Rest()
            Cancelled = CancellationToken.None
    }

    /// A cache of its own, of the first `length` positions that another holds: what is read into either is not in the other.
    let copyFront (length: int) (cache: Cache) : Cache =
        cache.Slab.Check cache.Stamp

        if length < 1 || length > cache.Early.Length then
            invalidArg (nameof length) $"the cache holds {cache.Early.Length} positions, not {length}"

        let early = { cache.Early with Length = length }
        let late = { cache.Late with Length = min length cache.Late.Length }
        let slab = new Slab(cache.Slab.Weights, cache.Slab.Capacity, cache.Slab.KeptLayers, None)

        try
            slab.Fill(cache.Slab, early, late)
        with _ ->
            (slab :> IDisposable).Dispose()
            reraise ()

        { cache with Slab = slab; Stamp = 0; Early = early; Late = late }

    /// The keys and values that a layer holds, [1; kvHeads; position; headDim], as views, or widened where the cache holds
    /// them in fewer bits than activations have. Of the latest record alone: an older one's positions may have been overwritten.
    let layer (index: int) (cache: Cache) : struct (Tensor * Tensor) =
        cache.Slab.Check cache.Stamp
        let half = if index < cache.Late.First then cache.Early else cache.Late
        let front = Storage.front cache.Slab.Weights half.Length
        let storage = cache.Slab.Storage
        struct (front storage.Keys[index], front storage.Values[index])
