namespace LayerSkip

open System
open System.Threading

/// Looks for numbers that are not finite where a token is chosen, and then for where they began.
[<RequireQualifiedAccess>]
module internal Overflow =
    /// Positions that are read again at once.
    let private rowsAtOnce = 256

    /// The first row of [1; rows; width] that holds NaN or infinity.
    let private firstRow (states: Tensor) : int option =
        if Tensors.isFinite states then
            None
        else
            Seq.init (int states.shape[1]) id
            |> Seq.tryFind (fun row -> not (Tensors.isFinite (states.narrow (1L, int64 row, 1L))))

    /// Hidden states [1; rows; hidden] of the positions from `start`: of the embedding at 0, then of each layer. They are
    /// asked for in this order, each once.
    let private reading (weights: Weights) (ids: int[]) (slab: Slab) start : int -> Tensor =
        match slab.Kernels with
        | Some kernels ->
            let states = slab.Exits.narrow (1L, int64 start, int64 ids.Length)

            fun layer ->
                if layer = 0 then
                    kernels.Embed(ids, start)
                else
                    kernels.Run(layer - 1, 1, ids.Length, start, CancellationToken.None)

                states
        | None ->
            let mutable states = Model.embed weights (Tensors.ofIds [| 1L; int64 ids.Length |] ids)
            let step = Model.runLayers Model.plain (KvStore.slab slab start) slab.Rope weights

            fun layer ->
                if layer > 0 then
                    states <- step (layer - 1) 1 start states

                states

    let private fault (weights: Weights) place position =
        LayerSkipError.Overflow(place, position, Dtype.name weights.Dtype)

    let private headAfter (weights: Weights) layers =
        if layers = weights.Config.Layers then
            "the head"
        else
            $"the head after layer {layers} of {weights.Config.Layers}"

    /// The first layer whose output over a text is not finite, up to `layers`, or the head after them; and the position.
    let tryFind (weights: Weights) (layers: int) (text: int[]) : LayerSkipError option =
        Scope.run (fun () ->
            let cache = Cache.create weights layers text.Length
            let slab = cache.Slab
            use _storage = slab :> IDisposable
            slab.ClaimFor(text.Length, cache.Stamp, cache.Early, cache.Late) |> ignore

            let inRows start (ids: int[]) =
                let states = reading weights ids slab start
                let last = ref null
                let fault place row = fault weights place (start + row)

                let ofLayer layer =
                    let place =
                        if layer = 0 then
                            "the embedding"
                        else
                            $"layer {layer} of {weights.Config.Layers}"

                    last.Value <- states layer
                    firstRow last.Value |> Option.map (fault place)

                let ofHead row =
                    // A row at a time: a vocabulary is wide.
                    Scope.run (fun () ->
                        last.Value.narrow(1L, int64 row, 1L).contiguous() |> Model.head weights |> firstRow)
                    |> Option.map (fun _ -> fault (headAfter weights layers) row)

                seq { 0..layers }
                |> Seq.tryPick ofLayer
                |> Option.orElseWith (fun () -> Seq.init ids.Length id |> Seq.tryPick ofHead)

            text
            |> Array.chunkBySize rowsAtOnce
            |> Seq.mapi (fun index ids -> inRows (index * rowsAtOnce) ids)
            |> Seq.tryPick id)

    /// What is not finite in logits after `layers` layers of a text, as the exception to throw.
    let exceptionOf (weights: Weights) (layers: int) (text: int[]) : exn =
        let found =
            tryFind weights layers text
            |> Option.defaultWith (fun () -> fault weights (headAfter weights layers) (text.Length - 1))

        LayerSkipException [ found ]

    /// Throws where logits after `layers` layers are not finite; else gives them back. `textUpTo` is the text that a row
    /// of them stands after.
    let guard (weights: Weights) (layers: int) (textUpTo: int -> int[]) (logits: Logits) : Logits =
        match Logits.tryFirstNotFinite logits with
        | None -> logits
        | Some row -> raise (exceptionOf weights layers (textUpTo row))
