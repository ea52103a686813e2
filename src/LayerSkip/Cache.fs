namespace LayerSkip

open System
open LayerSkip.Kernels
open TorchSharp

/// Preallocated keys, values and exit states of one sequence, shared by every cache record that grew from it.
[<Sealed>]
type Slab internal (weights: Weights, capacity: int) =
    let config, device = weights.Config, weights.Embedding.device
    let dtype = Dtype.activations weights.Device weights.Dtype

    // Left as it comes: no position is read before it is written. To clear much at once libtorch wakes threads of
    // its own, which then spin for milliseconds where the kernels' threads want to run.
    let allocate (size: int64[]) = torch.empty(size, Nullable dtype, device).DetachFromDisposeScope()

    let perLayer () =
        Array.init config.Layers (fun _ ->
            allocate [| 1L; int64 config.KvHeads; int64 capacity; int64 config.HeadDim |])

    let keys, values = perLayer (), perLayer ()
    let exits = allocate [| 1L; int64 capacity; int64 config.Hidden |]
    let rope = Rope.table config capacity dtype device
    do Scope.own (Rope.tensorsOf rope)

    let kernels =
        weights.Kernels
        |> Option.map (fun kernels ->
            let at = TensorMemory.address

            let memory =
                SequenceMemory(capacity, Array.map at keys, Array.map at values, at rope.Cos, at rope.Sin)

            new KernelSequence(kernels, memory, at exits))

    let mutable stamp = 0

    member _.Capacity = capacity
    member _.Rope = rope

    /// Of one layer, [1; kvHeads; capacity; headDim].
    member _.Keys = keys
    member _.Values = values

    /// Hidden states after the exit layer, by position: [1; capacity; hidden].
    member _.Exits = exits

    /// The CPU kernels over this memory; they keep the hidden states of a pass in `Exits`.
    member internal _.Kernels = kernels

    /// The next stamp, if `seen` is the latest: a record that holds an older one has been overtaken.
    member internal _.Claim(seen: int) : int =
        if seen <> stamp then
            invalidOp
                $"this cache was overtaken: use the one that the last forward or truncate returned ({seen} < {stamp})"

        stamp <- stamp + 1
        stamp

    interface IDisposable with
        member _.Dispose() =
            kernels |> Option.iter (fun kernels -> (kernels :> IDisposable).Dispose())

            for tensor in
                Seq.concat [ Seq.ofArray keys; Seq.ofArray values; seq { exits }; Rope.tensorsOf rope ] do
                tensor.Dispose()

/// A run of layers whose caches hold the same positions, 0 to `Length` - 1.
[<Struct>]
type CacheHalf = { First: int; Count: int; Length: int }

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
} with

    /// Positions that the early layers have read and the late ones have not.
    member this.Pending = this.Early.Length - this.Late.Length

[<RequireQualifiedAccess>]
module Cache =
    /// An empty cache for up to `capacity` positions; layers up to `exit` are the early half.
    /// Its storage, `Slab`, belongs to the caller, who disposes it.
    let create (weights: Weights) (exit: int) (capacity: int) : Cache =
        let config = weights.Config

        {
            Slab = new Slab(weights, capacity)
            Stamp = 0
            Early = { First = 0; Count = exit; Length = 0 }
            Late = { First = exit; Count = config.Layers - exit; Length = 0 }
        }

    /// Forgets all but the first `length` positions. Nothing is copied, and older records become stale.
    let truncate (length: int) (cache: Cache) : Cache =
        if length < 0 || length > cache.Early.Length then
            invalidArg (nameof length) $"the cache holds {cache.Early.Length} positions, not {length}"

        {
            cache with
                Stamp = cache.Slab.Claim cache.Stamp
                Early = { cache.Early with Length = length }
                Late = { cache.Late with Length = min length cache.Late.Length }
        }

    /// The same cache with its halves parted after another layer. Both must hold the same positions.
    let splitAt (exit: int) (cache: Cache) : Cache =
        if cache.Pending <> 0 then
            invalidOp $"{cache.Pending} positions wait to be verified: run forwardRemainder or truncate first"

        let layers = cache.Early.Count + cache.Late.Count

        {
            cache with
                Early = { cache.Early with Count = exit }
                Late = { cache.Late with First = exit; Count = layers - exit }
        }

    /// The keys and values that a layer holds, [1; kvHeads; position; headDim], as views.
    let layer (index: int) (cache: Cache) : struct (Tensor * Tensor) =
        let half = if index < cache.Late.First then cache.Early else cache.Late
        let front (t: Tensor) = t.narrow (2L, 0L, int64 half.Length)
        struct (front cache.Slab.Keys[index], front cache.Slab.Values[index])
