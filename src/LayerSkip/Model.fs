namespace LayerSkip

open System.Threading
open TorchSharp

/// Takes a layer's new keys and values, [batch; kvHeads; rows; headDim], and returns all that it attends to.
type KvStore = int -> Tensor -> Tensor -> struct (Tensor * Tensor)

[<RequireQualifiedAccess>]
module KvStore =
    /// No memory: the rows attend to each other alone (training, evaluation).
    let none: KvStore = fun _ k v -> struct (k, v)

    /// Writes into a slab at `start`.
    let slab (slab: Slab) (start: int) : KvStore =
        fun layer k v ->
            let append (storage: Tensor) (fresh: Tensor) =
                let rows = fresh.shape[2]
                storage.narrow(2L, int64 start, rows).copy_ fresh |> ignore
                storage.narrow (2L, 0L, int64 start + rows)

            struct (append slab.Keys[layer] k, append slab.Values[layer] v)

/// Hidden states that a pass has made: a tensor [1; rows; hidden], or the positions of a slab where the kernels left
/// them, which the next pass overwrites.
[<RequireQualifiedAccess; NoEquality; NoComparison>]
type internal Hidden =
    | Tensor of Tensor
    | InSlab of Slab * KernelSequence * position: int * rows: int

/// The decoder's forward pass.
[<RequireQualifiedAccess>]
module Model =
    /// What all layers of one pass share: where its rows stand, and what they may see.
    [<NoEquality; NoComparison>]
    type private Pass = {
        Start: int
        Rows: int
        Rope: Rope
        /// By window: a mask where one is needed.
        Masks: Map<int option, Tensor>
    }

    let private pass (config: LlamaConfig) (rope: Rope) start rows device = {
        Start = start
        Rows = rows
        Rope = Rope.slice start rows rope
        Masks =
            if rows = 1 then
                Map.empty
            else
                config.Windows
                |> Array.distinct
                |> Array.map (fun window -> window, Ops.mask window start rows device)
                |> Map.ofArray
    }

    /// A single row needs no mask: it sees every key, or the last `window` of them.
    let private latest window (keys: Tensor) =
        match window with
        | Some size when keys.shape[2] > int64 size ->
            keys.narrow (2L, keys.shape[2] - int64 size, int64 size)
        | _ -> keys

    let private attention
        (config: LlamaConfig)
        (layer: LayerWeights)
        index
        (pass: Pass)
        (store: KvStore)
        : Layer =
        fun x ->
            let batch, rows = x.shape[0], x.shape[1]
            let heads, kvHeads, dim = int64 config.Heads, int64 config.KvHeads, int64 config.HeadDim
            let qkv = (Ops.linear layer.Qkv layer.QkvBias x).view(batch, rows, heads + 2L * kvHeads, dim)

            let normed (weight: Tensor option) (t: Tensor) =
                match weight with
                | Some weight -> Ops.rmsNorm weight config.NormEps t
                | None -> t

            let q, k =
                match layer.QNorm with
                | None ->
                    // q and k lie side by side: one turn serves both.
                    let turned = Ops.rotate pass.Rope (qkv.narrow (2L, 0L, heads + kvHeads))
                    turned.narrow (2L, 0L, heads), turned.narrow (2L, heads, kvHeads)
                | Some _ ->
                    let part weight first count =
                        qkv.narrow (2L, first, count) |> normed weight |> Ops.rotate pass.Rope

                    part layer.QNorm 0L heads, part layer.KNorm heads kvHeads

            let v = qkv.narrow (2L, heads + kvHeads, kvHeads)
            let struct (keys, values) = store index (k.transpose (1L, 2L)) (v.transpose (1L, 2L))
            let window = config.Windows[index]

            let mixed =
                match Map.tryFind window pass.Masks with
                | Some mask -> Ops.attention mask q keys values
                | None -> Ops.attention null q (latest window keys) (latest window values)

            Ops.linear layer.Output layer.OutputBias mixed

    let private mlp (layer: LayerWeights) : Layer =
        fun x ->
            Ops.linear layer.GateUp layer.GateUpBias x
            |> Ops.swiGlu
            |> Ops.linear layer.Down layer.DownBias

    /// One whole residual block: x + attention(norm x), then that + mlp(norm of that).
    let private block (weights: Weights) pass store index : Layer =
        let layer, eps = weights.Layers[index], weights.Config.NormEps

        fun x ->
            Scope.one (fun () ->
                let x =
                    Ops.rmsNorm layer.AttentionNorm eps x
                    |> attention weights.Config layer index pass store
                    |> Scalars.plus x

                Ops.rmsNorm layer.MlpNorm eps x |> mlp layer |> Scalars.plus x)

    /// Runs layers `first` to `first` + `count` - 1 (from 0) on hidden states [batch; rows; hidden] at positions
    /// from `start`. Every forward pass is a use of this; `wrap` is what dropout, lenses and checkpointing add.
    let runLayers
        (wrap: LayerWrapper)
        store
        (rope: Rope)
        weights
        first
        count
        start
        (hidden: Tensor)
        : Tensor =
        use scope = torch.NewDisposeScope()
        let rows = int hidden.shape[1]
        let pass = pass weights.Config rope start rows hidden.device
        let step x index = wrap index (block weights pass store index) x
        let result = Seq.fold step hidden (seq { first .. first + count - 1 })
        result.MoveToOuterDisposeScope()

    /// No wrapper at all.
    let plain: LayerWrapper = fun _ layer -> layer

    /// Hidden states of ids [batch; rows], in the dtype of the activations.
    let embed (weights: Weights) (ids: Tensor) : Tensor =
        Scope.one (fun () ->
            let rows = weights.Embedding.index_select (0L, ids.reshape(-1L).``to`` weights.Embedding.device)
            let activations = ScalarType.activations weights.Device weights.Dtype
            rows.``to``(activations).view(ids.shape[0], ids.shape[1], int64 weights.Config.Hidden))

    /// The shared final norm and head, for every exit: [..; hidden] -> logits [..; vocabulary].
    let head (weights: Weights) (hidden: Tensor) : Tensor =
        match weights.Kernels with
        | Some kernels when CpuKernels.readsHidden kernels hidden -> CpuKernels.head kernels hidden
        | _ ->
            Scope.one (fun () ->
                Ops.rmsNorm weights.Norm weights.Config.NormEps hidden |> Ops.linear weights.Head None)

    let private rowOf (ids: int[]) = Tensors.ofIds [| 1L; int64 ids.Length |] ids

    let private lastRows (count: int) (hidden: Tensor) =
        hidden.narrow (1L, hidden.shape[1] - int64 count, int64 count)

    /// Rows that libtorch is given at once, so that what it makes of a long text between two layers stays small, and a
    /// cancellation waits for about a tenth of a second's work.
    let private pieceRows (weights: Weights) =
        match weights.Device with
        | Device.Cuda -> 2048
        | Device.Cpu ->
            let layer = weights.Layers[0]
            let perRow =
                layer.Qkv.numel () + layer.Output.numel () + layer.GateUp.numel () + layer.Down.numel ()
            int (max 16L (min 256L (2_000_000_000L / max 1L perRow)))

    let private unlessCancelled (cancelled: CancellationToken) : LayerWrapper =
        fun _ layer x ->
            cancelled.ThrowIfCancellationRequested()
            layer x

    /// Runs one half over new rows; its caches then hold them.
    let private runHalf
        (cancelled: CancellationToken)
        weights
        (cache: Cache)
        (half: CacheHalf)
        (hidden: Tensor)
        =
        let rows, most = int hidden.shape[1], pieceRows weights

        let run first =
            let start = half.Length + first

            hidden.narrow (1L, int64 first, int64 (min most (rows - first)))
            |> runLayers
                (unlessCancelled cancelled)
                (KvStore.slab cache.Slab start)
                cache.Slab.Rope
                weights
                half.First
                half.Count
                start

        if rows <= most then
            run 0
        else
            Scope.one (fun () -> torch.cat ([| for first in 0..most .. rows - 1 -> run first |], 1L))

    let private grow rows (half: CacheHalf) = { half with Length = half.Length + rows }

    /// What libtorch would refuse somewhere within, and the kernels would read beside their memory.
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

    let private makeRoom (cache: Cache) rows = {
        cache with
            Stamp = cache.Slab.ClaimFor(rows, cache.Stamp, cache.Early, cache.Late)
    }

    /// The early layers over new ids, by the kernels: their exit states then lie in the slab.
    let private readEarly cancelled (kernels: KernelSequence) (cache: Cache) (ids: int[]) =
        kernels.Embed(ids, cache.Early.Length)
        kernels.Run(cache.Early.First, cache.Early.Count, ids.Length, cache.Early.Length, cancelled)

    /// As a tensor that no later pass changes.
    let private kept (hidden: Hidden) : Tensor =
        match hidden with
        | Hidden.Tensor tensor -> tensor
        | Hidden.InSlab(slab, _, position, rows) ->
            Scope.one (fun () -> slab.Exits.narrow(1L, int64 position, int64 rows).clone())

    /// `head` of what a pass has made, before the next one: no tensor where the kernels made it.
    let internal logits (weights: Weights) (hidden: Hidden) : Logits =
        match hidden with
        | Hidden.Tensor tensor -> Logits.Tensor(head weights tensor)
        | Hidden.InSlab(slab, kernels, position, rows) -> slab.During(fun () -> kernels.Head(position, rows))

    let private early (cancelled: CancellationToken) (weights: Weights) (ids: int[]) (cache: Cache) =
        let cache = makeRoom cache ids.Length
        let start, rows = cache.Early.Length, ids.Length

        let last =
            match cache.Slab.Kernels with
            | Some kernels ->
                readEarly cancelled kernels cache ids
                Hidden.InSlab(cache.Slab, kernels, start + rows - 1, 1)
            | None ->
                Scope.one (fun () ->
                    let hidden = rowOf ids |> embed weights |> runHalf cancelled weights cache cache.Early
                    cache.Slab.Exits.narrow(1L, int64 start, int64 rows).copy_ hidden |> ignore
                    (lastRows 1 hidden).clone())
                |> Hidden.Tensor

        struct (last, { cache with Early = grow rows cache.Early })

    /// `forwardEarly`, its result still where the pass made it. OperationCanceledException soon after a cancellation; the
    /// cache is then of no more use.
    let internal passEarly cancelled weights (ids: int[]) (cache: Cache) : struct (Hidden * Cache) =
        check weights ids cache
        cache.Slab.During(fun () -> early cancelled weights ids cache)

    /// Reads `ids` with the early layers, and keeps what they make of them for the verification.
    /// Returns the last row's hidden state after the exit layer, [1; 1; hidden].
    let forwardEarly (weights: Weights) (ids: int[]) (cache: Cache) : struct (Tensor * Cache) =
        let struct (hidden, cache) = passEarly CancellationToken.None weights ids cache
        struct (kept hidden, cache)

    let private remainder (cancelled: CancellationToken) weights rows (ids: int[]) (cache: Cache) =
        let waiting = cache.Pending
        let fresh = ids[waiting..]
        let cache = makeRoom cache fresh.Length

        let hidden =
            match cache.Slab.Kernels with
            | Some kernels ->
                // The fresh rows follow the waiting ones in memory; the late layers turn all of them in place.
                readEarly cancelled kernels cache fresh
                let late = cache.Late
                kernels.Run(late.First, late.Count, ids.Length, late.Length, cancelled)
                Hidden.InSlab(cache.Slab, kernels, late.Length + ids.Length - rows, rows)
            | None ->
                Scope.one (fun () ->
                    let kept = cache.Slab.Exits.narrow (1L, int64 cache.Late.Length, int64 waiting)

                    let early =
                        if fresh.Length = 0 then
                            kept
                        else
                            let hidden =
                                rowOf fresh |> embed weights |> runHalf cancelled weights cache cache.Early

                            if waiting = 0 then
                                hidden
                            else
                                torch.cat ([| kept; hidden |], 1L)

                    (runHalf cancelled weights cache cache.Late early |> lastRows rows).clone())
                |> Hidden.Tensor

        let verified = { cache with Early = grow fresh.Length cache.Early; Late = grow ids.Length cache.Late }

        struct (hidden, verified)

    /// `forwardRemainder`, its result still where the pass made it; cancelled as `passEarly` is.
    let internal passRemainder
        cancelled
        weights
        (rows: int)
        (ids: int[])
        (cache: Cache)
        : struct (Hidden * Cache) =
        check weights ids cache

        if ids.Length < cache.Pending then
            invalidArg (nameof ids) $"{ids.Length} ids, of which {cache.Pending} wait to be verified"

        if rows < 1 || rows > ids.Length then
            invalidArg (nameof rows) $"the last {rows} rows of {ids.Length}"

        cache.Slab.During(fun () -> remainder cancelled weights rows ids cache)

    /// Brings the late layers up to the early ones in one pass. `ids` are all that the late layers have not read:
    /// the first `cache.Pending` of them wait as exit states, the rest go through the early layers first.
    /// Returns the hidden states of the last `rows` of them after the last layer, [1; rows; hidden].
    let forwardRemainder weights rows (ids: int[]) (cache: Cache) : struct (Tensor * Cache) =
        let struct (hidden, cache) = passRemainder CancellationToken.None weights rows ids cache
        struct (kept hidden, cache)

    /// Reads `ids` with every layer: hidden states of the last `rows` of them, [1; rows; hidden].
    let forward weights rows (ids: int[]) (cache: Cache) : struct (Tensor * Cache) =
        if cache.Pending <> 0 then
            invalidOp $"{cache.Pending} positions wait to be verified: forwardRemainder continues from them"

        forwardRemainder weights rows ids cache

    /// The logits of every exit over a whole text, without a cache: ids [batch; rows] -> one tensor
    /// [batch; rows; vocabulary] a layer, handed to `visit` in order of depth and freed after it.
    let exits (weights: Weights) (visit: int -> Tensor -> unit) (ids: Tensor) : unit =
        use _noGrad = torch.no_grad ()
        use _scope = torch.NewDisposeScope()
        let rows = int ids.shape[1]
        let activations = ScalarType.activations weights.Device weights.Dtype
        let rope = Rope.table weights.Config rows activations weights.Embedding.device

        let tap: LayerWrapper =
            fun index layer x ->
                let out = layer x
                use _inner = torch.NewDisposeScope()
                visit (index + 1) (head weights out)
                out

        embed weights ids
        |> runLayers tap KvStore.none rope weights 0 weights.Config.Layers 0
        |> ignore
