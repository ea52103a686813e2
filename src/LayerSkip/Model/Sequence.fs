namespace LayerSkip

open System
open System.Threading
open LayerSkip.Kernels
open TorchSharp

/// Rows of the head, copied one after the other into memory of their own, up to a capacity. Those that are there stay as they are
/// until `Clear`.
type internal NarrowHead =
    inherit IDisposable
    /// Behind those that are there: ids of the vocabulary, as many as there is room for.
    abstract Add: ids: int[] -> unit
    /// Forgets all of them.
    abstract Clear: unit -> unit

    /// Final norm and the first `count` rows alone, of states of `rows` positions: [rows; count].
    abstract Head: place: StatePlace * start: int * rows: int * count: int -> Logits

    /// The same rows over the norm and the states of another sequence of the same kind and the same head, as an adapter's is.
    abstract Over: other: Sequence -> NarrowHead

/// The forward pass of one sequence, in place: over the hidden states that its storage holds of positions from `start`.
/// Whoever holds it keeps calls apart, and asks for what is there.
and internal Sequence =
    inherit IDisposable
    /// Where its memory lies from now on.
    abstract Use: storage: Storage -> unit
    /// Embeddings of ids, put where exit states lie.
    abstract Embed: ids: int[] * start: int -> unit

    /// Layers `first` to `first` + `count` - 1 over states of `rows` positions; their keys and values are then stored. What
    /// `prefill` allows is for a prompt's.
    abstract Run:
        place: StatePlace *
        first: int *
        count: int *
        start: int *
        rows: int *
        prefill: Prefill *
        cancelled: CancellationToken ->
            unit

    /// Final norm and head of states of `rows` positions.
    abstract Head: place: StatePlace * start: int * rows: int -> Logits

    /// Room for some of the head's rows, to be disposed before the sequence.
    abstract Narrow: capacity: int -> NarrowHead

/// As `Ops` defines it: on any device, in any dtype.
[<Sealed>]
type private TorchSequence(weights: Weights) =
    let mutable storage: Storage voption = ValueNone

    let states place start rows = (Storage.states place storage.Value).narrow(1L, int64 start, int64 rows)

    /// Rows that libtorch is given at once, so that what it makes of a long text between two layers stays small, and a
    /// cancellation waits for about a tenth of a second's work.
    let pieceRows =
        match weights.Device with
        | Device.Cuda -> 2048
        | Device.Cpu ->
            let numbers =
                weights.Layers
                |> Array.truncate 1
                |> Array.sumBy (LayerParts.toList >> List.sumBy Weight.numel)

            int (max 16L (min 256L (2_000_000_000L / max 1L numbers)))

    let unlessCancelled (cancelled: CancellationToken) : LayerWrapper =
        fun _ layer x ->
            cancelled.ThrowIfCancellationRequested()
            layer x

    /// Some rows of a head, [count; hidden], over this one's norm and states.
    member _.Logits(head: Tensor, place, start, rows) : Logits =
        Logits.Tensor(
            Scope.one (fun () -> SharedHead.over (Weight.ofTensor head) weights (states place start rows))
        )

    interface Sequence with
        member _.Use(fresh) = storage <- ValueSome fresh

        member _.Embed(ids, start) =
            use _inference = Scope.inference ()
            let embedded = Tensors.ofIds [| 1L; int64 ids.Length |] ids |> Decoder.embed weights
            (states StatePlace.Exit start ids.Length).copy_ embedded |> ignore

        member _.Run(place, first, count, start, rows, _, cancelled) =
            if count > 0 then
                let memory = storage.Value
                use _noGrad = Scope.noGrad ()

                for piece in start..pieceRows .. start + rows - 1 do
                    Scope.free (fun () ->
                        let hidden = states place piece (min pieceRows (start + rows - piece))

                        hidden
                        |> Decoder.runLayers
                            (unlessCancelled cancelled)
                            (KvStore.over memory.Keys memory.Values piece)
                            memory.Rope
                            weights
                            first
                            count
                            piece
                        |> hidden.copy_
                        |> ignore)

        member _.Head(place, start, rows) =
            Logits.Tensor(Scope.one (fun () -> SharedHead.logits weights (states place start rows)))

        member this.Narrow(capacity) =
            let gathered =
                torch
                    .empty(
                        [| int64 capacity; int64 weights.Config.Hidden |],
                        Nullable(Weight.scalarType weights.Head),
                        Weights.torchDevice weights.Device
                    )
                    .DetachFromDisposeScope()

            let mutable held = 0L

            {
                new NarrowHead with
                    member _.Add(ids) =
                        use _inference = Scope.inference ()
                        let count = int64 ids.Length
                        let rows = Weight.select (Tensors.ofIds [| count |] ids) weights.Head
                        gathered.narrow(0L, held, count).copy_ rows |> ignore
                        held <- held + count

                    member _.Clear() = held <- 0L

                    member _.Head(place, start, rows, count) =
                        use head = gathered.narrow (0L, 0L, int64 count)
                        this.Logits(head, place, start, rows)

                    member own.Over(other) = {
                        new NarrowHead with
                            member _.Add(ids) = own.Add ids
                            member _.Clear() = own.Clear()
                            member _.Over(another) = own.Over another

                            member _.Head(place, start, rows, count) =
                                use head = gathered.narrow (0L, 0L, int64 count)
                                (other :?> TorchSequence).Logits(head, place, start, rows)

                            member _.Dispose() = ()
                    }

                    member _.Dispose() = gathered.Dispose()
            }

    interface IDisposable with
        member _.Dispose() = ()

/// By the CPU kernels, which read and write the storage's memory.
[<Sealed>]
type private KernelSequence(weights: KernelWeights, kv: KvFormat option) =
    let pass = weights.Rent()
    let bytes = nativeint (weights.Shape.Hidden * sizeof<float32>)
    let mutable memory: SequenceMemory = null
    let mutable exits, lasts, kept = 0n, 0n, 0n
    let mutable disposed = false

    let stateAt place (position: int) =
        ObjectDisposedException.ThrowIf(disposed, typeof<KernelSequence>)
        (match place with
         | StatePlace.Exit -> exits
         | StatePlace.Last -> lasts
         | StatePlace.Kept -> kept)
        + nativeint position * bytes

    /// Some rows of a head over this one's norm and states: [rows; count].
    member this.Logits(gathered: GatheredRows, place, start, rows, count) : Logits =
        let logits = pass.Head(gathered, count, stateAt place start, rows)
        GC.KeepAlive this
        Logits.InMemory(logits, rows, count)

    interface Sequence with
        member _.Use(fresh) =
            let at = Tensors.address

            memory <-
                SequenceMemory(
                    fresh.Room,
                    KvFormat.rows kv,
                    Array.map at fresh.Keys,
                    Array.map at fresh.Values,
                    at fresh.Rope.Cos,
                    at fresh.Rope.Sin
                )

            exits <- at fresh.Exits
            lasts <- at fresh.Lasts
            kept <- if fresh.KeptLayers.Length = 0 then 0n else at fresh.Kept

        member this.Embed(ids, start) =
            pass.Embed(ids, stateAt StatePlace.Exit start)
            GC.KeepAlive this

        member this.Run(place, first, count, start, rows, prefill, cancelled) =
            let mayRound = (prefill = Prefill.Auto)
            pass.Run(memory, first, count, stateAt place start, rows, start, cancelled, mayRound)
            GC.KeepAlive this

        member this.Head(place, start, rows) =
            let logits = pass.Head(stateAt place start, rows)
            GC.KeepAlive this
            Logits.InMemory(logits, rows, weights.Shape.Vocabulary)

        member this.Narrow(capacity) =
            let gathered = pass.GatherHead capacity

            {
                new NarrowHead with
                    member _.Add(ids) =
                        gathered.Add(ReadOnlySpan ids)
                        GC.KeepAlive this

                    member _.Clear() = gathered.Clear()

                    member _.Head(place, start, rows, count) =
                        this.Logits(gathered, place, start, rows, count)

                    member own.Over(other) = {
                        new NarrowHead with
                            member _.Add(ids) = own.Add ids
                            member _.Clear() = own.Clear()
                            member _.Over(another) = own.Over another

                            member _.Head(place, start, rows, count) =
                                (other :?> KernelSequence).Logits(gathered, place, start, rows, count)

                            member _.Dispose() = ()
                    }

                    member _.Dispose() = gathered.Dispose()
            }

    interface IDisposable with
        member _.Dispose() =
            if not disposed then
                disposed <- true
                weights.Return pass

[<RequireQualifiedAccess>]
module internal Sequence =
    /// By the kernels where they serve the weights, else through libtorch.
    let create (weights: Weights) : Sequence =
        match weights.Kernels with
        | Some kernels -> new KernelSequence(kernels, weights.Kv)
        | None -> new TorchSequence(weights)
