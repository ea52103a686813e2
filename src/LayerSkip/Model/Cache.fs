namespace LayerSkip

open System
open System.Threading
open TorchSharp

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
    /// The first position that is left to be read of a prompt, 0 where no other was named: the pass of each half that begins there reads it as
    /// `Weights.Prefill` says. All others are exact, as verifications must be.
    PromptStart: int
    /// Whether passes keep hidden states after the layers that its slab has places for them of.
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

    /// Of a prompt of `length` ids it has read as many as it holds: the next pass is to read it on as a prompt, not as a text's tokens.
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
            PromptStart = 0
            Cancelled = CancellationToken.None
    }

    /// A cache that keeps hidden states after these layers from now on, counted from 1: those that it has of others are gone.
    let internal keeping (kept: int list) (cache: Cache) : Cache =
        List.iter (checkLayer cache.Slab.Weights) kept
        cache.Slab.KeepLayers(Array.ofList kept)
        { cache with Keeps = not kept.IsEmpty }

    /// `copyFront`, for a cache that keeps hidden states after these layers: there are some where the other keeps the same.
    let internal copyFrontKeeping (kept: int[]) (length: int) (cache: Cache) : Cache =
        cache.Slab.Check cache.Stamp

        if length < 1 || length > cache.Early.Length then
            invalidArg (nameof length) $"the cache holds {cache.Early.Length} positions, not {length}"

        let early = { cache.Early with Length = length }
        let late = { cache.Late with Length = min length cache.Late.Length }
        let slab = new Slab(cache.Slab.Weights, cache.Slab.Capacity, kept, None)

        try
            slab.Fill(cache.Slab, early, late)
        with _ ->
            (slab :> IDisposable).Dispose()
            reraise ()

        { cache with Slab = slab; Stamp = 0; Early = early; Late = late }

    /// A cache of its own, of the first `length` positions that another holds: what is read into either is not in the other.
    let copyFront (length: int) (cache: Cache) : Cache = copyFrontKeeping cache.Slab.KeptLayers length cache

    /// The keys and values that a layer holds, [1; kvHeads; position; headDim], as views, or widened where the cache holds
    /// them in fewer bits than activations have. Of the latest record alone: an older one's positions may have been overwritten.
    let layer (index: int) (cache: Cache) : struct (Tensor * Tensor) =
        cache.Slab.Check cache.Stamp
        let half = if index < cache.Late.First then cache.Early else cache.Late
        let front = Storage.front cache.Slab.Weights half.Length
        let storage = cache.Slab.Storage
        struct (front storage.Keys[index], front storage.Values[index])
