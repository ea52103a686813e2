namespace LayerSkip

/// Layer dropout: x_{l+1} = x_l + M(p) f_l(x_l), so that a sample skips whole residual blocks, one draw per sample and layer
/// (LayerSkip, equation 1). What is kept is not scaled up by 1 / (1 - p), in training or after.
[<NoEquality; NoComparison>]
type LayerDropout = {
    /// p by step and layer: 0 never skips, 1 always.
    Rate: int -> Schedule
    Seed: int64
}

/// Where a batch stands in a run. `First` is the number of its first sample among those of the step. Ranks of a
/// data-parallel run that number their own samples alike drop as many of them in each layer, and none waits for
/// another: the paper's rule of one seed for all.
[<Struct>]
type BatchPlace = { Step: int; First: int }

/// Which samples skip which layers, and how a layer skips them.
[<RequireQualifiedAccess>]
module LayerDropout =
    /// p(t, l) = S(t) D(l) p_max (LayerSkip, equation 2), at most 1: `peak` is p_max, `depth` D and `time` S. A peak outside 0
    /// to 1 is an error.
    let tryCreate (seed: int64) (peak: float) (depth: Schedule) (time: Schedule) =
        Check.all (Check.inRange (peak >= 0.0 && peak <= 1.0) "dropout" (string peak) "0 to 1") {
            Rate = fun step layer -> min 1.0 (peak * depth layer * time step)
            Seed = seed
        }

    /// Apart from every other use of the same seed.
    let private purpose = 0x6c617965

    /// Whether a sample goes through a layer at a step. The answer depends on nothing else: it is the same when a
    /// layer is run again for its gradients, after a resume, and however the samples are split up.
    let keeps (dropout: LayerDropout) (step: int) (layer: int) (sample: int) : bool =
        let key =
            List.fold (fun key part -> Key.within part key) (Key.ofSeed dropout.Seed) [
                purpose
                step
                layer
                sample
            ]
        let struct (draw, _) = Key.uniform key
        draw >= dropout.Rate step layer

    /// The rows of a batch of `count` samples that go through a layer.
    let kept (dropout: LayerDropout) (place: BatchPlace) (layer: int) (count: int) : int[] =
        [| 0 .. count - 1 |]
        |> Array.filter (fun row -> keeps dropout place.Step layer (place.First + row))

    /// Takes the dropped samples out of the batch before the block runs, and puts them back unchanged. A block that
    /// every sample skips is not run, and its weights get no gradient. Positions and masks are the same for every
    /// sample of a batch, so nothing else has to be taken out.
    let wrap (dropout: LayerDropout) (place: BatchPlace) : LayerWrapper =
        fun index layer x ->
            let batch = int x.shape[0]

            match kept dropout place index batch with
            | rows when rows.Length = batch -> layer x
            // Another handle: the caller's tensor is not ours to move between scopes.
            | [||] -> x.alias ()
            | rows ->
                Scope.one (fun () ->
                    let rows = (Tensors.ofIds [| int64 rows.Length |] rows).``to`` x.device
                    x.index_copy (0L, rows, x.index_select (0L, rows) |> layer))
