namespace LayerSkip

/// A long prompt, piece after piece, so that others have their turns in between. Its rows are to the bit those of one pass: on the CPU kernels
/// they do not depend on where a prompt is cut, as long as no piece is short.
[<RequireQualifiedAccess>]
module internal PromptPieces =
    /// Rows of a piece at most: as many as the kernels take at once.
    let most = 512

    let private left (prompt: int[]) (cache: Cache) = prompt.Length - cache.Early.Length

    let private count (decoding: Decoding) prompt cache =
        if decoding.Weights.Kernels.IsNone then
            1
        else
            (left prompt cache + most - 1) / most

    /// Whether more than one is left.
    let areMore (decoding: Decoding) (prompt: int[]) (cache: Cache) : bool = count decoding prompt cache > 1

    /// Reads the next one, of much the same size as those after it.
    let read (decoding: Decoding) (prompt: int[]) (cache: Cache) : Cache =
        let pieces, start = count decoding prompt cache, cache.Early.Length
        let rows = (left prompt cache + pieces - 1) / pieces
        Cache.reserve prompt.Length cache

        let struct (_, read) =
            Scope.free (fun () ->
                cache
                |> Cache.awaitPrompt prompt.Length
                |> Verification.forward decoding 1 prompt[start .. start + rows - 1])

        read
