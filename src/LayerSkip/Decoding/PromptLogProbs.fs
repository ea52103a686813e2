namespace LayerSkip

open System.Threading

/// What a model says of the tokens of a text that is given.
[<RequireQualifiedAccess>]
module PromptLogProbs =
    /// About as many logits as are held at once.
    let private numbersAtOnce = 4_000_000

    /// Of the ids that the layers up to an exit, or all, have read into a cache from its start on: of each its own and the `top` likeliest,
    /// None of the first.
    let internal inPieces
        (rowsAtOnce: int)
        (exit: ExitLayer option)
        (top: int)
        (ids: int[])
        (cache: Cache)
        : TokenLogProbs option[] =
        let weights = cache.Slab.Weights
        let states, layers =
            match exit with
            | Some exit -> Model.early, exit.Layers
            | None -> Model.last, weights.Config.Layers

        [|
            if ids.Length > 0 then
                None

            for start in 0..rowsAtOnce .. ids.Length - 2 do
                cache.Cancelled.ThrowIfCancellationRequested()
                let targets = ids[start + 1 .. min (ids.Length - 1) (start + rowsAtOnce)]

                let found =
                    Scope.free (fun () ->
                        states start targets.Length cache
                        |> Model.logits
                        |> Overflow.guard weights layers (fun row -> ids[.. start + row])
                        |> TokenLogProbs.ofRows top targets)

                yield! Array.map Some found
        |]

    /// The same, a bounded number of rows at once.
    let internal ofCache exit top ids (cache: Cache) : TokenLogProbs option[] =
        inPieces (max 1 (numbersAtOnce / cache.Slab.Weights.Config.Vocabulary)) exit top ids cache

    /// The log-probability of each id after those before it, and the `top` likeliest ids there, 0 to `TokenLogProbs.most`: None of the
    /// first id. One pass of every layer; the head goes over pieces of it, so that no more than some millions of logits are held. Ids may fill
    /// the context. Errors: no id, more than the context, one outside the vocabulary, numbers that overflow. Once cancelled, it throws
    /// OperationCanceledException after about a tenth of a second's work.
    let run
        (weights: Weights)
        (top: int)
        (cancelled: CancellationToken)
        (ids: int[])
        : Result<TokenLogProbs option[], LayerSkipError list> =
        let config = weights.Config

        let faults = [
            if ids.Length = 0 then
                LayerSkipError.EmptyPrompt

            if ids.Length > config.Context then
                LayerSkipError.PromptTooLong(ids.Length, config.Context)

            yield! PromptIds.unknown config ids
            yield! TokenLogProbs.faults "logprobs" (Some top)
        ]

        let read () =
            use _inference = Scope.inference ()
            let cache = Cache.create weights config.Layers ids.Length
            use _storage = cache.Slab
            let struct (_, cache) = Model.forward weights 1 ids { cache with Cancelled = cancelled }
            Ok(ofCache None top ids cache)

        Check.all faults () |> Result.bind (fun () -> Check.guard read)
