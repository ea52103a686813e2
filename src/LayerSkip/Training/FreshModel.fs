namespace LayerSkip

open System.IO

/// The sizes of a Llama that is made to be trained.
type FreshSizes = {
    Layers: int
    Hidden: int
    /// The width of the MLP.
    Intermediate: int
    Heads: int
    KvHeads: int
    Context: int
    /// The head is the embedding.
    TiedHead: bool
}

/// Models from scratch, over a tokenizer.
[<RequireQualifiedAccess>]
module FreshModel =
    /// Every size that no Llama has.
    let faults (sizes: FreshSizes) : LayerSkipError list = [
        yield! Check.atLeast 1 "layer-count" sizes.Layers
        yield! Check.atLeast 1 "head-count" sizes.Heads
        yield! Check.atLeast 1 "intermediate-size" sizes.Intermediate
        yield! Check.atLeast 2 "context-length" sizes.Context

        if sizes.Heads > 0 then
            yield!
                Check.inRange
                    (sizes.Hidden > 0 && sizes.Hidden % (2 * sizes.Heads) = 0)
                    "hidden-size"
                    (string sizes.Hidden)
                    $"a multiple of {2 * sizes.Heads}: each of {sizes.Heads} heads takes an even part of it"

            yield!
                Check.inRange
                    (sizes.KvHeads > 0 && sizes.Heads % sizes.KvHeads = 0)
                    "key-value-head-count"
                    (string sizes.KvHeads)
                    $"a divisor of {sizes.Heads}, the heads"
    ]

    let private tokenizerOf (folder: string) =
        let makes = "`layerskip tokenizer train` makes one"

        Tokenizer.tryLoad folder
        |> Result.bind (function
            | Some tokenizer -> Ok tokenizer
            | None when Directory.Exists folder ->
                Check.bad folder $"has no tokenizer.json or tokenizer.model; {makes}"
            | None -> Error [ LayerSkipError.NotFound(folder, $"name the folder of a tokenizer; {makes}") ])

    /// Seeded weights to train from (`Weights.initial`), a row of the embedding for each token of the folder's tokenizer. Errors: sizes
    /// that no Llama has, a folder without a tokenizer, a device that is not there.
    let create (seed: int64) (dtype: Dtype) (device: Device) (tokenizer: string) (sizes: FreshSizes) =
        Check.both (tokenizerOf tokenizer) (Check.all (faults sizes) ())
        |> Check.both (Backend.tryDevice device)
        |> Result.map (fun (_, (own, ())) ->
            let config = {
                LlamaConfig.Llama(
                    Tokenizer.vocabularySize own,
                    sizes.Layers,
                    sizes.Hidden,
                    sizes.Intermediate,
                    sizes.Heads,
                    sizes.KvHeads,
                    sizes.Context
                ) with
                    TiedHead = sizes.TiedHead
                    Bos = Tokenizer.bos own
                    StopIds = Tokenizer.eos own |> Option.toArray
            }

            Checkpoint.ofWeights tokenizer (Weights.initial seed dtype device config) (Some own))
