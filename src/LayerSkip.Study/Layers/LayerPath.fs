namespace LayerSkip

open TorchSharp

/// The layers to leave out so that hidden states stay as near to the whole model's as they may (CLaSp, arXiv 2505.24196).
[<RequireQualifiedAccess>]
module internal LayerPath =
    /// Layers so far with some left out, the latest first, and what they made of each text.
    [<NoEquality; NoComparison>]
    type private Path = { Kept: int list; States: Tensor list; Cosine: float }

    /// The mean cosine of rows [1; rows; hidden] of all texts.
    let private cosine (states: Tensor list) (targets: Tensor list) : float =
        let sums =
            List.map2
                (fun (states: Tensor) (target: Tensor) ->
                    torch.nn.functional.cosine_similarity (states, target, 2L)
                    |> Tensors.toFloats
                    |> Array.sum)
                states
                targets

        List.sum sums / float (targets |> List.sumBy (fun target -> int target.shape[1]))

    /// For each number of layers to leave out, 0 to `most`, a set and the mean cosine of its last states with the whole model's. Of
    /// the two ways to have left out j of i layers, this one and j - 1 before it or j before it, the one whose states are nearer to
    /// those of the whole model after layer i goes on, over all positions of all texts at once (the paper looks at the last one).
    let find (layers: int) (texts: ScoredText list) (most: int) : (LayerSet * float)[] =
        let targets layer = texts |> List.map (fun text -> text.States[layer - 1])

        let step (paths: Path option[]) layer =
            let target = targets layer

            let made kept states = Some { Kept = kept; States = states; Cosine = cosine states target }

            let next =
                Array.init (most + 1) (fun skipped ->
                    let kept =
                        paths[skipped]
                        |> Option.bind (fun path ->
                            List.map2
                                (fun (text: ScoredText) states -> text.Through(layer, states))
                                texts
                                path.States
                            |> made (layer :: path.Kept))

                    let left =
                        if skipped = 0 then
                            None
                        else
                            paths[skipped - 1] |> Option.bind (fun path -> made path.Kept path.States)

                    match kept, left with
                    | Some kept, Some left -> Some(if left.Cosine > kept.Cosine then left else kept)
                    | _ -> Option.orElse left kept)

            next

        let tensorsOf (paths: Path option[]) = paths |> Seq.choose id |> Seq.collect _.States

        // The first layer is in every set.
        let start =
            Array.init (most + 1) (fun skipped ->
                if skipped = 0 then
                    Some { Kept = [ 1 ]; States = targets 1; Cosine = 1.0 }
                else
                    None)

        use _scope = Scope.start ()

        [ 2..layers ]
        |> List.fold (fun paths layer -> Scope.keep tensorsOf (fun () -> step paths layer)) start
        |> Array.choose id
        |> Array.map (fun path -> LayerSet.ofLayers layers path.Kept |> Check.getOrRaise, path.Cosine)
