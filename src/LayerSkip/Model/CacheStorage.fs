namespace LayerSkip

open System
open System.Runtime.InteropServices
open LayerSkip.Kernels
open TorchSharp

/// A run of layers whose caches hold the same positions, 0 to `Length` - 1.
[<Struct>]
type CacheHalf = { First: int; Count: int; Length: int }

/// Which of a position's hidden states: those after the exit layer, those after the last, or those after every layer that the
/// cache keeps states of, side by side.
[<Struct; RequireQualifiedAccess>]
type StatePlace =
    | Exit
    | Last
    | Kept

/// The tensors of a slab, with room for `Room` positions. None is read before it is written.
[<NoEquality; NoComparison>]
type internal Storage = {
    Room: int
    /// Of each layer, [1; kvHeads; room; headDim]; in q8 bytes, as many as `CacheRows` says.
    Keys: Tensor[]
    Values: Tensor[]
    /// Hidden states by position, [1; room; hidden] each: after the exit layer, and after the last.
    Exits: Tensor
    Lasts: Tensor
    /// After each kept layer, [1; room * layers; hidden]: those of a position stand together, so that a head reads them in one go.
    Kept: Tensor
    KeptLayers: int[]
    Rope: Rope
} with

    static member TensorsOf(storage: Storage) : seq<Tensor> =
        Seq.concat [
            Seq.ofArray storage.Keys
            Seq.ofArray storage.Values
            Seq.ofList [ storage.Exits; storage.Lasts; storage.Kept ]
            Rope.tensorsOf storage.Rope
        ]

[<RequireQualifiedAccess>]
module internal Storage =
    let private sizeOf (dtype: torch.ScalarType) =
        match dtype with
        | torch.ScalarType.Float64 -> 8L
        | torch.ScalarType.Float32 -> 4L
        | torch.ScalarType.Byte -> 1L
        | _ -> 2L

    /// The dtype of hidden states; that of keys and values, and how many elements of it a head has at a position.
    let private elements (weights: Weights) =
        let activations = ScalarType.activations weights.Device weights.Dtype
        activations, KvFormat.elements activations weights.Config.HeadDim weights.Kv

    /// Bytes that a position takes: keys and values of every layer, two hidden states, and one of each of `kept` layers.
    let bytesPerPosition (weights: Weights) (kept: int) : int64 =
        let config = weights.Config
        let activations, struct (dtype, width) = elements weights
        let rows = 2L * int64 config.Layers * int64 config.KvHeads
        rows * int64 width * sizeOf dtype
        + int64 (2 + kept) * int64 config.Hidden * sizeOf activations

    /// Left as it comes. To clear much at once libtorch wakes threads of its own, which then spin for milliseconds
    /// where the kernels' threads want to run.
    let private empty (weights: Weights) (dtype: torch.ScalarType) (size: int64[]) : Tensor =
        torch.empty(size, Nullable dtype, Weights.torchDevice weights.Device).DetachFromDisposeScope()

    /// The size of so many hidden states at each of `room` positions.
    let private stateSize (weights: Weights) (room: int) (each: int) : int64[] = [|
        1L
        int64 room * int64 each
        int64 weights.Config.Hidden
    |]

    let create (weights: Weights) (kept: int[]) (room: int) : Storage =
        let config, device = weights.Config, Weights.torchDevice weights.Device
        let dtype, struct (kvDtype, width) = elements weights
        let made = ResizeArray<Tensor>()

        let allocate (dtype: torch.ScalarType) (size: int64[]) =
            let tensor = empty weights dtype size
            made.Add tensor
            tensor

        let states each = stateSize weights room each |> allocate dtype

        let perLayer () =
            Array.init config.Layers (fun _ ->
                allocate kvDtype [| 1L; int64 config.KvHeads; int64 room; int64 width |])

        try
            {
                Room = room
                Keys = perLayer ()
                Values = perLayer ()
                Exits = states 1
                Lasts = states 1
                Kept = states kept.Length
                KeptLayers = kept
                Rope = weights.Rope.Take(config, dtype, device, room)
            }
        with _ ->
            Scope.release made
            reraise ()

    /// The same storage, with room for the hidden states after other layers, and none of them in it. The old ones are gone before.
    let keeping (weights: Weights) (layers: int[]) (storage: Storage) : Storage =
        let activations, _ = elements weights
        storage.Kept.Dispose()

        {
            storage with
                Kept = stateSize weights storage.Room layers.Length |> empty weights activations
                KeptLayers = layers
        }

    /// All states of a place, [1; room; hidden].
    let states (place: StatePlace) (storage: Storage) : Tensor =
        match place with
        | StatePlace.Exit -> storage.Exits
        | StatePlace.Last -> storage.Lasts
        | StatePlace.Kept -> storage.Kept

    /// Keys or values of a layer's first `length` positions, [1; kvHeads; length; headDim]: a view, or where the storage
    /// holds them in fewer bits than activations have, widened.
    let front (weights: Weights) (length: int) (held: Tensor) : Tensor =
        let rows = held.narrow (2L, 0L, int64 length)
        let activations, _ = elements weights

        match weights.Kv with
        | Some KvFormat.Q8 ->
            Scope.one (fun () ->
                let rows = rows.contiguous ()
                let heads, dim = rows.shape[1], int64 weights.Config.HeadDim
                let wide = torch.empty ([| 1L; heads; int64 length; dim |], activations)

                CacheRows.Widen(
                    CacheFormat.Int8,
                    Tensors.address rows,
                    Checked.int (heads * int64 length),
                    int dim,
                    Tensors.address wide
                )

                GC.KeepAlive rows
                wide)
        | Some KvFormat.F16 when activations <> torch.ScalarType.Float16 -> rows.``to`` activations
        | _ -> rows

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

    let private layersOf (half: CacheHalf) = seq { half.First .. half.First + half.Count - 1 }

    let private copyLayer (half: CacheHalf) (layer: int) (source: Storage) (target: Storage) : unit =
        copy 2L 0 half.Length source.Keys[layer] target.Keys[layer]
        copy 2L 0 half.Length source.Values[layer] target.Values[layer]

    let private copyAllStates
        (early: CacheHalf)
        (late: CacheHalf)
        (source: Storage)
        (target: Storage)
        : unit =
        copy 1L 0 early.Length source.Exits target.Exits
        copy 1L 0 late.Length source.Lasts target.Lasts

        if source.KeptLayers = target.KeptLayers then
            copy 1L 0 (early.Length * source.KeptLayers.Length) source.Kept target.Kept

    /// Copies what the halves hold.
    let copyFront (early: CacheHalf) (late: CacheHalf) (source: Storage) (target: Storage) : unit =
        for half in [ early; late ] do
            for layer in layersOf half do
                copyLayer half layer source target

        copyAllStates early late source target

    /// Moves what the halves hold; layer by layer, so that little of it is there twice. The old tensors are then gone.
    let move (early: CacheHalf) (late: CacheHalf) (old: Storage) (fresh: Storage) : unit =
        for half in [ early; late ] do
            for layer in layersOf half do
                copyLayer half layer old fresh
                old.Keys[layer].Dispose()
                old.Values[layer].Dispose()

        copyAllStates early late old fresh
        Scope.release (Storage.TensorsOf old)

    /// States of positions, [1; room * each; hidden], of which those at `index` of each position are meant, from position `start` on.
    [<Struct; NoEquality; NoComparison>]
    type private Strided = { States: Tensor; Each: int; Index: int; Start: int }

    /// Copies the states of `rows` positions.
    let private copyStates (rows: int) (source: Strided) (target: Strided) : unit =
        if source.States.device_type <> DeviceType.CPU then
            use _scope = Scope.start ()

            let states (at: Strided) =
                at.States
                    .view(1L, -1L, int64 at.Each, at.States.shape[2])
                    .narrow(1L, int64 at.Start, int64 rows)
                    .select(2L, int64 at.Index)

            (states target).copy_(states source) |> ignore
        else
            // Without libtorch's threads, as above.
            let bytes = nativeint (source.States.ElementSize * source.States.shape[2])
            let from, into = Tensors.address source.States, Tensors.address target.States
            let offset (at: Strided) row = nativeint ((at.Start + row) * at.Each + at.Index) * bytes

            for row in 0 .. rows - 1 do
                NativeMemory.Copy(
                    (from + offset source row).ToPointer(),
                    (into + offset target row).ToPointer(),
                    unativeint bytes
                )

            GC.KeepAlive source.States
            GC.KeepAlive target.States

    let private whole (states: Tensor) start : Strided = {
        States = states
        Each = 1
        Index = 0
        Start = start
    }

    let private keptOf (storage: Storage) index start : Strided = {
        States = storage.Kept
        Each = storage.KeptLayers.Length
        Index = index
        Start = start
    }

    /// Keeps the states of `rows` positions that stand at a place, if they are those after a layer to be kept.
    let keep (place: StatePlace) (layer: int) (start: int) (rows: int) (storage: Storage) : unit =
        match Array.IndexOf(storage.KeptLayers, layer) with
        | -1 -> ()
        | index -> copyStates rows (whole (states place storage) start) (keptOf storage index start)

    /// Copies the states of `rows` positions after a layer that `source` keeps to where `target` has exit states, from position `at` on.
    let copyKept (layer: int) (start: int) (rows: int) (source: Storage) (at: int) (target: Storage) : unit =
        match Array.IndexOf(source.KeptLayers, layer) with
        | -1 -> invalidOp $"this cache keeps no states of layer {layer}"
        | index -> copyStates rows (keptOf source index start) (whole target.Exits at)

    /// Puts exit states where the late layers turn them into last states: the exit states stay.
    let carry (start: int) (rows: int) (storage: Storage) : unit =
        copy 1L start rows storage.Exits storage.Lasts
