namespace LayerSkip

open System
open TorchSharp

/// Keys, values and exit states of one sequence, shared by every cache record that grew from it. Their memory grows
/// with the text, up to `capacity` positions.
[<Sealed>]
type Slab internal (weights: Weights, capacity: int, kept: int[], lender: Slab option) =
    let gate = obj ()
    let mutable kept = kept
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

    let faultsOf room (each: int64) =
        let held = weights.Kv |> Option.map (fun kv -> $" in {KvFormat.name kv}") |> Option.defaultValue ""

        match weights.Device with
        | Device.Cpu -> Memory.faults (fun () -> $"a cache for {room} positions{held}") (each * int64 room)
        | Device.Cuda -> []

    let roomFor needed =
        let faults room = Storage.bytesPerPosition weights kept.Length |> faultsOf room

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

    let room () = storage |> Option.map _.Room |> Option.defaultValue 0

    let makeRoom positions (early: CacheHalf) (late: CacheHalf) =
        if positions > room () then
            // Late layers that draft have read what waits, too.
            grow positions early { late with Length = early.Length }

    let disposeOwned () =
        for part in owned do
            part.Dispose()

        owned.Clear()

    /// The most positions that it may hold.
    member _.Capacity = capacity

    /// Positions that it has memory for at the moment.
    member _.Room = room ()

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

        makeRoom (early.Length + rows) early late
        this.Claim seen

    /// Which layers' hidden states have a place at every position from now on. Where they are other ones, those of positions that are read
    /// already are not there.
    member internal this.KeepLayers(layers: int[]) : unit =
        this.During(fun () ->
            if layers <> kept then
                match storage with
                | Some old ->
                    let bytes =
                        Storage.bytesPerPosition weights layers.Length - Storage.bytesPerPosition weights 0

                    match faultsOf old.Room bytes with
                    | [] -> ()
                    | missing -> raise (LayerSkipException missing)

                    let fresh = Storage.keeping weights layers old
                    storage <- Some fresh

                    if not rests then
                        sequence.Use fresh
                | None -> ()

                kept <- layers)

    /// Takes memory for so many positions at once, or as many as it may hold, so that what is read piece after piece is not moved.
    member internal this.Reserve(positions: int, seen: int, early: CacheHalf, late: CacheHalf) : unit =
        this.During(fun () ->
            this.Check seen
            makeRoom (min positions capacity) early late)

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
