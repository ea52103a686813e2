/// What tests of kept caches and of the engine are made of.
module LayerSkip.Tests.ServingSupport

open System.Threading
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

/// A text that goes on from what a prefix cache has of its prompt, and goes there when it ends: the events of each pull.
let pulls (prefixes: PrefixCache) (weights: Weights) (options: GenerationOptions) prompt =
    let loan = {
        Take = fun () -> prefixes.Take(options.Strategy, prompt)
        Return = prefixes.Return
    }

    (Generation.prepareOver loan weights None options prompt |> Check.getOrRaise) CancellationToken.None
