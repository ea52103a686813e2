namespace LayerSkip

open System
open System.Runtime.InteropServices
open TorchSharp

/// A run of layers whose caches hold the same positions, 0 to `Length` - 1.
[<Struct>]
type CacheHalf = { First: int; Count: int; Length: int }

/// Which of a position's hidden states: those after the exit layer, or those after the last.
[<Struct; RequireQualifiedAccess>]
type StatePlace =
    | Exit
    | Last

/// The tensors of a slab, with room for `Room` positions. None is read before it is written.
[<NoEquality; NoComparison>]
type internal Storage = {
    Room: int
    /// Of each layer, [1; kvHeads; room; headDim].
    Keys: Tensor[]
    Values: Tensor[]
    /// Hidden states by position, [1; room; hidden] each: after the exit layer, and after the last.
    Exits: Tensor
    Lasts: Tensor
    Rope: Rope
} with

    static member TensorsOf(storage: Storage) : seq<Tensor> =
        Seq.concat [
            Seq.ofArray storage.Keys
            Seq.ofArray storage.Values
            Seq.ofList [ storage.Exits; storage.Lasts ]
            Rope.tensorsOf storage.Rope
        ]

[<RequireQualifiedAccess>]
module internal Storage =
    /// Bytes that a position takes.
    let bytesPerPosition (config: LlamaConfig) (activations: torch.ScalarType) : int64 =
        let width = 2L * int64 config.Layers * int64 config.KvHeads * int64 config.HeadDim
        let size =
            match activations with
            | torch.ScalarType.Float64 -> 8L
            | torch.ScalarType.Float32 -> 4L
            | _ -> 2L

        size * (width + 2L * int64 config.Hidden)

    /// Left as it comes. To clear much at once libtorch wakes threads of its own, which then spin for milliseconds
    /// where the kernels' threads want to run.
    let create (weights: Weights) (room: int) : Storage =
        let config, device = weights.Config, weights.Embedding.device
        let dtype = ScalarType.activations weights.Device weights.Dtype
        let made = ResizeArray<Tensor>()

        let allocate (size: int64[]) =
            let tensor = torch.empty(size, Nullable dtype, device).DetachFromDisposeScope()
            made.Add tensor
            tensor

        let states () = allocate [| 1L; int64 room; int64 config.Hidden |]

        let perLayer () =
            Array.init config.Layers (fun _ ->
                allocate [| 1L; int64 config.KvHeads; int64 room; int64 config.HeadDim |])

        try
            {
                Room = room
                Keys = perLayer ()
                Values = perLayer ()
                Exits = states ()
                Lasts = states ()
                Rope = weights.Rope.Take(config, dtype, device, room)
            }
        with _ ->
            Scope.release made
            reraise ()

    /// All states of a place, [1; room; hidden].
    let states (place: StatePlace) (storage: Storage) : Tensor =
        match place with
        | StatePlace.Exit -> storage.Exits
        | StatePlace.Last -> storage.Lasts

    /// `count` rows from `start` of each block of `room` rows, from one tensor to another.
    let private copy (dimension: int64) (start: int) (count: int) (source: Tensor) (target: Tensor) =
        if count = 0 then
            ()
        elif source.device_type <> DeviceType.CPU then
            let rows (tensor: Tensor) = tensor.narrow (dimension, int64 start, int64 count)
            use _scope = Scope.start ()
            (rows target).copy_(rows source) |> ignore
        else
            // Without libtorch's threads, as above.
            let size = source.ElementSize * source.shape[int dimension + 1]
            let blocks = Array.fold (*) 1L source.shape[.. int dimension - 1]
            let first = nativeint (size * int64 start)
            let from, into = Tensors.address source + first, Tensors.address target + first

            for block in 0L .. blocks - 1L do
                NativeMemory.Copy(
                    (from + nativeint (block * size * source.shape[int dimension])).ToPointer(),
                    (into + nativeint (block * size * target.shape[int dimension])).ToPointer(),
                    unativeint (size * int64 count)
                )

            GC.KeepAlive source
            GC.KeepAlive target

    /// Moves what the halves hold; layer by layer, so that little of it is there twice. The old tensors are then gone.
    let move (early: CacheHalf) (late: CacheHalf) (old: Storage) (fresh: Storage) : unit =
        for half in [ early; late ] do
            for layer in half.First .. half.First + half.Count - 1 do
                for source, target in
                    [ old.Keys[layer], fresh.Keys[layer]; old.Values[layer], fresh.Values[layer] ] do
                    copy 2L 0 half.Length source target
                    source.Dispose()

        copy 1L 0 early.Length old.Exits fresh.Exits
        Scope.release (Storage.TensorsOf old)

    /// Puts exit states where the late layers turn them into last states: the exit states stay.
    let carry (start: int) (rows: int) (storage: Storage) : unit =
        copy 1L start rows storage.Exits storage.Lasts
