namespace LayerSkip

open System

/// A greedy text of a model's own that layer sets are scored by: after a prompt that every layer has read, its new tokens go
/// through the layers of a set in one pass (SWIFT, arXiv 2410.06916, section 3.2). Rows see what the set made of the new tokens before
/// them, where drafts see what the whole model did.
[<Sealed>]
type internal ScoredText(weights: Weights, prompt: int[], newTokens: int) =
    let written =
        GenerationOptions.greedy Strategy.Autoregressive newTokens
        |> fun options -> Generation.complete weights None options prompt
        |> Check.getOrRaise
        |> _.TokenIds

    // The last one's successor is not known.
    let ids = written[.. written.Length - 2]
    let states: Tensor[] = Array.zeroCreate weights.Config.Layers

    let afterPrompt: Cache -> Cache = Cache.truncate prompt.Length

    let mutable cache =
        let start = Cache.create weights 1 (prompt.Length + ids.Length)

        Scope.free (fun () ->
            use _noGrad = Scope.noGrad ()
            let struct (_, cache) = Model.forward weights 1 prompt start

            let keep layer (hidden: Hidden) = states[layer - 1] <- hidden.Read().DetachFromDisposeScope()

            let struct (_, cache) = Model.forwardEach weights ids.Length ids keep cache
            afterPrompt cache)

    /// Tokens that a set is asked for.
    member _.Rows = ids.Length

    /// After each layer of the whole model, [1; rows; hidden].
    member _.States = states

    /// How many of the model's own tokens a set says after those before them.
    member _.Right(set: LayerSet) : int =
        Scope.free (fun () ->
            use _noGrad = Scope.noGrad ()
            let struct (hidden, read) = Model.forwardLayers weights (set.RunsAfter 1) ids.Length ids cache
            let said = Model.logits hidden |> Logits.argmax
            cache <- afterPrompt read
            Seq.zip said written[1..] |> Seq.filter (fun (said, own) -> said = own) |> Seq.length)

    /// What a layer, counted from 1, makes of states [1; rows; hidden] of the new tokens.
    member _.Through(layer: int, states: Tensor) : Tensor =
        use _noGrad = Scope.noGrad ()
        let struct (out, read) = Model.layerOver (layer - 1) states cache
        cache <- read
        out

    interface IDisposable with
        member _.Dispose() =
            Scope.release states
            (cache.Slab :> IDisposable).Dispose()
