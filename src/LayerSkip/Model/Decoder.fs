namespace LayerSkip

open TorchSharp

/// Takes a layer's new keys and values, [batch; kvHeads; rows; headDim], and returns all that it attends to.
type KvStore = int -> Tensor -> Tensor -> struct (Tensor * Tensor)

/// Where keys and values of a pass are kept.
[<RequireQualifiedAccess>]
module KvStore =
    /// No memory: the rows attend to each other alone (training, evaluation).
    let none: KvStore = fun _ k v -> struct (k, v)

    /// Writes at positions from `start` of each layer's keys and values, [1; kvHeads; room; headDim]. They may be float16 beside
    /// wider activations: what they have no room for is NaN there, since an infinite key may have the score that hides it.
    let over (keys: Tensor[]) (values: Tensor[]) (start: int) : KvStore =
        fun layer k v ->
            let append (storage: Tensor) (fresh: Tensor) =
                let count = fresh.shape[2]
                let rows = storage.narrow(2L, int64 start, count).copy_ fresh
                let seen = storage.narrow (2L, 0L, int64 start + count)

                if storage.dtype = fresh.dtype then
                    seen
                else
                    rows.masked_fill_ (rows.isinf (), Scalars.ofFloat nan) |> ignore
                    seen.``to`` fresh.dtype

            struct (append keys[layer] k, append values[layer] v)

/// The decoder over tensors (Llama, arXiv 2302.13971): embedding, residual blocks, and what each exit says.
[<RequireQualifiedAccess>]
module Decoder =
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

    let private attention (weights: Weights) index (pass: Pass) (store: KvStore) : Layer =
        let config, layer, linear = weights.Config, weights.Layers[index], Weights.linear weights

        fun x ->
            let batch, rows = x.shape[0], x.shape[1]
            let heads, kvHeads, dim = int64 config.Heads, int64 config.KvHeads, int64 config.HeadDim
            let qkv =
                (linear layer.Qkv layer.QkvBias x)
                    .``to``(x.dtype)
                    .view(batch, rows, heads + 2L * kvHeads, dim)

            let turned = Ops.rotate pass.Rope.Cos pass.Rope.Sin

            let q, k =
                match layer.QNorm, layer.KNorm with
                | Some qNorm, Some kNorm ->
                    let part (norm: Weight) first count =
                        qkv.narrow (2L, first, count) |> Ops.rmsNorm norm.Tensor config.NormEps |> turned

                    part qNorm 0L heads, part kNorm heads kvHeads
                | _ ->
                    // q and k lie side by side: one turn serves both.
                    let both = turned (qkv.narrow (2L, 0L, heads + kvHeads))
                    both.narrow (2L, 0L, heads), both.narrow (2L, heads, kvHeads)

            let v = qkv.narrow (2L, heads + kvHeads, kvHeads)
            let struct (keys, values) = store index (k.transpose (1L, 2L)) (v.transpose (1L, 2L))
            let window = config.Windows[index]

            let mixed =
                match Map.tryFind window pass.Masks with
                | Some mask -> Ops.attention mask q keys values
                | None -> Ops.attention null q (latest window keys) (latest window values)

            linear layer.Output layer.OutputBias mixed

    let private mlp (weights: Weights) index : Layer =
        let layer, linear = weights.Layers[index], Weights.linear weights

        fun x -> linear layer.GateUp layer.GateUpBias x |> Ops.swiGlu |> linear layer.Down layer.DownBias

    /// One whole residual block: x + attention(norm x), then that + mlp(norm of that).
    let private block (weights: Weights) pass store index : Layer =
        let layer, eps = weights.Layers[index], weights.Config.NormEps

        fun x ->
            Scope.one (fun () ->
                let x =
                    Ops.rmsNorm layer.AttentionNorm.Tensor eps x
                    |> attention weights index pass store
                    |> Scalars.plus x

                Ops.rmsNorm layer.MlpNorm.Tensor eps x |> mlp weights index |> Scalars.plus x)

    /// Runs layers `first` to `first` + `count` - 1 (from 0) on hidden states [batch; rows; hidden] at positions
    /// from `start`: x_{l+1} = x_l + f_l(x_l) (LayerSkip, section 4.1). Every forward pass is a use of this; `wrap` is what
    /// dropout, lenses and checkpointing add. What leaves a layer is freed once the next has read it: who keeps it keeps
    /// an alias.
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
        Scope.one (fun () ->
            let pass = pass weights.Config rope start (int hidden.shape[1]) hidden.device

            let step (x: Tensor) index =
                let out = wrap index (block weights pass store index) x

                if not (obj.ReferenceEquals(x, hidden) || obj.ReferenceEquals(x, out)) then
                    x.Dispose()

                out

            Seq.fold step hidden (seq { first .. first + count - 1 }))

    /// No wrapper at all.
    let plain: LayerWrapper = fun _ layer -> layer

    /// Hidden states of ids [batch; rows], in the dtype of the activations.
    let embed (weights: Weights) (ids: Tensor) : Tensor =
        Scope.one (fun () ->
            let rows = Weight.select (ids.reshape -1L) weights.Embedding
            let activations = ScalarType.activations weights.Device weights.Dtype
            rows.``to``(activations).view(ids.shape[0], ids.shape[1], int64 weights.Config.Hidden))

    /// The logits of every exit over a whole text, without a cache: ids [batch; rows] -> one tensor
    /// [batch; rows; vocabulary] a layer, handed to `visit` in order of depth and freed after it.
    let exits (weights: Weights) (visit: int -> Tensor -> unit) (ids: Tensor) : unit =
        use _inference = Scope.inference ()
        let rows = int ids.shape[1]
        let activations = ScalarType.activations weights.Device weights.Dtype
        let rope = Rope.table weights.Config rows activations (Weights.torchDevice weights.Device)

        let tap: LayerWrapper =
            fun index layer x ->
                let out = layer x
                Scope.free (fun () -> visit (index + 1) (SharedHead.logits weights out))
                out

        embed weights ids
        |> runLayers tap KvStore.none rope weights 0 weights.Config.Layers 0
        |> ignore
