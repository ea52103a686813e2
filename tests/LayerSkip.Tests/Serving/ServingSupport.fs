/// What tests of kept caches and of the engine are made of.
module LayerSkip.Tests.ServingSupport

open LayerSkip

/// A checkpoint without a tokenizer that recommends an exit layer and a draft length.
let over (exit: int) (draft: int) (weights: Weights) : Checkpoint = {
    Checkpoint.ofWeights "tiny" weights None with
        Recommended = Some(exit, draft)
}

/// What is written over a cache of its own.
let fresh (checkpoint: Checkpoint) options prompt : Completion =
    Generation.complete checkpoint.Weights checkpoint.Tokenizer options prompt
    |> Check.getOrRaise
